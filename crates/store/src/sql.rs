//! Every statement of the journal and of leases, by name, and the list of all. A test prepares each on both engines.
//!
//! `CAST($n AS TEXT) IS NULL` rather than `$n IS NULL`: PostgreSQL must know the type of a parameter.

use crate::{Engine, sql_people};

/// Settings of every SQLite connection. The order matters: the mode first waits for the lock it needs.
pub(crate) const SQLITE_CONNECT: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
     PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";

/// Makes a reading connection refuse to write, so that there is one writer for certain.
pub(crate) const SQLITE_READ_ONLY: &str = "PRAGMA query_only = ON;";

/// Writes a batch in one statement, hence in one commit. `$1`: a JSON array of objects with the columns' names.
pub(crate) const JOURNAL_APPEND_SQLITE: &str = "\
INSERT INTO journal (at_ms, kind, app, instance, user_name, detail)
SELECT json_extract(value, '$.at_ms'), json_extract(value, '$.kind'), json_extract(value, '$.app'),
       json_extract(value, '$.instance'), json_extract(value, '$.user'), json_extract(value, '$.detail')
FROM json_each($1) ORDER BY key
RETURNING seq";

/// As for SQLite. The update of the head row makes concurrent writers take turns until the commit.
pub(crate) const JOURNAL_APPEND_POSTGRES: &str = "\
WITH batch AS (
    SELECT entry, ord FROM json_array_elements(CAST(CAST($1 AS TEXT) AS JSON)) WITH ORDINALITY AS b (entry, ord)
), head AS (
    UPDATE journal_head SET seq = seq + (SELECT COUNT(*) FROM batch) WHERE id = 1
    RETURNING seq - (SELECT COUNT(*) FROM batch) AS before
)
INSERT INTO journal (seq, at_ms, kind, app, instance, user_name, detail)
SELECT head.before + ord, CAST(entry->>'at_ms' AS BIGINT), entry->>'kind', entry->>'app',
       entry->>'instance', entry->>'user', entry->>'detail'
FROM batch, head ORDER BY ord
RETURNING seq";

/// `$1` after, `$2` app, `$3` kind, `$4` user, `$5` at most.
pub(crate) const JOURNAL_AFTER: &str = "\
SELECT seq, at_ms, kind, app, instance, user_name, detail FROM journal
WHERE seq > $1
  AND (CAST($2 AS TEXT) IS NULL OR app = $2)
  AND (CAST($3 AS TEXT) IS NULL OR kind = $3)
  AND (CAST($4 AS TEXT) IS NULL OR user_name = $4)
ORDER BY seq LIMIT $5";

/// `$1` app, `$2` kind, `$3` user, `$4` at most. Newest first.
pub(crate) const JOURNAL_NEWEST: &str = "\
SELECT seq, at_ms, kind, app, instance, user_name, detail FROM journal
WHERE (CAST($1 AS TEXT) IS NULL OR app = $1)
  AND (CAST($2 AS TEXT) IS NULL OR kind = $2)
  AND (CAST($3 AS TEXT) IS NULL OR user_name = $3)
ORDER BY seq DESC LIMIT $4";

pub(crate) const JOURNAL_LAST_SEQ: &str = "SELECT COALESCE(MAX(seq), 0) AS seq FROM journal";

/// Removes at most `$2` of the rows before the first one that is not older than `$1`. Finding that one is quick: when
/// nothing is to be removed, it is the very first.
pub(crate) const JOURNAL_EXPIRE_AGE: &str = "\
DELETE FROM journal WHERE seq IN (
    SELECT seq FROM journal
    WHERE seq < COALESCE(
        (SELECT seq FROM journal WHERE at_ms >= $1 ORDER BY seq LIMIT 1), 9223372036854775807)
    ORDER BY seq LIMIT $2)";

/// Removes at most `$2` of the oldest rows, keeping the newest `$1`: numbers have no holes.
pub(crate) const JOURNAL_EXPIRE_COUNT: &str = "\
DELETE FROM journal WHERE seq IN (
    SELECT seq FROM journal
    WHERE seq <= (SELECT MAX(seq) FROM journal) - $1
    ORDER BY seq LIMIT $2)";

/// Milliseconds since the Unix epoch by the engine's own clock, not by the transaction's.
macro_rules! engine_now {
    (sqlite) => {
        "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    };
    (postgres) => {
        "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
    };
}

/// Takes a lease (`$1` name, `$2` owner, `$3` process, `$4` host, `$5` for how long) that is free, run out, or the owner's.
macro_rules! lease_take {
    ($engine:ident) => {
        concat!(
            "INSERT INTO leases (name, owner, process, host, until_ms)
VALUES ($1, $2, $3, $4, ",
            engine_now!($engine),
            " + CAST($5 AS BIGINT))
ON CONFLICT (name) DO UPDATE SET
    owner = excluded.owner, process = excluded.process, host = excluded.host, until_ms = excluded.until_ms
WHERE leases.owner = excluded.owner OR leases.until_ms <= ",
            engine_now!($engine)
        )
    };
}

/// `$1` name, `$2` process, `$3` for how long.
macro_rules! lease_renew {
    ($engine:ident) => {
        concat!(
            "UPDATE leases SET until_ms = ",
            engine_now!($engine),
            " + CAST($3 AS BIGINT) WHERE name = $1 AND process = $2"
        )
    };
}

/// `$1` name.
macro_rules! lease_holder {
    ($engine:ident) => {
        concat!("SELECT host, until_ms - ", engine_now!($engine), " AS left_ms FROM leases WHERE name = $1")
    };
}

pub(crate) fn lease_take(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => lease_take!(sqlite),
        Engine::Postgres => lease_take!(postgres),
    }
}

pub(crate) fn lease_renew(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => lease_renew!(sqlite),
        Engine::Postgres => lease_renew!(postgres),
    }
}

pub(crate) fn lease_holder(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => lease_holder!(sqlite),
        Engine::Postgres => lease_holder!(postgres),
    }
}

/// `$1` name, `$2` process.
pub(crate) const LEASE_RELEASE: &str = "DELETE FROM leases WHERE name = $1 AND process = $2";

/// Everything above, for [`crate::Store::check`].
pub(crate) fn all(engine: Engine) -> Vec<(&'static str, &'static str)> {
    let append = match engine {
        Engine::Sqlite => JOURNAL_APPEND_SQLITE,
        Engine::Postgres => JOURNAL_APPEND_POSTGRES,
    };
    let journal = [
        ("JOURNAL_APPEND", append),
        ("JOURNAL_AFTER", JOURNAL_AFTER),
        ("JOURNAL_NEWEST", JOURNAL_NEWEST),
        ("JOURNAL_LAST_SEQ", JOURNAL_LAST_SEQ),
        ("JOURNAL_EXPIRE_AGE", JOURNAL_EXPIRE_AGE),
        ("JOURNAL_EXPIRE_COUNT", JOURNAL_EXPIRE_COUNT),
        ("LEASE_TAKE", lease_take(engine)),
        ("LEASE_RENEW", lease_renew(engine)),
        ("LEASE_HOLDER", lease_holder(engine)),
        ("LEASE_RELEASE", LEASE_RELEASE),
    ];
    journal.into_iter().chain(sql_people::ALL).collect()
}

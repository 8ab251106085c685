//! The portable statements: each runs unchanged on SQLite and PostgreSQL, and a test prepares each on both.

pub(crate) const PUT_POLL: &str = "insert into polls (id, definition, closes_ms) values ($1, $2, $3)
    on conflict (id) do update set definition = excluded.definition, closes_ms = excluded.closes_ms";
pub(crate) const POLL: &str = "select definition, final_ms from polls where id = $1";
pub(crate) const POLLS: &str = "select definition, final_ms from polls order by id";
pub(crate) const COUNTS: &str =
    "select poll, choice, cast(sum(n) as bigint) as n from tally group by poll, choice";
pub(crate) const LOGS: &str = "select log, front, position, seen_end, settled, seen_ms, offset_ms, retired
    from logs order by front, log";
pub(crate) const RETIRE: &str = "update logs set retired = $2 where log = $1";
pub(crate) const ENROL: &str = "insert into logs (log, front) values ($1, $2)
    on conflict (log) do update set front = excluded.front";
pub(crate) const POSITION: &str = "select position from logs where log = $1";
pub(crate) const CLAIM: &str = "update logs set claimed_by = $2, claimed_until_ms = $4
    where log = $1 and (claimed_by = $2 or claimed_until_ms < $3 or claimed_until_ms > $4 + 60000)";
// A sighting may overtake another: nothing goes back.
pub(crate) const SIGHTING: &str = "update logs set
    seen_end = case when $2 > seen_end then $2 else seen_end end,
    settled = case when $3 > settled then $3 else settled end,
    seen_ms = case when $4 > seen_ms then $4 else seen_ms end,
    offset_ms = $5 where log = $1";
// Both sides in one statement, so in one snapshot.
pub(crate) const RECOUNT: &str = "select choice, cast(sum(a) as bigint) as tallied, cast(sum(b) as bigint) as counted
    from (select choice, n as a, 0 as b from tally where poll = $1
          union all select choice, 0 as a, count(*) as b from votes where poll = $1 group by choice) as both_sides
    group by choice";
pub(crate) const VOTES: &str = "select voter, choice, tag from votes where poll = $1 order by tag";
pub(crate) const UNSETTLED: &str =
    "select count(*) as n from logs where retired = 0 and (settled < $1 or position < seen_end)";
pub(crate) const PUBLISH: &str =
    "update polls set final_ms = $2, statement = $3 where id = $1 and final_ms is null";
pub(crate) const STATEMENT: &str = "select statement from polls where id = $1";
pub(crate) const IS_REPLACED: &str = "select 1 as one from replaced where poll = $1 and tag = $2";
pub(crate) const IS_LATE: &str = "select choice from late where poll = $1 and tag = $2";
pub(crate) const LATE: &str = "select count(*) as n from late where poll = $1";

/// Every statement, for the test that prepares them.
pub const ALL: &[&str] = &[
    PUT_POLL,
    POLL,
    POLLS,
    COUNTS,
    LOGS,
    RETIRE,
    ENROL,
    POSITION,
    CLAIM,
    SIGHTING,
    RECOUNT,
    VOTES,
    UNSETTLED,
    PUBLISH,
    STATEMENT,
    IS_REPLACED,
    IS_LATE,
    LATE,
];

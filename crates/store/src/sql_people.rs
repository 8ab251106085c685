//! The statements about users, groups, grants, one-time links and usage, by name.

/// First in every change: on both engines it makes writers take turns until the commit.
pub(crate) const VERSION_NEXT: &str = "UPDATE people_version SET version = version + 1 WHERE id = 1";

pub(crate) const VERSION: &str = "SELECT version FROM people_version WHERE id = 1";

pub(crate) const USERS: &str = "\
SELECT name, CAST(CASE WHEN password_hash IS NULL THEN 0 ELSE 1 END AS BIGINT) AS has_password, disabled, created_at_ms,
       not_before_ms, last_login_ms
FROM users ORDER BY name";

pub(crate) const MEMBERSHIPS: &str =
    "SELECT user_name, group_name FROM memberships ORDER BY user_name, group_name";

pub(crate) const GRANTS: &str = "SELECT grantee, gives, scope FROM grants ORDER BY grantee, gives, scope";

pub(crate) const REVOCATIONS: &str = "SELECT session_id, until_ms FROM revocations";

pub(crate) const SHARES: &str = "SELECT instance, since_ms, until_ms FROM shares";

/// `$1` instance, `$2` since, `$3` until.
pub(crate) const SHARE_PUT: &str = "\
INSERT INTO shares (instance, since_ms, until_ms) VALUES ($1, $2, $3)
ON CONFLICT (instance) DO UPDATE SET since_ms = excluded.since_ms, until_ms = excluded.until_ms";

/// `$1` instance.
pub(crate) const SHARE_REMOVE: &str = "DELETE FROM shares WHERE instance = $1";

/// `$1` now.
pub(crate) const SHARES_EXPIRE: &str = "DELETE FROM shares WHERE until_ms <= $1";

/// `$1` name.
pub(crate) const USER_HASH: &str = "SELECT password_hash, disabled, not_before_ms FROM users WHERE name = $1";

/// `$1` name, `$2` hash, `$3` now.
pub(crate) const USER_ADD: &str = "\
INSERT INTO users (name, password_hash, disabled, created_at_ms, not_before_ms) VALUES ($1, $2, 0, $3, $3)
ON CONFLICT (name) DO NOTHING";

/// `$1` name.
pub(crate) const USER_REMOVE: &str = "DELETE FROM users WHERE name = $1";

/// `$1` grantee.
pub(crate) const GRANTEE_REMOVE: &str = "DELETE FROM grants WHERE grantee = $1";

/// `$1` name, `$2` hash, `$3` now. A new password ends every login made with the old one.
pub(crate) const USER_PASSWORD: &str = "\
UPDATE users SET password_hash = $2, not_before_ms = CASE WHEN not_before_ms > $3 THEN not_before_ms ELSE $3 END
WHERE name = $1";

/// `$1` name, `$2` the hash so far, `$3` the same password hashed anew.
pub(crate) const USER_REHASH: &str =
    "UPDATE users SET password_hash = $3 WHERE name = $1 AND password_hash = $2";

/// `$1` name, `$2` 0 or 1, `$3` now.
pub(crate) const USER_DISABLE: &str = "\
UPDATE users SET disabled = $2, not_before_ms = CASE WHEN not_before_ms > $3 THEN not_before_ms ELSE $3 END
WHERE name = $1";

/// `$1` name, `$2` now.
pub(crate) const USER_SIGN_OUT: &str = "\
UPDATE users SET not_before_ms = CASE WHEN not_before_ms > $2 THEN not_before_ms ELSE $2 END WHERE name = $1";

/// `$1` name, `$2` now.
pub(crate) const USER_LOGGED_IN: &str = "UPDATE users SET last_login_ms = $2 WHERE name = $1";

/// `$1` user.
pub(crate) const MEMBERSHIPS_CLEAR: &str = "DELETE FROM memberships WHERE user_name = $1";

/// `$1` group, `$2` now.
pub(crate) const GROUP_ADD: &str =
    "INSERT INTO user_groups (name, created_at_ms) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

/// `$1` user, `$2` group.
pub(crate) const MEMBERSHIP_ADD: &str = "\
INSERT INTO memberships (user_name, group_name) VALUES ($1, $2) ON CONFLICT (user_name, group_name) DO NOTHING";

/// Groups nobody is in and nothing is granted to.
pub(crate) const GROUPS_TIDY: &str = "\
DELETE FROM user_groups
WHERE NOT EXISTS (SELECT 1 FROM memberships WHERE group_name = user_groups.name)
  AND NOT EXISTS (SELECT 1 FROM grants WHERE grantee = 'group:' || user_groups.name)";

/// `$1` grantee, `$2` gives, `$3` scope, `$4` now.
pub(crate) const GRANT_ADD: &str = "\
INSERT INTO grants (grantee, gives, scope, created_at_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (grantee, gives, scope) DO NOTHING";

/// `$1` grantee, `$2` gives, `$3` scope.
pub(crate) const GRANT_REMOVE: &str = "DELETE FROM grants WHERE grantee = $1 AND gives = $2 AND scope = $3";

/// `$1` session, `$2` until.
pub(crate) const REVOCATION_ADD: &str =
    "INSERT INTO revocations (session_id, until_ms) VALUES ($1, $2) ON CONFLICT (session_id) DO NOTHING";

/// `$1` now.
pub(crate) const REVOCATIONS_EXPIRE: &str = "DELETE FROM revocations WHERE until_ms <= $1";

/// `$1` hash, `$2` purpose, `$3` user, `$4` until.
pub(crate) const LINK_ADD: &str =
    "INSERT INTO links (token_hash, purpose, user_name, expires_at_ms) VALUES ($1, $2, $3, $4)";

/// `$1` purpose, `$2` user. A new link makes earlier ones for the same void.
pub(crate) const LINKS_VOID: &str = "\
DELETE FROM links WHERE purpose = $1 AND (user_name = $2 OR (CAST($2 AS TEXT) IS NULL AND user_name IS NULL))";

/// `$1` hash, `$2` now.
pub(crate) const LINK: &str =
    "SELECT purpose, user_name, expires_at_ms FROM links WHERE token_hash = $1 AND expires_at_ms > $2";

/// `$1` hash, `$2` purpose, `$3` now.
pub(crate) const LINK_TAKE: &str =
    "DELETE FROM links WHERE token_hash = $1 AND purpose = $2 AND expires_at_ms > $3 RETURNING user_name";

/// `$1` now.
pub(crate) const LINKS_EXPIRE: &str = "DELETE FROM links WHERE expires_at_ms <= $1";

/// `$1` day, `$2` app, `$3` user, `$4` visits, `$5` seconds, `$6` now.
pub(crate) const USAGE_ADD: &str = "\
INSERT INTO usage_days (day, app, user_name, visits, seconds, last_at_ms) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (day, app, user_name) DO UPDATE SET
    visits = usage_days.visits + excluded.visits, seconds = usage_days.seconds + excluded.seconds,
    last_at_ms = CASE WHEN usage_days.last_at_ms > excluded.last_at_ms THEN usage_days.last_at_ms
                      ELSE excluded.last_at_ms END";

/// `$1` from day, `$2` to day (both included), `$3` app.
pub(crate) const USAGE: &str = "\
SELECT day, app, user_name, visits, seconds, last_at_ms FROM usage_days
WHERE day >= $1 AND day <= $2 AND (CAST($3 AS TEXT) IS NULL OR app = $3)
ORDER BY day, app, user_name";

/// `$1` user, `$2` at most. Newest first.
pub(crate) const USAGE_RECENT: &str = "\
SELECT app, MAX(last_at_ms) AS last_at_ms FROM usage_days WHERE user_name = $1
GROUP BY app ORDER BY MAX(last_at_ms) DESC, app LIMIT $2";

/// `$1` first day kept.
pub(crate) const USAGE_EXPIRE: &str = "DELETE FROM usage_days WHERE day < $1";

/// `$1` user. The figures of somebody who was removed stay, without the name.
pub(crate) const USAGE_ANONYMISE: &str = "\
INSERT INTO usage_days (day, app, user_name, visits, seconds, last_at_ms)
SELECT day, app, '', visits, seconds, last_at_ms FROM usage_days AS old WHERE old.user_name = $1
ON CONFLICT (day, app, user_name) DO UPDATE SET
    visits = usage_days.visits + excluded.visits, seconds = usage_days.seconds + excluded.seconds,
    last_at_ms = CASE WHEN usage_days.last_at_ms > excluded.last_at_ms THEN usage_days.last_at_ms
                      ELSE excluded.last_at_ms END";

/// `$1` user.
pub(crate) const USAGE_FORGET: &str = "DELETE FROM usage_days WHERE user_name = $1";

/// `$1` user, `$2` app, `$3` now.
pub(crate) const FAVOURITE_ADD: &str = "\
INSERT INTO favourites (user_name, app, added_at_ms) VALUES ($1, $2, $3) ON CONFLICT (user_name, app) DO NOTHING";

/// `$1` user, `$2` app.
pub(crate) const FAVOURITE_REMOVE: &str = "DELETE FROM favourites WHERE user_name = $1 AND app = $2";

/// `$1` user.
pub(crate) const FAVOURITES: &str = "SELECT app FROM favourites WHERE user_name = $1 ORDER BY app";

/// `$1` user.
pub(crate) const FAVOURITES_CLEAR: &str = "DELETE FROM favourites WHERE user_name = $1";

/// Everything above, for [`crate::Store::check`].
pub(crate) const ALL: [(&str, &str); 42] = [
    ("VERSION_NEXT", VERSION_NEXT),
    ("VERSION", VERSION),
    ("USERS", USERS),
    ("MEMBERSHIPS", MEMBERSHIPS),
    ("GRANTS", GRANTS),
    ("REVOCATIONS", REVOCATIONS),
    ("SHARES", SHARES),
    ("SHARE_PUT", SHARE_PUT),
    ("SHARE_REMOVE", SHARE_REMOVE),
    ("SHARES_EXPIRE", SHARES_EXPIRE),
    ("USER_HASH", USER_HASH),
    ("USER_ADD", USER_ADD),
    ("USER_REMOVE", USER_REMOVE),
    ("GRANTEE_REMOVE", GRANTEE_REMOVE),
    ("USER_PASSWORD", USER_PASSWORD),
    ("USER_REHASH", USER_REHASH),
    ("USER_DISABLE", USER_DISABLE),
    ("USER_SIGN_OUT", USER_SIGN_OUT),
    ("USER_LOGGED_IN", USER_LOGGED_IN),
    ("MEMBERSHIPS_CLEAR", MEMBERSHIPS_CLEAR),
    ("GROUP_ADD", GROUP_ADD),
    ("MEMBERSHIP_ADD", MEMBERSHIP_ADD),
    ("GROUPS_TIDY", GROUPS_TIDY),
    ("GRANT_ADD", GRANT_ADD),
    ("GRANT_REMOVE", GRANT_REMOVE),
    ("REVOCATION_ADD", REVOCATION_ADD),
    ("REVOCATIONS_EXPIRE", REVOCATIONS_EXPIRE),
    ("LINK_ADD", LINK_ADD),
    ("LINKS_VOID", LINKS_VOID),
    ("LINK", LINK),
    ("LINK_TAKE", LINK_TAKE),
    ("LINKS_EXPIRE", LINKS_EXPIRE),
    ("USAGE_ADD", USAGE_ADD),
    ("USAGE", USAGE),
    ("USAGE_RECENT", USAGE_RECENT),
    ("USAGE_EXPIRE", USAGE_EXPIRE),
    ("USAGE_ANONYMISE", USAGE_ANONYMISE),
    ("USAGE_FORGET", USAGE_FORGET),
    ("FAVOURITE_ADD", FAVOURITE_ADD),
    ("FAVOURITE_REMOVE", FAVOURITE_REMOVE),
    ("FAVOURITES", FAVOURITES),
    ("FAVOURITES_CLEAR", FAVOURITES_CLEAR),
];

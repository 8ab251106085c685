-- Who may do what. Names of users are folded (lower case), so two never differ in case only.
CREATE TABLE users (
    name          TEXT PRIMARY KEY,
    -- NULL: no password was set yet.
    password_hash TEXT,
    disabled      BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    -- Logins from before this time do not count any more.
    not_before_ms BIGINT NOT NULL,
    last_login_ms BIGINT
);

CREATE TABLE user_groups (
    name          TEXT PRIMARY KEY,
    created_at_ms BIGINT NOT NULL
);

CREATE TABLE memberships (
    user_name  TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    group_name TEXT NOT NULL REFERENCES user_groups (name) ON DELETE CASCADE,
    PRIMARY KEY (user_name, group_name)
);

CREATE INDEX memberships_by_group ON memberships (group_name);

-- (`user:ada`, `group:staff`, `everyone`, `anonymous`) → (`apps.use`, `role:operator`) on (`everything`, `app:sales`, …).
CREATE TABLE grants (
    grantee       TEXT NOT NULL,
    gives         TEXT NOT NULL,
    scope         TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (grantee, gives, scope)
);

-- Logins that were ended one by one. A row may go once the login would have ended by itself.
CREATE TABLE revocations (
    session_id TEXT PRIMARY KEY,
    until_ms   BIGINT NOT NULL
);

-- One-time links. Only a hash of what the link holds is kept.
CREATE TABLE links (
    token_hash    TEXT PRIMARY KEY,
    purpose       TEXT NOT NULL,
    user_name     TEXT REFERENCES users (name) ON DELETE CASCADE,
    expires_at_ms BIGINT NOT NULL
);

-- Who used what, per day (days since 1970-01-01, UTC). The user is empty for visitors without a login.
CREATE TABLE usage_days (
    day        BIGINT NOT NULL,
    app        TEXT NOT NULL,
    user_name  TEXT NOT NULL,
    visits     BIGINT NOT NULL,
    seconds    BIGINT NOT NULL,
    last_at_ms BIGINT NOT NULL,
    PRIMARY KEY (day, app, user_name)
);

CREATE INDEX usage_days_by_user ON usage_days (user_name, last_at_ms);

CREATE TABLE favourites (
    user_name   TEXT NOT NULL,
    app         TEXT NOT NULL,
    added_at_ms BIGINT NOT NULL,
    PRIMARY KEY (user_name, app)
);

-- Counts changes of users, memberships, grants and revocations, so that every server notices those of the others.
CREATE TABLE people_version (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    version BIGINT NOT NULL
);

INSERT INTO people_version (id, version) VALUES (1, 0);

-- What only one of several servers may do at a time, who does it, and until when by the database's own clock.
CREATE TABLE leases (
    name     TEXT PRIMARY KEY,
    owner    TEXT NOT NULL,
    process  TEXT NOT NULL,
    host     TEXT NOT NULL,
    until_ms BIGINT NOT NULL
);

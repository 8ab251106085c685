-- What happened, in order. AUTOINCREMENT: a number is never used twice, even after the newest rows were removed.
CREATE TABLE journal (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms     BIGINT NOT NULL,
    kind      TEXT NOT NULL,
    app       TEXT,
    instance  TEXT,
    user_name TEXT,
    detail    TEXT NOT NULL
);

CREATE INDEX journal_by_app ON journal (app, seq);
CREATE INDEX journal_by_kind ON journal (kind, seq);

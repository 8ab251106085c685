-- What happened, in order.
CREATE TABLE journal (
    seq       BIGINT PRIMARY KEY,
    at_ms     BIGINT NOT NULL,
    kind      TEXT NOT NULL,
    app       TEXT,
    instance  TEXT,
    user_name TEXT,
    detail    TEXT NOT NULL
);

CREATE INDEX journal_by_app ON journal (app, seq);
CREATE INDEX journal_by_kind ON journal (kind, seq);

-- The last number given out. Writers take turns on this row, so numbers become visible in their own order: a reader
-- that has seen number n has seen everything below it. A sequence would not promise that.
CREATE TABLE journal_head (
    id  INTEGER PRIMARY KEY CHECK (id = 1),
    seq BIGINT NOT NULL
);

INSERT INTO journal_head (id, seq) VALUES (1, 0);

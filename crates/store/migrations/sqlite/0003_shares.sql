-- Instances whose owners let others in. A row may go once its time is over; a link counts as long as both times are the row's.
CREATE TABLE shares (
    instance TEXT PRIMARY KEY,
    since_ms BIGINT NOT NULL,
    until_ms BIGINT NOT NULL
);

create table polls (
    id text primary key,
    definition text not null,
    closes_ms integer not null,
    final_ms integer,
    statement text
);
-- One row for each voter of each poll. prior and prior_tag are what the last change replaced.
create table votes (
    poll text not null,
    voter blob not null,
    choice text not null,
    first_hlc integer not null,
    epoch integer not null,
    attempt integer not null,
    hlc integer not null,
    tag blob not null,
    prior text,
    prior_tag blob,
    primary key (poll, voter)
) without rowid;
-- Ballots that were acknowledged and then replaced by a later one of the same voter.
create table replaced (poll text not null, tag blob not null, primary key (poll, tag)) without rowid;
-- Ballots stamped after their poll's end, or that came in after its result was published: shown, not counted.
create table late (poll text not null, tag blob not null, choice text not null, primary key (poll, tag)) without rowid;
-- Kept by log, so that workers on different logs never wait for each other's row.
create table tally (
    poll text not null,
    choice text not null,
    log blob not null,
    n integer not null,
    primary key (poll, choice, log)
) without rowid;
create table logs (
    log blob primary key,
    front text not null,
    position integer not null default 0,
    seen_end integer not null default 0,
    settled integer not null default 0,
    seen_ms integer not null default 0,
    offset_ms integer not null default 0,
    retired integer not null default 0,
    claimed_by text not null default '',
    claimed_until_ms integer not null default 0
);

create table polls (
    id text primary key,
    definition text not null,
    closes_ms bigint not null,
    final_ms bigint,
    statement text
);
-- One row for each voter of each poll. prior and prior_tag are what the last change replaced.
create table votes (
    poll text not null,
    voter bytea not null,
    choice text not null,
    first_hlc bigint not null,
    epoch bigint not null,
    attempt bigint not null,
    hlc bigint not null,
    tag bytea not null,
    prior text,
    prior_tag bytea,
    primary key (poll, voter)
);
-- Ballots that were acknowledged and then replaced by a later one of the same voter.
create table replaced (poll text not null, tag bytea not null, primary key (poll, tag));
-- Ballots stamped after their poll's end, or that came in after its result was published: shown, not counted.
create table late (poll text not null, tag bytea not null, choice text not null, primary key (poll, tag));
-- Kept by log, so that workers on different logs never wait for each other's row.
create table tally (
    poll text not null,
    choice text not null,
    log bytea not null,
    n bigint not null,
    primary key (poll, choice, log)
);
create table logs (
    log bytea primary key,
    front text not null,
    position bigint not null default 0,
    seen_end bigint not null default 0,
    settled bigint not null default 0,
    seen_ms bigint not null default 0,
    offset_ms bigint not null default 0,
    retired bigint not null default 0,
    claimed_by text not null default '',
    claimed_until_ms bigint not null default 0
);

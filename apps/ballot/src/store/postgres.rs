//! The batch on PostgreSQL: arrays in, one statement that upserts, notes what was replaced and adds up.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool, Row};

use super::{Deltas, Ends, LogBatch, StoreError, settle, signed, unapplied};
use crate::ballot::Ballot;
use crate::ids::{LogId, Seq};

pub(crate) async fn pool(url: &str) -> Result<PgPool, StoreError> {
    let options: PgConnectOptions = url.parse()?;
    Ok(PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options.options([("statement_timeout", "60000")]))
        .await?)
}

/// Winners in lock order; the row's own old choice comes back in `prior`, so the tally needs no second look. Ballots that came
/// later than one that stands come back with their tags.
const UPSERT: &str = "with incoming as (
    select * from unnest($1::text[], $2::bytea[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bytea[]) as t(poll, voter, choice, first_hlc, epoch, attempt, hlc, tag)),
written as (
    insert into votes (poll, voter, choice, first_hlc, epoch, attempt, hlc, tag) select * from incoming
    on conflict (voter, poll) do update set prior = votes.choice, prior_tag = votes.tag, choice = excluded.choice,
        first_hlc = excluded.first_hlc, epoch = excluded.epoch, attempt = excluded.attempt, hlc = excluded.hlc,
        tag = excluded.tag
    where (-excluded.first_hlc, excluded.epoch, excluded.attempt, excluded.hlc, excluded.tag)
        > (-votes.first_hlc, votes.epoch, votes.attempt, votes.hlc, votes.tag)
    returning poll, voter, choice, prior, prior_tag),
gone as (
    insert into replaced (poll, tag) select poll, prior_tag from written where prior_tag is not null
    on conflict do nothing)
select poll, choice, prior, count(*) as n, null::bytea as voter, null::bytea as tag
    from written group by poll, choice, prior
union all
select i.poll, null, null, 0, i.voter, i.tag from incoming as i
    where not exists (select from written as w where w.voter = i.voter and w.poll = i.poll)";

/// Ballots that did not win, unless they are the very one that stands. `offset 0` keeps this one look into the index for each
/// of them: a planner without statistics would rather read the whole table for every batch.
const PUT_ASIDE: &str = "insert into replaced (poll, tag)
    select i.poll, i.tag from unnest($1::text[], $2::bytea[], $3::bytea[]) as i(poll, voter, tag)
    cross join lateral (select tag from votes where voter = i.voter and poll = i.poll offset 0) as standing
    where standing.tag <> i.tag on conflict do nothing";

const ADD_UP: &str = "insert into tally (poll, choice, log, n)
    select poll, choice, $4, n from unnest($1::text[], $2::text[], $3::bigint[]) as t(poll, choice, n)
    on conflict (poll, choice, log) do update set n = tally.n + excluded.n";

const LATE: &str =
    "insert into late (poll, tag, choice) select * from unnest($1::text[], $2::bytea[], $3::text[])
    on conflict do nothing";

pub(crate) async fn commit(pool: &PgPool, batch: LogBatch) -> Result<Seq, StoreError> {
    let mut tx = pool.begin().await?;
    let (log, upto) = (batch.log, batch.upto);
    // Workers on the same log go one after the other from here.
    let position: i64 = sqlx::query_scalar("select position from logs where log = $1 for update")
        .bind(&log.0[..])
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| StoreError::Refused(format!("log {log} was never enrolled")))?;
    let position = u64::try_from(position).map_err(|e| StoreError::Odd(e.to_string()))?;
    if position < batch.from || position >= upto {
        return Ok(position);
    }
    let ballots = unapplied(batch, position);
    let polls: HashSet<&str> = ballots.iter().map(|b| b.poll.as_str()).collect();
    let mut polls: Vec<String> = polls.into_iter().map(str::to_owned).collect();
    polls.sort_unstable();
    // Shared with other workers, and in the way of publishing until this batch is in.
    let ends: Vec<(String, i64, bool)> = sqlx::query_as(
        "select id, closes_ms, final_ms is not null from polls where id = any($1) order by id for share",
    )
    .bind(&polls)
    .fetch_all(&mut *tx)
    .await?;
    let end = |closes_ms, is_final| if is_final { 0 } else { u64::try_from(closes_ms).unwrap_or(0) };
    let ends: Ends =
        ends.into_iter().map(|(id, closes_ms, is_final)| (id, end(closes_ms, is_final))).collect();
    let (winners, losers, late) = settle(ballots, &ends);
    let written = upsert(&mut tx, &winners).await?;
    let losers = losers.iter().map(|b| Loser {
        poll: b.poll.as_str().to_owned(),
        voter: b.voter.0.to_vec(),
        tag: b.tag.0.to_vec(),
    });
    put_aside(&mut tx, losers.chain(written.lost).collect()).await?;
    if !late.is_empty() {
        sqlx::query(LATE)
            .bind(late.iter().map(|b| b.poll.as_str()).collect::<Vec<_>>())
            .bind(late.iter().map(|b| &b.tag.0[..]).collect::<Vec<_>>())
            .bind(late.iter().map(|b| b.option.as_str()).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
    }
    add_up(&mut tx, log, written.deltas).await?;
    sqlx::query("update logs set position = $2 where log = $1")
        .bind(&log.0[..])
        .bind(signed(upto))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(upto)
}

/// A ballot that does not stand.
struct Loser {
    poll: String,
    voter: Vec<u8>,
    tag: Vec<u8>,
}

#[derive(Default)]
struct Written {
    deltas: Deltas,
    lost: Vec<Loser>,
}

async fn upsert(tx: &mut PgConnection, winners: &[Ballot]) -> Result<Written, StoreError> {
    let mut written = Written::default();
    if winners.is_empty() {
        return Ok(written);
    }
    let rows = sqlx::query(UPSERT)
        .bind(winners.iter().map(|b| b.poll.as_str()).collect::<Vec<_>>())
        .bind(winners.iter().map(|b| &b.voter.0[..]).collect::<Vec<_>>())
        .bind(winners.iter().map(|b| b.option.as_str()).collect::<Vec<_>>())
        .bind(winners.iter().map(|b| signed(b.stamp.first)).collect::<Vec<_>>())
        .bind(winners.iter().map(|b| signed(b.stamp.epoch)).collect::<Vec<_>>())
        .bind(winners.iter().map(|b| i64::from(b.stamp.attempt)).collect::<Vec<_>>())
        .bind(winners.iter().map(|b| signed(b.stamp.hlc)).collect::<Vec<_>>())
        .bind(winners.iter().map(|b| &b.tag.0[..]).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
    for row in &rows {
        let poll: String = row.try_get("poll")?;
        if let Some(voter) = row.try_get("voter")? {
            written.lost.push(Loser { poll, voter, tag: row.try_get("tag")? });
            continue;
        }
        let n: i64 = row.try_get("n")?;
        if let Some(prior) = row.try_get::<Option<String>, _>("prior")? {
            *written.deltas.entry((poll.clone(), prior)).or_default() -= n;
        }
        *written.deltas.entry((poll, row.try_get("choice")?)).or_default() += n;
    }
    Ok(written)
}

async fn put_aside(tx: &mut PgConnection, losers: Vec<Loser>) -> Result<(), StoreError> {
    if losers.is_empty() {
        return Ok(());
    }
    sqlx::query(PUT_ASIDE)
        .bind(losers.iter().map(|l| l.poll.as_str()).collect::<Vec<_>>())
        .bind(losers.iter().map(|l| &l.voter[..]).collect::<Vec<_>>())
        .bind(losers.iter().map(|l| &l.tag[..]).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}

async fn add_up(tx: &mut PgConnection, log: LogId, deltas: Deltas) -> Result<(), StoreError> {
    let deltas: Vec<_> = deltas.into_iter().filter(|(_, n)| *n != 0).collect();
    if deltas.is_empty() {
        return Ok(());
    }
    sqlx::query(ADD_UP)
        .bind(deltas.iter().map(|((poll, _), _)| poll.as_str()).collect::<Vec<_>>())
        .bind(deltas.iter().map(|((_, choice), _)| choice.as_str()).collect::<Vec<_>>())
        .bind(deltas.iter().map(|(_, n)| *n).collect::<Vec<_>>())
        .bind(&log.0[..])
        .execute(tx)
        .await?;
    Ok(())
}

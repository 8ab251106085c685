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

/// Winners in lock order; the row's own old choice comes back in `prior`, so the tally needs no second look.
const UPSERT: &str = "with incoming as (
    select * from unnest($1::text[], $2::bytea[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bytea[]) as t(poll, voter, choice, first_hlc, epoch, attempt, hlc, tag)),
written as (
    insert into votes (poll, voter, choice, first_hlc, epoch, attempt, hlc, tag) select * from incoming
    on conflict (poll, voter) do update set prior = votes.choice, prior_tag = votes.tag, choice = excluded.choice,
        first_hlc = excluded.first_hlc, epoch = excluded.epoch, attempt = excluded.attempt, hlc = excluded.hlc,
        tag = excluded.tag
    where (-excluded.first_hlc, excluded.epoch, excluded.attempt, excluded.hlc, excluded.tag)
        > (-votes.first_hlc, votes.epoch, votes.attempt, votes.hlc, votes.tag)
    returning poll, voter, choice, prior, prior_tag),
gone as (
    insert into replaced (poll, tag) select poll, prior_tag from written where prior_tag is not null
    on conflict do nothing)
select poll, choice, prior, count(*) as n from written group by poll, choice, prior";

/// Ballots that did not win, unless they are the very one that stands.
const PUT_ASIDE: &str = "insert into replaced (poll, tag)
    select i.poll, i.tag from unnest($1::text[], $2::bytea[], $3::bytea[]) as i(poll, voter, tag)
    join votes v on v.poll = i.poll and v.voter = i.voter and v.tag <> i.tag on conflict do nothing";

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
    let deltas = upsert(&mut tx, &winners).await?;
    let won: i64 = deltas.1;
    let mut aside = losers;
    if won < i64::try_from(winners.len()).unwrap_or(i64::MAX) {
        // Some of these did win; the statement leaves out whatever stands.
        aside.extend(winners);
    }
    put_aside(&mut tx, &aside).await?;
    if !late.is_empty() {
        sqlx::query(LATE)
            .bind(late.iter().map(|b| b.poll.as_str()).collect::<Vec<_>>())
            .bind(late.iter().map(|b| &b.tag.0[..]).collect::<Vec<_>>())
            .bind(late.iter().map(|b| b.option.as_str()).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
    }
    add_up(&mut tx, log, deltas.0).await?;
    sqlx::query("update logs set position = $2 where log = $1")
        .bind(&log.0[..])
        .bind(signed(upto))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(upto)
}

async fn upsert(tx: &mut PgConnection, winners: &[Ballot]) -> Result<(Deltas, i64), StoreError> {
    let mut deltas = Deltas::new();
    let mut won = 0;
    if winners.is_empty() {
        return Ok((deltas, won));
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
        let (poll, n): (String, i64) = (row.try_get("poll")?, row.try_get("n")?);
        won += n;
        if let Some(prior) = row.try_get::<Option<String>, _>("prior")? {
            *deltas.entry((poll.clone(), prior)).or_default() -= n;
        }
        *deltas.entry((poll, row.try_get("choice")?)).or_default() += n;
    }
    Ok((deltas, won))
}

async fn put_aside(tx: &mut PgConnection, aside: &[Ballot]) -> Result<(), StoreError> {
    if aside.is_empty() {
        return Ok(());
    }
    sqlx::query(PUT_ASIDE)
        .bind(aside.iter().map(|b| b.poll.as_str()).collect::<Vec<_>>())
        .bind(aside.iter().map(|b| &b.voter.0[..]).collect::<Vec<_>>())
        .bind(aside.iter().map(|b| &b.tag.0[..]).collect::<Vec<_>>())
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

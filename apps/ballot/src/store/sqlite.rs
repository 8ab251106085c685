//! The batch on SQLite: one writer, one `begin immediate` transaction, rows in groups of a statement.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool};

use super::{Deltas, Ends, LogBatch, StoreError, settle, signed, unapplied};
use crate::ballot::Ballot;
use crate::ids::{LogId, Seq};

/// Rows of one statement: 8 values each, below SQLite's limit of 32766.
const ROWS: usize = 500;

pub(crate) async fn pool(file: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(10))
        .statement_cache_capacity(64);
    Ok(SqlitePoolOptions::new().max_connections(1).connect_with(options).await?)
}

pub(crate) async fn commit(pool: &SqlitePool, batch: LogBatch) -> Result<Seq, StoreError> {
    let mut connection = pool.acquire().await?;
    let mut tx = connection.begin_with("begin immediate").await?;
    let (log, upto) = (batch.log, batch.upto);
    let position: i64 = sqlx::query_scalar(super::sql::POSITION)
        .bind(&log.0[..])
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| StoreError::Refused(format!("log {log} was never enrolled")))?;
    let position = u64::try_from(position).map_err(|e| StoreError::Odd(e.to_string()))?;
    if position < batch.from || position >= upto {
        return Ok(position);
    }
    let ends: Vec<(String, i64, bool)> =
        sqlx::query_as("select id, closes_ms, final_ms is not null from polls").fetch_all(&mut *tx).await?;
    let end = |closes_ms, is_final| if is_final { 0 } else { u64::try_from(closes_ms).unwrap_or(0) };
    let ends: Ends =
        ends.into_iter().map(|(id, closes_ms, is_final)| (id, end(closes_ms, is_final))).collect();
    let (winners, losers, late) = settle(unapplied(batch, position), &ends);
    let mut deltas = Deltas::new();
    let mut aside = losers;
    for chunk in winners.chunks(ROWS) {
        upsert(&mut tx, chunk, &mut deltas, &mut aside).await?;
    }
    for chunk in aside.chunks(ROWS) {
        put_aside(&mut tx, chunk).await?;
    }
    for ballot in &late {
        sqlx::query("insert into late (poll, tag, choice) values ($1, $2, $3) on conflict do nothing")
            .bind(ballot.poll.as_str())
            .bind(&ballot.tag.0[..])
            .bind(ballot.option.as_str())
            .execute(&mut *tx)
            .await?;
    }
    add_up(&mut tx, log, deltas).await?;
    sqlx::query("update logs set position = $2 where log = $1")
        .bind(&log.0[..])
        .bind(signed(upto))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(upto)
}

/// Writes the winners of a chunk; what an older or better row kept out goes to `aside`.
async fn upsert(
    tx: &mut SqliteConnection,
    chunk: &[Ballot],
    deltas: &mut Deltas,
    aside: &mut Vec<Ballot>,
) -> Result<(), StoreError> {
    let mut query: QueryBuilder<Sqlite> =
        QueryBuilder::new("insert into votes (poll, voter, choice, first_hlc, epoch, attempt, hlc, tag) ");
    query.push_values(chunk, |mut row, b| {
        row.push_bind(b.poll.as_str())
            .push_bind(&b.voter.0[..])
            .push_bind(b.option.as_str())
            .push_bind(signed(b.stamp.first))
            .push_bind(signed(b.stamp.epoch))
            .push_bind(i64::from(b.stamp.attempt))
            .push_bind(signed(b.stamp.hlc))
            .push_bind(&b.tag.0[..]);
    });
    query.push(
        " on conflict (poll, voter) do update set prior = votes.choice, prior_tag = votes.tag,
          choice = excluded.choice, first_hlc = excluded.first_hlc, epoch = excluded.epoch,
          attempt = excluded.attempt, hlc = excluded.hlc, tag = excluded.tag
          where (-excluded.first_hlc, excluded.epoch, excluded.attempt, excluded.hlc, excluded.tag)
              > (-votes.first_hlc, votes.epoch, votes.attempt, votes.hlc, votes.tag)
          returning voter, poll, choice, prior, prior_tag",
    );
    let rows = query.build().fetch_all(&mut *tx).await?;
    let mut written: HashSet<(String, Vec<u8>)> = HashSet::new();
    for row in &rows {
        let (poll, choice): (String, String) = (row.try_get("poll")?, row.try_get("choice")?);
        if let (Some(prior), Some(tag)) =
            (row.try_get::<Option<String>, _>("prior")?, row.try_get::<Option<Vec<u8>>, _>("prior_tag")?)
        {
            *deltas.entry((poll.clone(), prior)).or_default() -= 1;
            replace(tx, &poll, &tag).await?;
        }
        if rows.len() < chunk.len() {
            written.insert((poll.clone(), row.try_get("voter")?));
        }
        *deltas.entry((poll, choice)).or_default() += 1;
    }
    if rows.len() < chunk.len() {
        let kept_out = |b: &&Ballot| !written.contains(&(b.poll.as_str().to_owned(), b.voter.0.to_vec()));
        aside.extend(chunk.iter().filter(kept_out).cloned());
    }
    Ok(())
}

async fn replace(tx: &mut SqliteConnection, poll: &str, tag: &[u8]) -> Result<(), StoreError> {
    sqlx::query("insert into replaced (poll, tag) values ($1, $2) on conflict do nothing")
        .bind(poll)
        .bind(tag)
        .execute(tx)
        .await?;
    Ok(())
}

/// Notes ballots that lost, unless they are the very one that stands.
async fn put_aside(tx: &mut SqliteConnection, chunk: &[Ballot]) -> Result<(), StoreError> {
    for ballot in chunk {
        sqlx::query(
            "insert into replaced (poll, tag) select $1, $3
             where not exists (select 1 from votes where poll = $1 and voter = $2 and tag = $3) on conflict do nothing",
        )
        .bind(ballot.poll.as_str())
        .bind(&ballot.voter.0[..])
        .bind(&ballot.tag.0[..])
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn add_up(tx: &mut SqliteConnection, log: LogId, deltas: Deltas) -> Result<(), StoreError> {
    for ((poll, choice), n) in deltas.into_iter().filter(|(_, n)| *n != 0) {
        sqlx::query(
            "insert into tally (poll, choice, log, n) values ($1, $2, $3, $4)
             on conflict (poll, choice, log) do update set n = tally.n + excluded.n",
        )
        .bind(poll)
        .bind(choice)
        .bind(&log.0[..])
        .bind(n)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

//! The database: the register of votes, the tally, and how far each log has been taken.
//!
//! Invariants: a batch's votes, its tally and its log's position change in one transaction or not at all; ballots
//! below a log's position are never applied again; a final poll's votes never change. SQLite or PostgreSQL by one set
//! of portable statements, except the batch itself (`sqlite`, `postgres`). Absent: who a voter is.

mod postgres;
pub mod published;
pub mod sql;
mod sqlite;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{AnyPool, Row};

use crate::ballot::{Ballot, Register};
use crate::hlc::Reading;
use crate::ids::{LogId, OptionId, PollId, Seq};
use crate::polls::Poll;
use crate::spool::BoxFuture;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the database's tables could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("{0} is neither sqlite:FILE nor postgres://…")]
    Url(String),
    #[error("the database holds what ballot never wrote: {0}")]
    Odd(String),
    #[error("{0}")]
    Refused(String),
}

/// Ballots of one log, from record `from` up to and without `upto`.
#[derive(Debug, Clone)]
pub struct LogBatch {
    pub log: LogId,
    pub from: Seq,
    pub upto: Seq,
    pub ballots: Vec<Ballot>,
}

/// What a worker saw of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    pub log: LogId,
    /// Records in the log.
    pub end: Seq,
    /// Every ballot with a smaller clock reading is in the database; 0 when that is not known.
    pub settled: Reading,
    pub seen_ms: u64,
    /// The front's clock minus the worker's, in milliseconds.
    pub offset_ms: i64,
}

/// A log as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LogRow {
    #[serde(serialize_with = "as_text")]
    pub log: LogId,
    pub front: String,
    pub position: Seq,
    pub seen_end: Seq,
    pub settled: Reading,
    pub seen_ms: u64,
    pub offset_ms: i64,
    pub retired: bool,
}

fn as_text<S: serde::Serializer>(value: &impl ToString, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&value.to_string())
}

/// What a worker needs of a database. The simulation has a model of it.
pub trait Tally: Send + Sync + 'static {
    /// Makes the log known, so that no result is final without it.
    fn enrol<'a>(&'a self, log: LogId, front: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The first record of the log that is not in the database.
    fn position(&self, log: LogId) -> BoxFuture<'_, Result<Seq, StoreError>>;

    /// Whether this worker should take the log's next batches. A hint that spares work: nothing depends on it.
    fn claim<'a>(
        &'a self,
        log: LogId,
        worker: &'a str,
        now_ms: u64,
        for_ms: u64,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Merges what is new in the batch and moves the log's position, in one transaction. Answers the position.
    fn commit(&self, batch: LogBatch) -> BoxFuture<'_, Result<Seq, StoreError>>;

    fn sighting(&self, sighting: Sighting) -> BoxFuture<'_, Result<(), StoreError>>;

    fn polls(&self) -> BoxFuture<'_, Result<Vec<Poll>, StoreError>>;
}

enum Engine {
    Sqlite(sqlx::SqlitePool),
    Postgres(sqlx::PgPool),
}

pub struct Database {
    any: AnyPool,
    engine: Engine,
}

/// Counts by option of one poll, and whether it is final.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub by_option: BTreeMap<String, u64>,
}

pub(crate) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(row: &AnyRow, column: &str) -> Result<u64, StoreError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| StoreError::Odd(format!("{column} = {value}")))
}

fn poll_of(row: &AnyRow) -> Result<Poll, StoreError> {
    let text: String = row.try_get("definition")?;
    serde_json::from_str(&text).map_err(|e| StoreError::Odd(format!("a poll's definition: {e}")))
}

/// The batch's ballots that the log's position has not passed.
pub(crate) fn unapplied(batch: LogBatch, position: Seq) -> Vec<Ballot> {
    let skip = usize::try_from(position.saturating_sub(batch.from)).unwrap_or(usize::MAX);
    batch.ballots.into_iter().skip(skip).collect()
}

/// When polls end for the merge: milliseconds, 0 for a final poll.
pub(crate) type Ends = HashMap<String, u64>;

/// The winners among ballots in lock order, the losers, and those too late to count: a front that has not heard of a
/// poll's end may have acknowledged some.
pub(crate) fn settle(ballots: Vec<Ballot>, ends: &Ends) -> (Vec<Ballot>, Vec<Ballot>, Vec<Ballot>) {
    let mut register = Register::default();
    let mut late = Vec::new();
    for ballot in ballots {
        let end = ends.get(ballot.poll.as_str()).copied().unwrap_or(u64::MAX);
        if crate::hlc::millis(ballot.stamp.hlc) >= end { late.push(ballot) } else { register.absorb(ballot) }
    }
    let (winners, losers) = register.into_sorted();
    (winners, losers, late)
}

/// Changes of the tally by poll and option.
pub(crate) type Deltas = HashMap<(String, String), i64>;

impl Database {
    /// Opens `sqlite:FILE` or `postgres://…` and brings its tables up to date.
    ///
    /// # Errors
    /// When it cannot be reached or is not a ballot database.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        if let Some(file) = url.strip_prefix("sqlite:") {
            let engine = sqlite::pool(Path::new(file)).await?;
            sqlx::migrate!("migrations/sqlite").run(&engine).await?;
            let any = AnyPoolOptions::new()
                .max_connections(4)
                .after_connect(|c, _| {
                    Box::pin(async move {
                        sqlx::raw_sql("pragma busy_timeout = 10000; pragma synchronous = full")
                            .execute(c)
                            .await?;
                        Ok(())
                    })
                })
                .connect(&format!("sqlite:{file}"))
                .await?;
            return Ok(Self { any, engine: Engine::Sqlite(engine) });
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let engine = postgres::pool(url).await?;
            sqlx::migrate!("migrations/postgres").run(&engine).await?;
            let any = AnyPoolOptions::new()
                .max_connections(4)
                .acquire_timeout(Duration::from_secs(5))
                .connect(url)
                .await?;
            return Ok(Self { any, engine: Engine::Postgres(engine) });
        }
        Err(StoreError::Url(url.to_owned()))
    }

    /// Writes a poll's definition.
    ///
    /// # Errors
    /// `Refused` when it would change what votes were cast for, or the poll is final.
    pub async fn put_poll(&self, poll: &Poll, now_ms: u64) -> Result<(), StoreError> {
        if let Some((old, is_final)) = self.poll(&poll.id).await? {
            if old == *poll {
                return Ok(());
            }
            if is_final {
                return Err(StoreError::Refused(format!("poll {} is final and cannot change", poll.id)));
            }
            if old.is_closed(now_ms) && old.closes_ms != poll.closes_ms {
                return Err(StoreError::Refused(format!(
                    "poll {} is closed and cannot be opened again",
                    poll.id
                )));
            }
            old.may_become(poll).map_err(|what| StoreError::Refused(format!("poll {}: {what}", poll.id)))?;
        }
        let text = serde_json::to_string(poll).map_err(|e| StoreError::Odd(e.to_string()))?;
        sqlx::query(sql::PUT_POLL)
            .bind(poll.id.as_str())
            .bind(text)
            .bind(signed(poll.closes_ms))
            .execute(&self.any)
            .await?;
        Ok(())
    }

    /// A poll and whether it is final.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn poll(&self, id: &PollId) -> Result<Option<(Poll, bool)>, StoreError> {
        let row = sqlx::query(sql::POLL).bind(id.as_str()).fetch_optional(&self.any).await?;
        row.map(|row| Ok((poll_of(&row)?, row.try_get::<Option<i64>, _>("final_ms")?.is_some()))).transpose()
    }

    /// All polls and whether each is final.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn all_polls(&self) -> Result<Vec<(Poll, bool)>, StoreError> {
        let rows = sqlx::query(sql::POLLS).fetch_all(&self.any).await?;
        rows.iter()
            .map(|row| Ok((poll_of(row)?, row.try_get::<Option<i64>, _>("final_ms")?.is_some())))
            .collect()
    }

    /// The tally of every poll.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn counts(&self) -> Result<HashMap<String, Counts>, StoreError> {
        let rows = sqlx::query(sql::COUNTS).fetch_all(&self.any).await?;
        let mut all: HashMap<String, Counts> = HashMap::new();
        for row in &rows {
            let counts = all.entry(row.try_get("poll")?).or_default();
            counts.by_option.insert(row.try_get("choice")?, unsigned(row, "n")?);
        }
        Ok(all)
    }

    /// Every log ever enrolled.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn logs(&self) -> Result<Vec<LogRow>, StoreError> {
        let rows = sqlx::query(sql::LOGS).fetch_all(&self.any).await?;
        rows.iter()
            .map(|row| {
                let log: Vec<u8> = row.try_get("log")?;
                Ok(LogRow {
                    log: LogId::from_slice(&log).ok_or_else(|| StoreError::Odd("a log's id".to_owned()))?,
                    front: row.try_get("front")?,
                    position: unsigned(row, "position")?,
                    seen_end: unsigned(row, "seen_end")?,
                    settled: unsigned(row, "settled")?,
                    seen_ms: unsigned(row, "seen_ms")?,
                    offset_ms: row.try_get("offset_ms")?,
                    retired: row.try_get::<i64, _>("retired")? != 0,
                })
            })
            .collect()
    }

    /// Gives a log up (its disk is lost), or takes that back. Results may become final without it.
    ///
    /// # Errors
    /// `Refused` when there is no such log.
    pub async fn retire(&self, log: LogId, retired: bool) -> Result<(), StoreError> {
        let query = sqlx::query(sql::RETIRE).bind(log.0.to_vec()).bind(i64::from(retired));
        if query.execute(&self.any).await?.rows_affected() == 0 {
            return Err(StoreError::Refused(format!("there is no log {log}")));
        }
        Ok(())
    }

    /// The tally beside a full recount, by option: (tally, rows).
    ///
    /// # Errors
    /// As the database reports.
    pub async fn recount(&self, poll: &PollId) -> Result<BTreeMap<String, (u64, u64)>, StoreError> {
        let rows = sqlx::query(sql::RECOUNT).bind(poll.as_str()).fetch_all(&self.any).await?;
        rows.iter()
            .map(|row| Ok((row.try_get("choice")?, (unsigned(row, "tallied")?, unsigned(row, "counted")?))))
            .collect()
    }

    /// Every vote, for checkers: (voter, option, tag) of one poll.
    ///
    /// # Errors
    /// As the database reports.
    pub async fn votes(&self, poll: &PollId) -> Result<Vec<(Vec<u8>, OptionId, Vec<u8>)>, StoreError> {
        let rows = sqlx::query(sql::VOTES).bind(poll.as_str()).fetch_all(&self.any).await?;
        rows.iter()
            .map(|row| {
                let choice: String = row.try_get("choice")?;
                let choice = OptionId::try_from(choice).map_err(|e| StoreError::Odd(e.to_string()))?;
                Ok((row.try_get("voter")?, choice, row.try_get("tag")?))
            })
            .collect()
    }

    async fn commit_batch(&self, batch: LogBatch) -> Result<Seq, StoreError> {
        match &self.engine {
            Engine::Sqlite(pool) => sqlite::commit(pool, batch).await,
            Engine::Postgres(pool) => postgres::commit(pool, batch).await,
        }
    }
}

impl Tally for Database {
    fn enrol<'a>(&'a self, log: LogId, front: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            sqlx::query(sql::ENROL).bind(log.0.to_vec()).bind(front).execute(&self.any).await?;
            Ok(())
        })
    }

    fn position(&self, log: LogId) -> BoxFuture<'_, Result<Seq, StoreError>> {
        Box::pin(async move {
            let row = sqlx::query(sql::POSITION).bind(log.0.to_vec()).fetch_optional(&self.any).await?;
            row.map_or(Ok(0), |row| unsigned(&row, "position"))
        })
    }

    fn claim<'a>(
        &'a self,
        log: LogId,
        worker: &'a str,
        now_ms: u64,
        for_ms: u64,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let query = sqlx::query(sql::CLAIM)
                .bind(log.0.to_vec())
                .bind(worker)
                .bind(signed(now_ms))
                .bind(signed(now_ms + for_ms));
            Ok(query.execute(&self.any).await?.rows_affected() > 0)
        })
    }

    fn commit(&self, batch: LogBatch) -> BoxFuture<'_, Result<Seq, StoreError>> {
        Box::pin(self.commit_batch(batch))
    }

    fn sighting(&self, sighting: Sighting) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            sqlx::query(sql::SIGHTING)
                .bind(sighting.log.0.to_vec())
                .bind(signed(sighting.end))
                .bind(signed(sighting.settled))
                .bind(signed(sighting.seen_ms))
                .bind(sighting.offset_ms)
                .execute(&self.any)
                .await?;
            Ok(())
        })
    }

    fn polls(&self) -> BoxFuture<'_, Result<Vec<Poll>, StoreError>> {
        Box::pin(async move { Ok(self.all_polls().await?.into_iter().map(|(poll, _)| poll).collect()) })
    }
}

//! A spool in an SQLite file: the differential oracle of the segment log, and proof that another spool can take its
//! place. `synchronous=FULL` in WAL mode, so a committed batch survives a power cut.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Row};

use crate::ids::{LogId, Seq};
use crate::record;
use crate::spool::{Batch, BoxFuture, Chunk, Spool, SpoolError, Standing};

pub struct SqliteSpool {
    pool: SqlitePool,
    standing: Mutex<Standing>,
    failed: AtomicBool,
}

fn failed(error: impl std::fmt::Display) -> SpoolError {
    SpoolError::Failed(format!("the SQLite spool failed: {error}"))
}

fn signed(seq: Seq) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

const SCHEMA: &str = "
create table if not exists standing (one integer primary key check (one = 1), log blob not null,
    first integer not null, next integer not null, hlc integer not null);
create table if not exists batches (first integer primary key, records integer not null, bytes blob not null);";

impl SqliteSpool {
    /// # Errors
    /// As SQLite reports.
    pub async fn open(path: &Path, fresh_id: LogId) -> Result<Self, SpoolError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(failed)?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await.map_err(failed)?;
        sqlx::query("insert into standing values (1, $1, 0, 0, 0) on conflict do nothing")
            .bind(&fresh_id.0[..])
            .execute(&pool)
            .await
            .map_err(failed)?;
        let row = sqlx::query("select log, first, next, hlc from standing")
            .fetch_one(&pool)
            .await
            .map_err(failed)?;
        let number = |column: &str| -> Result<u64, SpoolError> {
            u64::try_from(row.try_get::<i64, _>(column).map_err(failed)?).map_err(failed)
        };
        let log = row.try_get::<Vec<u8>, _>("log").map_err(failed)?;
        let log = LogId::from_slice(&log).ok_or_else(|| failed("its id is damaged"))?;
        let standing =
            Standing { log, start: number("first")?, end: number("next")?, max_hlc: number("hlc")? };
        Ok(Self { pool, standing: Mutex::new(standing), failed: AtomicBool::new(false) })
    }

    async fn commit_batch(&self, batch: &Batch) -> Result<(), SpoolError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(failed("an earlier commit"));
        }
        let result = self.write(batch).await;
        self.failed.store(result.is_err(), Ordering::Release);
        result?;
        let mut standing = self.standing.lock();
        standing.end = batch.end();
        standing.max_hlc = standing.max_hlc.max(batch.max_hlc);
        Ok(())
    }

    async fn write(&self, batch: &Batch) -> Result<(), SpoolError> {
        if batch.first != self.standing.lock().end {
            return Err(failed("a batch out of order"));
        }
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        let mut tx = connection.begin_with("begin immediate").await.map_err(failed)?;
        sqlx::query("insert into batches values ($1, $2, $3)")
            .bind(signed(batch.first))
            .bind(i64::from(batch.count))
            .bind(&batch.bytes)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        sqlx::query("update standing set next = $1, hlc = max(hlc, $2)")
            .bind(signed(batch.end()))
            .bind(signed(batch.max_hlc))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    async fn read_chunk(&self, from: Seq, max_bytes: usize) -> Result<Chunk, SpoolError> {
        let mut chunk = Chunk { first: from, ..Chunk::default() };
        let start = self.standing.lock().start;
        if from < start {
            return Err(SpoolError::Released(start));
        }
        let mut at = from;
        while chunk.bytes.len() < max_bytes {
            let row = sqlx::query(
                "select first, bytes from batches where first <= $1 and first + records > $1 order by first limit 1",
            )
            .bind(signed(at))
            .fetch_optional(&self.pool)
            .await
            .map_err(failed)?;
            let Some(row) = row else { break };
            let first = u64::try_from(row.try_get::<i64, _>("first").map_err(failed)?).map_err(failed)?;
            let bytes: Vec<u8> = row.try_get("bytes").map_err(failed)?;
            let skip = record::prefix(&bytes, at - first).map_err(failed)?;
            let room = max_bytes - chunk.bytes.len();
            let (count, len) = record::fit(&bytes[skip..], room).map_err(failed)?;
            if chunk.count > 0 && len > room {
                break;
            }
            chunk.bytes.extend_from_slice(&bytes[skip..skip + len]);
            chunk.count += count;
            at += count;
            if skip + len < bytes.len() {
                break;
            }
        }
        Ok(chunk)
    }

    async fn forget(&self, upto: Seq) -> Result<(), SpoolError> {
        let first: Option<i64> =
            sqlx::query_scalar("delete from batches where first + records <= $1 returning first + records")
                .bind(signed(upto))
                .fetch_all(&self.pool)
                .await
                .map_err(failed)?
                .into_iter()
                .max();
        if let Some(first) = first {
            sqlx::query("update standing set first = $1")
                .bind(first)
                .execute(&self.pool)
                .await
                .map_err(failed)?;
            self.standing.lock().start = u64::try_from(first).map_err(failed)?;
        }
        Ok(())
    }
}

impl Spool for SqliteSpool {
    fn standing(&self) -> Standing {
        *self.standing.lock()
    }

    fn commit<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<(), SpoolError>> {
        Box::pin(self.commit_batch(batch))
    }

    fn read(&self, from: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Chunk, SpoolError>> {
        Box::pin(self.read_chunk(from, max_bytes))
    }

    fn release(&self, upto: Seq) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(self.forget(upto))
    }

    fn room(&self) -> u64 {
        // SQLite tells of a full disk only by failing.
        1 << 40
    }

    fn make_room(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

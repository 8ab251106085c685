//! The journal: what happened, in an order of its own.
//!
//! Invariants: numbers ascend without reuse; a batch is written whole or not at all; a reader that has seen number `n`
//! has seen every record below it that was not removed by retention.

use serde::Serialize;
use skep_model::{Event, EventKind};
use sqlx::any::AnyRow;
use sqlx::{AnyPool, Row};

use crate::{Engine, StoreError, sql};

/// Rows removed per statement, so that readers and the writer are never locked out for long.
const EXPIRE_CHUNK: i64 = 5_000;

/// An event with its place in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    pub seq: i64,
    #[serde(flatten)]
    pub event: Event,
}

/// Which records to read. Empty: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub app: Option<String>,
    pub kind: Option<EventKind>,
    pub user: Option<String>,
}

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Records before this time go, milliseconds since the Unix epoch.
    pub not_before_ms: i64,
    /// Of the rest, the newest this many stay.
    pub at_most: u32,
}

/// Reads and writes the journal. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    engine: Engine,
    writer: AnyPool,
    reader: AnyPool,
}

impl Journal {
    pub(crate) fn new(engine: Engine, writer: AnyPool, reader: AnyPool) -> Self {
        Self { engine, writer, reader }
    }

    /// Writes events in this order, all or none, and answers the number of the last one (0 for an empty batch). When
    /// this answers, they are on disk.
    ///
    /// # Errors
    /// When the store cannot be written; nothing was written then, or the answer got lost on its way.
    pub async fn append(&self, events: &[Event]) -> Result<i64, StoreError> {
        if events.is_empty() {
            return Ok(0);
        }
        let batch = batch_json(events);
        let statement = match self.engine {
            Engine::Sqlite => sql::JOURNAL_APPEND_SQLITE,
            Engine::Postgres => sql::JOURNAL_APPEND_POSTGRES,
        };
        let what = "append to the journal";
        let rows = sqlx::query(statement)
            .bind(batch)
            .fetch_all(&self.writer)
            .await
            .map_err(|source| StoreError::Query { what, source })?;
        let mut last = 0;
        for row in &rows {
            last = last.max(column(row, "seq", what)?);
        }
        Ok(last)
    }

    /// The first `limit` records after `seq` that pass the filter, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn after(&self, seq: i64, limit: u32, filter: &Filter) -> Result<Vec<Record>, StoreError> {
        let what = "read the journal";
        sqlx::query(sql::JOURNAL_AFTER)
            .bind(seq)
            .bind(filter.app.clone())
            .bind(filter.kind.map(EventKind::name))
            .bind(filter.user.clone())
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await
            .map_err(|source| StoreError::Query { what, source })?
            .iter()
            .map(|row| record(row, what))
            .collect()
    }

    /// The newest `limit` records that pass the filter, oldest of them first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn newest(&self, limit: u32, filter: &Filter) -> Result<Vec<Record>, StoreError> {
        let what = "read the end of the journal";
        let mut records = sqlx::query(sql::JOURNAL_NEWEST)
            .bind(filter.app.clone())
            .bind(filter.kind.map(EventKind::name))
            .bind(filter.user.clone())
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await
            .map_err(|source| StoreError::Query { what, source })?
            .iter()
            .map(|row| record(row, what))
            .collect::<Result<Vec<_>, _>>()?;
        records.reverse();
        Ok(records)
    }

    /// The number of the newest record; 0 when there is none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn last_seq(&self) -> Result<i64, StoreError> {
        let what = "read the journal's last number";
        let row = sqlx::query(sql::JOURNAL_LAST_SEQ)
            .fetch_one(&self.reader)
            .await
            .map_err(|source| StoreError::Query { what, source })?;
        column(&row, "seq", what)
    }

    /// Removes what is too old or too much, in small pieces, and answers how many records went.
    ///
    /// # Errors
    /// When the store cannot be written; pieces removed until then stay removed.
    pub async fn expire(&self, retention: Retention) -> Result<u64, StoreError> {
        let old = self.expire_with(sql::JOURNAL_EXPIRE_AGE, retention.not_before_ms).await?;
        let many = self.expire_with(sql::JOURNAL_EXPIRE_COUNT, i64::from(retention.at_most)).await?;
        Ok(old + many)
    }

    async fn expire_with(&self, statement: &'static str, limit: i64) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let chunk = sqlx::query(statement)
                .bind(limit)
                .bind(EXPIRE_CHUNK)
                .execute(&self.writer)
                .await
                .map_err(|source| StoreError::Query { what: "remove old records", source })?
                .rows_affected();
            removed += chunk;
            if chunk < EXPIRE_CHUNK.unsigned_abs() {
                return Ok(removed);
            }
            // Appends get their turn between the pieces.
            tokio::task::yield_now().await;
        }
    }
}

fn batch_json(events: &[Event]) -> String {
    let rows = events.iter().map(|event| {
        serde_json::json!({
            "at_ms": event.at_ms,
            "kind": event.kind.name(),
            "app": event.app,
            "instance": event.instance,
            "user": event.user.as_deref().map(without_nul),
            "detail": without_nul(&event.detail),
        })
    });
    serde_json::Value::Array(rows.collect()).to_string()
}

/// PostgreSQL cannot store NUL in a text; a journal entry must not be lost over one.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn record(row: &AnyRow, what: &'static str) -> Result<Record, StoreError> {
    let unreadable = |reason: String| StoreError::Row { what, reason };
    let kind: String = column(row, "kind", what)?;
    let app: Option<String> = column(row, "app", what)?;
    let instance: Option<String> = column(row, "instance", what)?;
    let kind =
        serde_json::from_value(serde_json::Value::String(kind)).map_err(|e| unreadable(e.to_string()))?;
    let app = app.map(|app| app.parse()).transpose();
    let instance = instance.map(|instance| instance.parse()).transpose();
    Ok(Record {
        seq: column(row, "seq", what)?,
        event: Event {
            at_ms: column(row, "at_ms", what)?,
            kind,
            app: app.map_err(|e: skep_model::BadId| unreadable(e.to_string()))?,
            instance: instance.map_err(|e: skep_model::BadInstanceId| unreadable(e.to_string()))?,
            user: column(row, "user_name", what)?,
            detail: column(row, "detail", what)?,
        },
    })
}

pub(crate) fn column<'r, T>(row: &'r AnyRow, name: &'static str, what: &'static str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>,
{
    row.try_get(name).map_err(|source| StoreError::Query { what, source })
}

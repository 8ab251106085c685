//! Who used what, as figures per day, and which apps people marked as their favourites.
//!
//! Absent on purpose: single visits (the journal has those), and names of removed users.

use serde::Serialize;
use sqlx::AnyPool;

use crate::journal::column;
use crate::people::failed;
use crate::{StoreError, sql_people as sql};

/// One app, one user, one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageDay {
    /// Days since 1970-01-01, UTC.
    pub day: i64,
    pub app: String,
    /// `None`: visitors without a login, and users who were removed.
    pub user: Option<String>,
    pub visits: i64,
    pub seconds: i64,
    pub last_at_ms: i64,
}

/// Reads and writes usage. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Usage {
    writer: AnyPool,
    reader: AnyPool,
}

impl Usage {
    pub(crate) fn new(writer: AnyPool, reader: AnyPool) -> Self {
        Self { writer, reader }
    }

    /// Adds to what is known of these days, all or nothing.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn add(&self, days: &[UsageDay]) -> Result<(), StoreError> {
        let failed = failed("add to the usage");
        let mut transaction = self.writer.begin().await.map_err(&failed)?;
        for day in days {
            sqlx::query(sql::USAGE_ADD)
                .bind(day.day)
                .bind(day.app.clone())
                .bind(day.user.clone().unwrap_or_default())
                .bind(day.visits)
                .bind(day.seconds)
                .bind(day.last_at_ms)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }

    /// The days from `first` to `last`, both included, of one app or of all.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn days(&self, first: i64, last: i64, app: Option<&str>) -> Result<Vec<UsageDay>, StoreError> {
        let what = "read the usage";
        let query = sqlx::query(sql::USAGE).bind(first).bind(last).bind(app.map(str::to_owned));
        let rows = query.fetch_all(&self.reader).await.map_err(failed(what))?;
        rows.iter()
            .map(|row| {
                let user: String = column(row, "user_name", what)?;
                Ok(UsageDay {
                    day: column(row, "day", what)?,
                    app: column(row, "app", what)?,
                    user: Some(user).filter(|user| !user.is_empty()),
                    visits: column(row, "visits", what)?,
                    seconds: column(row, "seconds", what)?,
                    last_at_ms: column(row, "last_at_ms", what)?,
                })
            })
            .collect()
    }

    /// The apps a user visited last, newest first, with the time.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn recent(&self, user: &str, limit: u32) -> Result<Vec<(String, i64)>, StoreError> {
        let what = "read what a user visited";
        let query = sqlx::query(sql::USAGE_RECENT).bind(user.to_owned()).bind(i64::from(limit));
        let rows = query.fetch_all(&self.reader).await.map_err(failed(what))?;
        rows.iter().map(|row| Ok((column(row, "app", what)?, column(row, "last_at_ms", what)?))).collect()
    }

    /// Forgets the days before this one. Answers how many rows went.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn expire(&self, first_kept: i64) -> Result<u64, StoreError> {
        let done = sqlx::query(sql::USAGE_EXPIRE).bind(first_kept).execute(&self.writer).await;
        Ok(done.map_err(failed("forget old usage"))?.rows_affected())
    }

    /// Marks an app as a favourite, or takes the mark away.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn set_favourite(
        &self,
        user: &str,
        app: &str,
        marked: bool,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let (user, app) = (user.to_owned(), app.to_owned());
        let query = match marked {
            true => sqlx::query(sql::FAVOURITE_ADD).bind(user).bind(app).bind(now_ms),
            false => sqlx::query(sql::FAVOURITE_REMOVE).bind(user).bind(app),
        };
        query.execute(&self.writer).await.map_err(failed("change a favourite"))?;
        Ok(())
    }

    /// A user's favourites.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn favourites(&self, user: &str) -> Result<Vec<String>, StoreError> {
        let what = "read a user's favourites";
        let query = sqlx::query(sql::FAVOURITES).bind(user.to_owned());
        let rows = query.fetch_all(&self.reader).await.map_err(failed(what))?;
        rows.iter().map(|row| column(row, "app", what)).collect()
    }
}

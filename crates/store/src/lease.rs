//! A lease: what only one of several servers that share a store may do at a time.
//!
//! Invariants: at any moment at most one process has it; times are the database's own, so clocks of servers do not matter. Whoever
//! does not renew it in time may lose it to another. The same owner (a server started anew) takes it over from its former process
//! at once.

use std::time::Duration;

use sqlx::AnyPool;

use crate::journal::column;
use crate::people::failed;
use crate::{Engine, StoreError, sql};

/// Who asks for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The same for a server that is started anew.
    pub owner: String,
    /// Of this process alone.
    pub process: String,
    /// For people.
    pub host: String,
}

/// Who has a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub host: String,
    /// Until it is free, unless it is renewed.
    pub left: Duration,
}

/// What came of asking for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Ours,
    Held(Holder),
}

/// One lease of a store, as one process sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lease {
    engine: Engine,
    writer: AnyPool,
    name: String,
    tenant: Tenant,
}

impl Lease {
    pub(crate) fn new(engine: Engine, writer: AnyPool, name: String, tenant: Tenant) -> Self {
        Self { engine, writer, name, tenant }
    }

    /// Takes it when it is free, run out, or this owner's already.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn take(&self, lives: Duration) -> Result<Asked, StoreError> {
        let failed = failed("take a lease");
        // Whoever holds it may give it up between the two statements.
        for _ in 0..3 {
            let taken = sqlx::query(sql::lease_take(self.engine))
                .bind(self.name.clone())
                .bind(self.tenant.owner.clone())
                .bind(self.tenant.process.clone())
                .bind(self.tenant.host.clone())
                .bind(millis(lives))
                .execute(&self.writer)
                .await
                .map_err(&failed)?;
            if taken.rows_affected() > 0 {
                return Ok(Asked::Ours);
            }
            let holder = sqlx::query(sql::lease_holder(self.engine))
                .bind(self.name.clone())
                .fetch_optional(&self.writer)
                .await
                .map_err(&failed)?;
            if let Some(row) = holder {
                let left_ms: i64 = column(&row, "left_ms", "take a lease")?;
                let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
                return Ok(Asked::Held(Holder { host: column(&row, "host", "take a lease")?, left }));
            }
        }
        Ok(Asked::Held(Holder { host: String::new(), left: Duration::ZERO }))
    }

    /// Keeps it for `lives` from now. `false`: it is not this process's any more. One that has run out and that nobody took since is.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn renew(&self, lives: Duration) -> Result<bool, StoreError> {
        let renewed = sqlx::query(sql::lease_renew(self.engine))
            .bind(self.name.clone())
            .bind(self.tenant.process.clone())
            .bind(millis(lives))
            .execute(&self.writer)
            .await
            .map_err(failed("renew a lease"))?;
        Ok(renewed.rows_affected() > 0)
    }

    /// Lets it go, if it is this process's: the next one need not wait.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn release(&self) -> Result<(), StoreError> {
        sqlx::query(sql::LEASE_RELEASE)
            .bind(self.name.clone())
            .bind(self.tenant.process.clone())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(failed("release a lease"))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}

//! What a front needs of the thing that keeps its ballots until a worker has committed them.
//!
//! Contract: records are numbered from 0 without a gap; when `commit` returns `Ok` the batch survives the death of
//! process and machine, and `read` returns exactly what was committed, in order. `release` allows (does not oblige) the
//! spool to forget. An `Err` of `commit` other than [`SpoolError::Full`] means that nobody knows what is on the disk:
//! the caller must never commit again.
//!
//! Implementations: `log` (own segment files, the one that ships) and `spool_sqlite` (the oracle in tests, and proof
//! that a replicated spool can take this place).

use std::future::Future;
use std::pin::Pin;

use crate::hlc::Reading;
use crate::ids::{LogId, Seq};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Records on their way to the disk, of one group commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Number of the first record.
    pub first: Seq,
    pub count: u32,
    /// Greatest clock reading among the records.
    pub max_hlc: Reading,
    /// The records, as `record::encode` writes them.
    pub bytes: Vec<u8>,
}

impl Batch {
    pub fn end(&self) -> Seq {
        self.first + u64::from(self.count)
    }
}

/// Records read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    pub first: Seq,
    pub count: u64,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// The batch was not taken and nothing is damaged; it may succeed when there is room.
    #[error("no room left for ballots on the disk of this front; free space in {0}")]
    Full(String),
    /// A write or sync failed. What the disk holds is unknown, so nothing is acknowledged any more.
    #[error("{0}; this front acknowledges nothing until it is restarted")]
    Failed(String),
    /// What the disk holds is not what was acknowledged.
    #[error("{0}")]
    Damaged(String),
    /// Records asked for that were released already.
    #[error("records before {0} were released")]
    Released(Seq),
}

/// Where a spool stands when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub log: LogId,
    /// The oldest record still kept.
    pub start: Seq,
    /// The number the next record gets.
    pub end: Seq,
    /// No record has a greater clock reading.
    pub max_hlc: Reading,
}

pub trait Spool: Send + Sync + 'static {
    fn standing(&self) -> Standing;

    /// Makes the batch durable. Batches come one at a time and in order.
    fn commit<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<(), SpoolError>>;

    /// Committed records from `from` on, whole records, about `max_bytes` (at least one record if there is any).
    fn read(&self, from: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Chunk, SpoolError>>;

    /// Records before `upto` are in the database.
    fn release(&self, upto: Seq) -> BoxFuture<'_, Result<(), SpoolError>>;

    /// Bytes of records that can be committed for sure. An intake that promises no more never meets a full disk.
    fn room(&self) -> u64;

    /// Whether more room is being made right now: too little then means to wait a moment, not that the disk is full.
    fn is_making_room(&self) -> bool {
        false
    }

    /// Tries again to get room, when there is little. Called now and then.
    fn make_room(&self) -> BoxFuture<'_, ()>;
}

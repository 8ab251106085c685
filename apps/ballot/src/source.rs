//! What a worker asks of a front: which logs it holds, their records, and in return which logs are enrolled and which
//! polls there are. The front itself is such a source (in one process), and so is a front at an address (`worker::remote`).

use crate::hlc::Reading;
use crate::ids::{LogId, Seq};
use crate::polls::Poll;
use crate::spool::BoxFuture;

use serde::{Deserialize, Serialize};

/// A log that a front holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// In hexadecimal.
    pub log: String,
    pub start: Seq,
    /// Records in the log, those still on their way to the disk included.
    pub end: Seq,
    /// Every ballot this log will ever get beyond `end` has a greater clock reading.
    pub reading: Reading,
    pub enrolled: bool,
}

/// What a front says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    pub front: String,
    pub now_ms: u64,
    /// Changes whenever the front's polls do.
    pub catalogue: String,
    pub logs: Vec<LogState>,
}

/// Records of one log, durable ones only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    pub first: Seq,
    pub count: u64,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("front {front} cannot be reached: {what}")]
    Unreachable { front: String, what: String },
    #[error("front {front}: {what}")]
    Refused { front: String, what: String },
}

pub trait Source: Send + Sync + 'static {
    /// How the front is named in messages.
    fn name(&self) -> String;

    fn survey(&self) -> BoxFuture<'_, Result<Survey, SourceError>>;

    /// Records from `from` on; what is before `from` is in the database and may be forgotten.
    fn records(&self, log: LogId, from: Seq, max_bytes: usize)
    -> BoxFuture<'_, Result<Records, SourceError>>;

    /// The database knows this log: ballots may be accepted into it, and no result is final without it.
    fn enrolled(&self, log: LogId) -> BoxFuture<'_, Result<(), SourceError>>;

    /// A sealed log has been taken to its end.
    fn finished(&self, log: LogId) -> BoxFuture<'_, Result<(), SourceError>>;

    fn put_polls<'a>(&'a self, polls: &'a [Poll]) -> BoxFuture<'a, Result<(), SourceError>>;
}

/// The clock reading of a log that will never get another ballot. Fits a signed database column.
pub const SEALED: Reading = i64::MAX as u64;

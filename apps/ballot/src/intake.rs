//! Takes ballots from many requests, stamps them, and commits them in groups: whoever waits is told when the group its
//! ballot is in has become durable, and not before.
//!
//! Invariants: stamps are issued under the lock that orders the log, so records stand in the order of their clock
//! readings, and a ballot accepted after a [`Reading`] was taken has a greater one; at most `max_pending` records and
//! `room` bytes are promised; after the spool failed, everything is refused. Absent: HTTP, and who may vote.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::ballot::{Ballot, Stamp};
use crate::hlc::{self, Hlc, Reading, TooFarAhead};
use crate::ids::{BallotTag, OptionId, PollId, Seq, VoterTag};
use crate::record;
use crate::spool::{Batch, Spool, SpoolError};

/// A ballot before it is stamped.
#[derive(Debug, Clone)]
pub struct Draft {
    pub poll: PollId,
    pub option: OptionId,
    pub voter: VoterTag,
    pub tag: BallotTag,
    pub epoch: Reading,
    pub attempt: u32,
    pub first: First,
    /// Accepted only at or after this, in milliseconds.
    pub opens_ms: u64,
    /// Accepted only before this, in milliseconds.
    pub closes_ms: u64,
}

/// Which of a voter's ballots wins before anything else is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// None: the latest counts.
    Latest,
    /// The ballots bound to the earliest reading (when a ticket was redeemed).
    Bound(Reading),
    /// The earliest ballot.
    Earliest,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this poll is not open yet")]
    NotOpen,
    #[error("this poll is closed")]
    Closed,
    #[error("this front is leaving and takes no more ballots; try again")]
    Draining,
    #[error("too many ballots are waiting for the disk; try again")]
    Busy,
    #[error(transparent)]
    Clock(#[from] TooFarAhead),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What became of one group.
#[derive(Debug, Default)]
struct Outcome {
    result: OnceLock<Result<(), SpoolError>>,
    done: Notify,
}

/// Becomes `Ok` when the ballot is durable.
pub struct Commitment {
    outcome: Arc<Outcome>,
    pub seq: Seq,
    pub stamp: Stamp,
}

impl Commitment {
    /// # Errors
    /// When the ballot is not durable, or nobody knows whether it is.
    pub async fn durable(&self) -> Result<(), SpoolError> {
        loop {
            let woken = self.outcome.done.notified();
            if let Some(result) = self.outcome.result.get() {
                return result.clone();
            }
            woken.await;
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct IntakeLimits {
    /// Records waiting for the disk.
    pub max_pending: u32,
    /// Bytes of one group.
    pub max_batch: usize,
}

impl Default for IntakeLimits {
    fn default() -> Self {
        Self { max_pending: 65_536, max_batch: 1 << 20 }
    }
}

struct Open {
    clock: Hlc,
    batch: Batch,
    outcome: Arc<Outcome>,
    /// Records and bytes promised and not yet durable, this batch and the one being committed.
    promised: u32,
    promised_bytes: u64,
    next: Seq,
    refusing: Option<Refusal>,
}

pub struct Intake {
    spool: Arc<dyn Spool>,
    limits: IntakeLimits,
    open: Mutex<Open>,
    wake: Notify,
}

/// Room one record may take at worst: alone in its frame.
const FRAME_COST: u64 = 48;

/// A moment of a front's log: every ballot accepted later has a greater clock reading than `reading` and a number of
/// at least `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub reading: Reading,
    pub end: Seq,
}

impl Intake {
    pub fn new(spool: Arc<dyn Spool>, limits: IntakeLimits) -> Self {
        let standing = spool.standing();
        let open = Open {
            clock: Hlc::resume(standing.max_hlc),
            batch: Batch { first: standing.end, ..Batch::default() },
            outcome: Arc::default(),
            promised: 0,
            promised_bytes: 0,
            next: standing.end,
            refusing: None,
        };
        Self { spool, limits, open: Mutex::new(open), wake: Notify::new() }
    }

    pub fn spool(&self) -> &Arc<dyn Spool> {
        &self.spool
    }

    /// Stamps a ballot and puts it in line for the disk.
    ///
    /// # Errors
    /// By name; the ballot was then not taken.
    pub fn submit(&self, draft: Draft, now_ms: u64) -> Result<Commitment, Refusal> {
        let mut open = self.open.lock();
        if let Some(refusal) = &open.refusing {
            return Err(refusal.clone());
        }
        if open.promised >= self.limits.max_pending
            || open.batch.bytes.len() + record::MAX_RECORD > self.limits.max_batch
        {
            return Err(Refusal::Busy);
        }
        if let Some(refusal) = self.short_of_room(&open) {
            return Err(refusal);
        }
        let hlc = open.clock.issue(now_ms, draft.epoch)?;
        if hlc::millis(hlc) < draft.opens_ms {
            return Err(Refusal::NotOpen);
        }
        if hlc::millis(hlc) >= draft.closes_ms {
            return Err(Refusal::Closed);
        }
        let first = match draft.first {
            First::Latest => 0,
            First::Bound(reading) => reading,
            First::Earliest => hlc,
        };
        let stamp = Stamp { first, epoch: draft.epoch, attempt: draft.attempt, hlc };
        let ballot =
            Ballot { poll: draft.poll, voter: draft.voter, option: draft.option, tag: draft.tag, stamp };
        let before = open.batch.bytes.len();
        record::encode(&ballot, &mut open.batch.bytes);
        open.promised_bytes += (open.batch.bytes.len() - before) as u64 + FRAME_COST;
        open.batch.count += 1;
        open.batch.max_hlc = hlc;
        open.promised += 1;
        let seq = open.next;
        open.next += 1;
        let outcome = Arc::clone(&open.outcome);
        let wake = open.batch.count == 1;
        drop(open);
        if wake {
            self.wake.notify_one();
        }
        Ok(Commitment { outcome, seq, stamp })
    }

    /// A clock reading for a page's cookie, greater than every one issued before.
    ///
    /// # Errors
    /// When `observed` is too far ahead of this front's clock.
    pub fn tick(&self, now_ms: u64, observed: Reading) -> Result<Reading, TooFarAhead> {
        self.open.lock().clock.issue(now_ms, observed)
    }

    /// Where the log stands now, accepted ballots included.
    pub fn moment(&self, now_ms: u64) -> Moment {
        let mut open = self.open.lock();
        // Observing nothing cannot be too far ahead.
        let reading = open.clock.issue(now_ms, 0).unwrap_or_else(|_| open.clock.last());
        Moment { reading, end: open.next }
    }

    /// Refuses ballots from now on; those in line are still committed.
    pub fn drain(&self) {
        let mut open = self.open.lock();
        open.refusing.get_or_insert(Refusal::Draining);
    }

    /// Why ballots are refused, if they are. That it takes a moment to get room is no reason.
    pub fn refusing(&self) -> Option<Refusal> {
        let open = self.open.lock();
        let full = || self.short_of_room(&open).filter(|refusal| !matches!(refusal, Refusal::Busy));
        open.refusing.clone().or_else(full)
    }

    fn short_of_room(&self, open: &Open) -> Option<Refusal> {
        let needed = open.promised_bytes + record::MAX_RECORD as u64 + FRAME_COST;
        // Asked first: what is made between the two questions then counts.
        let more_comes = self.spool.is_making_room();
        (needed > self.spool.room()).then(|| match more_comes {
            true => Refusal::Busy,
            false => Refusal::Spool(SpoolError::Full("its data folder".to_owned())),
        })
    }

    fn take(&self) -> Option<(Batch, Arc<Outcome>)> {
        let mut open = self.open.lock();
        if open.batch.count == 0 {
            return None;
        }
        let next = Batch { first: open.batch.end(), ..Batch::default() };
        let batch = std::mem::replace(&mut open.batch, next);
        Some((batch, std::mem::take(&mut open.outcome)))
    }

    fn settle(&self, batch: &Batch, outcome: &Outcome, result: Result<(), SpoolError>) {
        let waiting = {
            let mut open = self.open.lock();
            open.promised = open.promised.saturating_sub(batch.count);
            let bytes = batch.bytes.len() as u64 + u64::from(batch.count) * FRAME_COST;
            open.promised_bytes = open.promised_bytes.saturating_sub(bytes);
            match &result {
                Ok(()) => None,
                // Numbers of a batch that was not taken are given again. What is in line behind it was numbered on,
                // so it is refused as well; its voters try again.
                Err(SpoolError::Full(_)) => Some(Self::renumber(&mut open, batch.first)),
                Err(error) => {
                    open.refusing = Some(Refusal::Spool(error.clone()));
                    Some(std::mem::take(&mut open.outcome))
                }
            }
        };
        if let (Some(waiting), Err(error)) = (waiting, &result) {
            let _ = waiting.result.set(Err(error.clone()));
            waiting.done.notify_waiters();
        }
        let _ = outcome.result.set(result);
        outcome.done.notify_waiters();
    }

    fn renumber(open: &mut Open, first: Seq) -> Arc<Outcome> {
        open.promised = open.promised.saturating_sub(open.batch.count);
        let bytes = open.batch.bytes.len() as u64 + u64::from(open.batch.count) * FRAME_COST;
        open.promised_bytes = open.promised_bytes.saturating_sub(bytes);
        open.batch = Batch { first, ..Batch::default() };
        open.next = first;
        std::mem::take(&mut open.outcome)
    }

    /// Commits groups one after the other until the spool fails. Runs on a thread of its own, since it waits for disks.
    pub async fn run(&self) -> SpoolError {
        loop {
            let Some((batch, outcome)) = self.take() else {
                let tend = tokio::time::sleep(std::time::Duration::from_secs(1));
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = tend => self.spool.make_room().await,
                }
                continue;
            };
            let result = self.spool.commit(&batch).await;
            let fatal = result.as_ref().err().filter(|e| !matches!(e, SpoolError::Full(_))).cloned();
            if matches!(result, Err(SpoolError::Full(_))) {
                self.spool.make_room().await;
            }
            self.settle(&batch, &outcome, result);
            if let Some(error) = fatal {
                return error;
            }
        }
    }
}

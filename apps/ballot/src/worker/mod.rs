//! A worker: takes ballots from fronts' logs into the database.
//!
//! One task per front, so an idle or dead front holds up no other. Each round asks what logs a front has, enrols new ones,
//! brings the front its polls, and takes batches from where the database stands. Nothing is kept in the worker: it may be
//! killed at any moment, and any number of workers may overlap. Absent: deciding which vote counts (`ballot`) and what a
//! transaction holds (`store`).

pub mod remote;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::front;
use crate::ids::{LogId, Seq};
use crate::polls::Poll;
use crate::record;
use crate::source::{LogState, SEALED, Source, SourceError, Survey};
use crate::stop::stopped;
use crate::store::{LogBatch, Sighting, StoreError, Tally};
use crate::surroundings::World;

#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Told apart from other workers by this.
    pub name: String,
    /// Bytes of one batch.
    pub batch_bytes: usize,
    /// Between two looks at an idle front.
    pub idle: Duration,
    /// For one question to a front.
    pub patience: Duration,
    /// Clock difference from which a front's clock is reported, in milliseconds.
    pub clock_alarm_ms: i64,
}

impl WorkerOptions {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            batch_bytes: 2 << 20,
            idle: Duration::from_millis(100),
            patience: Duration::from_secs(5),
            clock_alarm_ms: 1_000,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("front {front} did not answer within {seconds} s")]
    Late { front: String, seconds: u64 },
    #[error("front {front}, log {log}: {what}")]
    Log { front: String, log: LogId, what: String },
}

pub struct Worker<T> {
    pub options: WorkerOptions,
    store: Arc<T>,
    world: World,
    /// Ballots taken into the database by this worker.
    pub taken: AtomicU64,
}

/// How long a claim on a log holds, in milliseconds.
const CLAIM_MS: u64 = 3_000;
/// Between two looks at the polls, and between two notes of an idle log, in milliseconds.
const LOOK_MS: u64 = 1_000;

/// What a worker remembers of one front, only to ask the database less. Forgetting it changes nothing.
#[derive(Debug, Default)]
pub struct Memory {
    polls_ms: u64,
    logs: HashMap<LogId, Known>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Known {
    position: Seq,
    noted_end: Seq,
    noted_ms: u64,
    claimed_until_ms: u64,
}

impl<T: Tally> Worker<T> {
    pub fn new(options: WorkerOptions, store: Arc<T>, world: World) -> Self {
        Self { options, store, world, taken: AtomicU64::new(0) }
    }

    /// Works on one front until told to stop. Errors are reported and waited out. `heard_ms` is when the front last
    /// answered.
    pub async fn follow(
        &self,
        source: Arc<dyn Source>,
        heard_ms: &AtomicU64,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut failures = 0u32;
        let mut memory = Memory::default();
        while !*stop.borrow() {
            let round = self.round(source.as_ref(), &mut memory).await;
            // A database that is away is not the front's silence.
            if !matches!(round, Err(WorkError::Source(_) | WorkError::Late { .. })) {
                heard_ms.store(self.world.now_ms(), Ordering::Relaxed);
            }
            let pause = match round {
                Ok(0) => {
                    failures = 0;
                    self.options.idle
                }
                Ok(_) => {
                    failures = 0;
                    continue;
                }
                Err(error) => {
                    if failures.is_multiple_of(20) {
                        tracing::warn!(front = %source.name(), %error, "cannot take ballots");
                    }
                    failures = failures.saturating_add(1);
                    self.options.idle * 2u32.pow(failures.min(5))
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    async fn ask<R>(
        &self,
        source: &dyn Source,
        question: impl Future<Output = Result<R, SourceError>>,
    ) -> Result<R, WorkError> {
        match tokio::time::timeout(self.options.patience, question).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(WorkError::Late { front: source.name(), seconds: self.options.patience.as_secs() }),
        }
    }

    /// One look at a front. Answers how many ballots it gave.
    ///
    /// # Errors
    /// When the front or the database does not answer; whatever was committed stays committed.
    pub async fn round(&self, source: &dyn Source, memory: &mut Memory) -> Result<u64, WorkError> {
        let asked_ms = self.world.now_ms();
        let survey = self.ask(source, source.survey()).await?;
        let answered_ms = self.world.now_ms();
        let offset_ms = offset(asked_ms, answered_ms, survey.now_ms);
        if offset_ms.abs() > self.options.clock_alarm_ms {
            tracing::warn!(front = %survey.front, offset_ms, "the front's clock differs from this worker's");
        }
        if answered_ms.abs_diff(memory.polls_ms) >= LOOK_MS {
            match self.bring_polls(source, &survey).await {
                // A front whose disk is full cannot keep new polls, and only taking its ballots makes room.
                Err(WorkError::Source(error @ SourceError::Refused { .. })) => {
                    tracing::warn!(%error, "the front does not take the polls");
                }
                other => other?,
            }
            memory.polls_ms = answered_ms;
        }
        let mut given = 0;
        for state in &survey.logs {
            let Some(log) = LogId::from_hex(&state.log) else { continue };
            let known = memory.logs.entry(log).or_default();
            given += self.take(source, &survey, state, log, known, offset_ms).await?;
        }
        Ok(given)
    }

    async fn bring_polls(&self, source: &dyn Source, survey: &Survey) -> Result<(), WorkError> {
        let mut polls: Vec<Poll> = self.store.polls().await?;
        polls.sort_by(|a, b| a.id.cmp(&b.id));
        let version = front::version(&polls);
        // An empty list means that nobody has defined polls in the database: the front's own file holds.
        if polls.is_empty() || survey.catalogue == version {
            return Ok(());
        }
        self.ask(source, source.put_polls(&polls)).await
    }

    /// Takes what one log has.
    async fn take(
        &self,
        source: &dyn Source,
        survey: &Survey,
        state: &LogState,
        log: LogId,
        known: &mut Known,
        offset_ms: i64,
    ) -> Result<u64, WorkError> {
        if !state.enrolled {
            self.store.enrol(log, &survey.front).await?;
            self.ask(source, source.enrolled(log)).await?;
        }
        let now_ms = self.world.now_ms();
        if known.position < state.end {
            self.take_batches(source, state, log, known, now_ms).await?;
        }
        let settled = if known.position >= state.end { state.reading } else { 0 };
        let idle = known.noted_end == state.end && settled != SEALED;
        if idle && now_ms.abs_diff(known.noted_ms) < LOOK_MS {
            return Ok(0);
        }
        let sighting = Sighting { log, end: state.end, settled, seen_ms: self.world.now_ms(), offset_ms };
        self.store.sighting(sighting).await?;
        let given = state.end - known.noted_end.min(state.end);
        (known.noted_end, known.noted_ms) = (state.end, now_ms);
        if settled == SEALED {
            self.ask(source, source.finished(log)).await?;
        }
        Ok(given)
    }

    async fn take_batches(
        &self,
        source: &dyn Source,
        state: &LogState,
        log: LogId,
        known: &mut Known,
        now_ms: u64,
    ) -> Result<(), WorkError> {
        if now_ms + CLAIM_MS / 2 > known.claimed_until_ms || known.claimed_until_ms > now_ms + 2 * CLAIM_MS {
            if !self.store.claim(log, &self.options.name, now_ms, CLAIM_MS).await? {
                known.claimed_until_ms = 0;
                known.position = self.store.position(log).await?;
                return Ok(());
            }
            known.claimed_until_ms = now_ms + CLAIM_MS;
        }
        known.position = self.store.position(log).await?;
        while known.position < state.end && self.world.now_ms().saturating_sub(now_ms) < CLAIM_MS / 2 {
            let next = self.take_batch(source, log, known.position).await?;
            if next <= known.position {
                // Accepted, but not on the front's disk yet.
                break;
            }
            known.position = next;
        }
        if known.position >= state.end {
            // Asking from the end tells the front that all before is in the database.
            self.ask(source, source.records(log, known.position, 1)).await?;
        }
        Ok(())
    }

    async fn take_batch(&self, source: &dyn Source, log: LogId, position: Seq) -> Result<Seq, WorkError> {
        let wrong = |what: String| WorkError::Log { front: source.name(), log, what };
        let records = self.ask(source, source.records(log, position, self.options.batch_bytes)).await?;
        if records.count == 0 {
            return Ok(position);
        }
        let ballots = record::decode(&records.bytes).map_err(|e| wrong(e.to_string()))?;
        if records.first != position || ballots.len() as u64 != records.count {
            return Err(wrong(format!(
                "asked for record {position}, got {} from {}",
                ballots.len(),
                records.first
            )));
        }
        let batch = LogBatch { log, from: position, upto: position + records.count, ballots };
        let upto = self.store.commit(batch).await?;
        self.taken.fetch_add(upto.saturating_sub(position), Ordering::Relaxed);
        Ok(upto)
    }
}

/// The front's clock minus ours, taking its answer to be half way between question and answer.
fn offset(asked_ms: u64, answered_ms: u64, theirs_ms: u64) -> i64 {
    let ours = asked_ms + answered_ms.saturating_sub(asked_ms) / 2;
    let difference = theirs_ms.abs_diff(ours);
    let difference = i64::try_from(difference).unwrap_or(i64::MAX);
    if theirs_ms >= ours { difference } else { -difference }
}

/// Where fronts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A host name or address and a port.
    Address(String),
    /// A name with one address for each front, and a port.
    Dns(String),
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (dns, rest) = text.strip_prefix("dns:").map_or((false, text), |rest| (true, rest));
        let rest = rest.strip_prefix("http://").unwrap_or(rest).trim_end_matches('/');
        let port = rest.rsplit_once(':').and_then(|(_, p)| p.parse::<u16>().ok());
        if port.is_none() || rest.contains('/') {
            return Err(format!(
                "{text:?}: write HOST:PORT, or dns:NAME:PORT for a name with an address per front"
            ));
        }
        Ok(if dns { Self::Dns(rest.to_owned()) } else { Self::Address(rest.to_owned()) })
    }
}

/// The addresses of all fronts at these places; a name that does not resolve now is tried again later.
pub async fn discover(places: &[Place]) -> Vec<String> {
    let mut found = Vec::new();
    for place in places {
        match place {
            Place::Address(address) => found.push(address.clone()),
            #[cfg(not(feature = "sim"))]
            Place::Dns(name) => {
                let resolving =
                    tokio::time::timeout(Duration::from_secs(5), tokio::net::lookup_host(name.as_str()));
                match resolving.await {
                    Ok(Ok(addresses)) => found.extend(addresses.map(|a| a.to_string())),
                    Ok(Err(error)) => tracing::debug!(%name, %error, "cannot resolve"),
                    Err(_) => tracing::debug!(%name, "resolving takes too long"),
                }
            }
            #[cfg(feature = "sim")]
            Place::Dns(name) => found.push(name.clone()),
        }
    }
    found.sort();
    found.dedup();
    found
}

/// A front that is followed.
struct Followed {
    heard_ms: Arc<AtomicU64>,
    leave: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// A front that is no longer named anywhere is given up after this long without an answer, in milliseconds: it may only
/// be draining, or its name may not have resolved for a moment.
const GIVE_UP_MS: u64 = 60_000;

/// Follows every front that is discovered, until told to stop.
pub async fn run<T: Tally>(
    worker: Arc<Worker<T>>,
    places: Vec<Place>,
    token: String,
    mut stop: watch::Receiver<bool>,
) {
    let mut followed: HashMap<String, Followed> = HashMap::new();
    while !*stop.borrow() {
        let found = discover(&places).await;
        let now_ms = worker.world.now_ms();
        followed.retain(|address, front| {
            let silent = now_ms.saturating_sub(front.heard_ms.load(Ordering::Relaxed)) > GIVE_UP_MS;
            let stays = found.contains(address) || !silent;
            if !stays {
                tracing::info!(front = %address, "no longer following");
                let _ = front.leave.send(true);
            }
            stays
        });
        for address in found {
            followed.entry(address).or_insert_with_key(|address| {
                tracing::info!(front = %address, "following");
                let source = Arc::new(remote::Remote::new(address.clone(), &token));
                let heard_ms = Arc::new(AtomicU64::new(now_ms));
                let (leave, left) = watch::channel(false);
                let (worker, heard) = (Arc::clone(&worker), Arc::clone(&heard_ms));
                let task = tokio::spawn(async move { worker.follow(source, &heard, left).await });
                Followed { heard_ms, leave, task }
            });
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
            () = stopped(&mut stop) => break,
        }
    }
    for (_, front) in followed {
        let _ = front.leave.send(true);
        let _ = tokio::time::timeout(Duration::from_secs(10), front.task).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_addresses_or_names() {
        assert_eq!("front:8090".parse(), Ok(Place::Address("front:8090".into())));
        assert_eq!("http://10.0.0.1:80/".parse(), Ok(Place::Address("10.0.0.1:80".into())));
        assert_eq!("dns:tasks.front:8090".parse(), Ok(Place::Dns("tasks.front:8090".into())));
        for bad in ["front", "front:http", "http://a:1/x", ""] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_offset_is_taken_at_half_way() {
        assert_eq!(offset(1_000, 1_100, 1_050), 0);
        assert_eq!(offset(1_000, 1_100, 31_050), 30_000);
        assert_eq!(offset(31_000, 31_000, 1_000), -30_000);
    }
}

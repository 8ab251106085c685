//! Events on their way into the journal.
//!
//! Events are written in batches, in the order they arrived. While the store cannot be written they wait, up to a
//! bound; what does not fit any more is counted, and a `gap` record stands in its place. A batch whose answer did not
//! come in time is written again: an event may be there twice, but is not missing. Whoever follows the journal
//! watches [`RecordState::last_seq`] and reads from the store: what was announced can be read.

use std::time::Duration;

use skep_model::{Event, EventKind};
use skep_store::{Journal, Retention};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::control::now_ms;

/// Events that wait for the store at most.
const BUFFER: usize = 10_000;
/// Events per commit.
const BATCH: usize = 512;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A write that takes longer has failed as far as we are concerned.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the last events may take when Skep ends.
const LAST_WRITE: Duration = Duration::from_secs(5);
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);

/// How much history stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) age: Duration,
    pub(crate) records: u32,
}

/// How recording goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RecordState {
    /// The newest record known to be readable.
    pub(crate) last_seq: i64,
    /// Why the store cannot be written now.
    pub(crate) problem: Option<String>,
}

/// Records until the channel closes.
pub(crate) async fn run(
    journal: Journal,
    mut events: mpsc::Receiver<Event>,
    state: &watch::Sender<RecordState>,
    keep: Keep,
) {
    let mut waiting = Waiting::default();
    let mut pause = FIRST_PAUSE;
    let mut not_before = Instant::now();
    let mut expire = interval(EXPIRE_EVERY);
    expire.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            received = events.recv() => match received {
                Some(event) => {
                    waiting.push(event);
                    while let Ok(event) = events.try_recv() {
                        waiting.push(event);
                    }
                }
                None => break,
            },
            () = sleep_until(not_before), if !waiting.is_empty() => {}
            _ = expire.tick() => drop_old(&journal, keep).await,
        }
        if waiting.is_empty() || Instant::now() < not_before {
            continue;
        }
        match write(&journal, &mut waiting, state).await {
            Ok(()) => {
                pause = FIRST_PAUSE;
                not_before = Instant::now();
            }
            Err(problem) => {
                tracing::warn!(%problem, waiting = waiting.len(), "the journal cannot be written; trying again");
                state.send_modify(|state| state.problem = Some(problem));
                not_before = Instant::now() + pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    let last = async {
        while !waiting.is_empty() {
            write(&journal, &mut waiting, state).await?;
        }
        Ok::<(), String>(())
    };
    match timeout(LAST_WRITE, last).await {
        Ok(Ok(())) => {}
        Ok(Err(problem)) => tracing::error!(%problem, "the last events could not be written to the journal"),
        Err(_) => tracing::error!("the last events were not written to the journal in time"),
    }
}

/// Writes one batch from the front. It leaves the buffer only once it is on disk.
async fn write(
    journal: &Journal,
    waiting: &mut Waiting,
    state: &watch::Sender<RecordState>,
) -> Result<(), String> {
    let batch = waiting.front(BATCH);
    let seq = match timeout(WRITE_DEADLINE, journal.append(batch)).await {
        Ok(Ok(seq)) => seq,
        Ok(Err(problem)) => return Err(problem.to_string()),
        Err(_) => return Err("the store did not answer in time".to_owned()),
    };
    for event in batch {
        metrics::counter!("skep_journal_events_total", "kind" => event.kind.name()).increment(1);
    }
    waiting.written(batch.len());
    state.send_modify(|state| *state = RecordState { last_seq: seq, problem: None });
    Ok(())
}

async fn drop_old(journal: &Journal, keep: Keep) {
    let age_ms = i64::try_from(keep.age.as_millis()).unwrap_or(i64::MAX);
    let retention = Retention { not_before_ms: now_ms().saturating_sub(age_ms), at_most: keep.records };
    match timeout(WRITE_DEADLINE, journal.expire(retention)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(removed)) => tracing::info!(removed, "old records left the journal"),
        Ok(Err(problem)) => tracing::warn!(%problem, "old journal records could not be removed"),
        Err(_) => tracing::warn!("removing old journal records took too long; going on later"),
    }
}

/// Events that are not on disk yet, oldest first.
#[derive(Default)]
struct Waiting {
    events: Vec<Event>,
    /// Lost since the newest event in the buffer.
    lost: u64,
}

impl Waiting {
    fn push(&mut self, event: Event) {
        self.close_gap();
        // One place is kept for the record of a gap.
        if self.events.len() + 1 < BUFFER && self.lost == 0 {
            self.events.push(event);
        } else {
            self.lost += 1;
            metrics::counter!("skep_journal_lost_total").increment(1);
        }
        self.note_depth();
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.lost == 0
    }

    fn len(&self) -> usize {
        self.events.len()
    }

    fn front(&self, most: usize) -> &[Event] {
        &self.events[..self.events.len().min(most)]
    }

    fn written(&mut self, count: usize) {
        self.events.drain(..count);
        self.close_gap();
        self.note_depth();
    }

    /// As soon as there is room again, the loss takes its place in the order.
    fn close_gap(&mut self) {
        if self.lost > 0 && self.events.len() + 2 < BUFFER {
            let detail = format!("{} events were lost here: the store could not be written", self.lost);
            let kind = EventKind::Gap;
            self.events.push(Event { at_ms: now_ms(), kind, app: None, instance: None, user: None, detail });
            self.lost = 0;
        }
    }

    fn note_depth(&self) {
        #[allow(clippy::cast_precision_loss, reason = "bounded by BUFFER")]
        metrics::gauge!("skep_journal_buffered").set(self.events.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> Event {
        let kind = EventKind::InstanceStart;
        Event { at_ms: 0, kind, app: None, instance: None, user: None, detail: n.to_string() }
    }

    #[test]
    fn what_does_not_fit_leaves_a_gap_in_its_place() {
        let mut waiting = Waiting::default();
        for n in 0..BUFFER + 100 {
            waiting.push(event(n));
        }
        assert_eq!((waiting.len(), waiting.lost), (BUFFER - 1, 101));
        let mut seen = Vec::new();
        for round in 0.. {
            let batch = waiting.front(BATCH).to_vec();
            if batch.is_empty() {
                break;
            }
            waiting.written(batch.len());
            seen.extend(batch);
            if round == 0 {
                waiting.push(event(1_000_000));
            }
        }
        assert_eq!(seen.len(), BUFFER - 1 + 2);
        assert_eq!(seen[BUFFER - 2].detail, (BUFFER - 2).to_string());
        assert_eq!(seen[BUFFER - 1].kind, EventKind::Gap);
        assert!(seen[BUFFER - 1].detail.starts_with("101 events"));
        assert_eq!(seen[BUFFER].detail, "1000000");
        assert!(waiting.is_empty());
    }
}

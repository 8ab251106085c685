//! Results: the tally as it stands, live, and the proof when it is final.
//!
//! One task reads the database a few times a second and keeps the current state of each poll as a ready-made event; any
//! number of viewers are given that same text. The task also publishes polls that have become final. Absent: anything a
//! front or worker needs; results may be down while votes are taken and merged.

mod admin;
pub mod check;
mod pages;
pub mod site;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::watch;

use crate::hlc;
use crate::http::Trust;
use crate::ids::PollId;
use crate::keys::Keys;
use crate::polls::{Poll, Visibility};
use crate::proof::Tree;
use crate::stop::stopped;
use crate::store::{Database, LogRow, StoreError};
use crate::surroundings::World;

/// The state of a poll's count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Count {
    pub counts: BTreeMap<String, u64>,
    pub voters: u64,
    /// Acknowledged ballots that are not in the database yet, as far as the fronts that answer say; all polls together.
    pub pending: u64,
    /// Whether the count can never change any more.
    #[serde(rename = "final")]
    pub is_final: bool,
    pub closed: bool,
    /// Ballots merged a second, lately; all polls together.
    pub rate: f64,
    /// Logs of fronts that have not been heard of for a while. Their ballots may be missing from the count.
    pub silent_logs: usize,
}

struct Shown {
    poll: Poll,
    count: Count,
    event: watch::Sender<Bytes>,
}

#[derive(Debug, Clone)]
pub struct ResultsOptions {
    /// Between two looks at the database.
    pub every: Duration,
    /// After this long without a word a log is called silent, in milliseconds.
    pub silent_ms: u64,
    /// Clock difference between fronts from which it is called an alarm, in milliseconds.
    pub clock_alarm_ms: i64,
    /// Says where fronts are, for links; relative to the page when empty.
    pub fronts_base: String,
    pub trust: Trust,
}

impl Default for ResultsOptions {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(300),
            silent_ms: 10_000,
            clock_alarm_ms: 1_000,
            fronts_base: String::new(),
            trust: Trust::default(),
        }
    }
}

pub struct Results {
    options: ResultsOptions,
    store: Arc<Database>,
    keys: Arc<Keys>,
    world: World,
    shown: RwLock<HashMap<PollId, Shown>>,
    logs: RwLock<Vec<LogRow>>,
    /// When the database last answered, in milliseconds.
    answered_ms: Mutex<u64>,
    /// (moment, ballots merged) of the last seconds.
    pace: Mutex<VecDeque<(u64, u64)>>,
    /// Trees of final polls that were asked about, a few.
    trees: Mutex<VecDeque<(PollId, Arc<Tree>)>>,
}

/// Trees kept.
const TREES: usize = 4;
const PACE_MS: u64 = 5_000;

impl Results {
    pub fn new(options: ResultsOptions, store: Arc<Database>, keys: Arc<Keys>, world: World) -> Arc<Self> {
        Arc::new(Self {
            options,
            store,
            keys,
            world,
            shown: RwLock::default(),
            logs: RwLock::default(),
            answered_ms: Mutex::new(0),
            pace: Mutex::default(),
            trees: Mutex::default(),
        })
    }

    /// Keeps the shown state current until told to stop.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut failing = false;
        loop {
            match self.refresh().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    tracing::warn!(%error, "cannot read the results");
                    failing = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(self.options.every) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    /// Reads the database once, publishes what has become final, and tells the viewers what changed.
    ///
    /// # Errors
    /// As the database reports; what was shown stays.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let logs = self.store.logs().await?;
        let now_ms = self.world.now_ms();
        let mut polls = self.store.all_polls().await?;
        for (poll, is_final) in &mut polls {
            if !*is_final && poll.is_closed(now_ms) && is_settled(&logs, poll.closes_ms) {
                match self.store.publish(poll, &self.keys, now_ms).await {
                    Ok(done) => *is_final = done,
                    Err(error) => tracing::error!(poll = %poll.id, %error, "a result was not published"),
                }
            }
        }
        let mut tallies = self.store.counts().await?;
        // A log that is done says nothing any more, and need not.
        let living = || logs.iter().filter(|l| !l.retired && l.settled != crate::source::SEALED);
        let pending = logs.iter().filter(|l| !l.retired).map(|l| l.seen_end.saturating_sub(l.position)).sum();
        let silent_logs =
            living().filter(|l| now_ms.saturating_sub(l.seen_ms) > self.options.silent_ms).count();
        let rate = self.rate(now_ms, logs.iter().map(|l| l.position).sum());
        for (poll, is_final) in polls {
            let mut counts: BTreeMap<String, u64> =
                poll.options.iter().map(|o| (o.id.to_string(), 0)).collect();
            counts.extend(tallies.remove(poll.id.as_str()).unwrap_or_default().by_option);
            let count = Count {
                voters: counts.values().sum(),
                counts,
                pending: if is_final { 0 } else { pending },
                is_final,
                closed: poll.is_closed(now_ms),
                rate: if is_final { 0.0 } else { rate },
                silent_logs: if is_final { 0 } else { silent_logs },
            };
            self.show(poll, count);
        }
        *self.logs.write() = logs;
        *self.answered_ms.lock() = now_ms;
        Ok(())
    }

    fn show(&self, poll: Poll, count: Count) {
        let mut all = self.shown.write();
        let event =
            || Bytes::from(format!("data: {}\n\n", serde_json::to_string(&count).unwrap_or_default()));
        match all.get_mut(&poll.id) {
            Some(shown) => {
                if shown.count != count {
                    shown.event.send_replace(event());
                    shown.count = count;
                }
                shown.poll = poll;
            }
            None => {
                let event = watch::Sender::new(event());
                all.insert(poll.id.clone(), Shown { poll, count, event });
            }
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts of ballots within seconds are exact in an f64")]
    fn rate(&self, now_ms: u64, merged: u64) -> f64 {
        let mut pace = self.pace.lock();
        pace.push_back((now_ms, merged));
        while pace.len() > 2 && now_ms.saturating_sub(pace[0].0) > PACE_MS {
            pace.pop_front();
        }
        let (then, before) = pace[0];
        let seconds = now_ms.saturating_sub(then) as f64 / 1000.0;
        if seconds <= 0.0 {
            0.0
        } else {
            (merged.saturating_sub(before) as f64 / seconds * 10.0).round() / 10.0
        }
    }

    /// Whether the database answers.
    pub fn is_ready(&self) -> bool {
        self.world.now_ms().saturating_sub(*self.answered_ms.lock()) < 10_000
    }

    /// A poll, its count and its events.
    fn of(&self, id: &str) -> Option<(Poll, Count, watch::Receiver<Bytes>)> {
        let all = self.shown.read();
        all.get(id).map(|s| (s.poll.clone(), s.count.clone(), s.event.subscribe()))
    }

    /// The counted ballots of a final poll.
    async fn tree(&self, poll: &PollId) -> Result<Arc<Tree>, StoreError> {
        if let Some((_, tree)) = self.trees.lock().iter().find(|(id, _)| id == poll) {
            return Ok(Arc::clone(tree));
        }
        let tree = Arc::new(Tree::new(poll.clone(), self.store.leaves(poll).await?));
        let mut trees = self.trees.lock();
        trees.push_back((poll.clone(), Arc::clone(&tree)));
        if trees.len() > TREES {
            trees.pop_front();
        }
        Ok(tree)
    }
}

/// Whether every log that is not given up has been taken beyond a moment.
fn is_settled(logs: &[LogRow], closes_ms: u64) -> bool {
    let closing = hlc::at_millis(closes_ms);
    logs.iter().filter(|l| !l.retired).all(|l| l.settled >= closing && l.position >= l.seen_end)
}

/// Whether somebody without the administrator's token may see the count.
fn may_see(poll: &Poll, count: &Count) -> bool {
    match poll.results {
        Visibility::Live => true,
        Visibility::AfterClose => count.closed,
        Visibility::Private => false,
    }
}

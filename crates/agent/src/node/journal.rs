//! What happens to the containers of this node, from the engine's stream to a server that has taken it.
//!
//! The engine holds up everybody when a subscriber is slow, so one task only reads and queues, another writes to the spool,
//! and the line of a server reads from there. The engine remembers 256 events: after each break all of them are asked for,
//! and those already known left out. When none of them is known, some may be missing, and a gap says so.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skep_docker::Event;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use super::complaint::Complaint;
use super::find::Pause;
use super::serve::Line;
use super::spool::{Batch, Spool};
use super::{Here, rights};
use crate::AgentError;
use crate::frames::Frames;
use crate::wire::{Cursor, Done, GAP, Message, Spooled};

/// Events read and not yet in the spool.
const QUEUE: usize = 8192;
/// What the engine remembers comes at once after subscribing.
const REPLAY: Duration = Duration::from_millis(300);
/// Events sent at a time, and those sent and not acknowledged.
const AT_ONCE: usize = 256;
const UNACKNOWLEDGED: u64 = 1024;
const PING_EVERY: Duration = Duration::from_secs(15);
/// What is told of a container. Not, among others, which programs are run in it: their arguments are nobody's business.
const ACTIONS: [&str; 11] =
    ["create", "start", "die", "oom", "destroy", "kill", "stop", "pause", "unpause", "restart", "rename"];
/// Bytes of one attribute.
const ATTRIBUTE_BYTES: usize = 1024;

pub(super) struct Journal {
    queue: Arc<Queue>,
    spool: Arc<Mutex<Spool>>,
    id: u64,
    /// Rises when something is in the spool that was not.
    written: watch::Sender<u64>,
    /// Whether the tasks run; and the installation whose containers matter.
    install: Mutex<Option<String>>,
    /// Of the line that tells events now; an older one ends.
    teller: watch::Sender<u64>,
}

#[derive(Default)]
struct Queue {
    events: Mutex<(VecDeque<Spooled>, u64)>,
    some: Notify,
}

impl Queue {
    fn push(&self, event: Spooled) {
        let mut events = self.events.lock();
        if events.0.len() >= QUEUE {
            events.0.pop_front();
            events.1 += 1;
        }
        events.0.push_back(event);
        drop(events);
        self.some.notify_one();
    }
}

impl Journal {
    /// # Errors
    /// When the folder cannot be used.
    pub(super) async fn open(dir: Option<PathBuf>, most: u64) -> Result<Self, AgentError> {
        let open = move || match dir {
            Some(dir) => Spool::open(&dir, most).map_err(|error| {
                AgentError::Node(format!("the spool in {} cannot be used: {error}", dir.display()))
            }),
            None => Ok(Spool::in_memory()),
        };
        let spool = blocking(open).await??;
        Ok(Self {
            queue: Arc::default(),
            id: spool.id(),
            spool: Arc::new(Mutex::new(spool)),
            written: watch::channel(0).0,
            install: Mutex::default(),
            teller: watch::channel(0).0,
        })
    }

    /// Starts reading, once; from now on containers of this installation matter.
    pub(super) fn begin(&self, here: &Arc<Here>, install: &str, stop: &CancellationToken) {
        let first = self.install.lock().replace(install.to_owned()).is_none();
        if first {
            for work in [0, 1] {
                let (here, stop) = (Arc::clone(here), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = here.journal.read(&here), if work == 0 => {}
                        () = here.journal.write(), if work == 1 => {}
                    }
                });
            }
        }
    }

    /// Reads the engine's events for ever.
    async fn read(&self, here: &Here) {
        let (mut complaint, mut pause) = (Complaint::default(), Pause::default());
        loop {
            match here.config.engine.events(&[("type", "container")], Some(0)).await {
                Ok(mut events) => {
                    complaint.settle();
                    pause.reset();
                    here.containers.watch(true);
                    let replay = self.replay(here, &mut events).await;
                    if replay {
                        while let Some(Ok(event)) = events.next().await {
                            self.take(here, &event);
                        }
                    }
                    here.containers.watch(false);
                    complaint.say("the node's Docker Engine ended its stream of events");
                }
                Err(error) => complaint.say(&error.to_string()),
            }
            pause.wait().await;
        }
    }

    /// What the engine remembers. Answers whether the stream goes on.
    async fn replay(&self, here: &Here, events: &mut skep_docker::Events) -> bool {
        let (until, mut replayed, mut goes_on) = (Instant::now() + REPLAY, Vec::new(), true);
        while replayed.len() < QUEUE / 2 {
            match timeout_at(until, events.next()).await {
                Ok(Some(Ok(event))) => {
                    here.containers.forget(event.actor());
                    replayed.extend(self.ours(&event));
                }
                Ok(_) => {
                    goes_on = false;
                    break;
                }
                Err(_) => break,
            }
        }
        let spool = Arc::clone(&self.spool);
        let look = move || {
            let spool = spool.lock();
            // A spool that has never seen an event misses none.
            (spool.has_seen() && !replayed.iter().any(|event| spool.knows(event)), replayed)
        };
        let Ok((missing, replayed)) = blocking(look).await else { return false };
        if missing {
            self.queue.push(gap());
        }
        // Those known already are left out by the spool itself.
        replayed.into_iter().for_each(|event| self.queue.push(event));
        goes_on
    }

    fn take(&self, here: &Here, event: &Event) {
        here.containers.forget(event.actor());
        if let Some(event) = self.ours(event) {
            self.queue.push(event);
        }
    }

    /// What is told of an event, if it is of a container that matters.
    fn ours(&self, event: &Event) -> Option<Spooled> {
        if event.kind() != "container" || !ACTIONS.contains(&event.action()) {
            return None;
        }
        let install = self.install.lock().clone().unwrap_or_default();
        rights::is_ours(|name| event.attribute(name), &install).then(|| spooled(event))
    }

    /// Moves what was read into the spool, for ever.
    async fn write(&self) {
        loop {
            self.queue.some.notified().await;
            let (events, dropped) = std::mem::take(&mut *self.queue.events.lock());
            let spool = Arc::clone(&self.spool);
            let append = move || {
                let mut spool = spool.lock();
                spool.skip(dropped);
                events.into_iter().for_each(|event| spool.append(event));
                spool.last()
            };
            if let Ok(last) = blocking(append).await {
                self.written.send_replace(last);
            }
        }
    }

    /// Tells a server what it has not taken yet, and what comes, until the line ends.
    pub(super) async fn tell(&self, mut line: Line, after: Option<Cursor>) -> io::Result<()> {
        self.teller.send_modify(|number| *number += 1);
        let mut teller = self.teller.subscribe();
        line.say(Message::Done(Done::Events { spool: self.id })).await?;
        let after = after.filter(|cursor| cursor.spool == self.id).map_or(0, |cursor| cursor.seq);
        let mut acknowledged = self.acknowledge(after).await?;
        let Frames { stream, decoder } = line;
        let (read, write) = tokio::io::split(stream);
        let (mut said, mut telling) = (Frames { stream: read, decoder }, Frames::new(write));
        let mut told = acknowledged;
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.tick().await;
        loop {
            tokio::select! {
                message = said.message() => match message? {
                    Message::Ack { seq } => acknowledged = self.acknowledge(seq.min(told)).await?,
                    Message::Pong => {}
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                },
                batch = self.next(told), if told - acknowledged < UNACKNOWLEDGED => {
                    let batch = batch?;
                    if let Some((from, to)) = batch.gap {
                        telling.say(Message::Gap { from, to }).await?;
                        told = to;
                    }
                    for event in batch.events {
                        told = event.seq;
                        telling.say(Message::Event(event)).await?;
                    }
                }
                _ = ping.tick() => telling.say(Message::Ping).await?,
                // A server that asks anew has lost this line.
                _ = teller.changed() => return Ok(()),
            }
        }
    }

    /// What comes after a number, as soon as there is something.
    async fn next(&self, told: u64) -> io::Result<Batch> {
        let mut written = self.written.subscribe();
        loop {
            let spool = Arc::clone(&self.spool);
            let batch = blocking(move || spool.lock().read(told, AT_ONCE)).await.map_err(io::Error::other)?;
            if batch.gap.is_some() || !batch.events.is_empty() {
                return Ok(batch);
            }
            // The sender is ours: it does not end.
            let _ = written.changed().await;
        }
    }

    async fn acknowledge(&self, seq: u64) -> io::Result<u64> {
        let spool = Arc::clone(&self.spool);
        blocking(move || spool.lock().acknowledge(seq)).await.map_err(io::Error::other)
    }
}

/// What touches the disk, off the event loop.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, AgentError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| AgentError::Node(error.to_string()))
}

fn spooled(event: &Event) -> Spooled {
    let attributes = event.raw().pointer("/Actor/Attributes").and_then(|value| value.as_object());
    let attributes = attributes.into_iter().flatten().filter_map(|(name, value)| {
        let value = value.as_str()?;
        let wanted = matches!(name.as_str(), "exitCode" | "signal" | "name" | "image" | "oldName")
            || name.starts_with("com.docker.swarm.")
            || name.starts_with("skep.");
        (wanted && value.len() <= ATTRIBUTE_BYTES && name.len() <= ATTRIBUTE_BYTES)
            .then(|| (name.clone(), value.to_owned()))
    });
    Spooled {
        seq: 0,
        time_ns: event.time_nano(),
        action: event.action().to_owned(),
        container: event.actor().to_owned(),
        attributes: attributes.take(64).collect(),
    }
}

/// Says that events may be missing, nobody knows how many.
fn gap() -> Spooled {
    Spooled {
        seq: 0,
        time_ns: 0,
        action: GAP.to_owned(),
        container: String::new(),
        attributes: BTreeMap::from([("lost".to_owned(), "unknown".to_owned())]),
    }
}

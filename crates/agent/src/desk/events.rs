//! What happens to the containers of every node, exactly once while this desk lives.
//!
//! A line of each node carries its agent's spool. An event is acknowledged after every subscriber has it in its queue; a
//! subscriber that does not read holds the spools back, and they have a bound of their own. Without a subscriber nothing is
//! asked for.
//!
//! A number seen before is not handed on again. A desk that is started anew knows no numbers: what its predecessor had
//! handed on and not acknowledged comes twice; `spool` and `seq` tell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::Desk;
use crate::AgentError;
use crate::wire::{Ask, Cursor, Done, GAP, Message, RefusalCode, Spooled};

/// Events a subscriber may leave unread before the spools are held back.
const QUEUE: usize = 1024;
/// Spools remembered of a node: it gets a new one when its folder is lost.
const SPOOLS: usize = 4;
/// Of an event: attributes, and bytes of each and of every other text. Agents cut at the same length.
const MOST_ATTRIBUTES: usize = 256;
const TEXT_BYTES: usize = 1024;
const AGAIN: Duration = Duration::from_millis(200);
/// After an agent has said that it does not tell.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Something that happened to a container of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvent {
    pub node: String,
    /// Which memory of the node's agent `seq` counts in.
    pub spool: u64,
    /// Rising, without holes: what is missing is told as a gap.
    pub seq: u64,
    /// Nanoseconds since the Unix epoch by the node's clock; 0 of a gap.
    pub time_ns: i64,
    /// `start`, `die`, `oom`, `destroy`, …, or `gap`: events were lost, look at everything.
    pub action: String,
    pub container: String,
    /// The engine's (`exitCode`, `name`, labels); of a gap `lost`: how many, or `unknown`.
    pub attributes: BTreeMap<String, String>,
}

impl NodeEvent {
    pub fn is_gap(&self) -> bool {
        self.action == GAP
    }
}

/// Who wants to know, and what is known.
#[derive(Default)]
pub(super) struct Hub {
    subscribers: Mutex<Vec<mpsc::Sender<NodeEvent>>>,
    wanted: Notify,
    /// Nodes listened to.
    listening: Mutex<HashSet<String>>,
    seen: Mutex<HashMap<String, Vec<Cursor>>>,
    stop: CancellationToken,
}

impl Hub {
    /// Somebody has subscribed.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    fn has_subscribers(&self) -> bool {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|subscriber| !subscriber.is_closed());
        !subscribers.is_empty()
    }

    fn seen(&self, node: &str, spool: u64) -> Option<Cursor> {
        let seen = self.seen.lock();
        seen.get(node)?.iter().find(|cursor| cursor.spool == spool).copied()
    }

    /// How far the newest spool of a node was read.
    fn newest(&self, node: &str) -> Option<Cursor> {
        self.seen.lock().get(node)?.last().copied()
    }

    fn note(&self, node: &str, cursor: Cursor) {
        let mut seen = self.seen.lock();
        let cursors = seen.entry(node.to_owned()).or_default();
        match cursors.iter_mut().find(|known| known.spool == cursor.spool) {
            Some(known) => known.seq = cursor.seq,
            None => cursors.push(cursor),
        }
        if cursors.len() > SPOOLS {
            cursors.remove(0);
        }
    }

    /// To everybody who wants it. Answers whether anybody did.
    async fn deliver(&self, event: &NodeEvent) -> bool {
        let subscribers = self.subscribers.lock().clone();
        let mut had = false;
        for subscriber in subscribers {
            had |= subscriber.send(event.clone()).await.is_ok();
        }
        had
    }
}

/// Agents send no more of a text; whoever does all the same fills no queue with it.
fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_BYTES));
}

impl Desk {
    /// What happens on all nodes from now on, and what their agents have kept.
    pub fn events(&self) -> mpsc::Receiver<NodeEvent> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.0.hub.subscribers.lock().push(sender);
        self.0.hub.wanted.notify_one();
        receiver
    }

    /// Starts listening to a node, unless that is done already or nobody wants to know.
    pub(super) fn listen_to(&self, node: &str) {
        let hub = &self.0.hub;
        if hub.stop.is_cancelled() || !hub.has_subscribers() || !hub.listening.lock().insert(node.to_owned())
        {
            return;
        }
        let (desk, node, stop) = (self.clone(), node.to_owned(), hub.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = desk.listen(&node) => {}
            }
            desk.0.hub.listening.lock().remove(&node);
            // It may have come back in the very moment it was given up.
            if desk.0.board.live().borrow().contains(&node) {
                desk.listen_to(&node);
            }
        });
    }

    /// Until the node is gone or nobody wants to know any more.
    async fn listen(&self, node: &str) {
        loop {
            let pause = match self.carry(node).await {
                Err(AgentError::NoAgent { .. }) => return,
                Err(error) if error.refusal().is_some_and(|said| said.code == RefusalCode::NotAllowed) => {
                    tracing::warn!(node, "the node's agent tells no events: {error}");
                    REFUSED_AGAIN
                }
                Err(error) => {
                    tracing::debug!(node, %error, "a node's events broke off");
                    AGAIN
                }
                Ok(()) => return,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Carries events over one line. Ends well when nobody wants them any more.
    async fn carry(&self, node: &str) -> Result<(), AgentError> {
        let hub = &self.0.hub;
        let after = hub.newest(node);
        let (mut line, done) = self.ask(node, "", Ask::Events { after }, ANSWER_WITHIN).await?;
        let broken = |reason: io::Error| AgentError::Broken { node: node.to_owned(), call: "events", reason };
        let Done::Events { spool } = done else {
            return Err(broken(io::ErrorKind::InvalidData.into()));
        };
        let _present = self.listening(node);
        loop {
            let event = match line.frames.message().await.map_err(broken)? {
                Message::Event(event) => self.event(node, spool, event),
                Message::Gap { from, to } if from <= to => self.gap(node, spool, from, to),
                Message::Ping => {
                    line.frames.say(Message::Pong).await.map_err(broken)?;
                    continue;
                }
                _ => return Err(broken(io::ErrorKind::InvalidData.into())),
            };
            let seq = event.seq;
            if hub.seen(node, spool).is_none_or(|seen| seen.seq < seq) {
                if !hub.deliver(&event).await {
                    return Ok(());
                }
                hub.note(node, Cursor { spool, seq });
            }
            line.frames.say(Message::Ack { seq }).await.map_err(broken)?;
        }
    }

    fn event(&self, node: &str, spool: u64, event: Spooled) -> NodeEvent {
        let Spooled { seq, time_ns, mut action, mut container, attributes } = event;
        cut(&mut action);
        cut(&mut container);
        let short = |(name, mut value): (String, String)| {
            cut(&mut value);
            (name.len() <= TEXT_BYTES).then_some((name, value))
        };
        let attributes = attributes.into_iter().filter_map(short).take(MOST_ATTRIBUTES).collect();
        NodeEvent { node: node.to_owned(), spool, seq, time_ns, action, container, attributes }
    }

    fn gap(&self, node: &str, spool: u64, from: u64, to: u64) -> NodeEvent {
        // What was handed on before it was lost there is not lost.
        let from = self.0.hub.seen(node, spool).map_or(from, |seen| from.max(seen.seq.saturating_add(1)));
        let lost = to.saturating_add(1).saturating_sub(from);
        NodeEvent {
            node: node.to_owned(),
            spool,
            seq: to,
            time_ns: 0,
            action: GAP.to_owned(),
            container: String::new(),
            attributes: BTreeMap::from([("lost".to_owned(), lost.to_string())]),
        }
    }
}

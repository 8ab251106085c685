//! The idle lines of every node.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::poll_fn;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::Desk;
use crate::AgentError;
use crate::frames::Frames;
use crate::socket::Socket;
use crate::wire::{Frame, Message};

/// Agents say something every four seconds.
const SILENCE: Duration = Duration::from_secs(13);
/// For the end of a line that is given up.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);
/// Idle lines kept of one node; agents keep up to 64 by themselves.
const MOST_IDLE: usize = 256;
/// Who may wait for a line of one node at a time.
const MOST_WAITING: usize = 4096;
/// All lines of a node may be taken for a moment; it is gone when none comes for this long.
const LINGER: Duration = Duration::from_secs(1);

/// A connection of an agent, ready for a call.
pub(super) struct Line {
    pub(super) frames: Frames<TlsStream<Socket>>,
    pub(super) node: String,
    expires: SystemTime,
    /// Its node fell silent, all of it: nothing will come of this line, though the kernel still tries.
    pub(super) cut: CancellationToken,
}

impl Line {
    pub(super) fn new(frames: Frames<TlsStream<Socket>>, node: String, expires: SystemTime) -> Self {
        Self { frames, node, expires, cut: CancellationToken::new() }
    }
}

/// Where an idle line lies. Whoever takes it out has it; the watcher finds nothing then.
type Slot = Arc<Mutex<Option<Box<Line>>>>;

struct Idle {
    slot: Slot,
    watcher: AbortHandle,
}

#[derive(Default)]
struct Node {
    idle: Vec<Idle>,
    waiting: VecDeque<oneshot::Sender<Box<Line>>>,
    /// Lines that events come over.
    listening: usize,
    /// Whether it is among those shown.
    shown: bool,
    /// The last idle line that went did so without a word, and none has come since.
    silent: bool,
    /// Of the lines it has now, those in use among them.
    cut: CancellationToken,
}

impl Node {
    fn is_present(&self) -> bool {
        !self.idle.is_empty() || self.listening > 0
    }
}

/// All of them.
pub(super) struct Board {
    nodes: Mutex<HashMap<String, Node>>,
    live: watch::Sender<BTreeSet<String>>,
}

impl Default for Board {
    fn default() -> Self {
        Self { nodes: Mutex::default(), live: watch::channel(BTreeSet::new()).0 }
    }
}

impl Board {
    pub(super) fn live(&self) -> watch::Receiver<BTreeSet<String>> {
        self.live.subscribe()
    }

    pub(super) fn shown(&self) -> Vec<String> {
        self.live.borrow().iter().cloned().collect()
    }

    /// The idle line of a node that was used last.
    fn pop(&self, node: &str) -> Option<Box<Line>> {
        let mut nodes = self.nodes.lock();
        let idle = &mut nodes.get_mut(node)?.idle;
        while let Some(Idle { slot, watcher }) = idle.pop() {
            watcher.abort();
            if let Some(line) = slot.lock().take().filter(|line| line.expires > SystemTime::now()) {
                return Some(line);
            }
        }
        None
    }

    fn queue(&self, node: &str) -> Option<oneshot::Receiver<Box<Line>>> {
        let (sender, receiver) = oneshot::channel();
        let mut nodes = self.nodes.lock();
        let waiting = &mut nodes.entry(node.to_owned()).or_default().waiting;
        waiting.retain(|waiter| !waiter.is_closed());
        (waiting.len() < MOST_WAITING).then(|| {
            waiting.push_back(sender);
            receiver
        })
    }

    /// Forgets nodes of which nothing is known any more.
    fn tidy(&self, node: &str) {
        let mut nodes = self.nodes.lock();
        if let Some(known) = nodes.get_mut(node) {
            known.waiting.retain(|waiter| !waiter.is_closed());
            if !known.shown && !known.is_present() && known.waiting.is_empty() {
                nodes.remove(node);
            }
        }
    }

    /// Says who is there and who is not.
    fn show(&self, node: &str) {
        let mut nodes = self.nodes.lock();
        let Some(known) = nodes.get_mut(node) else { return };
        let present = known.is_present();
        if known.shown == present {
            return;
        }
        known.shown = present;
        // An agent that left or broke has closed its lines by itself.
        let cut = (!present && std::mem::take(&mut known.silent)).then(|| std::mem::take(&mut known.cut));
        // Under the lock, so that two of these cannot overtake each other.
        self.live.send_modify(|live| {
            if present {
                live.insert(node.to_owned());
            } else {
                live.remove(node);
            }
        });
        drop(nodes);
        if let Some(cut) = cut {
            cut.cancel();
        }
        if present {
            tracing::info!(node, "the node's agent is connected");
        } else {
            tracing::warn!(node, "the node's agent is gone");
            self.tidy(node);
        }
    }

    /// Ends the node's lines in use, and the wait for one. Idle ones are kept: the node may be back before they break.
    pub(super) fn cut(&self, node: &str) {
        let mut nodes = self.nodes.lock();
        let Some(known) = nodes.get_mut(node) else { return };
        let cut = std::mem::take(&mut known.cut);
        for idle in &known.idle {
            if let Some(line) = idle.slot.lock().as_mut() {
                line.cut = known.cut.clone();
            }
        }
        known.waiting.clear();
        drop(nodes);
        cut.cancel();
    }

    fn drop_idle(&self, node: &str, slot: &Slot, silent: bool) {
        if let Some(known) = self.nodes.lock().get_mut(node) {
            known.silent = silent;
            known.idle.retain(|idle| !Arc::ptr_eq(&idle.slot, slot));
        }
    }

    /// Closes every idle line.
    pub(super) fn clear(&self) {
        let nodes: Vec<String> = {
            let mut nodes = self.nodes.lock();
            nodes.values_mut().flat_map(|node| node.idle.drain(..)).for_each(|idle| idle.watcher.abort());
            nodes.keys().cloned().collect()
        };
        nodes.iter().for_each(|node| self.show(node));
    }
}

impl Desk {
    /// A line to a node's agent, waiting for one if need be.
    pub(super) async fn line(&self, node: &str) -> Result<Box<Line>, AgentError> {
        let board = &self.0.board;
        if let Some(line) = board.pop(node) {
            return Ok(line);
        }
        let after = self.0.config.line_within;
        let missing = || match board.live.borrow().contains(node) {
            true => AgentError::Busy { node: node.to_owned(), after },
            false => AgentError::NoAgent { node: node.to_owned() },
        };
        let waiter = board.queue(node).ok_or_else(missing)?;
        // Between the look and the queue one may have come.
        if let Some(line) = board.pop(node) {
            return Ok(line);
        }
        let line = timeout(after, waiter).await;
        board.tidy(node);
        match line {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(_)) => Err(AgentError::GivenUp { node: node.to_owned() }),
            Err(_) => Err(missing()),
        }
    }

    /// Takes a line in: for whoever waits longest, or for later.
    pub(super) fn add(&self, mut line: Box<Line>) {
        let name = line.node.clone();
        let mut nodes = self.0.board.nodes.lock();
        let node = nodes.entry(name.clone()).or_default();
        node.silent = false;
        line.cut = node.cut.clone();
        while let Some(waiter) = node.waiting.pop_front() {
            match waiter.send(line) {
                Ok(()) => {
                    drop(nodes);
                    return;
                }
                Err(back) => line = back,
            }
        }
        if node.idle.len() >= MOST_IDLE {
            return;
        }
        let slot: Slot = Arc::new(Mutex::new(Some(line)));
        let watcher = tokio::spawn(self.clone().watch(name.clone(), Arc::clone(&slot))).abort_handle();
        node.idle.push(Idle { slot, watcher });
        drop(nodes);
        self.0.board.show(&name);
        self.listen_to(&name);
    }

    /// Answers what an agent says on an idle line, and notices its end.
    async fn watch(self, node: String, slot: Slot) {
        let silent = loop {
            match timeout(SILENCE, poll_fn(|cx| hear(&slot, cx))).await {
                Ok(Ok(Heard::Ping)) => {}
                Ok(Ok(Heard::Taken)) => return,
                Ok(Ok(Heard::End)) => break false,
                Ok(Err(error)) => break is_silence(error.kind()),
                Err(_) => break true,
            }
        };
        // Only if nobody has taken it in this very moment.
        let taken = slot.lock().take();
        if let Some(mut line) = taken {
            self.0.board.drop_idle(&node, &slot, silent);
            self.missing(node);
            // A proper end, so that the agent does not take it for a break.
            let _ = timeout(FAREWELL_WITHIN, line.frames.stream.shutdown()).await;
        }
    }

    /// A line of the node is gone: perhaps the last one.
    fn missing(&self, node: String) {
        let present = self.0.board.nodes.lock().get(&node).is_none_or(Node::is_present);
        if present {
            return;
        }
        let desk = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            desk.0.board.show(&node);
        });
    }

    /// For as long as it lives, the node counts as present.
    pub(super) fn listening(&self, node: &str) -> Listening {
        self.0.board.nodes.lock().entry(node.to_owned()).or_default().listening += 1;
        self.0.board.show(node);
        Listening { desk: self.clone(), node: node.to_owned() }
    }
}

/// Counts a line that events come over.
pub(super) struct Listening {
    desk: Desk,
    node: String,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(node) = self.desk.0.board.nodes.lock().get_mut(&self.node) {
            node.listening = node.listening.saturating_sub(1);
        }
        // Also where tasks end because the runtime does.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.desk.missing(std::mem::take(&mut self.node));
        }
    }
}

enum Heard {
    Ping,
    Taken,
    End,
}

fn hear(slot: &Slot, cx: &mut Context<'_>) -> Poll<io::Result<Heard>> {
    let mut slot = slot.lock();
    let Some(line) = slot.as_mut() else { return Poll::Ready(Ok(Heard::Taken)) };
    match line.frames.poll_next(cx) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(Some(Frame::Message(Message::Ping)))) => {
            line.frames.say_at_once(cx, Message::Pong)?;
            Poll::Ready(Ok(Heard::Ping))
        }
        Poll::Ready(Ok(_)) => Poll::Ready(Ok(Heard::End)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
    }
}

/// The kernel's own words for it.
fn is_silence(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(kind, TimedOut | HostUnreachable | NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_use_end_with_a_node_that_fell_silent_not_with_one_that_left() {
        for silent in [true, false] {
            let board = Board::default();
            let cut = {
                let mut nodes = board.nodes.lock();
                let node = nodes.entry("n1".to_owned()).or_default();
                (node.shown, node.silent) = (true, silent);
                node.cut.clone()
            };
            board.show("n1");
            assert_eq!(cut.is_cancelled(), silent);
        }
    }

    #[test]
    fn lines_in_use_end_with_a_node_that_is_given_up() {
        let board = Board::default();
        let cut = board.nodes.lock().entry("n1".to_owned()).or_default().cut.clone();
        board.cut("n2");
        assert!(!cut.is_cancelled());
        board.cut("n1");
        assert!(cut.is_cancelled());
    }
}

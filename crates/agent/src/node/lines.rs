//! Keeping lines: as many idle ones as the server is likely to want, new ones as they are taken, all of a session that is
//! still good. A session is given up for a newer one, or when its certificate is too old, never because lines break.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, TryFutureExt};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_rustls::client::TlsStream;

use super::complaint::Complaint;
use super::find::{self, Pause, Session};
use super::{Here, serve};
use crate::AgentError;
use crate::frames::Frames;
use crate::socket::Socket;
use crate::wire::{Call, Frame, Message, VERSION};

/// Idle lines: always, and when many are taken quickly.
const FEW: usize = 8;
const MANY: usize = 64;
/// Lines in all.
const MOST: usize = 16_384;
/// Handshakes at a time.
const MAKING: usize = 8;
/// How often it is said that one is still there. Without an answer until the next time, nobody is.
const PING_EVERY: Duration = Duration::from_secs(4);
/// For a word on a line nobody uses.
const WORD_WITHIN: Duration = Duration::from_secs(10);
/// After this long without need there are fewer idle lines.
const CALM: Duration = Duration::from_secs(10);
/// Between two lines that are tried while none comes about.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Servers that are not there are asked again for so long, so often, before it is said that there is none.
const ROUND: Duration = Duration::from_secs(3);
const ASK_EVERY: Duration = Duration::from_millis(400);
/// A line that ends sooner was not wanted.
const BRIEF: Duration = Duration::from_secs(1);

pub(super) struct Lines {
    here: Arc<Here>,
    counts: Arc<Counts>,
    complaint: Complaint,
    pause: Pause,
    session: Option<Arc<Session>>,
    /// The pause before the next enrolment.
    hold: Duration,
    /// When a line may be tried again of a session whose last one did not come about.
    probe_at: Instant,
}

/// What the lines' own tasks and the one that makes them share.
struct Counts {
    idle: AtomicUsize,
    all: AtomicUsize,
    /// How many idle lines there should be.
    wanted: AtomicUsize,
    /// The fewest there were since the last look.
    lowest: AtomicUsize,
    changed: Notify,
}

/// Counts one for as long as it lives.
struct Counted<'a>(&'a AtomicUsize, &'a Notify);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize, changed: &'a Notify) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count, changed)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
        self.1.notify_one();
    }
}

impl Lines {
    pub(super) fn new(here: Arc<Here>) -> Self {
        let counts = Counts {
            idle: AtomicUsize::new(0),
            all: AtomicUsize::new(0),
            wanted: AtomicUsize::new(FEW),
            lowest: AtomicUsize::new(0),
            changed: Notify::new(),
        };
        Self {
            here,
            counts: Arc::new(counts),
            complaint: Complaint::default(),
            pause: Pause::default(),
            session: None,
            hold: Duration::ZERO,
            probe_at: Instant::now(),
        }
    }

    /// Until the agent is to stop. A session makes lines until its certificate is too old: meanwhile the next one is asked
    /// for, and a server that cannot grant it now, its managers being away, costs nothing.
    pub(super) async fn keep(mut self) {
        let mut calm = interval(CALM);
        calm.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut entering: Option<BoxFuture<'static, Result<Session, AgentError>>> = None;
        loop {
            let now = Instant::now();
            self.session.take_if(|session| session.retire_at() <= now);
            let needed = |session: &Arc<Session>| session.renew_at() <= now || session.is_doubtful();
            if entering.is_none() && self.session.as_ref().is_none_or(needed) {
                let known = self.session.as_ref().map(|session| session.server.clone());
                entering = Some(enter(Arc::clone(&self.here), known, std::mem::take(&mut self.hold)).boxed());
            }
            self.fill(now);
            let wake = self.wake(now, entering.is_some());
            let entered = async {
                match entering.as_mut() {
                    Some(entering) => entering.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.here.stop.cancelled() => break,
                () = self.counts.changed.notified() => {}
                () = sleep_until(wake.into()) => {}
                entered = entered => {
                    entering = None;
                    self.entered(entered);
                }
                _ = calm.tick() => {
                    self.counts.settle();
                    if self.session.as_ref().is_some_and(|session| !session.is_doubtful()) {
                        self.pause.reset();
                        self.hold = Duration::ZERO;
                    }
                }
            }
        }
        drop(entering);
        self.drain().await;
    }

    /// Waits for the calls under way; idle lines are given up meanwhile.
    async fn drain(&self) {
        let grace = self.here.config.grace;
        let ended = async {
            while self.counts.all.load(Ordering::Acquire) > 0 {
                self.counts.changed.notified().await;
            }
        };
        if timeout(grace, ended).await.is_err() {
            let left = self.counts.all.load(Ordering::Acquire);
            tracing::info!(left, "calls are cut that did not end within {grace:?}");
        }
    }

    /// When something is to be done though nothing happens.
    fn wake(&self, now: Instant, entering: bool) -> Instant {
        let Some(session) = &self.session else { return now + CALM };
        let due = if entering { session.retire_at() } else { session.renew_at() };
        if session.failures() > 0 && self.probe_at > now { due.min(self.probe_at) } else { due }
    }

    /// Makes what is missing.
    fn fill(&mut self, now: Instant) {
        let Some(session) = &self.session else { return };
        let counts = &self.counts;
        loop {
            let (idle, making) =
                (counts.idle.load(Ordering::Acquire), session.making.load(Ordering::Acquire));
            let enough = idle + making >= counts.wanted.load(Ordering::Acquire) || making >= MAKING;
            if enough || counts.all.load(Ordering::Acquire) >= MOST {
                return;
            }
            if session.failures() > 0 {
                // One at a time, now and then, until one comes about.
                if making > 0 || now < self.probe_at {
                    return;
                }
                self.probe_at = now + PROBE_EVERY;
            }
            // Counted here, so that the next round of this loop knows of it.
            session.making.fetch_add(1, Ordering::AcqRel);
            let (here, counts, session) = (Arc::clone(&self.here), Arc::clone(counts), Arc::clone(session));
            tokio::spawn(async move {
                tokio::select! {
                    () = here.end.cancelled() => {}
                    () = line(&here, &counts, &session) => {}
                }
            });
        }
    }

    fn entered(&mut self, entered: Result<Session, AgentError>) {
        // Also after a success: whoever is let in and then gets no line is not to ask again at once.
        self.hold = self.pause.next();
        match entered {
            Ok(session) => {
                if self.complaint.settle() || self.session.is_none() {
                    tracing::info!(server = session.server, "enrolled");
                }
                self.here.journal.begin(&self.here, &session.install, &self.here.end);
                self.session = Some(Arc::new(session));
            }
            Err(error) => self.complaint.say(&error.to_string()),
        }
    }
}

/// Gets in after a pause, wherever the server is now.
async fn enter(here: Arc<Here>, known: Option<String>, pause: Duration) -> Result<Session, AgentError> {
    tokio::time::sleep(pause).await;
    try_all(&here, known).await
}

/// The server there was and all there may be, at the same time: those that are gone with their node keep nobody waiting, nor does an
/// engine that cannot say who manages the Swarm until there is a leader again.
pub(super) async fn try_all(here: &Here, known: Option<String>) -> Result<Session, AgentError> {
    let until = Instant::now() + ROUND;
    let mut familiar = here.servers.lock().clone();
    familiar.extend(known.filter(|known| !familiar.contains(known)));
    let named = async {
        let asked = find::candidates(&here.config);
        let servers = if familiar.is_empty() {
            asked.await?
        } else {
            let late = "the node's Docker Engine does not say who manages its Swarm";
            timeout(ROUND, asked).await.map_err(|_| AgentError::Node(late.to_owned()))??
        };
        here.servers.lock().clone_from(&servers);
        let others: FuturesUnordered<_> = servers
            .iter()
            .filter(|server| !familiar.contains(server))
            .map(|server| ask(here, server, until).boxed())
            .collect();
        if others.is_empty() { Err(None) } else { first_of(others).await.map_err(Some) }
    };
    let all = FuturesUnordered::new();
    all.push(named.boxed());
    for server in &familiar {
        all.push(ask(here, server, until).map_err(Some).boxed());
    }
    first_of(all).await
}

/// A server that is not there yet is asked again: it may be starting.
async fn ask(here: &Here, server: &str, until: Instant) -> Result<Session, AgentError> {
    loop {
        match find::enrol(here, server).await {
            Err(AgentError::Unreachable { .. }) if Instant::now() + ASK_EVERY < until => {
                tokio::time::sleep(ASK_EVERY).await;
            }
            entered => return entered,
        }
    }
}

/// The first that succeeds. Of several errors the one that says most; one may have nothing to say.
async fn first_of<E: Into<Option<AgentError>>>(
    mut all: FuturesUnordered<BoxFuture<'_, Result<Session, E>>>,
) -> Result<Session, AgentError> {
    let mut worst: Option<AgentError> = None;
    while let Some(entered) = all.next().await {
        match entered {
            Ok(session) => return Ok(session),
            Err(error) => {
                let Some(error) = error.into() else { continue };
                tracing::debug!(%error, "this server does not take us in");
                let tells = !matches!(error, AgentError::Unreachable { .. });
                if tells || worst.is_none() {
                    worst = Some(error);
                }
            }
        }
    }
    Err(worst.unwrap_or_else(|| AgentError::Node("there is no server to ask".to_owned())))
}

impl Counts {
    /// A line was taken: are there enough?
    fn taken(&self, left: usize) {
        self.lowest.fetch_min(left, Ordering::AcqRel);
        let wanted = self.wanted.load(Ordering::Acquire);
        if left < wanted / 2 && wanted < MANY {
            self.wanted.store((wanted * 2).min(MANY), Ordering::Release);
        }
    }

    /// Now and then: were there more than enough?
    fn settle(&self) {
        let lowest = self.lowest.swap(self.idle.load(Ordering::Acquire), Ordering::AcqRel);
        let wanted = self.wanted.load(Ordering::Acquire);
        if lowest > wanted / 2 && wanted > FEW {
            self.wanted.store((wanted / 2).max(FEW), Ordering::Release);
        }
    }

    fn has_too_many(&self) -> bool {
        self.idle.load(Ordering::Acquire) > self.wanted.load(Ordering::Acquire)
    }
}

/// One line, from its making to the end of its call.
async fn line(here: &Arc<Here>, counts: &Counts, session: &Arc<Session>) {
    let _counted = Counted::new(&counts.all, &counts.changed);
    let making = Counted(&session.making, &counts.changed);
    let opened = tokio::select! {
        () = here.stop.cancelled() => return,
        opened = open(here, session) => opened,
    };
    let mut frames = match opened {
        Ok(frames) => frames,
        Err(error) => {
            tracing::debug!(%error, "a line did not come about");
            return session.failed();
        }
    };
    session.opened();
    let idle = Counted::new(&counts.idle, &counts.changed);
    drop(making);
    let since = Instant::now();
    match wait(here, counts, session, &mut frames, idle).await {
        Ok(Some(call)) => {
            counts.taken(counts.idle.load(Ordering::Acquire));
            serve::serve(here, session, frames, call).await;
        }
        Ok(None) => {}
        Err(reason) => {
            tracing::debug!(%reason, "an idle line broke");
            if since.elapsed() < BRIEF {
                // A server that takes lines and ends them at once: not so many each second.
                let _making = Counted::new(&session.making, &counts.changed);
                session.doubt();
                counts.changed.notify_one();
                tokio::time::sleep(BRIEF).await;
            }
        }
    }
}

fn unreachable(session: &Session, reason: io::Error) -> AgentError {
    AgentError::Unreachable { server: session.server.clone(), reason }
}

async fn open(here: &Here, session: &Session) -> Result<Frames<TlsStream<Socket>>, AgentError> {
    let mut frames = session.line().await?;
    let hello = Message::Hello { version: VERSION, node: here.node.clone(), engine: here.version.clone() };
    let greeting = async {
        frames.say(hello).await?;
        frames.message().await
    };
    // Whether our certificate is taken is known with the first answer only.
    match timeout(WORD_WITHIN, greeting).await {
        Ok(Ok(Message::Welcome)) => Ok(frames),
        Ok(Ok(_)) => Err(AgentError::WrongServer { server: session.server.clone() }),
        Ok(Err(reason)) => {
            Err(AgentError::Tls { server: session.server.clone(), reason: find::tls_reason(&reason) })
        }
        Err(_) => Err(unreachable(session, io::ErrorKind::TimedOut.into())),
    }
}

/// Until a call comes; `None` when this side has given the line up, however it ended then.
async fn wait(
    here: &Here,
    counts: &Counts,
    session: &Session,
    frames: &mut Frames<TlsStream<Socket>>,
    idle: Counted<'_>,
) -> io::Result<Option<Call>> {
    let mut idle = Some(idle);
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.tick().await;
    let mut answered = true;
    loop {
        let given_up = async {
            tokio::select! {
                () = sleep_until(session.retire_at().into()) => {}
                () = here.stop.cancelled() => {}
            }
        };
        tokio::select! {
            frame = frames.next() => match frame {
                Ok(Some(Frame::Message(Message::Call(call)))) => return Ok(Some(call)),
                Ok(Some(Frame::Message(Message::Pong))) => answered = true,
                _ if idle.is_none() => return Ok(None),
                Ok(Some(_)) => return Err(io::ErrorKind::InvalidData.into()),
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(reason) => return Err(reason),
            },
            _ = ping.tick() => {
                if idle.is_none() {
                    // The server should have closed it.
                    return Ok(None);
                }
                if !answered {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                if counts.has_too_many() {
                    idle = None;
                    word(frames, Message::End { error: None }).await?;
                } else {
                    word(frames, Message::Ping).await?;
                    answered = false;
                }
            }
            // The server closes it, unless it has just sent a call, which is served.
            () = given_up, if idle.is_some() => {
                idle = None;
                word(frames, Message::End { error: None }).await?;
            }
        }
    }
}

async fn word(frames: &mut Frames<TlsStream<Socket>>, message: Message) -> io::Result<()> {
    timeout(WORD_WITHIN, frames.say(message)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

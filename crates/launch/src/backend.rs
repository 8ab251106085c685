//! The trait that whoever runs instances implements: local processes, a Docker Engine, a Swarm.
//!
//! A backend does and reports; it never decides. Everything it is asked for is idempotent by instance id, because the
//! one who asks may have been restarted in between.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use skep_model::{AppSpec, BackendKind, InstanceId, Principal, Revision};
use tokio::io::{AsyncRead, AsyncWrite};

/// Runs instances.
pub trait Backend: Send + Sync + 'static {
    fn kind(&self) -> BackendKind;

    /// Gets the instance to the point where connecting to it makes sense. Reports its stages through `progress`.
    /// A second launch of the same id joins the first. Dropping the future does not undo the launch; `stop` does.
    fn launch(
        &self,
        order: LaunchOrder,
        progress: ProgressSink,
    ) -> BoxFuture<'_, Result<Launched, BackendError>>;

    /// Finds every instance of this installation that is alive, wherever it runs, after a restart of Skep. Instances
    /// that ended in the meantime are reported through the event channel with their exit status.
    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Adopted>, BackendError>>;

    /// Ends an instance, all of it, politely first. Answers when nothing of it is left.
    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        grace: Duration,
    ) -> BoxFuture<'a, Result<ExitReport, BackendError>>;

    /// Remembers that an instance answered, and how long that took ([`Adopted::was_ready`], [`Adopted::ready_ms`]).
    fn note_ready<'a>(&'a self, _id: &'a InstanceId, _ready_ms: u64) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// Remembers which seats are taken on an instance, where a restarted Skep finds it ([`Adopted::seats`]).
    /// Best effort, called at most about once a second per instance.
    fn note_seats<'a>(&'a self, id: &'a InstanceId, seats: Vec<skep_model::SeatId>) -> BoxFuture<'a, ()>;

    /// What an instance wrote, oldest first.
    fn logs<'a>(
        &'a self,
        id: &'a InstanceId,
        query: LogQuery,
    ) -> BoxFuture<'a, Result<BoxStream<'static, String>, BackendError>>;

    /// What an instance uses now. `None` when it is gone or cannot be measured.
    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Option<Stats>>;
}

/// The order to start one instance.
#[derive(Debug, Clone)]
pub struct LaunchOrder {
    pub id: InstanceId,
    pub spec: Arc<AppSpec>,
    /// For whom, when the app runs one instance per user.
    pub owner: Option<Principal>,
}

/// An instance that can be dialled (it need not answer yet: the driver probes).
#[derive(Clone)]
pub struct Launched {
    pub dial: Arc<dyn Dial>,
    /// The process id, where there is one on this machine.
    pub pid: Option<u32>,
    /// The node it runs on; `local` for this machine.
    pub node: String,
}

impl fmt::Debug for Launched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launched").field("pid", &self.pid).field("node", &self.node).finish_non_exhaustive()
    }
}

/// An instance found alive at start.
#[derive(Debug, Clone)]
pub struct Adopted {
    pub id: InstanceId,
    pub launched: Launched,
    pub revision: Revision,
    pub owner: Option<Principal>,
    /// When it was started, milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// Whether it had ever been ready.
    pub was_ready: bool,
    /// Order to first good answer, when it had been ready.
    pub ready_ms: Option<u64>,
    /// The seats last noted by [`Backend::note_seats`].
    pub seats: Vec<skep_model::SeatId>,
}

/// What backends report unasked, through the channel given to their constructor.
#[derive(Debug, Clone)]
pub enum BackendEvent {
    /// The instance ended by itself.
    Exited { id: InstanceId, report: ExitReport },
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// One sentence: `exited with status 1`, `killed by signal 9 (SIGKILL)`, `ran out of memory (limit 512 MiB)`.
    pub reason: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out_of_memory: bool,
    /// The last lines it wrote, oldest first; at most 50.
    pub last_lines: Vec<String>,
}

/// Opens a connection to an instance. Called on the event loop that will use the stream.
pub trait Dial: Send + Sync + 'static {
    fn dial(&self) -> BoxFuture<'static, io::Result<Stream>>;
    /// For logs and `skep ps`: `unix:/run/…`, `127.0.0.1:20001`.
    fn describe(&self) -> String;
}

/// A connection to an instance. The first two variants let the edge work on the bare socket.
pub enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
    Other(Box<dyn Duplex>),
}

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The stages a visitor sees on the launch page, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Waiting for room.
    Queue,
    /// The app's own environment is being built, or its image fetched.
    Environment,
    /// The process or container is being started.
    Start,
    /// It runs; it does not answer yet.
    Boot,
    Ready,
}

/// One report from a launch in progress.
#[derive(Debug, Clone)]
pub struct Progress {
    pub stage: Stage,
    /// One line: `installing pandas 2.3 (14 of 31)`, `pulling 40 %`.
    pub detail: String,
}

/// Where a launch reports its progress. Never blocks; only the newest report matters.
#[derive(Clone)]
pub struct ProgressSink(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressSink {
    pub fn new(sink: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    pub fn report(&self, stage: Stage, detail: impl Into<String>) {
        (self.0)(Progress { stage, detail: detail.into() });
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressSink")
    }
}

#[derive(Debug, Clone, Copy)]
pub struct LogQuery {
    /// At most this many of the newest lines first.
    pub tail: usize,
    /// Go on with what is written from now on, until the instance ends.
    pub follow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// CPU seconds used since the start, all processes.
    pub cpu_seconds: f64,
    /// Resident (processes) or working-set (containers) bytes.
    pub memory_bytes: u64,
    pub processes: u32,
}

/// Why a backend could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// The app is at fault: a missing interpreter, requirements that do not resolve, an exit before it answered.
    /// Trying again without a change will most likely fail again.
    #[error("{summary}")]
    App {
        /// One sentence that says what went wrong and how to mend it.
        summary: String,
        /// The last lines of the log or build output, oldest first; at most 50.
        last_lines: Vec<String>,
    },
    /// The machine or the daemon is at fault; trying again may help.
    #[error("{0}")]
    Platform(String),
    #[error("no such instance")]
    Unknown,
}

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
use skep_model::{AppSpec, BackendKind, InstanceId, Principal, Revision, Variant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

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

    /// Runs a further program beside the app, where the instance is.
    fn exec<'a>(
        &'a self,
        _id: &'a InstanceId,
        _order: ExecOrder,
    ) -> BoxFuture<'a, Result<Execution, BackendError>> {
        Box::pin(async { Err(BackendError::Unknown) })
    }

    /// What an instance uses now. `None` when it is gone or cannot be measured.
    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Option<Stats>>;
}

/// The order to start one instance.
#[derive(Debug, Clone)]
pub struct LaunchOrder {
    pub id: InstanceId,
    /// The variant's: with its address.
    pub spec: Arc<AppSpec>,
    /// For whom, when the app runs one instance per user.
    pub owner: Option<Principal>,
    /// Which of theirs.
    pub variant: Variant,
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
    pub variant: Variant,
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
    /// The instance ended without being asked to.
    Exited { id: InstanceId, report: ExitReport },
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExitReport {
    /// One sentence: `exited with status 1`, `killed by signal 9 (SIGKILL)`, `ran out of memory (limit 512 MiB)`.
    pub reason: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out_of_memory: bool,
    /// The last lines it wrote, oldest first; at most 50.
    pub last_lines: Vec<String>,
    #[serde(default)]
    pub ended_by: EndedBy,
}

/// Whose doing it was that an instance ended. What it ran on going away says nothing about the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndedBy {
    #[default]
    Itself,
    /// Its engine was restarted, its node went down, somebody removed it.
    Platform,
}

/// Opens a connection to an instance. Called on the event loop that will use the stream.
pub trait Dial: Send + Sync + 'static {
    /// # Errors
    /// `NetworkDown` when what leads to the instance is missing, so that nothing is known of the instance itself.
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

impl Stage {
    /// As the journal and the metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Environment => "environment",
            Self::Start => "start",
            Self::Boot => "boot",
            Self::Ready => "ready",
        }
    }
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

/// The order to run a program in an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOrder {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    /// As whom, when not as the app.
    pub user: Option<String>,
    /// Its terminal, when it is to have one.
    pub terminal: Option<TerminalSize>,
    /// Who asks, for logs.
    pub who: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// A program that runs. Dropping `input` closes its input.
#[derive(Debug)]
pub struct Execution {
    pub input: mpsc::Sender<ExecInput>,
    pub output: mpsc::Receiver<ExecOutput>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    Bytes(Vec<u8>),
    Resize(TerminalSize),
    /// Nothing more will be written.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// With a terminal, all of it.
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// Its exit status. Nothing follows.
    Exit(i64),
    /// The way to it broke, and what became of it is not known. Nothing follows.
    Broken(String),
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

/// What of a summary is not the app's own words: some end, after a colon, with the line that says most.
pub(crate) fn cause_alone<'a>(summary: &'a str, last_lines: &[String]) -> &'a str {
    let written = |text: &str| !text.is_empty() && last_lines.iter().any(|line| line.contains(text));
    let mut colons = summary.match_indices(": ");
    colons.find(|(at, _)| written(&summary[at + 2..])).map_or(summary, |(at, _)| &summary[..at])
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
    /// What it was to run on went away meanwhile. That says nothing about the app: another one is started at once.
    #[error("{0}")]
    Lost(String),
    #[error("no such instance")]
    Unknown,
}

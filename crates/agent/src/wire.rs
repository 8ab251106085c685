//! What agents and the server say to each other: frames, taken apart and put together. Pure.
//!
//! A frame is its length (u32, big-endian, at most [`MAX_FRAME`]) and that many bytes: a JSON object, or a byte that
//! names a channel (1, 2, 3) and raw bytes of it. JSON begins with `{`, so the two cannot be taken for each other.
//!
//! Absent on purpose: numbers for calls (a connection serves one call) and wall-clock deadlines (clocks of machines
//! differ; whoever asks closes the connection when its time is over, and says how long it will wait).

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Bytes of the longest frame, without its length.
pub const MAX_FRAME: usize = 256 * 1024;
/// What is spoken; agent and server must agree on it.
pub const VERSION: u32 = 1;

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    Message(Message),
    /// Bytes to or from a program. None at all on [`Channel::Stdin`]: its end.
    Bytes(Channel, Bytes),
}

/// Where bytes come from or go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    Stdin,
    Stdout,
    Stderr,
}

/// What is said in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Message {
    /// Agent: take me in.
    Enrol(Enrol),
    /// Server: you are in.
    Enrolled(Enrolled),
    /// Agent, first on a line.
    Hello {
        version: u32,
        node: String,
        engine: String,
    },
    /// Server: the line is taken.
    Welcome,
    Ping,
    Pong,
    /// Server: the one call of a line.
    Call(Call),
    Done(Done),
    Refused(Refusal),
    /// A line of a log.
    Line(AgentLogLine),
    /// Nothing more follows; `error` when it ended before its time.
    End {
        error: Option<String>,
    },
    /// Server: the terminal has another size.
    Resize {
        rows: u16,
        columns: u16,
    },
    /// So far, in percent, an image is fetched.
    Pulled {
        percent: u8,
    },
    /// The program of an `exec` has ended.
    Exit {
        code: i64,
    },
    Event(Spooled),
    /// Events that were dropped, both ends included.
    Gap {
        from: u64,
        to: u64,
    },
    /// Server: everything up to here is in good hands.
    Ack {
        seq: u64,
    },
}

/// The agent's proof and what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrol {
    pub version: u32,
    pub node: String,
    pub task: Option<String>,
    /// The public key to certify: a point of P-256, uncompressed. Base64.
    pub key: String,
    pub proof: String,
}

/// The server's proof and what it gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Base64 of DER, as `certificate`.
    pub authority: String,
    pub certificate: String,
    pub install: String,
    /// The server's clock, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// How long the certificate lives, milliseconds.
    pub lives_ms: u64,
    pub proof: String,
}

/// What is asked of an agent, and for how long whoever asks will wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The container's id; empty for `pull` and `events`.
    pub container: String,
    pub within_ms: u64,
    #[serde(flatten)]
    pub ask: Ask,
}

/// The kinds of calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Ask {
    Dial { port: u16 },
    Logs { tail: usize, follow: bool },
    Stats,
    Inspect,
    Exec(ExecOrder),
    Pull(PullOrder),
    Events { after: Option<Cursor> },
}

impl Ask {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dial { .. } => "dial",
            Self::Logs { .. } => "logs",
            Self::Stats => "stats",
            Self::Inspect => "inspect",
            Self::Exec(_) => "exec",
            Self::Pull(_) => "pull",
            Self::Events { .. } => "events",
        }
    }

    /// Whether somebody reads what comes of it, at leisure.
    pub(crate) fn may_be_long(&self) -> bool {
        matches!(self, Self::Dial { .. } | Self::Logs { .. } | Self::Exec(_))
    }
}

/// How far the server has come in one spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub spool: u64,
    pub seq: u64,
}

/// A program to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExecOrder {
    pub cmd: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    /// Rows and columns of its terminal, when it is to have one.
    pub tty: Option<(u16, u16)>,
    pub user: Option<String>,
    /// Who asks. Goes to the agent's log; a call without it is refused.
    pub who: String,
}

/// An image to fetch, as the node's engine already does for a task: whoever asks is told how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullOrder {
    pub image: String,
    pub login: Option<Login>,
}

/// A login at a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The answer to a call that is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Done {
    /// What was asked for follows.
    Open,
    Stats(Usage),
    Inspect {
        container: Option<AgentContainer>,
    },
    /// Events of this spool follow.
    Events {
        spool: u64,
    },
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Since its start.
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub processes: u32,
}

/// A container as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentContainer {
    pub id: String,
    pub running: bool,
    /// `created`, `running`, `paused`, `exited`, …
    pub status: String,
    /// Of a container that ended.
    pub exit_code: Option<i64>,
    pub oom_killed: bool,
    /// Why it could not be started; empty when it could.
    pub error: String,
    /// Addresses at which its node reaches it.
    pub addresses: Vec<std::net::IpAddr>,
    /// As the engine writes it, RFC 3339; `0001-01-01T00:00:00Z` when it never started.
    pub started_at: String,
    pub finished_at: String,
    pub labels: BTreeMap<String, String>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLogLine {
    pub channel: Channel,
    /// When the engine took it, RFC 3339 with nanoseconds; empty when it did not say.
    pub time: String,
    pub text: String,
}

/// Something that happened to a container, as it lies in an agent's spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spooled {
    pub seq: u64,
    /// Nanoseconds since the Unix epoch, by the engine's clock. Not in the order of `seq`.
    pub time_ns: i64,
    /// `start`, `die`, `oom`, `destroy`, …; [`GAP`] where the engine itself may have lost events.
    pub action: String,
    pub container: String,
    pub attributes: BTreeMap<String, String>,
}

/// The action of a gap.
pub const GAP: &str = "gap";

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
}

impl Refusal {
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The names of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    // Of enrolment.
    WrongSecret,
    WrongVersion,
    BadRequest,
    UnknownNode,
    NodeDown,
    NoTask,
    UnknownTask,
    TaskEnded,
    TaskElsewhere,
    NotAnAgent,
    TooOften,
    /// The server cannot ask a manager just now.
    Unchecked,
    // Of calls.
    /// The kind of call is not among those the agent allows.
    NotAllowed,
    /// The container is neither a Swarm task's nor one of this installation's.
    NotOurs,
    /// There is no such container.
    Gone,
    NoAddress,
    ConnectionRefused,
    Unreachable,
    Late,
    Busy,
    /// The node's Docker Engine did not do it.
    Engine,
    /// A name of a newer version.
    #[serde(other)]
    Other,
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As on the wire.
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => f.write_str(&name),
            _ => f.write_str("other"),
        }
    }
}

/// The bytes are no frames of ours. Nothing sensible can follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error("a frame of {0} bytes; {MAX_FRAME} are the most")]
    Long(usize),
    #[error("an empty frame")]
    Empty,
    #[error("a frame of unknown kind {0:#04x}")]
    Kind(u8),
    #[error("a message that makes no sense: {0}")]
    Json(String),
}

impl Frame {
    /// The bytes that say it.
    ///
    /// # Errors
    /// When it is longer than a frame may be.
    pub fn encode(&self) -> Result<Vec<u8>, BadFrame> {
        let mut out = vec![0; 4];
        match self {
            Self::Message(message) => {
                serde_json::to_writer(&mut out, message).map_err(|e| BadFrame::Json(e.to_string()))?;
            }
            Self::Bytes(channel, bytes) => {
                out.reserve(1 + bytes.len());
                out.push(*channel as u8 + 1);
                out.extend_from_slice(bytes);
            }
        }
        let length = out.len() - 4;
        let declared = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
        out[..4].copy_from_slice(&declared.ok_or(BadFrame::Long(length))?.to_be_bytes());
        Ok(out)
    }

    fn decode(mut payload: Bytes) -> Result<Self, BadFrame> {
        let channel = match payload.first() {
            None => return Err(BadFrame::Empty),
            Some(b'{') => {
                let message = serde_json::from_slice(&payload);
                return message.map(Self::Message).map_err(|e| BadFrame::Json(e.to_string()));
            }
            Some(1) => Channel::Stdin,
            Some(2) => Channel::Stdout,
            Some(3) => Channel::Stderr,
            Some(kind) => return Err(BadFrame::Kind(*kind)),
        };
        payload.advance(1);
        Ok(Self::Bytes(channel, payload))
    }
}

/// Takes frames apart, wherever the chunks of a connection end. Holds at most one frame and what came with its end.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes what came. Ask for frames until there is none before giving more.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Where to read into, in place of [`Decoder::push`].
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame that is there in full.
    ///
    /// # Errors
    /// When what came is no frame; ask no further then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(BadFrame::Long(length));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        Frame::decode(self.buffer.split_to(length).freeze()).map(Some)
    }

    /// What came after the last frame.
    pub fn rest(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

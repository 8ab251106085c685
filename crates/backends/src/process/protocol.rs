//! What the server and the shim say to each other, and the files they leave for each other.
//!
//! A server may find shims started by an older or newer server, so everything carries a version and unknown fields are
//! ignored. Messages are JSON lines of bounded length.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::framework::StopSignal;

pub(super) const VERSION: u32 = 1;

/// Bytes of an order; it carries the app's whole environment.
pub(super) const LIMIT_ORDER: u64 = 4 << 20;
/// Bytes of one request on the control socket.
pub(super) const LIMIT_ASK: usize = 1024;
/// Bytes of any of the small files.
const LIMIT_FILE: u64 = 1 << 20;
/// Bytes of one line in a log.
pub(super) const LINE_BYTES: usize = 8 * 1024;

/// Locked by the shim as long as it lives.
pub(super) const LOCK_FILE: &str = "lock";
pub(super) const LOG_FILE: &str = "log";
/// What was `log` before the last rotation.
pub(super) const LOG_FILE_OLD: &str = "log.1";

/// What a shim is told, on its standard input. It may hold secrets, so it is never written to a file.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) v: u32,
    /// The instance folder, for state, log and exit status.
    pub(super) folder: PathBuf,
    /// Where the shim listens.
    pub(super) control: PathBuf,
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: PathBuf,
    pub(super) user: Option<Ids>,
    pub(super) stop_signal: StopSignal,
    /// Control groups the app joins before it runs.
    pub(super) groups: Vec<PathBuf>,
    /// Bytes of each of the two log files.
    pub(super) log_bytes: u64,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// The shim's one line on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Report {
    Started { shim: Identity, app: Identity },
    Failed(String),
}

/// A request on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) v: u32,
    pub(super) op: Op,
    #[serde(default)]
    pub(super) grace_ms: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Op {
    Status,
    Stop,
}

/// The answer to every request. The connection's end says that the shim is gone.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) v: u32,
    pub(super) app: Identity,
    pub(super) stopping: bool,
}

/// `shim.json`: who attends to the instance.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ShimFile {
    pub(super) v: u32,
    pub(super) boot: String,
    pub(super) shim: Identity,
    pub(super) app: Option<Identity>,
}

impl ShimFile {
    pub(super) const NAME: &str = "shim.json";
}

/// `exit.json`: how it ended. On disk before the shim ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ExitFile {
    pub(super) v: u32,
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) out_of_memory: bool,
    /// Whether it had been asked to end.
    pub(super) asked: bool,
    /// Set when there is no status: what became of it.
    pub(super) failure: Option<String>,
}

impl ExitFile {
    pub(super) const NAME: &str = "exit.json";
}

/// Writes a small file in one step: whoever reads sees the old content or the new. `durable`: on disk on return.
pub(super) fn write_file(folder: &Path, name: &str, value: &impl Serialize, durable: bool) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let fresh = folder.join(format!("{name}.new"));
    let mut file = File::create(&fresh)?;
    file.write_all(&text)?;
    if durable {
        file.sync_all()?;
    }
    std::fs::rename(&fresh, folder.join(name))?;
    if durable {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Reads a small file back. `None` when it is absent or not understood.
pub(super) fn read_file<T: DeserializeOwned>(folder: &Path, name: &str) -> Option<T> {
    let mut text = Vec::new();
    File::open(folder.join(name)).ok()?.take(LIMIT_FILE).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

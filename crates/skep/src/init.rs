//! Being process 1 of a container: a small parent that starts the server, reaps what nobody else waits for and passes
//! signals on.
//!
//! The server is a child so that waiting for "any child" can never steal the exit status of one the server itself waits
//! for. After `skep upgrade` another process is the server: the data folder's lock names it.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::Context;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, wait};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::data_dir;

/// Whether this process has to do an init's work.
pub(crate) fn is_needed() -> bool {
    std::process::id() == 1
}

/// Starts the server as a child and stays until the last server is gone; ends as it ended.
pub(crate) fn run(data: &Path) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Received::register()?;
        let program = std::env::current_exe().context("the server's own program cannot be found")?;
        let child = Command::new(program)
            .args(std::env::args_os().skip(1))
            .spawn()
            .context("the server cannot be started")?;
        let mut server = Pid::from_child(&child);
        loop {
            if let Some(passed_on) = signals.next().await {
                // A server that is just gone is noticed below.
                let _ = kill_process(server, passed_on);
                continue;
            }
            if let Some(status) = reap(server) {
                match data_dir::holder(data).filter(|pid| *pid != server && test_kill_process(*pid).is_ok()) {
                    Some(successor) => server = successor,
                    None => return Ok(code(status)),
                }
            }
        }
    })
}

/// Takes every ended child off the kernel's hands. The status of `server`, if it was among them.
fn reap(server: Pid) -> Option<ExitStatus> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == server {
            ended = Some(ExitStatus::from_raw(status.as_raw()));
        }
    }
    ended
}

fn code(status: ExitStatus) -> ExitCode {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(number).unwrap_or(1))
}

/// The signals an init cares for.
struct Received {
    child: Signals,
    terminate: Signals,
    interrupt: Signals,
    hang_up: Signals,
    user2: Signals,
}

impl Received {
    fn register() -> anyhow::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// A signal to pass on, or `None` when a child ended.
    async fn next(&mut self) -> Option<Signal> {
        tokio::select! {
            _ = self.child.recv() => None,
            _ = self.terminate.recv() => Some(Signal::TERM),
            _ = self.interrupt.recv() => Some(Signal::INT),
            _ = self.hang_up.recv() => Some(Signal::HUP),
            _ = self.user2.recv() => Some(Signal::USR2),
        }
    }
}

//! Attending to a running instance: a connection to its shim that says stop and learns of the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::folder::{Folder, State};
use super::identity::{self, Identity, Stat};
use super::protocol::{Ask, ExitFile, Op, ShimFile, VERSION};
use super::{Inner, Instance, cgroup};
use crate::table::blocking;

/// A connection that broke while the shim lives is opened again after this.
const AGAIN: Duration = Duration::from_millis(20);
/// How long sweeping the remains of a killed shim may take.
const SWEEP: Duration = Duration::from_secs(5);

impl Inner {
    /// Until the instance is gone entirely. Answers how it ended.
    pub(super) async fn attend(self: &Arc<Self>, instance: &Arc<Instance>, state: &State) -> ExitFile {
        loop {
            if let Ok(stream) = UnixStream::connect(&state.control).await {
                self.listen(instance, stream).await;
            }
            let (folder, known) = (instance.own.clone(), state.clone());
            if let Ok(Some(exit)) = blocking(move || conclude(&folder, &known, true)).await {
                return exit;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Holds one connection: passes on requests to stop, returns when it breaks.
    async fn listen(&self, instance: &Instance, mut stream: UnixStream) {
        let mut stop = instance.stops();
        stop.mark_changed();
        let mut answers = [0_u8; 1024];
        loop {
            tokio::select! {
                read = stream.read(&mut answers) => if !read.is_ok_and(|n| n > 0) {
                    return;
                },
                changed = stop.changed() => {
                    let asked = *stop.borrow_and_update();
                    let Some(grace) = asked else { continue };
                    if changed.is_err() || ask_to_stop(&mut stream, grace).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

async fn ask_to_stop(stream: &mut UnixStream, grace: Duration) -> std::io::Result<()> {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let mut line = serde_json::to_vec(&Ask { v: VERSION, op: Op::Stop, grace_ms })?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// How an instance ended, if it did. An instance whose shim was killed is swept and gets an exit record here.
///
/// `fresh`: this server saw the shim alive, so process ids cannot have been used again yet.
pub(super) fn conclude(folder: &Folder, state: &State, fresh: bool) -> Option<ExitFile> {
    // Written when nothing of the instance was left; the shim itself may be about to leave.
    if let Some(exit) = folder.exit() {
        return Some(exit);
    }
    // Whoever holds the lock is alive. While it is held here, none can start.
    let held = folder.lock();
    if held.is_none() && folder.path().is_dir() {
        return None;
    }
    // Between the two looks a shim may have finished.
    if let Some(exit) = folder.exit() {
        return Some(exit);
    }
    let rebooted = state.boot != identity::boot_id();
    if !rebooted {
        sweep(folder.shim().as_ref(), state, fresh);
    }
    let failure =
        if rebooted { "the machine was restarted" } else { "its shim was killed, and the app with it" };
    let exit = ExitFile {
        v: VERSION,
        code: None,
        signal: None,
        out_of_memory: state.groups.iter().any(|group| cgroup::ran_out_of_memory(group)),
        asked: false,
        failure: Some(failure.to_owned()),
    };
    if let Err(e) = folder.write_exit(&exit) {
        tracing::warn!(instance = %state.id, "its end cannot be recorded: {e}");
    }
    Some(exit)
}

/// Ends a launch that went wrong on the way, whatever of it exists.
pub(super) fn abandon(folder: &Folder, state: &State) {
    let Some(file) = folder.shim() else { return };
    file.shim.kill();
    sweep(Some(&file), state, true);
}

/// Kills whatever is left of an instance without a shim: by control group, by the mark in its environment and, while
/// that is still sure, by session.
fn sweep(shim: Option<&ShimFile>, state: &State, fresh: bool) {
    let mark = format!("SKEP_INSTANCE={}", state.id);
    let deadline = Instant::now() + SWEEP;
    loop {
        let mut left: Vec<Identity> = identity::with_environment(&mark);
        if let Some(file) = shim {
            left.extend(file.app);
            if fresh {
                left.extend(in_session(file.shim));
            }
        }
        for group in &state.groups {
            left.extend(cgroup::members(group).into_iter().filter_map(Identity::of));
            cgroup::kill(group);
        }
        left.retain(|process| process.is_alive());
        if left.is_empty() || Instant::now() >= deadline {
            return;
        }
        for process in left {
            process.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes of the session the shim led. As long as one of them lives, the session's id cannot be used again.
fn in_session(shim: Identity) -> Vec<Identity> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != shim.pid)
        .filter_map(|pid| Some((pid, Stat::of(pid)?)))
        .filter(|(_, stat)| stat.session == shim.pid && stat.start >= shim.start)
        .map(|(pid, stat)| Identity { pid, start: stat.start })
        .collect()
}

//! Starting the app: the one moment between fork and exec.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Signal, Uid, getpid, getppid, set_parent_process_death_signal, umask};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use super::super::identity::Identity;
use super::super::protocol::Order;
use super::sys;

/// How much likelier than others the app is chosen when the machine runs out of memory: it rather than the server.
const OOM_SCORE: &str = "200";

/// Starts the app with a clean environment and a pipe for both of its outputs. Answers who it is and the reading end.
pub(super) fn start(order: &Order) -> Result<(Identity, File), String> {
    let program = order.argv.first().ok_or("the order names no program")?;
    let plumbing = |e: rustix::io::Errno| format!("the app's output cannot be taken: {e}");
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(plumbing)?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).map_err(plumbing)?;
    let second = writer.try_clone().map_err(|e| format!("the app's output cannot be taken: {e}"))?;

    let mut command = Command::new(program);
    command
        .args(order.argv.get(1..).unwrap_or_default())
        .env_clear()
        .envs(order.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&order.cwd)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer))
        .stderr(Stdio::from(second));
    prepare(&mut command, order)?;
    let child = command.spawn().map_err(|e| format!("{program} cannot be started: {e}"))?;
    // Best effort: where it is not permitted, the kernel chooses without the hint.
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), OOM_SCORE);
    // Not yet reaped, so its entry in /proc exists even if it ended already.
    let identity = Identity::of(child.id()).ok_or("the app has no entry in /proc")?;
    Ok((identity, File::from(reader)))
}

/// Arranges what happens in the child: limits, user, signals, and its death should the shim die.
fn prepare(command: &mut Command, order: &Order) -> Result<(), String> {
    let joins: Vec<OwnedFd> = order
        .groups
        .iter()
        .map(|group| {
            let path = group.join("cgroup.procs");
            let file = File::options().write(true).open(&path);
            file.map(OwnedFd::from).map_err(|e| format!("the limits cannot be set: {}: {e}", path.display()))
        })
        .collect::<Result<_, _>>()?;
    let shim = getpid();
    let user = order.user.clone().map(|user| {
        let groups: Vec<Gid> = user.groups.iter().map(|&raw| Gid::from_raw(raw)).collect();
        (Uid::from_raw(user.uid), Gid::from_raw(user.gid), groups)
    });
    let child_side = move || -> io::Result<()> {
        for join in &joins {
            rustix::io::write(join, b"0")?;
        }
        if let Some((uid, gid, groups)) = &user {
            set_thread_groups(groups)?;
            set_thread_gid(*gid)?;
            set_thread_uid(*uid)?;
        }
        sys::unblock_all()?;
        umask(Mode::from_raw_mode(0o022));
        // After the change of user, which clears it.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(shim) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: the closure makes only system calls that are async-signal-safe, on values made before the fork; it
    // neither allocates nor takes a lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(child_side);
    }
    Ok(())
}

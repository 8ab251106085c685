//! The shim: the small process every instance runs under, so that the app outlives the server.
//!
//! The server starts it with an order on standard input; it detaches (a session of its own, nobody's child but init's),
//! starts the app, holds what the app writes, and waits. It is the subreaper of everything the app starts, so nothing
//! the app leaves behind escapes: when the app's first process ends, all the rest is killed, the exit status is written
//! durably beside the log, and the shim ends. When the shim itself is killed, the kernel kills the app's first process
//! and the server sweeps the rest.
//!
//! Invariants: one thread, no async runtime; memory does not grow with what the app writes or with who connects; what
//! comes over the control socket is bounded and untrusted; no secret is written to any file.
//!
//! Absent on purpose: restarting the app, probing it, knowing what it is. The server decides.

mod app;
mod control;
mod log;
mod sys;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait};

use super::cgroup;
use super::identity::{Identity, boot_id, descendants};
use super::protocol::{
    Answer, ExitFile, LIMIT_ORDER, LOCK_FILE, Order, Report, ShimFile, VERSION, write_file,
};
use crate::framework::StopSignal;
use control::Control;
use log::LogFile;

/// How long an app may take to leave when the shim itself is told to end (at the machine's shutdown).
const OWN_GRACE: Duration = Duration::from_secs(5);

/// How long killing everything may take before the shim reports and leaves anyway.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the shim of one instance. Called first thing in the process, before any thread or async runtime exists.
///
/// Arguments are for people who read a process list; everything needed comes over standard input.
pub fn run(_args: impl IntoIterator<Item = OsString>) -> ExitCode {
    sys::close_inherited();
    let order = match read_order() {
        Ok(order) => order,
        Err(why) => return refuse(why),
    };
    match sys::fork() {
        Ok(sys::Side::Parent) => ExitCode::SUCCESS,
        Ok(sys::Side::Child) => match Shim::start(order) {
            Ok(mut shim) => shim.attend(),
            Err(why) => refuse(why),
        },
        Err(e) => refuse(format!("the shim cannot fork: {e}")),
    }
}

fn refuse(why: String) -> ExitCode {
    report(&Report::Failed(why));
    ExitCode::FAILURE
}

/// One line to whoever started the shim. It may be gone; then nobody needs the line.
fn report(report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let mut out = std::io::stdout();
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

fn read_order() -> Result<Order, String> {
    let mut text = Vec::new();
    let read = std::io::stdin().take(LIMIT_ORDER + 1).read_to_end(&mut text);
    read.map_err(|e| format!("the order cannot be read: {e}"))?;
    if text.len() as u64 > LIMIT_ORDER {
        return Err("the order is too long".to_owned());
    }
    let order: Order =
        serde_json::from_slice(&text).map_err(|e| format!("the order is not understood: {e}"))?;
    if order.v != VERSION {
        return Err(format!("the order speaks version {}, this shim version {VERSION}", order.v));
    }
    Ok(order)
}

struct Shim {
    /// What remains of the order once the app runs: no environment, no arguments.
    place: Place,
    signals: OwnedFd,
    control: Control,
    /// What the app writes; gone once every process that held it is.
    output: Option<File>,
    log: LogFile,
    app: Identity,
    /// When to stop being polite. Set by the first request to stop.
    kill_at: Option<Instant>,
    /// Held as long as the shim lives: how a server that comes later knows.
    _lock: File,
}

struct Place {
    folder: std::path::PathBuf,
    stop_signal: StopSignal,
    groups: Vec<std::path::PathBuf>,
}

impl Shim {
    fn start(order: Order) -> Result<Self, String> {
        let setup = |what: &str, e: std::io::Error| format!("the shim cannot {what}: {e}");
        rustix::process::setsid().map_err(|e| setup("open a session", e.into()))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| setup("adopt orphans", e.into()))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let lock = lock(&order.folder)?;
        let own = Identity::of(rustix::process::getpid().as_raw_pid().unsigned_abs())
            .ok_or("the shim finds no entry of its own in /proc")?;
        let mut file = ShimFile { v: VERSION, boot: boot_id(), shim: own, app: None };
        write_file(&order.folder, ShimFile::NAME, &file, false).map_err(|e| setup("write its state", e))?;

        let signals = sys::signals().map_err(|e| setup("take signals", e))?;
        let _ = std::fs::remove_file(&order.control);
        let listener = UnixListener::bind(&order.control).map_err(|e| setup("open its socket", e))?;
        let log = LogFile::open(&order.folder, order.log_bytes).map_err(|e| setup("open the log", e))?;

        let started = app::start(&order);
        let (app, output) = match started {
            Ok(started) => started,
            Err(why) => {
                let _ = std::fs::remove_file(&order.control);
                return Err(why);
            }
        };
        file.app = Some(app);
        write_file(&order.folder, ShimFile::NAME, &file, false).map_err(|e| setup("write its state", e))?;
        report(&Report::Started { shim: own, app });
        sys::let_go_of_stdio().map_err(|e| setup("open /dev/null", e))?;
        let _ = std::env::set_current_dir("/");
        let place = Place { folder: order.folder, stop_signal: order.stop_signal, groups: order.groups };
        let control = Control::new(listener);
        Ok(Self { place, signals, control, output: Some(output), log, app, kill_at: None, _lock: lock })
    }

    /// The one loop: signals, the app's output, the control socket, the end of a grace period.
    fn attend(&mut self) -> ExitCode {
        let status = loop {
            let (signalled, written) = match self.wait() {
                Ok(ready) => ready,
                // Only out of memory is left here; the app goes on writing to the pipe meanwhile.
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(50));
                    (true, true)
                }
            };
            if written {
                self.take_output();
            }
            if signalled {
                let (ended, asked) = self.take_signals();
                if let Some(status) = ended {
                    break status;
                }
                if asked {
                    self.stop(OWN_GRACE);
                }
            }
            let app = self.app;
            let stopping = self.kill_at.is_some();
            if let Some(grace) = self.control.attend(&Answer { v: VERSION, app, stopping }) {
                self.stop(grace);
            }
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill_everything(Some(self.app));
                self.kill_at = Some(Instant::now() + Duration::from_millis(200));
            }
        };
        self.finish(status)
    }

    /// Waits until something happens. Answers whether a signal and whether output is there.
    fn wait(&self) -> Result<(bool, bool), rustix::io::Errno> {
        let mut fds = Vec::with_capacity(12);
        fds.push(PollFd::new(&self.signals, PollFlags::IN));
        if let Some(output) = &self.output {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        self.control.poll_fds(&mut fds);
        let timeout = self.kill_at.map(|at| {
            // One millisecond more than what is left, so that the loop does not spin on the last one.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ok((ready(0), self.output.is_some() && ready(1)))
    }

    /// Moves what the app wrote into the log, a bounded amount at a time.
    fn take_output(&mut self) {
        let mut buffer = [0_u8; 16 * 1024];
        for _ in 0..16 {
            let Some(output) = &mut self.output else { return };
            match output.read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(n) => self.log.write(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => self.output = None,
            }
        }
    }

    /// Answers the app's exit status, if it ended, and whether the shim was told to end.
    fn take_signals(&mut self) -> (Option<WaitStatus>, bool) {
        let asked = sys::drain_signals(&self.signals);
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_pid().unsigned_abs() == self.app.pid {
                ended = Some(status);
            }
        }
        (ended, asked)
    }

    /// Asks the app to end, once; a later request can only shorten the grace.
    fn stop(&mut self, grace: Duration) {
        let at = Instant::now() + grace.min(Duration::from_secs(24 * 3600));
        if self.kill_at.is_none()
            && let Some(group) = self.app.as_pid()
        {
            let signal = match self.place.stop_signal {
                StopSignal::Sigterm => Signal::TERM,
                StopSignal::Sigint => Signal::INT,
            };
            let _ = kill_process_group(group, signal);
            // A stopped process would never see the signal.
            let _ = kill_process_group(group, Signal::CONT);
        }
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    fn kill_everything(&self, app: Option<Identity>) {
        // Once the app's first process is collected, its id may be somebody else's.
        if let Some(group) = app.and_then(Identity::as_pid) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        for pid in descendants(rustix::process::getpid().as_raw_pid().unsigned_abs()) {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for group in &self.place.groups {
            cgroup::kill(group);
        }
    }

    /// The app's first process is gone: ends the rest, then records how it went.
    fn finish(&mut self, status: WaitStatus) -> ExitCode {
        let deadline = Instant::now() + KILL_DEADLINE;
        // As subreaper, the shim has no children left exactly when nothing the app started is left.
        while !self.reap_all() && Instant::now() < deadline {
            self.kill_everything(None);
            let mut fds = [PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
            sys::drain_signals(&self.signals);
            self.take_output();
        }
        for _ in 0..256 {
            if self.output.is_none() {
                break;
            }
            self.take_output();
            if !self.output_waits() {
                break;
            }
        }
        let exit = ExitFile {
            v: VERSION,
            code: status.exit_status(),
            signal: status.terminating_signal(),
            out_of_memory: self.place.groups.iter().any(|group| cgroup::ran_out_of_memory(group)),
            asked: self.kill_at.is_some(),
            failure: None,
        };
        let kept = write_file(&self.place.folder, ExitFile::NAME, &exit, true);
        for group in &self.place.groups {
            cgroup::remove(group);
        }
        self.control.close();
        if kept.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn output_waits(&self) -> bool {
        let Some(output) = &self.output else { return false };
        let mut fds = [PollFd::new(output, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }

    /// Collects whoever ended. Answers whether nobody is left.
    fn reap_all(&self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }
}

/// Takes the lock that says this instance has a shim. Fails when the folder was given up in the meantime.
fn lock(folder: &Path) -> Result<File, String> {
    let path = folder.join(LOCK_FILE);
    let file = File::options().write(true).open(&path);
    let file = file.map_err(|e| format!("the instance folder was given up: {}: {e}", path.display()))?;
    file.try_lock().map_err(|e| format!("another shim holds {}: {e}", path.display()))?;
    let held = rustix::fs::fstat(&file).map_err(|e| format!("{}: {e}", path.display()))?;
    // A server that found the folder without a shim recorded an end, under this lock.
    if held.st_nlink == 0 || folder.join(ExitFile::NAME).exists() {
        return Err("the instance folder was given up".to_owned());
    }
    Ok(file)
}

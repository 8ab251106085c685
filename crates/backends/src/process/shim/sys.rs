//! The system calls that have no safe wrapper. Everything unsafe of the shim is in this file and in `app.rs`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

pub(super) enum Side {
    Parent,
    Child,
}

/// Splits the process in two; the child goes on alone.
pub(super) fn fork() -> io::Result<Side> {
    // SAFETY: the shim has one thread (it is called before any other is started), so no lock can be held by a thread
    // that does not exist in the child.
    #[allow(unsafe_code)]
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        _ => Ok(Side::Parent),
    }
}

/// Closes everything but standard input and output: whatever the server had open is none of the shim's business.
pub(super) fn close_inherited() {
    // SAFETY: called first thing in the process, when no Rust object owns a descriptor above 2. A kernel without the
    // call answers ENOSYS, which leaves descriptors open that are close-on-exec anyway.
    #[allow(unsafe_code)]
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
    }
}

/// Blocks the signals the shim acts on and makes them readable.
pub(super) fn signals() -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by sigemptyset before any other use and outlives the calls; the descriptor signalfd
    // answers is new and owned by nobody else.
    #[allow(unsafe_code)]
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Gives a child between fork and exec an empty signal mask: a mask survives exec, and the app expects its signals.
pub(super) fn unblock_all() -> io::Result<()> {
    // SAFETY: `set` is initialised by sigemptyset; sigprocmask is async-signal-safe.
    #[allow(unsafe_code)]
    let done = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads what signals came. Answers whether one of them asks the shim to end.
pub(super) fn drain_signals(signals: &OwnedFd) -> bool {
    // Each record is a `signalfd_siginfo` of 128 bytes that starts with the signal's number.
    const RECORD: usize = 128;
    let mut asked = false;
    let mut buffer = [0_u8; RECORD * 8];
    let Ok(fd) = signals.as_fd().try_clone_to_owned() else { return false };
    let mut file = File::from(fd);
    while let Ok(n) = file.read(&mut buffer) {
        if n == 0 {
            break;
        }
        for record in buffer[..n].chunks_exact(RECORD) {
            let number = record.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes));
            asked |= matches!(number, Some(libc::SIGTERM | libc::SIGINT | libc::SIGQUIT));
        }
    }
    asked
}

/// Points standard input, output and error at nothing, so that whoever started the shim sees the end of its report.
pub(super) fn let_go_of_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

//! The data folder: where it is, who may use it, and the one socket in it that commands talk to.
//!
//! One server per data folder: a `flock` on `lock` says so, and its text names the holder. The kernel drops the lock with
//! the process, so nothing is left behind by a `kill -9`.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, Mode, OFlags};

/// The longest path a Unix socket takes on Linux, the closing NUL not counted.
pub(crate) const SOCKET_PATH_MAX: usize = 107;

/// The key ring, unless the config names another file.
pub(crate) const KEY_FILE: &str = "cookie.keys";

const LOCK_FILE: &str = "lock";
const CONTROL_SOCKET: &str = "control.sock";

/// A data folder that exists and belongs to us.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

/// The right to be the server of a data folder. Given up when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

/// Somebody else is the server of this data folder.
#[derive(Debug, thiserror::Error)]
#[error(
    "{dir} is in use by another skep server, process {pid}; stop it, or choose another folder with --data-dir"
)]
pub(crate) struct Taken {
    dir: String,
    pid: String,
}

/// `--data-dir`, `$SKEP_DATA_DIR` (both in `given`), `/var/lib/skep` for root, `$XDG_STATE_HOME/skep` for others.
pub(crate) fn resolve(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = given {
        return std::path::absolute(dir).with_context(|| format!("{} is no usable path", dir.display()));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/skep"));
    }
    if let Some(state) = std::env::var_os("XDG_STATE_HOME").filter(|state| Path::new(state).is_absolute()) {
        return Ok(Path::new(&state).join("skep"));
    }
    match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Ok(Path::new(&home).join(".local/state/skep")),
        None => bail!("no data folder: neither HOME nor XDG_STATE_HOME is set; name one with --data-dir"),
    }
}

impl DataDir {
    /// Makes the folder if need be; nobody else may look into it.
    pub(crate) fn open(dir: PathBuf) -> anyhow::Result<Self> {
        if !dir.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).with_context(|| {
                format!("the data folder {} cannot be made; name another with --data-dir", dir.display())
            })?;
        }
        let meta =
            dir.metadata().with_context(|| format!("the data folder {} cannot be read", dir.display()))?;
        if !meta.is_dir() {
            bail!("the data folder {} is no folder; name another with --data-dir", dir.display());
        }
        let euid = rustix::process::geteuid().as_raw();
        if meta.uid() != euid && euid != 0 {
            bail!(
                "the data folder {} belongs to user {}; run as that user or name another folder with --data-dir",
                dir.display(),
                meta.uid()
            );
        }
        if meta.mode() & 0o077 != 0 {
            std::fs::set_permissions(&dir, Permissions::from_mode(0o700))
                .with_context(|| format!("the data folder {} is open to other users", dir.display()))?;
        }
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// # Errors
    /// [`Taken`] when another server holds it.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.0.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let pid = text.trim();
                let pid = if pid.is_empty() { "unknown".to_owned() } else { pid.to_owned() };
                return Err(Taken { dir: self.0.display().to_string(), pid }.into());
            }
            Err(error) => return Err(error).with_context(|| format!("{} cannot be locked", path.display())),
        }
        let mut lock = Lock { file };
        lock.sign()?;
        Ok(lock)
    }

    /// Listens on the control socket; only this user may connect. Call with the lock held.
    pub(crate) fn listen(&self) -> anyhow::Result<UnixListener> {
        let path = self.0.join(CONTROL_SOCKET);
        let _ = std::fs::remove_file(&path);
        let (short, _dir) = socket_path(&self.0, CONTROL_SOCKET)?;
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(&short);
        rustix::process::umask(before);
        let listener =
            bound.with_context(|| format!("the control socket {} cannot be made", path.display()))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Connects to the server of this folder.
    pub(crate) fn connect(dir: &Path) -> anyhow::Result<UnixStream> {
        let refused = || {
            format!(
                "no skep server answers in {}; start one with `skep serve`, or name its folder with --data-dir",
                dir.display()
            )
        };
        let (short, _dir) = socket_path(dir, CONTROL_SOCKET).with_context(refused)?;
        UnixStream::connect(short).with_context(refused)
    }
}

impl Lock {
    /// A lock handed over by the process that held it so far. The kernel ties it to the open file, not to a process: it
    /// is held without a gap for as long as either of the two has the file open.
    pub(crate) fn inherit(file: OwnedFd) -> Self {
        Self { file: file.into() }
    }

    /// Names this process as the holder.
    pub(crate) fn sign(&mut self) -> anyhow::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id()).context("the data folder's lock cannot be written")
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The process that last signed the folder's lock. It may be gone.
pub(crate) fn holder(dir: &Path) -> Option<rustix::process::Pid> {
    let text = std::fs::read_to_string(dir.join(LOCK_FILE)).ok()?;
    rustix::process::Pid::from_raw(text.trim().parse().ok()?)
}

/// A path for a socket in `dir` that is short enough: the plain one, or one through the folder's descriptor, which must be
/// kept open while the path is used.
pub(crate) fn socket_path(dir: &Path, name: &str) -> anyhow::Result<(PathBuf, Option<OwnedFd>)> {
    let plain = dir.join(name);
    if plain.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok((plain, None));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty())
        .with_context(|| format!("{} cannot be opened", dir.display()))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}/{name}", opened.as_raw_fd()));
    Ok((short, Some(opened)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_per_folder_and_the_other_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path().join("data")).unwrap();
        assert_eq!(data.path().metadata().unwrap().mode() & 0o777, 0o700);
        let lock = data.lock().unwrap();
        let refused = data.lock().unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        let heir = Lock::inherit(lock.as_fd().try_clone_to_owned().unwrap());
        drop(lock);
        assert!(data.lock().is_err(), "held without a gap");
        drop(heir);
        data.lock().unwrap();
    }

    #[test]
    fn a_deep_folder_still_has_a_control_socket() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        let data = DataDir::open(deep.clone()).unwrap();
        let listener = data.listen().unwrap();
        DataDir::connect(&deep).unwrap();
        assert!(listener.accept().is_ok());
        let meta = std::fs::metadata(deep.join(CONTROL_SOCKET)).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600);
    }
}

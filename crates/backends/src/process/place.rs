//! Where instances listen: Unix sockets with short paths, else checked ports.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{Gid, Uid};

use super::protocol::Ids;
use super::user;

/// The ports instances get.
pub const PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

/// The kernel takes 107 bytes; some frameworks append to the path.
const MAX_SOCKET_PATH: usize = 99;

/// What follows the run folder in the longest path: `/` 16 digits `/app.sock`.
const BELOW: usize = 1 + 16 + "/app.sock".len();

/// The folder for sockets, and the ports given out.
#[derive(Debug)]
pub(super) struct Places {
    run: PathBuf,
    /// Used instead for apps of users who cannot get to the run folder. Made when first needed.
    open_to_all: PathBuf,
    taken: Mutex<HashSet<u16>>,
}

/// The paths of one instance.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    /// The app's own folder, owned by the user it runs as.
    pub(super) run: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) control: PathBuf,
}

impl Places {
    /// Chooses the run folder: the one given, else the first of the usual ones whose paths are short enough and that is
    /// or can be made ours.
    pub(super) fn open(given: Option<&Path>, data: &Path) -> io::Result<Self> {
        let candidates = given.map_or_else(|| usual(data), |path| vec![path.to_path_buf()]);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no folder for sockets");
        for run in candidates {
            match take(&run) {
                Ok(()) => {
                    let open_to_all = Path::new("/run").join(name_for(data));
                    return Ok(Self { run, open_to_all, taken: Mutex::new(HashSet::new()) });
                }
                Err(e) => last = io::Error::new(e.kind(), format!("{}: {e}", run.display())),
            }
        }
        Err(last)
    }

    /// The paths of an instance, whose app runs as this user if that is not our own.
    pub(super) fn paths(&self, short: &str, user: Option<&Ids>) -> Paths {
        let reached = user.is_none_or(|user| user::may_enter(&self.run, user).is_ok());
        let run = if reached { &self.run } else { &self.open_to_all }.join(short);
        Paths { socket: run.join("app.sock"), control: self.run.join(format!("{short}.shim")), run }
    }

    /// Makes the folder an app may create its socket in.
    pub(super) fn make(&self, paths: &Paths, user: Option<&Ids>) -> io::Result<()> {
        if paths.run.starts_with(&self.open_to_all) {
            take(&self.open_to_all)?;
        }
        DirBuilder::new().mode(0o700).create(&paths.run)?;
        if let Some(user) = user {
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            rustix::fs::chown(&paths.run, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Gives out a port that nobody listens on and no other instance was given.
    pub(super) fn claim_port(&self, random: u64) -> io::Result<u16> {
        let count = u64::from(PORTS.end() - PORTS.start()) + 1;
        let mut taken = self.taken.lock();
        for step in 0..count {
            let offset = (random.wrapping_add(step)) % count;
            let port = PORTS.start().saturating_add(u16::try_from(offset).unwrap_or(0));
            if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                taken.insert(port);
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "every port from 20000 to 29999 is in use"))
    }

    /// Remembers the port of an instance found alive.
    pub(super) fn keep_port(&self, port: u16) {
        self.taken.lock().insert(port);
    }

    pub(super) fn release_port(&self, port: u16) {
        self.taken.lock().remove(&port);
    }
}

fn usual(data: &Path) -> Vec<PathBuf> {
    let uid = rustix::process::geteuid();
    let name = name_for(data);
    let mut folders = vec![data.join("run")];
    if uid.is_root() {
        folders.push(Path::new("/run").join(&name));
    } else if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR") {
        folders.push(Path::new(&runtime).join(&name));
    }
    folders.push(Path::new("/tmp").join(format!("{name}-{}", uid.as_raw())));
    folders
}

/// A short name that differs between data folders.
fn name_for(data: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    format!("skep-{:08x}", hasher.finish() & 0xffff_ffff)
}

/// Makes the folder ours, or refuses it.
fn take(run: &Path) -> io::Result<()> {
    if run.as_os_str().len() + BELOW > MAX_SOCKET_PATH {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for Unix sockets"));
    }
    if !run.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is not absolute"));
    }
    match DirBuilder::new().mode(0o700).create(run) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let meta = fs::symlink_metadata(run)?;
    let ours = rustix::process::geteuid();
    if !meta.is_dir() || meta.uid() != ours.as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to somebody else"));
    }
    // As root, apps may run as other users: each must get through to its own folder, and no further.
    let mode = if ours.is_root() { 0o711 } else { 0o700 };
    if meta.permissions().mode() & 0o777 == mode {
        return Ok(());
    }
    fs::set_permissions(run, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_too_deep_gives_way_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(80));
        fs::create_dir(&deep).unwrap();
        assert!(take(&deep).is_err());
        let places = Places::open(None, &deep).unwrap();
        assert!(!places.run.starts_with(&deep));
        assert!(places.paths("0123456789abcdef", None).socket.as_os_str().len() <= MAX_SOCKET_PATH);
        fs::remove_dir(&places.run).unwrap();
        let near = Places::open(None, dir.path()).unwrap();
        assert_eq!(near.run, dir.path().join("run"));
    }

    #[test]
    fn ports_in_use_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::open(Some(&dir.path().join("r")), dir.path()).unwrap();
        let first = places.claim_port(4321).unwrap();
        let second = places.claim_port(u64::from(first - PORTS.start())).unwrap();
        assert_ne!(first, second);
        let used = places.claim_port(77).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, used)).unwrap();
        places.release_port(used);
        assert_ne!(places.claim_port(u64::from(used - PORTS.start())).unwrap(), used);
        drop(listener);
        assert!(PORTS.contains(&first) && PORTS.contains(&second));
    }
}

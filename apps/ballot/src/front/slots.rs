//! Which folder of a volume a front uses, and which it looks after.
//!
//! Several fronts may share one volume (tasks of a service on one node). Each holds a *slot*, a folder locked for as long
//! as the process lives. A slot nobody holds belongs to a front that is gone: its log is adopted, drained by workers,
//! and removed. Absent: simulation, which gives each front its folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::Front;

/// A slot of our own.
pub struct Slot {
    pub dir: PathBuf,
    _lock: File,
}

fn slot_dirs(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("slot-") && path.is_dir() {
            dirs.push(path);
        }
    }
    dirs.sort();
    Ok(dirs)
}

fn lock(dir: &Path) -> std::io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("lock"))?;
    match file.try_lock() {
        // The folder may have been finished and removed between opening and locking.
        Ok(()) => Ok(dir.join("lock").exists().then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Takes the first free slot that may still be written to, or makes a new one.
///
/// # Errors
/// As the file system reports.
pub fn take(root: &Path) -> std::io::Result<Slot> {
    crate::log::create_dir_durably(root)?;
    for dir in slot_dirs(root)? {
        if super::is_sealed(&dir) {
            continue;
        }
        if let Some(lock) = lock(&dir)? {
            return Ok(Slot { dir, _lock: lock });
        }
    }
    for number in 0..10_000 {
        let dir = root.join(format!("slot-{number:04}"));
        if std::fs::create_dir(&dir).is_err() {
            continue;
        }
        crate::disk::sync_dir(root)?;
        if let Some(lock) = lock(&dir)? {
            return Ok(Slot { dir, _lock: lock });
        }
    }
    Err(std::io::Error::other(format!("{} holds ten thousand slots", root.display())))
}

/// Adopts the logs of slots that nobody holds. Answers how many.
pub fn adopt_stranded(root: &Path, front: &Front) -> std::io::Result<usize> {
    let mut adopted = 0;
    for dir in slot_dirs(root)? {
        if front.is_served(&dir) {
            continue;
        }
        let Some(lock) = lock(&dir)? else { continue };
        if !dir.join("log").exists() {
            continue;
        }
        match front.adopt(&dir, Some(lock)) {
            Ok(_) => adopted += 1,
            Err(error) => tracing::error!(dir = %dir.display(), %error, "cannot adopt a stranded log"),
        }
    }
    Ok(adopted)
}

//! An app's own Python environment: made from the requirements beside it, once, and kept by content.
//!
//! `<data>/envs/<key>/` where the key is a hash of everything that decides what comes out: the requirements, the
//! interpreter, the user who builds, this file's own recipe. A build goes into a fresh folder below it; the record that
//! names that folder is put in place in one step at the very end, so a build that was cut short is never used. (The
//! folder itself is not renamed: programs installed into a virtual environment carry its path.)
//!
//! Invariants: one build per key at a time, in this process and across processes; whoever else wants it waits for the
//! same build and sees its progress. Code of packages runs at build time, so the build runs as the app's user.

mod build;
mod need;
mod python;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_launch::{BackendError, ProgressSink, Stage};
use tokio::sync::{Semaphore, watch};

use super::protocol::{read_file, write_file};
use super::user::User;
use crate::table::blocking;
pub(super) use need::Need;
pub(super) use python::{Interpreter, find_program};

/// Builds at a time; further ones wait.
const BUILDS: usize = 2;
/// Environments nobody started an instance in for this long are removed.
const KEEP_UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Touched at every launch.
const USED_FILE: &str = "used";

/// Every environment of this installation.
pub(super) struct Environments {
    root: PathBuf,
    /// Where programs are looked for.
    path: String,
    builds: Mutex<HashMap<String, Arc<Build>>>,
    room: Arc<Semaphore>,
    interpreters: Mutex<HashMap<u32, Interpreter>>,
}

/// A build in progress, as those who wait for it see it.
struct Build {
    progress: watch::Sender<String>,
    done: watch::Sender<Option<Result<PathBuf, BackendError>>>,
}

/// `complete.json`: which folder holds the environment.
#[derive(Serialize, Deserialize)]
struct Complete {
    folder: String,
}

impl Complete {
    const NAME: &str = "complete.json";
}

impl Environments {
    pub(super) fn open(root: PathBuf, path: String) -> std::io::Result<Self> {
        fs::create_dir_all(&root)?;
        // Apps running as other users load their packages from here.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            root,
            path,
            builds: Mutex::new(HashMap::new()),
            room: Arc::new(Semaphore::new(BUILDS)),
            interpreters: Mutex::new(HashMap::new()),
        })
    }

    /// The Python apps without an environment of their own run on. Found once per user; looked for again while missing.
    pub(super) fn interpreter(&self, user: &User) -> Result<Interpreter, BackendError> {
        if let Some(known) = self.interpreters.lock().get(&user.ids.uid) {
            return Ok(known.clone());
        }
        let found = python::find(&self.path, user)?;
        self.interpreters.lock().insert(user.ids.uid, found.clone());
        Ok(found)
    }

    /// The environment for these requirements, built first if need be. Answers the folder of the virtual environment.
    ///
    /// # Errors
    /// [`BackendError::App`] with the last lines when the requirements cannot be installed.
    pub(super) async fn ensure(
        self: &Arc<Self>,
        need: Need,
        user: User,
        progress: &ProgressSink,
    ) -> Result<PathBuf, BackendError> {
        let this = Arc::clone(self);
        let wanted = user.clone();
        let interpreter = blocking(move || this.interpreter(&wanted)).await??;
        let key = need.key(&interpreter, &user);
        let place = self.root.join(&key);
        if let Some(ready) = complete(&place) {
            return Ok(ready);
        }
        let build = self.join_or_start(key, place, need, interpreter, user);
        let (mut lines, mut done) = (build.progress.subscribe(), build.done.subscribe());
        drop(build);
        let mut building = true;
        while building {
            let line = lines.borrow_and_update().clone();
            if !line.is_empty() {
                progress.report(Stage::Environment, line);
            }
            tokio::select! {
                _ = done.wait_for(Option::is_some) => building = false,
                // Err: the build is gone, with or without a result.
                more = lines.changed() => building = more.is_ok(),
            }
        }
        let result = done.borrow().clone();
        result.unwrap_or_else(|| {
            Err(BackendError::Platform("the build of the environment was given up".to_owned()))
        })
    }

    fn join_or_start(
        self: &Arc<Self>,
        key: String,
        place: PathBuf,
        need: Need,
        interpreter: Interpreter,
        user: User,
    ) -> Arc<Build> {
        let mut builds = self.builds.lock();
        if let Some(build) = builds.get(&key) {
            return Arc::clone(build);
        }
        let build =
            Arc::new(Build { progress: watch::Sender::new(String::new()), done: watch::Sender::new(None) });
        builds.insert(key.clone(), Arc::clone(&build));
        let (this, running) = (Arc::clone(self), Arc::clone(&build));
        // A task of its own: the visitor who wanted it first may leave.
        tokio::spawn(async move {
            let job = build::Job {
                place,
                need,
                interpreter,
                user,
                path: this.path.clone(),
                cache: this.root.clone(),
            };
            let room = Arc::clone(&this.room).acquire_owned().await;
            let result = job.run(&running.progress).await;
            drop(room);
            this.builds.lock().remove(&key);
            running.done.send_replace(Some(result));
        });
        build
    }

    /// Removes environments nobody has used for long, except those an instance runs in.
    pub(super) fn sweep(&self, in_use: &[PathBuf], now: SystemTime) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for place in entries.filter_map(Result::ok).map(|e| e.path()) {
            let Some(key) = place.file_name().and_then(|n| n.to_str()) else { continue };
            if !need::is_key(key) || in_use.iter().any(|program| program.starts_with(&place)) {
                continue;
            }
            let used = [USED_FILE, Complete::NAME].iter().find_map(|f| place.join(f).metadata().ok());
            let used = used.or_else(|| place.metadata().ok()).and_then(|meta| meta.modified().ok());
            let old = used.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > KEEP_UNUSED));
            if old && !self.builds.lock().contains_key(key) {
                tracing::info!(environment = %place.display(), "removing an environment unused for long");
                let _ = fs::remove_dir_all(&place);
            }
        }
    }
}

/// The finished environment of a key, marked as used.
fn complete(place: &Path) -> Option<PathBuf> {
    let record: Complete = read_file(place, Complete::NAME)?;
    let well_formed = !record.folder.contains('/') && !record.folder.starts_with('.');
    let folder = place.join(&record.folder);
    (well_formed && folder.join("bin/python").exists()).then(|| {
        let _ = File::create(place.join(USED_FILE));
        folder
    })
}

/// Records that a folder below `place` holds the finished environment.
fn record(place: &Path, folder: &str) -> std::io::Result<()> {
    write_file(place, Complete::NAME, &Complete { folder: folder.to_owned() }, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_recorded_environment_counts_and_unused_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let envs = Environments::open(dir.path().join("envs"), String::new()).unwrap();
        let key = "0123456789abcdef0123456789abcdef";
        let place = dir.path().join("envs").join(key);
        let bin = place.join("env-1/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("python"), "").unwrap();
        assert_eq!(complete(&place), None, "cut short");
        record(&place, "env-1").unwrap();
        assert_eq!(complete(&place), Some(place.join("env-1")));

        let now = SystemTime::now();
        envs.sweep(&[], now);
        assert!(place.exists());
        envs.sweep(&[bin.join("python")], now + KEEP_UNUSED * 2);
        assert!(place.exists(), "an instance runs in it");
        fs::create_dir(dir.path().join("envs/cache")).unwrap();
        envs.sweep(&[], now + KEEP_UNUSED * 2);
        assert!(!place.exists());
        assert!(dir.path().join("envs/cache").exists());
    }
}

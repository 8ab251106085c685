//! The folder of one instance: `<data>/instances/<id>/`.
//!
//! It outlives the server, the shim and the instance: a later server finds in it what runs, what became of it, and what
//! it wrote. It holds no secret. Folders of ended instances are kept for their logs, a few per app.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use skep_model::{AppId, InstanceId, Principal, Revision, SeatId, Variant};

use super::protocol::{ExitFile, LOCK_FILE, ShimFile, read_file, write_file};
use crate::framework::Endpoint;

/// Folders of ended instances kept per app, for their logs.
const KEEP_PER_APP: usize = 5;
/// And for how long.
const KEEP_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

const STATE_FILE: &str = "state.json";
const SEATS_FILE: &str = "seats.json";
const READY_FILE: &str = "ready.json";
/// Present once the end of the instance has been reported.
const SETTLED_FILE: &str = "settled";

/// What the server knows of an instance it started. Written before the shim is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) v: u32,
    pub(super) id: InstanceId,
    pub(super) boot: String,
    pub(super) revision: Revision,
    pub(super) owner: Option<Principal>,
    #[serde(default)]
    pub(super) variant: Variant,
    pub(super) started_at_ms: i64,
    pub(super) endpoint: Endpoint,
    /// The shim's control socket.
    pub(super) control: PathBuf,
    /// The folder of the app's own socket.
    pub(super) run: PathBuf,
    pub(super) groups: Vec<PathBuf>,
    pub(super) memory_limit: Option<u64>,
    /// The interpreter, for hints about what is missing in it.
    pub(super) program: String,
    pub(super) entry: Option<String>,
    /// Whether the app has an environment of its own.
    pub(super) own_environment: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn of(instances: &Path, id: &InstanceId) -> Self {
        Self { path: instances.join(id.to_string()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder and everything a shim needs to find in it.
    pub(super) fn create(&self, state: &State) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&self.path)?;
        write_file(&self.path, STATE_FILE, state, false)?;
        File::create(self.path.join(LOCK_FILE)).map(drop)
    }

    pub(super) fn state(&self) -> Option<State> {
        read_file(&self.path, STATE_FILE)
    }

    pub(super) fn shim(&self) -> Option<ShimFile> {
        read_file(&self.path, ShimFile::NAME)
    }

    pub(super) fn exit(&self) -> Option<ExitFile> {
        read_file(&self.path, ExitFile::NAME)
    }

    pub(super) fn write_exit(&self, exit: &ExitFile) -> io::Result<()> {
        write_file(&self.path, ExitFile::NAME, exit, true)
    }

    pub(super) fn note_seats(&self, seats: &[SeatId]) -> io::Result<()> {
        write_file(&self.path, SEATS_FILE, &seats, false)
    }

    pub(super) fn seats(&self) -> Option<Vec<SeatId>> {
        read_file(&self.path, SEATS_FILE)
    }

    pub(super) fn note_ready(&self, ready_ms: u64) -> io::Result<()> {
        write_file(&self.path, READY_FILE, &ready_ms, false)
    }

    pub(super) fn ready_ms(&self) -> Option<u64> {
        read_file(&self.path, READY_FILE)
    }

    pub(super) fn settle(&self) {
        // Should this fail, the end is reported once more by the next server: better twice than never.
        let _ = File::create(self.path.join(SETTLED_FILE));
    }

    pub(super) fn is_settled(&self) -> bool {
        self.path.join(SETTLED_FILE).exists()
    }

    /// The shim's lock, if no shim holds it. While the answer lives, no late shim can start.
    pub(super) fn lock(&self) -> Option<File> {
        let file = File::options().write(true).open(self.path.join(LOCK_FILE)).ok()?;
        file.try_lock().ok().map(|()| file)
    }

    pub(super) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Every instance folder there is.
pub(super) fn list(instances: &Path) -> Vec<(InstanceId, Folder)> {
    let Ok(entries) = fs::read_dir(instances) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let id: InstanceId = entry.file_name().to_str()?.parse().ok()?;
            let folder = Folder::of(instances, &id);
            Some((id, folder))
        })
        .collect()
}

/// Removes folders of instances that ended, all but the newest few of an app.
pub(super) fn prune(instances: &Path, app: &AppId, now: SystemTime) {
    let mut ended: Vec<(SystemTime, Folder)> = list(instances)
        .into_iter()
        .filter(|(id, folder)| id.app() == app && folder.is_settled())
        .filter_map(|(_, folder)| {
            let at = fs::metadata(folder.path.join(SETTLED_FILE)).and_then(|m| m.modified()).ok()?;
            Some((at, folder))
        })
        .collect();
    ended.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    for (place, (at, folder)) in ended.iter().enumerate() {
        let old = now.duration_since(*at).is_ok_and(|age| age > KEEP_FOR);
        if place >= KEEP_PER_APP || old {
            folder.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: &InstanceId) -> State {
        State {
            v: 1,
            id: id.clone(),
            boot: "b".to_owned(),
            revision: Revision(u64::MAX),
            owner: Some(Principal::User { name: "ada".parse().unwrap(), groups: vec!["g".to_owned()] }),
            variant: Variant::named("north".parse().ok()),
            started_at_ms: 5,
            endpoint: Endpoint::Socket("/run/x".into()),
            control: "/run/c".into(),
            run: "/run/r".into(),
            groups: Vec::new(),
            memory_limit: Some(1),
            program: "python3".to_owned(),
            entry: None,
            own_environment: false,
        }
    }

    #[test]
    fn what_is_noted_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let id = InstanceId::new("sales".parse().unwrap(), 3);
        let folder = Folder::of(dir.path(), &id);
        folder.create(&state(&id)).unwrap();
        assert_eq!(folder.state(), Some(state(&id)));
        assert!(folder.create(&state(&id)).is_err(), "an id is used once");
        let seats = vec![SeatId(u128::MAX), SeatId(0)];
        folder.note_seats(&seats).unwrap();
        assert_eq!(folder.seats(), Some(seats));
        folder.note_ready(1234).unwrap();
        assert_eq!(folder.ready_ms(), Some(1234));
        let held = folder.lock().unwrap();
        assert!(folder.lock().is_none());
        drop(held);
        assert_eq!(list(dir.path()).len(), 1);
    }

    #[test]
    fn only_the_newest_ended_instances_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let app: AppId = "sales".parse().unwrap();
        for nonce in 0..8 {
            let id = InstanceId::new(app.clone(), nonce);
            let folder = Folder::of(dir.path(), &id);
            folder.create(&state(&id)).unwrap();
            if nonce > 0 {
                folder.settle();
            }
        }
        prune(dir.path(), &app, SystemTime::now());
        assert_eq!(list(dir.path()).len(), KEEP_PER_APP + 1, "the living one is never removed");
        prune(dir.path(), &app, SystemTime::now() + KEEP_FOR * 2);
        assert_eq!(list(dir.path()).len(), 1);
    }
}

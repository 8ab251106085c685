//! What is kept of instances outside their containers: `<data>/<backend>/instances/<id>/`.
//!
//! Seats and readiness while it lives, its secrets for its container to read, its last words once it has ended. Folders of
//! ended instances are kept for their logs, a few per app.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use skep_launch::ExitReport;
use skep_model::{AppId, InstanceId, SeatId};

/// Folders of ended instances kept per app.
const KEEP_PER_APP: usize = 5;
/// Bytes of any of the small files.
const SMALL: u64 = 1 << 20;
/// Bytes of a kept log.
const LOG_BYTES: u64 = 16 << 20;

const SEATS: &str = "seats.json";
const READY: &str = "ready.json";
const LOG: &str = "log";
const SECRETS: &str = "secrets";
/// How it ended. Present once the container is on its way out.
const EXIT: &str = "exit.json";
/// The name of this installation, on every container of it.
const INSTALL: &str = "install";

#[derive(Debug, Clone)]
pub(crate) struct Notes {
    root: PathBuf,
}

impl Notes {
    pub(crate) fn below(root: PathBuf) -> Self {
        Self { root }
    }

    /// The installation's name; `None` as long as nothing was ever launched.
    pub(crate) fn install(&self) -> Option<String> {
        let name = fs::read_to_string(self.root.join(INSTALL)).ok()?;
        let good = name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit());
        good.then_some(name)
    }

    /// The installation's name, drawn now if need be.
    pub(crate) fn make_install(&self) -> io::Result<String> {
        if let Some(name) = self.install() {
            return Ok(name);
        }
        folder(&self.root)?;
        let name = format!("{:016x}", getrandom::u64().map_err(io::Error::other)?);
        // Made in one step and never replaced: of two who draw, the first wins.
        let fresh = self.root.join(format!("{INSTALL}.{name}"));
        let mut file = File::create(&fresh)?;
        file.write_all(name.as_bytes())?;
        file.sync_all()?;
        let _ = fs::hard_link(&fresh, self.root.join(INSTALL));
        fs::remove_file(&fresh)?;
        self.install().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn of(&self, id: &InstanceId) -> PathBuf {
        self.root.join("instances").join(id.to_string())
    }

    pub(crate) fn make(&self, id: &InstanceId) -> io::Result<()> {
        folder(&self.of(id))
    }

    /// Writes a secret where its container can read it, whoever runs in there; on the host the folder around it keeps
    /// everybody else away. Answers the file.
    pub(crate) fn put_secret(&self, id: &InstanceId, name: &str, value: &[u8]) -> io::Result<PathBuf> {
        let dir = self.of(id).join(SECRETS);
        folder(&dir)?;
        let path = dir.join(name);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(value)?;
        // Whatever the umask takes away from a new file, or an earlier attempt left.
        file.set_permissions(Permissions::from_mode(0o444))?;
        Ok(path)
    }

    pub(crate) fn note_seats(&self, id: &InstanceId, seats: &[SeatId]) -> io::Result<()> {
        write(&self.of(id), SEATS, &seats)
    }

    pub(crate) fn seats(&self, id: &InstanceId) -> Vec<SeatId> {
        read(&self.of(id), SEATS).unwrap_or_default()
    }

    pub(crate) fn note_ready(&self, id: &InstanceId, ready_ms: u64) -> io::Result<()> {
        write(&self.of(id), READY, &ready_ms)
    }

    pub(crate) fn ready_ms(&self, id: &InstanceId) -> Option<u64> {
        read(&self.of(id), READY)
    }

    /// Keeps the last words of an instance, and forgets its secrets.
    pub(crate) fn settle(&self, id: &InstanceId, lines: &[String], report: &ExitReport) -> io::Result<()> {
        let dir = self.of(id);
        folder(&dir)?;
        let mut text = lines.join("\n");
        text.push('\n');
        fs::write(dir.join(LOG), text)?;
        let _ = fs::remove_dir_all(dir.join(SECRETS));
        write(&dir, EXIT, report)
    }

    pub(crate) fn exit(&self, id: &InstanceId) -> Option<ExitReport> {
        read(&self.of(id), EXIT)
    }

    /// What an ended instance wrote, oldest first; `None` when it is not known.
    pub(crate) fn log(&self, id: &InstanceId) -> Option<Vec<String>> {
        let mut text = Vec::new();
        File::open(self.of(id).join(LOG)).ok()?.take(LOG_BYTES).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }

    pub(crate) fn remove(&self, id: &InstanceId) {
        let _ = fs::remove_dir_all(self.of(id));
    }

    /// Removes folders of ended instances, all but the newest few of an app.
    pub(crate) fn prune(&self, app: &AppId) {
        let mut ended: Vec<(SystemTime, InstanceId)> = self
            .list()
            .into_iter()
            .filter(|id| id.app() == app)
            .filter_map(|id| {
                let at = fs::metadata(self.of(&id).join(EXIT)).and_then(|meta| meta.modified()).ok()?;
                Some((at, id))
            })
            .collect();
        ended.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        ended.iter().skip(KEEP_PER_APP).for_each(|(_, id)| self.remove(id));
    }

    /// Every instance there is a folder of.
    pub(crate) fn list(&self) -> Vec<InstanceId> {
        let Ok(entries) = fs::read_dir(self.root.join("instances")) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}

fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// In one step: whoever reads sees the old content or the new. Nothing is written for an instance that is not there.
fn write(dir: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let fresh = dir.join(format!("{name}.new"));
    fs::write(&fresh, serde_json::to_vec(value)?)?;
    fs::rename(fresh, dir.join(name))
}

fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> Option<T> {
    let mut text = Vec::new();
    File::open(dir.join(name)).ok()?.take(SMALL).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ExitReport {
        ExitReport {
            reason: "exited with status 1".to_owned(),
            code: Some(1),
            signal: None,
            out_of_memory: false,
            last_lines: vec!["last".to_owned()],
            ended_by: skep_launch::EndedBy::Platform,
        }
    }

    #[test]
    fn what_is_noted_is_found_again_and_secrets_go_with_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::below(dir.path().to_owned());
        assert_eq!(notes.install(), None);
        let name = notes.make_install().unwrap();
        assert_eq!(notes.make_install().unwrap(), name);
        let id = InstanceId::new("sales".parse().unwrap(), 3);
        assert!(notes.note_seats(&id, &[]).is_err(), "there is no such instance");
        notes.make(&id).unwrap();
        notes.note_seats(&id, &[SeatId(7)]).unwrap();
        notes.note_ready(&id, 1234).unwrap();
        let secret = notes.put_secret(&id, "KEY", b"s3cret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&secret), mode(secret.parent().unwrap())), (0o444, 0o700));
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        notes.put_secret(&id, "KEY", b"other").unwrap();
        assert_eq!((mode(&secret), fs::read(&secret).unwrap()), (0o444, b"other".to_vec()));
        assert_eq!((notes.seats(&id), notes.ready_ms(&id)), (vec![SeatId(7)], Some(1234)));
        assert_eq!((notes.log(&id), notes.exit(&id)), (None, None));
        notes.settle(&id, &["one".to_owned(), "last".to_owned()], &report()).unwrap();
        assert_eq!(notes.log(&id).unwrap(), ["one", "last"]);
        assert_eq!(notes.exit(&id), Some(report()));
        assert!(!secret.exists());
    }

    #[test]
    fn only_the_newest_ended_instances_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::below(dir.path().to_owned());
        let app: AppId = "sales".parse().unwrap();
        for nonce in 0..9 {
            let id = InstanceId::new(app.clone(), nonce);
            notes.make(&id).unwrap();
            if nonce > 0 {
                notes.settle(&id, &[], &report()).unwrap();
            }
        }
        notes.prune(&app);
        assert_eq!(notes.list().len(), KEEP_PER_APP + 1, "the living one is never removed");
    }
}

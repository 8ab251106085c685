//! What changed on disk, as folders to look at again.
//!
//! One inotify watch per folder, never recursive; only names that count wake anybody up ([`Watched`]), so an app that writes
//! beside its code causes nothing. Bursts are gathered: quiet for [`QUIET`], at most [`BURST_AT_MOST`]. Where the kernel
//! grants no more watches everything is looked at again at intervals instead, and [`Watcher::polling`] says why.
//!
//! Absent on purpose: deciding whether a change matters. A look at a folder that did not change finds the same revision.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::{Dirty, Watched};

const QUIET: Duration = Duration::from_millis(300);
const BURST_AT_MOST: Duration = Duration::from_secs(2);
const POLL_EVERY: Duration = Duration::from_secs(2);

/// Watches the places of a [`Watched`].
pub(crate) struct Watcher {
    source: Source,
    watched: Watched,
    /// What has been read of a burst that is not over.
    gathered: Gathered,
    /// Why everything is looked at at intervals.
    polling: Option<String>,
}

enum Source {
    Inotify { fd: AsyncFd<OwnedFd>, by_wd: HashMap<i32, PathBuf>, by_dir: HashMap<PathBuf, i32> },
    Poll,
}

/// What changes made dirty.
#[derive(Default)]
struct Gathered {
    dirty: BTreeSet<PathBuf>,
    /// The kernel dropped events: it may be anything.
    all: bool,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.dirty.is_empty() && !self.all
    }
}

impl Watcher {
    /// Watches nothing yet. Must be called on a runtime.
    #[expect(
        deprecated,
        reason = "its safe constructor; an `OwnedFd` stays open and keeps its number, as is asked"
    )]
    pub(crate) fn new() -> Self {
        let opened = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(io::Error::from)
            .and_then(AsyncFd::new);
        let (source, polling) = match opened {
            Ok(fd) => (Source::Inotify { fd, by_wd: HashMap::new(), by_dir: HashMap::new() }, None),
            Err(error) => (Source::Poll, Some(reason(&error))),
        };
        Self { source, watched: Watched::default(), gathered: Gathered::default(), polling }
    }

    /// Why changes are looked for at intervals, when they are.
    pub(crate) fn polling(&self) -> Option<&str> {
        self.polling.as_deref()
    }

    /// Watches these places from now on; `again` names folders that may have been replaced under their name. Returns
    /// folders that were not watched before: something may have changed in them unseen.
    pub(crate) fn follow(&mut self, watched: Watched, again: &Dirty) -> BTreeSet<PathBuf> {
        let wanted = watched.dirs();
        self.watched = watched;
        let Source::Inotify { fd, by_wd, by_dir } = &mut self.source else { return BTreeSet::new() };
        let gone: Vec<PathBuf> = by_dir.keys().filter(|dir| !wanted.contains(*dir)).cloned().collect();
        for dir in gone {
            if let Some(wd) = by_dir.remove(&dir) {
                by_wd.remove(&wd);
                let _ = inotify::remove_watch(fd.get_ref(), wd);
            }
        }
        let replaced = |dir: &Path| matches!(again, Dirty::Folders(dirs) if dirs.contains(dir));
        let mut new = BTreeSet::new();
        for dir in wanted {
            if by_dir.contains_key(&dir) && !replaced(&dir) {
                continue;
            }
            match inotify::add_watch(fd.get_ref(), &dir, mask()) {
                Ok(wd) => {
                    let old = by_dir.insert(dir.clone(), wd);
                    by_wd.insert(wd, dir.clone());
                    match old {
                        Some(old) if old == wd => {}
                        Some(old) => {
                            by_wd.remove(&old);
                            let _ = inotify::remove_watch(fd.get_ref(), old);
                            new.insert(dir);
                        }
                        None => {
                            new.insert(dir);
                        }
                    }
                }
                Err(Errno::NOSPC | Errno::NOMEM) => {
                    self.polling = Some(reason(&io::Error::from(Errno::NOSPC)));
                    self.source = Source::Poll;
                    return BTreeSet::new();
                }
                // Gone or closed to us: whoever looks at the folder next says so.
                Err(_) => {}
            }
        }
        new
    }

    /// Resolves when something that counts has changed and the burst is over. Cancel safe: what was read is kept for the
    /// next call.
    pub(crate) async fn changed(&mut self) -> Dirty {
        let Self { source, watched, gathered, .. } = self;
        let Source::Inotify { fd, by_wd, by_dir } = source else {
            sleep(POLL_EVERY).await;
            return Dirty::All;
        };
        let mut end = Instant::now() + BURST_AT_MOST;
        let mut quiet = (!gathered.is_empty()).then(|| Instant::now() + QUIET);
        loop {
            let ready = match quiet {
                None => {
                    let ready = fd.readable().await;
                    end = Instant::now() + BURST_AT_MOST;
                    ready
                }
                Some(quiet) => match timeout_at(end.min(quiet), fd.readable()).await {
                    Ok(ready) => ready,
                    Err(_) => break,
                },
            };
            let Ok(mut ready) = ready else {
                // The runtime is going.
                sleep(POLL_EVERY).await;
                return Dirty::All;
            };
            if read_events(fd.get_ref(), by_wd, by_dir, watched, gathered) {
                quiet = Some(Instant::now() + QUIET);
            }
            ready.clear_ready();
        }
        let Gathered { dirty, all } = std::mem::take(gathered);
        if all { Dirty::All } else { Dirty::Folders(dirty) }
    }
}

impl Watched {
    fn dirs(&self) -> BTreeSet<PathBuf> {
        let config =
            self.config.as_deref().and_then(Path::parent).map(|dir| match dir.as_os_str().is_empty() {
                true => PathBuf::from("."),
                false => dir.to_owned(),
            });
        let apps = self.apps.keys().cloned();
        apps.chain(self.parents.iter().cloned()).chain(self.others.iter().cloned()).chain(config).collect()
    }

    /// Marks what an event for `name` in `dir` makes dirty. `true` when it counts at all.
    fn mark(
        &self,
        dir: &Path,
        name: &OsStr,
        made: bool,
        is_dir: bool,
        dirty: &mut BTreeSet<PathBuf>,
    ) -> bool {
        let mut counts = false;
        if self.apps.get(dir).is_some_and(|names| name.to_str().is_some_and(|name| names.contains(name))) {
            dirty.insert(dir.to_owned());
            counts = true;
        }
        if self.others.contains(dir) && made {
            dirty.insert(dir.to_owned());
            counts = true;
        }
        if self.parents.contains(dir) && (is_dir || self.apps.contains_key(&dir.join(name)) || made) {
            dirty.insert(dir.join(name));
            dirty.insert(dir.to_owned());
            counts = true;
        }
        let config = self.config.as_deref();
        if config.and_then(Path::file_name) == Some(name)
            && config.and_then(Path::parent).is_some_and(|p| same(p, dir))
        {
            // The server's file is read at every load.
            dirty.insert(dir.to_owned());
            counts = true;
        }
        counts
    }
}

fn same(parent: &Path, dir: &Path) -> bool {
    parent == dir || (parent.as_os_str().is_empty() && dir == Path::new("."))
}

fn mask() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::ATTRIB
        | WatchFlags::ONLYDIR
}

/// Reads everything there is; `true` when anything of it counts.
fn read_events(
    fd: &OwnedFd,
    by_wd: &mut HashMap<i32, PathBuf>,
    by_dir: &mut HashMap<PathBuf, i32>,
    watched: &Watched,
    gathered: &mut Gathered,
) -> bool {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut relevant = false;
    // `WOULDBLOCK` says that the queue is empty, anything else that it cannot be read: both end this round.
    while let Ok(event) = reader.next() {
        let flags = event.events();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            gathered.all = true;
            relevant = true;
            continue;
        }
        let Some(dir) = by_wd.get(&event.wd()).cloned() else { continue };
        if flags.contains(ReadFlags::IGNORED) {
            by_wd.remove(&event.wd());
            if by_dir.get(&dir) == Some(&event.wd()) {
                by_dir.remove(&dir);
            }
            gathered.dirty.insert(dir);
            relevant = true;
            continue;
        }
        let Some(name) = event.file_name() else { continue };
        let name = OsStr::from_bytes(name.to_bytes());
        let made = flags
            .intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE);
        relevant |=
            watched.mark(&dir, name, made, flags.contains(ReadFlags::ISDIR) && made, &mut gathered.dirty);
    }
    relevant
}

fn reason(error: &io::Error) -> String {
    format!(
        "the kernel grants no more inotify watches ({error}); changes are looked for every {} seconds. \
         Raise fs.inotify.max_user_watches and fs.inotify.max_user_instances with sysctl",
        POLL_EVERY.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(dir: &Path) -> Watched {
        Watched {
            config: Some(dir.join("skep.toml")),
            parents: [dir.join("apps")].into(),
            apps: [(dir.join("apps/one"), ["app.py".to_owned()].into())].into(),
            others: BTreeSet::new(),
        }
    }

    async fn next(watcher: &mut Watcher) -> Option<Dirty> {
        tokio::time::timeout(Duration::from_secs(60), watcher.changed()).await.ok()
    }

    #[tokio::test]
    async fn only_names_that_count_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("apps/one");
        std::fs::create_dir_all(&one).unwrap();
        let mut watcher = Watcher::new();
        let new = watcher.follow(watched(dir.path()), &Dirty::All);
        assert_eq!(new.len(), 3);

        std::fs::write(one.join("data.csv"), "x").unwrap();
        std::fs::write(dir.path().join("unrelated"), "x").unwrap();
        let none = tokio::time::timeout(Duration::from_millis(700), watcher.changed()).await;
        assert!(none.is_err(), "{none:?}");

        std::fs::write(one.join("app.py"), "x").unwrap();
        assert_eq!(next(&mut watcher).await, Some(Dirty::Folders([one.clone()].into())));

        std::fs::create_dir(dir.path().join("apps/two")).unwrap();
        let expected = [dir.path().join("apps"), dir.path().join("apps/two")].into();
        assert_eq!(next(&mut watcher).await, Some(Dirty::Folders(expected)));

        // As editors save: a new file takes the old one's name.
        std::fs::write(dir.path().join("skep.toml~"), "x").unwrap();
        std::fs::rename(dir.path().join("skep.toml~"), dir.path().join("skep.toml")).unwrap();
        assert_eq!(next(&mut watcher).await, Some(Dirty::Folders([dir.path().to_owned()].into())));
    }

    #[tokio::test]
    async fn a_burst_that_is_not_waited_for_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("apps/one");
        std::fs::create_dir_all(&one).unwrap();
        let mut watcher = Watcher::new();
        watcher.follow(watched(dir.path()), &Dirty::All);
        std::fs::write(one.join("app.py"), "x").unwrap();
        while watcher.gathered.is_empty() {
            let _ = tokio::time::timeout(Duration::from_millis(1), watcher.changed()).await;
        }
        assert_eq!(next(&mut watcher).await, Some(Dirty::Folders([one].into())));
    }

    #[tokio::test]
    async fn a_folder_replaced_under_its_name_is_watched_again() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("apps/one");
        std::fs::create_dir_all(&one).unwrap();
        let mut watcher = Watcher::new();
        watcher.follow(watched(dir.path()), &Dirty::All);
        std::fs::rename(&one, dir.path().join("apps/.old")).unwrap();
        std::fs::create_dir(&one).unwrap();
        let dirty = next(&mut watcher).await.unwrap();
        let new = watcher.follow(watched(dir.path()), &dirty);
        assert!(new.contains(&one), "{new:?}");
        std::fs::write(one.join("app.py"), "x").unwrap();
        assert_eq!(next(&mut watcher).await, Some(Dirty::Folders([one].into())));
    }
}

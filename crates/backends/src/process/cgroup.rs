//! Control groups: the limits of an instance, and a list of its processes that no process can leave by itself.
//!
//! Version 2 is used where it carries the controllers, else version 1. Where neither may be written to (no root, nothing
//! delegated), [`Groups::unavailable`] says why, instances start without limits, and whoever asked for limits is told.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use skep_model::Limits;

/// Below the base of each hierarchy, the folder that holds a group per instance.
const OURS: &str = "skep";
/// Where the server itself moves when a version 2 group must not hold processes beside groups.
const SERVER: &str = "skep-server";
const PERIOD_US: u64 = 100_000;
/// An empty group this old belongs to nobody.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Where groups are made on this machine. Found once, at start.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    v2: Option<PathBuf>,
    /// Version 1: one hierarchy per controller.
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
    /// Why there is none, or not all.
    unavailable: Option<String>,
}

/// The groups of one instance, and what could not be limited.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) dirs: Vec<PathBuf>,
    pub(super) warnings: Vec<String>,
}

impl Groups {
    pub(super) fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut groups = Self::default();
        let mut why = Vec::new();
        for mount in mounts.lines().filter_map(Mount::parse) {
            let found = match mount.kind {
                "cgroup2" => prepare_v2(mount.at, own_path(&own, "")).map(|base| groups.v2 = base),
                _ => groups.find_v1(&mount, &own),
            };
            if let Err(e) = found {
                why.push(format!("{}: {e}", mount.at.display()));
            }
        }
        if why.is_empty() && groups.v2.is_none() && groups.pids.is_none() {
            why.push("no control group hierarchy is mounted".to_owned());
        }
        groups.unavailable = (!why.is_empty()).then(|| why.join("; "));
        groups
    }

    fn find_v1(&mut self, mount: &Mount<'_>, own: &str) -> io::Result<()> {
        for (controller, slot) in
            [("memory", &mut self.memory), ("cpu", &mut self.cpu), ("pids", &mut self.pids)]
        {
            if mount.options.split(',').any(|option| option == controller) {
                let base = base_below(mount.at, own_path(own, controller)).join(OURS);
                fs::create_dir_all(&base)?;
                // A folder that exists may belong to somebody else's server.
                rustix::fs::access(&base, rustix::fs::Access::WRITE_OK)?;
                *slot = Some(base);
            }
        }
        Ok(())
    }

    /// Makes the groups of an instance. Never fails: what cannot be limited is said in the warnings.
    pub(super) fn make(&self, name: &str, limits: Limits) -> Made {
        let mut made = Made::default();
        match &self.v2 {
            Some(base) => self.make_v2(&base.join(name), limits, &mut made),
            None => self.make_v1(name, limits, &mut made),
        }
        made
    }

    /// Removes groups whose instance, shim, server and data folder all went without a chance to. Only empty ones can be
    /// removed; only old ones are, since another server may be about to fill a new one.
    pub(super) fn tidy(&self, now: SystemTime) {
        let bases = [&self.v2, &self.memory, &self.cpu, &self.pids];
        for entry in
            bases.into_iter().flatten().filter_map(|base| fs::read_dir(base).ok()).flatten().flatten()
        {
            let modified = entry.metadata().and_then(|meta| meta.modified()).ok();
            if modified.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > ABANDONED)) {
                // Fails on what is in use, and on the files beside.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    fn make_v2(&self, dir: &Path, limits: Limits, made: &mut Made) {
        if let Err(e) = fs::create_dir_all(dir) {
            made.warnings.push(format!("limits are not enforced: {}: {e}", dir.display()));
            return;
        }
        made.dirs.push(dir.to_path_buf());
        if let Some(bytes) = limits.memory {
            made.limit("limits.memory", set(dir, "memory.max", &bytes.to_string()));
            // Absent where the kernel accounts no swap.
            let _ = set(dir, "memory.swap.max", "0");
            let _ = set(dir, "memory.oom.group", "1");
        }
        if let Some(millis) = limits.cpu_millis {
            let quota = u64::from(millis) * PERIOD_US / 1000;
            made.limit("limits.cpu", set(dir, "cpu.max", &format!("{quota} {PERIOD_US}")));
        }
        if let Some(pids) = limits.pids {
            made.limit("limits.pids", set(dir, "pids.max", &pids.to_string()));
        }
    }

    fn make_v1(&self, name: &str, limits: Limits, made: &mut Made) {
        let missing = || {
            let why = self.unavailable.as_deref().unwrap_or("this controller is not mounted");
            io::Error::other(why.to_owned())
        };
        let open = |base: &Option<PathBuf>| -> io::Result<PathBuf> {
            let dir = base.as_ref().ok_or_else(missing)?.join(name);
            fs::create_dir_all(&dir)?;
            Ok(dir)
        };
        if let Some(bytes) = limits.memory {
            let done = open(&self.memory).and_then(|dir| {
                made.dirs.push(dir.clone());
                set(&dir, "memory.limit_in_bytes", &bytes.to_string())?;
                // Absent where the kernel accounts no swap.
                let _ = set(&dir, "memory.memsw.limit_in_bytes", &bytes.to_string());
                Ok(())
            });
            made.limit("limits.memory", done);
        }
        if let Some(millis) = limits.cpu_millis {
            let quota = u64::from(millis) * PERIOD_US / 1000;
            let done = open(&self.cpu).and_then(|dir| {
                made.dirs.push(dir.clone());
                set(&dir, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
                set(&dir, "cpu.cfs_quota_us", &quota.to_string())
            });
            made.limit("limits.cpu", done);
        }
        // Made even without a limit: it is the list of the instance's processes.
        match open(&self.pids) {
            Ok(dir) => {
                if let Some(pids) = limits.pids {
                    made.limit("limits.pids", set(&dir, "pids.max", &pids.to_string()));
                }
                made.dirs.push(dir);
            }
            Err(e) if limits.pids.is_some() => made.limit("limits.pids", Err(e)),
            Err(_) => {}
        }
    }
}

impl Made {
    fn limit(&mut self, what: &str, done: io::Result<()>) {
        if let Err(e) = done {
            self.warnings.push(format!(
                "{what} is not enforced: {e} (control groups need root, or a delegated version 2 group)"
            ));
        }
    }
}

struct Mount<'a> {
    at: &'a Path,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// One line of `mountinfo`; `None` unless it is a control group hierarchy.
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let at = Path::new(before.split(' ').nth(4)?);
        let mut after = after.split(' ');
        let kind = after.next().filter(|kind| matches!(*kind, "cgroup" | "cgroup2"))?;
        let options = after.nth(1)?;
        Some(Self { at, kind, options })
    }
}

/// This process's path in the hierarchy of a controller; the empty name means version 2.
fn own_path<'a>(own: &'a str, controller: &str) -> &'a str {
    let mut lines = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    lines.find(|(names, _)| names.split(',').any(|name| name == controller)).map_or("/", |(_, path)| path)
}

/// The folder of our own group. In a container it may be shown under a name that does not exist inside.
fn base_below(mount: &Path, own: &str) -> PathBuf {
    let below = mount.join(own.trim_start_matches('/'));
    if below.is_dir() { below } else { mount.to_path_buf() }
}

/// Finds or makes the version 2 folder for our groups. `Ok(None)`: this hierarchy carries none of the controllers.
fn prepare_v2(mount: &Path, own: &str) -> io::Result<Option<PathBuf>> {
    let own_base = base_below(mount, own);
    let root = rustix::process::geteuid().is_root().then(|| mount.to_path_buf());
    let mut result = Ok(None);
    for base in root.into_iter().chain([own_base]) {
        result = prepare_v2_at(&base);
        if matches!(result, Ok(Some(_))) {
            break;
        }
    }
    result
}

fn prepare_v2_at(base: &Path) -> io::Result<Option<PathBuf>> {
    let offered = fs::read_to_string(base.join("cgroup.controllers"))?;
    let wanted: Vec<&str> =
        offered.split_ascii_whitespace().filter(|c| matches!(*c, "cpu" | "memory" | "pids")).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    for controller in &wanted {
        let on = format!("+{controller}");
        match set(base, "cgroup.subtree_control", &on) {
            // A group with processes of its own may not hand controllers on: they move one down.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                move_down(base)?;
                set(base, "cgroup.subtree_control", &on)?;
            }
            other => other?,
        }
    }
    let ours = base.join(OURS);
    fs::create_dir_all(&ours)?;
    for controller in &wanted {
        set(&ours, "cgroup.subtree_control", &format!("+{controller}"))?;
    }
    Ok(Some(ours))
}

fn move_down(base: &Path) -> io::Result<()> {
    let below = base.join(SERVER);
    fs::create_dir_all(&below)?;
    for pid in members(base) {
        // Whoever ended in between need not move.
        let _ = set(&below, "cgroup.procs", &pid.to_string());
    }
    Ok(())
}

fn set(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = dir.join(file);
    let said = |e: io::Error| match e.raw_os_error() {
        Some(libc::EBUSY) => e,
        _ => io::Error::new(e.kind(), format!("{}: {e}", path.display())),
    };
    File::options().write(true).open(&path).map_err(said)?.write_all(value.as_bytes()).map_err(said)
}

/// The processes in a group.
pub(super) fn members(dir: &Path) -> Vec<u32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Kills everything in a group. Not everything may be gone on return.
pub(super) fn kill(dir: &Path) {
    if set(dir, "cgroup.kill", "1").is_ok() {
        return;
    }
    for pid in members(dir) {
        if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Whether the kernel killed something in this group for want of memory.
pub(super) fn ran_out_of_memory(dir: &Path) -> bool {
    ["memory.events", "memory.oom_control"].iter().any(|file| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|n| n.trim() != "0")
    })
}

/// Removes a group whose processes are gone or going. Waits for them at most three seconds.
pub(super) fn remove(dir: &Path) {
    for _ in 0..300 {
        match fs::remove_dir(dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                kill(dir);
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Limits = Limits { cpu_millis: Some(1500), memory: Some(64 << 20), pids: Some(50) };

    #[test]
    fn mounts_and_own_paths_are_read() {
        let line = "31 23 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(
            (mount.at, mount.kind, mount.options),
            (Path::new("/sys/fs/cgroup/memory"), "cgroup", "rw,memory")
        );
        assert!(Mount::parse("22 1 0:20 / /proc rw - proc proc rw").is_none());
        let own = "4:memory:/a/b\n3:cpu,cpuacct:/c\n0::/u:v\n";
        assert_eq!(own_path(own, "memory"), "/a/b");
        assert_eq!(own_path(own, "cpu"), "/c");
        assert_eq!(own_path(own, ""), "/u:v");
        assert_eq!(own_path(own, "pids"), "/");
    }

    /// A folder with the files a kernel would show.
    fn fake(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("one");
        fs::create_dir(&group).unwrap();
        for file in files {
            fs::write(group.join(file), "").unwrap();
        }
        (dir, group)
    }

    #[test]
    fn version_2_limits_are_written() {
        let (dir, group) =
            fake(&["memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max"]);
        let groups = Groups { v2: Some(dir.path().to_path_buf()), ..Groups::default() };
        let made = groups.make("one", ALL);
        assert_eq!(made.dirs, std::slice::from_ref(&group));
        assert!(made.warnings.is_empty(), "{:?}", made.warnings);
        let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("pids.max"), "50");
        assert_eq!(read("memory.swap.max"), "0");
    }

    #[test]
    fn old_empty_groups_are_removed_and_no_others() {
        let (dir, used) = fake(&["cgroup.procs"]);
        let empty = dir.path().join("two");
        fs::create_dir(&empty).unwrap();
        let groups = Groups { v2: Some(dir.path().to_path_buf()), ..Groups::default() };
        groups.tidy(SystemTime::now());
        assert!(empty.exists(), "it may be about to be filled");
        groups.tidy(SystemTime::now() + ABANDONED * 2);
        assert!(!empty.exists() && used.exists());
    }

    #[test]
    fn what_cannot_be_limited_is_named() {
        let (dir, _) = fake(&["pids.max"]);
        let groups = Groups { v2: Some(dir.path().to_path_buf()), ..Groups::default() };
        let warnings = groups.make("one", ALL).warnings.join("\n");
        assert!(warnings.contains("limits.memory is not enforced"), "{warnings}");
        assert!(warnings.contains("limits.cpu is not enforced") && !warnings.contains("limits.pids"));
        let none = Groups { unavailable: Some("read-only".to_owned()), ..Groups::default() };
        assert!(none.make("one", Limits::default()).warnings.is_empty(), "nothing was asked for");
        assert_eq!(none.make("one", ALL).warnings.len(), 3);
        assert!(none.make("one", ALL).warnings[0].contains("read-only"));
    }

    #[test]
    fn running_out_of_memory_is_seen_in_both_versions() {
        let (_dir, group) = fake(&[]);
        assert!(!ran_out_of_memory(&group));
        fs::write(group.join("memory.events"), "low 0\noom 0\noom_kill 0\n").unwrap();
        assert!(!ran_out_of_memory(&group));
        fs::write(group.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n").unwrap();
        assert!(ran_out_of_memory(&group));
    }
}

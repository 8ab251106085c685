//! Which process is meant: a process id means nothing alone, because it is used again.

use std::collections::HashSet;
use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Processes looked at in one walk; a fork bomb must not hold the walker.
const MAX_WALK: usize = 20_000;

/// One process of this boot: its id and when it started, in the kernel's ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: u32,
    pub(super) start: u64,
}

impl Identity {
    pub(super) fn of(pid: u32) -> Option<Self> {
        Stat::of(pid).map(|stat| Self { pid, start: stat.start })
    }

    pub(super) fn as_pid(self) -> Option<Pid> {
        Pid::from_raw(self.pid.cast_signed())
    }

    /// Whether this very process runs. A zombie does not.
    pub(super) fn is_alive(self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.start == self.start && !stat.is_dead())
    }

    /// Kills this very process, or nothing.
    pub(super) fn kill(self) {
        let Some(pid) = self.as_pid() else { return };
        // The descriptor pins the process; the check after it makes sure that it is the one meant.
        if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty())
            && self.is_alive()
        {
            let _ = pidfd_send_signal(&fd, Signal::KILL);
        }
    }
}

/// Changes with every boot.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stat {
    state: u8,
    pub(super) session: u32,
    /// Ticks of CPU: its own and those of children it has waited for.
    pub(super) cpu_own: u64,
    pub(super) cpu_children: u64,
    pub(super) start: u64,
    pub(super) resident_pages: u64,
}

impl Stat {
    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses; it may hold anything, parentheses too.
        let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            session: u32::try_from(number(3)?).ok()?,
            cpu_own: number(11)? + number(12)?,
            cpu_children: number(13)? + number(14)?,
            start: number(19)?,
            resident_pages: number(21)?,
        })
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Everything a process started that still runs, directly or not, without the process itself.
pub(super) fn descendants(of: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut seen = HashSet::from([of]);
    let mut next = vec![of];
    while let Some(pid) = next.pop() {
        for child in children(pid) {
            if seen.insert(child) && found.len() < MAX_WALK {
                found.push(child);
                next.push(child);
            }
        }
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .filter_map(Result::ok)
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Every process on the machine whose environment, as it was started, holds this line (`NAME=value`). Only those whose
/// environment may be read are seen.
pub(super) fn with_environment(line: &str) -> Vec<Identity> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| {
            // Identity first: should the id be used again in between, the environment read is the newer process's.
            let identity = Identity::of(pid)?;
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            environment.split(|&b| b == 0).any(|entry| entry == line.as_bytes()).then_some(identity)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_hostile_names_are_read() {
        let line =
            "12 (a) b) (R) S 1 5 6 0 -1 4 1 2 3 4 10 20 30 40 20 0 7 0 999 1000 55 18446744073709551615";
        let stat = Stat::parse(line).unwrap();
        let wanted =
            Stat { state: b'S', session: 6, cpu_own: 30, cpu_children: 70, start: 999, resident_pages: 55 };
        assert_eq!(stat, wanted);
        assert_eq!(Stat::parse("1 (x"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn a_zombie_is_not_alive_and_nobody_else_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.is_alive());
        assert!(descendants(std::process::id()).contains(&child.id()));
        Identity { start: identity.start + 1, ..identity }.kill();
        assert!(identity.is_alive(), "another process of the same id was meant");
        identity.kill();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while identity.is_alive() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!identity.is_alive(), "unreaped, it is a zombie");
        assert!(Stat::of(child.id()).is_some());
        child.wait().unwrap();
    }
}

//! Reaping, for a server that is process 1: whoever is orphaned on the machine (in the container) becomes its child, and
//! nobody else will collect it.
//!
//! The server's own children (environment builds, the first step of a shim) are collected by whoever started them. What
//! is still a zombie at a second look was not, so it is an orphan's.

use std::collections::HashSet;

use rustix::process::{Pid, WaitOptions, waitpid};

use super::identity::{Identity, Stat, children};

/// Remembers the zombies of the last look.
#[derive(Debug, Default)]
pub struct Orphans {
    seen: HashSet<Identity>,
}

impl Orphans {
    pub fn new() -> Self {
        Self::default()
    }

    /// Collects children that were zombies at the last look already. Call it every few seconds. Answers how many.
    pub fn reap(&mut self) -> usize {
        let zombies: HashSet<Identity> = children(std::process::id())
            .into_iter()
            .filter_map(|pid| Some((pid, Stat::of(pid)?)))
            .filter(|(_, stat)| stat.is_dead())
            .map(|(pid, stat)| Identity { pid, start: stat.start })
            .collect();
        let old = zombies.iter().filter(|zombie| self.seen.contains(zombie));
        let reaped = old
            .filter_map(|zombie| zombie.as_pid())
            .filter(|&pid: &Pid| matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(Some(_))))
            .count();
        self.seen = zombies;
        reaped
    }
}

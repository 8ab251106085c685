//! What an instance uses: the sum over its processes.

use skep_launch::Stats;

use super::folder::Folder;
use super::identity::{Stat, descendants};

/// `None` when its shim is gone.
pub(super) fn of(folder: &Folder) -> Option<Stats> {
    let shim = folder.shim()?.shim;
    let own = Stat::of(shim.pid).filter(|stat| stat.start == shim.start)?;
    let page = rustix::param::page_size() as u64;
    let per_second = rustix::param::clock_ticks_per_second();
    // What ended processes used is with whoever waited for them, in the end the shim.
    let mut ticks = own.cpu_children;
    let mut stats = Stats::default();
    for stat in descendants(shim.pid).into_iter().filter_map(Stat::of) {
        ticks += stat.cpu_own + stat.cpu_children;
        stats.memory_bytes += stat.resident_pages * page;
        stats.processes += u32::from(!stat.is_dead());
    }
    #[allow(clippy::cast_precision_loss)] // ticks of CPU: exact for 2 million years
    let seconds = ticks as f64 / per_second as f64;
    stats.cpu_seconds = seconds;
    Some(stats)
}

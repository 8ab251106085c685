//! What the Skep process itself uses, read from `/proc` when asked.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// Figures of this process. `None` where the system does not tell.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
}

pub(crate) fn usage() -> Usage {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    Usage {
        cpu_seconds: Some(cpu_seconds()),
        resident_bytes: status_field(&status, "VmRSS:").map(|kib| kib * 1024),
        threads: status_field(&status, "Threads:"),
        // Reading the folder opens one descriptor of its own.
        open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1)),
        max_fds: soft_open_files(&limits),
    }
}

fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    #[allow(clippy::cast_precision_loss, reason = "seconds of processor time stay far below 2^52")]
    let seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    seconds
}

/// The first number after a field's name in `/proc/self/status`.
fn status_field(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The soft limit of open files in `/proc/self/limits`. `None` when there is no limit.
fn soft_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_the_kernels_format() {
        let status = "Name:\tskep\nVmRSS:\t    2048 kB\nThreads:\t7\n";
        assert_eq!(status_field(status, "VmRSS:"), Some(2048));
        assert_eq!(status_field(status, "Threads:"), Some(7));
        assert_eq!(status_field(status, "VmSwap:"), None);
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(soft_open_files(limits), Some(1024));
        assert_eq!(soft_open_files("Max open files            unlimited    unlimited   files\n"), None);
    }

    #[test]
    fn this_process_is_measured() {
        let usage = usage();
        assert!(usage.cpu_seconds.is_some_and(|seconds| seconds > 0.0));
        assert!(usage.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(usage.open_fds.is_some_and(|fds| fds >= 3));
        assert!(usage.threads.is_some_and(|threads| threads >= 1));
    }
}

//! Real time, as moments of the pool.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::pool::Moment;

/// Monotone time with a fixed link to the wall clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
    wall_at_origin_ms: i64,
}

/// The moment of the clock's origin: far enough from zero for instances that are older than the process.
const ORIGIN: u64 = 1 << 42;

impl Clock {
    pub(crate) fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_at_origin_ms = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX);
        Self { origin: Instant::now(), wall_at_origin_ms }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment(ORIGIN).after(self.origin.elapsed())
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn wall(&self, moment: Moment) -> i64 {
        let offset = i64::try_from(moment.0).unwrap_or(i64::MAX) - ORIGIN.cast_signed();
        self.wall_at_origin_ms.saturating_add(offset)
    }

    /// The moment of a wall-clock time, for instances that were started by an earlier process.
    pub(crate) fn moment(&self, wall_ms: i64) -> Moment {
        let offset = wall_ms.saturating_sub(self.wall_at_origin_ms);
        Moment(ORIGIN.saturating_add_signed(offset)).min(self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_and_moment_are_inverse_for_the_past() {
        let clock = Clock::new();
        let then = clock.wall_at_origin_ms - 3_600_000;
        assert_eq!(clock.wall(clock.moment(then)), then);
        let future = clock.wall_at_origin_ms + 3_600_000;
        assert!(clock.moment(future) <= clock.now(), "nothing was started in the future");
    }
}

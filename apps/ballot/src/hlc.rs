//! A hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
//!
//! Invariants: readings of one clock strictly increase, whatever the wall clock does; a reading issued after
//! observing another is greater than it. Absent: the wall clock itself, which is an argument.

/// How far ahead of a front's own clock an observed reading may be before it is refused.
pub const MAX_AHEAD_MS: u64 = 60_000;

const COUNTER_BITS: u32 = 16;

/// One reading. 48 bits of milliseconds last beyond the year 10000, and the value fits a signed column until then.
pub type Reading = u64;

/// The observed reading lies further in the future than this clock accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time stamp {ahead_ms} ms ahead of this front's clock was refused; check the clocks of the fronts")]
pub struct TooFarAhead {
    pub ahead_ms: u64,
}

/// The milliseconds of a reading.
pub fn millis(reading: Reading) -> u64 {
    reading >> COUNTER_BITS
}

/// The first reading of a millisecond.
pub fn at_millis(ms: u64) -> Reading {
    ms << COUNTER_BITS
}

#[derive(Debug, Clone, Default)]
pub struct Hlc {
    last: Reading,
}

impl Hlc {
    /// A clock that never issues `last` or anything before it again.
    pub fn resume(last: Reading) -> Self {
        Self { last }
    }

    /// The next reading, greater than every earlier one and than `observed`.
    ///
    /// # Errors
    /// When `observed` is more than [`MAX_AHEAD_MS`] ahead of `now_ms`; the clock is then unchanged.
    pub fn issue(&mut self, now_ms: u64, observed: Reading) -> Result<Reading, TooFarAhead> {
        let ahead_ms = millis(observed).saturating_sub(now_ms);
        if ahead_ms > MAX_AHEAD_MS {
            return Err(TooFarAhead { ahead_ms });
        }
        self.last = at_millis(now_ms).max(self.last + 1).max(observed + 1);
        Ok(self.last)
    }

    pub fn last(&self) -> Reading {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_the_far_future_and_stays_as_it_was() {
        let mut clock = Hlc::default();
        let before = clock.issue(1_000, 0).expect("issue");
        let wild = at_millis(1_000 + MAX_AHEAD_MS + 1);
        assert_eq!(clock.issue(1_000, wild), Err(TooFarAhead { ahead_ms: MAX_AHEAD_MS + 1 }));
        assert_eq!(clock.last(), before);
    }

    proptest! {
        #[test]
        fn readings_increase_and_pass_what_was_observed(
            steps in proptest::collection::vec((0u64..100_000, 0u64..100_000), 1..200)
        ) {
            let mut clock = Hlc::default();
            let mut last = 0;
            for (now, observed) in steps {
                let observed = at_millis(observed);
                if let Ok(reading) = clock.issue(now, observed) {
                    prop_assert!(reading > last && reading > observed && millis(reading) >= now);
                    last = reading;
                }
            }
        }
    }
}

//! A histogram of fixed, cumulative-on-read buckets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::HistogramFn;

/// Counts per bucket and the sum of all observations. Observing is two atomic additions and one compare-and-swap.
#[derive(Debug)]
pub(crate) struct Buckets {
    bounds: &'static [f64],
    /// One per bound and a last one for everything above.
    counts: Box<[AtomicU64]>,
    sum_bits: AtomicU64,
}

/// What a histogram held at one moment. `cumulative` has one entry per bound; `count` is the entry for `+Inf`.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) bounds: &'static [f64],
    pub(crate) cumulative: Vec<u64>,
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

impl Buckets {
    /// `bounds` are strictly ascending upper limits (inclusive), without infinity.
    pub(crate) fn new(bounds: &'static [f64]) -> Arc<Self> {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { bounds, counts, sum_bits: AtomicU64::new(0f64.to_bits()) })
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut running = 0;
        let mut cumulative: Vec<u64> = Vec::with_capacity(self.counts.len());
        for count in &self.counts {
            running += count.load(Ordering::Relaxed);
            cumulative.push(running);
        }
        // The count is derived from the buckets, so that `+Inf` and `_count` agree in every exposition.
        cumulative.pop();
        let sum = f64::from_bits(self.sum_bits.load(Ordering::Relaxed));
        Snapshot { bounds: self.bounds, cumulative, count: running, sum }
    }

    fn observe(&self, value: f64, times: u64) {
        // A value that is not a number would poison the sum for ever.
        if value.is_nan() || times == 0 {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(times, Ordering::Relaxed);
        }
        #[allow(clippy::cast_precision_loss, reason = "repetitions of one value are few")]
        let added = value * times as f64;
        let _ = self.sum_bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            Some((f64::from_bits(bits) + added).to_bits())
        });
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        self.observe(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        self.observe(value, count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_to_it() {
        let buckets = Buckets::new(&[0.1, 1.0]);
        for value in [0.1, 0.05, 0.11, 1.0, 7.0, f64::NAN] {
            buckets.record(value);
        }
        buckets.record_many(2.0, 3);
        let seen = buckets.snapshot();
        assert_eq!((seen.cumulative.as_slice(), seen.count), ([2, 4].as_slice(), 8));
        assert!((seen.sum - 14.26).abs() < 1e-9, "{}", seen.sum);
    }

    #[test]
    fn parallel_observations_are_all_counted() {
        let buckets = Buckets::new(&[1.0]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5_000).for_each(|_| buckets.record(0.5)));
            }
        });
        let seen = buckets.snapshot();
        assert_eq!((seen.count, seen.cumulative[0]), (20_000, 20_000));
        assert!((seen.sum - 10_000.0).abs() < 1e-6);
    }
}

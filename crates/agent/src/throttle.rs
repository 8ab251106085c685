//! How often something may be tried: per source and in all. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// Sources remembered at a time.
const MOST: usize = 4096;

/// So many in a row, and then so many each second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) burst: f64,
    pub(crate) per_second: f64,
}

/// Counts what counts, for every source and together.
#[derive(Debug)]
pub(crate) struct Throttle<K> {
    each: Bound,
    together: Bound,
    sources: HashMap<K, Bucket>,
    all: Option<Bucket>,
}

/// What was taken, and until when that is reckoned.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    taken: f64,
    at: Instant,
}

impl Bucket {
    fn taken(self, now: Instant, bound: Bound) -> f64 {
        (self.taken - now.saturating_duration_since(self.at).as_secs_f64() * bound.per_second).max(0.0)
    }

    fn with_one_more(bucket: Option<Self>, now: Instant, bound: Bound) -> Self {
        Self { taken: bucket.map_or(0.0, |bucket| bucket.taken(now, bound)) + 1.0, at: now }
    }

    fn has_room(bucket: Option<&Self>, now: Instant, bound: Bound) -> bool {
        bucket.is_none_or(|bucket| bucket.taken(now, bound) + 1.0 <= bound.burst)
    }
}

impl<K: Eq + Hash> Throttle<K> {
    pub(crate) fn new(each: Bound, together: Bound) -> Self {
        Self { each, together, sources: HashMap::new(), all: None }
    }

    /// Whether it is not too often; it counts if so.
    pub(crate) fn take(&mut self, source: K, now: Instant) -> bool {
        let free = Bucket::has_room(self.sources.get(&source), now, self.each)
            && Bucket::has_room(self.all.as_ref(), now, self.together);
        if free {
            if self.sources.len() >= MOST {
                let each = self.each;
                self.sources.retain(|_, bucket| bucket.taken(now, each) > 0.0);
            }
            // Beyond that the bound on all of them has to do.
            if self.sources.len() < MOST || self.sources.contains_key(&source) {
                let bucket = Bucket::with_one_more(self.sources.get(&source).copied(), now, self.each);
                self.sources.insert(source, bucket);
            }
            self.all = Some(Bucket::with_one_more(self.all, now, self.together));
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EACH: Bound = Bound { burst: 20.0, per_second: 1.0 };
    const TOGETHER: Bound = Bound { burst: 200.0, per_second: 20.0 };

    #[test]
    fn one_source_is_bounded_and_forgiven() {
        let (mut throttle, start) = (Throttle::new(EACH, TOGETHER), Instant::now());
        let tried = |throttle: &mut Throttle<u32>, at| (0..100).filter(|_| throttle.take(1, at)).count();
        assert_eq!(tried(&mut throttle, start), 20);
        assert!(throttle.take(2, start), "others are not held up");
        assert_eq!(tried(&mut throttle, start + Duration::from_secs(3)), 3);
        assert_eq!(tried(&mut throttle, start + Duration::from_secs(3600)), 20);
    }

    #[test]
    fn many_sources_are_bounded_together_and_in_memory() {
        let (mut throttle, start) = (Throttle::new(EACH, TOGETHER), Instant::now());
        assert_eq!((0..10_000).filter(|source| throttle.take(*source, start)).count(), 200);
        assert!(throttle.take(20_000, start + Duration::from_secs(3600)));
        let mut throttle = Throttle::new(EACH, Bound { burst: 1e9, per_second: 1.0 });
        assert_eq!((0..10_000).filter(|source| throttle.take(*source, start)).count(), 10_000);
        assert!(throttle.sources.len() <= MOST);
    }
}

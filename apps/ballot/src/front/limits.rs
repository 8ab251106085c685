//! Rate limits: a bucket of tokens for each voter and each neighbourhood of addresses, in bounded memory.
//!
//! Issuing a new ballot cookie and refusing a bad request cost the neighbourhood; voting with a good cookie costs only the
//! voter. So a flood from one prefix, which must fetch cookies to do any harm, is cut down, while voters behind the same
//! address who have their page keep voting. Time is an argument.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;

/// A rate and how much of it may be saved up. A rate of 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub burst: f64,
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?}: write tokens a second and the most saved up, such as 200/2000, or 0 for no limit"
            )
        };
        let (rate, burst) = text.split_once('/').unwrap_or((text, text));
        let number =
            |t: &str| t.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(bad);
        Ok(Self { per_second: number(rate)?, burst: number(burst)?.max(1.0) })
    }
}

/// Kept buckets at most; beyond that, full ones are dropped, and if none is, all are.
const MOST: usize = 200_000;

struct Bucket {
    tokens: f64,
    at_ms: u64,
}

pub struct Buckets<K> {
    rate: Rate,
    shards: Vec<Mutex<HashMap<K, Bucket>>>,
}

impl<K: Hash + Eq + Copy> Buckets<K> {
    pub fn new(rate: Rate) -> Self {
        Self { rate, shards: (0..16).map(|_| Mutex::default()).collect() }
    }

    /// Takes one token. Answers whether there was one.
    pub fn take(&self, key: K, now_ms: u64) -> bool {
        if self.rate.per_second <= 0.0 {
            return true;
        }
        use std::hash::BuildHasher;
        let hash = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one(key);
        let shard = usize::try_from(hash >> 60).unwrap_or(0) % self.shards.len();
        let mut map = self.shards[shard].lock();
        if map.len() >= MOST / self.shards.len() && !map.contains_key(&key) {
            let rate = self.rate;
            map.retain(|_, b| refilled(b, rate, now_ms) < rate.burst);
            if map.len() >= MOST / self.shards.len() {
                map.clear();
            }
        }
        let bucket = map.entry(key).or_insert(Bucket { tokens: self.rate.burst, at_ms: now_ms });
        bucket.tokens = refilled(bucket, self.rate, now_ms);
        bucket.at_ms = bucket.at_ms.max(now_ms);
        let there = bucket.tokens >= 1.0;
        if there {
            bucket.tokens -= 1.0;
        }
        there
    }
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds between two requests are exact in an f64")]
fn refilled(bucket: &Bucket, rate: Rate, now_ms: u64) -> f64 {
    let passed = now_ms.saturating_sub(bucket.at_ms) as f64 / 1000.0;
    (bucket.tokens + passed * rate.per_second).min(rate.burst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_refills() {
        let buckets = Buckets::new(Rate { per_second: 2.0, burst: 3.0 });
        assert_eq!((0..5).filter(|_| buckets.take(7u64, 1_000)).count(), 3);
        assert!(!buckets.take(7, 1_400));
        assert!(buckets.take(7, 1_500));
        assert!(buckets.take(8, 1_500), "another has its own");
        assert_eq!((0..9).filter(|_| buckets.take(7, 60_000)).count(), 3);
    }

    #[test]
    fn memory_is_bounded() {
        let buckets = Buckets::new(Rate { per_second: 0.001, burst: 1.0 });
        (0..3 * MOST as u64).for_each(|k| {
            buckets.take(k, 0);
        });
        assert!(buckets.shards.iter().map(|s| s.lock().len()).sum::<usize>() <= MOST);
    }

    #[test]
    fn rates_are_written_as_rate_and_burst() {
        assert_eq!("200/2000".parse(), Ok(Rate { per_second: 200.0, burst: 2000.0 }));
        assert_eq!("0".parse(), Ok(Rate { per_second: 0.0, burst: 1.0 }));
        assert!("many".parse::<Rate>().is_err() && "-1/5".parse::<Rate>().is_err());
    }
}

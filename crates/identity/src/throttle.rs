//! Slows down guessing: each wrong password makes the next attempt wait longer, per account and per address. Pure; the
//! time is an argument.
//!
//! Invariants: nobody is locked out for good (every wait is bounded and failures are forgotten); memory is bounded (full
//! tables forget the least suspicious first); an attempt counts as a failure from the moment it is let through until it
//! is known to have succeeded, so that many at once gain nothing. An address from which a user has logged in before keeps
//! its own count for that user: whoever guesses from elsewhere cannot keep the user out.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::policy::fold;

/// When guessing is slowed down, and by how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrottleRules {
    /// Failures in a row on one account before the first wait.
    pub free_per_account: u32,
    /// Failures from one address before the first wait. Many people may share an address.
    pub free_per_address: u32,
    /// The first wait; each further failure doubles it.
    pub first_wait: Duration,
    pub longest_wait_account: Duration,
    pub longest_wait_address: Duration,
    /// Without a failure for this long, earlier ones are forgotten.
    pub forget_after: Duration,
    /// Accounts and addresses remembered, each.
    pub remembered: usize,
}

impl Default for ThrottleRules {
    fn default() -> Self {
        Self {
            free_per_account: 5,
            free_per_address: 20,
            first_wait: Duration::from_secs(1),
            longest_wait_account: Duration::from_secs(60),
            longest_wait_address: Duration::from_secs(900),
            forget_after: Duration::from_secs(3600),
            remembered: 16_384,
        }
    }
}

/// An attempt that was let through. Hand it back with its outcome; when it is lost, it stays a failure.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Attempt {
    account: AccountKey,
    address: Prefix,
}

/// How long to wait before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    pub duration: Duration,
    pub because: Because,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    Account,
    Address,
}

/// A folded login name; with an address when the user has logged in from there before.
type AccountKey = (String, Option<Prefix>);

/// What one customer of a network usually has: an IPv4 address, or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Prefix(IpAddr);

impl Prefix {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            v4 => v4,
        })
    }
}

/// Counts failures.
#[derive(Debug)]
pub struct Throttle {
    rules: ThrottleRules,
    accounts: HashMap<AccountKey, Failures>,
    addresses: HashMap<Prefix, Failures>,
    /// Where users have logged in from, and when last.
    known: HashMap<(String, Prefix), Failures>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Failures {
    count: u32,
    last_ms: i64,
    until_ms: i64,
}

impl Throttle {
    pub fn new(rules: ThrottleRules) -> Self {
        Self { rules, accounts: HashMap::new(), addresses: HashMap::new(), known: HashMap::new() }
    }

    /// Lets an attempt through, or says how long to wait.
    ///
    /// # Errors
    /// The wait. Asking again before it is over does not prolong it.
    pub fn attempt(&mut self, now_ms: i64, account: &str, address: IpAddr) -> Result<Attempt, Wait> {
        let (name, address) = (fold(account), Prefix::of(address));
        let known = self.known.contains_key(&(name.clone(), address));
        let account = (name, known.then_some(address));
        let wait = |failures: Option<&Failures>, because| {
            let left = failures.map_or(0, |failures| failures.until_ms.saturating_sub(now_ms));
            let duration = Duration::from_millis(u64::try_from(left).unwrap_or(0));
            (!duration.is_zero()).then_some(Wait { duration, because })
        };
        let waits = [
            wait(self.addresses.get(&address), Because::Address),
            wait(self.accounts.get(&account), Because::Account),
        ];
        if let Some(wait) = waits.into_iter().flatten().max_by_key(|wait| wait.duration) {
            return Err(wait);
        }
        let rules = self.rules;
        let of_account = (rules.free_per_account, rules.longest_wait_account);
        let of_address = (rules.free_per_address, rules.longest_wait_address);
        note(&mut self.accounts, account.clone(), now_ms, of_account, &rules);
        note(&mut self.addresses, address, now_ms, of_address, &rules);
        Ok(Attempt { account, address })
    }

    /// The password was right.
    pub fn succeeded(&mut self, now_ms: i64, attempt: Attempt) {
        let Attempt { account, address } = attempt;
        self.accounts.remove(&account);
        self.take_back(address);
        let rules = self.rules;
        note(&mut self.known, (account.0, address), now_ms, (u32::MAX, Duration::ZERO), &rules);
    }

    /// The attempt came to no answer (too busy, a broken store): it does not count.
    pub fn withdrawn(&mut self, attempt: Attempt) {
        let Attempt { account, address } = attempt;
        if let Some(failures) = self.accounts.get_mut(&account) {
            failures.take_back();
        }
        self.take_back(address);
    }

    fn take_back(&mut self, address: Prefix) {
        if let Some(failures) = self.addresses.get_mut(&address) {
            failures.take_back();
        }
    }
}

impl Failures {
    fn take_back(&mut self) {
        self.count = self.count.saturating_sub(1);
        // The wait this attempt brought about; an older one had to be over for it to be let through.
        self.until_ms = self.last_ms;
    }
}

/// Counts one more, making room first where there is none.
fn note<K: Clone + Eq + Hash>(
    table: &mut HashMap<K, Failures>,
    key: K,
    now_ms: i64,
    (free, longest): (u32, Duration),
    rules: &ThrottleRules,
) {
    let forget = millis(rules.forget_after);
    let is_over = |failures: &Failures| now_ms.saturating_sub(failures.last_ms) >= forget;
    if table.len() >= rules.remembered.max(1) && !table.contains_key(&key) {
        table.retain(|_, failures| !is_over(failures));
        let least = table.iter().min_by_key(|(_, failures)| (failures.count, failures.last_ms));
        if table.len() >= rules.remembered.max(1)
            && let Some(least) = least.map(|(key, _)| key.clone())
        {
            table.remove(&least);
        }
    }
    let failures = table.entry(key).or_default();
    if is_over(failures) {
        failures.count = 0;
    }
    failures.count = failures.count.saturating_add(1);
    failures.last_ms = now_ms;
    failures.until_ms = now_ms.saturating_add(wait_ms(failures.count, free, rules.first_wait, longest));
}

fn wait_ms(count: u32, free: u32, first: Duration, longest: Duration) -> i64 {
    let Some(doublings) = count.saturating_sub(free).checked_sub(1) else { return 0 };
    let factor = 1_i64.checked_shl(doublings).filter(|factor| *factor > 0).unwrap_or(i64::MAX);
    millis(first).saturating_mul(factor).min(millis(longest))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Fails `n` times as fast as it is let through; answers the moments of the attempts.
    fn guess(throttle: &mut Throttle, mut now: i64, n: u32, account: &str, address: &str) -> Vec<i64> {
        let mut moments = Vec::new();
        while moments.len() < n as usize {
            match throttle.attempt(now, account, ip(address)) {
                Ok(_) => moments.push(now),
                Err(wait) => now += i64::try_from(wait.duration.as_millis()).unwrap(),
            }
        }
        moments
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut throttle = Throttle::new(ThrottleRules::default());
        let moments = guess(&mut throttle, 0, 14, "ada", "192.0.2.1");
        let waits: Vec<_> = moments.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn one_address_cannot_try_many_accounts() {
        let mut throttle = Throttle::new(ThrottleRules::default());
        for n in 0..21 {
            assert!(throttle.attempt(0, &format!("user{n}"), ip("192.0.2.1")).is_ok());
        }
        let wait = throttle.attempt(0, "another", ip("192.0.2.1")).unwrap_err();
        assert_eq!(wait, Wait { duration: Duration::from_secs(1), because: Because::Address });
        assert!(throttle.attempt(0, "another", ip("192.0.2.2")).is_ok());
    }

    #[test]
    fn a_64_is_one_address_and_mapped_addresses_are_what_they_map() {
        let mut throttle = Throttle::new(ThrottleRules { free_per_address: 1, ..ThrottleRules::default() });
        for (n, address) in ["2001:db8::1", "2001:db8::2"].into_iter().enumerate() {
            assert!(throttle.attempt(0, &format!("u{n}"), ip(address)).is_ok());
        }
        assert!(throttle.attempt(0, "u3", ip("2001:db8::dead:beef")).is_err());
        assert!(throttle.attempt(0, "u3", ip("2001:db8:0:1::1")).is_ok());
        assert!(throttle.attempt(0, "u4", ip("192.0.2.9")).is_ok());
        assert!(throttle.attempt(0, "u5", ip("::ffff:192.0.2.9")).is_ok());
        assert!(throttle.attempt(0, "u6", ip("192.0.2.9")).is_err());
    }

    #[test]
    fn success_clears_the_account_and_is_no_failure_of_the_address() {
        let mut throttle = Throttle::new(ThrottleRules::default());
        for _ in 0..100 {
            let attempt = throttle.attempt(0, "Ada", ip("192.0.2.1")).unwrap();
            throttle.succeeded(0, attempt);
        }
        guess(&mut throttle, 0, 5, "ada", "192.0.2.1");
        let attempt = throttle.attempt(0, "ADA", ip("192.0.2.1")).unwrap();
        throttle.succeeded(0, attempt);
        assert!(
            throttle.attempt(0, "ada", ip("192.0.2.1")).is_ok(),
            "names are folded and the count is gone"
        );
    }

    #[test]
    fn guessing_from_elsewhere_does_not_keep_the_user_out() {
        let mut throttle = Throttle::new(ThrottleRules::default());
        let attempt = throttle.attempt(0, "ada", ip("192.0.2.1")).unwrap();
        throttle.succeeded(0, attempt);
        guess(&mut throttle, 0, 15, "ada", "198.51.100.7");
        assert!(throttle.attempt(1000, "ada", ip("203.0.113.5")).is_err(), "a new address waits");
        assert!(throttle.attempt(1000, "ada", ip("192.0.2.1")).is_ok(), "the usual one does not");
        guess(&mut throttle, 1000, 10, "ada", "192.0.2.1");
        assert!(throttle.attempt(1001, "ada", ip("192.0.2.1")).is_err(), "but it is counted, too");
    }

    #[test]
    fn what_came_to_no_answer_does_not_count() {
        let mut throttle = Throttle::new(ThrottleRules::default());
        for _ in 0..100 {
            let attempt = throttle.attempt(0, "ada", ip("192.0.2.1")).unwrap();
            throttle.withdrawn(attempt);
        }
        assert!(throttle.attempt(0, "ada", ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn many_at_once_gain_nothing() {
        let mut throttle = Throttle::new(ThrottleRules::default());
        let let_through = (0..1000).filter(|_| throttle.attempt(0, "ada", ip("192.0.2.1")).is_ok()).count();
        assert_eq!(let_through, 6, "five are free, the sixth makes the next one wait");
    }

    #[test]
    fn failures_are_forgotten() {
        let mut throttle = Throttle::new(ThrottleRules::default());
        let last = guess(&mut throttle, 0, 12, "ada", "192.0.2.1").pop().unwrap();
        let later = last + 3_600_000;
        assert_eq!(guess(&mut throttle, later, 6, "ada", "192.0.2.1"), [later; 6]);
    }

    #[test]
    fn a_full_table_keeps_the_suspicious() {
        let rules = ThrottleRules { remembered: 100, free_per_address: u32::MAX, ..ThrottleRules::default() };
        let mut throttle = Throttle::new(rules);
        guess(&mut throttle, 0, 9, "ada", "192.0.2.1");
        for n in 0..10_000_u32 {
            let address = IpAddr::from(n.to_be_bytes());
            let _ = throttle.attempt(20_000, &format!("noise{n}"), address);
        }
        assert!(throttle.accounts.len() <= 100 && throttle.addresses.len() <= 100);
        assert_eq!(throttle.accounts[&("ada".to_owned(), None)].count, 9);
    }

    proptest! {
        /// Whatever happens: tables stay bounded, waits stay bounded, and waiting as told is always enough.
        #[test]
        fn waits_and_tables_are_bounded(
            steps in proptest::collection::vec((0..5_u8, 0..6_u8, 0..3_u8, 0..5_000_i64), 1..300),
            base in prop_oneof![Just(0), Just(i64::MAX - 2_000_000), Just(i64::MIN), any::<i64>()],
        ) {
            let rules = ThrottleRules { remembered: 4, free_per_address: 3, ..ThrottleRules::default() };
            let mut throttle = Throttle::new(rules);
            let mut now = base;
            for (account, host, outcome, pause) in steps {
                now = now.saturating_add(pause);
                let (account, address) = (format!("u{account}"), IpAddr::from([10, 0, 0, host]));
                match throttle.attempt(now, &account, address) {
                    Ok(attempt) => match outcome {
                        0 => throttle.succeeded(now, attempt),
                        1 => throttle.withdrawn(attempt),
                        _ => drop(attempt),
                    },
                    Err(wait) => {
                        prop_assert!(wait.duration <= rules.longest_wait_address);
                        let after = now.saturating_add(i64::try_from(wait.duration.as_millis()).unwrap());
                        prop_assert!(after == i64::MAX || throttle.attempt(after, &account, address).is_ok());
                        now = after;
                    }
                }
                for size in [throttle.accounts.len(), throttle.addresses.len(), throttle.known.len()] {
                    prop_assert!(size <= 4);
                }
            }
        }
    }
}

//! Ended visits on their way into the usage figures.
//!
//! What the launcher has summed up is fetched every few seconds and written as figures per day. What cannot be written
//! stays in hand, added up, so waiting costs no memory. A write whose answer did not come in time is made again: those
//! visits may count twice, but are not missing.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_launch::{Handle, Visits};
use skep_store::{Usage, UsageDay};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::control::now_ms;

const EVERY: Duration = Duration::from_secs(10);
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
const LAST_WRITE: Duration = Duration::from_secs(5);
const DAY_MS: i64 = 24 * 3600 * 1000;
/// Days of figures kept: a year and a month, to compare with.
const KEEP_DAYS: i64 = 396;

/// Counts until `end`, then writes what is left.
pub(crate) async fn run(handle: &Handle, usage: &Usage, end: &CancellationToken) {
    let mut sums = Sums::default();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut expired_on = 0;
    loop {
        let last = tokio::select! {
            _ = ticks.tick() => false,
            () = end.cancelled() => true,
        };
        let now = now_ms();
        sums.add(handle.take_visits(), now);
        let deadline = if last { LAST_WRITE } else { WRITE_DEADLINE };
        if !sums.days.is_empty() {
            match timeout(deadline, usage.add(&sums.rows())).await {
                Ok(Ok(())) => sums.days.clear(),
                Ok(Err(problem)) => tracing::warn!(%problem, "usage figures cannot be written; trying again"),
                Err(_) => tracing::warn!("writing usage figures takes too long; trying again"),
            }
        }
        if last {
            return;
        }
        let today = now / DAY_MS;
        if expired_on != today {
            match timeout(WRITE_DEADLINE, usage.expire(today - KEEP_DAYS)).await {
                Ok(Ok(_)) => expired_on = today,
                Ok(Err(problem)) => tracing::warn!(%problem, "old usage figures could not be removed"),
                Err(_) => tracing::warn!("removing old usage figures took too long; going on later"),
            }
        }
    }
}

/// Day, app and user.
type Whose = (i64, String, Option<String>);

/// Figures in hand.
#[derive(Default)]
struct Sums {
    days: BTreeMap<Whose, UsageDay>,
}

impl Sums {
    /// A visit counts for the day it ended on.
    fn add(&mut self, visits: Vec<Visits>, now_ms: i64) {
        for visit in visits {
            let (day, app, user) = (now_ms / DAY_MS, visit.app.to_string(), visit.user.map(String::from));
            let sum = self.days.entry((day, app.clone(), user.clone())).or_insert_with(|| UsageDay {
                day,
                app,
                user,
                visits: 0,
                seconds: 0,
                last_at_ms: 0,
            });
            sum.visits = sum.visits.saturating_add_unsigned(visit.count);
            sum.seconds = sum.seconds.saturating_add_unsigned(visit.time.as_secs());
            sum.last_at_ms = now_ms;
        }
    }

    fn rows(&self) -> Vec<UsageDay> {
        self.days.values().cloned().collect()
    }
}

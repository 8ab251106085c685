//! Who used what, summed up until somebody asks.
//!
//! A visit is a seat that was given to a page load, from its grant until nobody holds it any more. Uses of an app by
//! programs that keep no cookie are not visits.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_model::{AppId, UserName};

/// Pairs kept apart at most until they are taken; further users count as nobody in particular.
const AT_MOST: usize = 10_000;

/// The ended visits of one user to one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visits {
    pub app: AppId,
    /// `None`: nobody was logged in.
    pub user: Option<UserName>,
    pub count: u64,
    /// All of them together.
    pub time: Duration,
}

#[derive(Default)]
pub(crate) struct VisitSums {
    sums: BTreeMap<(AppId, Option<UserName>), (u64, Duration)>,
}

impl VisitSums {
    pub(crate) fn add(&mut self, app: AppId, user: Option<UserName>, time: Duration) {
        let mut key = (app, user);
        if self.sums.len() >= AT_MOST && !self.sums.contains_key(&key) {
            key.1 = None;
        }
        let (count, sum) = self.sums.entry(key).or_default();
        *count += 1;
        *sum += time;
    }

    pub(crate) fn take(&mut self) -> Vec<Visits> {
        let sums = std::mem::take(&mut self.sums);
        sums.into_iter().map(|((app, user), (count, time))| Visits { app, user, count, time }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_add_up_per_app_and_user_until_taken() {
        let mut sums = VisitSums::default();
        let second = Duration::from_secs(1);
        let app = |id: &str| -> AppId { id.parse().unwrap() };
        let ada: UserName = "ada".parse().unwrap();
        sums.add(app("a"), Some(ada.clone()), second);
        sums.add(app("a"), Some(ada.clone()), second * 2);
        sums.add(app("a"), None, second);
        sums.add(app("b"), Some(ada.clone()), second);
        let visits = |app, user, count, time| Visits { app, user, count, time };
        assert_eq!(
            sums.take(),
            [
                visits(app("a"), None, 1, second),
                visits(app("a"), Some(ada.clone()), 2, second * 3),
                visits(app("b"), Some(ada), 1, second),
            ]
        );
        assert_eq!(sums.take(), []);
        for n in 0..AT_MOST + 10 {
            sums.add(app("a"), Some(format!("user{n}").parse().unwrap()), second);
        }
        let taken = sums.take();
        assert_eq!(taken.len(), AT_MOST + 1);
        assert_eq!((taken[0].user.clone(), taken[0].count), (None, 10));
    }
}

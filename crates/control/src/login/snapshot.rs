//! From the store to the snapshot that event loops admit with.

use std::sync::Arc;
use std::time::Duration;

use skep_identity::{Admission, Person, Policy, SessionId, Sharing};
use skep_store::{Everybody, StoreError};
use tokio::time::MissedTickBehavior;

use super::{LOCAL, Login, LoginConfig};
use crate::control::now_ms;
use crate::roster::parse_grant;

/// How often changes made elsewhere (another server, the command line) are looked for. Half of what an ended login may
/// take to count everywhere.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// How often ended logins that have run out are forgotten, in looks.
const TIDY_EVERY: u32 = 9_000;

/// Without a login only what is shared concerns anybody.
pub(super) fn build(config: Option<&LoginConfig>, all: &Everybody) -> Admission {
    let shares = all.shares.iter().filter_map(|row| {
        let sharing = Sharing { since_ms: row.since_ms, until_ms: row.until_ms };
        Some((row.instance.parse().ok()?, sharing))
    });
    let shares = shares.collect();
    let Some(config) = config else { return Admission { shares, ..Admission::default() } };
    let person = |user: &skep_store::UserRow| Person {
        groups: user.groups.clone(),
        not_before_ms: user.not_before_ms,
        disabled: user.disabled,
    };
    Admission {
        policy: Policy::new(all.grants.iter().filter_map(parse_grant)),
        rules: config.rules,
        insecure_http: config.insecure_http,
        provider: LOCAL.to_owned(),
        people: all.users.iter().map(|user| (user.name.clone(), person(user))).collect(),
        revoked: all
            .revocations
            .iter()
            .filter_map(|(id, until_ms)| Some((SessionId::parse(id)?, *until_ms)))
            .collect(),
        shares,
    }
}

impl Login {
    /// Publishes what the store says now, if that is news.
    ///
    /// # Errors
    /// When the store cannot be read; what was published stays.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let mut seen = self.reading.lock().await;
        if *seen == Some(self.roster.people().version().await?) {
            return Ok(());
        }
        let all = self.roster.people().read().await?;
        self.admission.send_replace(Arc::new(build(self.doors.as_ref().map(|doors| &doors.config), &all)));
        *seen = Some(all.version);
        Ok(())
    }

    /// Keeps the snapshot up with changes made elsewhere, until dropped.
    pub(crate) async fn keep(&self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut failing, mut looks) = (false, 0_u32);
        loop {
            ticks.tick().await;
            match (self.refresh().await, failing) {
                (Ok(()), false) | (Err(_), true) => {}
                (Ok(()), true) => {
                    tracing::info!("the users can be read again");
                    failing = false;
                }
                (Err(problem), false) => {
                    tracing::error!(%problem, "the users cannot be read; those known stay as they were");
                    failing = true;
                }
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(TIDY_EVERY)
                && let Err(problem) = self.roster.people().expire(now_ms()).await
            {
                tracing::warn!(%problem, "ended logins could not be tidied away");
            }
        }
    }
}

//! Everything needed to say who a request comes from and what they may do, as one immutable snapshot.
//!
//! The control side builds a new snapshot whenever users, groups, grants or revocations change and publishes it whole;
//! the event loops only read. A request is admitted without SQL, locks or waiting.

use std::collections::HashMap;

use skep_model::{AppSpec, InstanceId, Principal, UserName};

use crate::cookies::LoginCookie;
use crate::permission::Permission;
use crate::policy::{Decision, Object, Policy};
use crate::sealer::SealedBy;
use crate::session::{Session, SessionId, SessionRules, SessionSealer};
use crate::share::Share;

/// A user as far as admission is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    pub groups: Vec<String>,
    /// Logins from before this time do not count any more, milliseconds since the Unix epoch.
    pub not_before_ms: i64,
    pub disabled: bool,
}

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    pub policy: Policy,
    pub rules: SessionRules,
    /// Logins over plain HTTP are accepted (`--insecure-http-login`).
    pub insecure_http: bool,
    /// The provider whose logins count; empty when no login is configured.
    pub provider: String,
    pub people: HashMap<UserName, Person>,
    /// Logins that were ended one by one, and until when each must be remembered.
    pub revoked: HashMap<SessionId, i64>,
    /// Instances that their owners share now.
    pub shares: HashMap<InstanceId, Sharing>,
}

/// How long an instance is shared, milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    pub since_ms: i64,
    pub until_ms: i64,
}

/// A request with a login that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    pub principal: Principal,
    pub session: Session,
    pub by: SealedBy,
    /// The cookie shall be replaced; this goes into it.
    pub renewed: Option<Session>,
}

impl Admission {
    /// The first of these cookie values that is a login in good standing.
    pub fn admit<'a>(
        &self,
        sealer: &SessionSealer,
        cookie: LoginCookie,
        values: impl Iterator<Item = &'a str>,
        now_ms: i64,
    ) -> Option<Admitted> {
        if !self.policy.login() {
            return None;
        }
        // A browser sends one. More than a few are somebody's attempt to keep us busy.
        let mut opened = values.take(4).filter_map(|value| sealer.open(cookie, value, now_ms));
        opened.find_map(|opened| {
            let principal = self.standing(&opened.session)?;
            let renewed = opened.renew.then(|| opened.session.renewed(&self.rules, now_ms));
            Some(Admitted { principal, session: opened.session, by: opened.by, renewed })
        })
    }

    /// Who a session stands for now: `None` when it was revoked, or its user is gone or disabled. Does not look at the
    /// clock; the session's own end is checked when its cookie is opened.
    pub fn standing(&self, session: &Session) -> Option<Principal> {
        let person = self.people.get(&session.user)?;
        let counts = !person.disabled
            && session.auth_at_ms >= person.not_before_ms
            && session.provider == self.provider
            && !self.revoked.contains_key(&session.id);
        counts.then(|| Principal::User { name: session.user.clone(), groups: person.groups.clone() })
    }

    /// Whether a share counts now.
    pub fn is_shared(&self, share: &Share, now_ms: i64) -> bool {
        let sharing = self.shares.get(&share.instance);
        sharing.is_some_and(|sharing| sharing.since_ms == share.since_ms && now_ms < sharing.until_ms)
    }

    /// Whether `who` may open the app.
    pub fn may_open<'a>(&'a self, who: &'a Principal, app: &'a AppSpec) -> Decision<'a> {
        self.policy.may(who, Permission::AppsUse, Object::App { id: &app.id, access: &app.access })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyRing;

    const NOW: i64 = 1_790_000_000_000;

    fn ada() -> UserName {
        "ada".parse().unwrap()
    }

    fn admission() -> Admission {
        let person = Person { groups: vec!["staff".to_owned()], not_before_ms: NOW - 1000, disabled: false };
        Admission {
            policy: Policy::new([]),
            provider: "local".to_owned(),
            people: HashMap::from([(ada(), person)]),
            ..Admission::default()
        }
    }

    fn admit(admission: &Admission, session: &Session, now_ms: i64) -> Option<Admitted> {
        let sealer = SessionSealer::new(&KeyRing::ephemeral().unwrap());
        let text = sealer.seal(LoginCookie::Host, session).unwrap();
        let values = ["junk", text.as_str()];
        admission.admit(&sealer, LoginCookie::Host, values.into_iter(), now_ms)
    }

    fn session() -> Session {
        Session::begin(ada(), SessionId(1), "local", false, &SessionRules::default(), NOW)
    }

    #[test]
    fn a_good_login_is_who_it_says_with_the_groups_of_now() {
        let found = admit(&admission(), &session(), NOW + 1).unwrap();
        assert_eq!(found.principal, Principal::User { name: ada(), groups: vec!["staff".to_owned()] });
        assert_eq!(found.renewed, None);
        let later = admit(&admission(), &session(), NOW + 7 * 3_600_000).unwrap();
        assert_eq!(later.renewed.unwrap().auth_at_ms, NOW);
    }

    fn revoke(admission: &mut Admission, id: u128) {
        admission.revoked.insert(SessionId(id), i64::MAX);
    }

    #[test]
    fn each_way_of_ending_a_login_counts_at_once() {
        let with = |change: fn(&mut Admission)| {
            let mut changed = admission();
            change(&mut changed);
            admit(&changed, &session(), NOW + 1)
        };
        assert!(with(|_| {}).is_some());
        assert_eq!(with(|a| a.people.clear()), None, "user removed");
        assert_eq!(with(|a| a.people.get_mut(&ada()).unwrap().disabled = true), None);
        assert_eq!(with(|a| a.people.get_mut(&ada()).unwrap().not_before_ms = NOW + 1), None, "everywhere");
        assert_eq!(with(|a| revoke(a, 1)), None, "logout");
        assert!(with(|a| revoke(a, 2)).is_some(), "another's logout");
        assert_eq!(with(|a| a.provider = "oidc".to_owned()), None, "another provider");
        assert_eq!(with(|a| a.policy = Policy::without_login()), None, "no login configured");
        assert_eq!(admit(&admission(), &session(), NOW + 13 * 3_600_000), None, "idle");
    }

    #[test]
    fn a_user_made_anew_does_not_inherit_old_logins() {
        let mut changed = admission();
        changed.people.insert(ada(), Person { not_before_ms: NOW + 5, ..Person::default() });
        assert_eq!(admit(&changed, &session(), NOW + 10), None);
    }

    #[test]
    fn a_share_counts_while_its_owner_says_so() {
        let instance = InstanceId::new("sales".parse().unwrap(), 1);
        let share = Share { instance: instance.clone(), name: None, since_ms: NOW };
        let mut admission = admission();
        assert!(!admission.is_shared(&share, NOW), "not shared");
        admission.shares.insert(instance.clone(), Sharing { since_ms: NOW, until_ms: NOW + 10 });
        assert!(admission.is_shared(&share, NOW + 9));
        assert!(!admission.is_shared(&share, NOW + 10), "over");
        admission.shares.insert(instance, Sharing { since_ms: NOW + 1, until_ms: NOW + 10 });
        assert!(!admission.is_shared(&share, NOW + 2), "shared anew since");
    }

    #[test]
    fn hostile_cookie_values_are_nobody() {
        let sealer = SessionSealer::new(&KeyRing::ephemeral().unwrap());
        let long = "A".repeat(100_000);
        for value in ["", "=", "%00", "\u{1f41d}", long.as_str()] {
            let found = admission().admit(&sealer, LoginCookie::Host, std::iter::repeat_n(value, 1000), NOW);
            assert_eq!(found, None);
        }
    }
}

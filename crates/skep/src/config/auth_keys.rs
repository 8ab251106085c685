//! `[auth]`: whether people log in, how long a login lasts, how guessing is slowed down.

use std::time::Duration;

use skep_identity::{SessionRules, ThrottleRules};

use super::document::Section;

/// `[auth]`, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AuthKeys {
    pub(crate) provider: Provider,
    pub(crate) session: SessionRules,
    pub(crate) throttle: ThrottleRules,
}

/// Who says who somebody is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Provider {
    /// Nobody: apps are for whoever reaches them. On loopback only.
    #[default]
    None,
    /// Skep's own users and passwords.
    Local,
}

pub(crate) fn auth(mut section: Section<'_, '_>) -> AuthKeys {
    let mend = "write \"none\" or \"local\"; other providers come with a later version";
    let provider = section.parsed("provider", mend, |text| match text {
        "none" => Ok(Provider::None),
        "local" => Ok(Provider::Local),
        "oidc" | "ldap" | "saml" => Err(format!("is \"{text}\", which this version of Skep does not have")),
        _ => Err(format!("is \"{text}\", which is no provider")),
    });
    let keys = AuthKeys {
        provider: provider.unwrap_or_default(),
        session: section.section("session").map(session).unwrap_or_default(),
        throttle: section.section("throttle").map(throttle).unwrap_or_default(),
    };
    section.finish();
    keys
}

fn session(mut section: Section<'_, '_>) -> SessionRules {
    let usual = SessionRules::default();
    let mut duration = |key, usual: Duration| section.positive_duration(key).unwrap_or(usual);
    let rules = SessionRules {
        idle: duration("idle", usual.idle),
        longest: duration("longest", usual.longest),
        stay_idle: duration("stay_idle", usual.stay_idle),
        stay_longest: duration("stay_longest", usual.stay_longest),
    };
    section.finish();
    rules
}

fn throttle(mut section: Section<'_, '_>) -> ThrottleRules {
    let usual = ThrottleRules::default();
    let rules = ThrottleRules {
        free_per_account: section.whole("free_per_account", 1, 1000).unwrap_or(usual.free_per_account),
        free_per_address: section.whole("free_per_address", 1, 100_000).unwrap_or(usual.free_per_address),
        first_wait: section.positive_duration("first_wait").unwrap_or(usual.first_wait),
        longest_wait_account: section
            .positive_duration("longest_wait_account")
            .unwrap_or(usual.longest_wait_account),
        longest_wait_address: section
            .positive_duration("longest_wait_address")
            .unwrap_or(usual.longest_wait_address),
        forget_after: section.positive_duration("forget_after").unwrap_or(usual.forget_after),
        remembered: usual.remembered,
    };
    section.finish();
    rules
}

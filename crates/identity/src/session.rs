//! A login as the browser carries it: sealed into the login cookie, with nothing of it on the server. Pure; the time is
//! an argument.
//!
//! Invariants: a session ends at the earlier of its idle and its absolute end, and no renewal moves the absolute end; what
//! was sealed for one cookie name opens for no other. Groups are absent on purpose: they are looked up at each request, so
//! that a change counts at once. So are tokens of any kind.

use std::fmt;
use std::time::Duration;

use skep_model::UserName;

use crate::cookies::LoginCookie;
use crate::keyring::{IdentityError, KeyRing, random};
use crate::sealer::{SealedBy, Sealer};

const VERSION: u8 = 1;
const STAY: u8 = 1;
/// Version, flags, id, four times, length of the provider's name.
const FIXED: usize = 1 + 1 + 16 + 4 * 8 + 1;

/// Names one login; random. Revoked one by one at logout.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    // Enough to follow it through a log, too little to use.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session-{:08x}", self.0 >> 96)
    }
}

impl SessionId {
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn random() -> Result<Self, IdentityError> {
        Ok(Self(u128::from_be_bytes(random()?)))
    }

    /// As written by `Display`.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        u128::from_str_radix(text, 16).ok().filter(|_| hex).map(Self)
    }
}

/// How long logins last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRules {
    /// Without a request for this long, the login is over.
    pub idle: Duration,
    /// At the latest, it is over this long after the password was given.
    pub longest: Duration,
    /// The same for those who chose to stay signed in.
    pub stay_idle: Duration,
    pub stay_longest: Duration,
}

impl Default for SessionRules {
    fn default() -> Self {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        Self {
            idle: hours(12),
            longest: hours(24 * 7),
            stay_idle: hours(24 * 30),
            stay_longest: hours(24 * 90),
        }
    }
}

impl SessionRules {
    fn idle_ms(&self, stay: bool) -> i64 {
        millis(if stay { self.stay_idle } else { self.idle })
    }

    fn longest_ms(&self, stay: bool) -> i64 {
        millis(if stay { self.stay_longest } else { self.longest })
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// What the login cookie says. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub user: UserName,
    pub id: SessionId,
    /// Who vouched for the user: `local`.
    pub provider: String,
    /// When the password was given.
    pub auth_at_ms: i64,
    pub sealed_at_ms: i64,
    pub idle_until_ms: i64,
    pub until_ms: i64,
    /// The user chose to stay signed in: the cookie outlives the browser.
    pub stay: bool,
}

impl Session {
    pub fn begin(
        user: UserName,
        id: SessionId,
        provider: &str,
        stay: bool,
        rules: &SessionRules,
        now_ms: i64,
    ) -> Self {
        let until_ms = now_ms.saturating_add(rules.longest_ms(stay));
        let idle_until_ms = now_ms.saturating_add(rules.idle_ms(stay)).min(until_ms);
        let (auth_at_ms, sealed_at_ms) = (now_ms, now_ms);
        Self {
            user,
            id,
            provider: provider.to_owned(),
            auth_at_ms,
            sealed_at_ms,
            idle_until_ms,
            until_ms,
            stay,
        }
    }

    pub fn is_live(&self, now_ms: i64) -> bool {
        now_ms < self.idle_until_ms && now_ms < self.until_ms
    }

    /// Whether half of the idle time has passed, so that a new cookie is worth its bytes.
    fn is_half_idle(&self, now_ms: i64) -> bool {
        let whole = self.idle_until_ms.saturating_sub(self.sealed_at_ms);
        // At the absolute end there is nothing left to win.
        self.idle_until_ms < self.until_ms && now_ms.saturating_sub(self.sealed_at_ms) >= whole / 2
    }

    /// The same login with its idle time running from now on.
    #[must_use]
    pub fn renewed(&self, rules: &SessionRules, now_ms: i64) -> Self {
        let idle_until_ms = now_ms.saturating_add(rules.idle_ms(self.stay)).min(self.until_ms);
        Self { sealed_at_ms: now_ms, idle_until_ms, ..self.clone() }
    }

    /// How long the browser shall keep the cookie, seconds; `None`: until it is closed.
    pub fn max_age_s(&self, now_ms: i64) -> Option<i64> {
        self.stay.then(|| self.idle_until_ms.saturating_sub(now_ms) / 1000)
    }

    fn encode(&self) -> Vec<u8> {
        let provider = self.provider.as_bytes();
        let provider = &provider[..provider.len().min(usize::from(u8::MAX))];
        let mut bytes = Vec::with_capacity(FIXED + provider.len() + self.user.as_str().len());
        bytes.extend_from_slice(&[VERSION, if self.stay { STAY } else { 0 }]);
        bytes.extend_from_slice(&self.id.0.to_be_bytes());
        for time in [self.auth_at_ms, self.sealed_at_ms, self.idle_until_ms, self.until_ms] {
            bytes.extend_from_slice(&time.to_be_bytes());
        }
        bytes.push(u8::try_from(provider.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(provider);
        bytes.extend_from_slice(self.user.as_str().as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[VERSION, flags], rest) = bytes.split_first_chunk::<2>()? else { return None };
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let mut rest = rest;
        let mut times = [0_i64; 4];
        for time in &mut times {
            let (bytes, after) = rest.split_first_chunk::<8>()?;
            *time = i64::from_be_bytes(*bytes);
            rest = after;
        }
        let (&length, rest) = rest.split_first()?;
        let (provider, user) = rest.split_at_checked(usize::from(length))?;
        let [auth_at_ms, sealed_at_ms, idle_until_ms, until_ms] = times;
        Some(Self {
            user: std::str::from_utf8(user).ok()?.parse().ok()?,
            id: SessionId(u128::from_be_bytes(*id)),
            provider: std::str::from_utf8(provider).ok()?.to_owned(),
            auth_at_ms,
            sealed_at_ms,
            idle_until_ms,
            until_ms,
            stay: flags & STAY != 0,
        })
    }
}

/// A session found in a cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub session: Session,
    pub by: SealedBy,
    /// Half the idle time is over, or an old key sealed it: send [`Session::renewed`].
    pub renew: bool,
}

/// Seals and opens login cookies. Holds the derived keys; keep it.
#[derive(Debug, Clone)]
pub struct SessionSealer {
    host: Sealer,
    plain: Sealer,
}

impl SessionSealer {
    pub fn new(ring: &KeyRing) -> Self {
        let sealer = |cookie: LoginCookie| ring.sealer(cookie.name());
        Self { host: sealer(LoginCookie::Host), plain: sealer(LoginCookie::Plain) }
    }

    fn of(&self, cookie: LoginCookie) -> &Sealer {
        match cookie {
            LoginCookie::Host => &self.host,
            LoginCookie::Plain => &self.plain,
        }
    }

    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn seal(&self, cookie: LoginCookie, session: &Session) -> Result<String, IdentityError> {
        self.of(cookie).seal("", &session.encode())
    }

    /// The session in a cookie's value, if it is ours and not over.
    pub fn open(&self, cookie: LoginCookie, text: &str, now_ms: i64) -> Option<Opened> {
        let (plain, by) = self.of(cookie).open_dated("", text)?;
        let session = Session::decode(&plain).filter(|session| session.is_live(now_ms))?;
        let renew = !by.current || session.is_half_idle(now_ms);
        Some(Opened { session, by, renew })
    }

    /// Whether cookies of that key still count.
    pub fn has(&self, by: SealedBy) -> bool {
        // One ring for both.
        self.host.has(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_790_000_000_000;
    const HOUR: i64 = 3_600_000;
    use LoginCookie::{Host, Plain};

    fn session(stay: bool) -> Session {
        let rules = SessionRules::default();
        Session::begin("ada".parse().unwrap(), SessionId(7), "local", stay, &rules, NOW)
    }

    #[test]
    fn it_ends_when_idle_and_is_renewed_half_way() {
        let sealer = SessionSealer::new(&KeyRing::ephemeral().unwrap());
        let (rules, first) = (SessionRules::default(), session(false));
        let text = sealer.seal(Host, &first).unwrap();
        let at = |hours: i64| sealer.open(Host, &text, NOW + hours * HOUR);
        let opened = at(5).unwrap();
        assert!(opened.session == first && !opened.renew && sealer.has(opened.by));
        assert!(at(6).unwrap().renew);
        assert_eq!(at(12), None);
        let second = first.renewed(&rules, NOW + 6 * HOUR);
        assert_eq!(second.auth_at_ms, NOW, "renewing is no login");
        assert!(second.is_live(NOW + 17 * HOUR) && !second.is_live(NOW + 18 * HOUR));
        assert_eq!(second.max_age_s(NOW), None, "ends with the browser");
    }

    #[test]
    fn renewals_never_pass_the_absolute_end() {
        let rules = SessionRules::default();
        for (stay, days) in [(false, 7), (true, 90)] {
            let mut current = session(stay);
            let mut now = NOW;
            while current.is_live(now) {
                now += 3 * HOUR;
                if current.is_half_idle(now) {
                    current = current.renewed(&rules, now);
                }
            }
            assert_eq!(now, NOW + days * 24 * HOUR);
        }
    }

    #[test]
    fn staying_is_told_to_the_browser() {
        let stay = session(true);
        assert_eq!(stay.max_age_s(NOW), Some(30 * 24 * 3600));
        assert!(stay.is_live(NOW + 29 * 24 * HOUR));
    }

    #[test]
    fn an_old_key_asks_for_renewal_and_another_name_does_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let old = SessionSealer::new(&KeyRing::load_or_create(&path).unwrap());
        let text = old.seal(Host, &session(false)).unwrap();
        let new = SessionSealer::new(&KeyRing::rotate(&path, 1).unwrap());
        assert!(new.open(Host, &text, NOW).unwrap().renew);
        assert!(!old.open(Host, &text, NOW).unwrap().renew);
        assert_eq!(new.open(Plain, &text, NOW), None);
        let gone = SessionSealer::new(&KeyRing::rotate(&path, 0).unwrap());
        assert_eq!(gone.open(Host, &text, NOW), None);
    }

    #[test]
    fn two_servers_with_one_key_file_accept_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let a = SessionSealer::new(&KeyRing::load_or_create(&path).unwrap());
        let b = SessionSealer::new(&KeyRing::load_or_create(&path).unwrap());
        let text = a.seal(Host, &session(true)).unwrap();
        assert_eq!(b.open(Host, &text, NOW).unwrap().session, session(true));
        let stranger = SessionSealer::new(&KeyRing::ephemeral().unwrap());
        assert_eq!(stranger.open(Host, &text, NOW), None);
    }

    #[test]
    fn ids_read_back() {
        let id = SessionId(0xab);
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        for bad in ["", "ab", "+0000000000000000000000000000000", "000000000000000000000000000000AB"] {
            assert_eq!(SessionId::parse(bad), None);
        }
        assert_eq!(format!("{:?}", SessionId(u128::MAX)), "session-ffffffff");
    }

    proptest! {
        #[test]
        fn sessions_round_trip(
            user in "[a-zé\u{1f41d}]{1,128}", id in any::<u128>(), provider in "[a-z]{0,20}", stay in any::<bool>(),
            times in any::<[i64; 4]>(),
        ) {
            let session = Session {
                user: user.parse().unwrap(), id: SessionId(id), provider, stay,
                auth_at_ms: times[0], sealed_at_ms: times[1], idle_until_ms: times[2], until_ms: times[3],
            };
            prop_assert_eq!(Session::decode(&session.encode()), Some(session));
        }

        #[test]
        fn the_longest_cookie_fits(user in "\u{1f41d}{128}") {
            let sealer = SessionSealer::new(&KeyRing::ephemeral().unwrap());
            let text = sealer.seal(Host, &Session { user: user.parse().unwrap(), ..session(true) }).unwrap();
            prop_assert!(Host.set(&text, Some(1)).len() < 1200, "{}", text.len());
        }

        #[test]
        fn sealed_nonsense_is_no_session(plain in proptest::collection::vec(any::<u8>(), 0..120)) {
            let ring = KeyRing::ephemeral().unwrap();
            let text = ring.seal("__Host-skep", "", &plain).unwrap();
            if let Some(opened) = SessionSealer::new(&ring).open(Host, &text, NOW) {
                prop_assert_eq!(opened.session.encode()[2..].to_vec(), plain[2..].to_vec());
            }
        }

        /// However the clock jumps: a session past its ends is over, and arithmetic does not overflow.
        #[test]
        fn any_clock_will_do(times in any::<[i64; 4]>(), now in any::<i64>()) {
            let session = Session {
                auth_at_ms: times[0], sealed_at_ms: times[1], idle_until_ms: times[2], until_ms: times[3],
                ..session(false)
            };
            let renewed = session.renewed(&SessionRules::default(), now);
            prop_assert!(renewed.until_ms == session.until_ms && renewed.idle_until_ms <= session.until_ms);
            prop_assert_eq!(session.is_live(now), now < times[2].min(times[3]));
            let _ = (session.is_half_idle(now), session.max_age_s(now));
        }
    }
}

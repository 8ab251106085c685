//! Passwords of local users: Argon2id, hashed off the event loops and only as many at a time as there are cores.
//!
//! Invariants: a wrong name costs what a wrong password costs; no password is ever stored, logged or compared in the
//! clear; a hash made with weaker settings is replaced at the next good login. Absent on purpose: users, sessions,
//! throttling (see [`crate::throttle`]).

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use skep_model::Secret;
use tokio::sync::Semaphore;
use unicode_normalization::UnicodeNormalization;

use crate::keyring::{IdentityError, random};
use crate::policy::fold;

/// KiB of memory one hash takes.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Logins that may wait for their turn, per core.
const WAITING_PER_CORE: usize = 64;
/// The longest a login waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// The shortest password, in characters.
pub const MIN_PASSWORD: usize = 10;
/// The longest, in bytes: a bound on what is hashed, not advice.
pub const MAX_PASSWORD: usize = 1024;

/// What came of checking a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Right {
        /// The stored hash is of older settings: store this one instead.
        rehash: Option<String>,
    },
    Wrong,
    /// Too many logins at once; try again.
    Busy,
}

/// Hashes and checks passwords. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    line: Arc<Semaphore>,
    /// Checked against when there is no such user, so that the answer takes as long.
    decoy: Arc<str>,
}

impl Passwords {
    /// `cores`: hashes computed at a time; each takes 19 MiB.
    pub fn new(cores: usize) -> Self {
        let cores = cores.max(1);
        Self {
            turns: Arc::new(Semaphore::new(cores)),
            line: Arc::new(Semaphore::new(cores * WAITING_PER_CORE)),
            decoy: decoy().into(),
        }
    }

    /// Checks a password against a stored hash; without one (no such user) it takes as long and is wrong.
    pub async fn check(&self, stored: Option<String>, password: Secret) -> Verdict {
        if password.expose().len() > MAX_PASSWORD {
            return Verdict::Wrong;
        }
        let known = stored.is_some();
        let decoy = Arc::clone(&self.decoy);
        let work = move || {
            let stored = stored.as_deref().unwrap_or(&decoy);
            let right = verify(stored, password.expose());
            let stale = right && known && is_stale(stored);
            let rehash = if stale { hash(normal(password.expose()).as_bytes()).ok() } else { None };
            (right && known, rehash)
        };
        match self.in_turn(work).await {
            Some((true, rehash)) => Verdict::Right { rehash },
            Some((false, _)) => Verdict::Wrong,
            None => Verdict::Busy,
        }
    }

    /// A new hash to store; `None` when too many are at it already.
    pub async fn hash(&self, password: Secret) -> Option<String> {
        let work = move || hash(normal(password.expose()).as_bytes());
        self.in_turn(work).await.and_then(Result::ok)
    }

    /// Runs `work` on a thread of its own when it is its turn.
    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _place = Arc::clone(&self.line).try_acquire_owned().ok()?;
        let turn =
            tokio::time::timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await.ok()?.ok()?;
        // The turn goes with the work: a caller who leaves must not make room for one hash more.
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.ok()
    }
}

/// How many may hash at a time on this machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

fn argon2() -> Result<Argon2<'static>, IdentityError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None);
    let params = params.map_err(|error| IdentityError::Hash(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &[u8]) -> Result<String, IdentityError> {
    let salt: [u8; 16] = random()?;
    let hashed: PasswordHash = argon2()?
        .hash_password_with_salt(password, &salt)
        .map_err(|error| IdentityError::Hash(error.to_string()))?;
    Ok(hashed.to_string())
}

/// A hash of nothing: it looks like one of ours, and checking against it takes as long.
fn decoy() -> String {
    let text = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
    let (salt, output) = (random().unwrap_or([7; 16]), random().unwrap_or([7; 32]));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${}${}", text(&salt), text(&output))
}

fn verify(stored: &str, password: &str) -> bool {
    let Ok(argon2) = argon2() else { return false };
    // The hash names its own settings; these are only the defaults.
    argon2.verify_password(normal(password).as_bytes(), stored).is_ok()
}

/// Whether the hash was made with other settings than today's.
fn is_stale(stored: &str) -> bool {
    let wanted = format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}$");
    !stored.starts_with(&wanted)
}

/// The same characters give the same bytes, whichever keyboard composed them.
fn normal(password: &str) -> String {
    password.nfc().collect()
}

/// Why a password cannot be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    #[error("a password has at least {MIN_PASSWORD} characters")]
    TooShort,
    #[error("a password has at most {MAX_PASSWORD} bytes")]
    TooLong,
    #[error("a password must not contain the user name")]
    HoldsName,
    #[error("that password repeats a few characters; choose another")]
    Monotonous,
    #[error("that password is among the first anybody would try; choose another")]
    Common,
}

/// The rules for choosing a password. Length is what counts; no classes of characters are demanded.
///
/// # Errors
/// The first rule it breaks.
pub fn check_choice(user: &str, password: &str) -> Result<(), WeakPassword> {
    let password = normal(password);
    if password.len() > MAX_PASSWORD {
        return Err(WeakPassword::TooLong);
    }
    if password.chars().count() < MIN_PASSWORD {
        return Err(WeakPassword::TooShort);
    }
    let folded = fold(&password);
    // A name of one or two letters is in everything.
    if user.chars().count() > 2 && folded.contains(&fold(user)) {
        return Err(WeakPassword::HoldsName);
    }
    let mut letters: Vec<char> = folded.chars().collect();
    if is_run(&letters) {
        return Err(WeakPassword::Common);
    }
    let stem: String = folded.trim_matches(|c: char| !c.is_alphabetic()).to_owned();
    if COMMON.contains(&folded.as_str()) || COMMON.contains(&stem.as_str()) {
        return Err(WeakPassword::Common);
    }
    letters.sort_unstable();
    letters.dedup();
    if letters.len() < 5 { Err(WeakPassword::Monotonous) } else { Ok(()) }
}

/// `0123456789`, `zyxwvutsrq`, and rows of a keyboard.
fn is_run(letters: &[char]) -> bool {
    let steps = |by: i64| {
        letters.windows(2).all(|pair| match pair {
            [a, b] => i64::from(u32::from(*b)) - i64::from(u32::from(*a)) == by || (*a == '9' && *b == '0'),
            _ => true,
        })
    };
    let text: String = letters.iter().collect();
    let backwards: String = letters.iter().rev().collect();
    let rows = ["1234567890qwertyuiopasdfghjklzxcvbnm", "qwertzuiopasdfghjklyxcvbnm", "1q2w3e4r5t6z7u8i9o0p"];
    steps(1) || steps(-1) || rows.iter().any(|row| row.contains(&text) || row.contains(&backwards))
}

/// What remains of the usual first guesses once digits and signs at their ends are gone, and some that need none.
const COMMON: [&str; 34] = [
    "password",
    "passwort",
    "passw0rd",
    "p@ssw0rd",
    "p@ssword",
    "letmein",
    "letmeinnow",
    "welcome",
    "changeme",
    "changeit",
    "administrator",
    "admin",
    "iloveyou",
    "princess",
    "sunshine",
    "football",
    "baseball",
    "dragon",
    "monkey",
    "superman",
    "trustno",
    "qwerty",
    "qwertyuiop",
    "qwertzuiop",
    "qwerty12345",
    "1q2w3e4r5t",
    "secret",
    "default",
    "skep",
    "skepskep",
    "skepadmin",
    "correcthorsebatterystaple",
    "passwordpassword",
    "hallo",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_is_right_wrong_or_nobodys() {
        let passwords = Passwords::new(2);
        let stored = passwords.hash(secret("plum tree in June")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        let decoy = decoy();
        assert!(
            !is_stale(&decoy) && decoy.len() == stored.len(),
            "a guess at nobody's takes as long: {decoy}"
        );
        let reads = argon2().unwrap().verify_password(b"x", decoy.as_str());
        assert_eq!(
            reads,
            Err(argon2::password_hash::Error::PasswordInvalid),
            "compared, rather than refused"
        );
        let right = passwords.check(Some(stored.clone()), secret("plum tree in June")).await;
        assert_eq!(right, Verdict::Right { rehash: None });
        assert_eq!(passwords.check(Some(stored.clone()), secret("plum tree in july")).await, Verdict::Wrong);
        assert_eq!(passwords.check(Some(stored.clone()), secret("")).await, Verdict::Wrong);
        assert_eq!(passwords.check(None, secret("plum tree in June")).await, Verdict::Wrong);
        assert_eq!(passwords.check(Some("junk".to_owned()), secret("x")).await, Verdict::Wrong);
        assert_eq!(passwords.check(Some(stored), secret(&"x".repeat(1025))).await, Verdict::Wrong);
        assert_ne!(passwords.hash(secret("a")).await, passwords.hash(secret("a")).await, "salted");
    }

    #[tokio::test]
    async fn accents_are_the_same_however_they_were_typed() {
        let passwords = Passwords::new(1);
        let stored = passwords.hash(secret("caf\u{e9} au lait")).await.unwrap();
        let typed = passwords.check(Some(stored), secret("cafe\u{301} au lait")).await;
        assert_eq!(typed, Verdict::Right { rehash: None });
    }

    #[tokio::test]
    async fn a_hash_of_older_settings_is_replaced() {
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        let salt = [7_u8; 16];
        let old: PasswordHash = weak.hash_password_with_salt(b"plum tree in June", &salt).unwrap();
        let passwords = Passwords::new(1);
        let verdict = passwords.check(Some(old.to_string()), secret("plum tree in June")).await;
        let Verdict::Right { rehash: Some(new) } = verdict else { panic!("{verdict:?}") };
        let again = passwords.check(Some(new), secret("plum tree in June")).await;
        assert_eq!(again, Verdict::Right { rehash: None });
        assert_eq!(passwords.check(Some(old.to_string()), secret("x")).await, Verdict::Wrong);
    }

    #[tokio::test]
    async fn a_flood_waits_in_a_bounded_line() {
        let passwords = Passwords::new(1);
        let many: Vec<_> = (0..WAITING_PER_CORE + 40)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move {
                    passwords.in_turn(|| std::thread::sleep(Duration::from_millis(2))).await
                })
            })
            .collect();
        let mut refused = 0;
        for one in many {
            refused += usize::from(one.await.unwrap().is_none());
        }
        assert!((1..=40).contains(&refused), "{refused}");
        assert_eq!(passwords.line.available_permits(), WAITING_PER_CORE, "nothing leaks");
        assert_eq!(passwords.turns.available_permits(), 1);
    }

    #[test]
    fn weak_choices_are_refused() {
        use WeakPassword::*;
        for (password, problem) in [
            ("short", TooShort),
            ("ninechars", TooShort),
            ("I am adalovelace!", HoldsName),
            ("aaaaaaaaaaaa", Monotonous),
            ("abababababab", Monotonous),
            ("0123456789", Common),
            ("1234567890", Common),
            ("9876543210", Common),
            ("abcdefghijkl", Common),
            ("qwertyuiop", Common),
            ("poiuytrewq", Common),
            ("Password1234", Common),
            ("1234-Passw0rd!", Common),
            ("welcome2026!", Common),
        ] {
            assert_eq!(check_choice("AdaLovelace", password), Err(problem), "{password}");
        }
        assert_eq!(check_choice("ada", &"x".repeat(1025)), Err(TooLong));
        for good in ["plum tree in June", "Tr0ub4dor&3xyz", "\u{1f41d}bienenkorb im hof", "vk3#qpwm9z"] {
            assert_eq!(check_choice("ada", good), Ok(()), "{good}");
        }
        assert_eq!(check_choice("al", "plum tree, also in June"), Ok(()), "short names are in everything");
    }

    proptest! {
        #[test]
        fn any_text_is_judged(user in ".{0,20}", password in ".{0,60}") {
            if check_choice(&user, &password).is_ok() {
                prop_assert!(normal(&password).chars().count() >= MIN_PASSWORD);
            }
        }
    }
}

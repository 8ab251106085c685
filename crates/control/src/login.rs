//! Logging in and out, and the snapshot of who may come in.
//!
//! Invariants: whatever ends a login is in the store and in the published snapshot before the answer says so; a wrong
//! name and a wrong password look alike; attempts are slowed down before a password is hashed. Absent on purpose: pages
//! (`ui::login`), the store's tables, cookies' contents (`identity`).

pub(crate) mod account;
pub(crate) mod forms;
pub(crate) mod leaving;
mod snapshot;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skep_identity::throttle::Wait;
use skep_identity::{
    Admission, KeyRing, LoginCookie, Session, SessionId, SessionRules, SessionSealer, Throttle,
    ThrottleRules, Verdict, fold,
};
use skep_model::{Event, EventKind, Secret, UserName};
use skep_store::StoreError;
use tokio::sync::{mpsc, watch};

use crate::control::now_ms;
use crate::roster::Roster;

/// How people log in.
#[derive(Debug, Clone, Default)]
pub struct LoginConfig {
    pub rules: SessionRules,
    pub throttle: ThrottleRules,
    /// Logins over plain HTTP are accepted (`--insecure-http-login`).
    pub insecure_http: bool,
}

/// What the login needs beside the control plane's own parts.
pub struct LoginDeps {
    pub keys: Arc<KeyRing>,
    pub journal: mpsc::Sender<Event>,
    pub config: LoginConfig,
}

/// The name of local users' provider, in cookies and metrics.
const LOCAL: &str = "local";

/// Everything about logins, shared by pages and API.
pub(crate) struct Login {
    /// `None`: no login is configured.
    doors: Option<Doors>,
    pub(crate) roster: Roster,
    admission: watch::Sender<Arc<Admission>>,
    /// One reader of the store at a time, so that an older state never replaces a newer one.
    reading: tokio::sync::Mutex<Option<i64>>,
}

struct Doors {
    sealer: SessionSealer,
    throttle: Mutex<Throttle>,
    /// Weak: whoever reads the journal holds this login, and ends when nobody can write any more.
    journal: mpsc::WeakSender<Event>,
    config: LoginConfig,
}

/// What came of an attempt.
pub(crate) enum Attempted {
    In(Session),
    Wrong,
    Wait(Duration),
    Busy,
}

/// What came of checking a name and a password.
pub(crate) enum Proof {
    Given {
        /// Logins must not seem older than this.
        not_before_ms: i64,
    },
    Lacking(Attempted),
}

impl Login {
    pub(crate) fn new(roster: Roster, deps: Option<LoginDeps>) -> Self {
        let doors = deps.map(|LoginDeps { keys, journal, config }| Doors {
            sealer: SessionSealer::new(&keys),
            throttle: Mutex::new(Throttle::new(config.throttle)),
            journal: journal.downgrade(),
            config,
        });
        // Until the store has been read, nobody is anybody.
        let nobody = match &doors {
            None => Admission::default(),
            Some(doors) => snapshot::build(Some(&doors.config), &skep_store::Everybody::default()),
        };
        Self {
            doors,
            roster,
            admission: watch::Sender::new(Arc::new(nobody)),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// Whether a login is configured.
    pub(crate) fn is_on(&self) -> bool {
        self.doors.is_some()
    }

    pub(crate) fn admission(&self) -> Arc<Admission> {
        Arc::clone(&self.admission.borrow())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Admission>> {
        self.admission.subscribe()
    }

    /// The login a request bears, if it counts.
    pub(crate) fn session_of(&self, cookie: LoginCookie, headers: &axum::http::HeaderMap) -> Option<Session> {
        let doors = self.doors.as_ref()?;
        let headers = headers.get_all(axum::http::header::COOKIE);
        let texts = headers.iter().filter_map(|value| value.to_str().ok());
        let values = texts.flat_map(|text| skep_identity::cookies::values(text, cookie.name()));
        self.admission().admit(&doors.sealer, cookie, values, now_ms()).map(|admitted| admitted.session)
    }

    /// The login cookie a visitor's connection allows.
    pub(crate) fn cookie_for(&self, client: &skep_edge::Client) -> Option<LoginCookie> {
        let insecure = self.doors.as_ref().is_some_and(|doors| doors.config.insecure_http);
        LoginCookie::fitting(client.https, host_name(&client.host), insecure)
    }

    /// A `Set-Cookie` value for a new login.
    pub(crate) fn sealed(&self, cookie: LoginCookie, session: &Session) -> Option<String> {
        let sealed = self.doors.as_ref()?.sealer.seal(cookie, session);
        let sealed =
            sealed.inspect_err(|error| tracing::error!(%error, "a login could not be sealed")).ok()?;
        Some(cookie.set(&sealed, session.max_age_s(session.sealed_at_ms)))
    }

    /// Logs somebody in who knows the password.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn attempt(
        &self,
        name: &str,
        password: Secret,
        stay: bool,
        from: IpAddr,
    ) -> Result<Attempted, StoreError> {
        let name = fold(name.trim());
        match self.prove(&name, password, from).await? {
            Proof::Given { not_before_ms } => self.begin(&name, not_before_ms, stay, from).await,
            Proof::Lacking(attempted) => Ok(attempted),
        }
    }

    /// Checks a name and a password. Wrong ones make the next attempt wait.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn prove(
        &self,
        name: &str,
        password: Secret,
        from: IpAddr,
    ) -> Result<Proof, StoreError> {
        let Some(doors) = &self.doors else { return Ok(Proof::Lacking(Attempted::Wrong)) };
        let people = self.roster.people();
        let attempt = match doors.throttle.lock().attempt(now_ms(), name, from) {
            Ok(attempt) => attempt,
            Err(Wait { duration, .. }) => {
                count("throttled");
                return Ok(Proof::Lacking(Attempted::Wait(duration)));
            }
        };
        let known = match name.parse::<UserName>() {
            Ok(_) => people.verifier(name).await,
            Err(_) => Ok(None),
        };
        let known = match known {
            Ok(known) => known,
            Err(problem) => {
                doors.throttle.lock().withdrawn(attempt);
                count("unavailable");
                return Err(problem);
            }
        };
        let hash = known.as_ref().and_then(|known| known.hash.clone());
        let verdict = self.roster.passwords().check(hash.clone(), password).await;
        let known_name = known.is_some();
        match (verdict, known.filter(|known| !known.disabled)) {
            (Verdict::Busy, _) => {
                doors.throttle.lock().withdrawn(attempt);
                count("busy");
                Ok(Proof::Lacking(Attempted::Busy))
            }
            (Verdict::Right { rehash }, Some(known)) => {
                doors.throttle.lock().succeeded(now_ms(), attempt);
                if let (Some(old), Some(new)) = (&hash, &rehash)
                    && let Err(problem) = people.rehash(name, old, new).await
                {
                    tracing::warn!(%problem, "a password's hash could not be renewed");
                }
                Ok(Proof::Given { not_before_ms: known.not_before_ms })
            }
            // The attempt is dropped: it stays a failure.
            (Verdict::Wrong | Verdict::Right { .. }, _) => {
                self.note_failure(name, known_name, from);
                Ok(Proof::Lacking(Attempted::Wrong))
            }
        }
    }

    /// Begins a login for somebody who has proved who they are.
    pub(crate) async fn begin(
        &self,
        name: &str,
        not_before_ms: i64,
        stay: bool,
        from: IpAddr,
    ) -> Result<Attempted, StoreError> {
        let Some(doors) = &self.doors else { return Ok(Attempted::Wrong) };
        let (Ok(user), Ok(id)) = (name.parse::<UserName>(), SessionId::random()) else {
            return Ok(Attempted::Busy);
        };
        // Servers that share users may not agree on the time to the millisecond.
        let now = now_ms().max(not_before_ms);
        if let Err(problem) = self.roster.people().logged_in(name, now).await {
            tracing::warn!(%problem, "a login could not be noted");
        }
        // A user who was added or changed a moment ago must be known before the first request arrives.
        self.refresh().await?;
        count("ok");
        self.note(EventKind::Login, Some(name.to_owned()), format!("from {from}"));
        Ok(Attempted::In(Session::begin(user, id, LOCAL, stay, &doors.config.rules, now)))
    }

    /// Ends one login, on every server.
    ///
    /// # Errors
    /// When the store cannot be written; the login goes on then.
    pub(crate) async fn end(&self, session: &Session) -> Result<(), StoreError> {
        self.roster.people().revoke(&session.id.to_string(), session.until_ms).await?;
        self.refresh().await?;
        self.note(EventKind::Logout, Some(session.user.to_string()), String::new());
        Ok(())
    }

    fn note_failure(&self, name: &str, known: bool, from: IpAddr) {
        count("wrong");
        // What was typed as a name is sometimes a password: only names of users are written down.
        let (user, detail) = match known {
            true => (Some(name.to_owned()), format!("from {from}")),
            false => (None, format!("unknown user, from {from}")),
        };
        self.note(EventKind::LoginFailed, user, detail);
    }

    pub(crate) fn note(&self, kind: EventKind, user: Option<String>, detail: String) {
        let Some(journal) = self.doors.as_ref().and_then(|doors| doors.journal.upgrade()) else { return };
        let event = Event { at_ms: now_ms(), kind, app: None, instance: None, user, detail };
        if journal.try_send(event).is_err() {
            tracing::warn!("the journal is too busy to take `{}`", kind.name());
        }
    }
}

fn count(result: &'static str) {
    metrics::counter!("skep_logins_total", "provider" => LOCAL, "result" => result).increment(1);
}

/// `apps.example:8080` → `apps.example`; `[::1]:8080` → `[::1]`.
fn host_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => host.get(..colon).unwrap_or(host),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::host_name;

    #[test]
    fn ports_are_no_part_of_a_name() {
        for (host, name) in
            [("a.b:80", "a.b"), ("a.b", "a.b"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")]
        {
            assert_eq!(host_name(host), name);
        }
    }
}

//! Who votes, and the vote: from a request to an acknowledgement.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::{Front, OpenPoll};
use crate::cookie::{self, BallotCookie, Bearer};
use crate::hlc::{self, Reading};
use crate::http::{Problem, header};
use crate::ids::{OptionId, PollId, VoterTag};
use crate::intake::{Draft, First, Refusal};
use crate::polls::{Changes, Identity};
use crate::receipt::Receipt;
use crate::spool::SpoolError;
use crate::ticket::Ticket;

/// A ballot as it comes in.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Incoming {
    pub option: String,
    /// Tries since the last acknowledgement.
    #[serde(default)]
    pub attempt: u32,
    #[serde(default)]
    pub ticket: Option<String>,
}

/// An acknowledged ballot.
pub(super) struct Acknowledged {
    pub receipt: Receipt,
    pub option: OptionId,
    pub at_ms: u64,
    /// The value of the voter's new cookie.
    pub cookie: String,
}

/// Seen voters kept for prompt refusals.
const SEEN: usize = 500_000;

fn problem(refusal: &Refusal) -> Problem {
    let (status, code) = match refusal {
        Refusal::NotOpen => (StatusCode::FORBIDDEN, "not_open"),
        Refusal::Closed => (StatusCode::GONE, "closed"),
        Refusal::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        Refusal::Clock(_) => (StatusCode::SERVICE_UNAVAILABLE, "clock"),
        Refusal::Spool(SpoolError::Full(_)) => (StatusCode::SERVICE_UNAVAILABLE, "disk_full"),
        Refusal::Spool(_) => (StatusCode::SERVICE_UNAVAILABLE, "log_failed"),
    };
    Problem::new(status, code, refusal.to_string())
}

impl Front {
    /// The cookie this browser shows for the poll, if it is a good one.
    pub(super) fn shown(&self, open: &OpenPoll, headers: &HeaderMap) -> Option<BallotCookie> {
        let all = headers.get_all("cookie").into_iter().filter_map(|v| v.to_str().ok());
        let text = all.filter_map(|h| cookie::find(h, &open.cookie)).next()?;
        BallotCookie::open(&self.keys, &open.poll.id, text)
    }

    /// Who is logged in, as far as that can be believed.
    fn principal(&self, headers: &HeaderMap, peer: IpAddr) -> Option<String> {
        let login = &self.options.login;
        if let (Some(name), true) = (&login.header, self.options.trust.is_proxy(peer)) {
            let value = header(headers, name).map(str::trim).filter(|v| !v.is_empty() && v.len() <= 256);
            if let Some(value) = value {
                return Some(value.to_owned());
            }
        }
        let key = login.public_key?;
        signed_subject(header(headers, "x-skep-identity")?, &key, self.world.now_ms() / 1000)
    }

    /// A fresh cookie for a page: the one shown, its epoch moved on, or a new one where the poll gives them freely.
    ///
    /// # Errors
    /// When the neighbourhood takes too many, or the ticket is not good.
    pub(super) fn greet(
        &self,
        open: &OpenPoll,
        headers: &HeaderMap,
        peer: IpAddr,
        ticket: Option<&str>,
    ) -> Result<Option<BallotCookie>, Problem> {
        let now_ms = self.world.now_ms();
        let shown = self.shown(open, headers);
        let observed = shown.as_ref().map_or(0, |c| c.epoch);
        let tick = |at| self.intake.tick(now_ms, at).map_err(|e| problem(&Refusal::Clock(e)));
        if let Some(code) = ticket {
            let ticket = self.redeem(open, code, headers, peer)?;
            let same = shown.as_ref().filter(|c| c.bearer == Bearer::Ticket(ticket.id));
            let (bound, voted) = (same.map(|c| c.bound), same.map_or(0, |c| c.voted));
            let epoch = tick(observed)?;
            let bearer = Bearer::Ticket(ticket.id);
            return Ok(Some(BallotCookie { bearer, epoch, bound: bound.unwrap_or(epoch), voted }));
        }
        if let Some(cookie) = shown {
            return Ok(Some(BallotCookie { epoch: tick(observed)?, ..cookie }));
        }
        let bearer = match open.poll.identity {
            Identity::Ticket => return Ok(None),
            Identity::Login => Bearer::Login,
            Identity::Open => {
                self.charge(headers, peer)?;
                let mut id = [0; 16];
                self.world.fill(&mut id);
                Bearer::Browser(id)
            }
        };
        Ok(Some(BallotCookie { bearer, epoch: tick(0)?, bound: 0, voted: 0 }))
    }

    fn redeem(
        &self,
        open: &OpenPoll,
        code: &str,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Ticket, Problem> {
        if open.poll.identity != Identity::Ticket {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "no_tickets", "this poll has no tickets"));
        }
        let Some(ticket) = Ticket::check(&self.keys, &open.poll.id, code) else {
            self.charge(headers, peer)?;
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "bad_ticket",
                "this is not a ticket of this poll",
            ));
        };
        let voter = open.key.voter("ticket", &ticket.id);
        let bound_elsewhere = self.seen.lock().get(&(open.poll.id.clone(), voter)).copied();
        let mine =
            self.shown(open, headers).filter(|c| c.bearer == Bearer::Ticket(ticket.id)).map(|c| c.bound);
        if bound_elsewhere.is_some_and(|bound| mine != Some(bound)) {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "ticket_used",
                "this ticket was used in another browser",
            ));
        }
        Ok(ticket)
    }

    /// Takes a token of the caller's neighbourhood.
    pub(super) fn charge(&self, headers: &HeaderMap, peer: IpAddr) -> Result<(), Problem> {
        let client = self.options.trust.client(headers, peer);
        if self.prefixes.take(crate::net::prefix(client), self.world.now_ms()) {
            return Ok(());
        }
        let detail = "too many requests from your part of the network; wait a moment and try again";
        Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many", detail))
    }

    /// The voter behind a request, and the cookie it came with (or, for tickets and logins, would have).
    fn voter(
        &self,
        open: &OpenPoll,
        headers: &HeaderMap,
        peer: IpAddr,
        ticket: Option<&str>,
    ) -> Result<(VoterTag, BallotCookie), Problem> {
        let shown = self.shown(open, headers);
        let refuse = |code, detail: &str| {
            self.charge(headers, peer)?;
            Err(Problem::new(StatusCode::FORBIDDEN, code, detail))
        };
        match open.poll.identity {
            Identity::Open => match shown {
                Some(cookie @ BallotCookie { bearer: Bearer::Browser(id), .. }) => {
                    Ok((open.key.voter("open", &id), cookie))
                }
                _ => refuse(
                    "no_cookie",
                    "open the poll's page first: it gives your browser the cookie to vote with",
                ),
            },
            Identity::Ticket => {
                let cookie = match ticket {
                    Some(code) => self.greet(open, headers, peer, Some(code))?,
                    None => shown,
                };
                match cookie {
                    Some(cookie @ BallotCookie { bearer: Bearer::Ticket(id), .. }) => {
                        Ok((open.key.voter("ticket", &id), cookie))
                    }
                    _ => refuse("no_ticket", "this poll is by invitation: open the link with your ticket"),
                }
            }
            Identity::Login => match self.principal(headers, peer) {
                Some(principal) => {
                    let cookie = shown.filter(|c| c.bearer == Bearer::Login);
                    let none = BallotCookie { bearer: Bearer::Login, epoch: 0, bound: 0, voted: 0 };
                    Ok((open.key.voter("login", principal.as_bytes()), cookie.unwrap_or(none)))
                }
                None => {
                    refuse("no_login", "log in first: this poll takes votes from people who are logged in")
                }
            },
        }
    }

    /// Whether this poll lets this voter change their vote now.
    fn may_change(
        &self,
        open: &OpenPoll,
        voter: VoterTag,
        voted: Reading,
        now_ms: u64,
    ) -> Result<(), Problem> {
        let last = if open.poll.changes == Changes::Latest {
            return Ok(());
        } else {
            let seen = self.seen.lock().get(&(open.poll.id.clone(), voter)).copied().unwrap_or(0);
            voted.max(if open.poll.identity == Identity::Ticket { 0 } else { seen })
        };
        if last == 0 {
            return Ok(());
        }
        if open.poll.changes == Changes::Forbid {
            let detail = "you have voted in this poll, and it does not let votes be changed";
            return Err(Problem::new(StatusCode::CONFLICT, "already_voted", detail));
        }
        let left = (hlc::millis(last) + open.poll.min_interval_ms).saturating_sub(now_ms);
        if left > 0 {
            let detail = format!("you may change your vote in {} s", left.div_ceil(1000));
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_soon", detail));
        }
        Ok(())
    }

    /// Takes a ballot and answers when it is durable.
    ///
    /// # Errors
    /// By name. Only `log_failed` and `unknown` leave it open whether the ballot counts.
    pub(super) async fn vote(
        &self,
        open: &OpenPoll,
        headers: &HeaderMap,
        peer: IpAddr,
        incoming: &Incoming,
    ) -> Result<Acknowledged, Problem> {
        let now_ms = self.world.now_ms();
        let (voter, shown) = self.voter(open, headers, peer, incoming.ticket.as_deref())?;
        let Some(option) = open.poll.option(&incoming.option) else {
            self.charge(headers, peer)?;
            let detail = format!("the poll {} has no such option", open.poll.id);
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_such_option", detail));
        };
        if !self.voters.take(voter, now_ms) {
            let detail = "you vote too often; wait a moment and try again";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_often", detail));
        }
        self.may_change(open, voter, shown.voted, now_ms)?;
        if !self.is_enrolled() {
            let detail = self.unready().unwrap_or_default();
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail));
        }
        let mut random = [0; 40];
        self.world.fill(&mut random);
        let (mut secret, mut nonce) = ([0; 16], [0; 24]);
        secret.copy_from_slice(&random[..16]);
        nonce.copy_from_slice(&random[16..]);
        let first = match (open.poll.changes, open.poll.identity) {
            (_, Identity::Ticket) if open.poll.changes != Changes::Forbid => First::Bound(shown.bound),
            (Changes::Forbid, _) => First::Earliest,
            _ => First::Latest,
        };
        let draft = Draft {
            poll: open.poll.id.clone(),
            option: option.clone(),
            voter,
            tag: crate::receipt::tag(&open.poll.id, &secret),
            epoch: shown.epoch,
            attempt: incoming.attempt,
            first,
            opens_ms: open.poll.opens_ms,
            closes_ms: open.poll.closes_ms,
        };
        let commitment = self.intake.submit(draft, now_ms).map_err(|r| problem(&r))?;
        let durable = tokio::time::timeout(std::time::Duration::from_secs(15), commitment.durable());
        match durable.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(problem(&Refusal::Spool(error))),
            Err(_) => {
                let detail = "the disk did not answer in time; vote again to be sure";
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unknown", detail));
            }
        }
        let hlc = commitment.stamp.hlc;
        self.remember(open, voter, if shown.bound > 0 { shown.bound } else { hlc });
        let cookie = BallotCookie { epoch: hlc, voted: hlc, ..shown };
        Ok(Acknowledged {
            receipt: Receipt::issue(&self.keys, &open.poll.id, secret, option),
            option: option.clone(),
            at_ms: hlc::millis(hlc),
            cookie: cookie.seal(&self.keys, &open.poll.id, nonce),
        })
    }

    fn remember(&self, open: &OpenPoll, voter: VoterTag, reading: Reading) {
        if open.poll.changes == Changes::Latest && open.poll.identity != Identity::Ticket {
            return;
        }
        let mut seen = self.seen.lock();
        if seen.len() >= SEEN {
            seen.clear();
        }
        let key: (PollId, VoterTag) = (open.poll.id.clone(), voter);
        if open.poll.identity == Identity::Ticket {
            seen.entry(key).or_insert(reading);
        } else {
            seen.insert(key, reading);
        }
    }
}

/// The subject of a compact signed token (EdDSA), if the signature holds and it has not expired.
pub(super) fn signed_subject(token: &str, public_key: &[u8; 32], now_s: u64) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        sub: String,
        exp: u64,
    }
    if token.len() > 8192 {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (head, claims) = signed.split_once('.')?;
    let head: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
    if head.get("alg")?.as_str()? != "EdDSA" {
        return None;
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if !crate::keys::verify(public_key, signed.as_bytes(), &signature) {
        return None;
    }
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    (claims.exp > now_s && !claims.sub.is_empty()).then_some(claims.sub)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keys;
    use proptest::prelude::*;

    fn token(keys: &Keys, head: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(keys.sign(signed.as_bytes())))
    }

    #[test]
    fn a_signed_identity_is_believed_only_whole_and_fresh() {
        let keys = Keys::from_bytes(&[8; 32]).expect("keys");
        let key = keys.public_key();
        let good = token(&keys, r#"{"alg":"EdDSA"}"#, r#"{"sub":"ada","exp":100}"#);
        assert_eq!(signed_subject(&good, &key, 99).as_deref(), Some("ada"));
        assert_eq!(signed_subject(&good, &key, 100), None, "expired");
        assert_eq!(signed_subject(&good, &[0; 32], 99), None, "another key");
        let none = token(&keys, r#"{"alg":"none"}"#, r#"{"sub":"ada","exp":100}"#);
        assert_eq!(signed_subject(&none, &key, 99), None);
        let eve = URL_SAFE_NO_PAD.encode(r#"{"sub":"eve","exp":100}"#);
        let parts: Vec<&str> = good.split('.').collect();
        assert_eq!(signed_subject(&format!("{}.{eve}.{}", parts[0], parts[2]), &key, 99), None);
    }

    proptest! {
        #[test]
        fn any_token_is_read_or_refused(text in ".{0,200}") {
            prop_assert_eq!(signed_subject(&text, &[1; 32], 0), None);
        }
    }
}

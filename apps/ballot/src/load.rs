//! Votes as many people would, and keeps what each was told, for the checker.
//!
//! Each connection plays one voter after the other: page, vote, for some a second vote at once through another front. A try
//! without a clear acknowledgement is repeated, with the next attempt number, wherever a front answers. Also speaks to the
//! 2016 design that ballot is measured against (`bench/ballot/peer`), so that both are judged alike.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, StatusCode};

use crate::checker::Sent;
use crate::client::Client;
use crate::cookie::{self, BallotCookie, Bearer};
use crate::ids::PollId;
use crate::keys::{Keys, PollKey};
use crate::receipt::Receipt;
use crate::worker::{Place, discover};

/// Which system is voted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Ballot,
    /// `POST /` with a form and a plain `voter_id` cookie.
    Peer,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub dialect: Dialect,
    /// Where the fronts are; names are resolved again and again.
    pub fronts: Vec<Place>,
    pub poll: PollId,
    pub options: Vec<String>,
    pub voters: u64,
    /// At least `voters`; the rest are second votes.
    pub votes: u64,
    pub connections: usize,
    /// A connection per voter, as in life, rather than kept ones.
    pub fresh_connections: bool,
    /// For one answer.
    pub patience: Duration,
    /// For everything; voters who are not through by then are left as they are.
    pub deadline: Duration,
    /// Keeps a new voter out of the way of the last, to shape the load.
    pub pause: Duration,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    pub histories: HashMap<String, Vec<Sent>>,
    pub acknowledged: u64,
    /// Tries without an acknowledgement, by reason.
    pub failures: HashMap<String, u64>,
    /// Receipts, a few.
    pub receipts: Vec<String>,
    pub seconds: f64,
    /// Microseconds of acknowledged votes, sorted.
    pub latencies: Vec<u32>,
}

impl Report {
    /// The latency that a share of votes stays under, in milliseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into the samples"
        )]
        let at = (self.latencies.len() as f64 * share) as usize;
        self.latencies
            .get(at.min(self.latencies.len().saturating_sub(1)))
            .map_or(0.0, |us| f64::from(*us) / 1000.0)
    }

    fn absorb(&mut self, other: Report) {
        self.histories.extend(other.histories);
        self.acknowledged += other.acknowledged;
        for (reason, n) in other.failures {
            *self.failures.entry(reason).or_default() += n;
        }
        let room = 100usize.saturating_sub(self.receipts.len());
        self.receipts.extend(other.receipts.into_iter().take(room));
        self.latencies.extend(other.latencies);
    }
}

struct Player {
    plan: Arc<Plan>,
    keys: Option<(Arc<Keys>, PollKey)>,
    /// The addresses of all fronts there are now.
    fronts: Arc<ArcSwap<Vec<String>>>,
    clients: HashMap<String, Client>,
    report: Report,
    end: Instant,
}

/// One voter's browser.
struct Browser {
    name: String,
    cookie: String,
    attempt: u32,
}

/// Answers of fronts to voters are small.
const MOST: usize = 256 << 10;

/// Carries the plan out. `next` numbers the voters, across calls if need be.
pub async fn run(plan: Plan, keys: Option<Arc<Keys>>) -> Report {
    let (plan, next) = (Arc::new(plan), Arc::new(AtomicU64::new(0)));
    let fronts = Arc::new(ArcSwap::from_pointee(discover(&plan.fronts).await));
    let finder = tokio::spawn(find_fronts(plan.fronts.clone(), Arc::clone(&fronts)));
    let started = Instant::now();
    let end = started + plan.deadline;
    let mut tasks = Vec::new();
    for _ in 0..plan.connections {
        let mut player = Player {
            fronts: Arc::clone(&fronts),
            clients: HashMap::new(),
            keys: keys.as_ref().map(|k| (Arc::clone(k), k.poll(&plan.poll))),
            plan: Arc::clone(&plan),
            report: Report::default(),
            end,
        };
        let next = Arc::clone(&next);
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= player.plan.voters || Instant::now() >= player.end {
                    return player.report;
                }
                player.play(number).await;
            }
        }));
    }
    let mut report = Report::default();
    for task in tasks {
        if let Ok(part) = task.await {
            report.absorb(part);
        }
    }
    finder.abort();
    report.seconds = started.elapsed().as_secs_f64();
    report.latencies.sort_unstable();
    report
}

/// Notices fronts that come and go.
async fn find_fronts(places: Vec<Place>, fronts: Arc<ArcSwap<Vec<String>>>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let found = discover(&places).await;
        if !found.is_empty() {
            fronts.store(Arc::new(found));
        }
    }
}

impl Player {
    async fn play(&mut self, number: u64) {
        if self.plan.fresh_connections {
            self.clients.clear();
        }
        let mut at = usize::try_from(number).unwrap_or(0);
        let Some(mut browser) = self.arrive(number, &mut at).await else { return };
        let extra = self.plan.votes.saturating_sub(self.plan.voters);
        // Spread over the voters: every so-and-so-many-th votes again.
        let again = extra > 0 && number.is_multiple_of(self.plan.voters.div_ceil(extra));
        let mut history = Vec::new();
        for round in 0..=u64::from(again) {
            let options = self.plan.options.len() as u64;
            let option =
                self.plan.options[usize::try_from((number / 3 + round) % options).unwrap_or(0)].clone();
            let mark = (self.plan.dialect == Dialect::Peer).then(|| format!("{option}-{number}-{round}"));
            at += 1;
            self.cast(&mut browser, &option, mark, &mut at, &mut history).await;
        }
        self.report.histories.insert(browser.name, history);
        if !self.plan.pause.is_zero() {
            tokio::time::sleep(self.plan.pause).await;
        }
    }

    fn fail(&mut self, reason: impl Into<String>) {
        *self.report.failures.entry(reason.into()).or_default() += 1;
    }

    async fn send(
        &mut self,
        at: usize,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<crate::client::Answer, String> {
        let fronts = self.fronts.load();
        let Some(address) = at.checked_rem(fronts.len()).and_then(|i| fronts.get(i)) else {
            return Err("no front".to_owned());
        };
        if !self.clients.contains_key(address) {
            self.clients.insert(address.clone(), Client::new(address.clone(), MOST));
        }
        let client = &self.clients[address];
        match tokio::time::timeout(self.plan.patience, client.send(method, path, headers, body)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err("connection".to_owned()),
            Err(_) => Err("timeout".to_owned()),
        }
    }

    /// Waits a little after a failure, longer each time. Answers whether there is time for another try.
    async fn breathe(&self, tries: u32) -> bool {
        tokio::time::sleep(Duration::from_millis(20 << tries.min(5))).await;
        Instant::now() < self.end
    }

    /// Gets the page, and with it the cookie.
    async fn arrive(&mut self, number: u64, at: &mut usize) -> Option<Browser> {
        if self.plan.dialect == Dialect::Peer {
            let name = format!("{number:016x}");
            if self.plan.fresh_connections
                && let Err(reason) = self.send(*at, Method::GET, "/", &[], Bytes::new()).await
            {
                self.fail(format!("page: {reason}"));
            }
            return Some(Browser { cookie: format!("voter_id={name}"), name, attempt: 0 });
        }
        let path = format!("/polls/{}", self.plan.poll);
        for tries in 0.. {
            let answer = self.send(*at, Method::GET, &path, &[("accept", "text/html")], Bytes::new()).await;
            match answer {
                Ok(answer) if answer.status == StatusCode::OK => {
                    if let Some(cookie) = set_cookie(&answer.headers) {
                        return Some(Browser { name: self.voter(&cookie, number), cookie, attempt: 0 });
                    }
                    self.fail("page: no cookie");
                }
                Ok(answer) => self.fail(format!("page: {}", answer.status.as_u16())),
                Err(reason) => self.fail(format!("page: {reason}")),
            }
            *at += 1;
            if !self.breathe(tries).await {
                return None;
            }
        }
        None
    }

    /// The voter as the database knows it, with the keys; without, a name of our own.
    fn voter(&self, cookie: &str, number: u64) -> String {
        let known = self.keys.as_ref().and_then(|(keys, poll_key)| {
            let value = cookie.split_once('=')?.1;
            match BallotCookie::open(keys, &self.plan.poll, value)?.bearer {
                Bearer::Browser(id) => Some(poll_key.voter("open", &id).to_string()),
                _ => None,
            }
        });
        known.unwrap_or_else(|| format!("voter-{number}"))
    }

    async fn cast(
        &mut self,
        browser: &mut Browser,
        option: &str,
        mark: Option<String>,
        at: &mut usize,
        history: &mut Vec<Sent>,
    ) {
        for tries in 0.. {
            browser.attempt += 1;
            let started = Instant::now();
            let result = match self.plan.dialect {
                Dialect::Ballot => self.cast_ballot(browser, option, *at).await,
                Dialect::Peer => self.cast_peer(browser, mark.as_deref().unwrap_or(option), *at).await,
            };
            let sent = |mark, acknowledged| {
                let option = mark_option(self.plan.dialect, option, &mark);
                Sent { option, mark, acknowledged }
            };
            match result {
                Ok(receipt) => {
                    let micros = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
                    let tag = receipt.as_ref().map(|r| r.tag().to_string());
                    history.push(sent(tag.or(mark), true));
                    self.report.latencies.push(micros);
                    self.report.acknowledged += 1;
                    if let (Some(receipt), true) = (receipt, self.report.receipts.len() < 5) {
                        self.report.receipts.push(receipt.to_string());
                    }
                    browser.attempt = 0;
                    return;
                }
                Err(reason) => {
                    history.push(sent(mark.clone(), false));
                    self.fail(reason);
                }
            }
            *at += 1;
            if !self.breathe(tries).await {
                return;
            }
        }
    }

    async fn cast_ballot(
        &mut self,
        browser: &mut Browser,
        option: &str,
        at: usize,
    ) -> Result<Option<Receipt>, String> {
        let path = format!("/api/v1/polls/{}/ballots", self.plan.poll);
        let body = format!("{{\"option\":\"{option}\",\"attempt\":{}}}", browser.attempt);
        let cookie = browser.cookie.clone();
        let headers = [("content-type", "application/json"), ("cookie", cookie.as_str())];
        let answer = self.send(at, Method::POST, &path, &headers, Bytes::from(body)).await?;
        if answer.status != StatusCode::CREATED {
            return Err(answer.status.as_u16().to_string());
        }
        #[derive(serde::Deserialize)]
        struct Told {
            receipt: String,
        }
        let told: Told = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
        if let Some(cookie) = set_cookie(&answer.headers) {
            browser.cookie = cookie;
        }
        told.receipt.parse().map(Some).map_err(|_| "a receipt that is none".to_owned())
    }

    async fn cast_peer(
        &mut self,
        browser: &Browser,
        vote: &str,
        at: usize,
    ) -> Result<Option<Receipt>, String> {
        let cookie = browser.cookie.clone();
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("cookie", cookie.as_str())];
        let answer = self.send(at, Method::POST, "/", &headers, Bytes::from(format!("vote={vote}"))).await?;
        if answer.status == StatusCode::OK { Ok(None) } else { Err(answer.status.as_u16().to_string()) }
    }
}

/// In the peer a vote may be any text, so the mark is the vote.
fn mark_option(dialect: Dialect, option: &str, mark: &Option<String>) -> String {
    match (dialect, mark) {
        (Dialect::Peer, Some(mark)) => mark.clone(),
        _ => option.to_owned(),
    }
}

/// `name=value` of the first cookie set.
fn set_cookie(headers: &http::HeaderMap) -> Option<String> {
    let text = headers.get("set-cookie")?.to_str().ok()?;
    let pair = text.split(';').next()?;
    cookie::find(pair, pair.split_once('=')?.0).map(|_| pair.to_owned())
}

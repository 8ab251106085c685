//! One simulated deployment.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ballot::checker::{self, Sent, Verdict};
use ballot::client::Client;
use ballot::cookie::{BallotCookie, Bearer};
use ballot::disk::faults::{self, Fault};
use ballot::front::limits::Rate;
use ballot::front::{Front, FrontOptions};
use ballot::http::{self as web, HttpLimits};
use ballot::intake::IntakeLimits;
use ballot::keys::Keys;
use ballot::net::TcpListener;
use ballot::polls;
use ballot::receipt::Receipt;
use ballot::worker::{self, Place, Worker, WorkerOptions};
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::sync::watch;

use crate::dice::{Dice, Skewed};
use crate::model::{Connection, Flaw, Model};

const FRONTS: usize = 3;
const WORKERS: usize = 2;
const VOTERS: usize = 6;
const PORT: u16 = 8090;

/// What a deployment goes through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial {
    pub(crate) seed: u64,
    pub(crate) flaw: Flaw,
    pub(crate) fault: Option<Fault>,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) crashes: u32,
    pub(crate) partitions: u32,
    /// Everything that was acknowledged could be merged in the end.
    pub(crate) drained: bool,
}

type Histories = Arc<Mutex<HashMap<String, Vec<Sent>>>>;

fn front_name(i: usize) -> String {
    format!("front-{i}")
}

fn worker_name(i: usize) -> String {
    format!("worker-{i}")
}

fn keys() -> Arc<Keys> {
    Arc::new(Keys::from_bytes(&[42; 32]).expect("keys"))
}

/// A front as it ships, on a simulated host.
async fn be_front(i: usize, seed: u64, skew_ms: i64) -> turmoil::Result {
    let free = Rate { per_second: 0.0, burst: 1.0 };
    let options = FrontOptions {
        prefix_rate: free,
        voter_rate: free,
        // Small, so that segments roll in the middle of trouble.
        segment_bytes: 4 << 10,
        intake: IntakeLimits::default(),
        ..FrontOptions::new(front_name(i))
    };
    let lived = u64::try_from(turmoil::sim_elapsed().unwrap_or_default().as_nanos()).unwrap_or(0);
    let dice = Mutex::new(Dice::new(seed ^ (i as u64) << 32 ^ lived));
    let world = Arc::new(Skewed { skew_ms, dice });
    let front = Front::open(Path::new("/data/front"), options, keys(), world, vec![polls::demo()])?;
    let intake = Arc::clone(front.intake());
    tokio::spawn(async move { intake.run().await });
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let (_stay, stop) = watch::channel(false);
    web::serve(listener, front, HttpLimits::default(), stop).await;
    Ok(())
}

async fn be_worker(i: usize, model: Arc<Model>) -> turmoil::Result {
    let options = WorkerOptions {
        patience: Duration::from_secs(1),
        idle: Duration::from_millis(40),
        batch_bytes: 600,
        clock_alarm_ms: i64::MAX,
        ..WorkerOptions::new(worker_name(i))
    };
    let world = Arc::new(Skewed { skew_ms: 0, dice: Mutex::new(Dice::new(i as u64)) });
    let worker = Arc::new(Worker::new(options, Arc::new(Connection(model)), world));
    let places = (0..FRONTS).map(|f| Place::Address(format!("{}:{PORT}", front_name(f)))).collect();
    let (_stay, stop) = watch::channel(false);
    worker::run(worker, places, keys().internal_token().to_owned(), stop).await;
    Ok(())
}

/// A person who votes a few times, tries again when no answer comes, and sometimes misses an answer.
struct Person {
    dice: Dice,
    cookie: String,
    name: Option<String>,
    attempt: u32,
    history: Vec<Sent>,
}

impl Person {
    async fn ask(&mut self, method: Method, path: &str, body: String) -> Option<ballot::client::Answer> {
        let client = Client::new(format!("{}:{PORT}", front_name(self.dice.pick(FRONTS))), 64 << 10);
        let headers = [("content-type", "application/json"), ("cookie", self.cookie.as_str())];
        let asked = client.send(method, path, &headers, Bytes::from(body));
        tokio::time::timeout(Duration::from_millis(600), asked).await.ok()?.ok()
    }

    fn keep_cookie(&mut self, answer: &ballot::client::Answer) {
        let Some(value) = answer.headers.get("set-cookie").and_then(|v| v.to_str().ok()) else { return };
        self.cookie = value.split(';').next().expect("a pair").to_owned();
        let text = self.cookie.split_once('=').expect("a pair").1;
        let poll = polls::demo().id;
        if let Some(BallotCookie { bearer: Bearer::Browser(id), .. }) =
            BallotCookie::open(&keys(), &poll, text)
        {
            self.name = Some(keys().poll(&poll).voter("open", &id).to_string());
        }
    }

    async fn rest(&mut self, most_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.roll(most_ms))).await;
    }

    async fn open_page(&mut self) -> bool {
        for _ in 0..60 {
            if let Some(answer) = self.ask(Method::GET, "/polls/pets", String::new()).await
                && answer.status == StatusCode::OK
            {
                self.keep_cookie(&answer);
                return true;
            }
            self.rest(400).await;
        }
        false
    }

    async fn vote(&mut self, option: &str) {
        for _ in 0..12 {
            self.attempt += 1;
            let body = format!("{{\"option\":\"{option}\",\"attempt\":{}}}", self.attempt);
            let answer = self.ask(Method::POST, "/api/v1/polls/pets/ballots", body).await;
            // One answer in ten gets lost on its last metre.
            let heard = answer.filter(|a| a.status == StatusCode::CREATED).filter(|_| self.dice.roll(10) > 0);
            let told = heard.as_ref().map(|answer| {
                let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("json");
                let receipt: Receipt = body["receipt"].as_str().expect("text").parse().expect("a receipt");
                receipt.tag().to_string()
            });
            self.history.push(Sent { option: option.to_owned(), acknowledged: told.is_some(), mark: told });
            if let Some(answer) = heard {
                self.keep_cookie(&answer);
                self.attempt = 0;
                return;
            }
            if self.dice.roll(4) == 0 {
                // Gave up on this choice; the next vote is another one.
                return;
            }
            self.rest(300).await;
        }
    }
}

async fn be_voter(seed: u64, histories: Histories) -> turmoil::Result {
    let mut person =
        Person { dice: Dice::new(seed), cookie: String::new(), name: None, attempt: 0, history: Vec::new() };
    person.rest(2_000).await;
    if person.open_page().await {
        for _ in 0..2 + person.dice.roll(5) {
            let option = ["cats", "dogs"][person.dice.pick(2)];
            person.vote(option).await;
            if person.dice.roll(5) == 0 {
                person.open_page().await;
            }
            // Mostly at once, so that votes overtake each other; sometimes after a while.
            let rest = if person.dice.roll(3) == 0 { 1_500 } else { 30 };
            person.rest(rest).await;
        }
    }
    let name = person.name.take();
    if let Some(name) = name {
        histories.lock().expect("histories").insert(name, person.history);
    }
    Ok(())
}

/// Crashes and partitions, some of which last.
struct Chaos {
    dice: Dice,
    down: Vec<(String, u64)>,
    cut: Vec<(String, String, u64)>,
    crashes: u32,
    partitions: u32,
}

impl Chaos {
    fn act(&mut self, sim: &mut turmoil::Sim<'_>, at_ms: u64) {
        let back: Vec<String> =
            self.down.iter().filter(|(_, t)| *t <= at_ms).map(|(n, _)| n.clone()).collect();
        self.down.retain(|(_, t)| *t > at_ms);
        back.into_iter().for_each(|name| sim.bounce(name));
        let healed: Vec<_> = self.cut.iter().filter(|(.., t)| *t <= at_ms).cloned().collect();
        self.cut.retain(|(.., t)| *t > at_ms);
        healed.into_iter().for_each(|(a, b, _)| sim.repair(a, b));
        match self.dice.roll(600) {
            0..4 => {
                let front = self.dice.roll(3) > 0;
                let name = if front {
                    front_name(self.dice.pick(FRONTS))
                } else {
                    worker_name(self.dice.pick(WORKERS))
                };
                if self.down.iter().all(|(n, _)| *n != name) {
                    sim.crash(name.clone());
                    self.crashes += 1;
                    self.down.push((name, at_ms + 20 + self.dice.roll(1_500)));
                }
            }
            4..8 => {
                let (a, b) = (worker_name(self.dice.pick(WORKERS)), front_name(self.dice.pick(FRONTS)));
                if self.cut.iter().all(|(x, y, _)| (x, y) != (&a, &b)) {
                    sim.partition(a.clone(), b.clone());
                    self.partitions += 1;
                    self.cut.push((a, b, at_ms + 100 + self.dice.roll(3_000)));
                }
            }
            _ => {}
        }
    }

    fn heal(&mut self, sim: &mut turmoil::Sim<'_>) {
        for (a, b, _) in self.cut.drain(..) {
            sim.repair(a, b);
        }
        for (name, _) in self.down.drain(..) {
            sim.bounce(name);
        }
    }
}

const STEP_MS: u64 = 5;

/// Plays one deployment to its end.
///
/// # Errors
/// When a front refuses to open its log because what it finds is not what it acknowledged.
pub(crate) fn play(trial: Trial) -> Result<Outcome, String> {
    faults::plant(trial.fault);
    let outcome = play_out(trial);
    faults::plant(None);
    outcome
}

fn play_out(trial: Trial) -> Result<Outcome, String> {
    let mut dice = Dice::new(trial.seed);
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(trial.seed)
        .tick_duration(Duration::from_millis(STEP_MS))
        .simulation_duration(Duration::from_secs(600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(40))
        .enable_random_order();
    // A crash may leave any part of a write that was not synced, in blocks smaller than a record.
    builder.fs().block_size(32).sync_probability([0.0, 0.02, 0.2][dice.pick(3)]);
    let mut sim = builder.build();
    let model = Model::new(trial.flaw, vec![polls::demo()], trial.seed);
    for i in 0..FRONTS {
        let skew_ms = i64::try_from(dice.roll(60_001)).expect("small") - 30_000;
        sim.host(front_name(i), move || be_front(i, trial.seed, skew_ms));
    }
    for i in 0..WORKERS {
        let model = Arc::clone(&model);
        sim.host(worker_name(i), move || be_worker(i, Arc::clone(&model)));
    }
    let histories = Histories::default();
    for i in 0..VOTERS {
        let seed = trial.seed.wrapping_mul(31).wrapping_add(i as u64);
        sim.client(format!("voter-{i}"), be_voter(seed, Arc::clone(&histories)));
    }
    let mut chaos = Chaos { dice, down: Vec::new(), cut: Vec::new(), crashes: 0, partitions: 0 };
    let mut at_ms = 0;
    while !sim.step().map_err(|e| e.to_string())? {
        at_ms += STEP_MS;
        chaos.act(&mut sim, at_ms);
    }
    chaos.heal(&mut sim);
    // The power goes everywhere once more.
    for i in 0..FRONTS {
        sim.crash(front_name(i));
    }
    for i in 0..FRONTS {
        sim.bounce(front_name(i));
    }
    let drained = settle(&mut sim, &model)?;
    let (kept, tally) = model.kept();
    let verdict = checker::check(&histories.lock().expect("histories"), kept, &tally);
    Ok(Outcome { verdict, crashes: chaos.crashes, partitions: chaos.partitions, drained })
}

/// Lets workers take the rest: until nothing has moved for five simulated seconds.
fn settle(sim: &mut turmoil::Sim<'_>, model: &Model) -> Result<bool, String> {
    let (mut still, mut last) = (0, 0);
    for _ in 0..60_000 / STEP_MS {
        sim.step().map_err(|e| e.to_string())?;
        let now = model.position();
        still = if now == last { still + STEP_MS } else { 0 };
        last = now;
        if still >= 5_000 && model.is_drained() {
            return Ok(true);
        }
    }
    Ok(false)
}

//! An invented world: visitors who come, wait, use, leave and come back; instances that boot, fail, hang and crash;
//! people who change, stop and restart what is published.

mod change;

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_launch::pool::{
    Action, Answer, Failure, Fault, GrantId, Granted, Input, Moment, Nonces, Pool, PoolConfig, Ticket,
};
use skep_launch::{Claim, ClaimKind, EndedBy, LaunchOrder, SeatKey, Stage, StopTarget};
use skep_model::{AppId, AppSpec, InstanceId, InstanceName, Principal, SeatId};

use super::compare::compare;
use super::invent::{
    Rng, TICK, Tally, exit_report, invent_choice, invent_config, invent_found, invent_name, invent_principal,
    invent_spec,
};
use super::judge::Judge;
use super::model::{Model, Phase};

/// Steps of invention per episode; its fair end comes on top.
const STEPS: u64 = 4_000;

#[derive(Debug, Clone)]
pub(super) enum Event {
    Give(Input),
    /// The visitor's request or tunnel ends.
    Leave(usize),
    /// The visitor does something on an open tunnel.
    Stir(usize),
    /// The request that waits is given up.
    GiveUp(AppId, Ticket),
    /// A page looks after its place.
    Look(AppId, SeatId),
}

/// One open use of a seat.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    app: AppId,
    granted: Granted,
    foreign: bool,
}

#[derive(Debug, Clone)]
struct Visitor {
    app: AppId,
    principal: Principal,
    name: Option<InstanceName>,
    key: Option<SeatKey>,
    /// Where they were let in by its owner.
    guest_at: Option<InstanceId>,
}

pub(super) struct World {
    pub(super) rng: Rng,
    nonces: Rng,
    pub(super) now: u64,
    pub(super) pool: Pool,
    pub(super) model: Model,
    pub(super) config: PoolConfig,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    next_tick: u64,
    pub(super) leases: BTreeMap<usize, Lease>,
    next_lease: usize,
    /// When the visitor of a grant truly last did something.
    traffic: BTreeMap<GrantId, u64>,
    visitors: Vec<Visitor>,
    /// Tickets not yet answered, and who waits with them.
    pub(super) waiting: BTreeMap<Ticket, (AppId, usize, ClaimKind)>,
    specs: Vec<Arc<AppSpec>>,
    pub(super) wedged: Vec<InstanceId>,
    pub(super) fair: bool,
    out: Vec<Action>,
    traced: bool,
    lines: Vec<String>,
    pub(super) tally: Tally,
}

pub(super) type Outcome = Result<(), String>;

impl World {
    pub(super) fn new(seed: u64, fault: Option<Fault>, traced: bool) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5ee9);
        let config = invent_config(&mut rng);
        let mut pool = Pool::new(config.clone());
        if let Some(fault) = fault {
            pool.plant(fault);
        }
        let apps = rng.range(1, 4);
        let specs = (0..apps).map(|n| Arc::new(invent_spec(&mut rng, n))).collect();
        Self {
            nonces: Rng(rng.next()),
            rng,
            now: 1_000_000,
            pool,
            model: Model::new(config.clone()),
            config,
            queue: BTreeMap::new(),
            queued: 0,
            next_tick: 1_000_000,
            leases: BTreeMap::new(),
            next_lease: 0,
            traffic: BTreeMap::new(),
            visitors: Vec::new(),
            waiting: BTreeMap::new(),
            specs,
            wedged: Vec::new(),
            fair: false,
            out: Vec::new(),
            traced,
            lines: Vec::new(),
            tally: Tally::default(),
        }
    }

    pub(super) fn trace(&self) -> &[String] {
        &self.lines
    }

    /// One episode.
    pub(super) fn run(&mut self) -> Outcome {
        let now = Moment(self.now);
        let (found, holders) = invent_found(&mut self.rng, &mut self.nonces, &self.specs, now);
        self.tally.adopted += found.len() as u64;
        // Those who held seats are still there.
        let holder =
            |(app, principal, name, key)| Visitor { app, principal, name, key: Some(key), guest_at: None };
        self.visitors.extend(holders.into_iter().map(holder));
        if self.rng.chance(50) {
            self.give(Input::SetApps(self.specs.clone()))?;
            for _ in 0..self.rng.below(8) {
                self.come()?;
            }
            self.give(Input::Adopt(found))?;
        } else {
            self.give(Input::Adopt(found))?;
            self.give(Input::SetApps(self.specs.clone()))?;
        }
        // Some worlds are crowded, in others hardly anybody comes.
        let bustle = self.rng.range(3, 45);
        for _ in 0..STEPS {
            if self.rng.chance(bustle) { self.invent()? } else { self.pass()? }
        }
        match self.rng.below(10) {
            0 | 1 => self.end_by_handover(),
            2 => self.end_by_shutdown(),
            _ => self.end_fairly(),
        }
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        if self.traced {
            let line = format!("{:>8} {}", self.now - 1_000_000, line());
            self.lines.push(line);
        }
    }

    pub(super) fn later(&mut self, wait: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + wait, self.queued), event);
    }

    /// Time passes until the next thing happens.
    pub(super) fn pass(&mut self) -> Outcome {
        match self.queue.first_key_value() {
            Some((&(at, _), _)) if at <= self.next_tick => {
                let ((at, _), event) = self.queue.pop_first().unwrap();
                self.now = self.now.max(at);
                self.happen(event)
            }
            _ => {
                self.now = self.now.max(self.next_tick);
                self.next_tick = self.now + TICK;
                self.give(Input::Tick)
            }
        }
    }

    fn happen(&mut self, event: Event) -> Outcome {
        match event {
            Event::Give(input) => self.give(input),
            Event::Leave(lease) => self.leave(lease),
            Event::Stir(lease) => {
                if let Some(lease) = self.leases.get(&lease) {
                    self.traffic.insert(lease.granted.grant, self.now);
                }
                Ok(())
            }
            Event::GiveUp(app, ticket) => {
                // Only who has no answer can give up; the desk sees to that.
                if self.waiting.remove(&ticket).is_some() || self.rng.chance(5) {
                    return self.give(Input::Abandon { app, ticket });
                }
                Ok(())
            }
            Event::Look(app, seat) => self.look(app, seat),
        }
    }

    fn leave(&mut self, lease: usize) -> Outcome {
        let Some(Lease { app, granted, foreign }) = self.leases.remove(&lease) else { return Ok(()) };
        self.traffic.insert(granted.grant, self.now);
        self.give(Input::Release { app, seat: granted.seat, grant: granted.grant, foreign })
    }

    fn look(&mut self, app: AppId, seat: SeatId) -> Outcome {
        self.begin();
        let told = self.pool.status(Moment(self.now), &app, Some(seat), &mut self.nonces);
        self.model.apply(&Input::Seen { app: app.clone(), seat });
        let Some(own) = self.model.app(&app) else { return Ok(()) };
        let at = own.line.iter().position(|place| place.seat == seat);
        let place = at.map(|at| u32::try_from(at + 1).unwrap());
        let waiting = u32::try_from(own.line.len()).unwrap();
        let told = told.map(|told| (told.place, told.waiting));
        if told != Some((place, waiting)) {
            return Err(format!("{seat:?} was told {told:?}, not {place:?} of {waiting}"));
        }
        if place.is_some() && self.rng.chance(70) {
            let wait = self.rng.range(200, 2_500);
            self.later(wait, Event::Look(app, seat));
        }
        Ok(())
    }

    fn begin(&mut self) {
        self.tally.steps += 1;
        self.model.now = Moment(self.now);
    }

    fn ready_now(&self) -> Vec<InstanceId> {
        self.model.instances().filter(|i| i.phase == Phase::Ready).map(|i| i.id.clone()).collect()
    }

    /// One input, judged; then the world reacts to what the pool did.
    pub(super) fn give(&mut self, input: Input) -> Outcome {
        self.begin();
        self.say(|| format!("{input:?}"));
        let tick = matches!(input, Input::Tick);
        let ready = if tick { self.ready_now() } else { Vec::new() };
        let suspect = match &input {
            Input::Suspect { id } => Some(id.clone()),
            _ => None,
        };
        let mut out = std::mem::take(&mut self.out);
        self.model.apply(&input);
        self.pool.step(Moment(self.now), input, &mut self.nonces, &mut out);
        for action in &out {
            self.say(|| format!("    {action:?}"));
        }
        if suspect.is_some_and(|id| {
            self.model.app(id.app()).is_none_or(|app| app.find(&id).is_none()) && !out.is_empty()
        }) {
            return Err("an unknown instance was probed".into());
        }
        Judge::new(&mut self.model, &self.pool, tick, ready).step(&out)?;
        self.react(out)?;
        self.look_around()
    }

    fn look_around(&mut self) -> Outcome {
        if self.tally.steps.is_multiple_of(16) {
            self.pool.audit()?;
        }
        let which = usize::try_from(self.tally.steps).unwrap() % self.model.apps.len().max(1);
        self.model.apps.get(which).map_or(Ok(()), |app| compare(&self.model, &self.pool, app))
    }

    fn react(&mut self, mut out: Vec<Action>) -> Outcome {
        let mut asked = Vec::new();
        for action in out.drain(..) {
            match action {
                Action::Launch(order) => self.boot(&order),
                Action::AwaitReady { id } => {
                    let wait = self.rng.range(10, 2_000);
                    self.later(wait, Event::Give(Input::Ready { id }));
                }
                Action::Stop { id, .. } => {
                    self.tally.stops += 1;
                    if self.rng.chance(10) {
                        let report = exit_report(EndedBy::Itself);
                        self.later(5, Event::Give(Input::Exited { id: id.clone(), report }));
                    }
                    let wait = self.rng.range(0, 1_500);
                    self.later(wait, Event::Give(Input::Stopped { id }));
                }
                Action::Probe { id } => {
                    let hangs = self.wedged.contains(&id) && !self.fair;
                    let good = !hangs && (self.fair || !self.rng.chance(3));
                    let wait = if good { self.rng.range(1, 50) } else { 800 };
                    self.later(wait, Event::Give(Input::Probed { id, good }));
                }
                Action::Grant { ticket, granted } => {
                    let Some((app, visitor, kind)) = self.waiting.remove(&ticket) else {
                        return Err(format!("{ticket:?} is answered twice"));
                    };
                    self.tally.granted_later += 1;
                    self.sit(app, granted, Some(visitor), kind, false);
                }
                Action::Refuse { ticket, .. } => {
                    self.tally.refused += 1;
                    if self.waiting.remove(&ticket).is_none() {
                        return Err(format!("{ticket:?} is answered twice"));
                    }
                }
                Action::Revoke { grant } => {
                    self.tally.revoked += 1;
                    let hit = self.leases.iter().filter(|(_, lease)| lease.granted.grant == grant);
                    for lease in hit.map(|(id, _)| *id).collect::<Vec<_>>() {
                        let wait = self.rng.range(0, 300);
                        self.later(wait, Event::Leave(lease));
                    }
                }
                Action::AskActivity { app, seat, grant } => asked.push((app, seat, grant)),
                _ => {}
            }
        }
        self.out = out;
        for (app, seat, grant) in asked {
            let last = Moment(self.traffic.get(&grant).copied().unwrap_or(0));
            self.give(Input::Activity { app, seat, grant, last })?;
        }
        Ok(())
    }

    /// What becomes of a start.
    fn boot(&mut self, order: &LaunchOrder) {
        self.tally.launches += 1;
        let id = order.id.clone();
        let mut wait = self.rng.range(1, 1_500);
        let progress = |id: &InstanceId, stage| {
            Event::Give(Input::Progress { id: id.clone(), stage, detail: String::new() })
        };
        if self.rng.chance(15) {
            self.later(1, progress(&id, Stage::Environment));
            let build = if self.fair { 2_000 } else { self.rng.range(100, 12_000) };
            wait += build;
            self.later(build, progress(&id, Stage::Start));
        }
        self.later(wait, progress(&id, Stage::Boot));
        wait += self.rng.range(0, 600);
        match if self.fair { 0 } else { self.rng.below(20) } {
            0..=14 => self.later(wait, Event::Give(Input::Ready { id })),
            15 | 16 => {
                self.tally.failures += 1;
                let failure = Failure { summary: "no interpreter".into(), last_lines: Vec::new() };
                self.later(wait, Event::Give(Input::StartFailed { id, failure }));
            }
            17 => {
                self.tally.failures += 1;
                let report = exit_report(self.somebody());
                self.later(wait, Event::Give(Input::Exited { id, report }));
            }
            // Ready just before or after the deadline, or never.
            18 => {
                let late = u64::try_from(order.spec.start_timeout.as_millis()).unwrap();
                self.later(late, Event::Give(Input::Ready { id }));
            }
            _ => {}
        }
    }

    fn sit(&mut self, app: AppId, granted: Granted, visitor: Option<usize>, kind: ClaimKind, foreign: bool) {
        self.traffic.insert(granted.grant, self.now);
        if let Some(visitor) = visitor {
            let key = SeatKey { seat: granted.seat, instance: Some(granted.instance.clone()) };
            self.visitors[visitor].key = Some(key);
        }
        let lease = self.next_lease;
        self.next_lease += 1;
        self.leases.insert(lease, Lease { app, granted, foreign });
        let long = kind == ClaimKind::Tunnel || foreign;
        let stay = match (long, self.fair) {
            (_, true) => self.rng.range(1, 2_000),
            (true, _) => self.rng.range(500, 40_000),
            (false, _) => self.rng.range(1, 1_500),
        };
        if long && self.rng.chance(60) {
            let mut at = self.rng.range(100, 3_000);
            while at < stay {
                self.later(at, Event::Stir(lease));
                at += self.rng.range(100, 3_000);
            }
        }
        self.later(stay, Event::Leave(lease));
    }

    pub(super) fn come(&mut self) -> Outcome {
        let again = !self.visitors.is_empty() && self.rng.chance(55);
        let visitor = if again {
            usize::try_from(self.rng.below(self.visitors.len() as u64)).unwrap()
        } else {
            let shared = if self.rng.chance(15) { self.some_instance() } else { None };
            let app = shared.as_ref().map_or_else(|| self.some_app(), |id| id.app().clone());
            let principal = invent_principal(&mut self.rng);
            let own = self.specs.iter().any(|spec| spec.id == app && spec.per_user);
            let name = if own { invent_name(&mut self.rng) } else { None };
            self.visitors.push(Visitor { app, principal, name, key: None, guest_at: shared });
            if self.visitors.len() > 40 {
                // Those who wait are known by their number.
                let at = usize::try_from(self.rng.below(20)).unwrap();
                self.visitors[at].key = None;
            }
            self.visitors.len() - 1
        };
        let kind = match self.rng.below(20) {
            0..=5 => ClaimKind::Page,
            6..=8 => ClaimKind::HeldPage,
            9..=14 => ClaimKind::Held,
            15..=18 => ClaimKind::Tunnel,
            _ => ClaimKind::WarmOnly,
        };
        self.claim(visitor, kind)
    }

    fn claim(&mut self, visitor: usize, kind: ClaimKind) -> Outcome {
        let Visitor { app, mut principal, name, key, guest_at } = self.visitors[visitor].clone();
        if self.rng.chance(4) {
            // Somebody else at the same browser.
            principal = invent_principal(&mut self.rng);
        }
        let key = key.filter(|_| self.rng.chance(90));
        let joins = guest_at.filter(|_| self.rng.chance(80));
        let asks = self.specs.iter().any(|spec| spec.id == app && !spec.parameters.is_empty());
        let form = asks && joins.is_none() && self.rng.chance(40);
        // The form comes without a seat, and may be older than what is published.
        let key = key.filter(|_| !form);
        let chosen = form.then(|| invent_choice(&mut self.rng));
        let claim = Claim { app, name, joins, chosen, key, principal, kind };
        self.begin();
        self.tally.claims += 1;
        self.say(|| format!("{claim:?}"));
        let mut out = std::mem::take(&mut self.out);
        let expected = self.model.expect(&claim);
        let answer = self.pool.claim(Moment(self.now), &claim, &mut self.nonces, &mut out);
        self.say(|| format!("    {answer:?}"));
        for action in &out {
            self.say(|| format!("    {action:?}"));
        }
        Judge::new(&mut self.model, &self.pool, false, Vec::new()).claim(&claim, expected, &answer, &out)?;
        match answer {
            Answer::Granted(granted) => {
                self.tally.granted_at_once += 1;
                self.tally.joined += u64::from(claim.joins.is_some());
                self.tally.chosen += u64::from(claim.chosen.is_some());
                self.sit(claim.app, granted, Some(visitor), kind, false);
            }
            Answer::Waiting { ticket, seat } => self.wait(visitor, &claim, ticket, seat),
            Answer::Refused(_) => self.tally.refused += 1,
        }
        self.react(out)?;
        self.look_around()
    }

    fn wait(&mut self, visitor: usize, claim: &Claim, ticket: Ticket, seat: SeatId) {
        let app = claim.app.clone();
        self.visitors[visitor].key = Some(SeatKey { seat, instance: None });
        self.waiting.insert(ticket, (app.clone(), visitor, claim.kind));
        if claim.kind == ClaimKind::Page {
            // The launch page is sent at once; its request is over.
            self.later(0, Event::GiveUp(app.clone(), ticket));
            let wait = self.rng.range(200, 2_500);
            self.later(wait, Event::Look(app, seat));
        } else if self.rng.chance(25) && !self.fair {
            let wait = self.rng.range(0, 2_000);
            self.later(wait, Event::GiveUp(app, ticket));
        }
    }

    fn some_app(&mut self) -> AppId {
        let specs = self.specs.clone();
        self.rng.pick(&specs).map_or_else(|| "a0".parse().unwrap(), |spec| spec.id.clone())
    }

    /// Whose doing an end is.
    fn somebody(&mut self) -> EndedBy {
        if self.rng.chance(30) { EndedBy::Platform } else { EndedBy::Itself }
    }

    fn some_instance(&mut self) -> Option<InstanceId> {
        let all: Vec<InstanceId> = self.model.instances().map(|i| i.id.clone()).collect();
        self.rng.pick(&all).cloned()
    }

    /// Somebody does something.
    fn invent(&mut self) -> Outcome {
        let what = self.rng.below(200);
        match what {
            0..=149 => self.come(),
            150..=159 => match self.some_instance() {
                Some(id) => {
                    let report = exit_report(self.somebody());
                    match report.ended_by {
                        EndedBy::Itself => self.tally.crashes += 1,
                        EndedBy::Platform => self.tally.lost += 1,
                    }
                    self.give(Input::Exited { id, report })
                }
                None => Ok(()),
            },
            160..=166 => {
                if let Some(id) = self.some_instance() {
                    self.tally.wedged += 1;
                    self.wedged.push(id);
                    if self.wedged.len() > 2 {
                        self.wedged.remove(0);
                    }
                }
                Ok(())
            }
            167..=172 => {
                let target = match (self.rng.below(6), self.some_instance()) {
                    (0, _) => StopTarget::All,
                    (1..=3, Some(id)) => StopTarget::Instance(id),
                    _ => StopTarget::App(self.some_app()),
                };
                let order = if self.rng.chance(50) { Input::Stop(target) } else { Input::Restart(target) };
                self.give(order)
            }
            173..=178 => {
                let app = self.some_app();
                self.give(Input::Retry(app))
            }
            179..=185 => self.republish(),
            186..=190 => self.seat_from_predecessor(),
            191..=194 => match self.leases.iter().next().map(|(_, lease)| lease.clone()) {
                // A release of an earlier grant of the same seat, or of somebody else's.
                Some(Lease { app, granted, .. }) => {
                    let grant = GrantId(granted.grant.0.saturating_sub(1));
                    self.give(Input::Release { app, seat: granted.seat, grant, foreign: false })
                }
                None => Ok(()),
            },
            _ => match self.some_instance() {
                // Late or mistaken reports.
                Some(id) => {
                    let failure = Failure { summary: "late".into(), last_lines: Vec::new() };
                    let input = match self.rng.below(5) {
                        0 => Input::Stopped { id },
                        4 => Input::Suspect { id },
                        1 => Input::LastLines { id, lines: vec!["x".into()] },
                        2 if self.model.app(id.app()).is_some_and(|app| app.starting() == 0) => {
                            Input::StartFailed { id, failure }
                        }
                        _ => Input::Progress { id, stage: Stage::Boot, detail: "late".into() },
                    };
                    self.give(input)
                }
                None => Ok(()),
            },
        }
    }
}

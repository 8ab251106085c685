//! A naive account of who sits and waits where: lists and loops, no counters, no queues of deadlines.

use std::sync::Arc;
use std::time::Duration;

use skep_launch::pool::{Found, GrantId, Input, Moment, PoolConfig, Ticket};
use skep_launch::{Claim, ClaimKind, EndedBy, SeatKey, Stage};
use skep_model::{AppId, AppSpec, Choice, InstanceId, InstanceName, Principal, Revision, SeatId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Starting { clock: Moment, environment: bool },
    Ready,
    Draining { deadline: Moment, why: Why },
    Stopping,
}

/// Why an instance drains, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Wedged,
    Ordered,
    Other,
}

/// Somebody, the name of the instance of theirs that they mean, and what it is started with (nothing: whatever it was).
pub(super) type Who = (Principal, Option<InstanceName>, Choice);

#[derive(Debug, Clone)]
pub(super) struct Instance {
    pub id: InstanceId,
    pub revision: Revision,
    pub owner: Option<Who>,
    pub phase: Phase,
    pub started: Moment,
    pub ready_at: Option<Moment>,
    pub idle_since: Moment,
    pub misses: u32,
    pub probing: bool,
    /// Started to keep seats warm.
    pub warm: bool,
    pub noted_at: Option<Moment>,
}

impl Instance {
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Ready)
    }

    pub(super) fn admits(&self, who: &Who) -> bool {
        let fits = |owner: &Who| same(owner, who) && (who.2.is_empty() || who.2 == owner.2);
        self.owner.as_ref().is_none_or(fits)
    }

    pub(super) fn is_theirs(&self, who: &Who) -> bool {
        self.owner.as_ref().is_some_and(|owner| same(owner, who))
    }
}

pub(super) fn same(one: &Who, other: &Who) -> bool {
    name(&one.0) == name(&other.0) && one.1 == other.1
}

pub(super) fn who(claim: &Claim) -> Who {
    (claim.principal.clone(), claim.name.clone(), claim.chosen.clone().unwrap_or_default())
}

fn name(principal: &Principal) -> Option<&str> {
    match principal {
        Principal::Anonymous | Principal::Guest(_) => None,
        Principal::User { name, .. } => Some(name.as_str()),
    }
}

/// Who sits on a seat.
#[derive(Debug, Clone)]
pub(super) enum Sitter {
    Known(Who),
    /// Somebody invited.
    Guest,
    /// Whoever held it before a restart, or in another process.
    Unknown,
}

#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub id: SeatId,
    pub instance: InstanceId,
    pub sitter: Sitter,
    pub grant: GrantId,
    pub open: u32,
    pub foreign: u32,
    pub lasting: bool,
    pub reserved_until: Moment,
    /// When the visitor truly last did something.
    pub last: Moment,
}

#[derive(Debug, Clone)]
pub(super) struct Place {
    pub seat: SeatId,
    pub who: Who,
    pub tickets: Vec<(Ticket, Moment)>,
    pub page_seen: Option<Moment>,
    pub lasting: bool,
    /// Where the visitor was before.
    pub wanted: Option<InstanceId>,
}

#[derive(Debug, Clone)]
pub(super) struct App {
    pub spec: Arc<AppSpec>,
    pub removed: bool,
    pub instances: Vec<Instance>,
    pub seats: Vec<Seat>,
    pub line: Vec<Place>,
    pub failures: u32,
    pub until: Moment,
    pub last_was_timeout: bool,
    pub replace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Running,
    Quiet,
    Frozen,
    ShuttingDown,
}

/// What a claim must be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// The seat the visitor has.
    Same(GrantId),
    /// A seat on one of these instances.
    OneOf(Vec<InstanceId>),
    /// A wait, at this place of the line (0 = first).
    Wait(usize),
    Refused(&'static str),
}

/// What must happen in the course of one step.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Tickets that must be refused, and how.
    pub refusals: Vec<(Ticket, &'static str)>,
    /// Instances that never were ready and must be stopped.
    pub stops: Vec<InstanceId>,
    /// Instances whose seats end because they ended.
    pub crashed: Vec<InstanceId>,
    /// A seat that may be taken back although nothing is wrong with it: its visitor loads the page of a wedged instance.
    pub moved: Option<SeatId>,
    /// Seats whose visitors are away and that are given up by an order to stop.
    pub given_up: Vec<SeatId>,
    /// The visitor of this seat was found silent.
    pub silent: Option<SeatId>,
}

pub(super) struct Model {
    pub config: PoolConfig,
    pub now: Moment,
    pub apps: Vec<App>,
    pub mode: Mode,
    pub adopted: bool,
    pub configured: bool,
    pub unclaimed: Vec<Found>,
    pub last_warm_start: Option<Moment>,
    pub due: Due,
}

impl App {
    pub(super) fn new(spec: Arc<AppSpec>) -> Self {
        Self {
            spec,
            removed: false,
            instances: Vec::new(),
            seats: Vec::new(),
            line: Vec::new(),
            failures: 0,
            until: Moment(0),
            last_was_timeout: false,
            replace: false,
        }
    }

    pub(super) fn taken(&self, id: &InstanceId) -> u32 {
        u32::try_from(self.seats.iter().filter(|seat| seat.instance == *id).count()).unwrap()
    }

    pub(super) fn open(&self, id: &InstanceId) -> u32 {
        self.seats.iter().filter(|seat| seat.instance == *id).map(|seat| seat.open).sum()
    }

    pub(super) fn find(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.id == *id)
    }

    pub(super) fn find_mut(&mut self, id: &InstanceId) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|instance| instance.id == *id)
    }

    /// Where a newcomer may be sent: the least loaded with room.
    pub(super) fn best(&self, who: &Who) -> Vec<InstanceId> {
        let room: Vec<&Instance> = self
            .instances
            .iter()
            .filter(|i| i.phase == Phase::Ready && i.admits(who) && self.taken(&i.id) < self.spec.seats)
            .collect();
        let least = room.iter().map(|i| self.taken(&i.id)).min();
        room.iter().filter(|i| Some(self.taken(&i.id)) == least).map(|i| i.id.clone()).collect()
    }

    /// Where somebody in the line may be sent: where they were before, else the least loaded.
    pub(super) fn best_for(&self, place: &Place) -> Vec<InstanceId> {
        let before = place.wanted.as_ref().and_then(|id| self.find(id)).filter(|i| {
            i.phase == Phase::Ready && i.admits(&place.who) && self.taken(&i.id) < self.spec.seats
        });
        before.map_or_else(|| self.best(&place.who), |i| vec![i.id.clone()])
    }

    pub(super) fn hope(&self, who: &Who) -> bool {
        self.instances.iter().any(|i| i.is_fresh() && i.admits(who))
    }

    /// Somebody who has instances under as many other names as one person may.
    pub(super) fn has_enough(&self, who: &Who, ahead: &[Place]) -> bool {
        let ended =
            |i: &Instance| matches!(i.phase, Phase::Stopping | Phase::Draining { why: Why::Ordered, .. });
        let alive = self.instances.iter().filter(|i| !ended(i));
        let all = alive.filter_map(|i| i.owner.as_ref()).chain(ahead.iter().map(|place| &place.who));
        let mut names: Vec<_> = all.filter(|own| name(&own.0) == name(&who.0)).map(|own| &own.1).collect();
        names.sort();
        names.dedup();
        let most = self.spec.max_instances_per_user as usize;
        self.spec.per_user && !names.contains(&&who.1) && names.len() >= most
    }

    pub(super) fn starting(&self) -> usize {
        self.instances.iter().filter(|i| matches!(i.phase, Phase::Starting { .. })).count()
    }

    fn supply(&self) -> usize {
        let fresh = self.instances.iter().filter(|i| i.is_fresh());
        fresh.map(|i| self.spec.seats.saturating_sub(self.taken(&i.id)) as usize).sum()
    }

    /// Somebody waits for whom nothing is on its way; with one instance per user, who.
    pub(super) fn demand(&self) -> Option<Option<Who>> {
        if self.removed {
            return None;
        }
        if self.spec.per_user {
            let mut waiting = self.line.iter().map(|place| &place.who);
            return waiting.find(|who| !self.hope(who)).map(|who| Some(who.clone()));
        }
        (self.line.len() > self.supply()).then_some(None)
    }

    /// Too few seats are warm or on their way to being so.
    pub(super) fn wants_warmth(&self) -> bool {
        let fresh = self.instances.iter().any(Instance::is_fresh);
        !self.removed
            && !self.spec.per_user
            && (self.line.len() + self.spec.min_seats as usize > self.supply() || self.replace && !fresh)
    }

    pub(super) fn may_have_one_more(&self) -> bool {
        let cap = self.spec.max_instances as usize;
        self.instances.len() < cap
            || self.instances.len() == cap && !self.instances.iter().any(Instance::is_fresh)
    }

    pub(super) fn can_spare(&self, id: &InstanceId) -> bool {
        let others = self.instances.iter().filter(|i| i.phase == Phase::Ready && i.id != *id);
        let free: u32 = others.map(|i| self.spec.seats.saturating_sub(self.taken(&i.id))).sum();
        self.spec.per_user || free >= self.spec.min_seats
    }

    /// The key, if its bearer may use it.
    pub(super) fn usable<'k>(&self, claim: &'k Claim) -> Option<&'k SeatKey> {
        let key = claim.key.as_ref()?;
        if let Some(seat) = self.seats.iter().find(|seat| seat.id == key.seat) {
            return self.find(&seat.instance)?.admits(&who(claim)).then_some(key);
        }
        if !self.spec.per_user {
            return Some(key);
        }
        let place = self.line.iter().find(|place| place.seat == key.seat);
        place.is_none_or(|place| same(&place.who, &who(claim))).then_some(key)
    }

    pub(super) fn lasting(&self, claim: &Claim) -> bool {
        match claim.kind {
            ClaimKind::Held | ClaimKind::Tunnel if claim.joins.is_some() => false,
            ClaimKind::Page | ClaimKind::HeldPage => true,
            ClaimKind::WarmOnly => false,
            ClaimKind::Held | ClaimKind::Tunnel => self.usable(claim).is_some(),
        }
    }
}

fn app_of<'m>(apps: &'m mut [App], id: &AppId) -> Option<&'m mut App> {
    apps.iter_mut().find(|app| app.spec.id == *id)
}

impl Model {
    pub(super) fn new(config: PoolConfig) -> Self {
        Self {
            config,
            now: Moment(0),
            apps: Vec::new(),
            mode: Mode::Running,
            adopted: false,
            configured: false,
            unclaimed: Vec::new(),
            last_warm_start: None,
            due: Due::default(),
        }
    }

    pub(super) fn app(&self, id: &AppId) -> Option<&App> {
        self.apps.iter().find(|app| app.spec.id == *id)
    }

    pub(super) fn app_mut(&mut self, id: &AppId) -> Option<&mut App> {
        self.apps.iter_mut().find(|app| app.spec.id == *id)
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.apps.iter().flat_map(|app| &app.instances)
    }

    /// What this claim must be answered now.
    pub(super) fn expect(&mut self, claim: &Claim) -> Expected {
        if matches!(self.mode, Mode::Frozen | Mode::ShuttingDown) {
            return Expected::Refused("shutting-down");
        }
        let now = self.now;
        let patience = self.config.tickets_per_place;
        let page = matches!(claim.kind, ClaimKind::Page | ClaimKind::HeldPage);
        if claim.joins.is_some() && !(self.adopted && self.configured) {
            return Expected::Refused("not-up");
        }
        let Some(app) = self.apps.iter().find(|app| app.spec.id == claim.app) else {
            return Expected::Refused("unknown-app");
        };
        if let Some(id) = &claim.joins {
            let (expected, moved) = app.guest(claim, id);
            self.due.moved = moved;
            return expected;
        }
        let key = app.usable(claim);
        let mut moved = None;
        if let Some(seat) = key.and_then(|key| app.seats.iter().find(|seat| seat.id == key.seat)) {
            let instance = app.find(&seat.instance).unwrap();
            if !(page && matches!(instance.phase, Phase::Draining { why: Why::Wedged, .. })) {
                return Expected::Same(seat.grant);
            }
            moved = Some(seat.id);
        }
        let expected = app.newcomer(claim, key, now, patience);
        self.due.moved = moved;
        expected
    }

    fn refuse_hopeless(app: &mut App, due: &mut Due) {
        let code = if app.last_was_timeout { "start-timeout" } else { "start-failed" };
        let (hopeful, hopeless): (Vec<_>, Vec<_>) = std::mem::take(&mut app.line)
            .into_iter()
            .partition(|place| app.instances.iter().any(|i| i.is_fresh() && i.admits(&place.who)));
        app.line = hopeful;
        due.refusals.extend(hopeless.iter().flat_map(|p| &p.tickets).map(|(ticket, _)| (*ticket, code)));
    }

    pub(super) fn fail(app: &mut App, config: &PoolConfig, now: Moment, timeout: bool, due: &mut Due) {
        app.failures += 1;
        let doubled = config.backoff_base * 2_u32.pow((app.failures - 1).min(16));
        app.until = now.after(doubled.min(config.backoff_cap));
        app.last_was_timeout = timeout;
        Self::refuse_hopeless(app, due);
    }

    pub(super) fn forgive(app: &mut App) {
        app.failures = 0;
        app.until = Moment(0);
        app.last_was_timeout = false;
    }

    /// The instance is to go; `patience` is what its visitors are given.
    pub(super) fn drain(
        app: &mut App,
        id: &InstanceId,
        now: Moment,
        patience: Duration,
        why: Why,
        due: &mut Due,
    ) {
        let deadline = now.after(patience);
        let Some(instance) = app.find_mut(id) else { return };
        match instance.phase {
            Phase::Starting { .. } => due.stops.push(id.clone()),
            Phase::Ready => instance.phase = Phase::Draining { deadline, why },
            Phase::Draining { deadline: old, why: was } => {
                if deadline < old || was == Why::Wedged {
                    instance.phase = Phase::Draining { deadline: deadline.min(old), why };
                }
            }
            Phase::Stopping => {}
        }
        if let Some(at) = due.stops.iter().position(|stop| stop == id)
            && let Some(instance) = app.find_mut(&due.stops[at])
        {
            // Not fresh any more from here on, although its stop is still to be seen.
            instance.phase = Phase::Draining { deadline: now, why: Why::Other };
        }
    }

    /// What an input, other than a claim, must bring about.
    pub(super) fn apply(&mut self, input: &Input) {
        self.bring_about(input);
        if matches!(self.mode, Mode::Running | Mode::Quiet) {
            self.withdraw_choices();
        }
    }

    fn bring_about(&mut self, input: &Input) {
        let Self { config, now, apps, due, mode, .. } = self;
        let now = *now;
        match input {
            Input::Tick => self.tick(),
            Input::Adopt(found) => self.adopt(found.clone()),
            Input::SetApps(specs) => self.set_apps(specs),
            Input::Abandon { app, ticket } => {
                let Some(app) = app_of(apps, app) else { return };
                app.line.iter_mut().for_each(|place| place.tickets.retain(|(own, _)| own != ticket));
                app.line.retain(|place| !place.tickets.is_empty() || place.page_seen.is_some());
            }
            Input::Seen { app, seat } => {
                let Some(app) = app_of(apps, app) else { return };
                for place in app.line.iter_mut().filter(|place| place.seat == *seat) {
                    place.page_seen = place.page_seen.map(|_| now);
                }
                for seat in app.seats.iter_mut().filter(|own| own.id == *seat) {
                    seat.reserved_until = now.after(config.reservation);
                }
            }
            Input::Release { app, seat, grant, foreign } => {
                let Some(app) = app_of(apps, app) else { return };
                let Some(seat) = app.seats.iter_mut().find(|own| own.id == *seat && own.grant == *grant)
                else {
                    return;
                };
                if seat.open > 0 {
                    seat.open -= 1;
                    seat.foreign -= u32::from(*foreign && seat.foreign > 0);
                    if seat.open == 0 {
                        seat.reserved_until = now.after(config.reservation);
                        seat.last = now;
                    }
                }
            }
            Input::Activity { seat, app, grant, last } => {
                let Some(app) = app_of(apps, app) else { return };
                let Some(timeout) = app.spec.inactivity_timeout else { return };
                let own = app.seats.iter().find(|own| own.id == *seat && own.grant == *grant);
                if own.is_some_and(|own| {
                    own.open > 0 && own.foreign == 0 && last.max(&own.last).after(timeout) <= now
                }) {
                    due.silent = Some(*seat);
                }
            }
            Input::Progress { id, stage, .. } => {
                let Some(instance) = app_of(apps, id.app()).and_then(|app| app.find_mut(id)) else { return };
                if let Phase::Starting { environment, .. } = instance.phase {
                    let builds = *stage == Stage::Environment;
                    if builds != environment {
                        instance.phase = Phase::Starting { clock: now, environment: builds };
                    }
                }
            }
            Input::Ready { id } => {
                let Some(app) = app_of(apps, id.app()) else { return };
                let Some(instance) = app.find_mut(id) else { return };
                if matches!(instance.phase, Phase::Starting { .. }) {
                    instance.phase = Phase::Ready;
                    instance.ready_at = Some(now);
                    instance.idle_since = now;
                    app.last_was_timeout = false;
                }
            }
            Input::StartFailed { id, .. } => {
                let Some(app) = app_of(apps, id.app()) else { return };
                if app.find(id).is_some_and(|i| matches!(i.phase, Phase::Starting { .. })) {
                    Self::drain(app, id, now, Duration::ZERO, Why::Other, due);
                    Self::fail(app, config, now, false, due);
                }
            }
            Input::Exited { id, report } => self.exited(id, report.ended_by == EndedBy::Platform),
            Input::Stopped { id } => {
                let Some(app) = app_of(apps, id.app()) else { return };
                app.instances.retain(|i| i.id != *id || i.phase != Phase::Stopping);
            }
            Input::Probed { id, good } => self.probed(id, *good),
            Input::Stop(target) => self.order(target, false),
            Input::Restart(target) => self.order(target, true),
            Input::Retry(app) => {
                if let Some(app) = app_of(apps, app) {
                    Self::forgive(app);
                }
            }
            Input::Quiesce => {
                if *mode == Mode::Running {
                    *mode = Mode::Quiet;
                }
            }
            Input::Freeze => self.close(Mode::Frozen),
            Input::Shutdown => self.close(Mode::ShuttingDown),
            Input::Suspect { .. } | Input::LastLines { .. } => {}
        }
    }

    fn exited(&mut self, id: &InstanceId, lost: bool) {
        self.unclaimed.retain(|found| found.id != *id);
        let Self { config, now, apps, due, .. } = self;
        let now = *now;
        let Some(app) = apps.iter_mut().find(|app| app.spec.id == *id.app()) else { return };
        let Some(instance) = app.find(id).cloned() else { return };
        match instance.phase {
            Phase::Stopping => {}
            Phase::Starting { .. } => {
                Self::drain(app, id, now, Duration::ZERO, Why::Other, due);
                if !lost {
                    Self::fail(app, config, now, false, due);
                }
            }
            Phase::Ready | Phase::Draining { .. } => {
                due.crashed.push(id.clone());
                app.instances.retain(|i| i.id != *id);
                let healthy = instance.ready_at.is_some_and(|at| now.since(at) >= config.healthy_after);
                match (instance.phase == Phase::Ready && !lost, healthy) {
                    (true, true) => Self::forgive(app),
                    (true, false) if app.failures == 0 => app.failures = 1,
                    (true, false) => Self::fail(app, config, now, false, due),
                    (false, _) => {}
                }
            }
        }
    }

    fn probed(&mut self, id: &InstanceId, good: bool) {
        let Self { config, now, apps, due, mode, .. } = self;
        let Some(app) = apps.iter_mut().find(|app| app.spec.id == *id.app()) else { return };
        let (revision, per_user, removed) = (app.spec.revision, app.spec.per_user, app.removed);
        let held = app.taken(id) > 0;
        let Some(instance) = app.find_mut(id) else { return };
        instance.probing = false;
        if good {
            instance.misses = 0;
            let wedged = matches!(instance.phase, Phase::Draining { why: Why::Wedged, .. });
            let current = instance.revision == revision && instance.owner.is_some() == per_user;
            if wedged && current && !removed {
                instance.phase = Phase::Ready;
            }
            return;
        }
        instance.misses += 1;
        if instance.misses >= config.probe_misses && instance.phase == Phase::Ready && *mode == Mode::Running
        {
            app.replace |= held && !app.spec.per_user;
            Self::drain(app, id, *now, config.wedged_deadline, Why::Wedged, due);
        }
    }
}

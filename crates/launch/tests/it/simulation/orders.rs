//! What orders from outside, and a claim of a newcomer, must bring about.

use std::sync::Arc;
use std::time::Duration;

use skep_launch::pool::{Found, GrantId, Moment};
use skep_launch::{Claim, ClaimKind, SeatKey, StopTarget};
use skep_model::{AppSpec, Choice, InstanceId, Principal, SeatId};

use super::model::{App, Expected, Instance, Mode, Model, Phase, Place, Seat, Sitter, Who, Why, same, who};

impl Model {
    pub(super) fn order(&mut self, target: &StopTarget, restart: bool) {
        let Self { config, now, apps, due, .. } = self;
        let now = *now;
        for app in apps {
            let meant: Vec<InstanceId> = app
                .instances
                .iter()
                .map(|i| i.id.clone())
                .filter(|id| match target {
                    StopTarget::All => true,
                    StopTarget::App(app) => id.app() == app,
                    StopTarget::Instance(instance) => id == instance,
                })
                .collect();
            for id in meant {
                let fresh = app.find(&id).unwrap().is_fresh();
                if restart {
                    Self::forgive(app);
                    if fresh {
                        app.replace |= app.taken(&id) > 0 && !app.spec.per_user;
                        Self::drain(app, &id, now, config.drain_deadline, Why::Other, due);
                    }
                } else {
                    if app.find(&id).unwrap().phase != Phase::Stopping {
                        let away = app.seats.iter().filter(|seat| seat.instance == id && seat.open == 0);
                        due.given_up.extend(away.map(|seat| seat.id));
                    }
                    let ended = app.find(&id).unwrap();
                    if let (Phase::Starting { .. }, Some(owner)) = (&ended.phase, ended.owner.clone()) {
                        for place in app.line.iter_mut().filter(|place| same(&place.who, &owner)) {
                            place.page_seen = None;
                        }
                        app.line.retain(|place| !place.tickets.is_empty() || place.page_seen.is_some());
                    }
                    Self::drain(app, &id, now, config.command_deadline, Why::Ordered, due);
                }
            }
        }
    }

    pub(super) fn tick(&mut self) {
        if self.mode == Mode::Frozen {
            return;
        }
        let Self { config, now, apps, due, mode, .. } = self;
        let now = *now;
        for app in apps {
            let starting = app.starting() > 0;
            let late = if starting { "start-timeout" } else { "no-room" };
            for place in &mut app.line {
                let expired = place.tickets.iter().filter(|(_, deadline)| *deadline <= now);
                due.refusals.extend(expired.map(|(ticket, _)| (*ticket, late)));
                place.tickets.retain(|(_, deadline)| *deadline > now);
                place.page_seen = place.page_seen.filter(|seen| now.since(*seen) < config.page_patience);
            }
            app.line.retain(|place| !place.tickets.is_empty() || place.page_seen.is_some());
            let ids: Vec<InstanceId> = app.instances.iter().map(|i| i.id.clone()).collect();
            for id in ids {
                let instance = app.find(&id).unwrap();
                match instance.phase {
                    Phase::Starting { clock, environment } => {
                        let limit =
                            if environment { config.environment_timeout } else { app.spec.start_timeout };
                        if now.since(clock) >= limit {
                            Self::drain(app, &id, now, Duration::ZERO, Why::Other, due);
                            Self::fail(app, config, now, true, due);
                        }
                    }
                    Phase::Ready => {
                        let seasoned =
                            instance.ready_at.is_some_and(|at| now.since(at) >= config.healthy_after);
                        let old = app.spec.max_lifetime.is_some_and(|max| now.since(instance.started) >= max);
                        if seasoned && app.failures > 0 && now >= app.until {
                            Self::forgive(app);
                        }
                        if old && *mode == Mode::Running {
                            // Reservations that ended by now are gone before.
                            let held = app.seats.iter().any(|seat| {
                                seat.instance == id && (seat.open > 0 || seat.reserved_until > now)
                            });
                            app.replace |= held && !app.spec.per_user;
                            Self::drain(app, &id, now, config.drain_deadline, Why::Other, due);
                        }
                    }
                    Phase::Draining { .. } | Phase::Stopping => {}
                }
            }
        }
    }

    pub(super) fn close(&mut self, mode: Mode) {
        self.mode = mode;
        let Self { now, apps, due, .. } = self;
        for app in apps {
            for place in std::mem::take(&mut app.line) {
                due.refusals.extend(place.tickets.iter().map(|(ticket, _)| (*ticket, "shutting-down")));
            }
            if mode == Mode::ShuttingDown {
                let all: Vec<InstanceId> = app.instances.iter().map(|i| i.id.clone()).collect();
                for id in all {
                    Self::drain(app, &id, *now, Duration::ZERO, Why::Other, due);
                }
            }
        }
    }

    pub(super) fn set_apps(&mut self, specs: &[Arc<AppSpec>]) {
        self.configured = true;
        let Self { config, now, apps, due, .. } = self;
        let now = *now;
        for app in apps.iter_mut() {
            match specs.iter().find(|spec| spec.id == app.spec.id) {
                Some(spec) => {
                    let (revised, reshared) =
                        (spec.revision != app.spec.revision, spec.per_user != app.spec.per_user);
                    let changed = app.spec != *spec || app.removed;
                    app.spec = spec.clone();
                    app.removed = false;
                    if revised {
                        Self::forgive(app);
                    }
                    let outdated = app.instances.iter().filter(|i| {
                        i.is_fresh()
                            && (revised || reshared)
                            && (i.revision != spec.revision || i.owner.is_some() != spec.per_user)
                    });
                    let outdated: Vec<InstanceId> = outdated.map(|i| i.id.clone()).collect();
                    for id in outdated {
                        Self::drain(app, &id, now, config.drain_deadline, Why::Other, due);
                    }
                    if app.spec.parameters.is_empty() {
                        app.line.iter_mut().for_each(|place| place.who.2.clear());
                    }
                    if changed {
                        app.refuse_excess(due);
                    }
                }
                None => {
                    app.removed = true;
                    for place in std::mem::take(&mut app.line) {
                        due.refusals.extend(place.tickets.iter().map(|(t, _)| (*t, "app-removed")));
                    }
                    let fresh = app.instances.iter().filter(|i| i.is_fresh());
                    let fresh: Vec<InstanceId> = fresh.map(|i| i.id.clone()).collect();
                    for id in fresh {
                        Self::drain(app, &id, now, config.drain_deadline, Why::Other, due);
                    }
                }
            }
        }
        for spec in specs {
            if self.app(&spec.id).is_none() {
                self.apps.push(App::new(spec.clone()));
            }
        }
        if self.adopted {
            let found = std::mem::take(&mut self.unclaimed);
            self.take_in(found);
        }
    }

    pub(super) fn adopt(&mut self, found: Vec<Found>) {
        self.adopted = true;
        if self.configured { self.take_in(found) } else { self.unclaimed.extend(found) }
    }

    /// Nobody waits for a start with what is not offered any more.
    pub(super) fn withdraw_choices(&mut self) {
        let Self { apps, due, .. } = self;
        for app in apps {
            let App { line, instances, spec, .. } = app;
            line.retain(|place| {
                let parameters = &spec.parameters;
                let stays = parameters.is_empty()
                    || parameters.check(&place.who.0, &place.who.2).is_ok()
                    || instances.iter().any(|i| i.is_fresh() && i.admits(&place.who));
                let code = if place.who.2.is_empty() { "choice-needed" } else { "choice-withdrawn" };
                if !stays {
                    due.refusals.extend(place.tickets.iter().map(|(ticket, _)| (*ticket, code)));
                }
                stays
            });
        }
    }

    pub(super) fn take_in(&mut self, found: Vec<Found>) {
        let touched: Vec<_> = found.iter().map(|found| found.id.app().clone()).collect();
        self.take_in_each(found);
        let Self { apps, due, .. } = self;
        for app in apps.iter_mut().filter(|app| touched.contains(&app.spec.id) && !app.removed) {
            app.refuse_excess(due);
        }
    }

    fn take_in_each(&mut self, found: Vec<Found>) {
        for found in found {
            let (config, now) = (self.config.clone(), self.now);
            let Self { apps, due, .. } = self;
            let app = apps.iter_mut().find(|app| app.spec.id == *found.id.app() && !app.removed);
            let Some(app) = app else {
                due.stops.push(found.id);
                continue;
            };
            let current = found.revision == app.spec.revision && found.owner.is_some() == app.spec.per_user;
            app.instances.push(Instance {
                id: found.id.clone(),
                revision: found.revision,
                owner: found.owner.map(|owner| (owner, found.variant.name, found.variant.chosen)),
                phase: if found.was_ready {
                    Phase::Ready
                } else {
                    Phase::Starting { clock: now, environment: false }
                },
                started: found.started,
                ready_at: found.was_ready.then_some(found.started),
                idle_since: now,
                misses: 0,
                probing: false,
                warm: false,
                noted_at: None,
            });
            app.instances.sort_by_key(|i| i.started);
            for seat in found.seats.iter().filter(|_| found.was_ready) {
                let own = app.find(&found.id).unwrap();
                let other = app.line.iter().any(|p| p.seat == *seat && !own.admits(&p.who));
                if !other && !app.seats.iter().any(|own| own.id == *seat) {
                    app.seats.push(Seat {
                        id: *seat,
                        instance: found.id.clone(),
                        sitter: Sitter::Unknown,
                        grant: GrantId(0),
                        open: 0,
                        foreign: 0,
                        lasting: true,
                        reserved_until: now.after(config.reservation),
                        last: now,
                    });
                }
            }
            // Whoever came before their seats were known gets them; pages without a request do so silently.
            let App { line, seats, .. } = app;
            line.retain(|place| !place.tickets.is_empty() || !seats.iter().any(|seat| seat.id == place.seat));
            if !current {
                Self::drain(app, &found.id, now, config.drain_deadline, Why::Other, due);
            }
        }
    }
}

impl App {
    /// What a claim without a seat of its own must be answered.
    pub(super) fn newcomer(
        &self,
        claim: &Claim,
        key: Option<&SeatKey>,
        now: Moment,
        patience: usize,
    ) -> Expected {
        if self.removed {
            return Expected::Refused("unknown-app");
        }
        if let Some(code) = self.means_nothing(claim) {
            return Expected::Refused(code);
        }
        let warm_only = claim.kind == ClaimKind::WarmOnly;
        if let Some(at) = key.and_then(|key| self.line.iter().position(|place| place.seat == key.seat)) {
            return if warm_only {
                Expected::Refused("app-cold")
            } else if self.line[at].tickets.len() >= patience {
                Expected::Refused("line-full")
            } else {
                Expected::Wait(at)
            };
        }
        let who = who(claim);
        let ahead = |place: &&Place| !self.spec.per_user || same(&place.who, &who);
        if self.line.iter().find(ahead).is_none() {
            let remembered = key.and_then(|key| key.instance.as_ref()).and_then(|id| self.find(id));
            let best = self.best(&who);
            match remembered {
                Some(i)
                    if i.phase == Phase::Ready && i.admits(&who) && self.taken(&i.id) < self.spec.seats =>
                {
                    return Expected::OneOf(vec![i.id.clone()]);
                }
                _ if !best.is_empty() => return Expected::OneOf(best),
                _ => {}
            }
        }
        if warm_only {
            Expected::Refused("app-cold")
        } else if now < self.until && !self.hope(&who) {
            Expected::Refused(if self.last_was_timeout { "start-timeout" } else { "start-failed" })
        } else if self.has_enough(&who, &self.line) {
            Expected::Refused("too-many-of-one")
        } else if self.choice_for(claim).is_none() {
            Expected::Refused("choice-needed")
        } else if self.line.len() >= self.spec.max_waiting.max(1) as usize {
            Expected::Refused("line-full")
        } else {
            Expected::Wait(self.line.len())
        }
    }

    fn means_nothing(&self, claim: &Claim) -> Option<&'static str> {
        if !self.spec.per_user {
            return None;
        }
        if claim.name.is_some() && claim.principal == Principal::Anonymous {
            return Some("no-identity");
        }
        let chosen = claim.chosen.as_ref()?;
        let theirs = self.choices(&who(claim));
        (!theirs.is_empty() && !theirs.contains(&chosen)).then_some("choice-differs")
    }

    /// What everything of this person and name is started with.
    fn choices(&self, who: &Who) -> Vec<&Choice> {
        let alive = self.instances.iter().filter(|i| i.is_fresh() && i.is_theirs(who));
        let alive = alive.filter_map(|i| i.owner.as_ref()).map(|owner| &owner.2);
        let waiting = self.line.iter().filter(|place| same(&place.who, who)).map(|place| &place.who.2);
        alive.chain(waiting).collect()
    }

    /// What an instance for a newcomer is started with; `None`: it has to be chosen first.
    pub(super) fn choice_for(&self, claim: &Claim) -> Option<Choice> {
        if self.spec.parameters.is_empty() {
            return Some(Choice::new());
        }
        let theirs = self.choices(&who(claim));
        match &claim.chosen {
            None => theirs.first().copied().cloned(),
            Some(chosen) => {
                let offered = self.spec.parameters.check(&claim.principal, chosen).is_ok();
                (offered || theirs.contains(&chosen)).then(|| chosen.clone())
            }
        }
    }

    /// Places beyond what their people may have.
    fn refuse_excess(&mut self, due: &mut super::model::Due) {
        let mut at = 0;
        while at < self.line.len() {
            if self.has_enough(&self.line[at].who, &self.line[..at]) {
                let tickets = self.line.remove(at).tickets;
                due.refusals.extend(tickets.iter().map(|(ticket, _)| (*ticket, "too-many-of-one")));
            } else {
                at += 1;
            }
        }
    }

    /// What a claim that joins somebody else's instance must be answered, and the seat it gives up on the way.
    pub(super) fn guest(&self, claim: &Claim, id: &InstanceId) -> (Expected, Option<SeatId>) {
        let Some(instance) = self.find(id) else { return (Expected::Refused("share-ended"), None) };
        let page = matches!(claim.kind, ClaimKind::Page | ClaimKind::HeldPage);
        let own =
            |seat: &&Seat| seat.instance == *id && claim.key.as_ref().is_some_and(|key| key.seat == seat.id);
        let wedged = matches!(instance.phase, Phase::Draining { why: Why::Wedged, .. });
        match (self.seats.iter().find(own), wedged && page) {
            (Some(seat), false) => return (Expected::Same(seat.grant), None),
            // It goes with its last visitor.
            (Some(seat), true) if self.taken(id) == 1 => {
                return (Expected::Refused("share-ended"), Some(seat.id));
            }
            (Some(seat), true) => return (Expected::Refused("not-up"), Some(seat.id)),
            (None, _) => {}
        }
        let expected = match instance.phase {
            Phase::Starting { .. } => Expected::Refused("not-up"),
            Phase::Draining { .. } if wedged => Expected::Refused("not-up"),
            Phase::Draining { .. } | Phase::Stopping => Expected::Refused("share-ended"),
            Phase::Ready => {
                let here = |seat: &&Seat| seat.instance == *id && matches!(seat.sitter, Sitter::Known(_));
                let kept = instance.owner.is_some() && self.seats.iter().find(here).is_none();
                let room = self.taken(id) + u32::from(kept) < self.spec.seats;
                if room { Expected::OneOf(vec![id.clone()]) } else { Expected::Refused("no-room") }
            }
        };
        (expected, None)
    }
}

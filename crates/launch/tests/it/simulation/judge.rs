//! Holds every action of the pool against the model, and looks for what was left undone.

use skep_launch::pool::{Action, Answer, GrantId, Granted, Pool, StopReason, Ticket};
use skep_launch::{Claim, ClaimKind, LaunchOrder, Refusal};
use skep_model::{AppId, InstanceId, SeatId};

use super::model::{App, Expected, Instance, Mode, Model, Phase, Place, Seat, Sitter, Who, who};

pub(super) type Verdict = Result<(), String>;

pub(super) fn ensure(holds: bool, violation: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(violation()) }
}

/// One step of the pool, being judged.
pub(super) struct Judge<'a> {
    model: &'a mut Model,
    pool: &'a Pool,
    /// Whether the step was a tick: some things happen only then.
    tick: bool,
    /// Instances that were ready when the step began.
    ready_before: Vec<InstanceId>,
    revoked: Vec<GrantId>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        model: &'a mut Model,
        pool: &'a Pool,
        tick: bool,
        ready_before: Vec<InstanceId>,
    ) -> Self {
        Self { model, pool, tick, ready_before, revoked: Vec::new() }
    }

    /// A step that was no claim.
    pub(super) fn step(mut self, actions: &[Action]) -> Verdict {
        self.learn_grants();
        for action in actions {
            self.action(action)?;
        }
        self.finish()
    }

    /// A claim, its answer and what came with it.
    pub(super) fn claim(
        mut self,
        claim: &Claim,
        expected: Expected,
        answer: &Answer,
        actions: &[Action],
    ) -> Verdict {
        // A seat on a wedged instance is given up before its visitor gets another one.
        let moved = self.model.due.moved.and_then(|seat| {
            let app = self.model.app(&claim.app)?;
            app.seats.iter().find(|own| own.id == seat).map(|own| own.grant)
        });
        let freed = |action: &Action| matches!(action, Action::Free { grant, .. } if Some(*grant) == moved);
        let before = actions.iter().position(freed).map_or(0, |at| at + 1);
        for action in &actions[..before] {
            self.action(action)?;
        }
        self.answer(claim, expected, answer)?;
        for action in &actions[before..] {
            self.action(action)?;
        }
        self.finish()
    }

    /// A seat that is taken whether or not there is room.
    pub(super) fn foreign(
        mut self,
        app: &AppId,
        seat: SeatId,
        instance: &InstanceId,
        granted: Option<&Granted>,
        actions: &[Action],
    ) -> Verdict {
        let now = self.model.now;
        let reserved_until = now.after(self.model.config.reservation);
        let seated = self.model.app_mut(app).and_then(|app| {
            let alive = matches!(app.find(instance)?.phase, Phase::Ready | Phase::Draining { .. });
            match app.seats.iter_mut().find(|own| own.id == seat) {
                Some(own) if own.instance == *instance => {
                    own.open += 1;
                    own.foreign += 1;
                    own.last = now;
                    Some(own.grant)
                }
                Some(_) => None,
                None if alive => {
                    app.seats.push(Seat {
                        id: seat,
                        instance: instance.clone(),
                        sitter: Sitter::Unknown,
                        grant: granted?.grant,
                        open: 1,
                        foreign: 1,
                        lasting: true,
                        reserved_until,
                        last: now,
                    });
                    Some(granted?.grant)
                }
                None => None,
            }
        });
        ensure(seated == granted.map(|g| g.grant), || format!("foreign seat: {granted:?}, not {seated:?}"))?;
        for action in actions {
            self.action(action)?;
        }
        self.finish()
    }

    /// Grants the pool gave without saying so: seats found at adoption.
    fn learn_grants(&mut self) {
        for app in &mut self.model.apps {
            let id = app.spec.id.clone();
            for seat in app.seats.iter_mut().filter(|seat| seat.grant == GrantId(0)) {
                if let Some(granted) = self.pool.seat_of(&id, seat.id) {
                    seat.grant = granted.grant;
                }
            }
        }
    }

    fn answer(&mut self, claim: &Claim, expected: Expected, answer: &Answer) -> Verdict {
        let now = self.model.now;
        let reserved_until = now.after(self.model.config.reservation);
        let deadline = |app: &App| now.after(app.spec.start_timeout * 2);
        let page = matches!(claim.kind, ClaimKind::Page | ClaimKind::HeldPage);
        let wrong = || format!("{claim:?} was answered {answer:?}, not {expected:?}");
        let Some(app) = self.model.app_mut(&claim.app) else {
            return ensure(
                matches!(answer, Answer::Refused(refusal) if matches!(&expected, Expected::Refused(code) if *code == refusal.code())),
                wrong,
            );
        };
        let lasting = app.lasting(claim);
        let wanted = app.usable(claim).and_then(|key| key.instance.clone());
        let sitter = if claim.joins.is_some() { Sitter::Guest } else { Sitter::Known(who(claim)) };
        let choice = app.choice_for(claim).unwrap_or_default();
        let place_of: Who = (claim.principal.clone(), claim.name.clone(), choice);
        match (answer, &expected) {
            (Answer::Refused(refusal), Expected::Refused(code)) => ensure(refusal.code() == *code, wrong),
            (Answer::Granted(granted), Expected::Same(grant)) => {
                ensure(granted.grant == *grant, wrong)?;
                let seat = app.seats.iter_mut().find(|seat| seat.grant == *grant).unwrap();
                seat.open += 1;
                seat.lasting |= page;
                seat.last = now;
                if claim.joins.is_none() {
                    seat.sitter = sitter;
                }
                Ok(())
            }
            (Answer::Granted(granted), Expected::OneOf(fitting)) => {
                ensure(fitting.contains(&granted.instance), wrong)?;
                ensure(!app.seats.iter().any(|seat| seat.id == granted.seat), wrong)?;
                app.seats.push(Seat {
                    id: granted.seat,
                    instance: granted.instance.clone(),
                    sitter,
                    grant: granted.grant,
                    open: 1,
                    foreign: 0,
                    lasting,
                    reserved_until,
                    last: now,
                });
                Ok(())
            }
            (Answer::Waiting { ticket, seat }, Expected::Wait(at)) => {
                if *at == app.line.len() {
                    ensure(!app.line.iter().any(|place| place.seat == *seat), wrong)?;
                    app.line.push(Place {
                        seat: *seat,
                        who: place_of,
                        tickets: Vec::new(),
                        page_seen: None,
                        lasting,
                        wanted,
                    });
                }
                let deadline = deadline(app);
                let place = &mut app.line[*at];
                ensure(place.seat == *seat, wrong)?;
                place.tickets.push((*ticket, deadline));
                place.lasting |= lasting;
                if claim.kind == ClaimKind::Page {
                    place.page_seen = Some(now);
                }
                Ok(())
            }
            _ => Err(wrong()),
        }
    }

    fn action(&mut self, action: &Action) -> Verdict {
        match action {
            Action::Launch(order) => self.launch(order),
            Action::AwaitReady { id } => {
                let starting = self.instance(id).is_some_and(|i| matches!(i.phase, Phase::Starting { .. }));
                ensure(starting, || format!("{id} is awaited although it does not start"))
            }
            Action::Stop { id, reason, .. } => self.stop(id, *reason),
            Action::Forget { id } => {
                ensure(self.instance(id).is_none(), || format!("{id} is forgotten while it is there"))
            }
            Action::Probe { id } => {
                let fits = |i: &mut Instance| {
                    let fits = matches!(i.phase, Phase::Ready | Phase::Draining { .. }) && !i.probing;
                    i.probing = true;
                    fits
                };
                let fits = self.app(id.app())?.find_mut(id).is_some_and(fits);
                // A suspicion may add a probe the model does not know of.
                ensure(fits, || format!("{id} is probed out of turn"))
            }
            Action::NoteSeats { id, seats } => self.note(id, seats),
            Action::Grant { ticket, granted } => self.grant(*ticket, granted),
            Action::Refuse { ticket, refusal } => self.refuse(*ticket, refusal),
            Action::Revoke { grant } => self.revoke(*grant),
            Action::Free { grant, app, .. } => self.free(*grant, app),
            Action::AskActivity { app, seat, .. } => {
                let open = self.app(app)?.seats.iter().any(|own| own.id == *seat && own.open > 0);
                ensure(open, || format!("asked for the activity of {seat:?}, which nobody uses"))
            }
            Action::Changed { .. } | Action::Journal(_) | Action::Figure { .. } => Ok(()),
        }
    }

    fn app(&mut self, id: &AppId) -> Result<&mut App, String> {
        self.model.app_mut(id).ok_or_else(|| format!("something happens to {id}, which is not published"))
    }

    fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        self.model.app(id.app())?.find(id)
    }

    fn launch(&mut self, order: &LaunchOrder) -> Verdict {
        let model = &*self.model;
        let (now, config) = (model.now, &model.config);
        let id = &order.id;
        ensure(model.mode == Mode::Running || model.mode == Mode::Quiet, || {
            format!("{id} started at the end")
        })?;
        ensure(model.adopted, || format!("{id} started before it was known what is alive"))?;
        ensure(self.instance(id).is_none(), || format!("{id} started twice"))?;
        let app = model.app(id.app()).ok_or_else(|| format!("{id} of no app"))?;
        ensure(order.spec == app.spec.of_variant(&order.variant), || format!("{id} of an old spec"))?;
        ensure(now >= app.until, || format!("{id} started before the back-off is over"))?;
        ensure(app.may_have_one_more(), || format!("{id} is beyond max_instances"))?;
        let starting = |i: &&Instance| matches!(i.phase, Phase::Starting { environment: false, .. });
        let all = model.instances().filter(starting).count();
        ensure(model.instances().count() < config.max_instances as usize, || {
            format!("{id} is beyond the cap of all")
        })?;
        ensure(all < config.max_starts as usize, || format!("{id}: too many starts at a time"))?;
        ensure(app.starting() < config.max_starts_per_app as usize, || {
            format!("{id}: too many starts of the app at a time")
        })?;
        let warm = match app.demand() {
            Some(owner) => {
                let variant = order.variant.clone();
                let whose = order.owner.clone().map(|owner| (owner, variant.name, variant.chosen));
                ensure(owner == whose, || format!("{id} started for {whose:?}, not {owner:?}"))?;
                false
            }
            None => {
                ensure(app.wants_warmth(), || format!("{id} started for nobody"))?;
                let warm = model.instances().filter(starting).filter(|i| i.warm).count();
                let spaced = model.last_warm_start.is_none_or(|last| now.since(last) >= config.warm_spacing);
                ensure(
                    model.mode == Mode::Running && spaced && warm < config.max_warm_starts as usize,
                    || format!("{id}: warm starts stampede"),
                )?;
                true
            }
        };
        if warm {
            self.model.last_warm_start = Some(now);
        }
        let app = self.app(id.app())?;
        app.replace = false;
        app.instances.push(Instance {
            id: id.clone(),
            revision: order.spec.revision,
            owner: order
                .owner
                .clone()
                .map(|owner| (owner, order.variant.name.clone(), order.variant.chosen.clone())),
            phase: Phase::Starting { clock: now, environment: false },
            started: now,
            ready_at: None,
            idle_since: now,
            misses: 0,
            probing: false,
            warm,
            noted_at: None,
        });
        Ok(())
    }

    fn stop(&mut self, id: &InstanceId, reason: StopReason) -> Verdict {
        let ordered = self.model.due.stops.iter().position(|stop| stop == id);
        if let Some(at) = ordered {
            self.model.due.stops.remove(at);
        }
        let Some(instance) = self.instance(id).cloned() else {
            return ensure(ordered.is_some(), || format!("{id} is stopped, which is not there"));
        };
        let app = self.model.app(id.app()).unwrap();
        let now = self.model.now;
        ensure(app.taken(id) == 0, || format!("{id} is stopped under {} seats", app.taken(id)))?;
        match instance.phase {
            Phase::Stopping => return Err(format!("{id} is stopped twice")),
            Phase::Starting { .. } => return Err(format!("{id} is stopped while it starts, for nothing")),
            Phase::Draining { .. } => {}
            Phase::Ready if reason == StopReason::Idle => {
                let idle = now.since(instance.idle_since) >= app.spec.idle_timeout;
                ensure(idle && self.tick && self.model.mode == Mode::Running, || {
                    format!("{id} is stopped as idle too early")
                })?;
                let others = app.instances.iter().filter(|i| {
                    i.id != *id && (i.phase == Phase::Ready || self.ready_before.contains(&i.id))
                });
                let free: u32 = others.map(|i| app.spec.seats.saturating_sub(app.taken(&i.id))).sum();
                ensure(app.spec.per_user || free >= app.spec.min_seats, || {
                    format!("{id} is stopped as idle although its seats are to be kept warm")
                })?;
            }
            Phase::Ready if reason == StopReason::Evicted => {
                let full = self.model.instances().count() >= self.model.config.max_instances as usize;
                let wanted = self.model.apps.iter().any(|app| app.demand().is_some());
                ensure(full && wanted && app.can_spare(id), || format!("{id} is evicted for nobody"))?;
            }
            Phase::Ready => return Err(format!("{id} is stopped ({reason:?}) without being drained")),
        }
        self.app(id.app())?.find_mut(id).unwrap().phase = Phase::Stopping;
        Ok(())
    }

    fn note(&mut self, id: &InstanceId, seats: &[SeatId]) -> Verdict {
        let (now, every) = (self.model.now, self.model.config.note_every);
        let last_word = self.model.mode == Mode::Frozen;
        let app = self.app(id.app())?;
        let lasting = app.seats.iter().filter(|seat| seat.lasting && seat.instance == *id);
        let mut lasting: Vec<SeatId> = lasting.map(|seat| seat.id).collect();
        lasting.sort_unstable();
        ensure(lasting == seats, || format!("{id}: {seats:?} were noted, not {lasting:?}"))?;
        let instance = app.find_mut(id).ok_or_else(|| format!("{id} noted, which is not there"))?;
        let rare = instance.noted_at.is_none_or(|at| now.since(at) >= every);
        instance.noted_at = Some(now);
        ensure(rare || last_word, || format!("{id} is noted too often"))
    }

    /// Pages that wait without an open request are granted their seats silently.
    fn silent_grants(&mut self, id: &AppId, until: Option<Ticket>) -> Verdict {
        let now = self.model.now;
        let reserved_until = now.after(self.model.config.reservation);
        let pool = self.pool;
        let app = self.app(id)?;
        let mut at = 0;
        while at < app.line.len() {
            let place = &app.line[at];
            if until.is_some_and(|until| place.tickets.iter().any(|(ticket, _)| *ticket == until)) {
                break;
            }
            let granted = pool.seat_of(id, place.seat).filter(|_| place.tickets.is_empty());
            let Some(granted) = granted else {
                at += 1;
                continue;
            };
            ensure(app.spec.per_user || at == 0, || format!("{:?} was served out of turn", place.seat))?;
            let place = app.line.remove(at);
            ensure(app.best_for(&place).contains(&granted.instance), || {
                format!(
                    "the page of {:?} got a seat on {}, which is not the best",
                    place.seat, granted.instance
                )
            })?;
            app.seats.push(Seat {
                id: place.seat,
                instance: granted.instance,
                sitter: Sitter::Known(place.who),
                grant: granted.grant,
                open: 0,
                foreign: 0,
                lasting: place.lasting,
                reserved_until,
                last: now,
            });
        }
        Ok(())
    }

    fn grant(&mut self, ticket: Ticket, granted: &Granted) -> Verdict {
        let id = granted.instance.app().clone();
        self.silent_grants(&id, Some(ticket))?;
        let now = self.model.now;
        let reserved_until = now.after(self.model.config.reservation);
        let app = self.app(&id)?;
        let waits = |place: &Place| place.tickets.iter().any(|(own, _)| *own == ticket);
        let at = app.line.iter().position(waits);
        let at = at.ok_or_else(|| format!("{ticket:?} is granted, which does not wait"))?;
        let place = &app.line[at];
        ensure(place.seat == granted.seat, || format!("{ticket:?} got the seat of another"))?;
        if app.seats.iter().any(|seat| seat.id == granted.seat) {
            let lasting = place.lasting;
            let same = app.seats.iter_mut().find(|seat| seat.grant == granted.grant);
            let same = same.ok_or_else(|| format!("{ticket:?} got another grant of its seat"))?;
            same.open += 1;
            same.lasting |= lasting;
            same.last = now;
        } else {
            let there = app.find(&granted.instance).unwrap();
            let ahead = |other: &Place| !app.spec.per_user || there.admits(&other.who);
            ensure(!app.line[..at].iter().any(ahead), || format!("{ticket:?} was served out of turn"))?;
            ensure(app.best_for(place).contains(&granted.instance), || {
                format!("{ticket:?} got a seat on {}, which is not the best", granted.instance)
            })?;
            let (lasting, sitter) = (place.lasting, Sitter::Known(place.who.clone()));
            app.seats.push(Seat {
                id: granted.seat,
                instance: granted.instance.clone(),
                sitter,
                grant: granted.grant,
                open: 1,
                foreign: 0,
                lasting,
                reserved_until,
                last: now,
            });
        }
        app.line[at].tickets.retain(|(own, _)| *own != ticket);
        if app.line[at].tickets.is_empty() {
            app.line.remove(at);
        }
        Ok(())
    }

    fn refuse(&mut self, ticket: Ticket, refusal: &Refusal) -> Verdict {
        let refusals = &mut self.model.due.refusals;
        let at = refusals.iter().position(|(due, code)| *due == ticket && *code == refusal.code());
        let at = at.ok_or_else(|| format!("{ticket:?} is refused ({}) for nothing", refusal.code()))?;
        refusals.remove(at);
        Ok(())
    }

    fn revoke(&mut self, grant: GrantId) -> Verdict {
        let model = &*self.model;
        let found = model.apps.iter().find_map(|app| {
            let seat = app.seats.iter().find(|seat| seat.grant == grant)?;
            Some((app, seat))
        });
        let (app, seat) = found.ok_or_else(|| format!("{grant:?} is revoked, which nobody holds"))?;
        let overdue = app
            .find(&seat.instance)
            .is_some_and(|i| matches!(i.phase, Phase::Draining { deadline, .. } if deadline <= model.now));
        let due = &model.due;
        let fair = overdue
            || due.crashed.contains(&seat.instance)
            || due.moved == Some(seat.id)
            || due.silent == Some(seat.id);
        ensure(seat.open > 0, || format!("{grant:?} is revoked although nobody uses it"))?;
        ensure(fair, || format!("{:?} is revoked before its time", seat.id))?;
        self.revoked.push(grant);
        Ok(())
    }

    fn free(&mut self, grant: GrantId, app: &AppId) -> Verdict {
        let now = self.model.now;
        let revoked = self.revoked.contains(&grant);
        let tick = self.tick;
        let due = std::mem::take(&mut self.model.due);
        let app = self.app(app)?;
        let at = app.seats.iter().position(|seat| seat.grant == grant);
        let at = at.ok_or_else(|| format!("{grant:?} is freed, which nobody holds"))?;
        let seat = app.seats.remove(at);
        let instance = app.find(&seat.instance);
        let overdue =
            instance.is_some_and(|i| matches!(i.phase, Phase::Draining { deadline, .. } if deadline <= now));
        let fair = if seat.open > 0 {
            revoked
        } else {
            !seat.lasting
                || tick && seat.reserved_until <= now
                || overdue
                || due.crashed.contains(&seat.instance)
                || due.given_up.contains(&seat.id)
                || due.moved == Some(seat.id)
        };
        let empty = app.taken(&seat.instance) == 0;
        if let Some(instance) = app.find_mut(&seat.instance).filter(|_| empty) {
            instance.idle_since = now;
        }
        self.model.due = due;
        ensure(fair, || format!("{:?} is freed before its time ({} open)", seat.id, seat.open))
    }

    /// Nothing may be left undone.
    fn finish(mut self) -> Verdict {
        let ids: Vec<AppId> = self.model.apps.iter().map(|app| app.spec.id.clone()).collect();
        for id in &ids {
            self.silent_grants(id, None)?;
        }
        let model = &mut *self.model;
        model.apps.retain(|app| !app.removed || !app.instances.is_empty());
        let due = std::mem::take(&mut model.due);
        ensure(due.refusals.is_empty(), || format!("not refused: {:?}", due.refusals))?;
        ensure(due.stops.is_empty(), || format!("not stopped: {:?}", due.stops))?;
        let running = matches!(model.mode, Mode::Running | Mode::Quiet);
        for app in &model.apps {
            Self::finish_app(model, app, &due, self.tick)?;
            let mut heads = app.line.iter().take(if app.spec.per_user { usize::MAX } else { 1 });
            let stuck = heads.find(|place| running && !app.best_for(place).is_empty());
            ensure(stuck.is_none(), || format!("{}: a seat is free while somebody waits", app.spec.id))?;
        }
        if running && model.adopted { Self::starts(model) } else { Ok(()) }
    }

    fn finish_app(model: &Model, app: &App, due: &super::model::Due, tick: bool) -> Verdict {
        let now = model.now;
        for seat in &app.seats {
            let Some(instance) = app.find(&seat.instance) else {
                return Err(format!("{:?} is on nothing", seat.id));
            };
            if let Sitter::Known(who) = &seat.sitter {
                ensure(instance.admits(who), || format!("{who:?} sits on what is another's: {instance:?}"))?;
            }
            ensure(!due.given_up.contains(&seat.id), || format!("{:?} is not given up", seat.id))?;
            ensure(due.silent != Some(seat.id), || format!("the silent {:?} is not taken back", seat.id))?;
            ensure(!app.line.iter().any(|place| place.seat == seat.id), || {
                format!("{:?} sits and waits", seat.id)
            })?;
            let over = seat.open == 0 && (!seat.lasting || tick && seat.reserved_until <= now);
            ensure(!over || model.mode == Mode::Frozen, || format!("{:?} is kept for nobody", seat.id))?;
        }
        for instance in &app.instances {
            let Instance { id, phase, .. } = instance;
            let taken = app.taken(id);
            match phase {
                Phase::Draining { deadline, .. } if model.mode != Mode::Frozen => {
                    ensure(taken > 0, || format!("{id} is drained but not stopped"))?;
                    ensure(!tick || *deadline > now, || format!("{id} drains beyond its deadline"))?;
                }
                Phase::Ready if tick && model.mode == Mode::Running => {
                    let idle = taken == 0 && now.since(instance.idle_since) >= app.spec.idle_timeout;
                    ensure(!idle || !app.can_spare(id), || format!("{id} is idle but not stopped"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// If somebody waits for whom nothing is on its way, something must forbid the start.
    fn starts(model: &Model) -> Verdict {
        let config = &model.config;
        let startable = model.apps.iter().find(|app| {
            app.demand().is_some()
                && model.now >= app.until
                && app.may_have_one_more()
                && app.starting() < config.max_starts_per_app as usize
        });
        let Some(startable) = startable else { return Ok(()) };
        let booting = |i: &&Instance| matches!(i.phase, Phase::Starting { environment: false, .. });
        let full = model.instances().count() >= config.max_instances as usize;
        let busy = model.instances().filter(booting).count() >= config.max_starts as usize;
        ensure(full || busy, || format!("{}: somebody waits and nothing is started", startable.spec.id))?;
        let stopping = model.instances().any(|i| i.phase == Phase::Stopping);
        if busy || stopping || model.mode != Mode::Running {
            return Ok(());
        }
        let idle = model.apps.iter().find_map(|app| {
            let spare =
                |i: &&Instance| i.phase == Phase::Ready && app.taken(&i.id) == 0 && app.can_spare(&i.id);
            app.instances.iter().find(spare)
        });
        ensure(idle.is_none(), || format!("{} takes room others wait for", idle.unwrap().id))
    }
}

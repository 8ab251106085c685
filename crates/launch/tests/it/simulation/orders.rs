//! What orders from outside, and a claim of a newcomer, must bring about.

use std::sync::Arc;
use std::time::Duration;

use skep_launch::pool::{Found, GrantId, Moment};
use skep_launch::{Claim, ClaimKind, SeatKey, StopTarget};
use skep_model::{AppSpec, InstanceId};

use super::model::{App, Expected, Instance, Mode, Model, Phase, Place, Seat, same_person};

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
                        Self::drain(app, &id, now, config.drain_deadline, false, due);
                    }
                } else {
                    if app.find(&id).unwrap().phase != Phase::Stopping {
                        let away = app.seats.iter().filter(|seat| seat.instance == id && seat.open == 0);
                        due.given_up.extend(away.map(|seat| seat.id));
                    }
                    Self::drain(app, &id, now, config.command_deadline, false, due);
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
                    Self::drain(app, &id, *now, Duration::ZERO, false, due);
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
                        Self::drain(app, &id, now, config.drain_deadline, false, due);
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
                        Self::drain(app, &id, now, config.drain_deadline, false, due);
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

    pub(super) fn take_in(&mut self, found: Vec<Found>) {
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
                owner: found.owner,
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
                let other = app.line.iter().any(|p| p.seat == *seat && !own.admits(&p.principal));
                if !other && !app.seats.iter().any(|own| own.id == *seat) {
                    app.seats.push(Seat {
                        id: *seat,
                        instance: found.id.clone(),
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
                Self::drain(app, &found.id, now, config.drain_deadline, false, due);
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
        let ahead = |place: &&Place| !self.spec.per_user || same_person(&place.principal, &claim.principal);
        if self.line.iter().find(ahead).is_none() {
            let remembered = key.and_then(|key| key.instance.as_ref()).and_then(|id| self.find(id));
            let best = self.best(&claim.principal);
            match remembered {
                Some(i)
                    if i.phase == Phase::Ready
                        && i.admits(&claim.principal)
                        && self.taken(&i.id) < self.spec.seats =>
                {
                    return Expected::OneOf(vec![i.id.clone()]);
                }
                _ if !best.is_empty() => return Expected::OneOf(best),
                _ => {}
            }
        }
        if warm_only {
            Expected::Refused("app-cold")
        } else if now < self.until && !self.hope(&claim.principal) {
            Expected::Refused(if self.last_was_timeout { "start-timeout" } else { "start-failed" })
        } else if self.line.len() >= self.spec.max_waiting.max(1) as usize {
            Expected::Refused("line-full")
        } else {
            Expected::Wait(self.line.len())
        }
    }
}

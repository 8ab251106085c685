//! Orders from outside: what is published, what was found alive, stop, restart, hand over, shut down.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;

use skep_model::{AppId, AppSpec, EventKind, InstanceId};

use super::app::App;
use super::instance::{Instance, Phase, StopReason, Trouble};
use super::{Action, Found, Mode, Nonces, Pool, Turn};
use crate::backend::Stage;
use crate::handle::{Refusal, StopTarget};

impl Pool {
    pub(crate) fn set_apps(
        &mut self,
        specs: Vec<Arc<AppSpec>>,
        nonces: &mut dyn Nonces,
        out: &mut Vec<Action>,
    ) {
        let mut specs: BTreeMap<AppId, Arc<AppSpec>> =
            specs.into_iter().map(|spec| (spec.id.clone(), spec)).collect();
        let gone: Vec<AppId> = self.apps.keys().filter(|id| !specs.contains_key(*id)).cloned().collect();
        // Nothing is started before all of it is known: a start for the old spec would be wasted.
        for id in gone {
            self.with(&id, nonces, out, App::withdraw);
            self.enlist(&id);
        }
        while let Some((id, spec)) = specs.pop_first() {
            match self.apps.entry(id.clone()) {
                btree_map::Entry::Vacant(entry) => {
                    entry.insert(App::new(spec));
                }
                btree_map::Entry::Occupied(_) => {
                    self.with(&id, nonces, out, |app, turn| app.replace_spec(turn, spec));
                }
            }
            self.with(&id, nonces, out, |app, turn| app.serve_line(turn));
            self.enlist(&id);
        }
        self.configured = true;
        if self.adopted {
            let found = std::mem::take(&mut self.unclaimed);
            self.take_in(found, nonces, out);
        }
        self.start_wanting(nonces, out);
    }

    pub(crate) fn adopt(&mut self, found: Vec<Found>, nonces: &mut dyn Nonces, out: &mut Vec<Action>) {
        self.adopted = true;
        if self.configured {
            self.take_in(found, nonces, out);
            self.start_wanting(nonces, out);
        } else {
            self.unclaimed.extend(found);
        }
    }

    fn take_in(&mut self, found: Vec<Found>, nonces: &mut dyn Nonces, out: &mut Vec<Action>) {
        // Nobody in the line is served before all are known: their own seats may be on the last one.
        let mut touched = BTreeSet::new();
        for found in found {
            let id = found.id.clone();
            match self.apps.get(id.app()) {
                Some(app) if !app.removed => {
                    self.with(id.app(), nonces, out, |app, turn| app.take_in(turn, found));
                    touched.insert(id.app().clone());
                }
                // Its app is not published any more, and whoever used it has lost the way to it.
                _ => {
                    out.push(Action::Stop { id, grace: self.config.stop_grace, reason: StopReason::Removed })
                }
            }
        }
        for id in touched {
            self.with(&id, nonces, out, |app, turn| {
                app.refuse_excess(turn);
                app.serve_line(turn);
            });
            self.enlist(&id);
        }
    }

    pub(crate) fn command(
        &mut self,
        target: &StopTarget,
        nonces: &mut dyn Nonces,
        out: &mut Vec<Action>,
        order: fn(&mut App, &mut Turn<'_>, &InstanceId),
    ) {
        let targeted = self.targeted(target);
        for id in &targeted {
            self.with(id.app(), nonces, out, |app, turn| {
                order(app, turn, id);
                app.serve_line(turn);
            });
            self.enlist(id.app());
        }
        self.start_wanting(nonces, out);
    }

    /// The instances a target means, those already being stopped included.
    pub fn targeted(&self, target: &StopTarget) -> Vec<InstanceId> {
        let all = self.apps.values().flat_map(|app| &app.instances).map(|i| &i.id);
        let meant = |id: &&InstanceId| match target {
            StopTarget::App(app) => id.app() == app,
            StopTarget::Instance(instance) => *id == instance,
            StopTarget::All => true,
        };
        all.filter(meant).cloned().collect()
    }

    pub(crate) fn set_mode(&mut self, mode: Mode) {
        if self.mode == Mode::Running {
            self.mode = mode;
        }
    }

    /// Nothing is granted from now on. Whoever waits is told.
    pub(crate) fn close(&mut self, mode: Mode, nonces: &mut dyn Nonces, out: &mut Vec<Action>) {
        self.mode = mode;
        let apps: Vec<AppId> = self.apps.keys().cloned().collect();
        for id in apps {
            self.with(&id, nonces, out, |app, turn| {
                app.refuse_line(turn, &Refusal::ShuttingDown);
                if mode == Mode::Frozen {
                    app.note_all(turn);
                }
                if mode == Mode::ShuttingDown {
                    let all: Vec<InstanceId> = app.instances.iter().map(|i| i.id.clone()).collect();
                    for instance in all {
                        if let Some(index) = app.index(&instance) {
                            app.drain(turn, index, StopReason::Shutdown);
                        }
                    }
                }
            });
            self.enlist(&id);
        }
    }
}

impl App {
    /// The app is no longer published.
    fn withdraw(&mut self, turn: &mut Turn<'_>) {
        self.removed = true;
        self.refuse_line(turn, &Refusal::Removed);
        self.drain_all(turn, StopReason::Removed, |_| true);
    }

    fn replace_spec(&mut self, turn: &mut Turn<'_>, spec: Arc<AppSpec>) {
        if self.spec == spec && !self.removed {
            return;
        }
        let revised = spec.revision != self.spec.revision;
        let reshared = spec.per_user != self.spec.per_user;
        self.spec = spec;
        self.removed = false;
        let revision = self.spec.revision;
        if revised {
            self.trouble = Trouble::default();
        }
        if revised || reshared {
            let per_user = self.spec.per_user;
            self.drain_all(turn, StopReason::Revision, |i| {
                i.revision != revision || i.owner.is_some() != per_user
            });
        }
        let seats: Vec<_> = self.seats.keys().copied().collect();
        for seat in seats {
            self.queue_deadline(seat);
        }
        if self.spec.parameters.is_empty() {
            self.line.iter_mut().for_each(|place| place.chosen.clear());
        }
        self.refuse_excess(turn);
        self.refuse_withdrawn(turn);
        self.changed(turn);
    }

    fn drain_all(&mut self, turn: &mut Turn<'_>, reason: StopReason, which: impl Fn(&Instance) -> bool) {
        let fresh = self.instances.iter().filter(|i| i.is_fresh() && which(i));
        let ids: Vec<InstanceId> = fresh.map(|i| i.id.clone()).collect();
        for id in ids {
            if let Some(index) = self.index(&id) {
                self.drain(turn, index, reason);
            }
        }
    }

    fn refuse_line(&mut self, turn: &mut Turn<'_>, refusal: &Refusal) {
        for place in std::mem::take(&mut self.line) {
            self.send_away(turn, place, refusal);
        }
        self.changed(turn);
    }

    /// An instance that was alive before Skep was. Its seats stay reserved for a while.
    fn take_in(&mut self, turn: &mut Turn<'_>, found: Found) {
        if self.index(&found.id).is_some() {
            return;
        }
        let id = found.id.clone();
        let current = found.revision == self.spec.revision && found.owner.is_some() == self.spec.per_user;
        let mut instance = Instance::new(id.clone(), found.revision, found.owner, turn.now);
        instance.variant = found.variant;
        instance.started = found.started;
        instance.ready_ms = found.ready_ms;
        instance.stage = Stage::Boot;
        turn.counts.instances += 1;
        if found.was_ready {
            instance.phase = Phase::Ready;
            instance.ready_at = Some(found.started);
            instance.stage = Stage::Ready;
        } else {
            turn.counts.starting += 1;
        }
        self.instances.push(instance);
        self.instances.sort_by_key(|i| i.started);
        let detail = format!("found alive; {} seats are kept for who held them", found.seats.len());
        self.record(turn, EventKind::InstanceAdopted, &id, detail);
        let Some(index) = self.index(&id) else { return };
        if let Some(ms) = found.ready_ms {
            self.remember_start_time(ms);
        }
        if found.was_ready {
            for seat in found.seats {
                // Somebody else at the same browser has come meanwhile.
                let claimed = self.line.iter().find(|place| place.seat == seat);
                let claimed = claimed.is_some_and(|place| !self.instances[index].admits(place.seeker()));
                if !claimed && !self.seats.contains_key(&seat) {
                    self.sit(turn, index, seat, &skep_model::Principal::Anonymous, true, 0);
                }
            }
            self.seat_returning(turn);
        } else if current {
            turn.out.push(Action::AwaitReady { id: id.clone() });
        }
        if !current {
            self.drain(turn, index, StopReason::Revision);
        }
        self.changed(turn);
    }
}

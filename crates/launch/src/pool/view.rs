//! What the pool tells about itself.

use std::sync::Arc;

use skep_model::{AppId, AppSpec, InstanceId, InstanceName, Principal, Revision, SeatId, UserName, Variant};

use super::app::App;
use super::instance::Instance;
use super::time::Moment;
use super::{Granted, Nonces, Pool};
use crate::backend::Stage;
use crate::handle::InstancePhase;

/// How a start goes, without what only the driver knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusFacts {
    pub stage: Stage,
    pub detail: String,
    pub elapsed_ms: u64,
    pub usual_ms: Option<u64>,
    /// 1 = next.
    pub place: Option<u32>,
    pub waiting: u32,
    pub failure: Option<FailureFacts>,
    pub instance: Option<InstanceId>,
    /// Why the one before ended unasked.
    pub before: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureFacts {
    pub code: &'static str,
    pub summary: String,
    pub last_lines: Vec<String>,
    pub retry_after_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFacts {
    pub id: InstanceId,
    pub phase: InstancePhase,
    pub revision: Revision,
    pub seats: u32,
    pub taken: u32,
    pub open: u32,
    pub owner: Option<Principal>,
    pub variant: Variant,
    /// Since when nobody has held a seat; `None` while somebody does, and before it was ready.
    pub idle_since: Option<Moment>,
    pub started: Moment,
    pub ready_ms: Option<u64>,
}

/// Sizes, for gauges and checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    pub instances: u32,
    pub starting: u32,
    pub stopping: u32,
    pub waiting: u32,
    pub seats: u32,
}

impl Pool {
    pub fn specs(&self) -> impl Iterator<Item = &Arc<AppSpec>> {
        self.apps.values().filter(|app| !app.removed).map(|app| &app.spec)
    }

    pub fn published(&self, app: &AppId) -> Option<&Arc<AppSpec>> {
        self.apps.get(app).filter(|app| !app.removed).map(|app| &app.spec)
    }

    /// Also of an app that is no longer published, as long as an instance of it lives.
    pub fn spec(&self, app: &AppId) -> Option<&Arc<AppSpec>> {
        self.apps.get(app).map(|app| &app.spec)
    }

    /// What an instance is made from, its variant's address included, and its name.
    pub fn made_from(&self, id: &InstanceId) -> Option<(Arc<AppSpec>, Option<InstanceName>)> {
        let app = self.apps.get(id.app())?;
        let variant = app.index(id).map(|index| app.instances[index].variant.clone()).unwrap_or_default();
        Some((app.spec.of_variant(&variant), variant.name))
    }

    /// How a start goes. With a seat: as seen from its place, which thereby counts as seen.
    pub fn status(
        &mut self,
        now: Moment,
        id: &AppId,
        seat: Option<SeatId>,
        nonces: &mut dyn Nonces,
    ) -> Option<StatusFacts> {
        if let Some(seat) = seat {
            let mut out = Vec::new();
            self.now = self.now.max(now);
            // Being seen extends deadlines only; it never causes an action.
            self.with(id, nonces, &mut out, |app, turn| app.seen(turn, seat));
            debug_assert!(out.is_empty());
        }
        self.apps.get(id).map(|app| app.status(self.now, seat))
    }

    /// Every instance, oldest first.
    pub fn instances(&self) -> Vec<InstanceFacts> {
        let mut all: Vec<InstanceFacts> = self.apps.values().flat_map(App::facts).collect();
        all.sort_by_key(|facts| facts.started);
        all
    }

    pub fn knows_any(&self, ids: &[InstanceId]) -> bool {
        let found = |id: &InstanceId| self.unclaimed.iter().any(|found| found.id == *id);
        ids.iter().any(|id| found(id) || self.apps.get(id.app()).is_some_and(|app| app.index(id).is_some()))
    }

    /// Why an instance ended that nobody had asked to, until the next one is ready.
    pub fn why_ended(&self, id: &InstanceId) -> Option<&str> {
        let app = self.apps.get(id.app())?;
        app.ends.iter().find(|end| end.instance == *id).map(|end| end.reason.as_str())
    }

    pub fn app_instances(&self, id: &AppId) -> Vec<InstanceFacts> {
        self.apps.get(id).map(|app| app.facts().collect()).unwrap_or_default()
    }

    /// Every seat with open uses.
    pub fn open_seats(&self) -> Vec<(AppId, SeatId, InstanceId, u32)> {
        let of = |(id, app): (&AppId, &App)| {
            let open = app.seats.iter().filter(|(_, seat)| seat.open > 0);
            open.map(|(seat, facts)| (id.clone(), *seat, facts.instance.clone(), facts.open))
                .collect::<Vec<_>>()
        };
        self.apps.iter().flat_map(of).collect()
    }

    /// The instances a user sits on.
    pub fn sittings(&self, user: &UserName) -> Vec<InstanceId> {
        let own = |seat: &&super::instance::Seat| seat.lasting && seat.user.as_ref() == Some(user);
        let seats = self.apps.values().flat_map(|app| app.seats.values());
        seats.filter(own).map(|seat| seat.instance.clone()).collect()
    }

    /// Whether a hand-over would interrupt something: a stop under way, or a request that waits. Pages that wait come
    /// back to the successor by themselves.
    pub fn is_busy(&self) -> bool {
        let held = |app: &App| app.line.iter().any(|place| place.page_seen.is_none());
        self.counts.stopping > 0 || self.apps.values().any(held)
    }

    pub fn is_stopping(&self) -> bool {
        self.counts.stopping > 0
    }

    pub fn census(&self) -> Census {
        let sum = |f: &dyn Fn(&App) -> usize| {
            u32::try_from(self.apps.values().map(f).sum::<usize>()).unwrap_or(u32::MAX)
        };
        Census {
            instances: self.counts.instances,
            starting: self.counts.starting,
            stopping: self.counts.stopping,
            waiting: sum(&|app| app.line.len()),
            seats: sum(&|app| app.seats.len()),
        }
    }

    /// What a visitor holds now. For the simulation.
    pub fn seat_of(&self, app: &AppId, seat: SeatId) -> Option<Granted> {
        let held = self.apps.get(app)?.seats.get(&seat)?;
        Some(Granted { grant: held.grant, seat, instance: held.instance.clone() })
    }

    /// Compares what is counted along the way with what is there. For the simulation.
    ///
    /// # Errors
    /// Says which count is off.
    pub fn audit(&self) -> Result<(), String> {
        let all = || self.apps.values().flat_map(|app| app.instances.iter().map(move |i| (app, i)));
        let count = |f: &dyn Fn(&Instance) -> bool| all().filter(|(_, i)| f(i)).count();
        let expect = |what: &str, kept: u32, real: usize| {
            if kept as usize == real { Ok(()) } else { Err(format!("{what}: kept {kept}, real {real}")) }
        };
        expect("instances", self.counts.instances, count(&|_| true))?;
        let booting =
            |i: &Instance| matches!(i.phase, super::instance::Phase::Starting { environment: false, .. });
        expect("starting", self.counts.starting, count(&booting))?;
        expect("starting warm", self.counts.starting_warm, count(&|i| booting(i) && i.warm))?;
        let stopping = |i: &Instance| i.phase == super::instance::Phase::Stopping;
        expect("stopping", self.counts.stopping, count(&stopping))?;
        for (app, instance) in all() {
            let here = || app.seats.values().filter(|seat| seat.instance == instance.id);
            expect("taken", instance.taken, here().count())?;
            expect("open", instance.open, here().map(|seat| seat.open as usize).sum())?;
        }
        for (id, app) in &self.apps {
            if app.seats.values().any(|seat| app.index(&seat.instance).is_none()) {
                return Err(format!("{id}: a seat on an instance that is gone"));
            }
            if app.seats.iter().any(|(_, seat)| seat.open == 0 && seat.queued.is_none()) {
                return Err(format!("{id}: a reserved seat without a deadline"));
            }
            if app.is_active() != self.active.contains(id) {
                return Err(format!("{id}: the set of active apps is out of date"));
            }
            if app.need(true).is_some() != self.wanting.contains(id) {
                return Err(format!("{id}: the set of wanting apps is out of date"));
            }
        }
        Ok(())
    }
}

impl App {
    fn facts(&self) -> impl Iterator<Item = InstanceFacts> + '_ {
        self.instances.iter().map(|i| InstanceFacts {
            id: i.id.clone(),
            phase: i.public_phase(),
            revision: i.revision,
            seats: self.spec.seats,
            taken: i.taken,
            open: i.open,
            owner: i.owner.as_ref().map(|(_, principal)| principal.clone()),
            variant: i.variant.clone(),
            idle_since: (i.taken == 0 && i.ready_at.is_some()).then_some(i.idle_since),
            started: i.started,
            ready_ms: i.ready_ms,
        })
    }

    fn status(&self, now: Moment, seat: Option<SeatId>) -> StatusFacts {
        let at = seat.and_then(|seat| self.line.iter().position(|place| place.seat == seat));
        let seeker = at.map(|at| self.line[at].seeker());
        let seated = seat.and_then(|seat| self.seats.get(&seat));
        let fits = |i: &&Instance| seeker.is_none_or(|seeker| i.admits(seeker));
        // Of several starts, the one that is furthest along is the one being waited for.
        let starting = self.instances.iter().filter(|i| i.is_starting()).filter(fits).max_by_key(|i| i.stage);
        let ready = self.instances.iter().filter(|i| i.is_ready()).rfind(fits);
        let (stage, detail, instance) = match (seated, at, starting, ready) {
            (Some(seat), ..) => (Stage::Ready, String::new(), Some(seat.instance.clone())),
            (None, None, _, Some(ready)) => (Stage::Ready, String::new(), Some(ready.id.clone())),
            (None, _, Some(i), _) => (i.stage, i.detail.clone(), Some(i.id.clone())),
            (None, _, None, _) => (Stage::Queue, String::new(), None),
        };
        let since = at.map(|at| self.line[at].since).or(starting.map(|i| i.started));
        let failed =
            self.trouble.last.as_ref().filter(|_| {
                now < self.trouble.until && at.is_none() && seated.is_none() && starting.is_none()
            });
        let lost = self.ends.iter().filter(|end| end.is_news(now)).rfind(|end| end.concerns(seeker));
        let before = lost.filter(|_| stage != Stage::Ready).map(|end| end.reason.clone());
        StatusFacts {
            stage,
            detail,
            elapsed_ms: since.map_or(0, |since| super::time::millis(now.since(since))),
            usual_ms: self.usual_ms(),
            place: at.map(|at| u32::try_from(at + 1).unwrap_or(u32::MAX)),
            waiting: u32::try_from(self.line.len()).unwrap_or(u32::MAX),
            failure: failed.filter(|_| ready.is_none()).map(|last| FailureFacts {
                code: if last.timeout.is_some() { "start-timeout" } else { "start-failed" },
                summary: last.summary.clone(),
                last_lines: last.last_lines.clone(),
                retry_after_ms: super::time::millis(self.trouble.until.since(now)),
            }),
            instance,
            before,
        }
    }
}

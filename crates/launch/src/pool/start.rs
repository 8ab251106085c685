//! When an instance is started, and what a failed start means for who waits.

use skep_model::{AppId, EventKind, InstanceId, Principal, Variant};
use std::time::Duration;

use super::app::App;
use super::fault::Fault;
use super::instance::{Instance, LastFailure, Phase, Place, StopReason};
use super::time::{Moment, millis};
use super::{Action, Failure, Figure, Mode, Nonces, Pool, Turn};
use crate::backend::{LaunchOrder, Stage};
use crate::handle::Refusal;

/// Why an app needs one more instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// Somebody waits; where instances are not shared, this principal, for this variant.
    Demand(Option<(Principal, Variant)>),
    /// Seats are to be kept warm, or a restart is to be replaced.
    Warm,
}

impl App {
    /// Whether demand exceeds the seats that are free or on their way. `starting_counts` is `false` only as a planted
    /// fault.
    pub(crate) fn need(&self, starting_counts: bool) -> Option<Need> {
        if self.removed {
            return None;
        }
        if self.spec.per_user {
            // What may not be started any more waits for its refusal.
            let startable = |place: &&Place| !self.has_hope(place.seeker()) && self.is_offered(place);
            let place = self.line.iter().find(startable)?;
            let variant = Variant { name: place.name.clone(), chosen: place.chosen.clone() };
            return Some(Need::Demand(Some((place.principal.clone(), variant))));
        }
        let fresh = self.instances.iter().any(Instance::is_fresh);
        let supply = self.supply(starting_counts);
        if self.line.len() > supply {
            return Some(Need::Demand(None));
        }
        let warm = self.line.len() + self.spec.min_seats as usize > supply;
        (warm || self.replace && !fresh).then_some(Need::Warm)
    }

    /// Seats that are free, or on their way.
    fn supply(&self, starting_counts: bool) -> usize {
        let counts = self.instances.iter().filter(|i| i.is_fresh() && (i.is_ready() || starting_counts));
        counts.map(|instance| self.spec.seats.saturating_sub(instance.taken) as usize).sum()
    }

    /// `max_instances`, with one more where all there are are on their way out.
    fn has_instance_to_spare(&self) -> bool {
        let cap = self.spec.max_instances.max(1) as usize;
        let all = self.instances.len();
        all < cap || all == cap && !self.instances.iter().any(Instance::is_fresh)
    }

    fn starting(&self) -> usize {
        self.instances.iter().filter(|i| i.is_starting()).count()
    }

    fn may_start(&self, now: Moment, max_starts: u32, ignore_cap: bool) -> bool {
        now >= self.trouble.until
            && (self.has_instance_to_spare() || ignore_cap)
            && self.starting() < max_starts as usize
    }

    fn start(&mut self, turn: &mut Turn<'_>, need: Need) {
        let id = InstanceId::new(self.spec.id.clone(), turn.nonces.next());
        let (whose, warm, detail) = match need {
            Need::Demand(whose) => (whose, false, format!("for {} waiting", self.line.len())),
            Need::Warm => (None, true, "to keep seats warm".to_owned()),
        };
        let (owner, variant) =
            whose.map_or((None, Variant::default()), |(owner, variant)| (Some(owner), variant));
        let mut instance = Instance::new(id.clone(), self.spec.revision, owner.clone(), turn.now);
        instance.variant = variant.clone();
        instance.warm = warm;
        // Who waits for this very one: for the others there are instances on their way.
        let place = match &owner {
            _ if warm => None,
            Some(owner) => {
                self.line.iter().find(|place| *owner == place.principal && variant.name == place.name)
            }
            None => self.line.get(self.supply(true)).or_else(|| self.line.front()),
        };
        let queued = place.map(|place| turn.now.since(place.since));
        instance.stages.extend(queued.map(|queued| (Stage::Queue, millis(queued))));
        self.instances.push(instance);
        self.replace = false;
        turn.counts.instances += 1;
        turn.counts.starting += 1;
        turn.counts.starting_warm += u32::from(warm);
        if let Some(queued) = queued {
            self.figure(turn, Figure::StageTook(Stage::Queue, queued));
        }
        self.record(turn, EventKind::InstanceStart, &id, detail);
        let spec = self.spec.of_variant(&variant);
        turn.out.push(Action::Launch(LaunchOrder { id, spec, owner, variant }));
        self.changed(turn);
    }

    pub(crate) fn progress(&mut self, turn: &mut Turn<'_>, id: &InstanceId, stage: Stage, detail: String) {
        let Some(index) = self.index(id) else { return };
        let instance = &mut self.instances[index];
        let Phase::Starting { environment, .. } = instance.phase else { return };
        if instance.stage != stage {
            let builds = stage == Stage::Environment;
            if builds != environment {
                // Building does not count among the starts, and `start_timeout` begins after it.
                instance.phase = Phase::Starting { clock: turn.now, environment: builds };
                let warm = u32::from(instance.warm);
                if builds {
                    turn.counts.starting -= 1;
                    turn.counts.starting_warm -= warm;
                } else {
                    turn.counts.starting += 1;
                    turn.counts.starting_warm += warm;
                }
            }
            let took = turn.now.since(instance.stage_since);
            let ended = std::mem::replace(&mut instance.stage, stage);
            instance.stage_since = turn.now;
            // A backend that goes back and forth does not fill the memory.
            match instance.stages.iter_mut().find(|(stage, _)| *stage == ended) {
                Some((_, sum)) => *sum += millis(took),
                None => instance.stages.push((ended, millis(took))),
            }
            self.figure(turn, Figure::StageTook(ended, took));
        }
        self.instances[index].detail = detail;
        self.changed(turn);
    }

    /// The instance no longer counts among the starts.
    pub(crate) fn leave_starting(turn: &mut Turn<'_>, instance: &Instance) {
        if let Phase::Starting { environment: false, .. } = instance.phase {
            turn.counts.starting -= 1;
            turn.counts.starting_warm -= u32::from(instance.warm);
        }
    }

    pub(crate) fn ready(&mut self, turn: &mut Turn<'_>, id: &InstanceId) {
        let Some(index) = self.index(id) else { return };
        if !self.instances[index].is_starting() {
            return;
        }
        Self::leave_starting(turn, &self.instances[index]);
        let instance = &mut self.instances[index];
        let took = turn.now.since(instance.started);
        let ms = millis(took);
        let stage = std::mem::replace(&mut instance.stage, Stage::Ready);
        let stage_took = turn.now.since(instance.stage_since);
        let mut stages = std::mem::take(&mut instance.stages);
        stages.push((stage, millis(stage_took)));
        instance.phase = Phase::Ready;
        instance.ready_at = Some(turn.now);
        instance.ready_ms = Some(ms);
        instance.idle_since = turn.now;
        instance.probe_due = turn.now.after(turn.config.probe_every);
        instance.detail.clear();
        let whose = instance.whose();
        self.ends.retain(|end| end.whose != whose);
        self.remember_start_time(ms);
        self.trouble.last = None;
        self.figure(turn, Figure::StageTook(stage, stage_took));
        self.figure(turn, Figure::StartReady);
        let stages: Vec<String> =
            stages.iter().map(|(stage, ms)| format!("{} {ms} ms", stage.name())).collect();
        let detail = format!("answered after {ms} ms ({})", stages.join(", "));
        self.record(turn, EventKind::InstanceReady, id, detail);
        self.changed(turn);
    }

    pub(crate) fn start_failed(&mut self, turn: &mut Turn<'_>, id: &InstanceId, failure: Failure) {
        self.fail_start(turn, id, failure, None);
    }

    /// A start that did not succeed: what is left of it is cleared away, and who has nothing else to hope for is told.
    pub(crate) fn fail_start(
        &mut self,
        turn: &mut Turn<'_>,
        id: &InstanceId,
        failure: Failure,
        timeout: Option<Duration>,
    ) {
        let Some(index) = self.index(id) else { return };
        if !self.instances[index].is_starting() {
            return;
        }
        let figure = if timeout.is_some() { Figure::StartTimeout } else { Figure::StartFailed };
        self.figure(turn, figure);
        self.record(turn, EventKind::InstanceFailed, id, failure.summary.clone());
        self.stop(turn, index, StopReason::StartFailed);
        self.note_failure(turn, id, failure, timeout);
    }

    pub(crate) fn note_failure(
        &mut self,
        turn: &mut Turn<'_>,
        id: &InstanceId,
        failure: Failure,
        timeout: Option<Duration>,
    ) {
        self.trouble.failures += 1;
        if !turn.planted(Fault::NoBackoff) {
            self.trouble.until = turn.now.after(turn.config.backoff(self.trouble.failures));
        }
        self.trouble.last = Some(LastFailure {
            instance: id.clone(),
            summary: failure.summary,
            last_lines: failure.last_lines,
            timeout,
        });
        self.refuse_hopeless(turn);
        self.changed(turn);
    }

    /// What a failed start had written may be known only after its end.
    pub(crate) fn last_lines(&mut self, turn: &mut Turn<'_>, id: &InstanceId, lines: Vec<String>) {
        if let Some(last) = self.trouble.last.as_mut()
            && last.instance == *id
            && last.last_lines.is_empty()
        {
            last.last_lines = lines;
            self.changed(turn);
        }
    }

    /// After a failure: whoever waits with no instance left to wait for is answered with it.
    fn refuse_hopeless(&mut self, turn: &mut Turn<'_>) {
        if turn.planted(Fault::ForgetWaiters) {
            return;
        }
        let (hopeful, hopeless) = self
            .line
            .drain(..)
            .collect::<Vec<_>>()
            .into_iter()
            .partition::<Vec<_>, _>(|place| self.has_hope(place.seeker()));
        self.line.extend(hopeful);
        let refusal = self.failure_refusal(turn.now);
        for place in hopeless {
            self.send_away(turn, place, &refusal);
        }
    }

    /// Whether an instance for this place may be started with what was chosen for it.
    fn is_offered(&self, place: &Place) -> bool {
        let parameters = &self.spec.parameters;
        parameters.is_empty() || parameters.check(&place.principal, &place.chosen).is_ok()
    }

    /// Whoever waits for a start with what is not offered any more, and for nothing that was started with it before.
    pub(crate) fn refuse_withdrawn(&mut self, turn: &mut Turn<'_>) {
        if turn.planted(Fault::KeepWithdrawn) {
            return;
        }
        let mut at = 0;
        while let Some(place) = self.line.get(at) {
            if self.is_offered(place) || self.has_hope(place.seeker()) {
                at += 1;
                continue;
            }
            let Some(place) = self.line.remove(at) else { break };
            let unasked = place.chosen.is_empty();
            let refusal = if unasked { Refusal::ChoiceNeeded } else { Refusal::ChoiceWithdrawn };
            self.send_away(turn, place, &refusal);
            self.changed(turn);
        }
    }

    /// Whoever waits for more than one person may have, which is known only now.
    pub(crate) fn refuse_excess(&mut self, turn: &mut Turn<'_>) {
        let mut at = 0;
        while let Some(place) = self.line.get(at) {
            if !self.has_enough(place.seeker(), at) {
                at += 1;
            } else if let Some(place) = self.line.remove(at) {
                let refusal = Refusal::TooManyOfOne(self.spec.max_instances_per_user);
                self.send_away(turn, place, &refusal);
            }
        }
    }

    /// A place that is out of the line: everybody who waits there is told why.
    pub(crate) fn send_away(&mut self, turn: &mut Turn<'_>, place: Place, refusal: &Refusal) {
        self.refuse(turn, Some(&place.principal), refusal.clone());
        for waiter in place.tickets {
            turn.out.push(Action::Refuse { ticket: waiter.ticket, refusal: refusal.clone() });
        }
    }

    pub(crate) fn failure_refusal(&self, now: Moment) -> Refusal {
        let retry_after = self.trouble.until.since(now);
        match &self.trouble.last {
            Some(LastFailure { timeout: Some(timeout), .. }) => Refusal::StartTimeout(*timeout),
            Some(last) => Refusal::StartFailed {
                summary: last.summary.clone(),
                last_lines: last.last_lines.clone(),
                retry_after,
            },
            None => Refusal::StartFailed {
                summary: "an earlier start did not succeed".to_owned(),
                last_lines: Vec::new(),
                retry_after,
            },
        }
    }

    pub(crate) fn retry(&mut self, turn: &mut Turn<'_>) {
        self.trouble = super::instance::Trouble::default();
        self.changed(turn);
    }
}

impl Pool {
    /// Starts what may be started: first for who waits longest, then to keep seats warm.
    pub(crate) fn start_wanting(&mut self, nonces: &mut dyn Nonces, out: &mut Vec<Action>) {
        if self.wanting.is_empty() || !self.adopted || matches!(self.mode, Mode::Frozen | Mode::ShuttingDown)
        {
            return;
        }
        while let Some((id, need)) = self.next_start(nonces, out) {
            if need == Need::Warm {
                self.last_warm_start = Some(self.now);
            }
            self.with(&id, nonces, out, |app, turn| app.start(turn, need));
            self.enlist(&id);
        }
    }

    fn next_start(&mut self, nonces: &mut dyn Nonces, out: &mut Vec<Action>) -> Option<(AppId, Need)> {
        let ignore_start_cap = self.planted(Fault::IgnoreStartCap);
        if self.counts.starting >= self.config.max_starts && !ignore_start_cap {
            return None;
        }
        let spaced = self.last_warm_start.is_none_or(|last| self.now.since(last) >= self.config.warm_spacing);
        let warm_allowed =
            spaced && self.mode == Mode::Running && self.counts.starting_warm < self.config.max_warm_starts;
        let per_app = if ignore_start_cap { u32::MAX } else { self.config.max_starts_per_app };
        let mut best: Option<(bool, Moment, &AppId, Need)> = None;
        for id in &self.wanting {
            let Some(app) = self.apps.get(id) else { continue };
            let Some(need) = app.need(!self.planted(Fault::Stampede)) else { continue };
            let warm = need == Need::Warm;
            let startable = app.may_start(self.now, per_app, self.planted(Fault::IgnoreAppCap));
            if warm && !warm_allowed || !startable {
                continue;
            }
            let since = app.line.front().map_or(Moment(u64::MAX), |place| place.since);
            if best.as_ref().is_none_or(|(w, s, _, _)| (warm, since) < (*w, *s)) {
                best = Some((warm, since, id, need));
            }
        }
        let (warm, _, id, need) = best?;
        let id = id.clone();
        if self.counts.instances >= self.config.max_instances {
            if !warm {
                self.evict_idlest(nonces, out);
            }
            return None;
        }
        Some((id, need))
    }

    /// All room is taken while somebody waits: the instance that nobody uses for longest goes before its time.
    fn evict_idlest(&mut self, nonces: &mut dyn Nonces, out: &mut Vec<Action>) {
        if self.counts.stopping > 0 || self.mode != Mode::Running {
            return;
        }
        let idle = self.active.iter().filter_map(|id| self.apps.get(id)).flat_map(|app| {
            let spare = |i: &&Instance| i.is_ready() && i.taken == 0 && app.can_spare(&i.id);
            app.instances.iter().filter(spare)
        });
        let Some(victim) = idle.min_by_key(|i| i.idle_since).map(|i| i.id.clone()) else { return };
        let drop_it = |app: &mut App, turn: &mut Turn<'_>| {
            if let Some(index) = app.index(&victim) {
                app.drain(turn, index, StopReason::Evicted);
            }
        };
        self.with(victim.app(), nonces, out, drop_it);
        self.enlist(victim.app());
    }

    pub(crate) fn planted(&self, fault: Fault) -> bool {
        cfg!(feature = "faults") && self.fault == Some(fault)
    }
}

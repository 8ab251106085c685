//! How an instance ends: idle, too old, wedged, replaced, ordered to go, or by itself. Drain first, stop after.

use skep_model::{EventKind, InstanceId};

use super::app::App;
use super::fault::Fault;
use super::instance::{End, Instance, Phase, StopReason};
use super::{Action, Failure, Figure, Mode, Turn};
use crate::backend::{EndedBy, ExitReport, cause_alone};

impl App {
    /// From now on the instance gets no new visitor. It is stopped when the last one has gone, or at its deadline.
    pub(crate) fn drain(&mut self, turn: &mut Turn<'_>, index: usize, reason: StopReason) {
        let instance = &mut self.instances[index];
        let deadline = turn.now.after(Self::patience(turn, reason));
        match &mut instance.phase {
            Phase::Stopping => return,
            // Nobody sits on an instance that never was ready.
            Phase::Starting { .. } => {
                self.stop(turn, index, reason);
                return;
            }
            Phase::Draining { reason: old_reason, deadline: old } => {
                if deadline < *old || *old_reason == StopReason::Wedged {
                    *old = deadline.min(*old);
                    *old_reason = reason;
                }
            }
            Phase::Ready => {
                instance.phase = Phase::Draining { reason, deadline };
                let visitors = instance.taken;
                let id = instance.id.clone();
                if visitors > 0 {
                    let kind = if reason == StopReason::Wedged {
                        EventKind::InstanceWedged
                    } else {
                        EventKind::InstanceDraining
                    };
                    let detail = format!("{}; {visitors} seats are still held", reason.sentence());
                    self.record(turn, kind, &id, detail);
                } else if reason == StopReason::Wedged {
                    self.record(turn, EventKind::InstanceWedged, &id, reason.sentence());
                }
            }
        }
        if reason == StopReason::Command {
            self.free_reserved(turn, index);
        }
        let id = self.instances[index].id.clone();
        self.stop_if_drained(turn, &id);
        self.changed(turn);
    }

    /// Seats whose visitors are away are not waited for.
    fn free_reserved(&mut self, turn: &mut Turn<'_>, index: usize) {
        let id = self.instances[index].id.clone();
        let away = self.seats.iter().filter(|(_, seat)| seat.instance == id && seat.open == 0);
        let away: Vec<_> = away.map(|(seat, _)| *seat).collect();
        for seat in away {
            self.free(turn, seat, false);
        }
    }

    pub(crate) fn stop_if_drained(&mut self, turn: &mut Turn<'_>, id: &InstanceId) {
        let Some(index) = self.index(id) else { return };
        let instance = &self.instances[index];
        let Phase::Draining { reason, deadline } = instance.phase else { return };
        let over = instance.taken == 0
            || turn.now >= deadline
            || turn.planted(Fault::ImpatientDrain) && instance.open <= 1;
        if over && turn.mode != Mode::Frozen && !turn.planted(Fault::DrainForever) {
            self.stop(turn, index, reason);
        }
    }

    /// Takes back what seats are left and orders the stop.
    pub(crate) fn stop(&mut self, turn: &mut Turn<'_>, index: usize, reason: StopReason) {
        let instance = &self.instances[index];
        if instance.phase == Phase::Stopping {
            return;
        }
        Self::leave_starting(turn, instance);
        let id = instance.id.clone();
        self.instances[index].phase = Phase::Stopping;
        turn.counts.stopping += 1;
        self.clear(turn, &id);
        self.figure(turn, Figure::Stopped(reason));
        self.record(turn, EventKind::InstanceStop, &id, reason.sentence());
        turn.out.push(Action::Stop { id, grace: turn.config.stop_grace, reason });
        self.changed(turn);
    }

    pub(crate) fn stopped(&mut self, turn: &mut Turn<'_>, id: &InstanceId) {
        let Some(index) = self.index(id) else { return };
        if self.instances[index].phase == Phase::Stopping {
            self.remove(turn, index);
        }
    }

    fn remove(&mut self, turn: &mut Turn<'_>, index: usize) -> Instance {
        let instance = self.instances.remove(index);
        Self::leave_starting(turn, &instance);
        turn.counts.stopping -= u32::from(instance.phase == Phase::Stopping);
        turn.counts.instances -= 1;
        turn.out.push(Action::Forget { id: instance.id.clone() });
        self.changed(turn);
        instance
    }

    /// The instance ended without being asked to.
    pub(crate) fn exited(&mut self, turn: &mut Turn<'_>, id: &InstanceId, report: ExitReport) {
        let Some(index) = self.index(id) else { return };
        let failure = Failure { summary: report.reason, last_lines: report.last_lines };
        let blameless = report.ended_by == EndedBy::Platform && !turn.planted(Fault::BlameTheApp);
        match self.instances[index].phase {
            // The answer to the stop will say when nothing is left.
            Phase::Stopping => {}
            // What it left behind is cleared away like that of any failed start.
            Phase::Starting { .. } if !blameless => self.fail_start(turn, id, failure, None),
            // Whoever waits for it gets another one.
            Phase::Starting { .. } => {
                self.figure(turn, Figure::StartFailed);
                self.record(turn, EventKind::InstanceFailed, id, failure.summary);
                self.stop(turn, index, StopReason::StartFailed);
            }
            Phase::Ready | Phase::Draining { .. } if blameless => {
                self.remember_end(turn, index, &failure);
                self.record(turn, EventKind::InstanceStop, id, format!("lost: {}", failure.summary));
                self.figure(turn, Figure::Lost);
                self.clear(turn, id);
                self.remove(turn, index);
            }
            Phase::Ready | Phase::Draining { .. } => {
                self.remember_end(turn, index, &failure);
                let fresh = self.instances[index].is_ready();
                let kind =
                    if report.code == Some(0) { EventKind::InstanceStop } else { EventKind::InstanceCrash };
                self.record(turn, kind, id, format!("ended by itself: {}", failure.summary));
                self.figure(turn, Figure::Crashed);
                self.clear(turn, id);
                let gone = self.remove(turn, index);
                let healthy =
                    gone.ready_at.is_some_and(|ready| turn.now.since(ready) >= turn.config.healthy_after);
                if healthy && fresh {
                    self.trouble = super::instance::Trouble::default();
                } else if fresh && self.trouble.failures == 0 {
                    // It had served. Whoever meets its end gets the next one at once, rather than an apology.
                    self.trouble.failures = 1;
                } else if fresh {
                    self.note_failure(turn, id, failure, None);
                }
            }
        }
    }

    /// Whoever had it is told why while the next one starts.
    fn remember_end(&mut self, turn: &Turn<'_>, index: usize, failure: &Failure) {
        let instance = &self.instances[index];
        // Another one takes over from what was on its way out.
        if !instance.is_ready() && !instance.is_wedged() {
            return;
        }
        let reason = cause_alone(&failure.summary, &failure.last_lines).to_owned();
        let end = End { instance: instance.id.clone(), whose: instance.whose(), at: turn.now, reason };
        self.ends.retain(|end| end.is_news(turn.now));
        if self.ends.len() == End::KEPT {
            self.ends.pop_front();
        }
        self.ends.push_back(end);
    }

    pub(crate) fn probed(&mut self, turn: &mut Turn<'_>, id: &InstanceId, good: bool) {
        let Some(index) = self.index(id) else { return };
        let instance = &mut self.instances[index];
        instance.probing = false;
        instance.probe_due = turn.now.after(turn.config.probe_every);
        if good {
            instance.misses = 0;
            // It was only busy, for long: its visitors were kept, and new ones may come again.
            let current =
                instance.revision == self.spec.revision && instance.owner.is_some() == self.spec.per_user;
            if instance.is_wedged() && current && !self.removed {
                instance.phase = Phase::Ready;
                self.record(turn, EventKind::InstanceReady, id, "answers again");
                self.changed(turn);
            }
            return;
        }
        instance.misses += 1;
        if instance.misses >= turn.config.probe_misses && instance.is_ready() && turn.mode == Mode::Running {
            self.replace |= instance.taken > 0 && !self.spec.per_user;
            self.drain(turn, index, StopReason::Wedged);
        }
    }

    /// The edge could not reach it: look now instead of at the next round.
    pub(crate) fn suspect(&mut self, turn: &mut Turn<'_>, id: &InstanceId) {
        let Some(index) = self.index(id) else { return };
        let instance = &mut self.instances[index];
        if !instance.probing && (instance.is_ready() || instance.is_wedged()) {
            instance.probing = true;
            turn.out.push(Action::Probe { id: id.clone() });
        }
    }

    pub(crate) fn stop_by_command(&mut self, turn: &mut Turn<'_>, id: &InstanceId) {
        let Some(index) = self.index(id) else { return };
        // A page that waits for it does not have another one started: whoever looks at it may ask anew.
        let instance = &self.instances[index];
        if let (Phase::Starting { .. }, Some((owner, _))) = (&instance.phase, &instance.owner) {
            let name = &instance.variant.name;
            for place in &mut self.line {
                if owner.is(&place.principal) && place.name == *name {
                    place.page_seen = None;
                }
            }
            self.line.retain(|place| !place.tickets.is_empty() || place.page_seen.is_some());
        }
        self.drain(turn, index, StopReason::Command);
    }

    pub(crate) fn restart_by_command(&mut self, turn: &mut Turn<'_>, id: &InstanceId) {
        let Some(index) = self.index(id) else { return };
        self.trouble = super::instance::Trouble::default();
        if self.instances[index].is_fresh() {
            self.replace |= self.instances[index].taken > 0 && !self.spec.per_user;
            self.drain(turn, index, StopReason::Restart);
        }
    }

    /// Whether enough seats stay warm without this instance.
    pub(crate) fn can_spare(&self, id: &InstanceId) -> bool {
        if self.spec.per_user {
            return true;
        }
        let others = self.instances.iter().filter(|i| i.is_ready() && i.id != *id);
        let free: u32 = others.map(|i| self.spec.seats.saturating_sub(i.taken)).sum();
        free >= self.spec.min_seats
    }
}

//! What becomes due as time passes.

use std::cmp::Reverse;

use skep_model::AppId;

use super::app::App;
use super::fault::Fault;
use super::instance::{Phase, StopReason};
use super::time::Moment;
use super::{Action, Failure, Mode, Nonces, Pool, Turn};
use crate::handle::Refusal;

impl Pool {
    pub(crate) fn tick(&mut self, nonces: &mut dyn Nonces, out: &mut Vec<Action>) {
        if self.mode == Mode::Frozen {
            return;
        }
        let apps: Vec<AppId> = self.active.union(&self.wanting).cloned().collect();
        for id in apps {
            self.with(&id, nonces, out, |app, turn| {
                app.check_seats(turn);
                app.check_line(turn);
                app.check_instances(turn);
                app.serve_line(turn);
            });
            self.enlist(&id);
        }
        self.start_wanting(nonces, out);
    }
}

impl App {
    /// Reservations that ended, and seats whose visitors may have fallen silent.
    fn check_seats(&mut self, turn: &mut Turn<'_>) {
        while let Some(&Reverse((at, grant, id))) = self.due.peek() {
            if at > turn.now {
                break;
            }
            self.due.pop();
            let Some(seat) = self.seats.get_mut(&id) else { continue };
            if seat.grant != grant || seat.queued != Some(at) {
                continue;
            }
            seat.queued = None;
            if seat.open == 0 {
                if seat.reserved_until <= turn.now {
                    let instance = seat.instance.clone();
                    self.free(turn, id, false);
                    self.stop_if_drained(turn, &instance);
                } else {
                    self.queue_deadline(id);
                }
                continue;
            }
            let silent = self.spec.inactivity_timeout.map(|timeout| seat.last_traffic.after(timeout));
            match silent {
                // Asked again a tick later if the answer gets lost.
                Some(silent) if silent <= turn.now && seat.foreign == 0 => {
                    let again = turn.now.after(turn.config.tick.max(std::time::Duration::from_millis(1)));
                    seat.queued = Some(again);
                    self.due.push(Reverse((again, grant, id)));
                    turn.out.push(Action::AskActivity { app: self.spec.id.clone(), seat: id, grant });
                }
                _ => self.queue_deadline(id),
            }
        }
    }

    /// Claims that have waited long enough, and pages that did not come back.
    fn check_line(&mut self, turn: &mut Turn<'_>) {
        if self.line.is_empty() {
            return;
        }
        let patience = turn.config.page_patience;
        let mut expired = Vec::new();
        for place in &mut self.line {
            let principal = &place.principal;
            place.tickets.retain(|waiter| {
                let late = waiter.deadline <= turn.now;
                if late {
                    expired.push((waiter.ticket, principal.clone()));
                }
                !late
            });
            if place.page_seen.is_some_and(|seen| turn.now.since(seen) >= patience) {
                place.page_seen = None;
            }
        }
        let before = self.line.len();
        self.line.retain(|place| !place.tickets.is_empty() || place.page_seen.is_some());
        let starting = self.instances.iter().any(super::instance::Instance::is_starting);
        for (ticket, principal) in expired {
            let refusal = if starting {
                Refusal::StartTimeout(self.spec.start_timeout.saturating_mul(2))
            } else {
                Refusal::NoRoom
            };
            let refusal = self.refuse(turn, Some(&principal), refusal);
            turn.out.push(Action::Refuse { ticket, refusal });
        }
        if before != self.line.len() {
            self.changed(turn);
        }
    }

    fn check_instances(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<_> = self.instances.iter().map(|i| i.id.clone()).collect();
        for id in ids {
            let Some(index) = self.index(&id) else { continue };
            match self.instances[index].phase {
                Phase::Starting { clock, environment } => {
                    let limit =
                        if environment { turn.config.environment_timeout } else { self.spec.start_timeout };
                    if turn.now.since(clock) >= limit {
                        let what = if environment { "its environment was not built" } else { "no answer" };
                        let summary = format!("{what} within {limit:?}");
                        let failure = Failure { summary, last_lines: Vec::new() };
                        self.fail_start(turn, &id, failure, Some(limit));
                    }
                }
                Phase::Ready => self.check_ready(turn, index),
                Phase::Draining { .. } => {
                    self.check_probe(turn, index);
                    self.stop_if_drained(turn, &id);
                }
                Phase::Stopping => {}
            }
            if let Some(index) = self.index(&id) {
                self.check_note(turn, index);
            }
        }
    }

    fn check_ready(&mut self, turn: &mut Turn<'_>, index: usize) {
        self.check_probe(turn, index);
        let instance = &self.instances[index];
        if instance.ready_at.is_some_and(|at| turn.now.since(at) >= turn.config.healthy_after)
            && self.trouble.failures > 0
            && turn.now >= self.trouble.until
        {
            self.trouble = super::instance::Trouble::default();
        }
        if turn.mode != Mode::Running {
            return;
        }
        let instance = &self.instances[index];
        let too_old =
            self.spec.max_lifetime.is_some_and(|lifetime| turn.now.since(instance.started) >= lifetime);
        if too_old {
            self.replace |= instance.taken > 0 && !self.spec.per_user;
            self.drain(turn, index, StopReason::Lifetime);
            return;
        }
        let idle = instance.taken == 0
            && turn.now.since(instance.idle_since) >= self.spec.idle_timeout
            && !turn.planted(Fault::NeverIdle);
        if idle && self.can_spare(&instance.id) {
            self.drain(turn, index, StopReason::Idle);
        }
    }

    fn check_probe(&mut self, turn: &mut Turn<'_>, index: usize) {
        let instance = &mut self.instances[index];
        if !instance.probing && instance.probe_due <= turn.now {
            instance.probing = true;
            turn.out.push(Action::Probe { id: instance.id.clone() });
        }
    }

    /// The last word before the freeze: a successor finds every seat noted.
    pub(crate) fn note_all(&mut self, turn: &mut Turn<'_>) {
        for index in 0..self.instances.len() {
            self.instances[index].noted_at = Moment(0);
            self.check_note(turn, index);
        }
    }

    fn check_note(&mut self, turn: &mut Turn<'_>, index: usize) {
        let instance = &mut self.instances[index];
        let alive = instance.is_ready() || instance.is_draining();
        if alive && instance.note_due && turn.now.since(instance.noted_at) >= turn.config.note_every {
            instance.note_due = false;
            instance.noted_at = turn.now;
            let id = instance.id.clone();
            let seats = self.lasting_seats(&id);
            turn.out.push(Action::NoteSeats { id, seats });
        }
    }
}

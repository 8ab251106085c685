//! How an episode ends: fairly, by a hand-over, by a shutdown. Here it shows whether everything begun comes to an end.

use skep_launch::pool::Input;

use super::model::{Mode, Phase};
use super::world::{Event, Outcome, World};

impl World {
    fn pass_for(&mut self, time: u64) -> Outcome {
        let end = self.now + time;
        while self.now < end {
            self.pass()?;
        }
        Ok(())
    }

    /// From here on nothing fails, nobody stays for long and nobody new comes: everything must come to its end.
    pub(super) fn end_fairly(&mut self) -> Outcome {
        self.fair = true;
        self.wedged.clear();
        self.say(|| "the world turns fair".into());
        // Boots that never end have their timeouts; whoever sits on a seat leaves in time.
        let leases: Vec<usize> = self.leases.keys().copied().collect();
        for lease in leases {
            let wait = self.rng.range(1, 3_000);
            self.later(wait, Event::Leave(lease));
        }
        self.pass_for(60_000)?;
        if let Some(ticket) = self.waiting.keys().next() {
            return Err(format!("{ticket:?} was never answered"));
        }
        self.pass_for(120_000)?;
        for app in &self.model.apps {
            let id = &app.spec.id;
            if !app.line.is_empty() || !app.seats.is_empty() {
                return Err(format!("{id}: somebody is still waiting or seated"));
            }
            // Warm instances with a limited lifetime are replaced again and again.
            if app.spec.min_seats > 0 && app.spec.max_lifetime.is_some() {
                continue;
            }
            if let Some(left) = app.instances.iter().find(|i| i.phase != Phase::Ready) {
                return Err(format!("{left:?} never came to an end"));
            }
            if let Some(idle) = app.instances.iter().find(|i| app.can_spare(&i.id)) {
                return Err(format!("{idle:?} is never stopped"));
            }
            let free = app.instances.len() * app.spec.seats as usize;
            let full = app.instances.len() >= app.spec.max_instances as usize
                || self.model.instances().count() >= self.config.max_instances as usize;
            if !app.spec.per_user && !app.removed && free < app.spec.min_seats as usize && !full {
                return Err(format!("{id}: {free} seats are warm, not {}", app.spec.min_seats));
            }
        }
        self.pool.audit()
    }

    pub(super) fn end_by_handover(&mut self) -> Outcome {
        self.tally.handed_over += 1;
        self.give(Input::Quiesce)?;
        for _ in 0..self.rng.below(100) {
            if self.rng.chance(20) { self.come()? } else { self.pass()? }
        }
        let seated = self.model.apps.iter().flat_map(|app| &app.seats).count();
        self.give(Input::Freeze)?;
        if self.model.apps.iter().flat_map(|app| &app.seats).count() != seated {
            return Err("the freeze cost somebody a seat".into());
        }
        for _ in 0..200 {
            if self.rng.chance(20) { self.come()? } else { self.pass()? }
        }
        if self.waiting.is_empty() { Ok(()) } else { Err("somebody waits for a frozen pool".into()) }
    }

    pub(super) fn end_by_shutdown(&mut self) -> Outcome {
        self.give(Input::Shutdown)?;
        self.pass_for(10_000)?;
        if self.model.mode != Mode::ShuttingDown || self.model.instances().next().is_some() {
            return Err("instances are left after the shutdown".into());
        }
        if self.waiting.is_empty() {
            Ok(())
        } else {
            Err("somebody waits for a pool that is shut down".into())
        }
    }
}

//! What changes around the pool: what is published, and seats that a predecessor process reports.

use std::sync::Arc;

use skep_launch::ClaimKind;
use skep_launch::pool::{Input, Moment, Nonces};
use skep_model::{AppId, Revision, SeatId};

use super::super::invent::invent_spec;
use super::super::judge::Judge;
use super::{Outcome, World};

impl World {
    pub(super) fn republish(&mut self) -> Outcome {
        let n = self.rng.below(4);
        let id: AppId = format!("a{n}").parse().unwrap();
        let old = self.specs.iter().position(|spec| spec.id == id);
        match (old, self.rng.below(5)) {
            (Some(at), 0) => drop(self.specs.remove(at)),
            (Some(at), 1 | 2) => {
                let mut spec = (*self.specs[at]).clone();
                spec.revision = Revision(spec.revision.0 + 1);
                self.specs[at] = Arc::new(spec);
            }
            (Some(at), _) => {
                // Another way of sharing, the same revision.
                let mut spec = invent_spec(&mut self.rng, n);
                spec.revision = self.specs[at].revision;
                self.specs[at] = Arc::new(spec);
            }
            (None, _) => self.specs.push(Arc::new(invent_spec(&mut self.rng, n))),
        }
        self.give(Input::SetApps(self.specs.clone()))
    }

    pub(super) fn seat_from_predecessor(&mut self) -> Outcome {
        let Some(instance) = self.some_instance() else { return Ok(()) };
        let known = self.leases.values().filter(|lease| lease.app == *instance.app());
        let known: Vec<SeatId> = known.map(|lease| lease.granted.seat).collect();
        let seat = match self.rng.pick(&known) {
            Some(seat) if self.rng.chance(50) => *seat,
            _ => SeatId(u128::from(self.nonces.next())),
        };
        // A seat somebody waits for is not in use anywhere.
        if self.model.apps.iter().any(|app| app.line.iter().any(|place| place.seat == seat)) {
            return Ok(());
        }
        self.begin();
        let mut out = std::mem::take(&mut self.out);
        let app = instance.app().clone();
        let now = Moment(self.now);
        let granted = self.pool.claim_foreign(now, &app, seat, &instance, &mut self.nonces, &mut out);
        self.say(|| format!("foreign {seat:?} on {instance}: {granted:?}"));
        Judge::new(&mut self.model, &self.pool, false, Vec::new()).foreign(
            &app,
            seat,
            &instance,
            granted.as_ref(),
            &out,
        )?;
        if let Some(granted) = granted {
            self.sit(app, granted, None, ClaimKind::Tunnel, true);
        }
        self.react(out)
    }
}

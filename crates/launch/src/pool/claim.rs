//! A visitor asks for a seat, waits for one, uses it, gives it back.

use skep_model::{InstanceId, Principal, SeatId};

use super::app::App;
use super::fault::Fault;
use super::instance::{Place, Waiter};
use super::time::Moment;
use super::{Action, Answer, GrantId, Granted, Ticket, Turn};
use crate::handle::{Claim, ClaimKind, Refusal, SeatKey};

impl App {
    pub(crate) fn claim(&mut self, turn: &mut Turn<'_>, claim: &Claim) -> Answer {
        let key = claim.key.as_ref().filter(|key| self.key_fits(key, &claim.principal));
        if let Some(key) = key
            && let Some(granted) = self.resume(turn, key.seat, claim.kind)
        {
            // Seats that were adopted do not say whose they are; those who log in keep theirs.
            if let (Some(user), Some(seat)) = (claim.principal.user(), self.seats.get_mut(&key.seat)) {
                seat.user.get_or_insert_with(|| user.clone());
            }
            return Answer::Granted(granted);
        }
        if self.removed {
            return Answer::Refused(Refusal::UnknownApp);
        }
        let lasting = match claim.kind {
            ClaimKind::Page | ClaimKind::HeldPage => true,
            ClaimKind::Held | ClaimKind::Tunnel => key.is_some(),
            ClaimKind::WarmOnly => false,
        };
        if let Some(key) = key
            && let Some(at) = self.line.iter().position(|place| place.seat == key.seat)
        {
            return self.join(turn, at, claim, lasting);
        }
        if let Some(index) = self.free_seat_for(turn, key, &claim.principal) {
            let seat = key.map_or_else(|| turn.seat(), |key| key.seat);
            return Answer::Granted(self.sit(turn, index, seat, &claim.principal, lasting, 1));
        }
        if claim.kind == ClaimKind::WarmOnly {
            return Answer::Refused(Refusal::Cold);
        }
        if turn.now < self.trouble.until && !self.has_hope(&claim.principal) {
            let refusal = self.failure_refusal(turn.now);
            return Answer::Refused(self.refuse(turn, Some(&claim.principal), refusal));
        }
        // A line of no length would make a cold start impossible.
        if self.line.len() >= self.spec.max_waiting.max(1) as usize {
            return Answer::Refused(self.refuse(turn, Some(&claim.principal), Refusal::LineFull));
        }
        let seat = key.map_or_else(|| turn.seat(), |key| key.seat);
        self.line.push_back(Place {
            seat,
            principal: claim.principal.clone(),
            since: turn.now,
            tickets: Vec::new(),
            page_seen: None,
            lasting,
            wanted: key.and_then(|key| key.instance.clone()),
        });
        self.changed(turn);
        self.join(turn, self.line.len() - 1, claim, lasting)
    }

    /// A key is void for whoever may not sit where it leads.
    fn key_fits(&self, key: &SeatKey, principal: &Principal) -> bool {
        if !self.spec.per_user {
            return true;
        }
        if let Some(seat) = self.seats.get(&key.seat) {
            return self.index(&seat.instance).is_some_and(|i| self.instances[i].admits(principal));
        }
        let waiting = self.line.iter().find(|place| place.seat == key.seat);
        waiting.is_none_or(|place| super::instance::Owner::of(&place.principal).is(principal))
    }

    /// A seat the visitor holds already, on a ready instance or on one that is being drained.
    fn resume(&mut self, turn: &mut Turn<'_>, id: SeatId, kind: ClaimKind) -> Option<Granted> {
        let page = matches!(kind, ClaimKind::Page | ClaimKind::HeldPage);
        let instance = self.seats.get(&id)?.instance.clone();
        let index = self.index(&instance)?;
        // Whoever loads the page of a wedged instance anew gets another one.
        if page && self.instances[index].is_wedged() {
            self.free(turn, id, true);
            self.stop_if_drained(turn, &instance);
            return None;
        }
        let seat = self.seats.get_mut(&id)?;
        seat.open += 1;
        seat.lasting |= page;
        seat.last_traffic = turn.now;
        let granted = Granted { grant: seat.grant, seat: id, instance };
        self.instances[index].open += 1;
        if page {
            self.instances[index].note_due = true;
        }
        self.queue_deadline(id);
        Some(granted)
    }

    /// Room for a newcomer. Nobody overtakes the line.
    fn free_seat_for(&self, turn: &Turn<'_>, key: Option<&SeatKey>, principal: &Principal) -> Option<usize> {
        let queued =
            |place: &Place| !self.spec.per_user || super::instance::Owner::of(&place.principal).is(principal);
        if self.line.iter().any(queued) {
            return None;
        }
        let wanted = key.and_then(|key| key.instance.as_ref());
        self.remembered(wanted, principal).or_else(|| self.least_loaded(turn, principal))
    }

    /// The instance a visitor was on before, if it takes newcomers.
    fn remembered(&self, wanted: Option<&InstanceId>, principal: &Principal) -> Option<usize> {
        let index = self.index(wanted?)?;
        let instance = &self.instances[index];
        let room = instance.is_ready() && instance.taken < self.spec.seats;
        (room && instance.admits(principal)).then_some(index)
    }

    /// Waits at a place of the line.
    fn join(&mut self, turn: &mut Turn<'_>, at: usize, claim: &Claim, lasting: bool) -> Answer {
        if claim.kind == ClaimKind::WarmOnly {
            return Answer::Refused(Refusal::Cold);
        }
        if self.line[at].tickets.len() >= turn.config.tickets_per_place {
            return Answer::Refused(self.refuse(turn, Some(&claim.principal), Refusal::LineFull));
        }
        let ticket = turn.ticket();
        // The start may have to wait for its turn before it gets its own time.
        let deadline = turn.now.after(self.spec.start_timeout.saturating_mul(2));
        let place = &mut self.line[at];
        place.lasting |= lasting;
        if claim.kind == ClaimKind::Page {
            place.page_seen = Some(turn.now);
        }
        place.tickets.push(Waiter { ticket, deadline });
        Answer::Waiting { ticket, seat: place.seat }
    }

    pub(crate) fn claim_foreign(
        &mut self,
        turn: &mut Turn<'_>,
        seat: SeatId,
        instance: &InstanceId,
    ) -> Option<Granted> {
        let index = self.index(instance)?;
        let usable = self.instances[index].is_ready() || self.instances[index].is_draining();
        let granted = match self.seats.get(&seat) {
            Some(known) if known.instance == *instance => self.resume(turn, seat, ClaimKind::Tunnel)?,
            Some(_) => return None,
            None if usable => self.sit(turn, index, seat, &Principal::Anonymous, true, 1),
            None => return None,
        };
        if let Some(seat) = self.seats.get_mut(&seat) {
            seat.foreign += 1;
        }
        self.seat_returning(turn);
        Some(granted)
    }

    /// Whoever came before it was known that their seats are still there gets them.
    pub(crate) fn seat_returning(&mut self, turn: &mut Turn<'_>) {
        let line = std::mem::take(&mut self.line);
        let (returning, waiting): (Vec<Place>, Vec<Place>) =
            line.into_iter().partition(|place| self.seats.contains_key(&place.seat));
        self.line = waiting.into();
        for place in returning {
            let Some(seat) = self.seats.get_mut(&place.seat) else { continue };
            let open = u32::try_from(place.tickets.len()).unwrap_or(u32::MAX);
            seat.open += open;
            seat.lasting |= place.lasting;
            seat.last_traffic = turn.now;
            let granted = Granted { grant: seat.grant, seat: place.seat, instance: seat.instance.clone() };
            if let Some(index) = self.index(&granted.instance) {
                self.instances[index].open += open;
            }
            self.queue_deadline(place.seat);
            for waiter in place.tickets {
                turn.out.push(Action::Grant { ticket: waiter.ticket, granted: granted.clone() });
            }
        }
    }

    pub(crate) fn abandon(&mut self, ticket: Ticket) {
        for place in &mut self.line {
            place.tickets.retain(|waiter| waiter.ticket != ticket);
        }
        self.line.retain(|place| !place.tickets.is_empty() || place.page_seen.is_some());
    }

    pub(crate) fn seen(&mut self, turn: &mut Turn<'_>, seat: SeatId) {
        let place = self.line.iter_mut().find(|place| place.seat == seat);
        if let Some(seen) = place.and_then(|place| place.page_seen.as_mut()) {
            *seen = turn.now;
        }
        // A page that was granted its seat while it looked the other way gets time to come.
        if let Some(seat) = self.seats.get_mut(&seat) {
            seat.reserved_until = turn.now.after(turn.config.reservation);
        }
    }

    pub(crate) fn release(&mut self, turn: &mut Turn<'_>, id: SeatId, grant: GrantId, foreign: bool) {
        let stale_counts = turn.planted(Fault::StaleRelease);
        let Some(seat) = self.seats.get_mut(&id) else { return };
        if (seat.grant != grant && !stale_counts) || seat.open == 0 {
            return;
        }
        seat.open -= 1;
        seat.foreign -= u32::from(foreign && seat.foreign > 0);
        let over = seat.open == 0;
        let keep = seat.lasting && !turn.planted(Fault::NoReservation);
        if over {
            seat.reserved_until = turn.now.after(turn.config.reservation);
            seat.last_traffic = turn.now;
        }
        let instance = seat.instance.clone();
        if let Some(index) = self.index(&instance) {
            self.instances[index].open -= 1;
        }
        if over && !keep {
            self.free(turn, id, false);
            self.stop_if_drained(turn, &instance);
        } else {
            self.queue_deadline(id);
        }
    }

    pub(crate) fn activity(&mut self, turn: &mut Turn<'_>, id: SeatId, grant: GrantId, last: Moment) {
        let Some(timeout) = self.spec.inactivity_timeout else { return };
        let Some(seat) = self.seats.get_mut(&id).filter(|seat| seat.grant == grant) else { return };
        seat.last_traffic = seat.last_traffic.max(last);
        let expired = seat.last_traffic.after(timeout) <= turn.now;
        if expired && seat.open > 0 && seat.foreign == 0 {
            let instance = seat.instance.clone();
            self.free(turn, id, true);
            self.stop_if_drained(turn, &instance);
        } else {
            self.queue_deadline(id);
        }
    }

    /// Grants seats to the line, in order; where instances are not shared, in order per owner.
    pub(crate) fn serve_line(&mut self, turn: &mut Turn<'_>) {
        if self.line.is_empty() || matches!(turn.mode, super::Mode::Frozen | super::Mode::ShuttingDown) {
            return;
        }
        let mut at = 0;
        let mut served = false;
        while at < self.line.len() {
            if turn.planted(Fault::LineFromTheEnd) && !self.spec.per_user {
                at = self.line.len() - 1;
            }
            let Place { wanted, principal, .. } = &self.line[at];
            let remembered = self.remembered(wanted.as_ref(), principal);
            let Some(index) = remembered.or_else(|| self.least_loaded(turn, principal)) else {
                // Others may have instances of their own.
                if self.spec.per_user && !turn.planted(Fault::LineFromTheEnd) {
                    at += 1;
                    continue;
                }
                break;
            };
            let Some(place) = self.line.remove(at) else { break };
            served = true;
            let open = u32::try_from(place.tickets.len()).unwrap_or(u32::MAX);
            let granted = self.sit(turn, index, place.seat, &place.principal, place.lasting, open);
            for waiter in &place.tickets {
                turn.out.push(Action::Grant { ticket: waiter.ticket, granted: granted.clone() });
                if turn.planted(Fault::AnswerTwice) {
                    turn.out.push(Action::Grant { ticket: waiter.ticket, granted: granted.clone() });
                }
            }
        }
        if served {
            self.changed(turn);
        }
    }
}

//! A visitor asks for a seat, waits for one, uses it, gives it back.

use skep_model::{Choice, InstanceId, Principal, SeatId};

use super::app::App;
use super::fault::Fault;
use super::instance::{Place, Seeker, Waiter};
use super::time::Moment;
use super::{Action, Answer, GrantId, Granted, Ticket, Turn};
use crate::handle::{Claim, ClaimKind, Refusal, SeatKey};

impl App {
    pub(crate) fn claim(&mut self, turn: &mut Turn<'_>, claim: &Claim) -> Answer {
        if let Some(id) = &claim.joins {
            return self.join_others(turn, claim, id);
        }
        let key = claim.key.as_ref().filter(|key| self.key_fits(key, claim.seeker()));
        if let Some(key) = key
            && let Some(granted) = self.resume(turn, key.seat, claim.kind)
        {
            // Seats that were adopted do not say whose they are; those who log in keep theirs.
            if let Some(seat) = self.seats.get_mut(&key.seat) {
                seat.own = true;
                seat.user = seat.user.take().or_else(|| claim.principal.user().cloned());
            }
            return Answer::Granted(granted);
        }
        if self.removed {
            return Answer::Refused(Refusal::UnknownApp);
        }
        if let Some(refusal) = self.no_instance_for(claim) {
            return Answer::Refused(self.refuse(turn, Some(&claim.principal), refusal));
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
        if let Some(index) = self.free_seat_for(turn, key, claim.seeker()) {
            let seat = key.map_or_else(|| turn.seat(), |key| key.seat);
            let granted = self.sit(turn, index, seat, &claim.principal, lasting, 1);
            self.mark_own(seat);
            return Answer::Granted(granted);
        }
        if claim.kind == ClaimKind::WarmOnly {
            return Answer::Refused(Refusal::Cold);
        }
        if turn.now < self.trouble.until && !self.has_hope(claim.seeker()) {
            let refusal = self.failure_refusal(turn.now);
            return Answer::Refused(self.refuse(turn, Some(&claim.principal), refusal));
        }
        if self.has_enough(claim.seeker(), self.line.len()) {
            let refusal = Refusal::TooManyOfOne(self.spec.max_instances_per_user);
            return Answer::Refused(self.refuse(turn, Some(&claim.principal), refusal));
        }
        let Some(chosen) = self.choice_for(claim) else {
            return Answer::Refused(Refusal::ChoiceNeeded);
        };
        // A line of no length would make a cold start impossible.
        if self.line.len() >= self.spec.max_waiting.max(1) as usize {
            return Answer::Refused(self.refuse(turn, Some(&claim.principal), Refusal::LineFull));
        }
        let seat = key.map_or_else(|| turn.seat(), |key| key.seat);
        self.line.push_back(Place {
            seat,
            principal: claim.principal.clone(),
            name: claim.name.clone(),
            chosen,
            since: turn.now,
            tickets: Vec::new(),
            page_seen: None,
            lasting,
            wanted: key.and_then(|key| key.instance.clone()),
        });
        self.changed(turn);
        self.join(turn, self.line.len() - 1, claim, lasting)
    }

    /// Why there is no instance that this claim could ever mean.
    fn no_instance_for(&self, claim: &Claim) -> Option<Refusal> {
        if !self.spec.per_user {
            return None;
        }
        // All who send no cookie look like one visitor, who has one instance: with names, one of them could use up what
        // all of them may have.
        if claim.name.is_some() && claim.principal == Principal::Anonymous {
            return Some(Refusal::NoIdentity);
        }
        let chosen = claim.chosen.as_ref()?;
        let mut theirs = self.choices_of(claim.seeker()).peekable();
        (theirs.peek().is_some() && theirs.all(|known| known != chosen)).then_some(Refusal::ChoiceDiffers)
    }

    /// What their instances of this name, alive or waited for, are started with.
    fn choices_of<'a>(&'a self, seeker: Seeker<'a>) -> impl Iterator<Item = &'a Choice> {
        let there = self.instances.iter().filter(move |i| i.is_fresh() && i.is_theirs(seeker));
        let waiting = self.line.iter().filter(move |place| place.seeker().is(seeker));
        there.map(|i| &i.variant.chosen).chain(waiting.map(|place| &place.chosen))
    }

    /// What an instance for this claim would be started with: what was chosen with it, else what the one was that they wait for.
    /// `None`: it has to be chosen first.
    fn choice_for(&self, claim: &Claim) -> Option<Choice> {
        if self.spec.parameters.is_empty() {
            return Some(Choice::new());
        }
        // What is published may have changed since it was checked.
        let offered = |chosen: &&Choice| self.spec.parameters.check(&claim.principal, chosen).is_ok();
        match &claim.chosen {
            Some(chosen) if self.choices_of(claim.seeker()).any(|known| known == chosen) => {
                Some(chosen.clone())
            }
            Some(chosen) => Some(chosen).filter(offered).cloned(),
            None => self.choices_of(claim.seeker()).next().cloned(),
        }
    }

    /// The seat is not a guest's.
    fn mark_own(&mut self, seat: SeatId) {
        if let Some(seat) = self.seats.get_mut(&seat) {
            seat.own = true;
        }
    }

    /// A seat on somebody else's instance, by their leave: at once or not at all.
    fn join_others(&mut self, turn: &mut Turn<'_>, claim: &Claim, id: &InstanceId) -> Answer {
        let Some(index) = self.index(id) else { return Answer::Refused(Refusal::ShareEnded) };
        let key = claim.key.as_ref();
        let own = key.filter(|key| self.seats.get(&key.seat).is_some_and(|seat| seat.instance == *id));
        if let Some(granted) = own.and_then(|key| self.resume(turn, key.seat, claim.kind)) {
            return Answer::Granted(granted);
        }
        let instance = &self.instances[index];
        if instance.is_starting() || instance.is_wedged() {
            return Answer::Refused(Refusal::NotUp);
        }
        if !instance.is_ready() {
            return Answer::Refused(Refusal::ShareEnded);
        }
        // The last seat is its owner's.
        let mut seats = self.seats.values();
        let owner_is_there = seats.any(|seat| seat.own && seat.instance == *id);
        let kept =
            u32::from(instance.owner.is_some() && !owner_is_there && !turn.planted(Fault::GuestsTakeAll));
        if instance.taken + kept >= self.spec.seats {
            return Answer::Refused(self.refuse(turn, Some(&claim.principal), Refusal::NoRoom));
        }
        let lasting = matches!(claim.kind, ClaimKind::Page | ClaimKind::HeldPage);
        // A key that leads elsewhere stays what it is.
        let seat = turn.seat();
        Answer::Granted(self.sit(turn, index, seat, &claim.principal, lasting, 1))
    }

    /// A key is void for whoever may not sit where it leads.
    fn key_fits(&self, key: &SeatKey, seeker: Seeker<'_>) -> bool {
        // What was somebody's own stays theirs to its end, also when the app is shared by now.
        if let Some(seat) = self.seats.get(&key.seat) {
            return self.index(&seat.instance).is_some_and(|i| self.instances[i].admits(seeker));
        }
        if !self.spec.per_user {
            return true;
        }
        let waiting = self.line.iter().find(|place| place.seat == key.seat);
        waiting.is_none_or(|place| place.seeker().is(seeker))
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
    fn free_seat_for(&self, turn: &Turn<'_>, key: Option<&SeatKey>, seeker: Seeker<'_>) -> Option<usize> {
        let queued = |place: &Place| !self.spec.per_user || place.seeker().is(seeker);
        if self.line.iter().any(queued) {
            return None;
        }
        let wanted = key.and_then(|key| key.instance.as_ref());
        self.remembered(wanted, seeker).or_else(|| self.least_loaded(turn, seeker))
    }

    /// The instance a visitor was on before, if it takes newcomers.
    fn remembered(&self, wanted: Option<&InstanceId>, seeker: Seeker<'_>) -> Option<usize> {
        let index = self.index(wanted?)?;
        let instance = &self.instances[index];
        let room = instance.is_ready() && instance.taken < self.spec.seats;
        (room && instance.admits(seeker)).then_some(index)
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

    /// Grants seats to the line, in order; where instances are not shared, in order per owner and name.
    pub(crate) fn serve_line(&mut self, turn: &mut Turn<'_>) {
        if self.line.is_empty() || matches!(turn.mode, super::Mode::Frozen | super::Mode::ShuttingDown) {
            return;
        }
        self.refuse_withdrawn(turn);
        let mut at = 0;
        let mut served = false;
        while at < self.line.len() {
            if turn.planted(Fault::LineFromTheEnd) && !self.spec.per_user {
                at = self.line.len() - 1;
            }
            let (wanted, seeker) = (self.line[at].wanted.as_ref(), self.line[at].seeker());
            let remembered = self.remembered(wanted, seeker);
            let Some(index) = remembered.or_else(|| self.least_loaded(turn, seeker)) else {
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
            self.mark_own(place.seat);
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

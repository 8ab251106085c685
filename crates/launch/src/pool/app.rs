//! One app: its instances, its seats and its line.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use skep_model::{AppSpec, EventKind, InstanceId, InstanceName, Principal, SeatId};

use super::fault::Fault;
use super::instance::{End, Instance, Owner, Place, Seat, Seeker, StopReason, Trouble};
use super::time::Moment;
use super::{Action, Figure, GrantId, Granted, Record, Turn};
use crate::handle::Refusal;

/// How many start times the usual one is taken from.
const START_TIMES: usize = 20;

pub(crate) struct App {
    pub spec: Arc<AppSpec>,
    /// No longer published; gone with its last instance.
    pub removed: bool,
    /// Oldest first.
    pub instances: Vec<Instance>,
    pub seats: BTreeMap<SeatId, Seat>,
    /// When something is due for a seat. Entries that no longer match [`Seat::queued`] are stale.
    pub due: BinaryHeap<Reverse<(Moment, GrantId, SeatId)>>,
    pub line: VecDeque<Place>,
    pub trouble: Trouble,
    /// What was lost since the next one was ready, newest last. Told, and never decided by.
    pub ends: VecDeque<End>,
    /// Order to ready, milliseconds, newest last.
    pub start_times: VecDeque<u64>,
    /// Somebody was there when the instances were told to restart: one is started without waiting for a claim.
    pub replace: bool,
    pub refusals: BTreeMap<&'static str, RefusalNote>,
}

/// Keeps one refusal from flooding the journal.
pub(crate) struct RefusalNote {
    pub recorded: Moment,
    pub unrecorded: u32,
}

impl App {
    pub(crate) fn new(spec: Arc<AppSpec>) -> Self {
        Self {
            spec,
            removed: false,
            instances: Vec::new(),
            seats: BTreeMap::new(),
            due: BinaryHeap::new(),
            line: VecDeque::new(),
            trouble: Trouble::default(),
            ends: VecDeque::new(),
            start_times: VecDeque::new(),
            replace: false,
            refusals: BTreeMap::new(),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.removed && self.instances.is_empty()
    }

    pub(crate) fn is_active(&self) -> bool {
        !self.instances.is_empty() || !self.line.is_empty()
    }

    pub(crate) fn index(&self, id: &InstanceId) -> Option<usize> {
        self.instances.iter().position(|instance| instance.id == *id)
    }

    pub(crate) fn usual_ms(&self) -> Option<u64> {
        let mut times: Vec<u64> = self.start_times.iter().copied().collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    pub(crate) fn remember_start_time(&mut self, ms: u64) {
        if self.start_times.len() == START_TIMES {
            self.start_times.pop_front();
        }
        self.start_times.push_back(ms);
    }

    /// Where a new visitor goes: the least loaded ready instance with room, the oldest of equals.
    pub(crate) fn least_loaded(&self, turn: &Turn<'_>, seeker: Seeker<'_>) -> Option<usize> {
        let extra = u32::from(turn.planted(Fault::OneSeatTooMany));
        let fits = |i: &Instance| {
            (i.is_ready() || turn.planted(Fault::GrantOnDraining) && i.is_draining())
                && i.taken < self.spec.seats + extra
                && (i.admits(seeker)
                    || turn.planted(Fault::ShareOwned)
                    || turn.planted(Fault::IgnoreChoice) && i.is_theirs(seeker))
        };
        let candidates = self.instances.iter().enumerate().filter(|(_, i)| fits(i));
        if turn.planted(Fault::MostLoaded) {
            return candidates.max_by_key(|(_, i)| i.taken).map(|(index, _)| index);
        }
        candidates.min_by_key(|(_, i)| i.taken).map(|(index, _)| index)
    }

    /// Whether an instance that is alive, or on its way, could still take them.
    pub(crate) fn has_hope(&self, seeker: Seeker<'_>) -> bool {
        self.instances.iter().any(|i| i.is_fresh() && i.admits(seeker))
    }

    /// Whether one more name would be one too many for one person, with so many places of the line before theirs. What
    /// was told to end does not count, although it may take seconds: whoever ends one may open another at once.
    pub(crate) fn has_enough(&self, seeker: Seeker<'_>, ahead: usize) -> bool {
        if !self.spec.per_user {
            return false;
        }
        let own = self.instances.iter().filter(|i| !i.is_given_up());
        let own = own.filter(|i| i.owner.as_ref().is_some_and(|(owner, _)| owner.is(seeker.principal)));
        let waited_for = self.line.iter().take(ahead).map(Place::seeker);
        let waited_for = waited_for.filter(|other| Owner::of(other.principal).is(seeker.principal));
        let mut names: BTreeSet<Option<&InstanceName>> = own.map(|i| i.variant.name.as_ref()).collect();
        names.extend(waited_for.map(|other| other.name));
        !names.contains(&seeker.name) && names.len() >= self.spec.max_instances_per_user.max(1) as usize
    }

    /// Puts a visitor on a seat of an instance, with so many open uses.
    pub(crate) fn sit(
        &mut self,
        turn: &mut Turn<'_>,
        index: usize,
        seat: SeatId,
        principal: &Principal,
        lasting: bool,
        open: u32,
    ) -> Granted {
        let instance = &mut self.instances[index];
        instance.taken += 1;
        instance.open += open;
        instance.note_due |= lasting;
        let grant = turn.grant();
        let reserved_until = turn.now.after(turn.config.reservation);
        let sat = Seat {
            instance: instance.id.clone(),
            grant,
            user: principal.user().cloned(),
            own: false,
            open,
            foreign: 0,
            lasting,
            reserved_until,
            last_traffic: turn.now,
            since: turn.now,
            queued: None,
        };
        let granted = Granted { grant, seat, instance: instance.id.clone() };
        self.seats.insert(seat, sat);
        self.queue_deadline(seat);
        granted
    }

    /// Sees to it that the seat's next deadline is in the queue.
    pub(crate) fn queue_deadline(&mut self, id: SeatId) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let next = if seat.open == 0 {
            Some(seat.reserved_until)
        } else if seat.foreign > 0 {
            None
        } else {
            self.spec.inactivity_timeout.map(|timeout| seat.last_traffic.after(timeout))
        };
        if let Some(next) = next
            && seat.queued.is_none_or(|queued| next < queued)
        {
            seat.queued = Some(next);
            self.due.push(Reverse((next, seat.grant, id)));
        }
    }

    /// Nobody holds the seat any more. `revoke`: whoever still uses it is told to stop.
    pub(crate) fn free(&mut self, turn: &mut Turn<'_>, id: SeatId, revoke: bool) {
        let Some(seat) = self.seats.remove(&id) else { return };
        if let Some(index) = self.index(&seat.instance) {
            let instance = &mut self.instances[index];
            instance.taken -= 1;
            instance.open -= seat.open;
            instance.note_due |= seat.lasting;
            if instance.taken == 0 {
                instance.idle_since = turn.now;
            }
        }
        if revoke && seat.open > 0 {
            turn.out.push(Action::Revoke { grant: seat.grant });
        }
        let used = turn.now.since(seat.since);
        let (app, user) = (self.spec.id.clone(), seat.user);
        turn.out.push(Action::Free { grant: seat.grant, used, app, user, lasting: seat.lasting });
    }

    /// Every seat of an instance is taken back.
    pub(crate) fn clear(&mut self, turn: &mut Turn<'_>, id: &InstanceId) {
        let seats: Vec<SeatId> =
            self.seats.iter().filter(|(_, s)| s.instance == *id).map(|(id, _)| *id).collect();
        for seat in seats {
            self.free(turn, seat, true);
        }
    }

    /// The seats of an instance worth remembering over a restart.
    pub(crate) fn lasting_seats(&self, id: &InstanceId) -> Vec<SeatId> {
        let here = self.seats.iter().filter(|(_, s)| s.lasting && s.instance == *id);
        here.map(|(id, _)| *id).collect()
    }

    pub(crate) fn refuse(
        &mut self,
        turn: &mut Turn<'_>,
        principal: Option<&Principal>,
        refusal: Refusal,
    ) -> Refusal {
        if matches!(
            refusal,
            Refusal::Cold
                | Refusal::ChoiceNeeded
                | Refusal::ChoiceDiffers
                | Refusal::UnknownApp
                | Refusal::ShuttingDown
        ) {
            return refusal;
        }
        let code = refusal.code();
        let note = self.refusals.get_mut(code);
        let unrecorded = match note {
            Some(note) if turn.now.since(note.recorded) < turn.config.refusal_every => {
                note.unrecorded += 1;
                return refusal;
            }
            Some(note) => {
                note.recorded = turn.now;
                std::mem::take(&mut note.unrecorded)
            }
            None => {
                self.refusals.insert(code, RefusalNote { recorded: turn.now, unrecorded: 0 });
                0
            }
        };
        let more = match unrecorded {
            0 => String::new(),
            n => format!(" ({n} more since the last record)"),
        };
        turn.out.push(Action::Journal(Record {
            kind: EventKind::Refusal,
            app: self.spec.id.clone(),
            instance: None,
            user: principal.and_then(login),
            detail: format!("{code}: {refusal}{more}"),
        }));
        refusal
    }

    pub(crate) fn record(
        &self,
        turn: &mut Turn<'_>,
        kind: EventKind,
        instance: &InstanceId,
        detail: impl Into<String>,
    ) {
        let owner = self.instances.iter().find(|i| i.id == *instance).and_then(|i| i.owner.as_ref());
        turn.out.push(Action::Journal(Record {
            kind,
            app: self.spec.id.clone(),
            instance: Some(instance.clone()),
            user: owner.and_then(|(_, principal)| login(principal)),
            detail: detail.into(),
        }));
    }

    pub(crate) fn figure(&self, turn: &mut Turn<'_>, figure: Figure) {
        turn.out.push(Action::Figure { app: self.spec.id.clone(), figure });
    }

    pub(crate) fn changed(&self, turn: &mut Turn<'_>) {
        turn.out.push(Action::Changed { app: self.spec.id.clone() });
    }

    /// How long an instance with visitors may go on once it is to go for this reason.
    pub(crate) fn patience(turn: &Turn<'_>, reason: StopReason) -> Duration {
        match reason {
            StopReason::Wedged => turn.config.wedged_deadline,
            StopReason::Command => turn.config.command_deadline,
            StopReason::Idle | StopReason::Evicted | StopReason::StartFailed | StopReason::Shutdown => {
                Duration::ZERO
            }
            StopReason::Revision | StopReason::Removed | StopReason::Lifetime | StopReason::Restart => {
                turn.config.drain_deadline
            }
        }
    }
}

pub(crate) fn login(principal: &Principal) -> Option<String> {
    match principal {
        Principal::Anonymous | Principal::Guest(_) => None,
        Principal::User { name, .. } => Some(name.as_str().to_owned()),
    }
}

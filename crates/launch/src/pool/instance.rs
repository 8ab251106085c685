//! One instance, a seat on it, a place in the line: the nouns of the pool and their own arithmetic.

use std::time::Duration;

use skep_model::{Choice, GuestId, InstanceId, InstanceName, Principal, Revision, SeatId, UserName, Variant};

use super::time::Moment;
use super::{GrantId, Ticket};
use crate::backend::Stage;
use crate::handle::{Claim, InstancePhase};

/// Why an instance has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StopReason {
    /// Nobody held a seat for `idle_timeout`.
    Idle,
    /// Room was needed for an app somebody waits for.
    Evicted,
    /// The app has changed.
    Revision,
    /// The app is no longer published.
    Removed,
    /// It has reached `max_lifetime`.
    Lifetime,
    /// It did not answer probes.
    Wedged,
    /// Somebody ordered it.
    Command,
    /// Somebody ordered a restart.
    Restart,
    /// It did not become ready.
    StartFailed,
    Shutdown,
}

impl StopReason {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::Revision => "revision",
            Self::Removed => "removed",
            Self::Lifetime => "lifetime",
            Self::Wedged => "wedged",
            Self::Command => "command",
            Self::Restart => "restart",
            Self::StartFailed => "start-failed",
            Self::Shutdown => "shutdown",
        }
    }

    /// For people, in the journal.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Idle => "nobody was there for the idle timeout",
            Self::Evicted => "it was idle and its room was needed for an app somebody waits for",
            Self::Revision => "the app has changed",
            Self::Removed => "the app is no longer published",
            Self::Lifetime => "it has reached its maximum lifetime",
            Self::Wedged => "it does not answer any more",
            Self::Command => "somebody ordered the stop",
            Self::Restart => "an administrator ordered a restart",
            Self::StartFailed => "it did not become ready",
            Self::Shutdown => "the server is shutting down",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Ordered; `clock` is when `start_timeout` began to count (or the environment's building, while it is built).
    Starting {
        clock: Moment,
        environment: bool,
    },
    Ready,
    /// Gets no new visitor; ends with its last one or at the deadline.
    Draining {
        reason: StopReason,
        deadline: Moment,
    },
    Stopping,
}

/// Whose an instance is, when it is not shared. Groups change; the name does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    Anonymous,
    Guest(GuestId),
    User(UserName),
}

impl Owner {
    pub(crate) fn of(principal: &Principal) -> Self {
        match principal {
            Principal::Anonymous => Self::Anonymous,
            Principal::Guest(id) => Self::Guest(*id),
            Principal::User { name, .. } => Self::User(name.clone()),
        }
    }

    pub(crate) fn is(&self, principal: &Principal) -> bool {
        match (self, principal) {
            (Self::Anonymous, Principal::Anonymous) => true,
            (Self::Guest(own), Principal::Guest(id)) => own == id,
            (Self::User(own), Principal::User { name, .. }) => own == name,
            _ => false,
        }
    }
}

/// Who looks for a seat, and where instances are not shared: under which name, and started with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeker<'a> {
    pub principal: &'a Principal,
    pub name: Option<&'a InstanceName>,
    /// `None`: with whatever it was started with.
    pub chosen: Option<&'a Choice>,
}

impl Seeker<'_> {
    /// The same person, and the same name.
    pub(crate) fn is(self, other: Seeker<'_>) -> bool {
        Owner::of(self.principal).is(other.principal) && self.name == other.name
    }
}

impl Claim {
    pub(crate) fn seeker(&self) -> Seeker<'_> {
        Seeker { principal: &self.principal, name: self.name.as_ref(), chosen: self.chosen.as_ref() }
    }
}

#[derive(Debug)]
pub(crate) struct Instance {
    pub id: InstanceId,
    pub revision: Revision,
    /// Set for apps with one instance per user.
    pub owner: Option<(Owner, Principal)>,
    pub variant: Variant,
    pub phase: Phase,
    pub started: Moment,
    pub ready_at: Option<Moment>,
    pub ready_ms: Option<u64>,
    pub stage: Stage,
    pub stage_since: Moment,
    /// The stages behind it and how long each took, milliseconds.
    pub stages: Vec<(Stage, u64)>,
    pub detail: String,
    /// Seats held or reserved.
    pub taken: u32,
    /// Open requests and tunnels.
    pub open: u32,
    pub idle_since: Moment,
    /// Consecutive probes without an answer.
    pub misses: u32,
    pub probe_due: Moment,
    pub probing: bool,
    /// Ordered to keep seats warm, not because somebody waited.
    pub warm: bool,
    /// The lasting seats have changed since they were last noted.
    pub note_due: bool,
    pub noted_at: Moment,
}

impl Instance {
    pub(crate) fn new(id: InstanceId, revision: Revision, owner: Option<Principal>, now: Moment) -> Self {
        Self {
            id,
            revision,
            owner: owner.map(|principal| (Owner::of(&principal), principal)),
            variant: Variant::default(),
            phase: Phase::Starting { clock: now, environment: false },
            started: now,
            ready_at: None,
            ready_ms: None,
            stage: Stage::Start,
            stage_since: now,
            stages: Vec::new(),
            detail: String::new(),
            taken: 0,
            open: 0,
            idle_since: now,
            misses: 0,
            probe_due: now,
            probing: false,
            warm: false,
            note_due: false,
            noted_at: Moment(0),
        }
    }

    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. })
    }

    /// Ready and open to new visitors.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    pub(crate) fn is_wedged(&self) -> bool {
        matches!(self.phase, Phase::Draining { reason: StopReason::Wedged, .. })
    }

    /// Starting or ready: not on its way out.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_starting() || self.is_ready()
    }

    /// Whether this is where they may sit.
    pub(crate) fn admits(&self, seeker: Seeker<'_>) -> bool {
        let fits = || seeker.chosen.is_none_or(|chosen| self.variant.chosen == *chosen);
        self.owner.is_none() || self.is_theirs(seeker) && fits()
    }

    /// Whether it is their own, under this name, whatever it was started with.
    pub(crate) fn is_theirs(&self, seeker: Seeker<'_>) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|(owner, _)| owner.is(seeker.principal))
            && self.variant.name.as_ref() == seeker.name
    }

    /// Whose it is, and under which name, where instances are not shared.
    pub(crate) fn whose(&self) -> Option<(Owner, Option<InstanceName>)> {
        let (owner, _) = self.owner.as_ref()?;
        Some((owner.clone(), self.variant.name.clone()))
    }

    /// Whether its owner, or whoever manages the app, has ordered its end.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self.phase, Phase::Stopping | Phase::Draining { reason: StopReason::Command, .. })
    }

    pub(crate) fn public_phase(&self) -> InstancePhase {
        match self.phase {
            Phase::Starting { .. } => InstancePhase::Starting,
            Phase::Ready => InstancePhase::Ready,
            Phase::Draining { .. } => InstancePhase::Draining,
            Phase::Stopping => InstancePhase::Stopping,
        }
    }
}

/// The end, asked for by nobody, of an instance that had been ready: what whoever waits for the next one is told.
#[derive(Debug)]
pub(crate) struct End {
    pub instance: InstanceId,
    /// Whose it was, and under which name, where instances are not shared.
    pub whose: Option<(Owner, Option<InstanceName>)>,
    pub at: Moment,
    pub reason: String,
}

impl End {
    /// After this it is no news.
    const TOLD_FOR: Duration = Duration::from_secs(300);
    /// Of one app.
    pub(crate) const KEPT: usize = 64;

    pub(crate) fn is_news(&self, now: Moment) -> bool {
        now.since(self.at) < Self::TOLD_FOR
    }

    /// Whether it is what they had before. Without anybody: whether it was everybody's.
    pub(crate) fn concerns(&self, seeker: Option<Seeker<'_>>) -> bool {
        let Some((owner, name)) = &self.whose else { return true };
        seeker.is_some_and(|seeker| owner.is(seeker.principal) && name.as_ref() == seeker.name)
    }
}

/// A granted seat.
#[derive(Debug)]
pub(crate) struct Seat {
    pub instance: InstanceId,
    pub grant: GrantId,
    /// Whose it is, when somebody is logged in.
    pub user: Option<UserName>,
    /// Where instances are not shared: known to be the owner's, rather than a guest's.
    pub own: bool,
    /// Open requests and tunnels.
    pub open: u32,
    /// Of those, in a predecessor process: their traffic is not seen here.
    pub foreign: u32,
    /// Stays reserved after its last use; otherwise it ends with it.
    pub lasting: bool,
    pub reserved_until: Moment,
    /// When the visitor last did something, as far as is known here.
    pub last_traffic: Moment,
    pub since: Moment,
    /// The entry in the app's queue of deadlines that counts.
    pub queued: Option<Moment>,
}

/// One visitor in the line, with all requests that wait for the same seat.
#[derive(Debug)]
pub(crate) struct Place {
    pub seat: SeatId,
    pub principal: Principal,
    pub name: Option<InstanceName>,
    /// What an instance for it is started with.
    pub chosen: Choice,
    pub since: Moment,
    pub tickets: Vec<Waiter>,
    /// Set for a page: when it was last seen. Such a place outlives its tickets.
    pub page_seen: Option<Moment>,
    pub lasting: bool,
    /// Where the visitor was before.
    pub wanted: Option<InstanceId>,
}

impl Place {
    pub(crate) fn seeker(&self) -> Seeker<'_> {
        let chosen = Some(&self.chosen).filter(|chosen| !chosen.is_empty());
        Seeker { principal: &self.principal, name: self.name.as_ref(), chosen }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiter {
    pub ticket: Ticket,
    pub deadline: Moment,
}

/// Consecutive failures and what they delay.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    pub failures: u32,
    /// Nothing is started before.
    pub until: Moment,
    pub last: Option<LastFailure>,
}

#[derive(Debug, Clone)]
pub(crate) struct LastFailure {
    pub instance: InstanceId,
    pub summary: String,
    pub last_lines: Vec<String>,
    /// Set when the app simply did not answer in time.
    pub timeout: Option<Duration>,
}

//! The decision who sits where, for all apps: one pure state machine.
//!
//! [`Pool::step`] and [`Pool::claim`] take the time and the source of random numbers as arguments and answer with
//! [`Action`]s; nothing in here reads a clock, waits, or touches a process.
//!
//! Invariants, checked over millions of steps by the simulation in `tests/it/simulation`:
//! - a seat is only ever granted on an instance that is ready, and a *new* seat only on one that is not draining;
//! - an instance takes no new seat beyond `seats`. More may be taken only by keys that had to be honoured: seats noted
//!   before a restart, seats reported by a predecessor process, seats granted before `seats` was lowered;
//! - an instance is unselectable before it is stopped, and before its drain deadline it is stopped only when nobody
//!   holds a seat on it;
//! - at most `max_instances` instances of an app exist, plus one: when all of them are on their way out (an older
//!   revision, wedged, too old), one replacement may overlap. The caps over all apps have no such exception;
//! - where instances are not shared, nobody gets a seat on another's, nor on one of their own under another name,
//!   except by their leave (a claim that joins one), and such a claim neither waits nor starts anything, nor takes the
//!   last seat from the owner;
//! - nobody who chose what an instance is started with gets one that was started with something else, and nothing is
//!   started with what is not offered;
//! - every claim is answered exactly once, the line is served in order (per owner and name, where instances are not shared);
//! - a start is ordered only when demand exceeds the seats that are free or already on their way.
//!
//! Absent on purpose: where an instance runs, how it is probed, cookies, persistence.

mod app;
mod claim;
mod config;
mod fault;
mod instance;
mod life;
mod orders;
mod rounds;
mod start;
mod time;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_model::{AppId, AppSpec, EventKind, InstanceId, Principal, Revision, SeatId, UserName, Variant};

use crate::backend::{ExitReport, LaunchOrder, Stage};
use crate::handle::{Claim, Refusal, StopTarget};

pub use config::PoolConfig;
pub use fault::Fault;
pub use instance::StopReason;
pub use time::Moment;
pub use view::{Census, InstanceFacts, StatusFacts};

use app::App;

/// Where the pool draws the random parts of instance and seat ids.
pub trait Nonces {
    fn next(&mut self) -> u64;
}

/// A claim in the line. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// One granting of a seat. A seat that is taken back and granted again is another grant, so that whoever still holds
/// the first one cannot give back the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub u64);

/// A granted seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub grant: GrantId,
    pub seat: SeatId,
    pub instance: InstanceId,
}

/// What a claim gets at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Granted(Granted),
    Waiting { ticket: Ticket, seat: SeatId },
    Refused(Refusal),
}

/// Why a start did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One sentence.
    pub summary: String,
    /// Oldest first.
    pub last_lines: Vec<String>,
}

/// An instance found alive at start.
#[derive(Debug, Clone)]
pub struct Found {
    pub id: InstanceId,
    pub revision: Revision,
    pub owner: Option<Principal>,
    pub variant: Variant,
    pub started: Moment,
    pub was_ready: bool,
    pub ready_ms: Option<u64>,
    pub seats: Vec<SeatId>,
}

/// What happens to the pool. Claims have an entry of their own, because their answer is needed in place.
#[derive(Debug, Clone)]
pub enum Input {
    /// Time passed.
    Tick,
    /// Everything that was alive when Skep started. Nothing is started before this.
    Adopt(Vec<Found>),
    /// Replaces what is published.
    SetApps(Vec<Arc<AppSpec>>),
    /// A claim's request is gone: its ticket is void. A page's place stays.
    Abandon {
        app: AppId,
        ticket: Ticket,
    },
    /// A page that waits was seen.
    Seen {
        app: AppId,
        seat: SeatId,
    },
    /// One use of a seat is over.
    Release {
        app: AppId,
        seat: SeatId,
        grant: GrantId,
        foreign: bool,
    },
    /// The answer to [`Action::AskActivity`]: when the visitor last did something.
    Activity {
        app: AppId,
        seat: SeatId,
        grant: GrantId,
        last: Moment,
    },
    Progress {
        id: InstanceId,
        stage: Stage,
        detail: String,
    },
    /// The first good answer.
    Ready {
        id: InstanceId,
    },
    StartFailed {
        id: InstanceId,
        failure: Failure,
    },
    /// What a failed start had written, found out after its failure was told.
    LastLines {
        id: InstanceId,
        lines: Vec<String>,
    },
    Exited {
        id: InstanceId,
        report: ExitReport,
    },
    /// Nothing is left of the instance.
    Stopped {
        id: InstanceId,
    },
    /// The answer to [`Action::Probe`].
    Probed {
        id: InstanceId,
        good: bool,
    },
    /// Somebody could not reach the instance: probe it now.
    Suspect {
        id: InstanceId,
    },
    Stop(StopTarget),
    Restart(StopTarget),
    Retry(AppId),
    /// Before a hand-over: nothing is stopped or kept warm any more; claims are still served.
    Quiesce,
    /// After it: nothing is granted, started or stopped. Releases still count.
    Freeze,
    /// Every claim is refused; every instance is stopped.
    Shutdown,
}

/// What must be done. Everything is idempotent by id.
#[derive(Debug, Clone)]
pub enum Action {
    Launch(LaunchOrder),
    /// Wait for the first good answer of an instance that was found alive before it had been ready.
    AwaitReady {
        id: InstanceId,
    },
    Stop {
        id: InstanceId,
        grace: Duration,
        reason: StopReason,
    },
    /// Nothing of the instance is left; what is known about it can be forgotten.
    Forget {
        id: InstanceId,
    },
    Probe {
        id: InstanceId,
    },
    NoteSeats {
        id: InstanceId,
        seats: Vec<SeatId>,
    },
    Grant {
        ticket: Ticket,
        granted: Granted,
    },
    Refuse {
        ticket: Ticket,
        refusal: Refusal,
    },
    /// The seat is taken back from whoever holds it.
    Revoke {
        grant: GrantId,
    },
    /// Nobody holds the seat any more.
    Free {
        grant: GrantId,
        used: Duration,
        app: AppId,
        user: Option<UserName>,
        /// It was a visit, rather than a single request's.
        lasting: bool,
    },
    AskActivity {
        app: AppId,
        seat: SeatId,
        grant: GrantId,
    },
    /// What [`Pool::status`] says about the app may have changed.
    Changed {
        app: AppId,
    },
    Journal(Record),
    Figure {
        app: AppId,
        figure: Figure,
    },
}

/// A journal event without its wall-clock time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: EventKind,
    pub app: AppId,
    pub instance: Option<InstanceId>,
    pub user: Option<String>,
    pub detail: String,
}

/// A number worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    StartReady,
    StartFailed,
    StartTimeout,
    Stopped(StopReason),
    Crashed,
    /// It went with what it ran on.
    Lost,
    StageTook(Stage, Duration),
}

/// What the pool counts over all apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Instances in any phase.
    pub instances: u32,
    /// Starting, those still building their environment left out.
    pub starting: u32,
    /// Of those, ordered to keep seats warm.
    pub starting_warm: u32,
    /// On their way out.
    pub stopping: u32,
    next_ticket: u64,
    next_grant: u64,
}

/// What an app may use while it takes its turn.
pub(crate) struct Turn<'a> {
    pub now: Moment,
    pub config: &'a PoolConfig,
    pub counts: &'a mut Counts,
    pub nonces: &'a mut dyn Nonces,
    pub out: &'a mut Vec<Action>,
    pub mode: Mode,
    pub fault: Option<Fault>,
}

impl Turn<'_> {
    fn ticket(&mut self) -> Ticket {
        self.counts.next_ticket += 1;
        Ticket(self.counts.next_ticket)
    }

    fn grant(&mut self) -> GrantId {
        self.counts.next_grant += 1;
        GrantId(self.counts.next_grant)
    }

    fn seat(&mut self) -> SeatId {
        SeatId(u128::from(self.nonces.next()) << 64 | u128::from(self.nonces.next()))
    }

    /// Whether the simulation planted this fault. Always `false` outside it.
    fn planted(&self, fault: Fault) -> bool {
        cfg!(feature = "faults") && self.fault == Some(fault)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Running,
    Quiet,
    Frozen,
    ShuttingDown,
}

/// The state of everything that is published.
pub struct Pool {
    config: PoolConfig,
    /// The latest time seen: steps come from several threads, whose clock readings may arrive out of order.
    now: Moment,
    apps: BTreeMap<AppId, App>,
    /// Apps that need ticks.
    active: BTreeSet<AppId>,
    /// Apps that need an instance they may not start yet.
    wanting: BTreeSet<AppId>,
    counts: Counts,
    last_warm_start: Option<Moment>,
    mode: Mode,
    adopted: bool,
    configured: bool,
    /// Found alive before it was known what is published.
    unclaimed: Vec<Found>,
    fault: Option<Fault>,
}

impl Pool {
    pub fn new(config: PoolConfig) -> Self {
        Self {
            config,
            now: Moment(0),
            apps: BTreeMap::new(),
            active: BTreeSet::new(),
            wanting: BTreeSet::new(),
            counts: Counts::default(),
            last_warm_start: None,
            mode: Mode::Running,
            adopted: false,
            configured: false,
            unclaimed: Vec::new(),
            fault: None,
        }
    }

    /// Makes the pool wrong in one way, to see the simulation notice.
    #[cfg(feature = "faults")]
    pub fn plant(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// A visitor asks for a seat. What must be done besides is appended to `out`.
    pub fn claim(
        &mut self,
        now: Moment,
        claim: &Claim,
        nonces: &mut dyn Nonces,
        out: &mut Vec<Action>,
    ) -> Answer {
        self.now = self.now.max(now);
        if matches!(self.mode, Mode::Frozen | Mode::ShuttingDown) {
            return Answer::Refused(Refusal::ShuttingDown);
        }
        // What is alive may not be known yet.
        if claim.joins.is_some() && !(self.adopted && self.configured) {
            return Answer::Refused(Refusal::NotUp);
        }
        let answer = self.with(&claim.app, nonces, out, |app, turn| app.claim(turn, claim));
        // A seat granted from reserve needs nothing further; anything else may call for an instance.
        self.settle(&claim.app, nonces, out);
        answer.unwrap_or(Answer::Refused(Refusal::UnknownApp))
    }

    /// Grants a seat a predecessor process still uses, whether or not there is room. `None` when its instance is gone.
    pub fn claim_foreign(
        &mut self,
        now: Moment,
        app_id: &AppId,
        seat: SeatId,
        instance: &InstanceId,
        nonces: &mut dyn Nonces,
        out: &mut Vec<Action>,
    ) -> Option<Granted> {
        self.now = self.now.max(now);
        let granted = self.with(app_id, nonces, out, |app, turn| app.claim_foreign(turn, seat, instance));
        self.settle(app_id, nonces, out);
        granted.flatten()
    }

    /// Everything else that happens.
    pub fn step(&mut self, now: Moment, input: Input, nonces: &mut dyn Nonces, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.tick(nonces, out),
            Input::Adopt(found) => self.adopt(found, nonces, out),
            Input::SetApps(specs) => self.set_apps(specs, nonces, out),
            Input::Abandon { app, ticket } => self.one(&app, nonces, out, |app, _| app.abandon(ticket)),
            Input::Seen { app, seat } => self.one(&app, nonces, out, |app, turn| app.seen(turn, seat)),
            Input::Release { app, seat, grant, foreign } => {
                self.one(&app, nonces, out, |app, turn| app.release(turn, seat, grant, foreign));
            }
            Input::Activity { app, seat, grant, last } => {
                self.one(&app, nonces, out, |app, turn| app.activity(turn, seat, grant, last));
            }
            Input::Progress { id, stage, detail } => {
                self.one(id.app(), nonces, out, |app, turn| app.progress(turn, &id, stage, detail));
            }
            Input::Ready { id } => self.one(id.app(), nonces, out, |app, turn| app.ready(turn, &id)),
            Input::StartFailed { id, failure } => {
                self.one(id.app(), nonces, out, |app, turn| app.start_failed(turn, &id, failure));
            }
            Input::LastLines { id, lines } => {
                self.one(id.app(), nonces, out, |app, turn| app.last_lines(turn, &id, lines));
            }
            Input::Exited { id, report } => {
                self.unclaimed.retain(|found| found.id != id);
                self.one(id.app(), nonces, out, |app, turn| app.exited(turn, &id, report));
            }
            Input::Stopped { id } => self.one(id.app(), nonces, out, |app, turn| app.stopped(turn, &id)),
            Input::Probed { id, good } => {
                self.one(id.app(), nonces, out, |app, turn| app.probed(turn, &id, good));
            }
            Input::Suspect { id } => self.one(id.app(), nonces, out, |app, turn| app.suspect(turn, &id)),
            Input::Stop(target) => self.command(&target, nonces, out, App::stop_by_command),
            Input::Restart(target) => self.command(&target, nonces, out, App::restart_by_command),
            Input::Retry(app) => self.one(&app, nonces, out, |app, turn| app.retry(turn)),
            Input::Quiesce => self.set_mode(Mode::Quiet),
            Input::Freeze => self.close(Mode::Frozen, nonces, out),
            Input::Shutdown => self.close(Mode::ShuttingDown, nonces, out),
        }
    }

    /// When the pool wants its next [`Input::Tick`]; `None` as long as nothing is alive or waiting.
    pub fn next_tick(&self) -> Option<Moment> {
        let quiet = self.active.is_empty() && self.wanting.is_empty();
        (!quiet && self.mode != Mode::Frozen).then(|| self.now.after(self.config.tick))
    }

    fn with<R>(
        &mut self,
        app: &AppId,
        nonces: &mut dyn Nonces,
        out: &mut Vec<Action>,
        f: impl FnOnce(&mut App, &mut Turn<'_>) -> R,
    ) -> Option<R> {
        let app = self.apps.get_mut(app)?;
        let mut turn = Turn {
            now: self.now,
            config: &self.config,
            counts: &mut self.counts,
            nonces,
            out,
            mode: self.mode,
            fault: self.fault,
        };
        Some(f(app, &mut turn))
    }

    /// One app takes its turn; then its line is served and its needs are looked after.
    fn one(
        &mut self,
        id: &AppId,
        nonces: &mut dyn Nonces,
        out: &mut Vec<Action>,
        f: impl FnOnce(&mut App, &mut Turn<'_>),
    ) {
        self.with(id, nonces, out, f);
        self.settle(id, nonces, out);
    }

    /// Serves the line of an app, brings the sets it is in up to date and starts what may be started.
    fn settle(&mut self, id: &AppId, nonces: &mut dyn Nonces, out: &mut Vec<Action>) {
        self.with(id, nonces, out, |app, turn| app.serve_line(turn));
        self.enlist(id);
        self.start_wanting(nonces, out);
    }

    fn enlist(&mut self, id: &AppId) {
        let Some(app) = self.apps.get(id) else {
            self.active.remove(id);
            self.wanting.remove(id);
            return;
        };
        if app.is_gone() {
            self.apps.remove(id);
            self.active.remove(id);
            self.wanting.remove(id);
            return;
        }
        let wanting = app.need(!self.planted(Fault::Stampede)).is_some();
        if wanting != self.wanting.contains(id) {
            if wanting {
                self.wanting.insert(id.clone())
            } else {
                self.wanting.remove(id)
            };
        }
        let active = app.is_active();
        if active != self.active.contains(id) {
            if active {
                self.active.insert(id.clone())
            } else {
                self.active.remove(id)
            };
        }
    }
}

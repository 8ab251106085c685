//! What the edge and the control plane hold of the launcher.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skep_model::{
    AppId, AppSpec, BackendKind, Choice, InstanceId, InstanceName, Prefix, Principal, Revision, SeatId,
    UserName, Variant,
};
use tokio::sync::oneshot;

use crate::backend::{Dial, Stage, cause_alone};
use crate::desk::{Desk, HeldSeat};
use crate::pool::{Input, Pool, Ticket};
use crate::visits::Visits;

/// The launcher, shared by every event loop and the control plane. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    desk: Arc<Desk>,
}

/// A visitor asks for a seat.
#[derive(Debug, Clone)]
pub struct Claim {
    pub app: AppId,
    /// Which of the visitor's own instances; only where they are not shared.
    pub name: Option<InstanceName>,
    /// This very instance, somebody else's, by their leave.
    pub joins: Option<InstanceId>,
    /// What an instance of theirs is to be started with, checked; only where that is asked for.
    pub chosen: Option<Choice>,
    /// What the visitor's `skep-seat` cookie says, if it opened.
    pub key: Option<SeatKey>,
    pub principal: Principal,
    pub kind: ClaimKind,
}

/// What a `skep-seat` cookie holds: which seat, and on which instance once there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatKey {
    pub seat: SeatId,
    pub instance: Option<InstanceId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimKind {
    /// A page load that gets the launch page when the app is cold. Its place in the line outlives the request, for as
    /// long as the page keeps coming back; a seat it got stays reserved for the page's own requests.
    Page,
    /// A page load that is held. Like `Page` once granted.
    HeldPage,
    /// Any other request. Its place in the line ends with it; without a cookie, so does its seat.
    Held,
    /// A WebSocket upgrade: as `Held`, and its lease carries traffic marks.
    Tunnel,
    /// A request that must not start anything (a bot's): served when a warm seat is free, refused otherwise.
    WarmOnly,
}

/// The answer to a claim.
pub enum Outcome {
    Granted(Lease),
    Waiting(Waiting),
    Refused(Refusal),
}

impl Handle {
    pub(crate) fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }

    /// Asks for a seat. Never blocks and never awaits: a warm seat is granted in place.
    pub fn claim(&self, claim: impl Borrow<Claim>) -> Outcome {
        self.desk.claim(claim.borrow())
    }

    /// How a start goes, for the launch page. With a seat: also its place in the line, which thereby counts as seen.
    pub fn status(&self, app: &AppId, seat: Option<SeatId>) -> LaunchStatus {
        self.desk.status(app, seat)
    }

    /// Resolves when the status of the app may have changed, at the latest after a second, so that a change between
    /// looking and waiting is missed for no longer than that.
    pub async fn changed(&self, app: &AppId) {
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        match self.desk.change_of(app) {
            Some(change) => {
                let _late = tokio::time::timeout(LOOK_AGAIN, change.notified()).await;
            }
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }

    /// Replaces what is published. Instances of an older revision finish with their visitors; those of apps that are
    /// gone are drained.
    pub fn set_apps(&self, apps: Vec<Arc<AppSpec>>) {
        self.desk.step(Input::SetApps(apps));
        self.desk.forget_changes();
    }

    pub fn apps(&self) -> Vec<Arc<AppSpec>> {
        self.desk.read(|pool| pool.specs().cloned().collect())
    }

    /// One of them.
    pub fn app(&self, id: &AppId) -> Option<Arc<AppSpec>> {
        self.desk.read(|pool| pool.published(id).cloned())
    }

    /// Every instance, oldest first, with its seats.
    pub fn instances(&self) -> Vec<InstanceView> {
        self.desk.instances()
    }

    /// Drains and stops: open requests get a few seconds, then the rest is cut off. Answers how many instances that
    /// concerned, once they are gone.
    pub async fn stop(&self, target: StopTarget) -> usize {
        let ids = self.desk.read(|pool| pool.targeted(&target));
        self.desk.step(Input::Stop(target));
        self.desk.gone(&ids).await;
        ids.len()
    }

    /// New visitors get new instances, which are started first where anybody is there; old ones drain. Answers how
    /// many instances that concerned, at once.
    pub async fn restart(&self, target: StopTarget) -> usize {
        let ids = self.desk.read(|pool| pool.targeted(&target));
        self.desk.step(Input::Restart(target));
        ids.len()
    }

    /// Forgets a crash back-off or a failed start, so that the next claim tries again at once.
    pub fn retry(&self, app: &AppId) {
        self.desk.step(Input::Retry(app.clone()));
    }

    /// An instance could not be reached: it is probed at once instead of at its next turn.
    pub fn suspect(&self, instance: &InstanceId) {
        self.desk.step(Input::Suspect { id: instance.clone() });
    }

    /// Whether an instance is gone, or turns out to be within `patience`.
    pub async fn has_ended(&self, instance: &InstanceId, patience: Duration) -> bool {
        let ended = self.desk.all_gone(std::slice::from_ref(instance));
        tokio::time::timeout(patience, ended).await.is_ok()
    }

    /// Why an instance ended that nobody had asked to, where that is known by now and the next one is not ready yet.
    pub fn why_ended(&self, instance: &InstanceId) -> Option<String> {
        self.desk.read(|pool| pool.why_ended(instance).map(str::to_owned))
    }

    /// A seat that a predecessor process still uses while it drains: held here until the lease is dropped. `None`
    /// when the instance is gone.
    pub fn open_foreign(&self, app: &AppId, key: &SeatKey) -> Option<Lease> {
        let instance = key.instance.as_ref()?;
        self.desk.open_foreign(app, key.seat, instance)
    }

    /// Every seat with open requests or tunnels, and how many: what a draining predecessor reports to its successor.
    pub fn open_seats(&self) -> Vec<(SeatKey, AppId, u32)> {
        let seats = self.desk.read(Pool::open_seats);
        let row = |(app, seat, instance, open)| (SeatKey { seat, instance: Some(instance) }, app, open);
        seats.into_iter().map(row).collect()
    }

    /// Where a user sits: the instance of every visit that goes on.
    pub fn sittings(&self, user: &UserName) -> Vec<InstanceId> {
        self.desk.read(|pool| pool.sittings(user))
    }

    /// The visits that have ended since this was last asked.
    pub fn take_visits(&self) -> Vec<Visits> {
        self.desk.take_visits()
    }

    /// Hands everything over to a successor process. First nothing is stopped or kept warm any more, while whoever
    /// waits is still served and stops under way come to their end, for as long as `patience` allows. Then the launcher
    /// freezes: it grants nothing new ([`Refusal::ShuttingDown`]), starts and stops nothing, and the driver ends.
    /// Instances live on; open leases stay valid.
    pub async fn drain_for_handover(&self, patience: Duration) {
        self.desk.step(Input::Quiesce);
        let until = tokio::time::Instant::now() + patience;
        while self.desk.read(Pool::is_busy) && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.desk.step(Input::Freeze);
        self.desk.end();
        self.desk.finished().await;
    }

    /// Ends the launcher. Instances live on for the next start to adopt, unless `stop_apps`; then this answers once
    /// they are gone.
    pub async fn shutdown(&self, stop_apps: bool) {
        const STOPS_UNDER_WAY: Duration = Duration::from_secs(15);
        if stop_apps {
            let all = self.desk.read(|pool| pool.targeted(&StopTarget::All));
            self.desk.step(Input::Shutdown);
            self.desk.gone(&all).await;
        } else {
            self.desk.step(Input::Freeze);
            let until = tokio::time::Instant::now() + STOPS_UNDER_WAY;
            while self.desk.read(Pool::is_stopping) && tokio::time::Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        self.desk.end();
        self.desk.finished().await;
    }
}

#[derive(Debug, Clone)]
pub enum StopTarget {
    App(AppId),
    Instance(InstanceId),
    All,
}

/// A claim in the line. Await [`Waiting::granted`]; dropping it gives the place up (except for [`ClaimKind::Page`]).
pub struct Waiting {
    pub(crate) desk: Arc<Desk>,
    pub(crate) app: AppId,
    pub(crate) seat: SeatId,
    pub(crate) ticket: Ticket,
    /// What the visitor claimed with.
    pub(crate) claimed: Option<SeatKey>,
    pub(crate) answer: oneshot::Receiver<Result<Lease, Refusal>>,
    pub(crate) answered: bool,
}

impl Waiting {
    /// The seat this claim will get, known from the start, so that a cookie can be set while waiting.
    pub fn key(&self) -> SeatKey {
        SeatKey { seat: self.seat, instance: None }
    }

    /// # Errors
    /// Why there is no seat after all.
    pub async fn granted(mut self) -> Result<Lease, Refusal> {
        let answer = (&mut self.answer).await;
        self.answered = true;
        let mut lease = answer.unwrap_or(Err(Refusal::ShuttingDown))?;
        lease.key_is_new = self.claimed.as_ref() != Some(&lease.key());
        Ok(lease)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            self.desk.abandon(&self.app, self.ticket);
        }
    }
}

/// A seat, held. Dropping the lease tells the pool that this use of the seat is over.
///
/// Thousands of idle tunnels hold one each: it is three words, what leases of one seat have in common is shared.
pub struct Lease {
    pub(crate) desk: Arc<Desk>,
    pub(crate) held: Arc<HeldSeat>,
    pub(crate) key_is_new: bool,
    pub(crate) foreign: bool,
}

impl Lease {
    /// What to seal into the visitor's cookie.
    pub fn key(&self) -> SeatKey {
        SeatKey { seat: self.held.seat, instance: Some(self.held.upstream.instance.clone()) }
    }

    /// Whether the visitor's cookie (as claimed with) must be replaced by [`Lease::key`].
    pub fn key_is_new(&self) -> bool {
        self.key_is_new
    }

    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.held.upstream
    }

    /// The visitor did something (a request, a data frame). Cheap: one relaxed load and one relaxed store.
    pub fn touch(&self) {
        self.held.touch(self.desk.coarse_now());
    }

    /// Resolves when the seat is taken back: inactivity, lifetime, stop, revoked access. Whoever tunnels must close.
    pub async fn revoked(&self) {
        self.held.revoked().await;
    }

    /// Whether the seat has been taken back.
    pub fn is_revoked(&self) -> bool {
        self.held.is_revoked()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.desk.release(&self.held, self.foreign);
    }
}

/// A live instance as the edge needs it: where to connect and what its app expects.
pub struct Upstream {
    pub app: AppId,
    pub name: Option<InstanceName>,
    pub instance: InstanceId,
    pub prefix: Prefix,
    /// `` or `/sales` or `/sales~north`
    pub base_path: String,
    pub dial: Arc<dyn Dial>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.instance, self.dial.describe())
    }
}

/// Why a claim got no seat. Each has a stable `code` that clients may rely on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such app")]
    UnknownApp,
    #[error("too many visitors are waiting for this app already")]
    LineFull,
    #[error("every seat is taken and no further instance may be started")]
    NoRoom,
    #[error("this visitor has {0} instances of the app already, and may have no more at a time")]
    TooManyOfOne(u32),
    #[error("the app starts with what its visitor chooses first: open its page")]
    ChoiceNeeded,
    #[error("what was chosen before the start is not offered any more: open the app's page and choose again")]
    ChoiceWithdrawn,
    #[error(
        "an instance of this name runs or starts already, with other values: end it, or choose another name"
    )]
    ChoiceDiffers,
    #[error(
        "only who keeps cookies has an instance with a name: load its page first, and send the cookies it sets"
    )]
    NoIdentity,
    #[error("the instance that was shared is not shared any more, or has ended")]
    ShareEnded,
    #[error("the instance that was shared cannot be joined at the moment")]
    NotUp,
    #[error("the app did not answer within {0:?}")]
    StartTimeout(Duration),
    #[error("the app could not be started: {summary}")]
    StartFailed { summary: String, last_lines: Vec<String>, retry_after: Duration },
    #[error("the app is being taken down")]
    Removed,
    #[error("the app is not running, and this client may not start it")]
    Cold,
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl Refusal {
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownApp => "unknown-app",
            Self::LineFull => "line-full",
            Self::NoRoom => "no-room",
            Self::TooManyOfOne(_) => "too-many-of-one",
            Self::ChoiceNeeded => "choice-needed",
            Self::ChoiceWithdrawn => "choice-withdrawn",
            Self::ChoiceDiffers => "choice-differs",
            Self::NoIdentity => "no-identity",
            Self::ShareEnded => "share-ended",
            Self::NotUp => "not-up",
            Self::StartTimeout(_) => "start-timeout",
            Self::StartFailed { .. } => "start-failed",
            Self::Removed => "app-removed",
            Self::Cold => "app-cold",
            Self::ShuttingDown => "shutting-down",
        }
    }

    /// As whoever may not see the app's log may read it.
    #[must_use]
    pub fn without_log(&self) -> Self {
        match self {
            Self::StartFailed { summary, last_lines, retry_after } => Self::StartFailed {
                summary: cause_alone(summary, last_lines).to_owned(),
                last_lines: Vec::new(),
                retry_after: *retry_after,
            },
            other => other.clone(),
        }
    }

    /// The HTTP status a held request is answered with.
    pub fn status(&self) -> u16 {
        match self {
            Self::UnknownApp => 404,
            Self::TooManyOfOne(_) => 429,
            Self::ChoiceNeeded | Self::ChoiceWithdrawn | Self::ChoiceDiffers => 409,
            Self::NoIdentity => 403,
            Self::ShareEnded => 410,
            Self::StartTimeout(_) => 504,
            _ => 503,
        }
    }
}

/// How a start goes.
#[derive(Debug, Clone, Serialize)]
pub struct LaunchStatus {
    pub stage: Stage,
    pub detail: String,
    /// Milliseconds since this claim (or, without a seat, the newest start) began.
    pub elapsed_ms: u64,
    /// The usual time from order to ready: the median of the last 20 starts. `None` before the first.
    pub usual_ms: Option<u64>,
    /// 1 = next. `None` when not in the line.
    pub place: Option<u32>,
    pub waiting: u32,
    /// Set when the start failed: what went wrong, with its last lines.
    pub failure: Option<LaunchFailure>,
    /// The instance being waited for, when there is one: its log can be shown.
    pub instance: Option<InstanceId>,
    /// Why the visitor's last instance (or where they are shared, the app's) ended, if nobody had asked it to.
    pub before: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct LaunchFailure {
    pub code: &'static str,
    pub summary: String,
    pub last_lines: Vec<String>,
    /// Until Skep itself would try again, milliseconds.
    pub retry_after_ms: u64,
}

impl LaunchFailure {
    /// Leaves what whoever may not see the app's log may read.
    pub fn hide_log(&mut self) {
        self.summary = cause_alone(&self.summary, &self.last_lines).to_owned();
        self.last_lines.clear();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstancePhase {
    Starting,
    Ready,
    Draining,
    Stopping,
}

/// One row of `skep ps`.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceView {
    pub id: InstanceId,
    pub app: AppId,
    pub backend: BackendKind,
    pub node: String,
    pub pid: Option<u32>,
    pub phase: InstancePhase,
    pub revision: Revision,
    pub seats: u32,
    pub taken: u32,
    /// Open requests and tunnels.
    pub open: u32,
    pub owner: Option<Principal>,
    pub variant: Variant,
    /// Since when nobody has held a seat, milliseconds since the Unix epoch.
    pub idle_since_ms: Option<i64>,
    pub started_at_ms: i64,
    pub ready_ms: Option<u64>,
    pub address: String,
}

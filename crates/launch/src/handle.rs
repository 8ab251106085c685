//! What the edge and the control plane hold of the launcher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skep_model::{AppId, AppSpec, BackendKind, InstanceId, Prefix, Principal, Revision, SeatId};

use crate::backend::{Dial, Stage};

/// The launcher, shared by every event loop and the control plane. Cheap to clone.
#[derive(Clone)]
pub struct Handle {}

/// A visitor asks for a seat.
#[derive(Debug, Clone)]
pub struct Claim {
    pub app: AppId,
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
    /// Asks for a seat. Never blocks and never awaits: a warm seat is granted in place.
    pub fn claim(&self, _claim: Claim) -> Outcome {
        todo!()
    }

    /// How a start goes, for the launch page. With a seat: also its place in the line.
    pub fn status(&self, _app: &AppId, _seat: Option<SeatId>) -> LaunchStatus {
        todo!()
    }

    /// Resolves when the status of the app may have changed.
    pub async fn changed(&self, _app: &AppId) {
        todo!()
    }

    /// Replaces what is published. Instances of an older revision finish with their visitors; those of apps that are
    /// gone are drained.
    pub fn set_apps(&self, _apps: Vec<Arc<AppSpec>>) {
        todo!()
    }

    pub fn apps(&self) -> Vec<Arc<AppSpec>> {
        todo!()
    }

    /// Every instance, oldest first, with its seats.
    pub fn instances(&self) -> Vec<InstanceView> {
        todo!()
    }

    /// Drains and stops. Answers how many instances that concerned, once they are gone.
    pub async fn stop(&self, _target: StopTarget) -> usize {
        todo!()
    }

    /// New visitors get new instances, which are started first where anybody is there; old ones drain.
    pub async fn restart(&self, _target: StopTarget) -> usize {
        todo!()
    }

    /// Forgets a crash back-off or a failed start, so that the next claim tries again at once.
    pub fn retry(&self, _app: &AppId) {
        todo!()
    }
}

#[derive(Debug, Clone)]
pub enum StopTarget {
    App(AppId),
    Instance(InstanceId),
    All,
}

/// A claim in the line. Await [`Waiting::granted`]; dropping it gives the place up (except for [`ClaimKind::Page`]).
pub struct Waiting {}

impl Waiting {
    /// The seat this claim will get, known from the start, so that a cookie can be set while waiting.
    pub fn key(&self) -> SeatKey {
        todo!()
    }

    pub async fn granted(self) -> Result<Lease, Refusal> {
        todo!()
    }
}

/// A seat, held. Dropping the lease tells the pool that this use of the seat is over.
pub struct Lease {}

impl Lease {
    /// What to seal into the visitor's cookie.
    pub fn key(&self) -> SeatKey {
        todo!()
    }

    /// Whether the visitor's cookie (as claimed with) must be replaced by [`Lease::key`].
    pub fn key_is_new(&self) -> bool {
        todo!()
    }

    pub fn upstream(&self) -> &Arc<Upstream> {
        todo!()
    }

    /// The visitor did something (a request, a data frame). Cheap: one relaxed store.
    pub fn touch(&self) {
        todo!()
    }

    /// Resolves when the seat is taken back: inactivity, lifetime, stop, revoked access. Whoever tunnels must close.
    pub async fn revoked(&self) {
        todo!()
    }
}

/// A live instance as the edge needs it: where to connect and what its app expects.
pub struct Upstream {
    pub app: AppId,
    pub instance: InstanceId,
    pub prefix: Prefix,
    /// `` or `/sales`
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
            Self::StartTimeout(_) => "start-timeout",
            Self::StartFailed { .. } => "start-failed",
            Self::Removed => "app-removed",
            Self::Cold => "app-cold",
            Self::ShuttingDown => "shutting-down",
        }
    }

    /// The HTTP status a held request is answered with.
    pub fn status(&self) -> u16 {
        match self {
            Self::UnknownApp => 404,
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
}

#[derive(Debug, Clone, Serialize)]
pub struct LaunchFailure {
    pub code: &'static str,
    pub summary: String,
    pub last_lines: Vec<String>,
    /// Until Skep itself would try again, milliseconds.
    pub retry_after_ms: u64,
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
    pub started_at_ms: i64,
    pub ready_ms: Option<u64>,
    pub address: String,
}

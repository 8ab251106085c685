//! Who sits where: the decision to start, share, hold, drain and stop instances.
//!
//! [`pool`] decides and is pure: `step(now, input) -> actions`, no clock, no I/O, no async. [`driver`] is the only place
//! with a clock; it carries the pool's actions to a [`Backend`] and the backend's answers back. [`Handle`] is what the
//! edge holds: [`Handle::claim`] answers at once for a warm seat and hands out something to await for a cold one.
//!
//! Absent on purpose: HTTP routing, cookies, processes, containers, SQL.

pub mod backend;
mod desk;
pub mod driver;
pub mod handle;
pub mod pool;
mod visits;

pub use backend::{
    Adopted, Backend, BackendError, BackendEvent, Dial, EndedBy, ExecInput, ExecOrder, ExecOutput, Execution,
    ExitReport, LaunchOrder, Launched, LogQuery, Progress, ProgressSink, Stage, Stats, Stream, TerminalSize,
};
pub use handle::{
    Claim, ClaimKind, Handle, InstancePhase, InstanceView, LaunchStatus, Lease, Outcome, Refusal, SeatKey,
    StopTarget, Upstream, Waiting,
};
pub use visits::Visits;

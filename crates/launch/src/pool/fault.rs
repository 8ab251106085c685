//! Ways to make the pool wrong on purpose. The simulation plants each and must notice.

/// One planted fault. Without the feature `faults` none can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A seat is granted on an instance that is being drained.
    GrantOnDraining,
    /// One seat too many per instance.
    OneSeatTooMany,
    /// The line is served from its end.
    LineFromTheEnd,
    /// A stale release gives back the seat of a later grant.
    StaleRelease,
    /// A granted ticket stays in the line and is answered again.
    AnswerTwice,
    /// `max_instances` is ignored.
    IgnoreAppCap,
    /// The cap on concurrent starts is ignored.
    IgnoreStartCap,
    /// A failed start does not answer who waited for it.
    ForgetWaiters,
    /// An idle instance is never stopped.
    NeverIdle,
    /// A drain is cut short while somebody is there.
    ImpatientDrain,
    /// Starts on their way are not counted as supply.
    Stampede,
    /// The reserved seat of a visitor who is away is given up at once.
    NoReservation,
    /// An instance whose drain is over is not stopped.
    DrainForever,
    /// The new visitor is not sent to the least loaded instance.
    MostLoaded,
    /// A failure does not delay the next start.
    NoBackoff,
    /// A user gets a seat on another user's own instance.
    ShareOwned,
    /// Guests of a shared instance take its owner's seat as well.
    GuestsTakeAll,
    /// Whoever waits for a start with a value that was withdrawn goes on waiting.
    KeepWithdrawn,
    /// Whoever chose before the start gets an instance that was started with something else.
    IgnoreChoice,
    /// An instance lost with what it ran on counts as a failure of its app.
    BlameTheApp,
}

impl Fault {
    pub const ALL: [Self; 20] = [
        Self::GrantOnDraining,
        Self::OneSeatTooMany,
        Self::LineFromTheEnd,
        Self::StaleRelease,
        Self::AnswerTwice,
        Self::IgnoreAppCap,
        Self::IgnoreStartCap,
        Self::ForgetWaiters,
        Self::NeverIdle,
        Self::ImpatientDrain,
        Self::Stampede,
        Self::NoReservation,
        Self::DrainForever,
        Self::MostLoaded,
        Self::NoBackoff,
        Self::ShareOwned,
        Self::GuestsTakeAll,
        Self::KeepWithdrawn,
        Self::IgnoreChoice,
        Self::BlameTheApp,
    ];
}

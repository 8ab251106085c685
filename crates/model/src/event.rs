//! What happened: the records of the journal.

use serde::{Deserialize, Serialize};

use crate::{AppId, InstanceId};

/// One thing that happened, before the journal gives it a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    pub kind: EventKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Login name, when a user is involved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// One sentence for people: the reason of a stop, the error of a failed start.
    pub detail: String,
}

/// The kind of an event. Its name in the journal is stable: other programs filter by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    ServerStart,
    ServerStop,
    ServerHandover,
    ConfigChanged,
    ConfigRefused,
    Login,
    LoginFailed,
    Logout,
    /// `user` is who did it, nobody when it was done on the server itself; `detail` says to whom and what.
    UserAdded,
    UserChanged,
    UserRemoved,
    GrantAdded,
    GrantRemoved,
    /// A start was ordered.
    InstanceStart,
    InstanceReady,
    /// The start did not succeed.
    InstanceFailed,
    InstanceAdopted,
    InstanceDraining,
    /// Ended because Skep asked for it.
    InstanceStop,
    /// Ended by itself.
    InstanceCrash,
    /// An instance stopped answering probes.
    InstanceWedged,
    /// A claim was refused.
    Refusal,
    /// Events were lost here; `detail` says how many.
    Gap,
}

impl EventKind {
    /// The stable name, as stored and as serialised.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerStart => "server-start",
            Self::ServerStop => "server-stop",
            Self::ServerHandover => "server-handover",
            Self::ConfigChanged => "config-changed",
            Self::ConfigRefused => "config-refused",
            Self::Login => "login",
            Self::LoginFailed => "login-failed",
            Self::Logout => "logout",
            Self::UserAdded => "user-added",
            Self::UserChanged => "user-changed",
            Self::UserRemoved => "user-removed",
            Self::GrantAdded => "grant-added",
            Self::GrantRemoved => "grant-removed",
            Self::InstanceStart => "instance-start",
            Self::InstanceReady => "instance-ready",
            Self::InstanceFailed => "instance-failed",
            Self::InstanceAdopted => "instance-adopted",
            Self::InstanceDraining => "instance-draining",
            Self::InstanceStop => "instance-stop",
            Self::InstanceCrash => "instance-crash",
            Self::InstanceWedged => "instance-wedged",
            Self::Refusal => "refusal",
            Self::Gap => "gap",
        }
    }
}

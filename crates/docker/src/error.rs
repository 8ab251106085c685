//! What can go wrong between Skep and an engine.

use std::time::Duration;

use crate::ApiVersion;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the Docker Engine at {address} cannot be reached: {reason}{mend}", mend = mend_reach(reason))]
    Unreachable { address: String, reason: std::io::Error },
    #[error(
        "the Docker Engine at {address} speaks API {newest} at most; Skep needs {least} or later (Docker 20.10)"
    )]
    TooOld { address: String, newest: ApiVersion, least: ApiVersion },
    #[error(
        "the Docker Engine at {address} speaks no API older than {oldest}; this Skep knows {ours} at most: upgrade Skep"
    )]
    TooNew { address: String, oldest: ApiVersion, ours: ApiVersion },
    /// The engine answered with an error.
    #[error("{message} (the engine's answer {status} to {call})")]
    Refused { call: String, status: u16, message: String },
    /// The engine began to answer, then reported an error inside its answer.
    #[error("{message} (reported during {call})")]
    Failed { call: String, message: String },
    #[error("the Docker Engine at {address} did not answer {call} within {after:?}")]
    Late { address: String, call: String, after: Duration },
    #[error("the connection to the Docker Engine broke during {call}: {reason}")]
    Broken { call: String, reason: String },
    #[error("the answer to {call} makes no sense: {reason}")]
    Garbled { call: String, reason: String },
}

impl Error {
    /// What was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The name is taken, or the thing is not in a state for this.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }

    /// An update of something that has been changed in between.
    pub fn is_stale(&self) -> bool {
        // 20.10 answers 500 with this text, later engines 409 or 400.
        matches!(self, Self::Refused { message, .. } if message.contains("update out of sequence"))
    }

    /// The engine's own words, where it said something.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } | Self::Failed { message, .. } => Some(message),
            _ => None,
        }
    }

    /// Whether the engine could not be spoken to at all, so that trying again later may help.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Late { .. } | Self::Broken { .. })
    }

    /// Whether it says something of this manager of a Swarm, or of all of them for the moment, rather than of what was asked.
    pub fn is_away(&self) -> bool {
        if self.is_transport() || matches!(self, Self::Refused { status: 503, .. }) {
            return true;
        }
        let Some(said) = self.message() else { return false };
        let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
        has(&[
            "does not have a leader",
            "not a swarm manager",
            "code = Unavailable",
            "code = DeadlineExceeded",
            "context deadline exceeded",
            "raft: ",
        ])
    }
}

fn mend_reach(reason: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    match reason.kind() {
        NotFound | ConnectionRefused => "; is Docker installed and running (`systemctl start docker`)?",
        PermissionDenied => "; let Skep's user use it (`usermod -aG docker …`), or run Skep as root",
        _ => "",
    }
}

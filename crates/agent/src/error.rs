//! What can go wrong between Skep and the agents of its nodes, on either side.

use std::io;
use std::time::Duration;

use crate::wire::{Refusal, RefusalCode};

/// Why something with an agent did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(
        "the join secret is too short: it has {have} characters, {least} are the least; \
         make one with `openssl rand -hex 32`"
    )]
    ShortSecret { have: usize, least: usize },
    #[error("the join secret cannot be read from {path}: {reason}", path = path.display())]
    SecretFile { path: std::path::PathBuf, reason: io::Error },
    #[error("the keys and certificates for agents cannot be made: {0}")]
    Certificates(String),
    #[error(
        "no agent on node {node} is connected; is `skep agent` running there, and does it reach this server?"
    )]
    NoAgent { node: String },
    #[error("every connection to the agent on node {node} is in use; waited {after:?} for another one")]
    Busy { node: String, after: Duration },
    #[error("node {node} fell silent and was given up")]
    GivenUp { node: String },
    #[error("the agent on node {node} refuses: {refusal}")]
    Refused { node: String, refusal: Refusal },
    #[error("the agent on node {node} did not answer `{call}` within {after:?}")]
    Late { node: String, call: &'static str, after: Duration },
    #[error("the connection to the agent on node {node} broke during `{call}`: {reason}")]
    Broken { node: String, call: &'static str, reason: io::Error },
    #[error(
        "the agent on node {node} answered `{call}` with something else: {what}; are both of one version?"
    )]
    Garbled { node: String, call: &'static str, what: String },
    #[error("the server at {server} does not take this agent in: {refusal}")]
    NotAdmitted { server: String, refusal: Refusal },
    #[error("the server at {server} cannot be reached: {reason}")]
    Unreachable { server: String, reason: io::Error },
    #[error(
        "the server at {server} does not know the join secret: \
         give the agent and the server the same file (`--join-secret-file`, `[swarm] join_secret_file`)"
    )]
    WrongServer { server: String },
    #[error("TLS with the server at {server} failed: {reason}")]
    Tls { server: String, reason: String },
    #[error("{0}")]
    Node(String),
    #[error(transparent)]
    Engine(#[from] skep_docker::Error),
}

impl AgentError {
    /// What the agent itself said, when it refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } | Self::NotAdmitted { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// As an error of a connection, its kind telling what happened.
    pub fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Refused { refusal, .. } => match refusal.code {
                RefusalCode::ConnectionRefused => io::ErrorKind::ConnectionRefused,
                RefusalCode::Late => io::ErrorKind::TimedOut,
                RefusalCode::Gone => io::ErrorKind::NotFound,
                RefusalCode::NotOurs | RefusalCode::NotAllowed => io::ErrorKind::PermissionDenied,
                _ => io::ErrorKind::HostUnreachable,
            },
            // Nothing was said about the container.
            Self::NoAgent { .. } => io::ErrorKind::NetworkDown,
            Self::Busy { .. } | Self::GivenUp { .. } | Self::Late { .. } => io::ErrorKind::TimedOut,
            Self::Broken { reason, .. } => reason.kind(),
            Self::Garbled { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::HostUnreachable,
        };
        io::Error::new(kind, self)
    }
}

//! A thin client of the Docker Engine API, from version 1.41 on.
//!
//! [`Engine`] is cheap to clone and connects anew for every call, so a daemon that was restarted or upgraded is met as it
//! is. Answers are kept as the engine sent them ([`Document`]): fields and types this crate has never heard of are carried
//! along, and an update reads, changes and writes back that very JSON with its version index ([`Engine::update`]).
//!
//! Invariants: every path carries the negotiated version; every call has a deadline until its answer begins; what is read
//! is bounded, whatever the engine sends; an error says what was asked of whom, what was answered and how to mend it.
//!
//! [`Managers`] asks whichever manager of a Swarm answers.
//!
//! Absent on purpose: a model of Docker's objects, retries (except where a version index asks for one, or another manager
//! can be asked) and credential helpers.

mod address;
mod body;
mod call;
mod containers;
mod document;
mod error;
mod events;
mod exec;
mod frames;
mod images;
mod json_lines;
mod logs;
mod managers;
mod objects;
mod progress;
mod reference;
mod system;
mod version;

pub use address::{Address, BadAddress, TlsFiles};
pub use body::Upload;
pub use call::Engine;
pub use containers::{Container, ContainerState, LogLine, LogOptions, StatsSample};
pub use document::Document;
pub use error::Error;
pub use events::{Event, Events};
pub use exec::{Exec, ExecControl, ExecOrder};
pub use frames::{Demux, Frame, NotFrames, Source};
pub use images::{BuildOptions, Credentials};
pub use json_lines::{BadLine, JsonLines};
pub use logs::StampedLine;
pub use managers::Managers;
pub use objects::Kind;
pub use progress::PullProgress;
pub use reference::{BadReference, Reference};
pub use version::ApiVersion;

/// Filters of a list or of events: name → accepted values.
pub type Filters<'a> = &'a [(&'a str, &'a str)];

//! The data plane: from an accepted socket to an app's answer.
//!
//! One event loop per core (`current_thread` runtimes), each with its own upstream pool; a connection never migrates. A
//! request passes five named phases in `request.rs`: route, admit, claim, forward, log. After a `101` both raw sockets
//! leave hyper for a small pump task.
//!
//! The edge holds nothing it cannot rebuild. Routes reach it through a `watch` channel, seats through
//! [`skep_launch::Handle`]; pages and the API are somebody else's: requests for them leave through a bounded channel as
//! [`ControlCall`]s. Absent on purpose: SQL, HTML, ACME, config files.

mod access_log;
mod admit;
mod body;
mod claim;
mod config;
mod conn;
mod console_host;
mod control_call;
mod deadline;
mod digits;
mod edge;
mod error;
mod exchange;
mod forward;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(fuzzing)]
mod fuzzing_routes;
mod guard;
mod handover;
mod listen;
mod meters;
mod own;
mod pool;
mod problem;
mod request;
mod routes;
pub mod sanitize;
mod services;
mod static_site;
mod tls;
mod tunnel;
mod visit;
mod worker;

pub use access_log::{AccessLog, LogFormat};
pub use config::{BadCidr, Cidr, EdgeConfig, HostRule, Limits, ListenSocket, ListenerConfig};
pub use console_host::ConsoleHost;
pub use control_call::{CallBody, Client, ControlCall, Purpose, ReplyBody};
pub use edge::Edge;
pub use error::EdgeError;
pub use routes::{Misnamed, Route, RouteTable};
pub use services::{ServiceRoute, ServiceTarget, Spread};
pub use tls::Certificates;

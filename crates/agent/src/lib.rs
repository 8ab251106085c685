//! Skep on a Docker Swarm: the agent on each node, and the desk at which agents call in.
//!
//! An agent reaches what only its node reaches: the addresses of its containers, their output, their figures, a program run
//! in one of them, and the Docker events of the node. It has no port. It finds the server, proves the join secret
//! ([`enrol`]), gets a certificate of an hour's life (`authority`) and then keeps some connections open, *lines*, that wait
//! to be asked ([`wire`]). The server side is the [`Desk`], the node's side the [`Agent`].
//!
//! Invariants: a line serves one call; nothing is served that the agent's own rules do not allow, whatever the server says;
//! every queue is bounded, every wait has a deadline, every refusal a name; an event that was acknowledged has been handed
//! over, and one that is lost is told as a gap.
//!
//! Absent on purpose: several calls on one connection (TLS connections are made ahead of need instead, so that bytes of an
//! app pass through no queue of ours), and any memory of the server's but which certificates it issued.

mod authority;
mod desk;
pub mod enrol;
mod error;
mod frames;
mod node;
mod socket;
mod throttle;
mod tls;
pub mod wire;

pub use desk::{
    AgentStats, Desk, DeskConfig, ExecChunk, ExecInput, ExecOutput, ExecSession, LineStream, NodeEvent,
};
pub use enrol::JoinSecret;
pub use error::AgentError;
pub use node::{AGENT_PORT, Agent, AgentConfig, Allow, UnknownCall};
pub use wire::{AgentContainer, AgentLogLine, ExecOrder, Login, PullOrder, Refusal, RefusalCode};

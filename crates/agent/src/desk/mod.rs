//! The desk: where agents enrol and keep their lines, and where the server asks for something on a node.
//!
//! One lock, held for moments, keeps the idle lines of all nodes; asking takes the line used last from its node's stack and
//! writes to it. No handshake lies on that path: agents make new lines as old ones are taken.

mod accept;
mod board;
mod calls;
mod events;
mod exec;
mod identity;
mod places;
mod stream;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use skep_docker::Managers;
use tokio::sync::watch;

use crate::authority::Authority;
use crate::throttle::{Bound, Throttle};
use crate::tls::Doors;
use crate::{AgentError, JoinSecret};
use board::Board;
use events::Hub;
use places::Places;

pub use calls::AgentStats;
pub use events::NodeEvent;
pub use exec::{ExecChunk, ExecInput, ExecOutput, ExecSession};
pub use stream::LineStream;

/// Proofs that are wrong: of one address and of all. Right ones are never held up, so that nobody is who shares an address
/// with somebody who guesses, as an agent does with the containers of its node.
const WRONG_OF_ONE: Bound = Bound { burst: 20.0, per_second: 1.0 };
const WRONG_OF_ALL: Bound = Bound { burst: 200.0, per_second: 20.0 };
/// Enrolments of whoever knows the secret, each of which asks the managers: of one node and of all.
const CHECKS_OF_ONE: Bound = Bound { burst: 30.0, per_second: 1.0 };
const CHECKS_OF_ALL: Bound = Bound { burst: 4000.0, per_second: 200.0 };

/// What a desk is made from.
#[derive(Clone)]
pub struct DeskConfig {
    /// The installation's id: agents serve containers that carry it as label `skep.install`.
    pub install: String,
    pub secret: JoinSecret,
    /// They are asked whether an agent is who it says it is.
    pub managers: Managers,
    /// Whether agents are taken in that run as no Swarm task: any process on a node that knows the join secret.
    pub host_agents: bool,
    /// How long an agent's certificate lives; it is renewed at half of that.
    pub certificate_lives: Duration,
    /// How long a call waits for a line.
    pub line_within: Duration,
}

impl DeskConfig {
    pub fn new(install: impl Into<String>, secret: JoinSecret, managers: Managers) -> Self {
        Self {
            install: install.into(),
            secret,
            managers,
            host_agents: false,
            certificate_lives: Duration::from_secs(3600),
            line_within: Duration::from_secs(5),
        }
    }
}

/// Where agents call in. Clones are the same desk.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    config: DeskConfig,
    authority: Authority,
    doors: Doors,
    board: Board,
    hub: Hub,
    wrong: Mutex<Throttle<IpAddr>>,
    checks: Mutex<Throttle<String>>,
    greeted: Mutex<Places>,
}

impl Desk {
    /// Makes keys and a certificate authority of its own: agents of an earlier desk have to enrol again.
    ///
    /// # Errors
    /// When no keys can be made.
    pub fn new(config: DeskConfig) -> Result<Self, AgentError> {
        let now = SystemTime::now();
        let authority = Authority::new(now, config.certificate_lives)?;
        let doors = Doors::new(authority.certificate(), authority.server(now)?)?;
        Ok(Self(Arc::new(Inner {
            config,
            authority,
            doors,
            board: Board::default(),
            hub: Hub::default(),
            wrong: Mutex::new(Throttle::new(WRONG_OF_ONE, WRONG_OF_ALL)),
            checks: Mutex::new(Throttle::new(CHECKS_OF_ONE, CHECKS_OF_ALL)),
            greeted: Mutex::default(),
        })))
    }

    /// Ends whatever is dialled on a node that the Swarm has given up: nothing more comes from there, and whoever waits for it
    /// had better know.
    pub fn give_up(&self, node: &str) {
        self.0.board.cut(node);
    }

    /// The nodes with an agent that can be asked. One that goes is noticed at once when its connections are closed, within
    /// a quarter of a minute when they are cut.
    pub fn nodes(&self) -> watch::Receiver<BTreeSet<String>> {
        self.0.board.live()
    }
}

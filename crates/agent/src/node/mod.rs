//! The agent: what a node of the Swarm does for a server elsewhere.
//!
//! It looks for the server, enrols, keeps lines open and serves what is asked on them, within its own rules
//! ([`rights`]). Whatever ends a connection, it begins anew, for ever; whatever it cannot do, it says once.

mod complaint;
mod containers;
mod exec;
mod find;
mod journal;
mod lines;
mod pull;
mod rights;
mod samples;
mod serve;
mod spool;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use skep_docker::{Document, Engine, Kind};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{AgentError, JoinSecret};
use complaint::Complaint;
use containers::Containers;
use journal::Journal;
use lines::Lines;
use samples::Samples;

pub use rights::{Allow, UnknownCall};

/// Where agents call in, unless told otherwise.
pub const AGENT_PORT: u16 = 7443;
/// The config-only network each node makes for the instances on it. No setting: the server asks for it by this name.
const NODE_NETWORK: &str = "skep_node";
/// Between two attempts at it: from the one to the other.
const NETWORK_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How often it is said that there is none yet.
const REMIND_EVERY: Duration = Duration::from_secs(300);
/// Long enough for most requests. Shorter than a call waits for a line: where the next agent of a node starts when this one
/// has ended, nobody is refused in between.
const GRACE: Duration = Duration::from_secs(3);
/// Images fetched at a time.
const PULLS: usize = 8;
/// The bound of the spool.
const SPOOL_BYTES: u64 = 64 << 20;

/// What an agent is made from.
#[derive(Clone)]
pub struct AgentConfig {
    /// `host:port`, tried at the same time. None: the Swarm's managers, as the node's engine names them.
    pub servers: Vec<String>,
    /// The agents' port of a server found by itself.
    pub port: u16,
    pub secret: JoinSecret,
    /// The node's own.
    pub engine: Engine,
    /// Where events are kept that no server has taken yet; in memory without it.
    pub spool_dir: Option<PathBuf>,
    pub spool_bytes: u64,
    /// The kinds of calls it serves.
    pub allow: Allow,
    /// The Swarm task it runs as, if it does.
    pub task: Option<String>,
    /// How long calls under way may go on when it is told to stop.
    pub grace: Duration,
}

impl AgentConfig {
    pub fn new(secret: JoinSecret, engine: Engine) -> Self {
        Self {
            servers: Vec::new(),
            port: AGENT_PORT,
            secret,
            engine,
            spool_dir: None,
            spool_bytes: SPOOL_BYTES,
            allow: Allow::all(),
            task: None,
            grace: GRACE,
        }
    }
}

/// The agent of a node.
pub struct Agent {
    config: AgentConfig,
}

/// What the parts of a running agent have in common.
struct Here {
    config: AgentConfig,
    node: String,
    /// The engine's version.
    version: String,
    containers: Containers,
    samples: Samples,
    journal: Journal,
    /// Images that may be fetched at a time.
    pulls: Semaphore,
    /// Where servers were last said to be.
    servers: parking_lot::Mutex<Vec<String>>,
    /// Nothing new is begun from here on.
    stop: CancellationToken,
    /// What is still under way ends.
    end: CancellationToken,
}

impl Here {
    fn new(
        config: AgentConfig,
        (node, version): (String, String),
        journal: Journal,
        stop: CancellationToken,
    ) -> Self {
        let containers = Containers::new(config.engine.clone());
        let samples = Samples::new(config.engine.clone());
        let end = CancellationToken::new();
        let pulls = Semaphore::new(PULLS);
        let servers = parking_lot::Mutex::default();
        Self { config, node, version, containers, samples, journal, pulls, servers, stop, end }
    }
}

impl Agent {
    pub fn new(config: AgentConfig) -> Self {
        Self { config }
    }

    /// Serves until told to stop, and what is under way then for as long as the configured grace.
    ///
    /// # Errors
    /// When the spool's folder cannot be used. Everything else is tried for ever.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AgentError> {
        let journal = Journal::open(self.config.spool_dir.clone(), self.config.spool_bytes).await?;
        let place = async {
            let place = self.place().await;
            tracing::info!(node = place.0, allow = %self.config.allow, "the agent of this node starts");
            self.make_network().await;
            place
        };
        let place = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            place = place => place,
        };
        let here = Arc::new(Here::new(self.config, place, journal, stop));
        // Ends everything that was started, however this ends.
        let _end = here.end.clone().drop_guard();
        Lines::new(here).keep().await;
        Ok(())
    }

    /// Tries once whether a server takes this agent in, and answers which.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub async fn check(self) -> Result<String, AgentError> {
        let info = self.config.engine.info().await?;
        let node = member(&info).map_err(AgentError::Node)?;
        let journal = Journal::open(None, 0).await?;
        let here = Here::new(self.config, (node, String::new()), journal, CancellationToken::new());
        lines::try_all(&here, None).await.map(|session| session.server)
    }

    /// The node's id and its engine's version, as soon as there are any.
    async fn place(&self) -> (String, String) {
        let (mut complaint, mut pause) = (Complaint::default(), find::Pause::default());
        loop {
            match self.config.engine.info().await {
                Ok(info) => match member(&info) {
                    Ok(node) => {
                        let version = info.text("/ServerVersion").unwrap_or_default().to_owned();
                        return (node, version);
                    }
                    Err(why) => complaint.say(&why),
                },
                Err(error) => complaint.say(&error.to_string()),
            }
            pause.wait().await;
        }
    }

    /// The network that instances on this node get their addresses from: a Swarm-wide one is made from it on a manager. Tried
    /// for ever: to a node without it that has called in, the Swarm would send instances of which none can run.
    async fn make_network(&self) {
        let (mut complaint, mut reminded) = (Complaint::default(), Instant::now());
        let (mut pause, longest) = NETWORK_PAUSES;
        while let Err(why) = self.ensure_network().await {
            if reminded.elapsed() >= REMIND_EVERY {
                complaint.settle();
                reminded = Instant::now();
            }
            complaint.say(&why);
            tokio::time::sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }

    async fn ensure_network(&self) -> Result<(), String> {
        let engine = &self.config.engine;
        // Two agents that begin at once may make one each. No engine shows either by name then, but both do.
        let mut there =
            engine.list(Kind::Network, &[("name", NODE_NETWORK)]).await.map_err(|e| e.to_string())?;
        there.retain(|network| network.text("/Name") == Some(NODE_NETWORK));
        if there.iter().any(|network| network.flag("/ConfigOnly") == Some(true)) {
            return Ok(());
        }
        if !there.is_empty() {
            return Err(format!(
                "there is a network `{NODE_NETWORK}` on this node that is no config-only one: remove it, or make it anew \
                 under another name; until then no instance can run here, and the agent does not call in"
            ));
        }
        let spec = json!({
            "Name": NODE_NETWORK, "ConfigOnly": true, "CheckDuplicate": true,
            // Instances do not reach each other.
            "Options": { "com.docker.network.bridge.enable_icc": "false" },
            "Labels": { "skep.network": "instances" },
        });
        let made = engine.create(Kind::Network, &spec).await;
        made.map_err(|error| format!("the network `{NODE_NETWORK}` cannot be made: {error}"))?;
        tracing::info!(network = NODE_NETWORK, "made the config of this node's network for instances");
        Ok(())
    }
}

/// The id of the node in its Swarm.
fn member(info: &Document) -> Result<String, String> {
    let state = info.text("/Swarm/LocalNodeState").unwrap_or("inactive");
    match info.text("/Swarm/NodeID").filter(|id| !id.is_empty()) {
        Some(node) if state == "active" => Ok(node.to_owned()),
        _ => Err(format!(
            "this machine's Docker Engine is no active node of a Swarm (its state is `{state}`): \
             let it join one (`docker swarm join`)"
        )),
    }
}

/// How long the node's engine may take for one answer.
const ENGINE_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_active_member_of_a_swarm_has_a_place() {
        let info = |state: &str, node: &str| {
            Document::new(json!({ "Swarm": { "NodeID": node, "LocalNodeState": state } }))
        };
        assert_eq!(member(&info("active", "n1")), Ok("n1".to_owned()));
        for (state, node) in [("inactive", ""), ("pending", "n1"), ("locked", "n1"), ("active", "")] {
            assert!(member(&info(state, node)).unwrap_err().contains(state));
        }
        assert!(member(&Document::new(json!({}))).is_err());
    }
}

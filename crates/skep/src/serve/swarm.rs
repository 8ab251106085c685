//! The Swarm: the desk its nodes' agents call in at, and the backend that runs apps there.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use skep_agent::{Desk, DeskConfig, JoinSecret, NodeEvent};
use skep_backends::swarm::{SwarmBackend, SwarmConfig};
use skep_control::services::{Hint, Reach, TaskPort};
use skep_docker::Managers;
use skep_launch::{BackendEvent, Dial, Stream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ServerKeys};

/// Between two attempts to take the agents' port over from an earlier server.
const BIND_AGAIN: Duration = Duration::from_millis(50);
/// Ends of containers that may wait to be heeded.
const HINTS: usize = 256;
/// How often it is said that this does not succeed: every so many attempts.
const SAID_EVERY: u32 = 200;

/// What can fail without touching what runs.
pub(super) struct Prepared {
    desk: Desk,
    config: SwarmConfig,
    address: SocketAddr,
    /// `None`: an earlier server has the port as yet.
    listener: Option<TcpListener>,
}

/// What several servers may have in common: the installation, and the managers that know of it.
pub(super) fn shared(keys: &ServerKeys) -> anyhow::Result<Option<(String, Managers)>> {
    let Some(swarm) = &keys.swarm else { return Ok(None) };
    let managers = swarm.managers(&keys.docker)?;
    let config = swarm.config(std::path::PathBuf::new(), managers.clone());
    Ok(Some((config.install, managers)))
}

/// `None`: no Swarm is configured.
pub(super) async fn prepare(
    keys: &ServerKeys,
    data: &Path,
    is_heir: bool,
) -> anyhow::Result<Option<Prepared>> {
    let Some(swarm) = &keys.swarm else { return Ok(None) };
    let managers = swarm.managers(&keys.docker)?;
    let config = swarm.config(data.to_owned(), managers.clone());
    let secret = JoinSecret::from_file(&swarm.join_secret_file)?;
    let mut desk = DeskConfig::new(config.install.clone(), secret, managers);
    desk.host_agents = swarm.host_agents;
    let address = swarm.agent_listen;
    let listener = if is_heir {
        None
    } else {
        let bound = TcpListener::bind(address).await;
        Some(
            bound
                .with_context(|| format!("cannot listen at {address} for agents (`[swarm] agent_listen`)"))?,
        )
    };
    Ok(Some(Prepared { desk: Desk::new(desk)?, config, address, listener }))
}

/// Agents call in for as long as nobody says otherwise.
#[derive(Default)]
pub(super) struct Agents(CancellationToken);

impl Agents {
    /// Leaves the port to a successor. Connections of visitors live on; the agents look for the new server.
    pub(super) fn leave(&self) {
        self.0.cancel();
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Prepared {
    /// What services are followed and reached with. `reserved`: host names that are Skep's own.
    pub(super) fn reach(&self, reserved: BTreeSet<String>) -> Reach {
        let desk = self.desk.clone();
        let (hints_in, hints) = mpsc::channel(HINTS);
        tokio::spawn(tell_of_ends(desk.events(), hints_in));
        Reach {
            managers: self.config.managers.clone(),
            nodes: desk.nodes(),
            dial: Arc::new(move |place| Arc::new(TaskDial { desk: desk.clone(), place })),
            reserved,
            hints,
        }
    }

    pub(super) fn start(self, events: mpsc::Sender<BackendEvent>) -> (Arc<SwarmBackend>, Agents) {
        let agents = Agents::default();
        let (desk, address, listener, stop) =
            (self.desk.clone(), self.address, self.listener, agents.0.clone());
        tokio::spawn(async move {
            let listener = match listener {
                Some(listener) => Some(listener),
                None => stop.run_until_cancelled(take_over(address)).await,
            };
            if let Some(listener) = listener {
                tracing::info!(%address, "agents may call in");
                desk.serve(listener, stop).await;
            }
        });
        (SwarmBackend::new(self.config, self.desk, events), agents)
    }
}

/// Host names that are the server's own.
pub(super) fn own_names(config: &Config) -> BTreeSet<String> {
    let public = config.server.public_url.as_ref().map(|url| url.host().to_ascii_lowercase());
    let console = config.server.console_host.as_ref().map(|host| host.to_ascii_lowercase());
    public.into_iter().chain(console).collect()
}

/// The port, as soon as an earlier server has left it.
async fn take_over(address: SocketAddr) -> TcpListener {
    let mut attempts: u32 = 0;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if attempts % SAID_EVERY == SAID_EVERY - 1 => {
                tracing::error!(%address, %error, "no agent can call in: the port cannot be listened at");
            }
            Err(_) => {}
        }
        attempts = attempts.wrapping_add(1);
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

/// Picks from what nodes tell that a container is told to end, or has.
async fn tell_of_ends(mut events: mpsc::Receiver<NodeEvent>, hints: mpsc::Sender<Hint>) {
    while let Some(event) = events.recv().await {
        // Other signals ask for something else, to read a config again for example.
        let signal = event.attributes.get("signal").map(String::as_str);
        let leaving = match event.action.as_str() {
            "die" | "stop" => true,
            "kill" => matches!(signal, Some("2" | "3" | "9" | "15")),
            _ => false,
        };
        let NodeEvent { node, container, .. } = event;
        if leaving && hints.send(Hint { node, container }).await.is_err() {
            return;
        }
    }
}

/// A task of an ordinary service, reached through its node's agent.
struct TaskDial {
    desk: Desk,
    place: TaskPort,
}

impl Dial for TaskDial {
    fn dial(&self) -> BoxFuture<'static, io::Result<Stream>> {
        let (desk, place) = (self.desk.clone(), self.place.clone());
        Box::pin(async move {
            let stream = desk.dial(&place.node, &place.container, place.port).await?;
            Ok(Stream::Other(Box::new(stream)))
        })
    }

    fn describe(&self) -> String {
        let TaskPort { node, container, port } = &self.place;
        format!("port {port} of {container:.12} on the node {node}")
    }
}

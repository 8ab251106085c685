//! Which containers may be asked about, and where they are reached. Remembered while the engine tells what happens to
//! them, so that dialling asks nobody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::Value;
use skep_docker::{Container, Document, Engine, Kind};

use super::rights;
use crate::wire::{AgentContainer, Refusal, RefusalCode};

/// Containers and networks remembered at a time.
const MOST: usize = 16_384;
/// The network over which containers of overlay networks reach the world; their node reaches them there.
const GATEWAY: &str = "docker_gwbridge";

pub(super) struct Containers {
    engine: Engine,
    known: Mutex<Known>,
    /// Rises with every container that is forgotten.
    forgotten: AtomicU64,
}

#[derive(Default)]
struct Known {
    /// Whether the engine's events are read: what is remembered without them may be wrong.
    watched: bool,
    addresses: HashMap<String, (String, Vec<IpAddr>)>,
    /// Network id → whether the node itself is on it.
    bridges: HashMap<String, bool>,
}

/// Where a container is reached, as of a moment.
pub(super) struct Place {
    pub(super) addresses: Vec<IpAddr>,
    forgotten: u64,
}

impl Containers {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, known: Mutex::default(), forgotten: AtomicU64::new(0) }
    }

    /// Whether events are read from now on. What was remembered is not good any more in either case.
    pub(super) fn watch(&self, watched: bool) {
        let mut known = self.known.lock();
        *known = Known { watched, ..Known::default() };
        self.forgotten.fetch_add(1, Ordering::AcqRel);
    }

    /// Something happened to it.
    pub(super) fn forget(&self, id: &str) {
        self.known.lock().addresses.remove(id);
        self.forgotten.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether nothing has been forgotten since: an address may be another container's by now.
    pub(super) fn is_current(&self, place: &Place) -> bool {
        self.forgotten.load(Ordering::Acquire) == place.forgotten
    }

    /// Where a container is reached.
    pub(super) async fn place(&self, id: &str, install: &str) -> Result<Place, Refusal> {
        let forgotten = self.forgotten.load(Ordering::Acquire);
        if let Some((of, addresses)) = self.known.lock().addresses.get(id)
            && of == install
        {
            return Ok(Place { addresses: addresses.clone(), forgotten });
        }
        let container = self.inspect(id, install).await?;
        if !container.state().running {
            return Err(Refusal::new(RefusalCode::Gone, "the container does not run"));
        }
        let addresses = self.addresses(&container).await?;
        if addresses.is_empty() {
            let why =
                "the container has no address this node reaches: give its service the network `skep_apps`";
            return Err(Refusal::new(RefusalCode::NoAddress, why));
        }
        let mut known = self.known.lock();
        // What happened meanwhile may have been to this one.
        if known.watched
            && self.forgotten.load(Ordering::Acquire) == forgotten
            && known.addresses.len() < MOST
        {
            known.addresses.insert(id.to_owned(), (install.to_owned(), addresses.clone()));
        }
        Ok(Place { addresses, forgotten })
    }

    /// The container itself, if it may be asked about.
    pub(super) async fn inspect(&self, id: &str, install: &str) -> Result<Container, Refusal> {
        rights::full_id(id)?;
        let found = self.engine.inspect_container(id).await.map_err(|error| engine(&error))?;
        let found = found.ok_or_else(|| Refusal::new(RefusalCode::Gone, "there is no such container"))?;
        rights::ours(&found.0, install)?;
        Ok(found)
    }

    /// As told to the server.
    pub(super) async fn describe(&self, id: &str, install: &str) -> Result<AgentContainer, Refusal> {
        let container = self.inspect(id, install).await?;
        let (state, raw) = (container.state(), &container.0);
        let text = |pointer: &str| raw.text(pointer).unwrap_or_default().to_owned();
        let labels = raw.at("/Config/Labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_str()?)));
        Ok(AgentContainer {
            id: container.id().to_owned(),
            running: state.running,
            exit_code: state.exit_code.filter(|_| matches!(state.status.as_str(), "exited" | "dead")),
            status: state.status,
            oom_killed: state.out_of_memory,
            error: state.error,
            addresses: if state.running { self.addresses(&container).await? } else { Vec::new() },
            started_at: text("/State/StartedAt"),
            finished_at: text("/State/FinishedAt"),
            labels: labels.map(|(name, value)| (name.clone(), value.to_owned())).collect(),
        })
    }

    /// On bridges of this node first; behind the gateway of overlay networks otherwise.
    async fn addresses(&self, container: &Container) -> Result<Vec<IpAddr>, Refusal> {
        let mut found = Vec::new();
        let networks = container.0.at("/NetworkSettings/Networks").and_then(Value::as_object);
        let mut overlay = false;
        for joined in networks.into_iter().flat_map(|networks| networks.values()).cloned().map(Document::new)
        {
            let Some(network) = joined.text("/NetworkID").filter(|id| !id.is_empty()) else { continue };
            if self.is_bridge(network).await? {
                let texts = ["/IPAddress", "/GlobalIPv6Address"].map(|pointer| joined.text(pointer));
                found.extend(texts.into_iter().flatten().filter_map(|text| text.parse::<IpAddr>().ok()));
            } else {
                overlay = true;
            }
        }
        if found.is_empty() && overlay {
            let gateway =
                self.engine.inspect(Kind::Network, GATEWAY).await.map_err(|error| engine(&error))?;
            let joined = gateway.as_ref().and_then(|network| network.at("/Containers")?.get(container.id()));
            let texts = ["IPv4Address", "IPv6Address"].map(|key| joined?.get(key)?.as_str());
            let bare =
                texts.into_iter().flatten().filter_map(|text| text.split('/').next()?.parse::<IpAddr>().ok());
            found.extend(bare);
        }
        Ok(found)
    }

    async fn is_bridge(&self, network: &str) -> Result<bool, Refusal> {
        if let Some(known) = self.known.lock().bridges.get(network) {
            return Ok(*known);
        }
        let found = self.engine.inspect(Kind::Network, network).await.map_err(|error| engine(&error))?;
        let bridge = found.as_ref().and_then(|network| network.text("/Driver")) == Some("bridge");
        let mut known = self.known.lock();
        if known.bridges.len() < MOST {
            known.bridges.insert(network.to_owned(), bridge);
        }
        Ok(bridge)
    }
}

/// An engine's error as a refusal.
pub(super) fn engine(error: &skep_docker::Error) -> Refusal {
    let code = if error.is_not_found() { RefusalCode::Gone } else { RefusalCode::Engine };
    Refusal::new(code, error.to_string())
}

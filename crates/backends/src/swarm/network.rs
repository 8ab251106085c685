//! The network of apps: on each node a bridge of its own, without traffic between its containers, so that nothing crosses
//! nodes and no instance reaches another.
//!
//! An engine that is restarted while instances run keeps its bridge and refuses to make "another" of that id: such a node
//! starts nothing in this network any more. Then the whole Swarm moves on to a network of the next number, as soon as the node
//! is back rather than when a visitor waits for it; the old one is removed at the next such move, if nothing uses it then.

use serde_json::json;
use skep_docker::{Engine, Error, Kind};
use skep_launch::BackendError;

use super::Inner;
use super::swarm;

/// Every node's own description of such a network, made by its agent.
const NODE_NETWORK: &str = "skep_node";

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Network {
    number: u32,
    id: String,
}

impl Inner {
    /// The id of the network new instances are in; made when there is none.
    pub(super) async fn ensure_network(&self) -> Result<String, BackendError> {
        let _one_at_a_time = self.network.lock().await;
        match self.networks().await.map_err(|e| swarm(&e))?.pop() {
            Some(newest) => Ok(newest.id),
            None => self.make_network(1).await,
        }
    }

    /// The one to use after that one has failed on a node.
    pub(super) async fn network_after(&self, failed: &str) -> Result<String, BackendError> {
        let _one_at_a_time = self.network.lock().await;
        let networks = self.networks().await.map_err(|e| swarm(&e))?;
        let newest = match networks.last() {
            // Another launch has met the same.
            Some(newest) if newest.id != failed => return Ok(newest.id.clone()),
            Some(newest) => self.make_network(newest.number + 1).await?,
            None => self.make_network(1).await?,
        };
        // Somebody may just be about to start an instance in the one that was in use until now.
        for old in networks.iter().filter(|old| old.id != newest && old.id != failed) {
            // Refused as long as an instance is in it; tried again the next time.
            let id = old.id.as_str();
            let _ = self.managers.ask(|engine| async move { engine.remove(Kind::Network, id).await }).await;
        }
        Ok(newest)
    }

    /// Leaves networks that the engine of a node which is back may not get over.
    pub(super) async fn renew_networks(&self) {
        for (node, network) in self.nodes.take_doubts() {
            if let Err(error) = self.network_after(&network).await {
                tracing::warn!(%error, "the apps' network that a restarted engine may not get over is still in use");
                self.nodes.doubt(&node, &network);
            }
        }
    }

    async fn make_network(&self, number: u32) -> Result<String, BackendError> {
        let name = name(&self.config.network, number);
        let spec = json!({
            "Name": name,
            "Driver": "bridge",
            "Scope": "swarm",
            "CheckDuplicate": true,
            // Nothing else may be said then, not even labels.
            "ConfigFrom": { "Network": NODE_NETWORK },
        });
        let spec = &spec;
        let make = |engine: Engine| async move { engine.create(Kind::Network, spec).await };
        match self.managers.ask(make).await {
            Ok(id) => return Ok(id),
            Err(error) if error.is_conflict() => {}
            Err(error) => {
                return Err(BackendError::Platform(format!("the network `{name}` cannot be made: {error}")));
            }
        }
        // Another server was faster.
        let networks = self.networks().await.map_err(|e| swarm(&e))?;
        networks.into_iter().find(|network| network.number == number).map(|network| network.id).ok_or_else(
            || BackendError::Platform(format!("the network `{name}` was removed while it was made")),
        )
    }

    /// Those the whole Swarm knows, the newest last.
    async fn networks(&self) -> Result<Vec<Network>, Error> {
        let base = self.config.network.as_str();
        // Asked for by name, an engine shows the one of exactly that name and not its successors.
        let filters = [("scope", "swarm")];
        let list = |engine: Engine| async move { engine.list(Kind::Network, &filters).await };
        let listed = self.managers.ask(list).await?;
        let mut networks: Vec<Network> = listed
            .iter()
            .filter_map(|network| {
                let number = number(base, network.text("/Name")?)?;
                Some(Network { number, id: network.id().to_owned() })
            })
            .collect();
        networks.sort_unstable();
        Ok(networks)
    }
}

/// `skep_apps`, `skep_apps_2`, …
fn name(base: &str, number: u32) -> String {
    if number == 1 { base.to_owned() } else { format!("{base}_{number}") }
}

fn number(base: &str, called: &str) -> Option<u32> {
    let rest = called.strip_prefix(base)?;
    if rest.is_empty() {
        return Some(1);
    }
    let number = rest.strip_prefix('_')?.parse().ok().filter(|number| *number > 1)?;
    (name(base, number) == called).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_numbered_by_name() {
        for of in [1, 2, 31] {
            assert_eq!(number("skep_apps", &name("skep_apps", of)), Some(of));
        }
        for other in
            ["skep_apps_", "skep_apps_1", "skep_apps_02", "skep_apps2", "skep", "my_skep_apps", "skep_apps_x"]
        {
            assert_eq!(number("skep_apps", other), None, "{other}");
        }
    }
}

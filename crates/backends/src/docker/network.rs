//! The bridge every instance on this engine is in.
//!
//! Names of networks are not unique: of two that are made at once, by servers that share the engine, both may come to be.
//! The engine looks the name up even when told an id, and then starts nothing in either. So whoever finds several removes
//! all but one, and a launch that fell between two networks is begun again.

use serde_json::json;
use skep_docker::{Document, Error, Kind};
use skep_launch::BackendError;

use super::Inner;
use crate::container::words::platform;

impl Inner {
    /// The id of the network. Made without traffic between its containers; one that is there is used as it is.
    pub(super) async fn ensure_network(&self) -> Result<String, BackendError> {
        let _one_at_a_time = self.network.lock().await;
        if let Some(id) = self.settle_network().await? {
            return Ok(id);
        }
        let name = &self.config.network;
        let spec = json!({
            "Name": name,
            "Driver": "bridge",
            "CheckDuplicate": true,
            "Options": { "com.docker.network.bridge.enable_icc": "false" },
            "Labels": { "skep.network": "instances" },
        });
        match self.engine.create(Kind::Network, &spec).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {}
            Err(error) => {
                return Err(BackendError::Platform(format!("the network `{name}` cannot be made: {error}")));
            }
        }
        self.settle_network().await?.ok_or_else(|| {
            BackendError::Platform(format!("the network `{name}` was removed while it was made"))
        })
    }

    /// The network of the configured name. Of several one stays, and the others are removed.
    async fn settle_network(&self) -> Result<Option<String>, BackendError> {
        let name = self.config.network.as_str();
        let mut found = self.engine.list(Kind::Network, &[("name", name)]).await.map_err(|e| platform(&e))?;
        // The filter takes parts of names, too.
        found.retain(|network| network.text("/Name") == Some(name));
        if found.len() < 2 {
            return Ok(found.pop().map(|network| network.id().to_owned()));
        }
        // A list does not say what is in a network.
        let mut ranked = Vec::new();
        for network in &found {
            let network = self.engine.inspect(Kind::Network, network.id()).await.map_err(|e| platform(&e))?;
            ranked.extend(network);
        }
        ranked.sort_by_key(rank);
        for spare in ranked.iter().skip(1).filter(|network| is_ours(network)) {
            // Refused while a container is in it.
            match self.engine.remove(Kind::Network, spare.id()).await {
                Ok(_) => tracing::info!(
                    network = name,
                    id = spare.id(),
                    "a second network of that name is removed"
                ),
                Err(error) => {
                    tracing::warn!(network = name, id = spare.id(), %error, "there is a second network of that name, and it cannot be removed")
                }
            }
        }
        Ok(ranked.first().map(|network| network.id().to_owned()))
    }
}

/// The order in which networks of one name are kept, the same whoever looks: one in use, one somebody made by hand, the
/// oldest.
fn rank(network: &Document) -> (bool, bool, String, String) {
    let used = network.at("/Containers").and_then(|of| of.as_object()).is_some_and(|of| !of.is_empty());
    let created = network.text("/Created").unwrap_or_default().to_owned();
    (!used, is_ours(network), created, network.id().to_owned())
}

fn is_ours(network: &Document) -> bool {
    network.at("/Labels/skep.network").is_some()
}

/// Whether the engine did nothing because there was a second network of the name, or because another server has just
/// removed the one it was told.
pub(super) fn is_in_doubt(error: &Error) -> bool {
    let said = error.message().unwrap_or_default();
    said.contains("network") && (said.contains("is ambiguous") || said.contains("not found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_in_use_is_kept_then_one_made_by_hand_then_the_oldest() {
        let network = |id: &str, created: &str, ours: bool, used: bool| {
            let labels = if ours { json!({ "skep.network": "instances" }) } else { json!({}) };
            let within = if used { json!({ "c1": {} }) } else { json!({}) };
            Document::new(json!({ "Id": id, "Created": created, "Labels": labels, "Containers": within }))
        };
        let kept = |mut networks: Vec<Document>| {
            networks.sort_by_key(rank);
            networks[0].id().to_owned()
        };
        let old = || network("b", "2026-01-01T00:00:00Z", true, false);
        let new = || network("a", "2026-01-02T00:00:00Z", true, false);
        assert_eq!(kept(vec![new(), old()]), "b");
        assert_eq!(kept(vec![old(), network("c", "2026-01-03T00:00:00Z", false, false)]), "c");
        let used = network("d", "2026-01-04T00:00:00Z", true, true);
        assert_eq!(kept(vec![old(), network("c", "2026-01-03T00:00:00Z", false, false), used]), "d");
    }

    #[test]
    fn doubt_about_the_network_is_told_from_other_trouble() {
        let answer = |status: u16, message: &str| {
            let (call, message) = ("POST".to_owned(), message.to_owned());
            Error::Refused { call, status, message }
        };
        assert!(is_in_doubt(&answer(400, "network skep is ambiguous (2 matches found on name)")));
        assert!(is_in_doubt(&answer(404, "network 0123abc not found")));
        assert!(!is_in_doubt(&answer(404, "No such image: bb:2")));
        assert!(!is_in_doubt(&answer(409, "the name is taken")));
    }
}

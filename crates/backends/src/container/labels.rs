//! What a later server needs to know of an instance, as labels of what runs it.

use serde_json::{Map, Value};
use skep_docker::Document;
use skep_model::{Choice, InstanceId, Principal, Revision, Variant};

pub(crate) const INSTALL: &str = "skep.install";
pub(crate) const INSTANCE: &str = "skep.instance";
pub(crate) const APP: &str = "skep.app";
pub(crate) const REVISION: &str = "skep.revision";
pub(crate) const OWNER: &str = "skep.owner";
/// The instance's name among its owner's.
pub(crate) const NAME: &str = "skep.name";
/// What was chosen before it started, as JSON.
pub(crate) const CHOSEN: &str = "skep.parameters";
pub(crate) const STARTED: &str = "skep.started";
pub(crate) const PORT: &str = "skep.port";
pub(crate) const NETWORK: &str = "skep.network";
pub(crate) const MEMORY: &str = "skep.memory";

/// What an instance's labels say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Labels {
    pub(crate) install: String,
    pub(crate) id: InstanceId,
    pub(crate) revision: Revision,
    pub(crate) owner: Option<Principal>,
    pub(crate) variant: Variant,
    pub(crate) started_at_ms: i64,
    pub(crate) port: u16,
    /// The network it is dialled in, as its backend calls it.
    pub(crate) network: String,
    pub(crate) memory_limit: Option<u64>,
}

impl Labels {
    /// `None`: not ours, or of a version that writes them differently.
    pub(crate) fn read(container: &Document) -> Option<Self> {
        let owner = match container.label(OWNER) {
            None | Some("") => None,
            Some(owner) => Some(serde_json::from_str(owner).ok()?),
        };
        let name = match container.label(NAME) {
            None | Some("") => None,
            Some(name) => Some(name.parse().ok()?),
        };
        let chosen = match container.label(CHOSEN) {
            None | Some("") => Choice::new(),
            Some(chosen) => serde_json::from_str(chosen).ok()?,
        };
        Some(Self {
            install: container.label(INSTALL)?.to_owned(),
            id: container.label(INSTANCE)?.parse().ok()?,
            revision: Revision(u64::from_str_radix(container.label(REVISION)?, 16).ok()?),
            owner,
            variant: Variant { name, chosen },
            started_at_ms: container.label(STARTED)?.parse().ok()?,
            port: container.label(PORT)?.parse().ok()?,
            network: container.label(NETWORK)?.to_owned(),
            memory_limit: container.label(MEMORY).and_then(|bytes| bytes.parse().ok()),
        })
    }

    /// All of them, even those that say nothing: what is not written here shows through from the image.
    pub(crate) fn write(&self) -> Map<String, Value> {
        let mut labels = Map::new();
        let mut put = |name: &str, value: String| labels.insert(name.to_owned(), value.into());
        put(INSTALL, self.install.clone());
        put(INSTANCE, self.id.to_string());
        put(APP, self.id.app().to_string());
        put(REVISION, self.revision.to_string());
        put(STARTED, self.started_at_ms.to_string());
        put(PORT, self.port.to_string());
        put(NETWORK, self.network.clone());
        let owner = self.owner.as_ref().and_then(|owner| serde_json::to_string(owner).ok());
        put(OWNER, owner.unwrap_or_default());
        put(NAME, self.variant.name.as_ref().map(ToString::to_string).unwrap_or_default());
        let chosen = Some(&self.variant.chosen).filter(|chosen| !chosen.is_empty());
        put(CHOSEN, chosen.and_then(|chosen| serde_json::to_string(chosen).ok()).unwrap_or_default());
        put(MEMORY, self.memory_limit.map(|bytes| bytes.to_string()).unwrap_or_default());
        labels
    }
}

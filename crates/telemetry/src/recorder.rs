//! The registry behind the `metrics` facade.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::atomics::AtomicU64;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use metrics_util::registry::{Registry, Storage};
use parking_lot::RwLock;

use crate::Exposition;
use crate::catalog;
use crate::histogram::Buckets;

/// Why metrics cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("another metrics recorder is installed in this process already; only one can be")]
    Foreign,
}

/// Puts Skep's recorder behind the `metrics` facade of this process. A second call answers the same exposition.
///
/// # Errors
/// When somebody else's recorder is there first.
pub fn install() -> Result<Exposition, TelemetryError> {
    static INSTALLED: OnceLock<Option<Exposition>> = OnceLock::new();
    // Two threads may come here at once; the second waits for the first.
    let installed = INSTALLED.get_or_init(|| {
        let registry = SharedRegistry::default();
        let exposition = registry.exposition();
        metrics::set_global_recorder(registry).ok().map(|()| exposition)
    });
    installed.clone().ok_or(TelemetryError::Foreign)
}

/// Creates the atomics of each series.
pub(crate) struct FixedStorage;

impl Storage<Key> for FixedStorage {
    type Counter = Arc<AtomicU64>;
    type Gauge = Arc<AtomicU64>;
    type Histogram = Arc<Buckets>;

    fn counter(&self, _: &Key) -> Self::Counter {
        Arc::new(AtomicU64::new(0))
    }

    fn gauge(&self, _: &Key) -> Self::Gauge {
        Arc::new(AtomicU64::new(0))
    }

    fn histogram(&self, key: &Key) -> Self::Histogram {
        Buckets::new(catalog::bounds(key.name()))
    }
}

/// Everything recorded, shared between the recorder and its expositions.
pub(crate) struct Recorded {
    pub(crate) registry: Registry<Key, FixedStorage>,
    /// Help texts of names outside the catalog.
    pub(crate) described: RwLock<HashMap<String, String>>,
    pub(crate) started_at_seconds: f64,
}

/// The recorder. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedRegistry(Arc<Recorded>);

impl Default for SharedRegistry {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(Recorded {
            registry: Registry::new(FixedStorage),
            described: RwLock::default(),
            started_at_seconds: now.as_secs_f64(),
        }))
    }
}

impl SharedRegistry {
    pub(crate) fn exposition(&self) -> Exposition {
        Exposition::new(Arc::clone(&self.0))
    }

    fn describe(&self, name: &KeyName, help: &SharedString) {
        if catalog::find(name.as_str()).is_none() {
            self.0.described.write().insert(name.as_str().to_owned(), help.to_string());
        }
    }
}

impl metrics::Recorder for SharedRegistry {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, &help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, &help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.0.registry.get_or_create_counter(key, |counter| Arc::clone(counter).into())
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.0.registry.get_or_create_gauge(key, |gauge| Arc::clone(gauge).into())
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.0.registry.get_or_create_histogram(key, |histogram| Histogram::from_arc(Arc::clone(histogram)))
    }
}

//! What is published, from its two sources: apps of the config, and services of the Swarm.

use std::sync::Arc;

use parking_lot::Mutex;
use skep_edge::{RouteTable, ServiceRoute};
use skep_model::AppSpec;
use tokio::sync::watch;

/// Tells the edge of every change of either.
#[derive(Clone)]
pub(crate) struct Publisher(Arc<Inner>);

struct Inner {
    sources: Mutex<Sources>,
    table: watch::Sender<Arc<RouteTable>>,
}

#[derive(Default)]
struct Sources {
    apps: Vec<Arc<AppSpec>>,
    services: Vec<Arc<ServiceRoute>>,
}

impl Publisher {
    pub(crate) fn new(apps: &[Arc<AppSpec>]) -> Self {
        let table = watch::Sender::new(Arc::new(RouteTable::new(apps)));
        Self(Arc::new(Inner {
            sources: Mutex::new(Sources { apps: apps.to_vec(), services: Vec::new() }),
            table,
        }))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.0.table.subscribe()
    }

    pub(crate) fn set_apps(&self, apps: &[Arc<AppSpec>]) {
        self.change(|sources| sources.apps = apps.to_vec());
    }

    pub(crate) fn set_services(&self, services: Vec<Arc<ServiceRoute>>) {
        self.change(|sources| sources.services = services);
    }

    fn change(&self, change: impl FnOnce(&mut Sources)) {
        // Held while it is told, so that the last to change is the last to tell.
        let mut sources = self.0.sources.lock();
        change(&mut sources);
        self.0.table.send_replace(Arc::new(RouteTable::with_services(&sources.apps, &sources.services)));
    }
}

//! Finding, after a restart or a move, what earlier servers started, on all nodes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skep_docker::Document;
use skep_launch::{Adopted, BackendError, ExitReport};
use skep_model::InstanceId;
use tokio::time::timeout;

use super::ending::lost;
use super::noting::Noting;
use super::order::{Noted, labels_of};
use super::place::Place;
use super::swarm;
use super::task::Task;
use super::{Inner, Own};
use crate::container::labels::Labels;

/// For agents to find this server, where instances run. They are dialled a little later in any case.
const AGENTS_WITHIN: Duration = Duration::from_secs(5);

/// What became of one service.
enum Found {
    Alive(Place),
    /// It ended, and nobody was told.
    Ended(Vec<String>, ExitReport),
    /// A launch that was cut short.
    Unfinished,
}

impl Inner {
    pub(super) async fn adopt(self: Arc<Self>) -> Result<Vec<Adopted>, BackendError> {
        self.nodes.refresh(&self.managers).await.map_err(|e| swarm(&e))?;
        if let Err(error) = self.ensure_network().await {
            tracing::warn!(%error, "no instance can be started on the Swarm yet");
        }
        let services = self.services().await.map_err(|e| swarm(&e))?;
        let tasks = self.tasks(None).await.map_err(|e| swarm(&e))?;
        self.keep_watch();
        self.await_agents(&tasks).await;
        let (mut adopted, mut ended) = (Vec::new(), Vec::new());
        for service in &services {
            let Some(labels) = labels_of(service) else {
                // Labels of a version that writes them differently, or a copy made by hand.
                tracing::warn!(
                    service = service.id(),
                    "carries this installation's label and is none of its services"
                );
                continue;
            };
            if self.table.get(&labels.id).is_some() {
                continue;
            }
            match self.look_at_service(service, &labels, &tasks).await {
                Found::Alive(place) => adopted.push(self.take_over(service, labels, place)),
                Found::Ended(lines, report) => ended.push(self.bury(labels.id, lines, report).await),
                Found::Unfinished => {
                    tracing::info!(instance = %labels.id, "its launch was cut short");
                    self.clear(&labels.id).await;
                }
            }
        }
        self.watch.adopted.store(true, Ordering::Release);
        self.table.tell(ended);
        Ok(adopted)
    }

    /// Agents come when they notice that an earlier server is gone.
    async fn await_agents(&self, tasks: &[Task]) {
        let awaited: BTreeSet<&String> =
            tasks.iter().filter(|task| task.is_running()).filter_map(|task| task.node.as_ref()).collect();
        let awaited: Vec<_> = awaited.into_iter().filter(|node| self.nodes.loss(node).is_none()).collect();
        let mut agents = self.desk.nodes();
        let all = agents.wait_for(|there| awaited.iter().all(|node| there.contains(*node)));
        if timeout(AGENTS_WITHIN, all).await.is_err() {
            tracing::warn!("not every node with instances has an agent that called in yet");
        }
    }

    async fn look_at_service(&self, service: &Document, labels: &Labels, tasks: &[Task]) -> Found {
        let Some(task) = Task::newest(tasks, service.id()) else { return Found::Unfinished };
        let Some(place) = Place::of(task) else { return Found::Unfinished };
        if let Some(loss) = self.nodes.loss(&place.node) {
            self.nodes.doubt(&place.node, &labels.network);
            return Found::Ended(Vec::new(), lost(loss));
        }
        if task.is_running() && !task.is_unwanted() {
            return Found::Alive(place);
        }
        if task.is_over() || task.is_unwanted() {
            let (lines, report) = self.report_of_task(&place, task).await;
            return Found::Ended(lines, report);
        }
        Found::Unfinished
    }

    fn take_over(&self, service: &Document, labels: Labels, place: Place) -> Adopted {
        let noted = Noted::of(service);
        let launched = self.launched(&place, labels.port);
        let own = Own {
            service: parking_lot::Mutex::new(Some(service.id().to_owned())),
            place: parking_lot::Mutex::new(Some(place)),
            network: parking_lot::Mutex::new(labels.network),
            noting: Noting::of(noted.clone()),
            ..Own::default()
        };
        self.table.adopt(labels.id.clone(), launched.clone(), own);
        Adopted {
            id: labels.id,
            launched,
            revision: labels.revision,
            owner: labels.owner,
            variant: labels.variant,
            started_at_ms: labels.started_at_ms,
            was_ready: noted.ready_ms.is_some(),
            ready_ms: noted.ready_ms,
            seats: noted.seats,
        }
    }

    async fn bury(&self, id: InstanceId, lines: Vec<String>, report: ExitReport) -> (InstanceId, ExitReport) {
        self.settle(&id, lines, report.clone()).await;
        self.clear(&id).await;
        (id, report)
    }
}

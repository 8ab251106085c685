//! Finding, after a restart, what earlier servers started.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use skep_docker::Document;
use skep_launch::{Adopted, BackendError, BackendEvent};
use skep_model::InstanceId;

use super::image::platform;
use super::launching::runs;
use super::order::{self, INSTALL, Labels};
use super::{Inner, Instance, Life, blocking};

impl Inner {
    pub(super) async fn adopt(self: Arc<Self>) -> Result<Vec<Adopted>, BackendError> {
        let notes = self.notes.clone();
        let Some(install) = blocking(move || notes.install()).await? else {
            // Nothing was ever launched: there may be no engine at all.
            self.watch.adopted.store(true, Ordering::Release);
            return Ok(Vec::new());
        };
        let listed = self.list(&install).await?;
        let mut adopted = Vec::new();
        let mut ended = Vec::new();
        for container in &listed {
            match Labels::of(container) {
                Some(labels) if self.instance(&labels.id).is_some() => {}
                Some(labels) if runs(container) => {
                    adopted.extend(self.adopt_one(container.id(), labels).await?);
                }
                Some(labels) if container.text("/State") != Some("created") => {
                    ended.extend(self.bury(container.id(), labels.id).await?);
                }
                // A launch that was cut short, or labels of a version that writes them differently.
                _ => self.sweep(container).await,
            }
        }
        self.watch.adopted.store(true, Ordering::Release);
        self.keep_watch(&install);
        // Not awaited: the launcher may listen only once it has this answer.
        let events = self.events.clone();
        tokio::spawn(async move {
            for event in ended {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
        self.forget_the_rest().await;
        Ok(adopted)
    }

    /// Every container of this installation, in any state.
    pub(super) async fn list(&self, install: &str) -> Result<Vec<Document>, BackendError> {
        let label = format!("{INSTALL}={install}");
        let mut listed = self.engine.list_containers(&[("label", &label)]).await.map_err(|e| platform(&e))?;
        listed.retain(order::is_named);
        Ok(listed)
    }

    async fn adopt_one(&self, container: &str, labels: Labels) -> Result<Option<Adopted>, BackendError> {
        let inspected = self.engine.inspect_container(container).await.map_err(|e| platform(&e))?;
        // Gone since it was listed: the reader of events would have been told, had it been known.
        let Some(inspected) = inspected.filter(|inspected| inspected.state().running) else {
            return Ok(None);
        };
        let launched = match self.launched(&inspected, &labels) {
            Ok(launched) => launched,
            Err(error) => {
                // The way of dialling was configured anew, say: nobody can reach it any more.
                tracing::warn!(instance = %labels.id, %error, "it cannot be adopted and is stopped");
                self.sweep(&inspected.0).await;
                return Ok(None);
            }
        };
        let (notes, id) = (self.notes.clone(), labels.id.clone());
        let (ready_ms, seats) = blocking(move || (notes.ready_ms(&id), notes.seats(&id))).await?;
        let life = Life::Running(launched.clone());
        let instance = Instance::new(labels.id.clone(), life, Some(container.to_owned()));
        self.instances.lock().insert(labels.id.clone(), Arc::new(instance));
        Ok(Some(Adopted {
            id: labels.id,
            launched,
            revision: labels.revision,
            owner: labels.owner,
            started_at_ms: labels.started_at_ms,
            was_ready: ready_ms.is_some(),
            ready_ms,
            seats,
        }))
    }

    /// Tells of an instance that ended while nobody looked, and removes its container.
    async fn bury(&self, container: &str, id: InstanceId) -> Result<Option<BackendEvent>, BackendError> {
        let inspected = self.engine.inspect_container(container).await.map_err(|e| platform(&e))?;
        let Some(inspected) = inspected else { return Ok(None) };
        let (lines, report) = self.report(&inspected, false).await;
        self.settle(&id, lines, report.clone()).await;
        self.engine.remove_container(container).await.map_err(|e| platform(&e))?;
        Ok(Some(BackendEvent::Exited { id, report }))
    }

    /// Removes a container that is ours and nobody's.
    pub(super) async fn sweep(&self, container: &Document) {
        let names = container.at("/Names/0").and_then(|name| name.as_str()).or(container.text("/Name"));
        let name = names.unwrap_or_default().to_owned();
        match self.engine.remove_container(container.id()).await {
            Ok(_) => tracing::info!("the container {name} belonged to no instance any more and was removed"),
            Err(error) => {
                tracing::warn!("the container {name}, which belongs to no instance, stays: {error}")
            }
        }
    }

    /// Folders of instances that are neither alive nor ended hold secrets nobody needs.
    async fn forget_the_rest(&self) {
        let (notes, alive) = (self.notes.clone(), self.instances.lock().keys().cloned().collect::<Vec<_>>());
        let _ = blocking(move || {
            for id in notes.list() {
                if notes.exit(&id).is_none() && !alive.contains(&id) {
                    notes.remove(&id);
                }
            }
        })
        .await;
    }
}

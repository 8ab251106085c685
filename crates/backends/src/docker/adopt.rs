//! Finding, after a restart, what earlier servers started.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use skep_docker::Document;
use skep_launch::{Adopted, BackendError, ExitReport};
use skep_model::InstanceId;

use super::launching::runs;
use super::order::{self, labels_of};
use super::{Inner, Own};
use crate::container::labels::{INSTALL, Labels};
use crate::container::words::platform;
use crate::table::blocking;

impl Inner {
    pub(super) async fn adopt(self: Arc<Self>) -> Result<Vec<Adopted>, BackendError> {
        let notes = self.notes.clone();
        let Some(install) = blocking(move || notes.install()).await? else {
            // Nothing was ever launched: there may be no engine at all.
            self.watch.adopted.store(true, Ordering::Release);
            return Ok(Vec::new());
        };
        let listed = self.list(&install).await?;
        let (mut alive, mut dead) = (Vec::new(), Vec::new());
        for container in &listed {
            match labels_of(container) {
                Some(labels) if self.table.get(&labels.id).is_some() => {}
                Some(labels) if runs(container) => {
                    let id = labels.id.clone();
                    match self.adoptable(container.id(), labels).await? {
                        Some(adopted) => alive.push((adopted, container.id())),
                        None => dead.push((container.id(), id)),
                    }
                }
                Some(labels) if container.text("/State") != Some("created") => {
                    dead.push((container.id(), labels.id));
                }
                // A launch that was cut short, or labels of a version that writes them differently.
                _ => self.sweep(container).await,
            }
        }
        // From here on nothing fails: who is asked again after a failure must not have adopted some already.
        let adopt = |(adopted, container): (Adopted, &str)| {
            self.table.adopt(adopted.id.clone(), adopted.launched.clone(), Own::of(container.to_owned()));
            adopted
        };
        let adopted = alive.into_iter().map(adopt).collect();
        let mut ended = Vec::new();
        for (container, id) in dead {
            match self.bury(container, id).await {
                Ok(report) => ended.extend(report),
                Err(error) => tracing::warn!(container, %error, "how it ended cannot be read"),
            }
        }
        self.watch.adopted.store(true, Ordering::Release);
        self.keep_watch(&install);
        self.table.tell(ended);
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

    /// `None`: it does not run any more, or cannot be reached and was removed.
    async fn adoptable(&self, container: &str, labels: Labels) -> Result<Option<Adopted>, BackendError> {
        let inspected = self.engine.inspect_container(container).await.map_err(|e| platform(&e))?;
        // It ended since it was listed.
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
        Ok(Some(Adopted {
            id: labels.id,
            launched,
            revision: labels.revision,
            owner: labels.owner,
            variant: labels.variant,
            started_at_ms: labels.started_at_ms,
            was_ready: ready_ms.is_some(),
            ready_ms,
            seats,
        }))
    }

    /// Tells of an instance that ended while nobody looked, and removes its container.
    async fn bury(
        &self,
        container: &str,
        id: InstanceId,
    ) -> Result<Option<(InstanceId, ExitReport)>, BackendError> {
        let inspected = self.engine.inspect_container(container).await.map_err(|e| platform(&e))?;
        let Some(inspected) = inspected.filter(|there| !there.state().running) else { return Ok(None) };
        let (lines, report) = self.report(&inspected, false).await;
        self.settle(&id, lines, report.clone()).await;
        self.clear(container).await;
        Ok(Some((id, report)))
    }

    /// Removes the container of an instance that has ended. One that cannot be removed now belongs to nobody and is swept
    /// later; the end is told all the same.
    pub(super) async fn clear(&self, container: &str) {
        if let Err(error) = self.engine.remove_container(container).await {
            tracing::warn!(container, %error, "a container that has ended cannot be removed yet");
        }
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
        let (notes, alive) = (self.notes.clone(), self.table.ids());
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

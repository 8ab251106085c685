//! The end of an instance: asked for, noticed, told.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::ready;
use jiff::Timestamp;
use skep_docker::{Container, LogOptions};
use skep_launch::{BackendError, EndedBy, ExitReport};
use skep_model::InstanceId;

use super::order::{self, labels_of};
use super::{Inner, Instance};
use crate::container::ending::{KEPT_LINES, READ_WITHIN, judge, last_lines, removed_from_outside};
use crate::container::words::platform;
use crate::table::{Life, blocking, not_started};

impl Inner {
    /// Ends an instance and answers when nothing of it is left.
    pub(super) async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<ExitReport, BackendError> {
        let Some(instance) = self.table.get(id) else {
            let (notes, id) = (self.notes.clone(), id.clone());
            return blocking(move || notes.exit(&id)).await?.ok_or(BackendError::Unknown);
        };
        instance.ask_to_stop(grace);
        // A launch under way sees that, undoes what it made and fails.
        if let Err(error) = instance.launched().await {
            return Ok(not_started(&error));
        }
        let container = instance.own.container().unwrap_or_else(|| order::name(id));
        match self.engine.stop_container(&container, grace).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(platform(&error)),
        }
        match self.conclude(&instance).await? {
            Some(report) => Ok(report),
            None => {
                Err(BackendError::Platform(format!("the container of {id} runs on although it was stopped")))
            }
        }
    }

    /// Finds out whether an instance has ended, and if so keeps its last words, removes its container and tells of it.
    /// `None`: it runs. Several may ask at once; one acts.
    pub(super) async fn conclude(
        &self,
        instance: &Arc<Instance>,
    ) -> Result<Option<ExitReport>, BackendError> {
        let _one_at_a_time = instance.own.ending.lock().await;
        match instance.life() {
            Life::Ended(report) => return Ok(Some(report)),
            // Whoever launches it concludes.
            Life::Launching | Life::Failed(_) => return Ok(None),
            Life::Running(_) => {}
        }
        let id = &instance.id;
        let container = instance.own.container().unwrap_or_else(|| order::name(id));
        let asked = instance.grace().is_some();
        let inspected = self.engine.inspect_container(&container).await.map_err(|e| platform(&e))?;
        let (lines, report) = match inspected {
            Some(inspected) if inspected.state().running => return Ok(None),
            Some(inspected) => self.report(&inspected, asked).await,
            None => (Vec::new(), removed_from_outside()),
        };
        self.settle(id, lines, report.clone()).await;
        self.clear(&container).await;
        self.samples.forget(id);
        self.table.end(instance, report.clone()).await;
        Ok(Some(report))
    }

    /// Keeps what an ended instance wrote, and how it ended.
    pub(super) async fn settle(&self, id: &InstanceId, lines: Vec<String>, report: ExitReport) {
        let (notes, known) = (self.notes.clone(), id.clone());
        let settled = blocking(move || {
            let settled = notes.settle(&known, &lines, &report);
            notes.prune(known.app());
            settled
        });
        if let Ok(Err(error)) = settled.await {
            tracing::warn!(instance = %id, "its last words cannot be kept: {error}");
        }
    }

    /// What an ended container wrote last, and how it ended.
    pub(super) async fn report(&self, container: &Container, asked: bool) -> (Vec<String>, ExitReport) {
        let options = LogOptions {
            tail: Some(KEPT_LINES),
            terminal: container.has_terminal(),
            ..LogOptions::default()
        };
        let read = async {
            match self.engine.container_logs(container.id(), options).await {
                Ok(lines) => {
                    let lines = lines.filter_map(|line| ready(line.ok().map(|line| line.text)));
                    lines.take(KEPT_LINES).collect::<Vec<_>>().await
                }
                Err(_) => Vec::new(),
            }
        };
        let lines = tokio::time::timeout(READ_WITHIN, read).await.unwrap_or_default();
        let limit = labels_of(&container.0).and_then(|labels| labels.memory_limit);
        let mut report =
            ExitReport { last_lines: last_lines(&lines), ..judge(&container.state(), asked, limit) };
        let finished: Option<Timestamp> =
            container.0.text("/State/FinishedAt").and_then(|time| time.parse().ok());
        if finished.is_some_and(|finished| self.watch.was_away(finished.as_millisecond())) {
            report.ended_by = EndedBy::Platform;
            report.reason = format!("{}, with the Docker Engine", report.reason);
        }
        (lines, report)
    }
}

//! The end of an instance: asked for, noticed, told.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::ready;
use skep_docker::{Container, ContainerState, LogOptions};
use skep_launch::{BackendError, BackendEvent, ExitReport};
use skep_model::InstanceId;

use super::image::platform;
use super::order::{self, Labels};
use super::{Inner, Instance, Life, blocking};
use crate::ending;

/// Lines kept of what an instance wrote, once its container is gone.
const KEPT_LINES: usize = 2000;
/// To read them. A log on a dying disk is not waited for.
const READ_WITHIN: Duration = Duration::from_secs(10);

impl Inner {
    /// Ends an instance and answers when nothing of it is left.
    pub(super) async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<ExitReport, BackendError> {
        let Some(instance) = self.instance(id) else {
            let (notes, id) = (self.notes.clone(), id.clone());
            return blocking(move || notes.exit(&id)).await?.ok_or(BackendError::Unknown);
        };
        instance.stop.send_replace(true);
        // A launch under way sees that, undoes what it made and fails.
        if let Err(error) = instance.launched().await {
            return Ok(not_started(&error));
        }
        let container = instance.container.lock().clone().unwrap_or_else(|| order::name(id));
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
        let _one_at_a_time = instance.ending.lock().await;
        match &*instance.life.borrow() {
            Life::Ended(report) => return Ok(Some(report.clone())),
            // Whoever launches it concludes.
            Life::Launching | Life::Failed(_) => return Ok(None),
            Life::Running(_) => {}
        }
        let id = &instance.id;
        let container = instance.container.lock().clone().unwrap_or_else(|| order::name(id));
        let asked = *instance.stop.borrow();
        let inspected = self.engine.inspect_container(&container).await.map_err(|e| platform(&e))?;
        let (lines, report) = match inspected {
            Some(inspected) if inspected.state().running => return Ok(None),
            Some(inspected) => self.report(&inspected, asked).await,
            None => (Vec::new(), removed_from_outside()),
        };
        self.settle(id, lines, report.clone()).await;
        self.engine.remove_container(&container).await.map_err(|e| platform(&e))?;
        self.samples.forget(id);
        self.instances.lock().remove(id);
        instance.life.send_replace(Life::Ended(report.clone()));
        if !asked {
            // Bounded by the receiver; when the launcher is gone, so is whoever wants to know.
            let event = BackendEvent::Exited { id: id.clone(), report: report.clone() };
            let _ = self.events.send(event).await;
        }
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
        let mut last_lines = lines[lines.len().saturating_sub(ending::LAST_LINES)..].to_vec();
        ending::cut(&mut last_lines);
        let limit = Labels::of(&container.0).and_then(|labels| labels.memory_limit);
        let report = ExitReport { last_lines, ..judge(&container.state(), asked, limit) };
        (lines, report)
    }
}

/// How a container ended, without its last lines.
fn judge(state: &ContainerState, asked: bool, memory_limit: Option<u64>) -> ExitReport {
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    // A program killed by a signal ends the container with 128 and the signal.
    let signal = code.filter(|code| (129..=192).contains(code)).map(|code| code - 128);
    // One process of several may have been killed for want of memory, and the app have gone on.
    let out_of_memory = state.out_of_memory && code != Some(0);
    let reason = if out_of_memory {
        ending::out_of_memory(memory_limit)
    } else if !state.error.is_empty() {
        format!("its container did not start: {}", state.error)
    } else {
        let by_status = if signal.is_some() { None } else { code };
        let words = ending::words(asked, by_status, signal);
        match code {
            Some(126) if !asked => format!("{words}: its command may not be executed"),
            Some(127) if !asked => format!("{words}: its command was not found in the image"),
            Some(0) if !asked => format!("{words}: an app must go on listening"),
            _ => words,
        }
    };
    ExitReport {
        reason,
        code: code.filter(|_| signal.is_none()),
        signal,
        out_of_memory,
        last_lines: Vec::new(),
    }
}

pub(super) fn removed_from_outside() -> ExitReport {
    ExitReport {
        reason: "its container was removed by somebody else than Skep".to_owned(),
        code: None,
        signal: None,
        out_of_memory: false,
        last_lines: Vec::new(),
    }
}

fn not_started(error: &BackendError) -> ExitReport {
    let last_lines = match error {
        BackendError::App { last_lines, .. } => last_lines.clone(),
        _ => Vec::new(),
    };
    ExitReport { reason: error.to_string(), code: None, signal: None, out_of_memory: false, last_lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        let state = |code: i64, out_of_memory: bool| ContainerState {
            status: "exited".to_owned(),
            exit_code: Some(code),
            out_of_memory,
            ..ContainerState::default()
        };
        assert_eq!(judge(&state(1, false), false, None).reason, "exited with status 1");
        let killed = judge(&state(137, false), false, None);
        assert_eq!(
            (killed.reason.as_str(), killed.code, killed.signal),
            ("killed by signal 9 (SIGKILL)", None, Some(9))
        );
        assert_eq!(
            judge(&state(137, true), false, Some(64 << 20)).reason,
            "ran out of memory (limit 64 MiB)"
        );
        assert!(!judge(&state(0, true), false, None).out_of_memory);
        assert_eq!(judge(&state(143, false), true, None).reason, "stopped");
        assert_eq!(
            judge(&state(137, false), true, None).reason,
            "stopped, by force: it did not end when asked to"
        );
        assert!(judge(&state(127, false), false, None).reason.contains("not found in the image"));
        let broken = ContainerState { error: "no such device".to_owned(), ..state(128, false) };
        assert_eq!(judge(&broken, false, None).reason, "its container did not start: no such device");
    }
}

//! The end of an instance: asked for, noticed, told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use skep_agent::AgentContainer;
use skep_docker::{ContainerState, Engine, Error, Kind};
use skep_launch::{BackendError, EndedBy, ExitReport};
use skep_model::InstanceId;
use tokio::time::{sleep, timeout};

use super::order;
use super::place::Place;
use super::swarm;
use super::task::Task;
use super::{Inner, Instance};
use crate::container::ending::{KEPT_LINES, judge, last_lines, removed_from_outside};
use crate::container::labels::INSTANCE;
use crate::table::{Life, blocking, not_started};

/// For a node's agent to say how a container is.
const LOOK_WITHIN: Duration = Duration::from_secs(3);
/// To read its last lines. A node that hangs is not waited for.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Beyond the grace of a stop: the Swarm takes some seconds to tell a node, and to remove a container.
const STOP_MARGIN: Duration = Duration::from_secs(15);
/// Between two looks at a container on its way out.
const LOOK_AGAIN: Duration = Duration::from_millis(150);

/// Why somebody believes that an instance has ended.
#[derive(Debug, Clone)]
pub(super) enum Sign {
    /// Its node said that something happened to its container.
    Event,
    /// Its task is over, or the Swarm ends it.
    Task(Task),
    /// Its task is gone.
    Missing,
    /// Its node is down.
    Lost(String),
}

impl Inner {
    /// Ends an instance and answers when nothing of it is left, as far as its node can tell.
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
        let _one_at_a_time = instance.own.ending.lock().await;
        if let Life::Ended(report) = instance.life() {
            return Ok(report);
        }
        let place = instance.own.place();
        let reader = place.clone().map(|place| self.read_to_the_end(&place));
        self.remove(id).await.map_err(|e| swarm(&e))?;
        let last = match &place {
            Some(place) => self.see_out(place, grace.max(self.config.stop_grace) + STOP_MARGIN).await,
            None => None,
        };
        let lines = match reader {
            Some(mut reader) => match timeout(LOOK_WITHIN, &mut reader.task).await {
                Ok(_) => std::mem::take(&mut *reader.lines.lock()),
                Err(_) => {
                    reader.task.abort();
                    std::mem::take(&mut *reader.lines.lock())
                }
            },
            None => Vec::new(),
        };
        let state = last.map(|last| state_of(&last)).unwrap_or_default();
        let report = ExitReport { last_lines: last_lines(&lines), ..judge(&state, true, None) };
        self.settle(id, lines, report.clone()).await;
        self.table.end(&instance, report.clone()).await;
        Ok(report)
    }

    /// Waits until a container is gone. Answers how it was seen last after its end.
    async fn see_out(&self, place: &Place, within: Duration) -> Option<AgentContainer> {
        let until = Instant::now() + within;
        let mut last = None;
        while Instant::now() < until {
            match timeout(LOOK_WITHIN, self.desk.inspect(&place.node, &place.container)).await {
                Ok(Ok(None)) => return last,
                Ok(Ok(Some(seen))) if !seen.running => last = Some(seen),
                // It runs on, or nobody can say. A node that is down keeps nothing alive that anybody reaches; when it
                // comes back, the Swarm ends what is left there.
                _ => {
                    if self.nodes.loss(&place.node).is_some() {
                        return last;
                    }
                }
            }
            sleep(LOOK_AGAIN).await;
        }
        let node = self.nodes.hostname(&place.node);
        tracing::warn!(container = place.container, node, "whether it is gone cannot be found out");
        last
    }

    /// Collects what a container writes until it ends.
    fn read_to_the_end(&self, place: &Place) -> Reader {
        let lines = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (desk, place, kept) = (self.desk.clone(), place.clone(), Arc::clone(&lines));
        let task = tokio::spawn(async move {
            let Ok(mut said) = desk.logs(&place.node, &place.container, KEPT_LINES, true).await else {
                return;
            };
            while let Some(line) = said.next().await {
                let mut kept = kept.lock();
                if kept.len() >= 2 * KEPT_LINES {
                    kept.drain(..KEPT_LINES);
                }
                kept.push(line.text);
            }
        });
        Reader { task, lines }
    }

    /// Finds out whether an instance has ended, and if so keeps its last words, removes its service and tells of it.
    /// `false`: it runs, or somebody else is about to conclude it.
    pub(super) async fn conclude(&self, instance: &Arc<Instance>, sign: Sign) -> Result<bool, BackendError> {
        let Ok(_one_at_a_time) = instance.own.ending.try_lock() else { return Ok(false) };
        // Whoever launches or stops it concludes; when nobody listens, a successor does.
        if !instance.is_running() || instance.grace().is_some() || self.table.is_deserted() {
            return Ok(false);
        }
        let Some(place) = instance.own.place() else { return Ok(false) };
        let lost = matches!(sign, Sign::Lost(_));
        let Some((lines, report)) = self.judge_sign(instance, &place, sign).await? else { return Ok(false) };
        tracing::info!(instance = %instance.id, reason = report.reason, "has ended");
        self.settle(&instance.id, lines, report.clone()).await;
        if report.ended_by == EndedBy::Platform && self.ended_with_its_engine(instance, &place) {
            self.nodes.doubt(&place.node, &instance.own.network.lock());
        }
        if lost {
            // Its visitors get another one meanwhile: the managers are busy when a node goes down. Nobody can take it for
            // alive.
            self.table.end(instance, report).await;
            self.clear(&instance.id).await;
        } else {
            self.clear(&instance.id).await;
            self.table.end(instance, report).await;
        }
        self.renew_networks().await;
        Ok(true)
    }

    /// Whether the engine it ran under may have gone, and left its network behind.
    fn ended_with_its_engine(&self, instance: &Instance, place: &Place) -> bool {
        // One that is drained has ended everything by itself before its agent goes, too.
        if self.nodes.get(&place.node).is_some_and(|node| node.availability == "drain") {
            return false;
        }
        // An engine that has started it since gets over the network.
        let before = |trouble: Instant| instance.own.since.lock().is_none_or(|since| since < trouble);
        self.nodes.unsteady_since(&place.node, Instant::now()).is_some_and(before)
    }

    async fn judge_sign(
        &self,
        instance: &Instance,
        place: &Place,
        sign: Sign,
    ) -> Result<Option<(Vec<String>, ExitReport)>, BackendError> {
        if let Sign::Lost(loss) = sign {
            return Ok(Some((Vec::new(), lost(loss))));
        }
        // However its task looks: with its service it was removed, and what its program did then is no crash.
        let Some(there) = self.service(&instance.id).await.map_err(|e| swarm(&e))? else {
            if matches!(sign, Sign::Task(_)) && self.still_runs(place).await {
                // It has its grace, and may say something yet; looked at again.
                return Ok(None);
            }
            return Ok(Some((self.last_words(place).await, removed_from_outside())));
        };
        let task = match sign {
            Sign::Task(task) => Some(task),
            _ => {
                let tasks = self.tasks(Some(&[there.id().to_owned()])).await.map_err(|e| swarm(&e))?;
                tasks.into_iter().find(|task| task.id == place.task)
            }
        };
        let seen = timeout(LOOK_WITHIN, self.desk.inspect(&place.node, &place.container)).await;
        let seen = match seen {
            Ok(Ok(seen)) => seen,
            // Nobody there can be asked. What the managers know has to do.
            _ => None,
        };
        let unwanted = task.as_ref().is_none_or(Task::is_unwanted);
        match (seen, task) {
            // On its way out, perhaps; looked at again.
            (Some(seen), _) if seen.running => Ok(None),
            (Some(seen), _) => {
                let lines = self.last_words(place).await;
                let mut report = ExitReport {
                    last_lines: last_lines(&lines),
                    ..judge(&state_of(&seen), false, memory(&seen))
                };
                self.find_cause(&mut report, place, unwanted);
                Ok(Some((lines, report)))
            }
            (None, Some(task)) if task.is_over() => Ok(Some(self.report_of_task(place, &task).await)),
            (None, None) => Ok(Some((Vec::new(), lost("its task is gone from the Swarm".to_owned())))),
            (None, Some(_)) => Ok(None),
        }
    }

    async fn still_runs(&self, place: &Place) -> bool {
        let seen = timeout(LOOK_WITHIN, self.desk.inspect(&place.node, &place.container)).await;
        seen.ok().and_then(Result::ok).flatten().is_some_and(|seen| seen.running)
    }

    /// What is reported of a task that is over.
    pub(super) async fn report_of_task(&self, place: &Place, task: &Task) -> (Vec<String>, ExitReport) {
        let seen = timeout(LOOK_WITHIN, self.desk.inspect(&place.node, &place.container)).await;
        let seen = seen.ok().and_then(Result::ok).flatten().filter(|seen| !seen.running);
        let lines = self.last_words(place).await;
        let (state, limit) = match &seen {
            Some(seen) => (state_of(seen), memory(seen)),
            None => (ContainerState { exit_code: task.exit_code, ..ContainerState::default() }, None),
        };
        let mut report = ExitReport { last_lines: last_lines(&lines), ..judge(&state, false, limit) };
        self.find_cause(&mut report, place, task.is_unwanted());
        (lines, report)
    }

    /// Whether it was the app's doing.
    fn find_cause(&self, report: &mut ExitReport, place: &Place, unwanted: bool) {
        let host = self.nodes.hostname(&place.node);
        if unwanted {
            let drained = self.nodes.get(&place.node).is_some_and(|node| node.availability == "drain");
            report.reason = if drained {
                format!("its node {host} was drained")
            } else {
                format!("the Swarm ended it on {host}")
            };
            report.ended_by = EndedBy::Platform;
        } else if self.nodes.is_unsteady(&place.node, Instant::now()) && !report.out_of_memory {
            report.reason = format!("{}, with the Docker Engine of its node {host}", report.reason);
            report.ended_by = EndedBy::Platform;
        }
    }

    /// What a container wrote last, as far as its node tells.
    pub(super) async fn last_words(&self, place: &Place) -> Vec<String> {
        let read = async {
            match self.desk.logs(&place.node, &place.container, KEPT_LINES, false).await {
                Ok(lines) => lines.take(KEPT_LINES).map(|line| line.text).collect().await,
                Err(_) => Vec::new(),
            }
        };
        timeout(READ_WITHIN, read).await.unwrap_or_default()
    }

    /// Keeps what an ended instance wrote, and how it ended.
    pub(super) async fn settle(&self, id: &InstanceId, mut lines: Vec<String>, report: ExitReport) {
        lines.drain(..lines.len().saturating_sub(KEPT_LINES));
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

    /// Removes whatever the Swarm has of an instance, now or later.
    pub(super) async fn clear(&self, id: &InstanceId) {
        if let Err(error) = self.remove(id).await {
            tracing::warn!(instance = %id, %error, "what is left of it cannot be removed yet");
            self.doom(id);
        }
    }

    /// Removes the service of an instance, then its secrets. What somebody else gave that name stays.
    async fn remove(&self, id: &InstanceId) -> Result<(), Error> {
        if let Some(service) = self.service(id).await? {
            let service = service.id();
            self.managers.ask(|engine| async move { engine.remove(Kind::Service, service).await }).await?;
        }
        let label = format!("{INSTANCE}={id}");
        let filters = [("label", label.as_str())];
        let list = |engine: Engine| async move { engine.list(Kind::Secret, &filters).await };
        let names = |name: &str| name.starts_with(&order::secret_prefix(id));
        for secret in self.managers.ask(list).await? {
            if secret.text("/Spec/Name").is_some_and(names) {
                let secret = secret.id();
                self.managers.ask(|engine| async move { engine.remove(Kind::Secret, secret).await }).await?;
            }
        }
        Ok(())
    }
}

/// Collects lines; what it has so far can be had at any time.
struct Reader {
    task: tokio::task::JoinHandle<()>,
    lines: Arc<parking_lot::Mutex<Vec<String>>>,
}

/// A container as its node sees it, in the words of its engine.
fn state_of(seen: &AgentContainer) -> ContainerState {
    ContainerState {
        status: seen.status.clone(),
        running: seen.running,
        exit_code: seen.exit_code,
        out_of_memory: seen.oom_killed,
        error: seen.error.clone(),
        pid: None,
    }
}

fn memory(seen: &AgentContainer) -> Option<u64> {
    seen.labels.get(crate::container::labels::MEMORY)?.parse().ok()
}

pub(super) fn lost(reason: String) -> ExitReport {
    ExitReport { reason, ..removed_from_outside() }
}

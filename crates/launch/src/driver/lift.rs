//! The tasks that take time: bringing an instance up, taking it down, asking whether it is well.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use skep_model::{InstanceId, SeatId};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Links, probe};
use crate::backend::{
    Adopted, Backend, BackendError, EndedBy, ExitReport, LaunchOrder, LogQuery, ProgressSink, Stage,
};
use crate::desk::Live;
use crate::pool::{Failure, Found, Input, StopReason};

/// How long a backend may take over a note or a few log lines: both are best effort.
const BEST_EFFORT: Duration = Duration::from_secs(5);
/// An instance nobody can reach for this long counts as one that does not answer.
const UNREACHED_FOR: Duration = Duration::from_secs(60);
/// A start that is lost is begun anew at once, but no more often than this.
const BETWEEN_LOSSES: Duration = Duration::from_millis(500);
/// How many log lines explain a failed start.
const LAST_LINES: usize = 50;

/// From the order to the first good answer.
pub(super) async fn bring_up(links: Links, order: LaunchOrder) {
    let id = order.id.clone();
    let Some(backend) = links.backends.get(&order.spec.backend) else {
        let summary = format!("this server has no backend of the kind {:?}", order.spec.backend);
        let failure = Failure { summary, last_lines: Vec::new() };
        links.desk.step(Input::StartFailed { id, failure });
        return;
    };
    let (spec, name) = (order.spec.clone(), order.variant.name.clone());
    let kind = spec.backend;
    let progress = {
        let (desk, id) = (links.desk.clone(), id.clone());
        ProgressSink::new(move |progress| {
            let (stage, detail) = (progress.stage, progress.detail);
            desk.step(Input::Progress { id: id.clone(), stage, detail });
        })
    };
    let begun = Instant::now();
    match backend.launch(order, progress).await {
        Ok(launched) => {
            links.desk.introduce(&id, Live::new(&id, (spec, name), kind, launched));
            links.desk.step(Input::Progress { id: id.clone(), stage: Stage::Boot, detail: String::new() });
            await_ready(links, id).await;
        }
        Err(BackendError::Lost(reason)) => {
            tracing::info!(instance = %id, reason, "lost while it started");
            tokio::time::sleep_until(begun + BETWEEN_LOSSES).await;
            let report = ExitReport { reason, ended_by: EndedBy::Platform, ..ExitReport::default() };
            links.desk.step(Input::Exited { id, report });
        }
        Err(error) => {
            tracing::warn!(instance = %id, %error, "a start did not succeed");
            let failure = match error {
                BackendError::App { summary, last_lines } => Failure { summary, last_lines },
                other => Failure { summary: other.to_string(), last_lines: Vec::new() },
            };
            links.desk.step(Input::StartFailed { id, failure });
        }
    }
}

/// Asks an instance that can be dialled until it answers well. The pool's start timeout ends this by a stop.
pub(super) async fn await_ready(links: Links, id: InstanceId) {
    let Some(live) = links.desk.live(&id) else { return };
    probe::until_good(&links.config, live.upstream.dial.as_ref(), &live.spec.health).await;
    links.desk.step(Input::Ready { id: id.clone() });
    let facts = links.desk.read(|pool| pool.app_instances(id.app()));
    let ready_ms = facts.iter().find(|facts| facts.id == id).and_then(|facts| facts.ready_ms);
    if let (Some(ready_ms), Some(backend)) = (ready_ms, links.backend_of(&id)) {
        let _late = tokio::time::timeout(BEST_EFFORT, backend.note_ready(&id, ready_ms)).await;
    }
}

/// Stops an instance, for as long as it takes.
pub(super) async fn take_down(links: Links, id: InstanceId, grace: Duration, reason: StopReason) {
    let Some(backend) = links.backend_of(&id).cloned() else {
        links.desk.step(Input::Stopped { id });
        return;
    };
    if reason == StopReason::StartFailed {
        let lines = last_lines(backend.as_ref(), &id).await;
        if !lines.is_empty() {
            links.desk.step(Input::LastLines { id: id.clone(), lines });
        }
    }
    let mut pause = Duration::from_millis(500);
    loop {
        match backend.stop(&id, grace).await {
            Ok(_) | Err(BackendError::Unknown) => break,
            Err(error) => {
                tracing::warn!(instance = %id, %error, "a stop did not succeed; it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(30));
            }
        }
    }
    links.desk.step(Input::Stopped { id: id.clone() });
    links.desk.forget_unknown(&id);
}

async fn last_lines(backend: &dyn Backend, id: &InstanceId) -> Vec<String> {
    let query = LogQuery { tail: LAST_LINES, follow: false };
    let read = async {
        match backend.logs(id, query).await {
            Ok(lines) => lines.take(LAST_LINES).collect().await,
            Err(_) => Vec::new(),
        }
    };
    tokio::time::timeout(BEST_EFFORT, read).await.unwrap_or_default()
}

/// One probe of a running instance. While nobody can say how it is (its node's agent is being replaced), it is asked again:
/// whether the node itself is gone, its backend finds out. For so long only.
pub(super) async fn probe_running(links: Links, permits: Arc<Semaphore>, id: InstanceId) {
    let until = Instant::now() + UNREACHED_FOR;
    loop {
        let Ok(permit) = permits.acquire().await else { return };
        let Some(live) = links.desk.live(&id) else { return };
        let asked = probe::once(&links.config, live.upstream.dial.as_ref(), &live.spec.health).await;
        drop(permit);
        if let Some(good) = asked.or((Instant::now() >= until).then_some(false)) {
            return links.desk.step(Input::Probed { id, good });
        }
        tokio::time::sleep(links.config.probe_timeout).await;
    }
}

/// Notes the seats of an instance, after the note before.
pub(super) async fn note_seats(
    links: Links,
    id: InstanceId,
    seats: Vec<SeatId>,
    before: Option<JoinHandle<()>>,
) {
    if let Some(before) = before {
        // Its outcome does not matter: what is noted now replaces it.
        drop(before.await);
    }
    if let Some(backend) = links.backend_of(&id) {
        let _late = tokio::time::timeout(BEST_EFFORT, backend.note_seats(&id, seats)).await;
    }
}

/// Asks every backend what is alive, until it says so: starting anything before that could start it twice.
pub(super) async fn adopt_all(links: Links) {
    let answers = links.backends.values().map(|backend| async {
        let adopted = adopt(backend.as_ref()).await;
        adopted.into_iter().map(|adopted| (backend.kind(), adopted)).collect::<Vec<_>>()
    });
    let answers = futures_util::future::join_all(answers).await;
    let mut instances = Vec::new();
    for (kind, adopted) in answers.into_iter().flatten() {
        links.desk.introduce_adopted(&adopted.id, kind, adopted.launched);
        instances.push(Found {
            id: adopted.id,
            revision: adopted.revision,
            owner: adopted.owner,
            variant: adopted.variant,
            started: links.desk.clock.moment(adopted.started_at_ms),
            was_ready: adopted.was_ready,
            ready_ms: adopted.ready_ms,
            seats: adopted.seats,
        });
    }
    links.desk.step(Input::Adopt(instances));
}

/// A backend that cannot even say what is alive for this long cannot start anything either; others must not wait for it.
const ADOPT_ATTEMPTS: u32 = 8;

async fn adopt(backend: &dyn Backend) -> Vec<Adopted> {
    let mut pause = Duration::from_millis(200);
    for _ in 0..ADOPT_ATTEMPTS {
        match backend.adopt().await {
            Ok(adopted) => return adopted,
            Err(error) => {
                let kind = backend.kind();
                tracing::error!(?kind, %error, "cannot find out which instances are alive; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        }
    }
    // They are nobody's, and a backend ends nothing that it was not asked for: better too many than somebody's work lost.
    let kind = backend.kind();
    tracing::error!(?kind, "instances that are alive are left alone; restart Skep once this is mended");
    Vec::new()
}

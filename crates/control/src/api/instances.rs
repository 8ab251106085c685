//! `instances`: what runs. For operators, and for users who manage apps.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use futures_util::future::join_all;
use serde::Serialize;
use skep_identity::{Object, Permission};
use skep_launch::{InstancePhase, InstanceView, Stats, StopTarget};
use skep_model::{AppId, BackendKind, Choice, InstanceId, InstanceName, Principal};
use tokio::time::timeout;

use super::{Problem, manage_instance};
use crate::control::Control;
use crate::rights::Caller;
use crate::share;

/// A backend that does not tell what an instance uses is not waited for.
const STATS_DEADLINE: Duration = Duration::from_millis(500);
/// Shorter than the deadline of the whole answer, so that the caller learns what happens.
const STOP_DEADLINE: Duration = Duration::from_secs(110);

/// One row of `skep ps`.
#[derive(Serialize)]
pub(super) struct InstanceRow {
    id: InstanceId,
    app: AppId,
    backend: BackendKind,
    node: String,
    pid: Option<u32>,
    state: InstancePhase,
    seats: u32,
    taken: u32,
    /// For whom, when the app runs one instance per user.
    user: Option<String>,
    /// What that user calls it, when it has a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<InstanceName>,
    /// What that user chose before it started.
    #[serde(skip_serializing_if = "Choice::is_empty")]
    parameters: Choice,
    /// Since when nobody has held a seat on it; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_since: Option<String>,
    /// Until when its owner lets others in; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_until: Option<String>,
    /// RFC 3339, UTC.
    started_at: String,
    /// From the order to start to the first good answer, milliseconds.
    ready_ms: Option<u64>,
    /// Processor seconds used since the start.
    cpu: Option<f64>,
    /// Bytes.
    memory: Option<u64>,
}

/// How many instances an order concerned.
#[derive(Serialize)]
pub(super) struct Stopped {
    instances: usize,
}

impl InstanceRow {
    fn new(view: InstanceView, stats: Option<Stats>, shared_until_ms: Option<i64>) -> Self {
        let user = match view.owner {
            Some(Principal::User { name, .. }) => Some(name.to_string()),
            Some(Principal::Guest(id)) => Some(id.to_string()),
            Some(Principal::Anonymous) | None => None,
        };
        Self {
            id: view.id,
            app: view.app,
            backend: view.backend,
            node: view.node,
            pid: view.pid,
            state: view.phase,
            seats: view.seats,
            taken: view.taken,
            user,
            name: view.variant.name,
            parameters: view.variant.chosen,
            idle_since: view.idle_since_ms.map(time_text),
            shared_until: shared_until_ms.map(time_text),
            started_at: time_text(view.started_at_ms),
            ready_ms: view.ready_ms,
            cpu: stats.map(|stats| stats.cpu_seconds),
            memory: stats.map(|stats| stats.memory_bytes),
        }
    }
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC.
pub(crate) fn time_text(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default().to_string()
}

async fn measured(control: &Control, view: InstanceView) -> InstanceRow {
    let backend = control.backends().iter().find(|backend| backend.kind() == view.backend);
    let stats = match backend {
        Some(backend) => timeout(STATS_DEADLINE, backend.stats(&view.id)).await.ok().flatten(),
        None => None,
    };
    let shared_until_ms = share::shared_until(control, &view.id);
    InstanceRow::new(view, stats, shared_until_ms)
}

fn find(control: &Control, id: &str) -> Result<InstanceView, Problem> {
    let wanted: Option<InstanceId> = id.parse().ok();
    let known = control.handle().instances().into_iter().find(|view| Some(&view.id) == wanted.as_ref());
    known.ok_or_else(|| Problem::unknown_instance(id))
}

/// An instance the caller may manage.
fn managed(control: &Control, caller: &Caller, id: &str) -> Result<InstanceView, Problem> {
    match find(control, id) {
        Ok(view) => manage_instance(control, caller, &view.app).map(|()| view),
        // Who may manage nothing learns nothing about what there is.
        Err(unknown) => may_manage_any(control, caller).and(Err(unknown)),
    }
}

/// For whoever manages at least one app.
fn may_manage_any(control: &Control, caller: &Caller) -> Result<(), Problem> {
    if control.handle().apps().iter().any(|spec| caller.may_manage(spec)) {
        return Ok(());
    }
    caller.demand(Permission::AppsManage, Object::Everything)
}

/// `GET instances`
pub(super) async fn list(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<InstanceRow>>, Problem> {
    let mut views = control.handle().instances();
    let managed = |view: &InstanceView| manage_instance(&control, &caller, &view.app).is_ok();
    if !views.iter().any(managed) {
        // None of theirs: an empty list only for whoever could see one.
        may_manage_any(&control, &caller)?;
    }
    views.retain(managed);
    Ok(Json(join_all(views.into_iter().map(|view| measured(&control, view))).await))
}

/// `GET instances/{instance}`
pub(super) async fn show(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(instance): Path<String>,
) -> Result<Json<InstanceRow>, Problem> {
    let view = managed(&control, &caller, &instance)?;
    Ok(Json(measured(&control, view).await))
}

/// `POST instances/{instance}/stop`: answers when it is gone.
pub(super) async fn stop(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(instance): Path<String>,
) -> Result<Json<Stopped>, Problem> {
    let view = managed(&control, &caller, &instance)?;
    stop_target(&control, StopTarget::Instance(view.id)).await
}

/// `POST instances/{instance}/restart`
pub(super) async fn restart(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(instance): Path<String>,
) -> Result<Json<Stopped>, Problem> {
    let view = managed(&control, &caller, &instance)?;
    restart_target(&control, StopTarget::Instance(view.id)).await
}

/// `POST instances/{instance}/unshare`: answers when every guest is gone.
pub(super) async fn unshare(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(instance): Path<String>,
) -> Result<Json<InstanceRow>, Problem> {
    let view = managed(&control, &caller, &instance)?;
    share::end(&control, &view.id).await.map_err(|problem| Problem::store(&problem))?;
    Ok(Json(measured(&control, view).await))
}

/// `POST stop`: every instance of every app.
pub(super) async fn stop_all(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Stopped>, Problem> {
    caller.demand(Permission::AppsManage, Object::Everything)?;
    stop_target(&control, StopTarget::All).await
}

pub(super) async fn stop_target(control: &Control, target: StopTarget) -> Result<Json<Stopped>, Problem> {
    let stopped = timeout(STOP_DEADLINE, control.handle().stop(target)).await;
    stopped.map(|instances| Json(Stopped { instances })).map_err(|_| Problem::still_stopping())
}

pub(super) async fn restart_target(control: &Control, target: StopTarget) -> Result<Json<Stopped>, Problem> {
    let restarted = timeout(STOP_DEADLINE, control.handle().restart(target)).await;
    restarted.map(|instances| Json(Stopped { instances })).map_err(|_| Problem::still_stopping())
}

//! `apps`: what is published.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Serialize;
use skep_identity::{Object, Permission};
use skep_launch::{InstancePhase, InstanceView, StopTarget};
use skep_model::{AppSpec, Framework};

use super::instances::{Stopped, restart_target, stop_target};
use super::{Problem, manage_app};
use crate::control::Control;
use crate::rights::Caller;

/// One app, as its visitors may see it.
#[derive(Serialize)]
pub(super) struct AppRow {
    id: String,
    title: String,
    description: String,
    framework: Framework,
    url: String,
    /// `running`, `starting`, `cold`, or `static` (no instances at all).
    state: &'static str,
    instances: usize,
    taken: u32,
    seats: u32,
    revision: String,
}

impl AppRow {
    fn new(spec: &AppSpec, instances: &[InstanceView]) -> Self {
        let own = || instances.iter().filter(|view| view.app == spec.id);
        let any = |phase| own().any(|view| view.phase == phase);
        let state = if spec.framework == Framework::Static {
            "static"
        } else if any(InstancePhase::Ready) {
            "running"
        } else if any(InstancePhase::Starting) {
            "starting"
        } else {
            "cold"
        };
        let ready = || own().filter(|view| view.phase == InstancePhase::Ready);
        Self {
            id: spec.id.to_string(),
            title: spec.title.clone(),
            description: spec.description.clone(),
            framework: spec.framework,
            url: spec.mount.to_string(),
            state,
            instances: own().count(),
            taken: ready().map(|view| view.taken).sum(),
            seats: ready().map(|view| view.seats).sum(),
            revision: spec.revision.to_string(),
        }
    }
}

/// An app the caller may open; to everybody else it does not exist.
pub(super) fn find(control: &Control, caller: &Caller, id: &str) -> Result<Arc<AppSpec>, Problem> {
    let known = id.parse().ok().and_then(|id| control.app(&id)).filter(|spec| caller.may_open(spec));
    known.ok_or_else(|| Problem::unknown_app(id))
}

/// An app the caller may stop and restart. Whoever may not even see it learns nothing of it.
pub(super) fn manageable(control: &Control, caller: &Caller, id: &str) -> Result<Arc<AppSpec>, Problem> {
    let known = id.parse().ok().and_then(|id| control.app(&id));
    match known {
        Some(spec) if caller.may_open(&spec) || caller.may_manage(&spec) => {
            manage_app(caller, &spec)?;
            Ok(spec)
        }
        // Without a login, or without one at all: say what would be needed before saying what there is.
        _ => {
            caller.demand(Permission::AppsManage, Object::Everything)?;
            Err(Problem::unknown_app(id))
        }
    }
}

/// `GET apps`
pub(super) async fn list(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
) -> Json<Vec<AppRow>> {
    let instances = control.handle().instances();
    let apps = control.handle().apps();
    let open = apps.iter().filter(|spec| caller.may_open(spec));
    Json(open.map(|spec| AppRow::new(spec, &instances)).collect())
}

/// `GET apps/{app}`
pub(super) async fn show(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
) -> Result<Json<AppRow>, Problem> {
    let spec = find(&control, &caller, &app)?;
    Ok(Json(AppRow::new(&spec, &control.handle().instances())))
}

/// `POST apps/{app}/stop`: answers when its instances are gone.
pub(super) async fn stop(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
) -> Result<Json<Stopped>, Problem> {
    let spec = manageable(&control, &caller, &app)?;
    stop_target(&control, StopTarget::App(spec.id.clone())).await
}

/// `POST apps/{app}/restart`: new visitors get new instances.
pub(super) async fn restart(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
) -> Result<Json<Stopped>, Problem> {
    let spec = manageable(&control, &caller, &app)?;
    restart_target(&control, StopTarget::App(spec.id.clone())).await
}

/// `POST apps/{app}/retry`: forgets a failed start. Everybody who may open the app may.
pub(super) async fn retry(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
) -> Result<StatusCode, Problem> {
    let spec = find(&control, &caller, &app)?;
    control.handle().retry(&spec.id);
    Ok(StatusCode::NO_CONTENT)
}

//! `/_skep/api/v1/`: one file per resource. `api/openapi.json` describes it; a test keeps the two together.

mod apps;
mod events;
mod exec;
mod instances;
mod logs;
mod problem;
mod server;
mod users;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

pub(crate) use problem::Problem;
pub use server::ServerOrder;

use skep_identity::{Object, Permission};
use skep_model::{AppId, AppSpec};

use crate::control::Control;
use crate::rights::Caller;

pub(crate) const OPENAPI: &str = include_str!("api/openapi.json");

/// The routes, below `/_skep/api/v1`.
pub(crate) fn routes() -> Router<Control> {
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/apps", get(apps::list))
        .route("/apps/{app}", get(apps::show))
        .route("/apps/{app}/logs", get(logs::of_app))
        .route("/apps/{app}/stop", post(apps::stop))
        .route("/apps/{app}/restart", post(apps::restart))
        .route("/apps/{app}/retry", post(apps::retry))
        .route("/instances", get(instances::list))
        .route("/instances/{instance}", get(instances::show))
        .route("/instances/{instance}/exec", post(exec::in_instance))
        .route("/instances/{instance}/logs", get(logs::of_instance))
        .route("/instances/{instance}/stop", post(instances::stop))
        .route("/instances/{instance}/restart", post(instances::restart))
        .route("/instances/{instance}/unshare", post(instances::unshare))
        .route("/stop", post(instances::stop_all))
        .route("/seats", get(server::seats))
        .route("/server/upgrade", post(server::upgrade))
        .route("/server/reload", post(server::reload))
        .route("/events", get(events::list))
        .merge(users::routes())
}

async fn openapi() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, OPENAPI).into_response()
}

/// For what only the server's own administrator does, at the machine.
fn operators_only(caller: &Caller) -> Result<(), Problem> {
    if caller.is_operator() { Ok(()) } else { Err(Problem::operators_only()) }
}

/// For what concerns the running of one app.
fn manage_app(caller: &Caller, spec: &AppSpec) -> Result<(), Problem> {
    caller.demand(Permission::AppsManage, Object::App { id: &spec.id, access: &spec.access })
}

/// For what concerns an instance, whose app may not be published any more.
fn manage_instance(control: &Control, caller: &Caller, app: &AppId) -> Result<(), Problem> {
    match control.app(app) {
        Some(spec) => manage_app(caller, &spec),
        None => caller.demand(Permission::AppsManage, Object::Everything),
    }
}

/// Whether a request prefers a media type by naming it.
fn accepts(headers: &axum::http::HeaderMap, media_type: &str) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|part| part.split(';').next().unwrap_or_default().trim() == media_type)
}

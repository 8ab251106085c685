//! Health and metrics.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use skep_launch::InstancePhase;
use skep_telemetry::Exposition;

use crate::control::Control;

/// `GET /_skep/health/live`: the process answers.
pub(crate) async fn live() -> Response {
    ([(header::CACHE_CONTROL, "no-store")], "alive\n").into_response()
}

/// `GET /_skep/health/ready`: it can do its work. A journal that cannot be written is a degraded state, not an outage:
/// apps are served all the same, so load balancers must not turn away from this server.
pub(crate) async fn ready(State(control): State<Control>) -> Response {
    let problem = control.recorded().borrow().problem.clone();
    let state = if problem.is_some() { "degraded" } else { "ready" };
    let journal = if problem.is_some() { "cannot be written" } else { "ok" };
    let body = Json(serde_json::json!({ "state": state, "journal": journal }));
    (StatusCode::OK, [(header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// `GET /metrics`
pub(crate) async fn metrics(State(control): State<Control>) -> (HeaderMap, String) {
    note_seats(&control);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, axum::http::HeaderValue::from_static(Exposition::CONTENT_TYPE));
    (headers, control.exposition().prometheus())
}

/// Counts seats when somebody looks, rather than at every change.
fn note_seats(control: &Control) {
    let mut counted: HashMap<String, (u32, u32)> = HashMap::new();
    for view in control.handle().instances() {
        let (taken, free) = counted.entry(view.app.to_string()).or_default();
        if view.phase == InstancePhase::Ready {
            *taken += view.taken;
            *free += view.seats.saturating_sub(view.taken);
        }
    }
    // An app that had instances once goes on being reported, with zeros.
    for app in control.known_apps(counted.keys()) {
        let (taken, free) = counted.get(&app).copied().unwrap_or_default();
        metrics::gauge!("skep_app_seats", "app" => app.clone(), "state" => "taken").set(taken);
        metrics::gauge!("skep_app_seats", "app" => app, "state" => "free").set(free);
    }
}

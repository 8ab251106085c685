//! Which path is whose. Three routers for three ways in: visitors through the edge, operators through the control
//! socket, monitoring through the admin listener.

use axum::body::Body;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use skep_edge::Client;
use skep_model::AppSpec;

use crate::api::{self, Problem};
use crate::control::Control;
use crate::rights::{Caller, Rights, same_site};
use crate::ui::portal::{PortalView, Visitor};
use crate::{choose, former, health, login, mine, personal, share, ui};

/// Bytes of a request's body that are read at most; our largest is a form with one address in it.
const MAX_BODY: usize = 64 * 1024;

/// Pages and API for those who come through the edge. Requests carry a [`Caller`] and a [`Client`].
pub(crate) fn visitors(control: Control) -> Router {
    Router::new()
        .route("/", get(portal))
        .route("/_skep", get(portal))
        .route("/_skep/", get(portal))
        .route("/_skep/apps/{app}/retry", post(retry_form))
        .route("/_skep/assets/{file}", get(ui::assets::serve))
        .route("/_skep/icons/{app}", get(icon))
        .route("/_skep/logo", get(logo))
        .route("/_skep/health/live", get(health::live))
        .route("/_skep/health/ready", get(health::ready))
        .merge(login::forms::routes())
        .merge(personal::routes())
        .merge(mine::routes())
        .merge(share::routes())
        .merge(choose::routes())
        .nest("/_skep/api/v1", api::routes())
        .fallback(nothing_here)
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(middleware::from_fn(refuse_cross_site))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .with_state(control)
}

/// The API with full rights, health and metrics.
pub(crate) fn operators(control: Control) -> Router {
    Router::new()
        .nest("/_skep/api/v1", api::routes())
        .merge(monitoring())
        .fallback(async || Problem::unknown_path())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(Extension(Caller { rights: Rights::Operator, manages: true, request_id: 0 }))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .with_state(control)
}

/// Health and metrics only.
pub(crate) fn metrics(control: Control) -> Router {
    monitoring()
        .fallback(async || Problem::unknown_path())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .with_state(control)
}

fn monitoring() -> Router<Control> {
    Router::new()
        .route("/metrics", get(health::metrics))
        .route("/_skep/health/live", get(health::live))
        .route("/_skep/health/ready", get(health::ready))
}

async fn refuse_cross_site(request: Request, next: Next) -> Response<Body> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let host = request.extensions().get::<Client>().map(|client| client.host.clone()).unwrap_or_default();
    if safe || same_site(request.headers(), &host) {
        next.run(request).await
    } else {
        Problem::cross_site().response()
    }
}

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
}

async fn portal(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<Search>, QueryRejection>,
) -> Response<Body> {
    let query: String = query.map(|Query(search)| search.q).unwrap_or_default().chars().take(200).collect();
    let running = control.running();
    let visitor = match caller.user() {
        Some(user) => Visitor::User(user.as_str()),
        None if control.login().is_on() => Visitor::LoggedOut,
        None => Visitor::Anybody,
    };
    // Whoever could see nothing without a login wants to log in.
    if visitor == Visitor::LoggedOut && !control.handle().apps().iter().any(|spec| caller.may_open(spec)) {
        return login::forms::see_other("/_skep/login", None);
    }
    let own = personal::own(&control, &caller).await;
    let view = PortalView { query: query.trim(), running: &running, visitor, own: &own };
    control.cards().page(&view, |spec| caller.may_open(spec)).respond()
}

async fn icon(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
) -> Response<Body> {
    let spec = app.parse().ok().and_then(|id| control.app(&id)).filter(|spec| caller.may_open(spec));
    match spec {
        Some(spec) => ui::icon::serve(spec.icon.as_ref()).await,
        None => ui::assets::plain(StatusCode::NOT_FOUND, "There is no such app.\n"),
    }
}

/// The portal's own logo, for whoever may see the page it stands on: everybody.
async fn logo(State(control): State<Control>) -> Response<Body> {
    ui::icon::serve(control.look().logo.as_ref()).await
}

#[derive(Deserialize)]
struct RetryForm {
    #[serde(default)]
    to: String,
}

/// The retry button of a browser without scripts: forgets the failure and goes back to the address asked for.
async fn retry_form(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    form: Result<Form<RetryForm>, FormRejection>,
) -> Response<Body> {
    let spec = app.parse().ok().and_then(|id| control.app(&id)).filter(|spec| caller.may_open(spec));
    let Some(spec) = spec else {
        return Problem::unknown_app(&app).response();
    };
    control.handle().retry(&spec.id);
    let to = form.ok().map(|Form(form)| form.to).filter(|to| leads_into(&spec, to));
    let to = to.unwrap_or_else(|| spec.mount.to_string());
    let location = [(header::LOCATION, to), (header::CACHE_CONTROL, "no-store".to_owned())];
    (StatusCode::SEE_OTHER, location).into_response()
}

/// Whether an address is a path inside the app: anything else could send the visitor anywhere.
fn leads_into(spec: &AppSpec, to: &str) -> bool {
    let plain = to.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let inside = to.starts_with(spec.mount.as_str()) || to.starts_with(&spec.named_stem());
    plain && inside && !to.starts_with("//") && to.len() <= 8192
}

/// Whatever nothing is published at.
async fn nothing_here(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    request: Request,
) -> Response<Body> {
    let path = request.uri().path();
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    if let Some(former) = former::address(path).filter(|_| safe)
        && let Some(spec) = control.app(&former.app)
    {
        return former.leads_to(&spec, request.uri().query());
    }
    let page = !path.starts_with("/_skep/api") && accept.contains("text/html");
    if !page {
        return Problem::unknown_path().response();
    }
    let apps = control.handle().apps();
    let open = apps.iter().map(AsRef::as_ref).filter(|spec| caller.may_open(spec));
    let near = ui::refused::nearest(path, open);
    ui::refused::not_found_page(path, &near, control.portal_path(), caller.request_id).respond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_leads_back_into_its_app_only() {
        let spec = ui::tests::spec("sales", "Sales");
        for good in ["/sales/", "/sales/deep/link?a=1&b=%20", "/sales~north/x"] {
            assert!(leads_into(&spec, good), "{good}");
        }
        for bad in [
            "",
            "/",
            "/other/",
            "//sales/",
            "https://evil.example/sales/",
            "/sales",
            "/sales/\r\nX: y",
            "/sales/\\x",
            "/sales2~north/",
        ] {
            assert!(!leads_into(&spec, bad), "{bad}");
        }
    }
}

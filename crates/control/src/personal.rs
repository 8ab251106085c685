//! What belongs to one person: favourites, what they used last, what runs for them.
//!
//! Without a login the one person at the machine is meant: whoever reaches a loopback address.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Router};
use serde::Deserialize;
use skep_identity::cookies::login_path;
use skep_launch::{InstanceView, StopTarget};
use skep_model::{AppId, AppSpec, Principal};
use skep_store::StoreError;
use tokio::time::timeout;

use crate::api::Problem;
use crate::control::{Control, now_ms};
use crate::login::forms::see_other;
use crate::rights::{Caller, Rights};

/// Apps named under "Recently used".
const RECENT: usize = 6;
/// The portal does not wait longer for a store that is busy; it is complete without.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) fn routes() -> Router<Control> {
    use axum::routing::post;
    Router::new().route("/_skep/favourites", post(mark)).route("/_skep/apps/stop", post(stop))
}

/// What the portal shows of one person.
#[derive(Default)]
pub(crate) struct Own {
    /// `None`: this visitor has none, because nobody knows who they are.
    pub(crate) favourites: Option<HashSet<AppId>>,
    /// Newest first.
    pub(crate) recent: Vec<AppId>,
    /// Instances the person sits on now.
    pub(crate) running: Vec<AppId>,
}

/// The person's name in the store, when there is one.
fn person<'a>(control: &Control, caller: &'a Caller) -> Option<&'a str> {
    match caller.user() {
        Some(user) => Some(user.as_str()),
        None if control.login().is_on() => None,
        None => Some(""),
    }
}

pub(crate) async fn own(control: &Control, caller: &Caller) -> Own {
    let Some(person) = person(control, caller) else { return Own::default() };
    let sittings = caller.user().map(|user| control.handle().sittings(user)).unwrap_or_default();
    let running: Vec<AppId> = sittings.iter().map(|instance| instance.app().clone()).collect();
    let usage = control.usage();
    let read = async {
        let favourites = usage.favourites(person).await?;
        let recent = usage.recent(person, u32::try_from(RECENT).unwrap_or(u32::MAX)).await?;
        Ok::<_, StoreError>((favourites, recent))
    };
    let (favourites, recent) = match timeout(PATIENCE, read).await {
        Ok(Ok(known)) => known,
        Ok(Err(problem)) => {
            tracing::warn!(%problem, "the portal is shown without favourites");
            Default::default()
        }
        Err(_) => Default::default(),
    };
    let favourites = favourites.iter().filter_map(|id| id.parse().ok()).collect();
    let mut last: Vec<AppId> = running.clone();
    last.extend(recent.iter().filter_map(|(id, _)| id.parse().ok()));
    let mut seen = HashSet::new();
    last.retain(|id| seen.insert(id.clone()));
    last.truncate(RECENT);
    Own { favourites: Some(favourites), recent: last, running }
}

#[derive(Deserialize, Default)]
struct MarkForm {
    #[serde(default)]
    add: String,
    #[serde(default)]
    remove: String,
}

/// The star on a card.
async fn mark(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    form: Result<Form<MarkForm>, FormRejection>,
) -> Response<Body> {
    let Form(form) = form.unwrap_or_default();
    let (name, marked) = if form.add.is_empty() { (form.remove, false) } else { (form.add, true) };
    let Some(person) = person(&control, &caller) else {
        return see_other(&login_path(control.portal_path()), None);
    };
    let spec = name.parse().ok().and_then(|id| control.app(&id)).filter(|spec| caller.may_open(spec));
    let Some(spec) = spec else { return Problem::unknown_app(&name).response() };
    if let Err(problem) = control.usage().set_favourite(person, spec.id.as_str(), marked, now_ms()).await {
        tracing::warn!(%problem, "a favourite could not be kept");
        let detail = "the favourite could not be kept: the store cannot be written just now";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", detail).response();
    }
    let wants_page = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if wants_page { see_other(control.portal_path(), None) } else { StatusCode::NO_CONTENT.into_response() }
}

#[derive(Deserialize, Default)]
struct StopForm {
    #[serde(default)]
    instance: String,
}

/// The stop button of whoever an instance belongs to, or who manages its app.
async fn stop(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    form: Result<Form<StopForm>, FormRejection>,
) -> Response<Body> {
    let Form(form) = form.unwrap_or_default();
    let view = control.handle().instances().into_iter().find(|view| view.id.to_string() == form.instance);
    let spec = view.as_ref().and_then(|view| control.app(&view.app));
    if let (Some(view), Some(spec)) = (view, spec)
        && may_stop(&caller, &spec, &view)
    {
        let handle = control.handle().clone();
        // It drains first; the page shows how that goes.
        tokio::spawn(async move { handle.stop(StopTarget::Instance(view.id)).await });
    }
    // An instance that is gone already is what was asked for, and one of somebody else's does not exist.
    see_other("/_skep/apps", None)
}

/// Whether an instance is the caller's alone.
pub(crate) fn is_own(caller: &Caller, view: &InstanceView) -> bool {
    let Rights::Visitor { principal, .. } = &caller.rights else { return false };
    match (principal, &view.owner) {
        (Principal::User { name, .. }, Some(Principal::User { name: owner, .. })) => name == owner,
        (Principal::Guest(id), Some(Principal::Guest(owner))) => id == owner,
        _ => false,
    }
}

/// Whether the caller may end an instance: it is theirs alone, or its app is theirs to manage (from this host).
pub(crate) fn may_stop(caller: &Caller, spec: &AppSpec, view: &InstanceView) -> bool {
    is_own(caller, view) || caller.may_manage(spec)
}

/// The apps of a list of ids, in its order, as far as the caller may open them.
pub(crate) fn specs_of<'a>(
    apps: &'a [Arc<AppSpec>],
    ids: impl Iterator<Item = &'a AppId>,
    may_open: impl Fn(&AppSpec) -> bool,
) -> Vec<&'a AppSpec> {
    ids.filter_map(|id| apps.iter().find(|spec| spec.id == *id))
        .map(AsRef::as_ref)
        .filter(|spec| may_open(spec))
        .collect()
}

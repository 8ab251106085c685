//! Letting others onto one's own instance: by a link, for a time, until one stops it.
//!
//! A link is sealed and says only what is shared and since when; whether it counts is in the store, and in the snapshot the edge admits
//! with. Opening it asks first: nobody becomes a guest by a click on another site.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::{Extension, Router};
use serde::Deserialize;
use skep_edge::Client;
use skep_identity::cookies::login_path;
use skep_identity::{IdentityError, SHARE_COOKIE, Share, ShareIn, share_cookie};
use skep_launch::{InstancePhase, InstanceView};
use skep_model::{AppSpec, InstanceId, Principal};
use skep_store::{ShareRow, StoreError};

use crate::api::Problem;
use crate::control::{Control, now_ms};
use crate::login::forms::see_other;
use crate::personal::{is_own, may_stop};
use crate::rights::{Caller, Rights};
use crate::ui::share::{Invitation, invitation_page, void_page};

pub(crate) fn routes() -> Router<Control> {
    use axum::routing::{get, post};
    Router::new()
        .route("/_skep/apps/share", post(share))
        .route("/_skep/apps/unshare", post(unshare))
        .route("/_skep/share", get(ask).post(join))
        .route("/_skep/share/leave", post(leave))
}

#[derive(Deserialize, Default)]
struct Chosen {
    #[serde(default)]
    instance: String,
}

fn own_instance(
    control: &Control,
    caller: &Caller,
    form: Result<Form<Chosen>, FormRejection>,
) -> Option<InstanceView> {
    let Form(Chosen { instance }) = form.unwrap_or_default();
    let view = control.handle().instances().into_iter().find(|view| view.id.to_string() == instance)?;
    is_own(caller, &view).then_some(view)
}

/// Whether anybody could join: one seat is kept for its owner.
pub(crate) fn has_room(view: &InstanceView) -> bool {
    view.seats > 1
}

/// Whether the owner of an instance may still open its app. What they share ends with that.
pub(crate) fn owner_may(control: &Control, view: &InstanceView) -> bool {
    let admission = control.login().admission();
    // Of an app that is not published any more, the instances end.
    let Some(spec) = control.app(&view.app) else { return true };
    let owner = match &view.owner {
        Some(Principal::User { name, .. }) if control.login().is_on() => {
            match admission.people.get(name).filter(|person| !person.disabled) {
                Some(person) => Principal::User { name: name.clone(), groups: person.groups.clone() },
                None => return false,
            }
        }
        Some(owner) => owner.clone(),
        None => return true,
    };
    admission.may_open(&owner, &spec).is_allowed()
}

/// Ends what is shared of an instance. Whoever is there by a link is gone when this answers.
///
/// # Errors
/// When the store cannot be written or read; it stays shared then.
pub(crate) async fn end(control: &Control, instance: &InstanceId) -> Result<(), StoreError> {
    control.login().roster.people().unshare(&instance.to_string()).await?;
    control.login().refresh().await?;
    tracing::info!(%instance, "not shared any more");
    Ok(())
}

/// Until when an instance is shared, milliseconds since the Unix epoch; `None`: it is not.
pub(crate) fn shared_until(control: &Control, instance: &InstanceId) -> Option<i64> {
    let admission = control.login().admission();
    let sharing = admission.shares.get(instance)?;
    (sharing.until_ms > now_ms()).then_some(sharing.until_ms)
}

async fn share(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    form: Result<Form<Chosen>, FormRejection>,
) -> Response<Body> {
    let lifetime = i64::try_from(control.config().share_lifetime.as_millis()).unwrap_or(i64::MAX);
    if let Some(view) = own_instance(&control, &caller, form).filter(|view| lifetime > 0 && has_room(view)) {
        let since_ms = now_ms();
        let until_ms = since_ms.saturating_add(lifetime);
        let row = ShareRow { instance: view.id.to_string(), since_ms, until_ms };
        if let Err(problem) = control.login().roster.people().share(&row).await {
            return Problem::store(&problem).response();
        }
        if let Err(problem) = control.login().refresh().await {
            return Problem::store(&problem).response();
        }
        tracing::info!(instance = %view.id, "shared by its owner");
    }
    see_other("/_skep/apps", None)
}

/// By its owner, or by who manages the app.
async fn unshare(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    form: Result<Form<Chosen>, FormRejection>,
) -> Response<Body> {
    let Form(Chosen { instance }) = form.unwrap_or_default();
    let view = control.handle().instances().into_iter().find(|view| view.id.to_string() == instance);
    let may = |view: &InstanceView| {
        control.app(&view.app).is_some_and(|spec| may_stop(&caller, &spec, view)) || is_own(&caller, view)
    };
    if let Some(view) = view.filter(may)
        && let Err(problem) = end(&control, &view.id).await
    {
        return Problem::store(&problem).response();
    }
    see_other("/_skep/apps", None)
}

#[derive(Deserialize, Default)]
struct Token {
    #[serde(default)]
    token: String,
}

/// What a link leads to, for this caller.
enum Found {
    Void,
    /// Whoever is not logged in cannot open the app.
    LogIn,
    Own(String),
    Shared(Arc<AppSpec>, Box<(Share, InstanceView)>),
}

fn find(control: &Control, caller: &Caller, token: &str) -> Found {
    let Some(share) = control.shares().open(ShareIn::Link, token) else { return Found::Void };
    if !control.login().admission().is_shared(&share, now_ms()) {
        return Found::Void;
    }
    let view = control.handle().instances().into_iter().find(|view| view.id == share.instance);
    let up = |view: &InstanceView| matches!(view.phase, InstancePhase::Ready | InstancePhase::Starting);
    let (Some(view), Some(spec)) = (view.filter(up), control.app(share.instance.app())) else {
        return Found::Void;
    };
    if !owner_may(control, &view) {
        return Found::Void;
    }
    let spec = spec.of_variant(&view.variant);
    if !caller.may_open(&spec) {
        return if caller.user().is_none() && control.login().is_on() { Found::LogIn } else { Found::Void };
    }
    if is_own(caller, &view) {
        return Found::Own(spec.mount.to_string());
    }
    Found::Shared(spec, Box::new((share, view)))
}

/// Asks whether to join.
async fn ask(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Extension(client): Extension<Client>,
    query: Result<Query<Token>, QueryRejection>,
) -> Response<Body> {
    let Query(Token { token }) = query.unwrap_or_default();
    let elsewhere = control.apps_at(&client);
    if !elsewhere.is_empty() {
        // A guest's cookie must reach the app.
        let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
        return quietly(see_other(&format!("{elsewhere}/_skep/share?token={token}"), None));
    }
    match find(&control, &caller, &token) {
        Found::Void => void_page(control.portal_path()).respond(),
        Found::LogIn => quietly(see_other(&login_path(&format!("/_skep/share?token={token}")), None)),
        Found::Own(mount) => quietly(see_other(&mount, None)),
        Found::Shared(spec, shared) => {
            let (_, view) = *shared;
            let own = control.handle().instances().iter().any(|other| {
                is_own(&caller, other) && other.app == view.app && other.variant.name == view.variant.name
            });
            let owner = owner_of(&view);
            let page =
                Invitation { spec: &spec, owner: &owner, token: &token, own, portal: control.portal_path() };
            invitation_page(&page).respond()
        }
    }
}

async fn join(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Extension(client): Extension<Client>,
    form: Result<Form<Token>, FormRejection>,
) -> Response<Body> {
    let Form(Token { token }) = form.unwrap_or_default();
    match find(&control, &caller, &token) {
        Found::Void => void_page(control.portal_path()).respond(),
        Found::LogIn => Problem::login_required().response(),
        Found::Own(mount) => quietly(see_other(&mount, None)),
        Found::Shared(spec, shared) => {
            let (share, _) = *shared;
            let sharing = control.login().admission().shares.get(&share.instance).copied();
            let left_ms = sharing.map_or(0, |sharing| sharing.until_ms - now_ms());
            let (guest, known_by) = match guest(&control, &caller, &client) {
                Ok(guest) => guest,
                Err(_) => return no_randomness(),
            };
            let Ok(sealed) = control.shares().seal(ShareIn::Cookie(&guest), &share) else {
                return no_randomness();
            };
            let cookie = share_cookie(&sealed, client.https, left_ms / 1000 + 1);
            let mut response = quietly(see_other(spec.mount.as_str(), Some(&cookie)));
            let known_by = known_by.and_then(|cookie| HeaderValue::try_from(cookie).ok());
            response.headers_mut().extend(known_by.map(|cookie| (header::SET_COOKIE, cookie)));
            response
        }
    }
}

/// Whom a guest's cookie is for: the user, else this browser, which gets an identity if it has none yet (the cookie that
/// goes with the answer).
fn guest(
    control: &Control,
    caller: &Caller,
    client: &Client,
) -> Result<(Principal, Option<String>), IdentityError> {
    match &caller.rights {
        Rights::Visitor { principal, .. } if *principal != Principal::Anonymous => {
            Ok((principal.clone(), None))
        }
        _ => {
            let (id, cookie) = control.guests().welcome(client.https)?;
            Ok((Principal::Guest(id), Some(cookie)))
        }
    }
}

fn no_randomness() -> Response<Body> {
    let detail = "the server has no random numbers just now; try again in a moment";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-randomness", detail).response()
}

/// Back to what is one's own.
async fn leave(Extension(client): Extension<Client>) -> Response<Body> {
    see_other("/_skep/apps", Some(&share_cookie("", client.https, 0)))
}

/// Where the caller is a guest, for the list of what runs.
pub(crate) fn guest_at(
    control: &Control,
    caller: &Caller,
    headers: &HeaderMap,
) -> Option<(Arc<AppSpec>, String)> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = texts.flat_map(|text| skep_identity::cookies::values(text, SHARE_COOKIE));
    let Rights::Visitor { principal, .. } = &caller.rights else { return None };
    let share = values.find_map(|value| control.shares().open(ShareIn::Cookie(principal), value))?;
    if !control.login().admission().is_shared(&share, now_ms()) {
        return None;
    }
    let view = control.handle().instances().into_iter().find(|view| view.id == share.instance)?;
    let spec = control.app(&view.app).filter(|spec| caller.may_open(spec))?;
    Some((spec.of_variant(&view.variant), owner_of(&view)))
}

/// The link to an instance of one's own, while it is shared, and until when that is.
pub(crate) fn link_to(control: &Control, client: &Client, view: &InstanceView) -> Option<(String, i64)> {
    let admission = control.login().admission();
    let sharing = admission.shares.get(&view.id).filter(|sharing| sharing.until_ms > now_ms())?;
    let share =
        Share { instance: view.id.clone(), name: view.variant.name.clone(), since_ms: sharing.since_ms };
    let token = control.shares().seal(ShareIn::Link, &share).ok()?;
    let scheme = if client.https { "https" } else { "http" };
    let here = || format!("{scheme}://{}", client.host);
    let server = Some(control.apps_at(client)).filter(|url| !url.is_empty()).map_or_else(here, str::to_owned);
    Some((format!("{server}/_skep/share?token={token}"), sharing.until_ms))
}

fn owner_of(view: &InstanceView) -> String {
    match &view.owner {
        Some(Principal::User { name, .. }) => name.to_string(),
        _ => "Somebody".to_owned(),
    }
}

/// The app at the end of this way does not learn by which link its visitor came.
fn quietly(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

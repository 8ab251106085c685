//! `/_skep/login`, `/_skep/logout` and `/_skep/invite`: what people fill in to come in and to leave.
//!
//! Requests that change something have been checked to come from a page of ours before they arrive here.

use axum::body::Body;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Router};
use serde::Deserialize;
use skep_edge::Client;
use skep_identity::cookies::safe_target;
use skep_identity::{LoginCookie, share_cookie};
use skep_model::{EventKind, Secret};
use skep_store::LinkPurpose;

use super::{Attempted, account, leaving};
use crate::api::Problem;
use crate::control::Control;
use crate::rights::Caller;
use crate::roster::RosterError;
use crate::ui::login::{
    InviteView, LoginView, Notice, invite_page, login_page, logout_page, unencrypted_page, void_link_page,
    wait_words,
};

type Answer = Response<Body>;
type MaybeForm<T> = Result<Form<T>, FormRejection>;

pub(crate) fn routes() -> Router<Control> {
    use axum::routing::{get, post};
    Router::new()
        .route("/_skep/login", get(login_form).post(log_in))
        .route("/_skep/logout", get(logout_form).post(log_out))
        .route("/_skep/invite", get(invite_form).post(redeem))
        .route("/_skep/account", get(account::show))
        .route("/_skep/account/password", post(account::change_password))
        .route("/_skep/account/sign-out", post(account::sign_out))
}

#[derive(Deserialize, Default)]
struct LoginQuery {
    #[serde(default)]
    to: String,
    /// The visitor has just logged out.
    #[serde(default)]
    out: String,
}

async fn login_form(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Extension(client): Extension<Client>,
    query: Result<Query<LoginQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.unwrap_or_default();
    let to = safe_target(&query.to);
    if !control.login().is_on() || caller.user().is_some() {
        return see_other(to, None);
    }
    if control.login().cookie_for(&client).is_none() {
        return unencrypted_page(&control.look().title).respond();
    }
    let notice = match query.out.as_str() {
        "" => Notice::None,
        "everywhere" => Notice::Good("You are signed out everywhere.".to_owned()),
        _ => Notice::Good("You are logged out.".to_owned()),
    };
    form_again(&control, to, "", false, notice, StatusCode::OK, None)
}

#[derive(Deserialize)]
struct LoginForm {
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    stay: Option<String>,
    #[serde(default)]
    to: String,
}

async fn log_in(
    State(control): State<Control>,
    Extension(client): Extension<Client>,
    form: MaybeForm<LoginForm>,
) -> Answer {
    let Ok(Form(LoginForm { name, password, stay, to })) = form else { return unreadable() };
    let to = safe_target(&to);
    if !control.login().is_on() {
        return see_other(to, None);
    }
    let Some(cookie) = control.login().cookie_for(&client) else {
        return unencrypted_page(&control.look().title).respond();
    };
    let stay = stay.is_some();
    let attempted = control.login().attempt(&name, Secret::new(password), stay, client.ip).await;
    let (text, status, wait) = match attempted {
        Ok(Attempted::In(session)) => return come_in(&control, cookie, &session, to),
        Ok(Attempted::Wrong) => {
            ("That name and that password do not go together.".to_owned(), StatusCode::UNAUTHORIZED, None)
        }
        Ok(Attempted::Wait(wait)) => {
            let seconds = wait.as_secs() + 1;
            (wait_words(seconds), StatusCode::TOO_MANY_REQUESTS, Some(seconds))
        }
        Ok(Attempted::Busy) => busy(),
        Err(problem) => unavailable(&problem),
    };
    form_again(&control, to, &name, stay, Notice::Bad(text), status, wait)
}

pub(super) fn come_in(
    control: &Control,
    cookie: LoginCookie,
    session: &skep_identity::Session,
    to: &str,
) -> Answer {
    match control.login().sealed(cookie, session) {
        Some(cookie) => see_other(to, Some(&cookie)),
        None => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no-random", "No login could be made; try again.")
                .response()
        }
    }
}

pub(super) fn busy() -> (String, StatusCode, Option<u64>) {
    (
        "Very many people are logging in right now. Try again in a moment.".to_owned(),
        StatusCode::SERVICE_UNAVAILABLE,
        Some(2),
    )
}

pub(super) fn unavailable(problem: &skep_store::StoreError) -> (String, StatusCode, Option<u64>) {
    tracing::error!(%problem, "somebody cannot log in");
    (
        "The list of users cannot be read right now. Try again in a moment.".to_owned(),
        StatusCode::SERVICE_UNAVAILABLE,
        Some(5),
    )
}

fn form_again(
    control: &Control,
    to: &str,
    name: &str,
    stay: bool,
    notice: Notice,
    status: StatusCode,
    wait_seconds: Option<u64>,
) -> Answer {
    let name: String = name.chars().take(128).collect();
    let site = &control.look().title;
    login_page(&LoginView { site, to, name: &name, stay, notice, status, wait_seconds }).respond()
}

async fn logout_form(State(control): State<Control>, Extension(caller): Extension<Caller>) -> Answer {
    match caller.user() {
        Some(user) => logout_page(&control.look().title, user.as_str()).respond(),
        None => see_other("/_skep/login", None),
    }
}

async fn log_out(
    State(control): State<Control>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
) -> Answer {
    let login = control.login();
    let Some(cookie) = login.cookie_for(&client).filter(|_| login.is_on()) else {
        return see_other("/", None);
    };
    if let Some(session) = login.session_of(cookie, &headers) {
        if let Err(problem) = login.end(&session).await {
            tracing::error!(%problem, "somebody cannot log out");
            let detail =
                "You could not be logged out: the list of users cannot be written right now. Try again.";
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", detail).response();
        }
        leaving::end_apps(&control, &session.user);
    }
    let mut response = see_other("/_skep/login?out=1", Some(&cookie.clear()));
    // Whoever comes after at this browser is nobody's guest.
    if let Ok(cookie) = HeaderValue::try_from(share_cookie("", client.https, 0)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

#[derive(Deserialize)]
struct InviteQuery {
    #[serde(default)]
    token: String,
}

async fn invite_form(
    State(control): State<Control>,
    Extension(client): Extension<Client>,
    query: Result<Query<InviteQuery>, QueryRejection>,
) -> Answer {
    let token = query.map(|Query(query)| query.token).unwrap_or_default();
    if control.login().cookie_for(&client).is_none() {
        return unencrypted_page(&control.look().title).respond();
    }
    invitation(&control, &token, "", Notice::None, StatusCode::OK).await
}

#[derive(Deserialize)]
struct InviteForm {
    #[serde(default)]
    token: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    new: String,
    #[serde(default)]
    again: String,
}

async fn redeem(
    State(control): State<Control>,
    Extension(client): Extension<Client>,
    form: MaybeForm<InviteForm>,
) -> Answer {
    let Ok(Form(InviteForm { token, name, new, again })) = form else { return unreadable() };
    let login = control.login();
    let Some(cookie) = login.cookie_for(&client) else {
        return unencrypted_page(&control.look().title).respond();
    };
    if new != again {
        let notice = Notice::Bad("The two passwords differ.".to_owned());
        return invitation(&control, &token, &name, notice, StatusCode::UNPROCESSABLE_ENTITY).await;
    }
    let password = Secret::new(new);
    let done = match login.roster.purpose_of(&token).await {
        Ok(LinkPurpose::SetUp) => {
            let added = (EventKind::UserAdded, "an administrator, by the set-up link");
            login.roster.set_up(&token, &name, &password).await.map(|user| (user, added))
        }
        Ok(LinkPurpose::Password(_)) => {
            let changed = (EventKind::UserChanged, "new password, by a link");
            login.roster.accept(&token, &password).await.map(|user| (user, changed))
        }
        Err(problem) => Err(problem),
    };
    let user = match done {
        Ok((user, (kind, what))) => {
            login.note(kind, Some(user.to_string()), format!("{user}: {what}"));
            user
        }
        Err(problem) => {
            let (status, text) = words(&problem);
            return invitation(&control, &token, &name, Notice::Bad(text), status).await;
        }
    };
    let not_before = login.roster.people().verifier(user.as_str()).await;
    let not_before_ms = not_before.ok().flatten().map_or(0, |known| known.not_before_ms);
    match login.begin(user.as_str(), not_before_ms, false, client.ip).await {
        Ok(Attempted::In(session)) => come_in(&control, cookie, &session, "/"),
        // Without a login configured, or with a store that just failed: the password is set all the same.
        _ => see_other("/_skep/login", None),
    }
}

/// The form of a link that works, with what went wrong; or the page that says why it does not.
async fn invitation(
    control: &Control,
    token: &str,
    name: &str,
    notice: Notice,
    status: StatusCode,
) -> Answer {
    let site = &control.look().title;
    let view = |user| InviteView { site, token, user, name, notice, status };
    match control.login().roster.purpose_of(token).await {
        Ok(LinkPurpose::SetUp) => invite_page(&view(None)).respond(),
        Ok(LinkPurpose::Password(user)) => invite_page(&view(Some(user.as_str()))).respond(),
        Err(problem) => {
            let (status, text) = words(&problem);
            void_link_page(site, text.trim_end_matches('.'), status).respond()
        }
    }
}

/// What a visitor is told of a problem with the users.
pub(super) fn words(problem: &RosterError) -> (StatusCode, String) {
    let status = match problem {
        RosterError::NoSuchLink | RosterError::SetUpAlready => StatusCode::GONE,
        RosterError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        RosterError::Store(problem) => {
            let (text, status, _) = unavailable(problem);
            return (status, text);
        }
        RosterError::Identity(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let text = problem.to_string();
    let mut letters = text.chars();
    let text = letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect::<String>())
        .unwrap_or_default();
    (status, text + ".")
}

pub(super) fn unreadable() -> Answer {
    Problem::new(StatusCode::BAD_REQUEST, "bad-form", "The form could not be read.").response()
}

/// On to another page of this server, with a cookie to set.
pub(crate) fn see_other(to: &str, cookie: Option<&str>) -> Answer {
    let headers = [(header::LOCATION, to.to_owned()), (header::CACHE_CONTROL, "no-store".to_owned())];
    let mut response = (StatusCode::SEE_OTHER, headers).into_response();
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(cookie).ok()) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

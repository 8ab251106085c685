//! `/_skep/account`: what users do about their own login. Everything that changes it asks for the password again, except
//! signing out, which can only take away.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;
use skep_edge::Client;
use skep_identity::Permission;
use skep_identity::cookies::login_path;
use skep_model::{EventKind, Principal, Secret};

use super::forms::{busy, come_in, see_other, unavailable, unreadable, words};
use super::{Attempted, Proof, leaving};
use crate::control::Control;
use crate::rights::{Caller, Rights};
use crate::ui::login::{AccountView, Notice, account_page, wait_words};

const PATH: &str = "/_skep/account";

pub(super) async fn show(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
) -> Response<Body> {
    page(&control, &caller, Notice::None, StatusCode::OK, None)
}

fn page(
    control: &Control,
    caller: &Caller,
    notice: Notice,
    status: StatusCode,
    wait_seconds: Option<u64>,
) -> Response<Body> {
    let Rights::Visitor { principal: Principal::User { name, groups }, .. } = &caller.rights else {
        return see_other(&login_path(PATH), None);
    };
    let admin = caller.permissions().contains(Permission::UsersWrite);
    let (user, portal) = (name.as_str(), control.portal_path());
    account_page(&AccountView { user, groups, admin, portal, notice, status, wait_seconds }).respond()
}

#[derive(Deserialize)]
pub(super) struct PasswordForm {
    #[serde(default)]
    current: String,
    #[serde(default)]
    new: String,
    #[serde(default)]
    again: String,
}

pub(super) async fn change_password(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    form: Result<Form<PasswordForm>, axum::extract::rejection::FormRejection>,
) -> Response<Body> {
    let Ok(Form(PasswordForm { current, new, again })) = form else { return unreadable() };
    let login = control.login();
    let cookie = login.cookie_for(&client);
    let session = cookie.and_then(|cookie| login.session_of(cookie, &headers));
    let (Some(user), Some(cookie), Some(session)) = (caller.user(), cookie, session) else {
        return see_other(&login_path(PATH), None);
    };
    let bad = |text: String, status, wait| page(&control, &caller, Notice::Bad(text), status, wait);
    if new != again {
        return bad("The two passwords differ.".to_owned(), StatusCode::UNPROCESSABLE_ENTITY, None);
    }
    // Checked as at the login, so guessing here is slowed down like guessing there.
    let (text, status, wait) = match login.prove(user.as_str(), Secret::new(current), client.ip).await {
        Ok(Proof::Given { .. } | Proof::Lacking(Attempted::In(_))) => {
            if let Err(problem) = login.roster.set_password(user.as_str(), Some(Secret::new(new))).await {
                let (status, text) = words(&problem);
                return bad(text, status, None);
            }
            login.note(EventKind::UserChanged, Some(user.to_string()), format!("{user}: new password"));
            let not_before = login.roster.people().verifier(user.as_str()).await;
            let not_before_ms = not_before.ok().flatten().map_or(0, |known| known.not_before_ms);
            match login.begin(user.as_str(), not_before_ms, session.stay, client.ip).await {
                Ok(Attempted::In(session)) => return come_in(&control, cookie, &session, PATH),
                _ => return see_other("/_skep/login", Some(&cookie.clear())),
            }
        }
        Ok(Proof::Lacking(Attempted::Wrong)) => {
            ("That is not your password so far.".to_owned(), StatusCode::UNAUTHORIZED, None)
        }
        Ok(Proof::Lacking(Attempted::Wait(wait))) => {
            let seconds = wait.as_secs() + 1;
            (wait_words(seconds), StatusCode::TOO_MANY_REQUESTS, Some(seconds))
        }
        Ok(Proof::Lacking(Attempted::Busy)) => busy(),
        Err(problem) => unavailable(&problem),
    };
    bad(text, status, wait)
}

/// Ends every login of the user, this one included.
pub(super) async fn sign_out(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Extension(client): Extension<Client>,
) -> Response<Body> {
    let login = control.login();
    let (Some(user), Some(cookie)) = (caller.user(), login.cookie_for(&client)) else {
        return see_other("/_skep/login", None);
    };
    let done = match login.roster.sign_out(user.as_str()).await {
        Ok(()) => login.refresh().await.map_err(Into::into),
        Err(problem) => Err(problem),
    };
    if let Err(problem) = done {
        let (status, text) = words(&problem);
        return page(&control, &caller, Notice::Bad(text), status, None);
    }
    login.note(EventKind::Logout, Some(user.to_string()), "everywhere".to_owned());
    leaving::end_apps(&control, user);
    see_other("/_skep/login?out=everywhere", Some(&cookie.clear()))
}

//! `users`, `grants` and `session`: who there is, what they may do, who asks.
//!
//! Changes through the edge ask for the caller's own password again (`confirm`): apps may share the origin of this API,
//! and what an app's page can send in its visitor's name must not make users.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use skep_edge::Client;
use skep_identity::{Grant, Object, Permission};
use skep_model::{EventKind, Principal, Secret};
use skep_store::GrantRow;

use super::Problem;
use crate::control::{Control, now_ms};
use crate::login::{Attempted, Proof, leaving};
use crate::rights::{Caller, Rights};
use crate::roster::{Invitation, Newcomer, RosterError, UserView, grant_row};

pub(super) fn routes() -> Router<Control> {
    use axum::routing::{delete, get, put};
    Router::new()
        .route("/session", get(session))
        .route("/users", get(list).post(add))
        .route("/users/{user}", delete(remove).patch(change))
        .route("/users/{user}/password", put(set_password))
        .route("/grants", get(grants).post(grant).delete(ungrant))
}

type Body<T> = Result<Json<T>, JsonRejection>;

/// Who asks, and what they may do to everything.
#[derive(Serialize)]
struct SessionRow {
    user: Option<String>,
    groups: Vec<String>,
    permissions: Vec<&'static str>,
    /// Whether a login is configured.
    login: bool,
}

async fn session(State(control): State<Control>, Extension(caller): Extension<Caller>) -> Json<SessionRow> {
    let (user, groups) = match &caller.rights {
        Rights::Visitor { principal: Principal::User { name, groups }, .. } => {
            (Some(name.to_string()), groups.clone())
        }
        _ => (None, Vec::new()),
    };
    let permissions = caller.permissions().iter().map(Permission::name).collect();
    Json(SessionRow { user, groups, permissions, login: control.login().is_on() })
}

async fn list(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<UserView>>, Problem> {
    caller.demand(Permission::UsersRead, Object::Everything)?;
    control.login().roster.list().await.map(Json).map_err(problem)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    name: String,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    groups: Vec<String>,
    password: Option<String>,
    confirm: Option<String>,
}

/// The user as made, with the link for choosing a password when none was given.
#[derive(Serialize)]
struct Added {
    name: String,
    invitation: Option<Invitation>,
}

async fn add(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    client: Option<Extension<Client>>,
    body: Body<AddBody>,
) -> Result<(StatusCode, Json<Added>), Problem> {
    caller.demand(Permission::UsersWrite, Object::Everything)?;
    let AddBody { name, admin, groups, password, confirm } = read(body)?;
    confirmed(&control, &caller, client, confirm).await?;
    let newcomer = Newcomer { name, admin, groups, password: password.map(Secret::new) };
    let groups = listed(&newcomer.groups);
    let (name, invitation) = control.login().roster.add(newcomer).await.map_err(problem)?;
    let role = if admin { "an administrator" } else { "a user" };
    note(&control, &caller, EventKind::UserAdded, format!("{name}: {role}, {groups}"));
    published(&control).await?;
    Ok((StatusCode::CREATED, Json(Added { name: name.to_string(), invitation })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfirmBody {
    confirm: Option<String>,
}

async fn remove(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    client: Option<Extension<Client>>,
    Path(user): Path<String>,
    body: Option<Json<ConfirmBody>>,
) -> Result<StatusCode, Problem> {
    caller.demand(Permission::UsersWrite, Object::Everything)?;
    confirmed(&control, &caller, client, body.and_then(|Json(body)| body.confirm)).await?;
    spare(&control, &caller, &user).await?;
    control.login().roster.remove(&user).await.map_err(problem)?;
    note(&control, &caller, EventKind::UserRemoved, user);
    published(&control).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is left out stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    groups: Option<Vec<String>>,
    admin: Option<bool>,
    disabled: Option<bool>,
    /// Ends every login of the user.
    #[serde(default)]
    sign_out: bool,
    confirm: Option<String>,
}

async fn change(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    client: Option<Extension<Client>>,
    Path(user): Path<String>,
    body: Body<ChangeBody>,
) -> Result<StatusCode, Problem> {
    caller.demand(Permission::UsersWrite, Object::Everything)?;
    let ChangeBody { groups, admin, disabled, sign_out, confirm } = read(body)?;
    confirmed(&control, &caller, client, confirm).await?;
    if admin == Some(false) || disabled == Some(true) {
        spare(&control, &caller, &user).await?;
    }
    let roster = &control.login().roster;
    let changed = |what: &str| note(&control, &caller, EventKind::UserChanged, format!("{user}: {what}"));
    if let Some(groups) = groups {
        let now = listed(&groups);
        roster.set_groups(&user, groups).await.map_err(problem)?;
        changed(&now);
    }
    if let Some(admin) = admin {
        roster.set_admin(&user, admin).await.map_err(problem)?;
        changed(if admin { "is an administrator" } else { "is no administrator any more" });
    }
    if let Some(disabled) = disabled {
        roster.set_disabled(&user, disabled).await.map_err(problem)?;
        changed(if disabled { "disabled" } else { "enabled" });
    }
    if sign_out {
        roster.sign_out(&user).await.map_err(problem)?;
        changed("signed out everywhere");
    }
    published(&control).await?;
    if let (true, Ok(user)) = (sign_out, skep_identity::fold(user.trim()).parse()) {
        leaving::end_apps(&control, &user);
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordBody {
    /// Without one, an invitation to choose one is made.
    password: Option<String>,
    confirm: Option<String>,
}

#[derive(Serialize)]
struct PasswordSet {
    invitation: Option<Invitation>,
}

async fn set_password(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    client: Option<Extension<Client>>,
    Path(user): Path<String>,
    body: Body<PasswordBody>,
) -> Result<Json<PasswordSet>, Problem> {
    caller.demand(Permission::UsersWrite, Object::Everything)?;
    let PasswordBody { password, confirm } = read(body)?;
    confirmed(&control, &caller, client, confirm).await?;
    let set = control.login().roster.set_password(&user, password.map(Secret::new)).await;
    let invitation = set.map_err(problem)?;
    let what = if invitation.is_some() { "invited to choose a password" } else { "new password" };
    note(&control, &caller, EventKind::UserChanged, format!("{user}: {what}"));
    published(&control).await?;
    Ok(Json(PasswordSet { invitation }))
}

async fn grants(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<GrantRow>>, Problem> {
    caller.demand(Permission::UsersRead, Object::Everything)?;
    let all = control.login().roster.people().read().await.map_err(|e| problem(e.into()))?;
    Ok(Json(all.grants))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantBody {
    grantee: String,
    gives: String,
    scope: String,
    confirm: Option<String>,
}

async fn grant(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    client: Option<Extension<Client>>,
    body: Body<GrantBody>,
) -> Result<StatusCode, Problem> {
    let grant = checked_grant(&control, &caller, client, body).await?;
    control.login().roster.people().grant(&grant, now_ms()).await.map_err(|e| problem(e.into()))?;
    note(&control, &caller, EventKind::GrantAdded, sentence(&grant));
    published(&control).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn ungrant(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    client: Option<Extension<Client>>,
    body: Body<GrantBody>,
) -> Result<StatusCode, Problem> {
    let grant = checked_grant(&control, &caller, client, body).await?;
    if let Some(user) = grant.grantee.strip_prefix("user:") {
        spare(&control, &caller, user).await?;
    }
    let gone = control.login().roster.people().ungrant(&grant).await.map_err(|e| problem(e.into()))?;
    if gone {
        note(&control, &caller, EventKind::GrantRemoved, sentence(&grant));
    }
    published(&control).await?;
    if gone {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::new(StatusCode::NOT_FOUND, "unknown-grant", "There is no such grant."))
    }
}

async fn checked_grant(
    control: &Control,
    caller: &Caller,
    client: Option<Extension<Client>>,
    body: Body<GrantBody>,
) -> Result<GrantRow, Problem> {
    caller.demand(Permission::UsersWrite, Object::Everything)?;
    let GrantBody { grantee, gives, scope, confirm } = read(body)?;
    confirmed(control, caller, client, confirm).await?;
    let parse = || Ok::<_, String>(Grant { to: grantee.parse()?, gives: gives.parse()?, on: scope.parse()? });
    let grant = parse()
        .map_err(|reason| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-grant", reason + "."))?;
    Ok(grant_row(&grant))
}

fn read<T>(body: Body<T>) -> Result<T, Problem> {
    body.map(|Json(body)| body).map_err(|e| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-body",
            format!("The body cannot be read: {}.", e.body_text()),
        )
    })
}

/// Whoever comes with a cookie proves anew who they are.
async fn confirmed(
    control: &Control,
    caller: &Caller,
    client: Option<Extension<Client>>,
    confirm: Option<String>,
) -> Result<(), Problem> {
    if caller.is_operator() {
        return Ok(());
    }
    let needed = || {
        let detail = "Changing users asks for your own password again: send it as `confirm`.";
        Problem::new(StatusCode::FORBIDDEN, "password-needed", detail)
    };
    let (Some(user), Some(Extension(client)), Some(confirm)) = (caller.user(), client, confirm) else {
        return Err(needed());
    };
    match control.login().prove(user.as_str(), Secret::new(confirm), client.ip).await {
        Ok(Proof::Given { .. } | Proof::Lacking(Attempted::In(_))) => Ok(()),
        Ok(Proof::Lacking(Attempted::Wrong)) => Err(needed()),
        Ok(Proof::Lacking(Attempted::Wait(wait))) => Err(Problem::slow_down(wait)),
        Ok(Proof::Lacking(Attempted::Busy)) => Err(problem(RosterError::Busy)),
        Err(store) => Err(problem(store.into())),
    }
}

/// Nobody locks the last administrator out by mistake; on the server itself they know what they do.
async fn spare(control: &Control, caller: &Caller, user: &str) -> Result<(), Problem> {
    if caller.is_operator() {
        return Ok(());
    }
    control.login().roster.spare_last_administrator(user).await.map_err(problem)
}

/// Into the journal: who did what.
fn note(control: &Control, caller: &Caller, kind: EventKind, detail: String) {
    control.login().note(kind, caller.user().map(ToString::to_string), detail);
}

fn listed(groups: &[String]) -> String {
    if groups.is_empty() { "in no group".to_owned() } else { format!("groups: {}", groups.join(", ")) }
}

fn sentence(grant: &GrantRow) -> String {
    format!("{} {} on {}", grant.grantee, grant.gives, grant.scope)
}

/// A change counts when the answer arrives.
async fn published(control: &Control) -> Result<(), Problem> {
    control.login().refresh().await.map_err(|e| problem(e.into()))
}

fn problem(problem: RosterError) -> Problem {
    let (status, code) = match &problem {
        RosterError::Name(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad-name"),
        RosterError::Group(_) | RosterError::Groups => (StatusCode::UNPROCESSABLE_ENTITY, "bad-group"),
        RosterError::Weak(_) => (StatusCode::UNPROCESSABLE_ENTITY, "weak-password"),
        RosterError::Taken(_) => (StatusCode::CONFLICT, "name-taken"),
        RosterError::NoSuchUser(_) => (StatusCode::NOT_FOUND, "unknown-user"),
        RosterError::LastAdministrator(_) => (StatusCode::CONFLICT, "last-administrator"),
        RosterError::NoSuchLink | RosterError::SetUpAlready => (StatusCode::GONE, "link-void"),
        RosterError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        RosterError::Identity(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        RosterError::Store(store) => return Problem::store(store),
    };
    Problem::new(status, code, format!("{problem}."))
}

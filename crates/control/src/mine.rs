//! `/_skep/apps`: what runs, one's own instances first, and opening another one under a name.
//!
//! Opening starts nothing by itself: the form leads to the instance's address, where it is started like anything else.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::get;
use axum::{Extension, Router};
use serde::Deserialize;
use skep_edge::Client;
use skep_launch::InstanceView;
use skep_model::{Framework, InstanceName};

use crate::control::{Control, now_ms};
use crate::login::forms::see_other;
use crate::personal::{is_own, may_stop};
use crate::rights::Caller;
use crate::ui::running::{Another, Row, RunningView};
use crate::{share, ui};

pub(crate) fn routes() -> Router<Control> {
    Router::new().route("/_skep/apps", get(running)).route("/_skep/apps/open", get(open))
}

async fn running(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
) -> Response<Body> {
    page(&control, (&caller, &client, &headers), Another::default(), StatusCode::OK)
}

fn page(
    control: &Control,
    (caller, client, headers): (&Caller, &Client, &HeaderMap),
    mut another: Another,
    status: StatusCode,
) -> Response<Body> {
    let mut apps = control.handle().apps();
    apps.retain(|spec| caller.may_open(spec));
    let instances = control.handle().instances();
    let sittings = caller.user().map(|user| control.handle().sittings(user)).unwrap_or_default();
    let row = |view: &InstanceView| {
        let spec = apps.iter().find(|spec| spec.id == view.app)?;
        let (own, manages) = (is_own(caller, view), caller.may_manage(spec));
        Some(Row {
            // What others call theirs is theirs.
            spec: if own || manages { spec.of_variant(&view.variant) } else { spec.clone() },
            view: view.clone(),
            own,
            link: own.then(|| share::link_to(control, client, view)).flatten(),
            shared_until_ms: share::shared_until(control, &view.id).filter(|_| own || manages),
            here: sittings.contains(&view.id),
            may_stop: may_stop(caller, spec, view),
            manages,
        })
    };
    let rows: Vec<Row> = instances.iter().filter_map(row).collect();
    apps.retain(|spec| {
        spec.per_user && spec.max_instances_per_user > 1 && spec.framework != Framework::Static
    });
    apps.sort_by_cached_key(|spec| spec.title.to_lowercase());
    another.apps = apps;
    let guest_at = share::guest_at(control, caller, headers);
    let view = RunningView {
        rows: &rows,
        another: &another,
        guest_at: guest_at.as_ref().map(|(spec, owner)| (&**spec, owner.as_str())),
        shares: !control.config().share_lifetime.is_zero(),
        apps_at: control.apps_at(client),
        now_ms: now_ms(),
        portal: control.portal_path(),
    };
    ui::running::page(&view, status).respond()
}

#[derive(Deserialize, Default)]
struct OpenForm {
    #[serde(default)]
    app: String,
    #[serde(default)]
    name: String,
}

/// Leads to the address of an instance with this name.
async fn open(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    form: Result<Query<OpenForm>, QueryRejection>,
) -> Response<Body> {
    let Query(form) = form.unwrap_or_default();
    let spec = form.app.parse().ok().and_then(|id| control.app(&id));
    let spec = spec.filter(|spec| caller.may_open(spec) && spec.per_user);
    let name = InstanceName::of_text(form.name.trim());
    match (spec, name) {
        (Some(spec), Some(name)) => {
            see_other(&format!("{}{}", control.apps_at(&client), spec.mount_of(Some(&name))), None)
        }
        (spec, _) => {
            let problem = match spec {
                None => "Choose one of the apps of which everybody has their own.",
                Some(_) => "A name needs at least one letter or digit, for example “north”.",
            };
            let name = form.name.chars().take(100).collect();
            let another = Another { chosen: form.app, name, problem: Some(problem), ..Another::default() };
            page(&control, (&caller, &client, &headers), another, StatusCode::BAD_REQUEST)
        }
    }
}

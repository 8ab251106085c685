//! `logs`: what an instance wrote, alive or ended. For whoever manages its app.

use std::str::FromStr;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::Response;
use futures_util::StreamExt;
use serde::Deserialize;
use skep_identity::{Object, Permission};
use skep_launch::LogQuery;
use skep_model::InstanceId;
use skep_store::Filter;

use super::{Problem, apps, manage_instance};
use crate::control::{Control, streaming};
use crate::rights::Caller;

const MAX_TAIL: usize = 100_000;
/// Journal records looked through for the last instance of an app that has none now.
const HISTORY: u32 = 50;

#[derive(Deserialize)]
pub(super) struct LogParams {
    #[serde(default = "default_tail")]
    tail: usize,
    #[serde(default)]
    follow: bool,
}

fn default_tail() -> usize {
    200
}

type Params<T> = Result<Query<T>, QueryRejection>;

/// `GET instances/{instance}/logs?tail=&follow=`
pub(super) async fn of_instance(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(instance): Path<String>,
    params: Params<LogParams>,
) -> Result<Response<Body>, Problem> {
    let Ok(id) = InstanceId::from_str(&instance) else {
        caller.demand(Permission::AppsManage, Object::Everything)?;
        return Err(Problem::unknown_instance(&instance));
    };
    manage_instance(&control, &caller, id.app())?;
    respond(&control, &id, params).await
}

/// `GET apps/{app}/logs?tail=&follow=`: of its newest instance, or of the last one there was.
pub(super) async fn of_app(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    params: Params<LogParams>,
) -> Result<Response<Body>, Problem> {
    let spec = apps::manageable(&control, &caller, &app)?;
    let alive = control.handle().instances().into_iter().rfind(|view| view.app == spec.id);
    let id = match alive {
        Some(view) => Some(view.id),
        None => {
            let of_app = Filter { app: Some(spec.id.to_string()), ..Filter::default() };
            let records = control.journal().newest(HISTORY, &of_app).await.map_err(|e| Problem::store(&e))?;
            records.into_iter().rev().find_map(|record| record.event.instance)
        }
    };
    let id = id.ok_or_else(|| {
        let detail = format!("`{}` has not run yet, so it has no log.", spec.id);
        Problem::new(axum::http::StatusCode::NOT_FOUND, "no-log", detail)
    })?;
    respond(&control, &id, params).await
}

async fn respond(
    control: &Control,
    id: &InstanceId,
    params: Params<LogParams>,
) -> Result<Response<Body>, Problem> {
    let Query(params) = params.map_err(|e| Problem::bad_query(&e.body_text()))?;
    let query = LogQuery { tail: params.tail.min(MAX_TAIL), follow: params.follow };
    let mut lines = control.logs(id, query).await.map_err(|e| Problem::backend(&e, &id.to_string()))?;
    let body = control.streams().open(|feed| async move {
        while let Some(mut line) = lines.next().await {
            line.push('\n');
            if !feed.send(line).await {
                return;
            }
        }
    });
    Ok(streaming("text/plain; charset=utf-8", body.ok_or_else(Problem::too_many_streams)?))
}

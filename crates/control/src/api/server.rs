//! `server`: orders to the server as a whole, and the seats in use. Operators only.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Serialize;
use skep_identity::{Object, Permission};
use skep_launch::SeatKey;
use skep_model::{AppId, InstanceId};
use tokio::sync::{mpsc, oneshot};

use super::{Problem, operators_only};
use crate::control::Control;
use crate::rights::Caller;

/// What the API asks of whoever runs the server.
pub enum ServerOrder {
    /// Look at config and folders again.
    Reload,
    /// Let a new process take over. The answer is its PID, or why there is none.
    Upgrade(oneshot::Sender<Result<u32, String>>),
}

/// The process that serves from now on.
#[derive(Serialize)]
pub(super) struct Successor {
    pid: u32,
}

/// One row of `skep ps --sessions`.
#[derive(Serialize)]
pub(super) struct SeatRow {
    app: AppId,
    instance: Option<InstanceId>,
    /// As much of the seat's id as tells it apart, too little to guess it.
    seat: String,
    /// Requests and tunnels.
    open: u32,
}

/// `POST server/upgrade`: answers when a new process serves, or says why none does.
pub(super) async fn upgrade(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Successor>, Problem> {
    operators_only(&caller)?;
    let (sender, answer) = oneshot::channel();
    give(control.orders(), ServerOrder::Upgrade(sender)).await?;
    match answer.await {
        Ok(Ok(pid)) => Ok(Json(Successor { pid })),
        Ok(Err(why)) => Err(Problem::new(StatusCode::CONFLICT, "upgrade-failed", why)),
        Err(_) => Err(Problem::stopping()),
    }
}

/// `POST server/reload`: looks at config and folders again, soon.
pub(super) async fn reload(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Problem> {
    operators_only(&caller)?;
    give(control.orders(), ServerOrder::Reload).await.map(|()| StatusCode::ACCEPTED)
}

/// `GET seats`: those with open requests or tunnels.
pub(super) async fn seats(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<SeatRow>>, Problem> {
    caller.demand(Permission::AppsManage, Object::Everything)?;
    let row = |(key, app, open): (SeatKey, AppId, u32)| {
        let seat = key.seat.to_string().chars().take(8).collect();
        SeatRow { app, instance: key.instance, seat, open }
    };
    Ok(Json(control.handle().open_seats().into_iter().map(row).collect()))
}

async fn give(orders: &mpsc::Sender<ServerOrder>, order: ServerOrder) -> Result<(), Problem> {
    orders.send(order).await.map_err(|_| Problem::stopping())
}

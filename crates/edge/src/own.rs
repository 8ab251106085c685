//! Requests the edge does not answer itself, on their way through the bounded channel to the control runtime.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, request};
use http_body_util::BodyExt;
use skep_model::Principal;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use crate::body::{EdgeBody, RequestBody, Source};
use crate::control_call::{Client, ControlCall, Purpose};
use crate::forward;
use crate::problem::Problem;
use crate::request::{Conn, Visit};

/// Hands a request over and waits for the head of its answer.
///
/// # Errors
/// 503 when the control runtime is busy or gives no answer.
pub(crate) async fn call(conn: &Conn, visit: Visit, purpose: Purpose) -> Result<Response<EdgeBody>, Problem> {
    let Visit { mut parts, body, client, upgrade, principal, .. } = visit;
    forward::own_head(&mut parts.headers);
    if upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    hand_over(conn, Request::from_parts(parts, body), client, principal, purpose).await
}

/// Asks for a page of ours in place of an app's answer. The head is a copy; the body has been spent.
///
/// # Errors
/// As [`call`].
pub(crate) async fn page(
    conn: &Conn,
    mut parts: request::Parts,
    client: Client,
    principal: Principal,
    purpose: Purpose,
) -> Result<Response<EdgeBody>, Problem> {
    forward::own_head(&mut parts.headers);
    let request = Request::from_parts(parts, RequestBody::empty(&conn.state));
    hand_over(conn, request, client, principal, purpose).await
}

/// A head to ask for a page with, should forwarding fail.
pub(crate) fn copy_of(parts: &request::Parts) -> request::Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.headers = parts.headers.clone();
    copy
}

async fn hand_over(
    conn: &Conn,
    request: Request<RequestBody>,
    client: Client,
    principal: Principal,
    purpose: Purpose,
) -> Result<Response<EdgeBody>, Problem> {
    let (reply, answer) = oneshot::channel();
    let request = request.map(BodyExt::boxed_unsync);
    let call = ControlCall { purpose, request, client, principal, reply };
    let shared = &conn.worker.shared;
    let wait = Duration::from_secs(2);
    shared.control.try_send(call).map_err(|error| match error {
        TrySendError::Full(_) => {
            Problem::new(503, "control-busy", "the server is busy; try again in a moment").retry_after(wait)
        }
        TrySendError::Closed(_) => Problem::new(503, "shutting-down", "the server is shutting down"),
    })?;
    match tokio::time::timeout(shared.limits.control_timeout, answer).await {
        Ok(Ok(response)) => Ok(response.map(|body| EdgeBody::new(Source::Control(body)))),
        Ok(Err(_)) => Err(Problem::new(503, "no-answer", "the request was given up").retry_after(wait)),
        Err(_) => {
            Err(Problem::new(503, "control-silent", "the server did not answer in time").retry_after(wait))
        }
    }
}

//! `exec`: a further program in an instance, a shell as a rule. At the machine only: the control socket is for whoever has
//! all rights there anyway, while a browser would first have to ask for the password again.

use std::str::FromStr;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skep_launch::{BackendError, ExecOutput, Execution};
use skep_model::InstanceId;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Problem, operators_only};
use crate::control::Control;
use crate::rights::Caller;
use crate::terminal::{self, Message};

/// For the order to come after the connection was given over.
const ORDER_WITHIN: Duration = Duration::from_secs(10);

/// `POST instances/{instance}/exec` with `Upgrade: skep-exec`; what follows is in [`terminal`].
pub(super) async fn in_instance(
    State(control): State<Control>,
    Extension(caller): Extension<Caller>,
    Path(instance): Path<String>,
    mut request: Request,
) -> Result<Response<Body>, Problem> {
    operators_only(&caller)?;
    let Ok(id) = InstanceId::from_str(&instance) else { return Err(Problem::unknown_instance(&instance)) };
    if !control.handle().instances().iter().any(|view| view.id == id) {
        return Err(Problem::unknown_instance(&instance));
    }
    let asked = request.headers().get(header::UPGRADE).is_some_and(|value| value == terminal::PROTOCOL);
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>().filter(|_| asked) else {
        let detail = format!("ask with `Connection: upgrade` and `Upgrade: {}`", terminal::PROTOCOL);
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade-required", detail));
    };
    tokio::spawn(async move {
        if let Ok(Ok(io)) = tokio::time::timeout(ORDER_WITHIN, upgrade).await {
            attend(&control, &id, TokioIo::new(io)).await;
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(terminal::PROTOCOL));
    Ok(response)
}

async fn attend(control: &Control, id: &InstanceId, io: impl AsyncRead + AsyncWrite + Send + 'static) {
    let (mut read, mut write) = tokio::io::split(io);
    let order = match tokio::time::timeout(ORDER_WITHIN, terminal::read(&mut read)).await {
        Ok(Ok(Some(Message::Order(order)))) => order,
        _ => return,
    };
    let program = order.command.first().cloned().unwrap_or_default();
    tracing::info!(instance = %id, program, who = order.who, "a program is run in an instance");
    let Execution { input, mut output } = match start(control, id, order).await {
        Ok(running) => running,
        Err(error) => {
            let why = match error {
                BackendError::Unknown => "programs can be run in containers that are alive only".to_owned(),
                error => error.to_string(),
            };
            let _ = terminal::write(&mut write, &Message::Output(ExecOutput::Broken(why))).await;
            return;
        }
    };
    let feeding = async move {
        while let Ok(Some(Message::Input(piece))) = terminal::read(&mut read).await {
            if input.send(piece).await.is_err() {
                break;
            }
        }
        drop(input);
    };
    let passing = async move {
        while let Some(piece) = output.recv().await {
            if terminal::write(&mut write, &Message::Output(piece)).await.is_err() {
                break;
            }
        }
    };
    // Its end is the end; whoever only stops writing may still read.
    let feeding = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(feeding));
    passing.await;
    drop(feeding);
}

async fn start(
    control: &Control,
    id: &InstanceId,
    order: skep_launch::ExecOrder,
) -> Result<Execution, BackendError> {
    let mut answer = Err(BackendError::Unknown);
    for backend in control.backends() {
        answer = backend.exec(id, order.clone()).await;
        if !matches!(answer, Err(BackendError::Unknown)) {
            break;
        }
    }
    answer
}

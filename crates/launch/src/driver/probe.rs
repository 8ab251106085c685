//! Whether an instance answers.
//!
//! That something accepts a connection does not count: some servers listen for seconds before they answer. A probe is a
//! `GET` of the app's health path, and at most one is outstanding per instance, because a starting app has better things
//! to do than to answer its prober.

use std::io;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use skep_model::Health;
use tokio::time::timeout;

use super::DriverConfig;
use crate::backend::{Dial, Duplex, Stream};

/// How much of an answer is read before the connection is closed, so that the app sees an ordinary client.
const READ_AT_MOST: usize = 64 * 1024;

/// Resolves with the first good answer. Never gives up.
pub(super) async fn until_good(config: &DriverConfig, dial: &dyn Dial, health: &Health) {
    loop {
        let stream = loop {
            match timeout(config.start_answer_timeout, dial.dial()).await {
                Ok(Ok(stream)) => break stream,
                Ok(Err(_)) | Err(_) => tokio::time::sleep(config.connect_every).await,
            }
        };
        let answer = timeout(config.start_answer_timeout, ask(config, stream, health)).await;
        if answer.is_ok_and(|answer| answer.is_ok_and(|status| is_good(status, health))) {
            return;
        }
        tokio::time::sleep(config.ask_again_every).await;
    }
}

/// One question to a running instance. Unless its health check is strict, any answer will do: an app whose page fails is
/// broken, not dead. `None` when nobody can say, because what leads to the instance is missing rather than the instance
/// (`NetworkDown`, see [`Dial::dial`]).
pub(super) async fn once(config: &DriverConfig, dial: &dyn Dial, health: &Health) -> Option<bool> {
    let asked = async { ask(config, dial.dial().await?, health).await };
    match timeout(config.probe_timeout, asked).await {
        Ok(Ok(status)) => Some(!health.strict || is_good(status, health)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkDown => None,
        Ok(Err(_)) | Err(_) => Some(false),
    }
}

fn is_good(status: StatusCode, health: &Health) -> bool {
    if health.strict { status.is_success() || status.is_redirection() } else { !status.is_server_error() }
}

async fn ask(config: &DriverConfig, stream: Stream, health: &Health) -> io::Result<StatusCode> {
    let stream: Box<dyn Duplex> = match stream {
        Stream::Tcp(stream) => Box::new(stream),
        Stream::Unix(stream) => Box::new(stream),
        Stream::Other(stream) => stream,
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
    let request = Request::get(&health.path)
        .header(header::HOST, &config.probe_host)
        .header(header::USER_AGENT, "skep-probe")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(io::Error::other)?;
    // The connection only moves while it is polled, so it is dropped with the question when time is up.
    let mut connection = Box::pin(connection);
    let mut asking = Box::pin(sender.send_request(request));
    let mut open = true;
    let answer = tokio::select! {
        biased;
        answer = &mut asking => answer,
        // A server that closes at once ends the connection in the very poll that brought the answer.
        _ = &mut connection => {
            open = false;
            asking.as_mut().await
        }
    };
    let answer = answer.map_err(io::Error::other)?;
    let status = answer.status();
    drop(asking);
    if open {
        let limit = config.probe_timeout;
        tokio::spawn(async move {
            let read = async { tokio::join!(connection, read_some(answer)) };
            let _late = timeout(limit, read).await;
        });
    }
    Ok(status)
}

async fn read_some(answer: Response<Incoming>) {
    let mut body = answer.into_body();
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > READ_AT_MOST {
            break;
        }
    }
}

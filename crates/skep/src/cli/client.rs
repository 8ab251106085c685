//! Talking to the running server over its control socket.

use std::future::Future;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::data_dir::DataDir;

/// No answer that is read whole is longer.
const ANSWER_AT_MOST: usize = 64 << 20;

/// Asks for JSON.
pub(crate) fn json<T: DeserializeOwned>(data: &Path, method: Method, path: &str) -> anyhow::Result<T> {
    on_runtime(async {
        let answer = send(data, method, path).await?;
        let status = answer.status();
        let body = read(answer.into_body()).await?;
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body).context("the server's answer cannot be read; is it of another version?")
    })
}

/// Sends JSON. What has no content is answered as `null`.
pub(crate) fn send_json<T: DeserializeOwned>(
    data: &Path,
    method: Method,
    path: &str,
    body: &Value,
) -> anyhow::Result<T> {
    on_runtime(async {
        let answer = request(data, method, path, Full::from(body.to_string())).await?;
        let status = answer.status();
        let body = read(answer.into_body()).await?;
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        let body = if body.is_empty() { b"null" } else { body.as_slice() };
        serde_json::from_slice(body).context("the server's answer cannot be read; is it of another version?")
    })
}

/// Asks for a text that may go on for ever, and passes on what comes as it comes.
pub(crate) fn stream(
    data: &Path,
    path: &str,
    mut sink: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    on_runtime(async {
        let answer = send(data, Method::GET, path).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        if !status.is_success() {
            let body = read(body).await?;
            return Err(refusal(status, &body));
        }
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.context("the server broke off")?.into_data() {
                sink(&bytes)?;
            }
        }
        Ok(())
    })
}

async fn send(data: &Path, method: Method, path: &str) -> anyhow::Result<http::Response<Incoming>> {
    request(data, method, path, Full::default()).await
}

async fn request(
    data: &Path,
    method: Method,
    path: &str,
    body: Full<Bytes>,
) -> anyhow::Result<http::Response<Incoming>> {
    let socket = DataDir::connect(data)?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixStream::from_std(socket)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)?;
    sender.send_request(request).await.context("the server did not answer")
}

async fn read(body: Incoming) -> anyhow::Result<Vec<u8>> {
    let body = http_body_util::Limited::new(body, ANSWER_AT_MOST);
    let collected = body.collect().await.map_err(|error| anyhow!("the server broke off: {error}"))?;
    Ok(collected.to_bytes().to_vec())
}

/// What the server says is wrong, read from its answer.
pub(crate) async fn refused(answer: http::Response<Incoming>) -> anyhow::Error {
    let status = answer.status();
    match read(answer.into_body()).await {
        Ok(body) => refusal(status, &body),
        Err(error) => error,
    }
}

/// What the server says is wrong, in its own words.
fn refusal(status: StatusCode, body: &[u8]) -> anyhow::Error {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = value["detail"].as_str().or_else(|| value["error"].as_str());
    match said {
        Some(said) => anyhow!("{said}"),
        None => anyhow!("the server answered {status}"),
    }
}

pub(crate) fn on_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

/// An id as it may stand in a path, or why it may not.
pub(crate) fn in_path(id: &str) -> anyhow::Result<&str> {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if plain && !id.is_empty() && !id.starts_with('.') {
        Ok(id)
    } else {
        bail!("`{id}` is neither an app nor an instance; `skep ps` lists what runs")
    }
}

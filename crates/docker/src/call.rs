//! One call: connect, ask, judge the answer.

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::body::{Outgoing, Pieces, full};
use crate::version::{LEAST, NoCommonVersion, OURS, negotiate};
use crate::{Address, ApiVersion, Error, Filters};

/// For calls that say nothing else.
const USUAL_DEADLINE: Duration = Duration::from_secs(30);
/// To connect and to learn the version.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of an answer that is read as a whole.
const MOST: usize = 64 << 20;
/// Bytes of an error's text.
const MOST_OF_ERROR: usize = 1 << 20;

/// A Docker Engine. Clones share what is known about it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    address: Address,
    /// What was agreed on; forgotten when the engine does not want it any more.
    version: Mutex<Option<ApiVersion>>,
}

impl Engine {
    /// Nothing is connected yet: each call does so.
    pub fn new(address: Address) -> Self {
        Self(Arc::new(Inner { address, version: Mutex::new(None) }))
    }

    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// The version spoken, asking the engine if need be.
    ///
    /// # Errors
    /// When it cannot be reached, or there is no version both sides know.
    pub async fn api_version(&self) -> Result<ApiVersion, Error> {
        let mut known = self.0.version.lock().await;
        if let Some(version) = *known {
            return Ok(version);
        }
        let call = Call::get("/version").within(GREETING_DEADLINE);
        let answer = self.send_to("/version", call).await?.json().await?;
        let number = |key: &str| answer.get(key).and_then(Value::as_str).and_then(|text| text.parse().ok());
        let address = || self.0.address.to_string();
        let newest = number("ApiVersion").ok_or_else(|| Error::Garbled {
            call: "GET /version".to_owned(),
            reason: "it names no `ApiVersion`; is this a Docker Engine?".to_owned(),
        })?;
        let version = negotiate(newest, number("MinAPIVersion")).map_err(|none| match none {
            NoCommonVersion::TooOld(newest) => Error::TooOld { address: address(), newest, least: LEAST },
            NoCommonVersion::TooNew(oldest) => Error::TooNew { address: address(), oldest, ours: OURS },
        })?;
        *known = Some(version);
        Ok(version)
    }

    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Error> {
        let version = self.api_version().await?;
        let path = format!("/v{version}{}", call.path);
        let sent = self.send_to(&path, call).await;
        if let Err(Error::Refused { status: 400, message, .. }) = &sent
            && message.contains("client version")
        {
            // The engine was replaced by another version. The next call agrees anew.
            *self.0.version.lock().await = None;
        }
        sent
    }

    async fn send_to(&self, path: &str, call: Call) -> Result<Answer, Error> {
        let (name, deadline) = (format!("{} {}", call.method, call.path), call.deadline);
        match timeout(deadline, self.exchange(path, call, &name)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Late { address: self.0.address.to_string(), call: name, after: deadline }),
        }
    }

    async fn exchange(&self, path: &str, call: Call, name: &str) -> Result<Answer, Error> {
        let broken = |reason: String| Error::Broken { call: name.to_owned(), reason };
        let unreachable = |reason| Error::Unreachable { address: self.0.address.to_string(), reason };
        let opened = timeout(GREETING_DEADLINE, self.0.address.open()).await;
        let io = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Outgoing>(TokioIo::new(io))
            .await
            .map_err(|e| broken(e.to_string()))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // What breaks here breaks the exchange too, which tells it.
            let _ = connection.with_upgrades().await;
        }));
        let request = call.request(path, &self.0.address.authority()).map_err(|e| broken(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(|e| broken(because(&e)))?;
        let answer = Answer { call: name.to_owned(), response, driver };
        let status = answer.response.status();
        if status.is_success() || matches!(status, StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS)
        {
            return Ok(answer);
        }
        Err(answer.refusal().await)
    }
}

/// With what lies beneath: hyper's own sentence is short.
fn because(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What is asked.
pub(crate) struct Call {
    method: Method,
    /// Without the version, with the query.
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Outgoing,
    deadline: Duration,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: full(""), deadline: USUAL_DEADLINE }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub(crate) fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(name);
        self.path.push('=');
        self.path.push_str(&encode(value));
        self
    }

    pub(crate) fn filters(self, filters: Filters<'_>) -> Self {
        if filters.is_empty() {
            return self;
        }
        let mut map = serde_json::Map::new();
        for (name, value) in filters {
            let values = map.entry((*name).to_owned()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(values) = values {
                values.push((*value).into());
            }
        }
        self.query("filters", &Value::Object(map).to_string())
    }

    pub(crate) fn json(mut self, value: &Value) -> Self {
        self.headers.push(("content-type", "application/json".to_owned()));
        self.body = full(value.to_string());
        self
    }

    pub(crate) fn tar(mut self, body: Outgoing) -> Self {
        self.headers.push(("content-type", "application/x-tar".to_owned()));
        self.body = body;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Until the answer begins.
    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn request(self, path: &str, host: &str) -> Result<Request<Outgoing>, http::Error> {
        let mut request = Request::builder().method(self.method).uri(path).header(header::HOST, host);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        request.body(self.body)
    }
}

/// Percent-encodes everything that is not plainly safe.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// An answer that is no refusal.
pub(crate) struct Answer {
    call: String,
    response: Response<Incoming>,
    driver: AbortOnDropHandle<()>,
}

impl Answer {
    pub(crate) fn pieces(self) -> Pieces {
        Pieces { call: self.call, incoming: self.response.into_body(), _driver: self.driver }
    }

    pub(crate) async fn json(self) -> Result<Value, Error> {
        let call = self.call.clone();
        let late = |call: &str| Error::Broken {
            call: call.to_owned(),
            reason: "the answer began, then nothing came any more".to_owned(),
        };
        let whole = timeout(USUAL_DEADLINE, self.pieces().whole(MOST)).await.map_err(|_| late(&call))??;
        serde_json::from_slice(&whole).map_err(|e| Error::Garbled { call, reason: e.to_string() })
    }

    /// Whether something had to be done at all.
    pub(crate) fn changed(&self) -> bool {
        self.response.status() != StatusCode::NOT_MODIFIED
    }

    /// The connection itself, after `101 Switching Protocols`.
    pub(crate) async fn upgraded(self) -> Result<(hyper::upgrade::Upgraded, AbortOnDropHandle<()>), Error> {
        let Self { call, response, driver } = self;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let reason = format!("the engine answered {} instead of switching protocols", response.status());
            return Err(Error::Garbled { call, reason });
        }
        let upgraded = timeout(GREETING_DEADLINE, hyper::upgrade::on(response)).await;
        match upgraded {
            Ok(Ok(upgraded)) => Ok((upgraded, driver)),
            Ok(Err(error)) => Err(Error::Broken { call, reason: error.to_string() }),
            Err(_) => Err(Error::Broken { call, reason: "the switch of protocols hung".to_owned() }),
        }
    }

    async fn refusal(self) -> Error {
        let (call, status) = (self.call.clone(), self.response.status().as_u16());
        let body = self.pieces().whole(MOST_OF_ERROR).await.unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&body).ok();
        let said = said.as_ref().and_then(|value| value.get("message")).and_then(Value::as_str);
        let message = match said {
            Some(said) => said.trim().to_owned(),
            None => String::from_utf8_lossy(&body).trim().chars().take(500).collect(),
        };
        let message = if message.is_empty() { "the engine gives no reason".to_owned() } else { message };
        Error::Refused { call, status, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_stays_one_parameter() {
        let call = Call::get("/images/json").query("reference", "a&b=c/../d e\u{e9}").filters(&[
            ("label", "skep.app=x"),
            ("label", "y"),
            ("status", "exited"),
        ]);
        assert_eq!(
            call.path,
            "/images/json?reference=a%26b%3Dc%2F..%2Fd%20e%C3%A9&filters=%7B%22label%22%3A%5B%22skep.app%3Dx%22%2C%22y%22%5D\
             %2C%22status%22%3A%5B%22exited%22%5D%7D"
        );
    }
}

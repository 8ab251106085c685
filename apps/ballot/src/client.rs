//! A small HTTP/1.1 client on one kept connection: what workers, `ballot check` and `ballot load` need.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;

use crate::net::TcpStream;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address}: {what}")]
pub struct ClientError {
    pub address: String,
    pub what: String,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header holding a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.parse().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub struct Client {
    /// Host and port.
    address: String,
    most: usize,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// `most` bounds the bytes of an answer.
    pub fn new(address: impl Into<String>, most: usize) -> Self {
        Self { address: address.into(), most, connection: Mutex::new(None) }
    }

    /// A client for an `http://` address, and the path in it.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn of_url(url: &str, most: usize) -> Result<(Self, String), ClientError> {
        let wrong = |what: &str| ClientError { address: url.to_owned(), what: what.to_owned() };
        let rest =
            url.strip_prefix("http://").ok_or_else(|| wrong("write an address that starts with http://"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err(wrong("the address names no host"));
        }
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        Ok((Self::new(address, most), format!("/{path}").trim_end_matches('/').to_owned()))
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn failed(&self, what: impl std::fmt::Display) -> ClientError {
        ClientError { address: self.address.clone(), what: what.to_string() }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = TcpStream::connect(self.address.as_str()).await.map_err(|e| self.failed(e))?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| self.failed(e))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Asks and waits for the whole answer. The caller sets the deadline.
    ///
    /// # Errors
    /// When no whole answer came; what the server did is then unknown.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        // A question that is given up on in the middle takes its connection with it: what is left in the slot is
        // always a connection on which nothing is outstanding.
        let mut slot = self.connection.lock().await;
        let mut sender = match slot.take().filter(|s| !s.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let mut request =
            Request::builder().method(method).uri(path).body(Full::new(body)).map_err(|e| self.failed(e))?;
        let host = HeaderValue::from_str(&self.address).map_err(|e| self.failed(e))?;
        request.headers_mut().insert("host", host);
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|e| self.failed(e))?;
            request.headers_mut().insert(*name, value);
        }
        sender.ready().await.map_err(|e| self.failed(e))?;
        let answer = sender.send_request(request).await.map_err(|e| self.failed(e))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, self.most).collect().await.map_err(|e| self.failed(e))?.to_bytes();
        *slot = Some(sender);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

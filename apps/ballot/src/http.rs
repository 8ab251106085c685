//! The HTTP server around a [`Site`]: connections with bounds and deadlines, bodies, and the forms of answers.
//!
//! Invariants: a request's head arrives within a deadline and so does its body, or the connection ends; a body is never
//! read beyond its limit. Absent: routes.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};

use crate::net::{Block, TcpListener};
use crate::stop::stopped;

/// What is sent back: all at once, or piece by piece for as long as somebody listens.
pub enum Body {
    Whole(Option<Bytes>),
    Live(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Live(stream) => {
                stream.as_mut().poll_next(cx).map(|piece| piece.map(|b| Ok(Frame::data(b))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Live(_) => SizeHint::default(),
        }
    }
}

pub type Reply = Response<Body>;
pub type Call = Request<Incoming>;

/// Answers calls.
pub trait Site: Send + Sync + 'static {
    fn answer(self: Arc<Self>, call: Call, peer: IpAddr) -> impl Future<Output = Reply> + Send;
}

#[derive(Debug, Clone)]
pub struct HttpLimits {
    pub connections: usize,
    /// For a request's head, which is also how long an idle connection is kept.
    pub head: Duration,
    /// For a request's body.
    pub body: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self { connections: 60_000, head: Duration::from_secs(20), body: Duration::from_secs(10) }
    }
}

/// Serves until `stop` turns true, then lets the calls in hand end.
pub async fn serve<S: Site>(
    listener: TcpListener,
    site: Arc<S>,
    limits: HttpLimits,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&room).acquire_owned() => permit,
            () = stopped(&mut stop) => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => return,
        };
        let (Ok(permit), Ok((stream, peer))) = (permit, accepted) else {
            // Out of file descriptors, most likely: connections that end free some.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (site, head, mut stop) = (Arc::clone(&site), limits.head, stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |call: Call| {
                let site = Arc::clone(&site);
                async move { Ok::<_, Infallible>(site.answer(call, peer.ip()).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head)
                .max_buf_size(32 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(Duration::from_secs(10), connection).await;
                }
            }
        });
    }
}

/// A refusal with a name.
#[derive(Debug, Clone)]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address")
    }

    /// The refusal for programs.
    pub fn json(&self) -> Reply {
        let title = self.status.canonical_reason().unwrap_or("Refused");
        let value = serde_json::json!({
            "type": "about:blank", "title": title, "status": self.status.as_u16(),
            "code": self.code, "detail": self.detail,
        });
        let mut reply = json(self.status, &value);
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            reply.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        reply
    }
}

/// The body, at most `limit` bytes of it, before the deadline.
///
/// # Errors
/// 413 when it is larger, 408 when it comes too slowly, 400 when it breaks off.
pub async fn read_body(mut body: Incoming, limit: usize, deadline: Duration) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body may have {limit} bytes"))
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut all: Option<Bytes> = None;
        let mut more = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return Err(Problem::new(StatusCode::BAD_REQUEST, "broken_body", "the body broke off"));
            };
            let Ok(piece) = frame.into_data() else { continue };
            match &all {
                None => all = Some(piece),
                Some(first) => {
                    if more.is_empty() {
                        more.extend_from_slice(first);
                    }
                    more.extend_from_slice(&piece);
                }
            }
            if all.as_ref().map_or(0, Bytes::len).max(more.len()) > limit {
                return Err(too_large());
            }
        }
        Ok(if more.is_empty() { all.unwrap_or_default() } else { more.freeze() })
    };
    tokio::time::timeout(deadline, read).await.unwrap_or_else(|_| {
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body came too slowly"))
    })
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Body::Whole(Some(body.into())));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Reply {
    let text = serde_json::to_vec(value).unwrap_or_default();
    reply(status, "application/json", text)
}

pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, "text/plain; charset=utf-8", body)
}

pub fn csv(body: impl Into<Bytes>) -> Reply {
    reply(StatusCode::OK, "text/csv; charset=utf-8", body)
}

pub fn octets(body: impl Into<Bytes>) -> Reply {
    reply(StatusCode::OK, "application/octet-stream", body)
}

/// A page that may load only what comes from the same place, and stand in no one's frame.
pub fn page(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = reply(status, "text/html; charset=utf-8", body);
    let fixed = [
        (
            "content-security-policy",
            "default-src 'self'; frame-ancestors 'self'; form-action 'self'; base-uri 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
    ];
    for (name, value) in fixed {
        reply.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    reply
}

/// A file that came with the program.
pub fn asset(kind: &'static str, body: &'static str) -> Reply {
    let mut reply = reply(StatusCode::OK, kind, body);
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    reply
}

/// Events for as long as the browser listens.
pub fn events(stream: impl Stream<Item = Bytes> + Send + 'static) -> Reply {
    let mut reply = reply(StatusCode::OK, "text/event-stream", Bytes::new());
    *reply.body_mut() = Body::Live(Box::pin(stream));
    reply.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    reply
}

/// One header as text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// The value of one parameter of a query or of a form, percent-decoded.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key)? == name).then(|| decode(value)).flatten()
    })
}

fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(b) = bytes.get(i) {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(bytes.get(i + 1..i + 3)?).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                i += 2;
            }
            other => out.push(*other),
        }
        i += 1;
    }
    String::from_utf8(out).ok()
}

/// Who asks, when some askers are proxies that say for whom.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    pub proxies: Vec<Block>,
}

impl Trust {
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|b| b.contains(peer))
    }

    /// The nearest address that is not a trusted proxy.
    pub fn client(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        if !self.is_proxy(peer) {
            return peer;
        }
        let named = headers.get_all("x-forwarded-for").into_iter().filter_map(|v| v.to_str().ok());
        let named: Vec<&str> = named.flat_map(|v| v.split(',')).map(str::trim).collect();
        let mut client = peer;
        for text in named.into_iter().rev() {
            let Ok(address) = text.parse::<IpAddr>() else { break };
            client = address;
            if !self.is_proxy(address) {
                break;
            }
        }
        client
    }

    /// Whether the browser speaks HTTPS, as far as a trusted proxy says.
    pub fn is_https(&self, headers: &HeaderMap, peer: IpAddr) -> bool {
        self.is_proxy(peer)
            && header(headers, "x-forwarded-proto").is_some_and(|p| p.eq_ignore_ascii_case("https"))
    }
}

/// Whether the caller shows this token.
pub fn bears(headers: &HeaderMap, token: &str) -> bool {
    header(headers, "authorization")
        .and_then(|v| v.strip_prefix("Bearer "))
        .is_some_and(|shown| crate::keys::same(shown.trim().as_bytes(), token.as_bytes()))
}

/// Text that stands in a page as itself.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(parameter("a=1&option=cats%20and+dogs", "option").as_deref(), Some("cats and dogs"));
        assert_eq!(parameter("option", "option").as_deref(), Some(""));
        assert_eq!(parameter("option=%zz", "option"), None);
        assert_eq!(parameter("option=%f", "option"), None);
        assert_eq!(parameter("", "option"), None);
    }

    #[test]
    fn only_trusted_proxies_speak_for_others() {
        let trust = Trust { proxies: vec!["10.0.0.0/8".parse().expect("block")] };
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6, 1.2.3.4, 10.0.0.9"));
        let ip = |t: &str| t.parse::<IpAddr>().expect("address");
        assert_eq!(trust.client(&headers, ip("10.0.0.1")), ip("1.2.3.4"));
        assert_eq!(trust.client(&headers, ip("9.9.9.9")), ip("9.9.9.9"));
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a=\"1\">&'"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;");
    }
}

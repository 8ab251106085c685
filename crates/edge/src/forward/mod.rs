//! Carrying a request to an instance and its answer back: which fields pass, which are ours, and when a request may be
//! sent again.
//!
//! The two `*_head` functions are pure. What an app sees of `X-Forwarded-*` and of identity headers is what the edge
//! says; what a client says of them never passes (a trusted proxy's word counts for `X-Forwarded-*`).

pub(crate) mod identity;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version, request};
use hyper::body::Incoming;
use skep_launch::Upstream;
use skep_model::Prefix;

use crate::body::RequestBody;
use crate::conn::ConnState;
use crate::control_call::Client;
use crate::pool::{ConnectError, Link, Pool};
use crate::sanitize::connection_options;
use crate::sanitize::host::Authority;

/// Cookies that are ours: they never reach an app, and an app cannot set them.
const OUR_COOKIES: [&str; 4] = ["skep-seat", "__Host-skep", "skep", "skep-guest"];

/// Hop-by-hop fields, and those we answer for ourselves.
const DROPPED: [&str; 22] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-rewrite-url",
    "shiny-server-credentials",
    "shiny-shared-secret",
    "rstudio-connect-credentials",
    "posit-connect-user-session-token",
];

/// Families of fields that say who somebody is or where a request came from.
const DROPPED_FAMILIES: [&str; 7] =
    ["x-forwarded-", "x-original-", "x-sp-", "x-skep-", "skep-", "x-remote-", "x-auth-request-"];

/// What the edge tells the app about the visitor.
pub(crate) struct Onward<'a> {
    pub(crate) client: &'a Client,
    pub(crate) peer: IpAddr,
    /// The peer is a trusted proxy: what it says of the way before it is kept.
    pub(crate) trusted: bool,
    pub(crate) prefix: Prefix,
    /// `` or `/sales`
    pub(crate) base_path: &'a str,
    pub(crate) upgrade: bool,
}

/// Makes a client's head fit for an app.
pub(crate) fn request_head(headers: &mut HeaderMap, onward: &Onward<'_>) {
    let chain = chain(headers, onward);
    let outer_prefix = headers.get("x-forwarded-prefix").filter(|_| onward.trusted).and_then(plain_prefix);
    drop_fields(headers);
    strip_cookies(headers);
    set_forwarded(headers, onward, &chain, outer_prefix);
}

/// Makes a client's head fit for the process that takes over: only the way it came is told, everything else stays.
pub(crate) fn relay_head(headers: &mut HeaderMap, onward: &Onward<'_>) {
    let chain = chain(headers, onward);
    let outer_prefix = headers.get("x-forwarded-prefix").filter(|_| onward.trusted).and_then(plain_prefix);
    let launch = headers.remove("skep-launch");
    drop_fields(headers);
    if let Some(launch) = launch {
        headers.insert("skep-launch", launch);
    }
    set_forwarded(headers, onward, &chain, outer_prefix);
}

fn set_forwarded(headers: &mut HeaderMap, onward: &Onward<'_>, chain: &str, outer_prefix: Option<String>) {
    set(headers, "x-forwarded-for", chain);
    let proto = if onward.client.https { "https" } else { "http" };
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static(proto));
    set(headers, "x-forwarded-host", &onward.client.host);
    set(headers, HOST.as_str(), &onward.client.host);
    let inner = if onward.prefix == Prefix::Strip { onward.base_path } else { "" };
    let prefix = format!("{}{inner}", outer_prefix.unwrap_or_default());
    if !prefix.is_empty() {
        set(headers, "x-forwarded-prefix", &prefix);
    }
    if onward.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Makes a client's head fit for our own pages: its cookies stay, its claims do not.
pub(crate) fn own_head(headers: &mut HeaderMap) {
    drop_fields(headers);
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// `X-Forwarded-For`: what a trusted proxy said, then the peer itself.
fn chain(headers: &HeaderMap, onward: &Onward<'_>) -> String {
    let peer = onward.peer.to_canonical().to_string();
    if !onward.trusted {
        return peer;
    }
    let said = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    said.chain([peer.as_str()]).collect::<Vec<_>>().join(", ")
}

/// A prefix a proxy in front of us may add: one path, nothing else.
fn plain_prefix(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim_end_matches('/');
    let good = text.starts_with('/') && !text.starts_with("//") && !text.contains([',', ' ', '?', '#', '\\']);
    good.then(|| text.to_owned())
}

fn drop_fields(headers: &mut HeaderMap) {
    let listed: Vec<String> = connection_options(headers).map(str::to_ascii_lowercase).collect();
    let drop = |name: &HeaderName| {
        let name = name.as_str();
        // Names with underscores: CGI and WSGI spell `-` and `_` alike, so they could pose as one of ours.
        name.contains('_')
            || DROPPED.contains(&name)
            || DROPPED_FAMILIES.iter().any(|family| name.starts_with(family))
            || listed.iter().any(|option| option == name)
    };
    let doomed: Vec<HeaderName> = headers.keys().filter(|name| drop(name)).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
}

fn is_ours(cookie: &str) -> bool {
    let name = cookie.split('=').next().unwrap_or_default().trim_matches([' ', '\t']);
    OUR_COOKIES.contains(&name)
}

/// Removes our cookies; joins what is left of several `Cookie` fields into one, as apps expect.
fn strip_cookies(headers: &mut HeaderMap) {
    let values = headers.get_all(COOKIE);
    let ours = values.iter().any(|value| value.as_bytes().windows(4).any(|window| window == b"skep"));
    if !ours && values.iter().nth(1).is_none() {
        return;
    }
    let mut kept: Vec<u8> = Vec::new();
    for value in values {
        for cookie in value.as_bytes().split(|&b| b == b';') {
            let cookie = cookie.trim_ascii();
            // Bytes beyond ASCII do not stand in our names.
            let ours = std::str::from_utf8(cookie).is_ok_and(is_ours);
            if cookie.is_empty() || ours {
                continue;
            }
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(cookie);
        }
    }
    headers.remove(COOKIE);
    if let Ok(value) = HeaderValue::from_bytes(&kept)
        && !kept.is_empty()
    {
        headers.insert(COOKIE, value);
    }
}

/// Whose answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaker {
    App,
    /// The process that took over: it is Skep itself, its cookies are ours.
    Successor,
}

/// Makes an answer's head fit for the client. `host` is the name the visitor used.
pub(crate) fn response_head(
    headers: &mut HeaderMap,
    upstream: &Upstream,
    speaker: Speaker,
    host: &str,
    upgrade: bool,
) {
    let listed: Vec<HeaderName> =
        connection_options(headers).filter_map(|option| option.to_ascii_lowercase().parse().ok()).collect();
    for name in listed {
        if !(upgrade && name == UPGRADE) {
            headers.remove(name);
        }
    }
    for name in ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer"] {
        headers.remove(name);
    }
    headers.remove(TRANSFER_ENCODING);
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
    let strip = upstream.prefix == Prefix::Strip && !upstream.base_path.is_empty();
    if headers.contains_key(SET_COOKIE) && speaker == Speaker::App {
        set_cookies(headers, strip.then_some(upstream.base_path.as_str()));
    }
    if strip
        && let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok())
        && let Some(moved) = relocate(location, &upstream.base_path, host)
        && let Ok(moved) = HeaderValue::from_str(&moved)
    {
        headers.insert(LOCATION, moved);
    }
}

fn set_cookies(headers: &mut HeaderMap, base_path: Option<&str>) {
    let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for cookie in cookies {
        let text = String::from_utf8_lossy(cookie.as_bytes());
        if is_ours(text.split(';').next().unwrap_or_default()) {
            continue;
        }
        let moved = base_path.and_then(|base| move_cookie(cookie.as_bytes(), base));
        headers.append(SET_COOKIE, moved.unwrap_or(cookie));
    }
}

/// The cookie with its `Path` under the mount path, when it lies outside.
fn move_cookie(cookie: &[u8], base_path: &str) -> Option<HeaderValue> {
    let mut out = Vec::with_capacity(cookie.len() + base_path.len());
    let mut moved = false;
    for (index, attribute) in cookie.split(|&b| b == b';').enumerate() {
        if index > 0 {
            out.push(b';');
        }
        let name = attribute.split(|&b| b == b'=').next().unwrap_or_default();
        if index > 0 && name.trim_ascii().eq_ignore_ascii_case(b"path") {
            let path = attribute.get(name.len() + 1..).unwrap_or_default().trim_ascii();
            if path.starts_with(b"/") && !is_under(path, base_path) {
                moved = true;
                out.extend_from_slice(b" Path=");
                out.extend_from_slice(base_path.as_bytes());
                out.extend_from_slice(path);
                continue;
            }
        }
        out.extend_from_slice(attribute);
    }
    if moved { HeaderValue::from_bytes(&out).ok() } else { None }
}

fn is_under(path: &[u8], base_path: &str) -> bool {
    path.strip_prefix(base_path.as_bytes())
        .is_some_and(|rest| rest.first().is_none_or(|b| matches!(b, b'/' | b'?' | b'#')))
}

/// Where a redirect leads as seen from outside, when the app's own idea is not under the mount path yet.
fn relocate(location: &str, base_path: &str, host: &str) -> Option<String> {
    let (origin, path) = if location.starts_with('/') && !location.starts_with("//") {
        ("", location)
    } else {
        let after_scheme = location.find("://")? + 3;
        let rest = location.get(after_scheme..)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let authority = Authority::parse(rest.get(..end)?)?;
        let scheme = location.get(..after_scheme - 3)?.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https") || !authority.same(&Authority::parse(host)?, &scheme)
        {
            return None;
        }
        location.split_at_checked(after_scheme + end)?
    };
    if is_under(path.as_bytes(), base_path) {
        return None;
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(format!("{origin}{base_path}{slash}{path}"))
}

/// The target an instance sees.
pub(crate) fn target(uri: &Uri, upstream: &Upstream) -> Option<Uri> {
    let whole = uri.path_and_query()?;
    if upstream.prefix == Prefix::Keep || upstream.base_path.is_empty() {
        return Some(Uri::from(whole.clone()));
    }
    let rest = whole.as_str().strip_prefix(upstream.base_path.as_str())?;
    if rest.starts_with('/') {
        return PathAndQuery::try_from(rest).ok().map(Uri::from);
    }
    PathAndQuery::try_from(format!("/{rest}")).ok().map(Uri::from)
}

/// Why an instance gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the app cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("the app broke off before it answered: {0}")]
    Answer(hyper::Error),
    #[error("the app did not begin to answer within {0:?}")]
    Slow(Duration),
}

impl Broken {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Connect(ConnectError::Budget(_)) => 503,
            Self::Connect(_) | Self::Answer(_) => 502,
            Self::Slow(_) => 504,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Connect(ConnectError::Budget(_)) => "app-connections",
            Self::Connect(_) => "app-unreachable",
            Self::Answer(_) => "app-broke-off",
            Self::Slow(_) => "app-silent",
        }
    }
}

/// A connection that has been idle for longer may be closed by the app just as a request goes out on it. A request that
/// must not be sent twice takes a fresh one instead.
const SURE: Duration = Duration::from_millis(500);

/// Sends a request and waits for the head of its answer.
///
/// A request that was never sent is sent again on a fresh connection, always; one that may have been sent only when it
/// is idempotent, has no body, and went out on a connection that had been used before (and was stale, most likely).
///
/// # Errors
/// Why there is no answer, and the request itself when surely nothing of it was sent: another instance may have it. One that
/// may have ended its app must not go on to the next.
pub(crate) async fn send(
    pool: &Rc<Pool>,
    upstream: &Upstream,
    parts: request::Parts,
    body: RequestBody,
    answer_timeout: Duration,
) -> Result<(Response<Incoming>, Link), (Broken, Option<Request<RequestBody>>)> {
    let repeatable = body.is_empty() && is_idempotent(&parts.method);
    let mut request = Request::from_parts(parts, body);
    *request.version_mut() = Version::HTTP_11;
    let mut pooled = pool.take(upstream, if repeatable { Duration::MAX } else { SURE });
    let mut perhaps_sent = false;
    loop {
        let mut link = match pooled.take() {
            Some(link) => link,
            None => match pool.connect(upstream).await {
                Ok(link) => link,
                Err(error) => return Err((error.into(), Some(request).filter(|_| !perhaps_sent))),
            },
        };
        let spare = (repeatable && link.used).then(|| Spare::of(&request));
        let answer = tokio::time::timeout(answer_timeout, link.sender.try_send_request(request)).await;
        let mut error = match answer {
            Err(_) => return Err((Broken::Slow(answer_timeout), None)),
            Ok(Ok(response)) => return Ok((response, link)),
            Ok(Err(error)) => error,
        };
        let unsent = error.take_message();
        perhaps_sent |= unsent.is_none();
        match unsent.or_else(|| spare.map(Spare::into_request)) {
            Some(again) if link.used => request = again,
            again => return Err((Broken::Answer(error.into_error()), again.filter(|_| !perhaps_sent))),
        }
    }
}

/// The head of a request without a body, kept while the request is under way.
struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    state: Arc<ConnState>,
}

impl Spare {
    fn of(request: &Request<RequestBody>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            state: request.body().state(),
        }
    }

    fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty(&self.state));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// Whether the client waits for permission before it sends its body.
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests;

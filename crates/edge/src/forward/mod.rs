//! Carrying a request to an instance and its answer back: which fields pass, which are ours, and when a request may be
//! sent again.
//!
//! The two `*_head` functions are pure. What an app sees of `X-Forwarded-*` and of identity headers is what the edge
//! says; what a client says of them never passes (a trusted proxy's word counts for `X-Forwarded-*`).

pub(crate) mod identity;

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHENTICATE,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri};
use hyper::body::Incoming;
use skep_launch::Upstream;
use skep_model::Prefix;

use crate::body::{BrokenBody, RequestBody};
use crate::control_call::Client;
use crate::deadline::Late;
use crate::digits;
use crate::pool::{ConnectError, Link, Pool};
use crate::sanitize::host::Authority;
use crate::sanitize::{self, connection_options};
use crate::visit::{self, SKEP_LAUNCH};

/// Families of fields without `X-` by which some proxy or framework says who somebody is.
const OTHER_FAMILIES: [&str; 6] =
    ["skep-", "remote-", "cf-access-", "tailscale-user-", "ssl-client-", "fastly-client-"];

/// Hop-by-hop fields, and those we answer for ourselves; families of fields that say who somebody is or where a request
/// came from.
fn is_ours_to_say(name: &str) -> bool {
    let family = |rest: &str| {
        let families = [
            "forwarded-",
            "original-",
            "sp-",
            "skep-",
            "remote-",
            "auth-request-",
            "authenticated-",
            "webauth-",
            "goog-authenticated-user-",
            "goog-iap-",
            "ms-client-principal",
            "amzn-oidc-",
            "ssl-client-",
        ];
        families.iter().any(|family| rest.starts_with(family))
    };
    name.strip_prefix("x-").is_some_and(family)
        || OTHER_FAMILIES.iter().any(|family| name.starts_with(family))
        || matches!(
            name,
            "connection"
                | "keep-alive"
                | "proxy-connection"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "proxy"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
                | "http2-settings"
                | "expect"
                | "forwarded"
                | "x-real-ip"
                | "true-client-ip"
                | "cf-connecting-ip"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "x-rewrite-url"
                | "shiny-server-credentials"
                | "shiny-shared-secret"
                | "rstudio-connect-credentials"
                | "posit-connect-user-session-token"
        )
}

/// What of an app's answer concerns its connection only.
static HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

const SERVICE_WORKER_ALLOWED: HeaderName = HeaderName::from_static("service-worker-allowed");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

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

/// A client's head as an app sees it. The head itself stays as it came: it may be needed for another instance.
pub(crate) fn request_head(said: &HeaderMap, onward: &Onward<'_>) -> HeaderMap {
    let dropped = dropped(said);
    let mut headers = passed_on(said, |name| *name != COOKIE && *name != HOST && !dropped(name));
    add_cookies(&mut headers, said);
    add_forwarded(&mut headers, said, onward);
    headers
}

/// A client's head for the process that takes over: only the way it came is told, everything else stays.
pub(crate) fn relay_head(said: &HeaderMap, onward: &Onward<'_>) -> HeaderMap {
    let dropped = dropped(said);
    let mut headers = passed_on(said, |name| *name == SKEP_LAUNCH || *name != HOST && !dropped(name));
    add_forwarded(&mut headers, said, onward);
    headers
}

/// About as many fields come in as stay behind, and then these.
const ADDED: usize = 8;

fn passed_on(said: &HeaderMap, passes: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(said.len() + ADDED);
    for (name, value) in said {
        if passes(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

fn add_forwarded(headers: &mut HeaderMap, said: &HeaderMap, onward: &Onward<'_>) {
    if let Ok(chain) = HeaderValue::try_from(chain(said, onward)) {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    let proto = if onward.client.https { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    let host = &onward.client.host;
    // As a rule it is what stands in `Host`, which need not be copied.
    let as_said = said.get(HOST).filter(|value| value.as_bytes() == host.as_bytes()).cloned();
    if let Some(host) = as_said.or_else(|| HeaderValue::from_str(host).ok()) {
        headers.insert(X_FORWARDED_HOST, host.clone());
        headers.insert(HOST, host);
    }
    let outer = said.get(X_FORWARDED_PREFIX).filter(|_| onward.trusted).and_then(plain_prefix);
    let inner = if onward.prefix == Prefix::Strip { onward.base_path } else { "" };
    if outer.is_some() || !inner.is_empty() {
        let prefix = outer.unwrap_or_default() + inner;
        if let Ok(prefix) = HeaderValue::try_from(prefix)
            && !prefix.is_empty()
        {
            headers.insert(X_FORWARDED_PREFIX, prefix);
        }
    }
    if onward.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Makes a client's head fit for our own pages: its cookies stay, its claims do not.
pub(crate) fn own_head(headers: &mut HeaderMap) {
    let doomed: Vec<HeaderName> = {
        let dropped = dropped(headers);
        headers.keys().filter(|name| dropped(name)).cloned().collect()
    };
    for name in doomed {
        headers.remove(name);
    }
}

/// `X-Forwarded-For`: what a trusted proxy said, then the peer itself.
fn chain(said: &HeaderMap, onward: &Onward<'_>) -> String {
    let mut peer = String::with_capacity(15);
    digits::address(&mut peer, onward.peer.to_canonical());
    if !onward.trusted {
        return peer;
    }
    let said = said.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    said.chain([peer.as_str()]).collect::<Vec<_>>().join(", ")
}

/// A prefix a proxy in front of us may add: one path, nothing else.
fn plain_prefix(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim_end_matches('/');
    let good = text.starts_with('/') && !text.starts_with("//") && !text.contains([',', ' ', '?', '#', '\\']);
    good.then(|| text.to_owned())
}

/// Says of each field of the head `said` whether it stays here.
fn dropped(said: &HeaderMap) -> impl Fn(&HeaderName) -> bool {
    let listed = listed(said);
    // Names with underscores: CGI and WSGI spell `-` and `_` alike, so they could pose as one of ours.
    move |name| sanitize::is_ambiguous(name) || is_ours_to_say(name.as_str()) || listed(name)
}

/// Says of each field whether `Connection` lists it.
fn listed(headers: &HeaderMap) -> impl Fn(&HeaderName) -> bool {
    // The fields these words would be the names of stay behind anyway; most heads list nothing else.
    let stays = |option: &str| {
        ["keep-alive", "upgrade", "te"].iter().any(|name| option.eq_ignore_ascii_case(name))
            || option.eq_ignore_ascii_case("close") && !headers.contains_key("close")
    };
    let any = !connection_options(headers).all(stays);
    move |name| any && connection_options(headers).any(|option| option.eq_ignore_ascii_case(name.as_str()))
}

/// Whether a cookie, as `name=value`, is one of ours: they never reach an app, and an app cannot set them.
fn is_ours(cookie: &str) -> bool {
    // A cookie without a name comes back as its value alone, which would be name and value of one of ours then.
    let named = cookie.trim_start_matches(['=', ' ', '\t']);
    let name = named.split('=').next().unwrap_or_default();
    skep_identity::cookies::is_ours(name.trim_matches([' ', '\t']))
}

/// The client's cookies without ours; several `Cookie` fields become one, as apps expect.
fn add_cookies(headers: &mut HeaderMap, said: &HeaderMap) {
    let mut values = said.get_all(COOKIE).iter();
    let Some(first) = values.next() else { return };
    let ours = |value: &HeaderValue| memchr::memmem::find(value.as_bytes(), b"skep").is_some();
    if values.next().is_none() && !ours(first) {
        headers.insert(COOKIE, first.clone());
        return;
    }
    let mut kept: Vec<u8> = Vec::new();
    for value in said.get_all(COOKIE) {
        for cookie in visit::pairs(value.as_bytes()) {
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
    if let Ok(value) = HeaderValue::try_from(kept)
        && !value.is_empty()
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
    let doomed: Vec<HeaderName> = {
        let listed = listed(headers);
        let hop = |name: &HeaderName| HOP_BY_HOP.contains(name) || listed(name);
        headers.keys().filter(|name| hop(name) && !(upgrade && **name == UPGRADE)).cloned().collect()
    };
    for name in doomed {
        headers.remove(name);
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if speaker == Speaker::App
        && headers.get_all(SERVICE_WORKER_ALLOWED).iter().any(|scope| is_wide(scope, &upstream.base_path))
    {
        headers.remove(SERVICE_WORKER_ALLOWED);
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

/// Whether a service worker with that scope would get to serve the pages of other apps, the login among them.
fn is_wide(scope: &HeaderValue, base_path: &str) -> bool {
    let scope = scope.as_bytes();
    // Browsers resolve dots, spelled in whichever way.
    let dotted = scope.windows(2).any(|two| two == b"..") || scope.contains(&b'%') || scope.contains(&b'\\');
    !base_path.is_empty() && (dotted || !is_under(scope, base_path))
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
    /// Not the app's fault.
    #[error("{0}")]
    Body(#[from] BrokenBody),
}

impl Broken {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Connect(ConnectError::Budget(_)) => 503,
            Self::Connect(_) | Self::Answer(_) => 502,
            Self::Slow(_) => 504,
            Self::Body(_) => 400,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Connect(ConnectError::Budget(_)) => "app-connections",
            Self::Connect(_) => "app-unreachable",
            Self::Answer(_) => "app-broke-off",
            Self::Slow(_) => "app-silent",
            Self::Body(_) => "bad-body",
        }
    }
}

/// A connection that has been idle for longer may be closed by the app just as a request goes out on it. A request that
/// must not be sent twice takes a fresh one instead.
const SURE: Duration = Duration::from_millis(500);

/// Sends a request and waits for the head of its answer. `make` makes it up, once for each time it is sent.
///
/// A request that was never sent is sent again on a fresh connection, always; one that may have been sent only when it
/// is idempotent, has no body, and went out on a connection that had been used before (and was stale, most likely).
///
/// # Errors
/// Why there is no answer, and the request's body when surely nothing of it was sent: another instance may have it. One that
/// may have ended its app must not go on to the next.
pub(crate) async fn send(
    pool: &Rc<Pool>,
    upstream: &Upstream,
    method: &Method,
    make: impl Fn(RequestBody) -> Request<RequestBody>,
    mut body: RequestBody,
    answer_timeout: Duration,
) -> Result<(Response<Incoming>, Link), (Broken, Option<RequestBody>)> {
    let repeatable = body.is_empty() && is_idempotent(method);
    let mut pooled = pool.take(upstream, if repeatable { Duration::MAX } else { SURE });
    let mut perhaps_sent = false;
    loop {
        let mut link = match pooled.take() {
            Some(link) => link,
            None => match pool.connect(upstream).await {
                Ok(link) => link,
                Err(error) => return Err((error.into(), Some(body).filter(|_| !perhaps_sent))),
            },
        };
        let state = (repeatable && link.used).then(|| body.state());
        let sent = link.sender.try_send_request(make(body));
        let answer = pool.deadlines.within(answer_timeout, sent).await;
        let mut error = match answer {
            Err(Late) => return Err((Broken::Slow(answer_timeout), None)),
            Ok(Ok(response)) => return Ok((response, link)),
            Ok(Err(error)) => error,
        };
        if let Some(broken) = BrokenBody::within(error.error()) {
            return Err((broken.into(), None));
        }
        let unsent = error.take_message().map(Request::into_body);
        perhaps_sent |= unsent.is_none();
        match unsent.or_else(|| state.map(|state| RequestBody::empty(&state))) {
            Some(again) if link.used => body = again,
            again => return Err((Broken::Answer(error.into_error()), again.filter(|_| !perhaps_sent))),
        }
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

//! The sanitizer: what must be true of a request before anything is decided about it.
//!
//! Pure: bytes and heads in, a verdict out; no I/O, no clock. [`head_scan`] reads the raw head as it arrives (it sees
//! what the HTTP parser forgives or merges), [`check`] judges the parsed head, [`path`] normalises the path. Every
//! refusal has a stable code.

pub mod head_scan;
pub mod host;
pub mod path;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Uri, Version};

use head_scan::HeadFault;
use host::Authority;

/// Why a request is refused before it is looked at any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Head(#[from] HeadFault),
    #[error("the method {0} is not served here")]
    Method(BadMethod),
    #[error("the request names no host")]
    NoHost,
    #[error("the request names more than one host")]
    TwoHosts,
    #[error("the Host header is no host name with an optional port")]
    BadHost,
    #[error("the request's URL and its Host header disagree")]
    HostMismatch,
    #[error("the request's target is neither a path nor an http URL")]
    BadTarget,
    #[error("the path holds an escape that is malformed or never valid")]
    BadPath,
    #[error("the path leaves its folder through encoded dot segments")]
    HiddenDots,
    #[error("a WebSocket upgrade must be a GET without a body")]
    BadUpgrade,
    #[error("the Connection header names a field that may not be removed")]
    BadConnection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadMethod {
    Connect,
    Trace,
}

impl std::fmt::Display for BadMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "CONNECT",
            Self::Trace => "TRACE",
        })
    }
}

impl Refused {
    /// The HTTP status it is answered with. Each closes the connection.
    pub fn status(self) -> u16 {
        match self {
            Self::Method(_) => 405,
            _ => 400,
        }
    }

    pub fn code(self) -> &'static str {
        match self {
            Self::Head(fault) => fault.code(),
            Self::Method(_) => "bad-method",
            Self::NoHost => "no-host",
            Self::TwoHosts => "two-hosts",
            Self::BadHost => "bad-host",
            Self::HostMismatch => "host-mismatch",
            Self::BadTarget => "bad-target",
            Self::BadPath => "bad-path",
            Self::HiddenDots => "hidden-dots",
            Self::BadUpgrade => "bad-upgrade",
            Self::BadConnection => "bad-connection",
        }
    }
}

/// What a good head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// From `Host`, as sent.
    pub host: Authority,
    /// Path and query, normalised, when that changed anything.
    pub rewritten: Option<String>,
    /// A well-formed WebSocket upgrade.
    pub upgrade: bool,
}

/// Judges a parsed head. Changes nothing.
///
/// # Errors
/// When the request must not be served.
pub fn check(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<Checked, Refused> {
    if *method == Method::CONNECT {
        return Err(Refused::Method(BadMethod::Connect));
    }
    if *method == Method::TRACE || method.as_str().eq_ignore_ascii_case("track") {
        return Err(Refused::Method(BadMethod::Trace));
    }
    let host = the_host(headers)?;
    check_target(uri, &host)?;
    let path = uri.path();
    let rewritten = path::normalise(path)?.map(|mut path| {
        if let Some(query) = uri.query() {
            path.push('?');
            path.push_str(query);
        }
        path
    });
    // `http://host?query` has no path of its own; an app is asked for `/?query`.
    let whole = uri.path_and_query().map_or("", |target| target.as_str());
    let rewritten = rewritten.or_else(|| (!whole.starts_with('/')).then(|| format!("/{whole}")));
    check_connection(headers)?;
    let upgrade = check_upgrade(method, version, headers)?;
    Ok(Checked { host, rewritten, upgrade })
}

fn the_host(headers: &HeaderMap) -> Result<Authority, Refused> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().ok_or(Refused::NoHost)?;
    if hosts.next().is_some() {
        return Err(Refused::TwoHosts);
    }
    let text = host.to_str().map_err(|_| Refused::BadHost)?;
    Authority::parse(text).ok_or(Refused::BadHost)
}

fn check_target(uri: &Uri, host: &Authority) -> Result<(), Refused> {
    if let Some(authority) = uri.authority() {
        let scheme = uri.scheme_str().ok_or(Refused::BadTarget)?;
        if scheme != "http" && scheme != "https" {
            return Err(Refused::BadTarget);
        }
        let target = Authority::parse(authority.as_str()).ok_or(Refused::BadTarget)?;
        if !target.same(host, scheme) {
            return Err(Refused::HostMismatch);
        }
    }
    if uri.path().starts_with('/') { Ok(()) } else { Err(Refused::BadTarget) }
}

/// Fields a client may not have removed by naming them in `Connection`.
const KEPT: [&str; 6] = ["host", "content-length", "transfer-encoding", "cookie", "authorization", "origin"];

fn check_connection(headers: &HeaderMap) -> Result<(), Refused> {
    let names = connection_options(headers);
    for name in names {
        if KEPT.iter().any(|kept| name.eq_ignore_ascii_case(kept)) {
            return Err(Refused::BadConnection);
        }
    }
    Ok(())
}

/// The options listed in all `Connection` headers.
pub fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(http::header::CONNECTION).iter();
    let options = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    options.map(|option| option.trim_matches([' ', '\t'])).filter(|option| !option.is_empty())
}

/// Whether this is a WebSocket upgrade. Any other `Upgrade` is an offer nobody need take: it is not forwarded.
fn check_upgrade(method: &Method, version: Version, headers: &HeaderMap) -> Result<bool, Refused> {
    let mut offers = headers.get_all(UPGRADE).iter();
    let Some(offer) = offers.next() else { return Ok(false) };
    if !offer.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return Ok(false);
    }
    let asked = connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    let length = headers.get(CONTENT_LENGTH);
    let body =
        headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length.as_bytes() != b"0");
    let single = offers.next().is_none();
    if *method == Method::GET && version == Version::HTTP_11 && asked && single && !body {
        Ok(true)
    } else {
        Err(Refused::BadUpgrade)
    }
}

/// Whether an app could take this name for another one: CGI and WSGI spell `-` and `_` alike.
pub fn is_ambiguous(name: &HeaderName) -> bool {
    name.as_str().contains('_')
}

#[cfg(test)]
mod tests;

//! What the fuzzer asks of this crate's parsers, as functions that panic when a promise is broken.
//!
//! Compiled only with `--cfg fuzzing` (see `fuzz/`): it reaches what is private, so it exists in no other build. Each
//! function takes bytes of the fuzzer's choosing.

#![allow(clippy::expect_used, clippy::panic, reason = "a broken promise shall end the fuzzer")]

use std::io;
use std::net::IpAddr;
use std::path::{Component, Path};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::header::{CONNECTION, HOST, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use skep_identity::{CHOICE_COOKIE, GUEST_COOKIE, SEAT_COOKIE, SHARE_COOKIE};
use skep_launch::{Dial, Stream, Upstream};
use skep_model::{AppId, InstanceId, Prefix, Principal};

use crate::config::{Cidr, HostRule};
use crate::control_call::Client;
use crate::forward::{self, Onward, Speaker};
use crate::frames::FrameScan;
use crate::sanitize::head_scan::{Framing, Head, HeadScan};
use crate::sanitize::host::{Authority, origin_matches};
use crate::sanitize::{self, Checked, path};
use crate::{fuzzing_routes, static_site, visit};

/// As hyper is told.
const FIELDS: usize = 100;
const PEER: &str = "203.0.113.9";
const OURS: [&str; 6] = ["__Host-skep", "skep", SEAT_COOKIE, GUEST_COOKIE, SHARE_COOKIE, CHOICE_COOKIE];

/// A client's head: the raw scan against the parser, the check, and what an app would get to see.
pub fn request(bytes: &[u8]) {
    let [how, cut, head @ ..] = bytes else { return };
    let scanned = scan(head, usize::from(*cut).max(1));
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(end)) = parsed.parse(head) else { return };
    let (scan_end, verdict) = scanned.expect("the parser found the head's end, the scan did not");
    assert_eq!(scan_end, end, "scan and parser disagree where the head ends");
    if verdict.fault.is_some() {
        return;
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return };
    let (Ok(method), Ok(uri)) = (method.parse::<Method>(), target.parse::<Uri>()) else { return };
    let Some(headers) = map(parsed.headers) else { return };
    check_framing(&headers, verdict);
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    if let Ok(checked) = sanitize::check(&method, &uri, version, &headers) {
        rewrite(&method, &uri, headers, checked, *how);
    }
}

/// Scans in one piece and in pieces of `cut` bytes, which must not matter.
fn scan(head: &[u8], cut: usize) -> Option<(usize, Head)> {
    let whole = HeadScan::default().feed(head);
    let mut pieces = HeadScan::default();
    let mut before = 0;
    let cut_up = head.chunks(cut).find_map(|piece| {
        let found = pieces.feed(piece).map(|(end, head)| (before + end, head));
        before += piece.len();
        found
    });
    assert_eq!(whole, cut_up, "the scan depends on how its bytes are cut");
    whole
}

fn map(fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some(headers)
}

fn check_framing(headers: &HeaderMap, verdict: Head) {
    let lengths: Vec<_> = headers.get_all("content-length").iter().collect();
    let chunked = headers.contains_key("transfer-encoding");
    match verdict.framing {
        Framing::Chunked => assert!(chunked && lengths.is_empty()),
        Framing::Length(length) => {
            assert!(!chunked && lengths.len() <= 1);
            let said = lengths.first().map_or(Some(0), |value| value.to_str().ok()?.trim().parse().ok());
            assert_eq!(said, Some(length));
        }
    }
}

fn rewrite(method: &Method, uri: &Uri, headers: HeaderMap, checked: Checked, how: u8) {
    let target =
        checked.rewritten.as_deref().unwrap_or_else(|| uri.path_and_query().map_or("", |p| p.as_str()));
    assert!(target.starts_with('/'), "{target}");
    let uri: Uri = target.parse().expect("what we rewrite is a target");
    check_path(uri.path());
    let trusted = how & 1 != 0;
    let peer: IpAddr = PEER.parse().expect("an address");
    let range: Cidr = "203.0.113.0/24".parse().expect("a range");
    let ip = visit::client_ip(peer, trusted, &[range], &headers);
    assert!(trusted || ip == peer, "a stranger's word on its address was taken");
    for name in ["x-forwarded-host", "x-forwarded-proto"] {
        let _ = visit::last_word(&headers, name).and_then(Authority::parse);
    }
    let rule = HostRule::Loopback { also: vec!["lab.example.org".to_owned()] };
    let _ = visit::check_host_rule(&rule, &checked.host, false, trusted, &headers);
    let _ = visit::check_origin(&headers, &checked.host, &["https://example.org".to_owned()]);
    let _ = visit::check_unsafe(method, &headers);
    let _ = (visit::is_navigation(method, &headers), visit::must_not_wake(&headers));
    let client = Client {
        ip,
        https: how & 2 != 0,
        host: checked.host.as_str().to_owned(),
        at_console: true,
        request_id: u64::from(how),
    };
    let prefix = if how & 4 != 0 { Prefix::Strip } else { Prefix::Keep };
    let upgrade = checked.upgrade;
    let onward = onward(&client, peer, trusted, prefix, upgrade);
    let mut headers = forward::request_head(&headers, &onward);
    check_onward(&headers, &onward);
    let name = "ada".parse().expect("a name");
    forward::identity::tell(&mut headers, &Principal::User { name, groups: vec!["staff".to_owned()] });
    for field in ["x-sp-userid", "x-sp-usergroups", "shiny-server-credentials"] {
        assert_eq!(headers.get_all(field).iter().count(), 1, "{field}");
    }
}

fn onward<'a>(client: &'a Client, peer: IpAddr, trusted: bool, prefix: Prefix, upgrade: bool) -> Onward<'a> {
    Onward { client, peer, trusted, prefix, base_path: "/sales", upgrade }
}

/// What an app may rely on.
fn check_onward(headers: &HeaderMap, onward: &Onward<'_>) {
    let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix"];
    let never = ["x-forwarded-", "x-original-", "x-sp-", "x-skep-", "skep-", "x-remote-", "x-auth-request-"];
    let hops =
        ["te", "trailer", "transfer-encoding", "keep-alive", "proxy-authorization", "forwarded", "expect"];
    for name in headers.keys().map(HeaderName::as_str) {
        assert!(!name.contains('_'), "{name} passed");
        assert!(!hops.contains(&name), "{name} passed");
        assert!(
            ours.contains(&name) || !never.iter().any(|family| name.starts_with(family)),
            "{name} passed"
        );
    }
    for name in ["shiny-server-credentials", "rstudio-connect-credentials", "x-real-ip"] {
        assert!(!headers.contains_key(name), "{name} passed");
    }
    assert_eq!(headers.contains_key(CONNECTION), onward.upgrade);
    assert_eq!(headers.get_all(HOST).iter().count(), 1);
    for name in ours {
        assert!(headers.get_all(name).iter().count() <= 1, "{name} is said twice");
    }
    let chain = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok()).expect("a chain");
    assert!(if onward.trusted { chain.ends_with(PEER) } else { chain == PEER }, "{chain}");
    for name in OURS.iter() {
        assert_eq!(visit::cookies(headers, name).next(), None, "our cookie {name} passed");
    }
}

/// An app's answer on its way to the visitor.
pub fn response(bytes: &[u8]) {
    let [how, head @ ..] = bytes else { return };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(_)) = parsed.parse(head) else { return };
    let Some(mut headers) = map(parsed.headers) else { return };
    let upstream = upstream(if how & 1 != 0 { Prefix::Strip } else { Prefix::Keep });
    let speaker = if how & 2 != 0 { Speaker::Successor } else { Speaker::App };
    let upgrade = how & 4 != 0;
    forward::response_head(&mut headers, &upstream, speaker, "apps.example.org", upgrade);
    assert_eq!(headers.contains_key(CONNECTION), upgrade);
    for name in ["keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer"] {
        assert!(!headers.contains_key(name), "{name} passed");
    }
    if speaker == Speaker::App {
        for value in headers.get_all(SET_COOKIE) {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            // A browser may send one without a name back as its value alone.
            let named = text.trim_start_matches(['=', ' ', '\t']);
            let name = named.split(['=', ';']).next().unwrap_or_default().trim_matches([' ', '\t']);
            assert!(!OURS.contains(&name), "an app set our cookie: {text}");
        }
    }
}

fn upstream(prefix: Prefix) -> Upstream {
    let app: AppId = "sales".parse().expect("an id");
    let instance = InstanceId::new(app.clone(), 7);
    Upstream { app, name: None, instance, prefix, base_path: "/sales".to_owned(), dial: Arc::new(Nowhere) }
}

struct Nowhere;

impl Dial for Nowhere {
    fn dial(&self) -> BoxFuture<'static, io::Result<Stream>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())))
    }

    fn describe(&self) -> String {
        "nowhere".to_owned()
    }
}

/// Paths: one spelling, no dots, nothing outside a site's folder.
pub fn paths(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = path::normalise(text);
    let Ok(uri) = text.parse::<Uri>() else { return };
    if !uri.path().starts_with('/') {
        return;
    }
    let Ok(normal) = path::normalise(uri.path()) else { return };
    let normal = normal.unwrap_or_else(|| uri.path().to_owned());
    check_path(&normal);
    fuzzing_routes::check(&normal);
    let upstream = upstream(Prefix::Strip);
    if let Some(target) = normal.parse::<Uri>().ok().and_then(|uri| forward::target(&uri, &upstream)) {
        assert!(target.path().starts_with('/'), "{target}");
    }
    if let Some(file) = static_site::relative_path(normal.trim_start_matches('/')) {
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        assert!(Path::new(&file).components().all(plain), "{} leaves the folder", file.display());
    }
}

fn check_path(normal: &str) {
    assert!(normal.starts_with('/'), "{normal}");
    assert_eq!(path::normalise(normal), Ok(None), "{normal} has a second spelling");
    assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."), "{normal}");
    assert!(normal.parse::<Uri>().is_ok(), "{normal} is no target any more");
}

/// Hosts, origins, address ranges, forwarded addresses, byte ranges and dates.
pub fn fields(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(authority) = Authority::parse(text) {
        assert_eq!(authority.as_str(), text);
        assert!(authority.same(&authority, "https"));
        assert!(!authority.host().is_empty());
        assert!(!text.contains(['/', '@', ' ', '\\', '\r', '\n', ',']), "{text}");
    }
    let host = Authority::parse("apps.example.org").expect("a host");
    if origin_matches(text, &host, &[]) {
        let rest = text.split_once("://").map_or("", |(_, rest)| rest).to_ascii_lowercase();
        assert!(rest == "apps.example.org" || rest.starts_with("apps.example.org:"), "{text}");
    }
    if let Ok(range) = text.parse::<Cidr>() {
        let address: IpAddr = text.split('/').next().unwrap_or_default().parse().expect("the range has one");
        // `::ffff:0:0/96` and the like hold no address that is not spelled as IPv4 already.
        assert!(range.contains(address) || address.to_canonical() != address, "{text}");
    }
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", value);
        let peer: IpAddr = PEER.parse().expect("an address");
        let everybody: [Cidr; 2] = ["0.0.0.0/0", "::/0"].map(|range| range.parse().expect("a range"));
        let _ = visit::client_ip(peer, true, &everybody, &headers);
        assert_eq!(visit::client_ip(peer, false, &everybody, &headers), peer);
    }
    for len in [0, 1, 1000, u64::MAX] {
        static_site::check_range(text, len);
    }
    static_site::check_date(text);
}

/// WebSocket frames: how the bytes are cut must not matter.
pub fn frames(bytes: &[u8]) {
    let [cut, stream @ ..] = bytes else { return };
    let mut whole = FrameScan::default();
    let active = whole.feed(stream);
    let mut pieces = FrameScan::default();
    let mut seen = false;
    for piece in stream.chunks(usize::from(*cut).max(1)) {
        seen |= pieces.feed(piece);
    }
    assert_eq!(active, seen);
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
}

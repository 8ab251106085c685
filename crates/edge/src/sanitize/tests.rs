use http::Request;
use proptest::prelude::*;

use super::head_scan::{Framing, Head, HeadScan};
use super::host::origin_matches;
use super::*;

fn verdict(request: Request<()>) -> Result<Checked, Refused> {
    let (parts, ()) = request.into_parts();
    check(&parts.method, &parts.uri, parts.version, &parts.headers)
}

fn get(uri: &str) -> http::request::Builder {
    Request::get(uri).header("host", "example.org")
}

#[test]
fn heads_are_judged() {
    let good = verdict(get("/a?b").body(()).unwrap()).unwrap();
    assert_eq!((good.host.as_str(), good.rewritten, good.upgrade), ("example.org", None, false));
    let cases: Vec<(http::request::Builder, Refused)> = vec![
        (Request::get("/"), Refused::NoHost),
        (get("/").header("host", "example.org"), Refused::TwoHosts),
        (Request::get("/").header("host", "a/../b"), Refused::BadHost),
        (Request::get("/").header("host", ""), Refused::BadHost),
        (Request::get("/").header("host", "a:99999"), Refused::BadHost),
        (Request::get("/").header("host", "a:+80"), Refused::BadHost),
        (Request::get("/").header("host", "a, b"), Refused::BadHost),
        (Request::get("/").header("host", "u@a"), Refused::BadHost),
        (Request::get("/").header("host", "[::1]x"), Refused::BadHost),
        (Request::get("/").header("host", "[::1]@evil.org:80"), Refused::BadHost),
        (Request::get("/").header("host", "[::1]/../x"), Refused::BadHost),
        (get("http://other.org/"), Refused::HostMismatch),
        (get("http://example.org:81/"), Refused::HostMismatch),
        (get("ftp://example.org/"), Refused::BadTarget),
        (get("*").method("OPTIONS"), Refused::BadTarget),
        (get("/").method("CONNECT"), Refused::Method(BadMethod::Connect)),
        (get("/").method("TRACE"), Refused::Method(BadMethod::Trace)),
        (get("/").method("TRACK"), Refused::Method(BadMethod::Trace)),
        (get("/").header("connection", "close, Host"), Refused::BadConnection),
        (get("/%zz"), Refused::BadPath),
        (get("/%00"), Refused::BadPath),
        (get("/a/%252e%252e/b"), Refused::HiddenDots),
        (get("/a%2f..%2fb"), Refused::HiddenDots),
        (
            get("/").method("POST").header("upgrade", "websocket").header("connection", "upgrade"),
            Refused::BadUpgrade,
        ),
        (get("/").header("upgrade", "websocket"), Refused::BadUpgrade),
        (
            get("/")
                .header("upgrade", "websocket")
                .header("connection", "upgrade")
                .header("content-length", "5"),
            Refused::BadUpgrade,
        ),
    ];
    for (request, expected) in cases {
        let request = request.body(()).unwrap();
        let shown = format!("{request:?}");
        assert_eq!(verdict(request), Err(expected), "{shown}");
    }
}

#[test]
fn good_oddities_pass() {
    assert!(verdict(get("http://EXAMPLE.org:80/x").body(()).unwrap()).is_ok());
    let upgrade = get("/").header("upgrade", "WebSocket").header("connection", "keep-alive, Upgrade");
    assert!(verdict(upgrade.body(()).unwrap()).unwrap().upgrade);
    let offer = get("/").header("upgrade", "h2c").header("connection", "Upgrade, HTTP2-Settings");
    assert!(!verdict(offer.body(()).unwrap()).unwrap().upgrade);
    let moved = verdict(get("/x/../%61pp/?q=/../").body(()).unwrap()).unwrap();
    assert_eq!(moved.rewritten.as_deref(), Some("/app/?q=/../"));
    let bare = verdict(get("http://example.org?q=1").body(()).unwrap()).unwrap();
    assert_eq!(bare.rewritten.as_deref(), Some("/?q=1"));
}

#[test]
fn paths_have_one_spelling() {
    for (path, expected) in [
        ("/x/../admin", "/admin"),
        ("/%2e%2e/admin", "/admin"),
        ("/a/./b/.", "/a/b/"),
        ("/a/b/..", "/a/"),
        ("/..", "/"),
        ("/%5fskep/api", "/_skep/api"),
        ("/%73ales/", "/sales/"),
        ("/../../etc", "/etc"),
    ] {
        assert_eq!(path::normalise(path).unwrap().as_deref(), Some(expected), "{path}");
    }
    for same in ["/", "/a/b/", "/a%2Fb", "/a%20b", "/a/..b/.c/...", "/%C3%A9", "//x", "/a//b", "/a%25b"] {
        assert_eq!(path::normalise(same), Ok(None), "{same}");
    }
    for hidden in ["/a/..%2fb", "/a%5c..%5cb", "/%252e%252e/", "/a/..;/b", "/a\\..\\b", "/a/%25252e%25252e/"]
    {
        assert_eq!(path::normalise(hidden), Err(Refused::HiddenDots), "{hidden}");
    }
}

#[test]
fn origins_match_by_host_and_port() {
    let host = |text: &str| Authority::parse(text).unwrap();
    let allowed = ["https://portal.example.org".to_owned(), "https://other.org:8443/".to_owned()];
    for (origin, to, good) in [
        ("http://example.org", "example.org", true),
        ("https://example.org", "example.org", true),
        ("https://example.org", "example.org:443", true),
        ("http://localhost:8080", "localhost:8080", true),
        ("http://localhost:8081", "localhost:8080", false),
        ("http://evil.org", "example.org", false),
        ("http://example.org.evil.org", "example.org", false),
        ("null", "example.org", false),
        ("https://portal.example.org", "example.org", true),
        ("http://portal.example.org", "example.org", false),
        ("https://other.org:8443", "example.org", true),
        ("https://other.org", "example.org", false),
    ] {
        assert_eq!(origin_matches(origin, &host(to), &allowed), good, "{origin} {to}");
    }
}

fn scan(bytes: &[u8]) -> Option<(usize, Head)> {
    HeadScan::default().feed(bytes)
}

// Found by fuzzing: whole, the length was taken; in pieces, it was refused.
#[test]
fn an_overlong_length_is_refused_however_it_is_cut() {
    let head = format!("POST / HTTP/1.1\r\nContent-Length: {}7\r\n\r\n", "0".repeat(60));
    let whole = scan(head.as_bytes());
    assert_eq!(whole.and_then(|(_, head)| head.fault), Some(HeadFault::BadLength));
    let mut pieces = HeadScan::default();
    let cut = head.as_bytes().chunks(7).find_map(|piece| pieces.feed(piece));
    assert_eq!(cut.map(|(_, head)| head), whole.map(|(_, head)| head));
}

#[test]
fn raw_heads_are_scanned() {
    let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    assert_eq!(scan(plain), Some((27, Head { framing: Framing::Length(0), fault: None })));
    for (head, framing, fault) in [
        ("POST / HTTP/1.1\r\nContent-Length:  5 \r\n\r\n", Framing::Length(5), None),
        ("POST / HTTP/1.1\r\ntransfer-ENCODING: chunked\r\n\r\n", Framing::Chunked, None),
        ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Framing::Length(0), None),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Framing::Length(0), Some(HeadFault::BareLf)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Framing::Length(0), Some(HeadFault::BareLf)),
        (
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            Framing::Chunked,
            Some(HeadFault::LengthAndEncoding),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding : x\r\nContent-Length: 5\r\n\r\n",
            Framing::Chunked,
            Some(HeadFault::LengthAndEncoding),
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            Framing::Length(5),
            Some(HeadFault::TwoLengths),
        ),
        ("POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", Framing::Length(0), Some(HeadFault::BadLength)),
        ("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", Framing::Length(0), Some(HeadFault::BadLength)),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            Framing::Chunked,
            Some(HeadFault::TwoEncodings),
        ),
    ] {
        assert_eq!(scan(head.as_bytes()), Some((head.len(), Head { framing, fault })), "{head:?}");
    }
}

proptest! {
    // However the bytes are cut, the verdict is the same.
    #[test]
    fn cuts_do_not_matter(
        lines in proptest::collection::vec("(Content-Length: ?0{0,60}[0-9]{1,9}|Transfer-Encoding: chunked|[A-Za-z-]{1,80}: .{0,90}|X: y\n)", 0..6),
        cuts in proptest::collection::vec(1_usize..40, 1..30),
        tail in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut bytes = format!("GET / HTTP/1.1\r\n{}\r\n", lines.iter().map(|l| format!("{l}\r\n")).collect::<String>()).into_bytes();
        bytes.extend(&tail);
        let whole = scan(&bytes);
        let mut scanner = HeadScan::default();
        let (mut at, mut found, mut cuts) = (0, None, cuts.into_iter().cycle());
        while at < bytes.len() && found.is_none() {
            let end = (at + cuts.next().unwrap()).min(bytes.len());
            found = scanner.feed(&bytes[at..end]).map(|(n, head)| (at + n, head));
            at = end;
        }
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn hostile_heads_do_not_break_the_scan(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Some((n, _)) = scan(&bytes) {
            prop_assert!(n <= bytes.len() && bytes[n - 1] == b'\n');
        }
    }

    // Normalising twice changes nothing, and nothing normalised leaves its root or holds a dot segment.
    #[test]
    fn normal_paths_are_stable(path in "/([a-z%./\\\\;2eEfF5cC_]{0,30})") {
        if let Ok(found) = path::normalise(&path) {
            let plain = found.unwrap_or(path);
            prop_assert_eq!(path::normalise(&plain), Ok(None));
            prop_assert!(plain.starts_with('/'));
            prop_assert!(plain.split('/').all(|segment| segment != "." && segment != ".."));
        }
    }

    #[test]
    fn hosts_are_parsed_or_refused(text in ".{0,40}") {
        if let Some(host) = Authority::parse(&text) {
            prop_assert!(!host.host().is_empty() && text.starts_with(host.host()));
            prop_assert!(!text.contains(['/', '@', ' ', ',', '?', '#']));
        }
    }
}

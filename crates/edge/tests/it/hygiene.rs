//! What must not get through: raw requests that servers read differently, forged claims, paths in disguise.
//!
//! Each is either refused, and the connection closed, or harmless: the app sees one plain request and nothing smuggled.

use std::time::Duration;

use skep_edge::HostRule;

use crate::app::Seen;
use crate::world::{Setup, World};

const SMUGGLED: &str = "GET /keep/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends the bytes on a connection of their own and reads until the edge closes it.
async fn refused(world: &World, name: &str, bytes: &[u8], status: u16) {
    let mut client = world.client().await;
    client.send(bytes).await;
    let rest = tokio::time::timeout(Duration::from_secs(60), client.rest()).await;
    let rest = rest.unwrap_or_else(|_| panic!("{name}: the connection stays open: {client:?}"));
    let text = String::from_utf8_lossy(&rest).into_owned();
    assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {text:?}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{name}: one answer, then the end: {text}");
    assert!(world.seen().is_empty(), "{name}: {:?}", world.seen());
}

#[tokio::test]
async fn requests_that_servers_read_differently_are_refused() {
    let world = World::start().await;
    world.warm_up().await;
    let post = |fields: &str, body: &str| {
        format!("POST /keep/x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n{body}{SMUGGLED}").into_bytes()
    };
    let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
    let head = |line: &str, fields: &str| format!("{line}\r\n{fields}\r\n{SMUGGLED}").into_bytes();
    let payloads: Vec<(&str, Vec<u8>, u16)> = vec![
        ("length and chunked", post("Content-Length: 4\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        ("chunked and length", post("Transfer-Encoding: chunked\r\nContent-Length: 4", "0\r\n\r\n"), 400),
        ("two encodings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400),
        (
            "unknown then chunked",
            post("Transfer-Encoding: x\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
            400,
        ),
        ("not quite chunked", post("Transfer-Encoding: xchunked", "0\r\n\r\n"), 400),
        ("chunked is not last", post("Transfer-Encoding: chunked, identity", "0\r\n\r\n"), 400),
        ("identity", post("Transfer-Encoding: identity", ""), 400),
        ("empty encoding", post("Transfer-Encoding:", "0\r\n\r\n"), 400),
        ("space before the colon", post("Transfer-Encoding : chunked", "0\r\n\r\n"), 400),
        ("folded encoding", post("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"), 400),
        ("folded field", post("X: a\r\n b\r\nContent-Length: 0", ""), 400),
        ("equal lengths", post("Content-Length: 0\r\nContent-Length: 0", ""), 400),
        ("different lengths", post("Content-Length: 0\r\nContent-Length: 5", ""), 400),
        ("length list", post("Content-Length: 0, 0", ""), 400),
        ("plus length", post("Content-Length: +0", ""), 400),
        ("hex length", post("Content-Length: 0x0", ""), 400),
        ("negative length", post("Content-Length: -1", ""), 400),
        ("empty length", post("Content-Length: ", ""), 400),
        ("two numbers", post("Content-Length: 0 0", ""), 400),
        ("overflowing length", post("Content-Length: 18446744073709551616", ""), 400),
        (
            "chunked in HTTP/1.0",
            head("POST /keep/x HTTP/1.0", "Host: localhost\r\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        ("bare line feeds", b"GET /keep/x HTTP/1.1\nHost: localhost\n\n".to_vec(), 400),
        ("one bare line feed", head("GET /keep/x HTTP/1.1", "Host: localhost\nX: y\r\n"), 400),
        ("bare feed at the end", b"GET /keep/x HTTP/1.1\r\nHost: localhost\r\n\n".to_vec(), 400),
        (
            "hidden by a feed",
            head("GET /keep/x HTTP/1.1", "Host: localhost\r\nX: y\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        ("bare return", head("GET /keep/x HTTP/1.1", "Host: localhost\r\nX: a\rb: c\r\n"), 400),
        ("nul", head("GET /keep/x HTTP/1.1", "Host: localhost\r\nX: a\0b\r\n"), 400),
        ("bad name", head("GET /keep/x HTTP/1.1", "Host: localhost\r\nX(y): a\r\n"), 400),
        ("no colon", head("GET /keep/x HTTP/1.1", "Host: localhost\r\nnonsense\r\n"), 400),
        ("no host", head("GET /keep/x HTTP/1.1", "X: y\r\n"), 400),
        ("two hosts", head("GET /keep/x HTTP/1.1", "Host: localhost\r\nHost: localhost\r\n"), 400),
        ("host with a path", head("GET /keep/x HTTP/1.1", "Host: localhost/../x\r\n"), 400),
        ("host list", head("GET /keep/x HTTP/1.1", "Host: localhost, evil\r\n"), 400),
        ("host with a user", head("GET /keep/x HTTP/1.1", "Host: a@localhost\r\n"), 400),
        ("space before host's colon", head("GET /keep/x HTTP/1.1", "Host : localhost\r\n"), 400),
        ("another host in the URL", head("GET http://evil/keep/x HTTP/1.1", "Host: localhost\r\n"), 400),
        ("no http URL", head("GET ftp://localhost/keep/x HTTP/1.1", "Host: localhost\r\n"), 400),
        ("asterisk", head("OPTIONS * HTTP/1.1", "Host: localhost\r\n"), 400),
        ("connect", head("CONNECT localhost:80 HTTP/1.1", "Host: localhost:80\r\n"), 405),
        ("trace", head("TRACE /keep/x HTTP/1.1", "Host: localhost\r\n"), 405),
        ("track", head("TRACK /keep/x HTTP/1.1", "Host: localhost\r\n"), 405),
        ("HTTP/1.2", head("GET /keep/x HTTP/1.2", "Host: localhost\r\n"), 400),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        ("tab for space", head("GET\t/keep/x HTTP/1.1", "Host: localhost\r\n"), 400),
        ("eight-bit path", b"GET /keep/\xe9 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 400),
        (
            "upgrade with a body",
            post("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 4", "abcd"),
            400,
        ),
        ("upgrade by POST", post("Connection: upgrade\r\nUpgrade: websocket", ""), 400),
        (
            "host as an option",
            head("GET /keep/x HTTP/1.1", "Host: localhost\r\nConnection: close, Host\r\n"),
            400,
        ),
        ("length as an option", post("Connection: Content-Length\r\nContent-Length: 0", ""), 400),
        ("double-encoded dots", head("GET /keep/%252e%252e/admin HTTP/1.1", "Host: localhost\r\n"), 400),
        ("dots behind %2f", head("GET /keep/..%2f..%2fadmin HTTP/1.1", "Host: localhost\r\n"), 400),
        ("dots behind a parameter", head("GET /keep/..;/admin HTTP/1.1", "Host: localhost\r\n"), 400),
        ("encoded nul", head("GET /keep/%00 HTTP/1.1", "Host: localhost\r\n"), 400),
        ("half an escape", head("GET /keep/%4 HTTP/1.1", "Host: localhost\r\n"), 400),
    ];
    for (name, bytes, status) in &payloads {
        refused(&world, name, bytes, *status).await;
    }
    let bad_chunks = [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n",
        "fffffffffffffffff\r\n",
        "5\nhello\n0\n\n",
        "5;a\nb\r\nhello\r\n",
        "5\r\nhelloX\r\n",
    ];
    for body in bad_chunks {
        // The head is fine and may be forwarded; what follows must break the exchange, not become a request.
        let mut client = world.client().await;
        client.send(chunked(body)).await;
        let text = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(!text.contains(" 200 "), "{body:?}: {text}");
    }
    assert!(world.seen().iter().all(|seen| seen.line() == "POST /keep/x HTTP/1.1"), "{:?}", world.seen());
}

async fn harmless(world: &World, request: &str) -> Seen {
    let before = world.seen().len();
    let mut client = world.client().await;
    client.send(request).await;
    assert_eq!(client.answer().await.status, 200, "{request}");
    let mut seen = world.seen();
    assert_eq!(seen.len(), before + 1, "{seen:?}");
    seen.pop().unwrap()
}

#[tokio::test]
async fn oddities_are_made_plain() {
    let world = World::start().await;
    world.warm_up().await;
    let get = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let seen = harmless(
        &world,
        &get("/keep/x", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"),
    )
    .await;
    for name in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(seen.field(name), None, "{name}");
    }
    assert_eq!(
        harmless(&world, &get("/x/../keep/./a/%2e%2e/admin", "")).await.line(),
        "GET /keep/admin HTTP/1.1"
    );
    assert_eq!(
        harmless(&world, &get("/strip/../%6beep/x?../y", "")).await.line(),
        "GET /keep/x?../y HTTP/1.1"
    );
    assert_eq!(harmless(&world, &get("/keep/a%2Fb", "")).await.line(), "GET /keep/a%2Fb HTTP/1.1");
    let seen = harmless(&world, "GET http://LOCALHOST:80/keep/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((seen.line(), seen.field("host")), ("GET /keep/x HTTP/1.1", Some("localhost")));
    // Trailers are not for apps.
    let trailers = "POST /keep/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-SP-UserId\r\n\r\n2\r\nhi\r\n0\r\nX-SP-UserId: root\r\n\r\n";
    let seen = harmless(&world, trailers).await;
    assert_eq!((seen.body.as_slice(), seen.field("trailer")), (&b"hi"[..], None));
    // A body of a GET is a body, not a request.
    let seen = harmless(
        &world,
        &format!(
            "GET /keep/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
            SMUGGLED.len()
        ),
    )
    .await;
    assert_eq!(seen.body, SMUGGLED.as_bytes());
    assert!(world.seen().iter().all(|seen| !seen.line().contains("smuggled")));
}

#[tokio::test]
async fn the_app_sees_exactly_this() {
    let world = World::start().await;
    world.warm_up().await;
    let request = "POST /strip/a?b=c HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: test\r\nAccept: */*\r\nCookie: a=1; skep-seat=x; skep=y; __Host-skep=z; b=2\r\nX_Forwarded_For: 6.6.6.6\r\nX-SP-UserId: root\r\nShiny-Server-Credentials: {}\r\nX-Skep-Anything: 1\r\nConnection: keep-alive, x-private\r\nX-Private: 1\r\nTE: trailers\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi";
    let seen = harmless(&world, request).await;
    let mut lines: Vec<&str> = seen.head.trim_end().lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "POST /a?b=c HTTP/1.1",
            "accept: */*",
            "content-length: 2",
            "content-type: text/plain",
            "cookie: a=1; b=2",
            "host: localhost:8080",
            "user-agent: test",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: localhost:8080",
            "x-forwarded-prefix: /strip",
            "x-forwarded-proto: http",
        ]
    );
    assert_eq!(seen.body, b"hi");
}

#[tokio::test]
async fn without_a_login_strangers_names_and_proxies_are_refused() {
    let world = World::with(Setup {
        hosts: HostRule::Loopback { also: vec!["lab.example".to_owned()] },
        ..Setup::default()
    })
    .await;
    world.warm_up().await;
    for (host, fields, expected) in [
        ("localhost", "", Ok(())),
        ("lab.example:99", "", Ok(())),
        ("127.0.0.1:1", "", Ok(())),
        ("rebound.example", "", Err((421, "host-not-allowed"))),
        ("localhost", "X-Forwarded-For: 1.1.1.1\r\n", Err((403, "untrusted-proxy"))),
        ("localhost", "Forwarded: for=1.1.1.1\r\n", Err((403, "untrusted-proxy"))),
    ] {
        for path in ["/keep/x", "/", "/_skep/api/v1/apps"] {
            let mut client = world.client().await;
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
            let answer = client.answer().await;
            match expected {
                Ok(()) => assert_eq!(answer.status, 200),
                Err((status, code)) => assert_eq!((answer.status, answer.code().as_str()), (status, code)),
            }
        }
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let setup = Setup { trusted: vec!["127.0.0.0/8"], hosts: HostRule::Any, ..Setup::default() };
    let world = World::with(setup).await;
    world.warm_up().await;
    let seen = harmless(
        &world,
        "GET /keep/x HTTP/1.1\r\nHost: inner:8080\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.7\r\nX-Forwarded-Host: apps.example\r\nX-Forwarded-Proto: https\r\n\r\n",
    )
    .await;
    assert_eq!(seen.field("host"), Some("apps.example"));
    assert_eq!(seen.field("x-forwarded-for"), Some("6.6.6.6, 192.0.2.7, 127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(world.logged("/keep/x", 1).await[0]["client"], "192.0.2.7");
}

#[tokio::test]
async fn our_own_paths_are_for_our_own_pages() {
    let world = World::start().await;
    let mut client = world.client().await;
    let post = |fields: &str| {
        format!("POST /_skep/api/v1/x HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: 0\r\n\r\n")
    };
    for (fields, expected) in [
        ("Sec-Fetch-Site: same-origin\r\nOrigin: http://localhost\r\n", None),
        ("Authorization: Bearer x\r\n", None),
        ("Sec-Fetch-Site: cross-site\r\n", Some("cross-site")),
        ("", Some("cross-site")),
        ("Origin: http://evil.example\r\nSec-Fetch-Site: same-origin\r\n", Some("foreign-origin")),
    ] {
        client.send(post(fields)).await;
        let answer = client.answer().await;
        match expected {
            None => assert_eq!(answer.status, 200, "{fields}"),
            Some(code) => assert_eq!((answer.status, answer.code().as_str()), (403, code), "{fields}"),
        }
    }
    client.send("GET /_skep/x HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n").await;
    assert_eq!(client.answer().await.code(), "foreign-origin");
    // What a client claims to be does not reach our pages either, its cookies do.
    assert_eq!(world.calls.lock().len(), 2);
}

#[tokio::test]
async fn the_console_has_its_host_to_itself() {
    let console = skep_edge::ConsoleHost {
        host: "console.localhost".to_owned(),
        public_url: Some("http://apps.localhost".to_owned()),
    };
    let setup = Setup { hosts: HostRule::Any, console: Some(console), ..Setup::default() };
    let world = World::with(setup).await;
    world.warm_up().await;
    let before = world.seen().len();
    let page = "Accept: text/html\r\n";
    for (host, path, more, status, location) in [
        ("console.localhost", "/keep/x", "", 421, None),
        ("console.localhost", "/keep/x?y", page, 303, Some("http://apps.localhost/keep/x?y")),
        ("console.localhost", "/keep", "", 421, None),
        ("localhost", "/_skep/api/v1/apps", "", 421, None),
        ("localhost:81", "/_skep/console/", page, 303, Some("http://console.localhost:81/_skep/console/")),
        ("localhost", "/keep/x", "", 200, None),
        ("console.localhost", "/_skep/api/v1/apps", "", 200, None),
        ("localhost", "/_skep/apps", "", 200, None),
    ] {
        let mut client = world.client().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("location")), (status, location), "{host} {path}");
    }
    assert_eq!(world.seen().len(), before + 1, "one request was for the app");
    let asked = ["own: GET /_skep/api/v1/apps", "own-beside-apps: GET /_skep/apps"];
    assert_eq!(*world.calls.lock(), asked, "what an app's script may have asked is told apart");
}

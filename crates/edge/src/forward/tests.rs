use std::sync::Arc;

use skep_launch::{Dial, Stream};

use super::*;

struct Nowhere;

impl Dial for Nowhere {
    fn dial(&self) -> futures_util::future::BoxFuture<'static, std::io::Result<Stream>> {
        Box::pin(std::future::ready(Err(std::io::ErrorKind::NotFound.into())))
    }

    fn describe(&self) -> String {
        "nowhere".to_owned()
    }
}

fn upstream(prefix: Prefix, base_path: &str) -> Upstream {
    let app: skep_model::AppId = "sales".parse().unwrap();
    let instance = skep_model::InstanceId::new(app.clone(), 1);
    Upstream { app, name: None, instance, prefix, base_path: base_path.to_owned(), dial: Arc::new(Nowhere) }
}

fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn client(host: &str) -> Client {
    let ip = "192.0.2.9".parse().unwrap();
    Client { ip, https: true, host: host.to_owned(), at_console: true, request_id: 1 }
}

fn shown(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines
}

fn passed_on(fields: &[(&'static str, &str)], trusted: bool, prefix: Prefix) -> Vec<String> {
    let client = client("example.org");
    let peer = "10.0.0.1".parse().unwrap();
    let onward = Onward { client: &client, peer, trusted, prefix, base_path: "/sales", upgrade: false };
    shown(&request_head(&head(fields), &onward))
}

#[test]
fn a_clients_claims_do_not_pass() {
    let lines = passed_on(
        &[
            ("host", "example.org"),
            ("accept", "*/*"),
            ("connection", "keep-alive, X-Hop, x-forwarded-for"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-host", "evil.org"),
            ("x-forwarded-prefix", "/evil"),
            ("x-forwarded-user", "root"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x-sp-userid", "root"),
            ("x-sp-usergroups", "wheel"),
            ("x-skep-identity", "e30"),
            ("skep-launch", "follow"),
            ("shiny-server-credentials", "{}"),
            ("rstudio-connect-credentials", "{}"),
            ("remote-user", "root"),
            ("x-remote-groups", "wheel"),
            ("x-authenticated-userid", "root"),
            ("x-webauth-user", "root"),
            ("x-goog-authenticated-user-email", "root"),
            ("x-ms-client-principal-name", "root"),
            ("x-amzn-oidc-identity", "root"),
            ("cf-access-authenticated-user-email", "root"),
            ("cf-connecting-ip", "1.1.1.1"),
            ("tailscale-user-login", "root"),
            ("ssl-client-s-dn", "root"),
            ("proxy", "http://evil"),
            ("cookie", "skep-seat=x; a=1; __Host-skep=y"),
            ("cookie", "skep=z;b=2 ; notskep=3; =skep=x"),
        ],
        false,
        Prefix::Strip,
    );
    assert_eq!(
        lines,
        [
            "accept: */*",
            "cookie: a=1; b=2; notskep=3",
            "host: example.org",
            "x-forwarded-for: 10.0.0.1",
            "x-forwarded-host: example.org",
            "x-forwarded-prefix: /sales",
            "x-forwarded-proto: https",
        ]
    );
}

#[test]
fn a_trusted_proxys_word_counts() {
    let said = [
        ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
        ("x-forwarded-prefix", "/outer/"),
        ("cookie", "skep-seat=x"),
    ];
    let lines = passed_on(&said, true, Prefix::Keep);
    assert_eq!(
        lines,
        [
            "host: example.org",
            "x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.1",
            "x-forwarded-host: example.org",
            "x-forwarded-prefix: /outer",
            "x-forwarded-proto: https",
        ]
    );
    assert!(passed_on(&said, true, Prefix::Strip).contains(&"x-forwarded-prefix: /outer/sales".to_owned()));
}

fn answered(fields: &[(&'static str, &str)], upstream: &Upstream) -> Vec<String> {
    let mut headers = head(fields);
    response_head(&mut headers, upstream, Speaker::App, "example.org:8080", false);
    shown(&headers)
}

#[test]
fn answers_are_moved_under_the_mount_path() {
    let strip = upstream(Prefix::Strip, "/sales");
    for (location, expected) in [
        ("/x?y", "/sales/x?y"),
        ("/sales/x", "/sales/x"),
        ("/sales", "/sales"),
        ("/salesman", "/sales/salesman"),
        ("x/y", "x/y"),
        ("//other.org/x", "//other.org/x"),
        ("http://example.org:8080/x", "http://example.org:8080/sales/x"),
        ("https://EXAMPLE.org:8080", "https://EXAMPLE.org:8080/sales/"),
        ("http://example.org/x", "http://example.org/x"),
        ("http://other.org/x", "http://other.org/x"),
        ("ftp://example.org:8080/x", "ftp://example.org:8080/x"),
    ] {
        assert_eq!(answered(&[("location", location)], &strip), [format!("location: {expected}")]);
    }
    for (cookie, expected) in [
        ("a=1; Path=/", "a=1; Path=/sales/"),
        ("a=1; path=/x; Secure", "a=1; Path=/sales/x; Secure"),
        ("a=1; Path=/sales/x", "a=1; Path=/sales/x"),
        ("a=1", "a=1"),
        ("path=/; HttpOnly", "path=/; HttpOnly"),
    ] {
        assert_eq!(answered(&[("set-cookie", cookie)], &strip), [format!("set-cookie: {expected}")]);
    }
    let keep = upstream(Prefix::Keep, "/sales");
    assert_eq!(
        answered(&[("location", "/x"), ("set-cookie", "a=1; Path=/")], &keep),
        ["location: /x", "set-cookie: a=1; Path=/"]
    );
}

#[test]
fn an_app_cannot_set_our_cookies() {
    let strip = upstream(Prefix::Strip, "/sales");
    let lines = answered(
        &[
            ("set-cookie", "skep-seat=evil; Path=/"),
            ("set-cookie", " __Host-skep =evil"),
            ("set-cookie", "skep"),
            ("set-cookie", "=skep-seat=evil; Path=/"),
            ("set-cookie", " = skep=evil"),
            ("service-worker-allowed", "/"),
            ("set-cookie", "mine=1; Path=/"),
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
        ],
        &strip,
    );
    assert_eq!(lines, ["set-cookie: mine=1; Path=/sales/"]);
}

#[test]
fn a_service_worker_stays_with_its_app() {
    let sales = upstream(Prefix::Keep, "/sales");
    for (scope, passes) in [
        ("/sales/", true),
        ("/sales", true),
        ("/", false),
        ("/salesman/", false),
        ("/sales/../", false),
        ("/sales/%2e./", false),
    ] {
        let lines = answered(&[("service-worker-allowed", scope)], &sales);
        assert_eq!(!lines.is_empty(), passes, "{scope}");
    }
    let alone = upstream(Prefix::Keep, "");
    assert_eq!(
        answered(&[("service-worker-allowed", "/")], &alone).len(),
        1,
        "it may be everywhere as it is"
    );
}

#[test]
fn targets_lose_the_mount_path_only_where_stripped() {
    let strip = upstream(Prefix::Strip, "/sales");
    for (uri, expected) in
        [("/sales/x?y", "/x?y"), ("/sales/", "/"), ("/sales?q", "/?q"), ("/sales//x", "//x")]
    {
        assert_eq!(target(&uri.parse().unwrap(), &strip).unwrap().to_string(), expected);
    }
    let keep = upstream(Prefix::Keep, "/sales");
    assert_eq!(target(&"/sales/x".parse().unwrap(), &keep).unwrap().to_string(), "/sales/x");
    assert_eq!(
        target(&"http://h/x?y".parse().unwrap(), &upstream(Prefix::Strip, "")).unwrap().to_string(),
        "/x?y"
    );
}

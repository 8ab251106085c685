//! Who asks, for what, and in which manner: the facts later phases decide by. Pure.

use std::net::IpAddr;

use http::header::{ACCEPT, AUTHORIZATION, COOKIE, HeaderMap, ORIGIN, USER_AGENT};
use http::{HeaderName, Method};

use crate::config::{Cidr, HostRule};
use crate::problem::Problem;
use crate::sanitize::host::{Authority, origin_matches};

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");

/// What the launch page's script asks for.
pub(crate) const SKEP_LAUNCH: HeaderName = HeaderName::from_static("skep-launch");

/// The visitor's address: the peer's, unless that is a trusted proxy; then the last address in the chain that is not.
pub(crate) fn client_ip(peer: IpAddr, trusted_peer: bool, trusted: &[Cidr], headers: &HeaderMap) -> IpAddr {
    if !trusted_peer {
        return peer;
    }
    let mut found = peer;
    let values: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    for word in values.iter().flat_map(|value| value.split(',')).rev() {
        let Some(ip) = parse_address(word.trim()) else { break };
        found = ip;
        if !trusted.iter().any(|range| range.contains(ip)) {
            break;
        }
    }
    found
}

/// An address as proxies write it: bare, with a port, in brackets.
fn parse_address(word: &str) -> Option<IpAddr> {
    let ip = word
        .parse::<IpAddr>()
        .or_else(|_| word.parse::<std::net::SocketAddr>().map(|with_port| with_port.ip()));
    let bare = || word.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    ip.ok().or_else(bare).map(|ip| ip.to_canonical())
}

/// The last word of a forwarded field, as the proxy nearest to us wrote it.
pub(crate) fn last_word<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next().map(str::trim).filter(|word| !word.is_empty())
}

/// A page load: a GET that accepts HTML and, where the browser says what it is doing, navigates.
pub(crate) fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let html = headers
        .get_all(ACCEPT)
        .iter()
        .any(|value| value.as_bytes().windows(9).any(|window| window.eq_ignore_ascii_case(b"text/html")));
    let mode = headers.get(SEC_FETCH_MODE);
    *method == Method::GET && html && mode.is_none_or(|mode| mode == "navigate")
}

/// Words in the names of programs that follow links nobody clicked.
const BOTS: [&str; 8] =
    ["bot/", "bot;", "bot)", "spider", "crawler", "slurp", "facebookexternalhit", "feedfetcher"];

/// A request that must not wake an app: a bot's, or a page the browser loads on a guess.
pub(crate) fn must_not_wake(headers: &HeaderMap) -> bool {
    let guess = headers.get(SEC_PURPOSE).is_some_and(|purpose| purpose.as_bytes().starts_with(b"prefetch"));
    guess || headers.get(USER_AGENT).is_some_and(|agent| names_a_bot(agent.as_bytes()))
}

fn names_a_bot(agent: &[u8]) -> bool {
    let begins = |at: usize, word: &str| {
        agent.get(at..at + word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()))
    };
    // Every page, every request: only where one of their first letters stands is it worth a look.
    let first = |byte: &u8| matches!(byte | 0x20, b'b' | b's' | b'c' | b'f');
    let starts = agent.iter().enumerate().filter(|(_, byte)| first(byte));
    starts.into_iter().any(|(at, _)| BOTS.iter().any(|word| begins(at, word)))
}

/// Every value of the cookie `name`, in the order sent.
pub(crate) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(COOKIE).iter();
    values.flat_map(|value| pairs(value.as_bytes())).filter_map(move |cookie| {
        let value = cookie.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()
    })
}

/// What a `Cookie` field holds, one after the other, without the blanks between.
pub(crate) fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    let ends = memchr::memchr_iter(b';', field).chain([field.len()]);
    ends.map(move |end| {
        let pair = field.get(from..end).unwrap_or_default();
        from = end + 1;
        pair.trim_ascii()
    })
}

/// Whether forwarded headers came along.
fn was_forwarded(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| name == "forwarded" || name == "x-real-ip" || name.as_str().starts_with("x-forwarded-"))
}

/// Without a login only this machine's own names are answered (and those a service is `published` under), and nothing that a
/// proxy we do not know passed on.
///
/// # Errors
/// The refusal.
pub(crate) fn check_host_rule(
    rule: &HostRule,
    host: &Authority,
    published: bool,
    trusted_peer: bool,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    let HostRule::Loopback { also } = rule else { return Ok(()) };
    let local = ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| host.host().eq_ignore_ascii_case(name));
    let named = || {
        also.iter().filter_map(|name| Authority::parse(name)).any(|name| {
            name.host().eq_ignore_ascii_case(host.host()) && (name.port.is_none() || name.port == host.port)
        })
    };
    if !local && !published && !named() {
        let detail = format!(
            "this server has no login and answers to localhost only, not to `{}`; add the name to `server.allowed_hosts`, or set up a login",
            host.as_str()
        );
        return Err(Problem::new(421, "host-not-allowed", detail));
    }
    if !trusted_peer && was_forwarded(headers) {
        let detail = "this server has no login and was reached through a proxy it does not know; add the proxy to `server.trusted_proxies`, or set up a login";
        return Err(Problem::new(403, "untrusted-proxy", detail));
    }
    Ok(())
}

/// Origin, when present, must be ours: on `/_skep/` and on every WebSocket upgrade.
///
/// # Errors
/// The refusal.
pub(crate) fn check_origin(headers: &HeaderMap, host: &Authority, allowed: &[String]) -> Result<(), Problem> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let single = origins.next().is_none();
    let good = origin.to_str().is_ok_and(|origin| origin_matches(origin, host, allowed));
    if single && good {
        return Ok(());
    }
    let detail =
        "this page belongs to another site; add its origin to `allowed_origins` if it may use this app";
    Err(Problem::new(403, "foreign-origin", detail))
}

/// Changes on `/_skep/` must come from a page of ours, or bear a token that no browser sends by itself.
///
/// # Errors
/// The refusal.
pub(crate) fn check_unsafe(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let token = headers.get(AUTHORIZATION).is_some_and(|value| {
        value.as_bytes().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
    });
    let own_site = match headers.get(SEC_FETCH_SITE) {
        Some(site) => site == "same-origin" || site == "none",
        // A browser too old to say it sends `Origin` instead, which has been checked.
        None => headers.contains_key(ORIGIN),
    };
    if token || own_site {
        return Ok(());
    }
    let detail = "changes need a page of this server (`Sec-Fetch-Site: same-origin`) or an API token";
    Err(Problem::new(403, "cross-site", detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn head(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_last_untrusted_address_is_the_client() {
        let trusted: Vec<Cidr> = vec!["10.0.0.0/8".parse().unwrap()];
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (chain, expected) in [
            ("1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1, 10.2.3.4", "1.1.1.1"),
            ("1.1.1.1:4711", "1.1.1.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("evil, 10.0.0.9", "10.0.0.9"),
            ("evil", "10.0.0.1"),
        ] {
            let headers = head(&[("x-forwarded-for", chain)]);
            assert_eq!(client_ip(peer, true, &trusted, &headers).to_string(), expected, "{chain}");
            assert_eq!(client_ip(peer, false, &trusted, &headers), peer);
        }
    }

    #[test]
    fn navigations_are_told_from_the_rest() {
        let html = ("accept", "text/html,*/*");
        for (fields, expected) in [
            (vec![html], true),
            (vec![("accept", "*/*")], false),
            (vec![], false),
            (vec![html, ("sec-fetch-mode", "navigate")], true),
            (vec![html, ("sec-fetch-mode", "cors")], false),
        ] {
            assert_eq!(is_navigation(&Method::GET, &head(&fields)), expected, "{fields:?}");
        }
        assert!(!is_navigation(&Method::POST, &head(&[html])));
        assert!(!is_navigation(&Method::HEAD, &head(&[html])));
    }

    #[test]
    fn bots_and_guesses_wake_nobody() {
        for (name, value, expected) in [
            ("user-agent", "Mozilla/5.0 (compatible; Examplebot/2.1; +http://x)", true),
            ("user-agent", "SomeSpider", true),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Chrome/156 Safari/537.36", false),
            ("user-agent", "Cubot phone", false),
            ("user-agent", "curl/8", false),
            ("sec-purpose", "prefetch;prerender", true),
        ] {
            assert_eq!(must_not_wake(&head(&[(name, value)])), expected, "{value}");
        }
    }

    #[test]
    fn without_a_login_only_this_machine_is_answered() {
        let rule = HostRule::Loopback { also: vec!["lab.example.org".to_owned(), "x.org:81".to_owned()] };
        let check = |host: &str, trusted, fields: &[_]| {
            check_host_rule(&rule, &Authority::parse(host).unwrap(), false, trusted, &head(fields))
                .map_err(|p| p.status)
        };
        for good in
            ["localhost", "LOCALHOST:99", "127.0.0.1:8080", "[::1]:8080", "lab.example.org:7", "x.org:81"]
        {
            assert_eq!(check(good, false, &[]), Ok(()), "{good}");
        }
        for bad in ["evil.org", "localhost.evil.org", "127.0.0.2", "x.org:82", "0.0.0.0"] {
            assert_eq!(check(bad, false, &[]), Err(421), "{bad}");
        }
        assert_eq!(check("localhost", false, &[("x-forwarded-for", "1.1.1.1")]), Err(403));
        assert_eq!(check("localhost", false, &[("forwarded", "for=1.1.1.1")]), Err(403));
        assert_eq!(check("localhost", true, &[("x-forwarded-for", "1.1.1.1")]), Ok(()));
    }

    #[test]
    fn changes_need_our_page_or_a_token() {
        let check = |fields: &[_]| check_unsafe(&Method::POST, &head(fields)).is_ok();
        assert!(check(&[("sec-fetch-site", "same-origin")]));
        assert!(check(&[("sec-fetch-site", "none")]));
        assert!(check(&[("authorization", "Bearer x")]));
        assert!(check(&[("origin", "http://localhost")]));
        assert!(!check(&[("sec-fetch-site", "cross-site"), ("origin", "http://localhost")]));
        assert!(!check(&[("sec-fetch-site", "same-site")]));
        assert!(!check(&[("authorization", "Basic x")]));
        assert!(!check(&[]));
        assert!(check_unsafe(&Method::GET, &head(&[])).is_ok());
    }
}

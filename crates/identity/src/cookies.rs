//! Names and attributes of our cookies, and finding them in a `Cookie` header. Pure.

use crate::seat::SEAT_COOKIE;
use crate::share::SHARE_COOKIE;

/// Which of the two login cookies a request may bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginCookie {
    /// `__Host-skep`: on HTTPS, and on loopback, which browsers trust as much.
    Host,
    /// `skep`, without protection on its way: on plain HTTP when the administrator insists.
    Plain,
}

impl LoginCookie {
    /// What the visitor's connection allows; `None` where a login would travel in the clear and nobody insisted.
    ///
    /// `host`: the name the browser used, without its port.
    pub fn fitting(https: bool, host: &str, insecure_http: bool) -> Option<Self> {
        if https || is_loopback(host) { Some(Self::Host) } else { insecure_http.then_some(Self::Plain) }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "__Host-skep",
            Self::Plain => "skep",
        }
    }

    /// A `Set-Cookie` value. `max_age_s`: `None` for a cookie that ends with the browser.
    pub fn set(self, sealed: &str, max_age_s: Option<i64>) -> String {
        let secure = match self {
            Self::Host => "; Secure",
            Self::Plain => "",
        };
        let mut text = format!("{}={sealed}; Path=/{secure}; HttpOnly; SameSite=Lax", self.name());
        if let Some(seconds) = max_age_s {
            text.push_str(&format!("; Max-Age={}", seconds.max(0)));
        }
        text
    }

    /// A `Set-Cookie` value that removes it.
    pub fn clear(self) -> String {
        self.set("", Some(0))
    }
}

/// Names browsers treat as this very machine (and hence as safe without TLS). `host` without a port.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let named = host.eq_ignore_ascii_case("localhost")
        || host.len() > 10 && host.as_bytes()[host.len() - 10..].eq_ignore_ascii_case(b".localhost");
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    named || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The name of the cookie that tells one browser without a login from another.
pub const GUEST_COOKIE: &str = "skep-guest";

/// The name of the cookie that remembers what somebody chose last before an app started. It is neither sealed nor believed.
pub const CHOICE_COOKIE: &str = "skep-choice";

/// Whether a cookie's name is one of ours: such a cookie never reaches an app, and no app may set one.
pub fn is_ours(name: &str) -> bool {
    [
        LoginCookie::Host.name(),
        LoginCookie::Plain.name(),
        SEAT_COOKIE,
        GUEST_COOKIE,
        SHARE_COOKIE,
        CHOICE_COOKIE,
    ]
    .contains(&name)
}

/// Every value of the cookie `name` in a `Cookie` header, in the order sent.
pub fn values<'a>(header: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    header.split(';').filter_map(move |cookie| {
        let (found, value) = cookie.trim().split_once('=')?;
        (found == name).then_some(value)
    })
}

/// The login page, with the way back: `/_skep/login?to=…`. `target` is the path and query of a request.
pub fn login_path(target: &str) -> String {
    let mut path = "/_skep/login?to=".to_owned();
    for byte in target.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                path.push(char::from(byte))
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// Where to go after the login: `to` if it is a path on this server, else the portal. Never another site: browsers take
/// `//host`, `/\host` and anything with a scheme for one, and drop tabs and line breaks before they look.
pub fn safe_target(to: &str) -> &str {
    let bytes = to.as_bytes();
    let plain = bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\');
    let local = bytes.first() == Some(&b'/') && bytes.get(1) != Some(&b'/');
    // Back to a login page would be a circle.
    let own = to.starts_with("/_skep/login") || to.starts_with("/_skep/logout");
    if plain && local && !own && to.len() <= 4096 { to } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_cookie_fits_the_connection() {
        use LoginCookie::{Host, Plain};
        for (https, host, insecure, expected) in [
            (true, "apps.example.org", false, Some(Host)),
            (true, "apps.example.org", true, Some(Host)),
            (false, "localhost", false, Some(Host)),
            (false, "x.localhost", false, Some(Host)),
            (false, "127.0.0.1", true, Some(Host)),
            (false, "127.1.2.3", false, Some(Host)),
            (false, "[::1]", false, Some(Host)),
            (false, "apps.example.org", false, None),
            (false, "apps.example.org", true, Some(Plain)),
            (false, "localhost.example.org", false, None),
            (false, "notlocalhost", false, None),
            (false, "10.0.0.1", false, None),
            (false, "", false, None),
        ] {
            assert_eq!(LoginCookie::fitting(https, host, insecure), expected, "{https} {host} {insecure}");
        }
    }

    #[test]
    fn attributes_are_those_of_the_contract() {
        assert_eq!(
            LoginCookie::Host.set("abc", None),
            "__Host-skep=abc; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
        assert_eq!(
            LoginCookie::Plain.set("abc", Some(60)),
            "skep=abc; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"
        );
        assert_eq!(
            LoginCookie::Host.clear(),
            "__Host-skep=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"
        );
    }

    #[test]
    fn our_names_are_known() {
        for name in ["__Host-skep", "skep", "skep-seat", "skep-guest", "skep-share", "skep-choice"] {
            assert!(is_ours(name));
        }
        for name in ["skepx", "session", "Skep", ""] {
            assert!(!is_ours(name));
        }
    }

    #[test]
    fn values_are_found() {
        let found: Vec<_> = values("a=1; skep=x;skep=y ; b; skepx=3", "skep").collect();
        assert_eq!(found, ["x", "y"]);
    }

    #[test]
    fn the_way_back_stays_here() {
        for good in ["/", "/sales/", "/sales/?a=1&b=%2F", "/a//b", "/x?to=//evil"] {
            assert_eq!(safe_target(good), good);
        }
        for bad in [
            "",
            "sales",
            "//evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "/\t/evil.example",
            "\t//evil.example",
            "https://evil.example",
            "javascript:alert(1)",
            "/a\r\nSet-Cookie: x=y",
            "/é",
            " /a",
            "/_skep/login?to=/",
            "/_skep/logout",
        ] {
            assert_eq!(safe_target(bad), "/", "{bad:?}");
        }
        assert_eq!(safe_target(&format!("/{}", "a".repeat(5000))), "/");
    }

    #[test]
    fn targets_travel_escaped() {
        assert_eq!(login_path("/a b/?x=1&y=é#"), "/_skep/login?to=/a%20b/%3Fx%3D1%26y%3D%C3%A9%23");
    }

    proptest! {
        /// Whatever is asked for, the answer starts with exactly one slash and holds nothing that ends a header.
        #[test]
        fn no_target_leaves_the_site(to in "[/\\\\a-z:.@\t\r\n?#% ]{0,20}") {
            let target = safe_target(&to);
            prop_assert!(target.starts_with('/') && !target.starts_with("//"));
            prop_assert!(!target.contains(['\\', '\r', '\n', '\t', ' ']));
        }

        #[test]
        fn hostile_headers_are_searched(header in ".{0,200}", name in "[a-z_-]{0,6}") {
            for value in values(&header, &name) {
                prop_assert!(header.contains(value));
            }
            prop_assert!(safe_target(&header).starts_with('/'));
        }
    }
}

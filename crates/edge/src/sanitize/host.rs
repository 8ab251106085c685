//! Host names with ports, as they stand in `Host` and in URLs.

/// A host and, when it was given, a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    text: String,
    /// Where the host ends in `text`.
    host_len: usize,
    pub port: Option<u16>,
}

impl Authority {
    /// `example.org`, `example.org:8080`, `127.0.0.1:80`, `[::1]:8080`. No user, no path, no white space.
    pub fn parse(text: &str) -> Option<Self> {
        let host_len = if let Some(rest) = text.strip_prefix('[') {
            let end = rest.find(']')?;
            rest.get(..end)?.parse::<std::net::Ipv6Addr>().ok()?;
            end + 2
        } else {
            text.find(':').unwrap_or(text.len())
        };
        let (host, port) = text.split_at_checked(host_len)?;
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if host.is_empty() || host.len() > 255 || !(host.starts_with('[') || host.bytes().all(name)) {
            return None;
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            // Something else behind an address in brackets.
            None => return None,
            Some(digits) => {
                let good = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
                Some(digits.parse().ok().filter(|_| good)?)
            }
        };
        Some(Self { text: text.to_owned(), host_len, port })
    }

    /// As given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Without the port.
    pub fn host(&self) -> &str {
        self.text.get(..self.host_len).unwrap_or_default()
    }

    /// Whether both name the same place, a missing port being the scheme's own.
    pub fn same(&self, other: &Self, scheme: &str) -> bool {
        let usual = usual_port(scheme);
        let port = |authority: &Self| authority.port.or(usual);
        self.host().eq_ignore_ascii_case(other.host()) && port(self) == port(other)
    }
}

pub fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// Whether a page of `origin` belongs to `host`: the same host and port, whatever the scheme (a proxy in front of us may
/// have ended TLS), or one of the `allowed` origins.
pub fn origin_matches(origin: &str, host: &Authority, allowed: &[String]) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    let Some(from) = Authority::parse(rest) else { return false };
    if from.same(host, scheme) {
        return true;
    }
    allowed.iter().any(|allowed| {
        allowed.split_once("://").is_some_and(|(allowed_scheme, allowed_rest)| {
            allowed_scheme.eq_ignore_ascii_case(scheme)
                && Authority::parse(allowed_rest.trim_end_matches('/'))
                    .is_some_and(|allowed| allowed.same(&from, scheme))
        })
    })
}

//! Where an ordinary service is published.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Mount;

/// A host name, a path, or both: `shop.example.org`, `/team/shop/`, `shop.example.org/api/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// In lower case, without a port; `None`: every name the server has.
    pub host: Option<String>,
    pub mount: Mount,
}

/// Why a text is no [`Place`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no place to publish at; write `shop.example.org`, `/team/shop/` or `shop.example.org/api/` (parts of a path: a-z, \
     0-9, `_` and `-`, a letter or a digit first, at most 8 of them)"
)]
pub struct BadPlace(pub String);

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let bad = || BadPlace(text.chars().take(80).collect());
        let (host, path) = match text.find('/') {
            Some(slash) => text.split_at(slash),
            None => (text, "/"),
        };
        let host = match host {
            "" if text.is_empty() => return Err(bad()),
            "" => None,
            host => Some(host_name(host).ok_or_else(bad)?),
        };
        Ok(Self { host, mount: Mount::of_path(path).ok_or_else(bad)? })
    }
}

/// In lower case, when it is a host name.
fn host_name(text: &str) -> Option<String> {
    let part = |part: &str| {
        let edges = part.starts_with('-') || part.ends_with('-');
        let plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (1..=63).contains(&part.len()) && plain && !edges
    };
    (text.len() <= 253 && text.split('.').all(part)).then(|| text.to_ascii_lowercase())
}

impl TryFrom<String> for Place {
    type Error = BadPlace;

    fn try_from(text: String) -> Result<Self, BadPlace> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host.as_deref().unwrap_or_default(), self.mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_a_path_or_both() {
        for (text, shown) in [
            ("shop.example.org", "shop.example.org/"),
            ("Shop.Example.org/", "shop.example.org/"),
            ("/shop", "/shop/"),
            ("/shop/", "/shop/"),
            ("/", "/"),
            ("localhost/api/", "localhost/api/"),
            ("/team/shop", "/team/shop/"),
            ("shop.example.org/a/b/", "shop.example.org/a/b/"),
            ("/1/2/3/4/5/6/7/8", "/1/2/3/4/5/6/7/8/"),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), shown);
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for bad in [
            "",
            "//",
            "//shop",
            "/a//b",
            "/a/_b",
            "/a/../b",
            "/a/b//",
            "/1/2/3/4/5/6/7/8/9",
            "shop..org",
            "-shop.org",
            "shop.org:80",
            "a b",
            "/_skep/",
            "/Shop/",
            "h\u{e9}.org",
            "https://shop.org",
            "*.shop.org",
            "/shop//",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}

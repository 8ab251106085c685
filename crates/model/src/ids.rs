//! Identifiers. Each is its own type, so an app id can never be passed where an instance id is meant.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The id of a published app: `[a-z0-9][a-z0-9_-]*`, at most 63 bytes. It is the first path segment of the app's URL.
///
/// Cheap to clone: the text is shared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppId(Arc<str>);

/// Why a text is no app id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an app id: use 1 to 63 of a-z, 0-9, `_` and `-`, starting with a letter or a digit (for example `sales-report`)"
)]
pub struct BadId(pub String);

impl AppId {
    /// The longest id, in bytes. Ids become DNS labels when apps are published on host names of their own.
    pub const MAX_LEN: usize = 63;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id a name makes, as of a folder or in another server's config: lower case, `-` for what cannot stand in an id.
    /// `None`: nothing of the name can.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut id = String::new();
        for c in name.to_lowercase().chars() {
            match c {
                'a'..='z' | '0'..='9' | '_' => id.push(c),
                _ if id.ends_with('-') => {}
                _ => id.push('-'),
            }
        }
        let id: String = id.trim_start_matches(['-', '_']).chars().take(Self::MAX_LEN).collect();
        id.trim_end_matches('-').parse().ok()
    }
}

impl FromStr for AppId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bytes = text.as_bytes();
        let first_ok = bytes.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest_ok =
            bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
        if first_ok && rest_ok && bytes.len() <= Self::MAX_LEN {
            Ok(Self(text.into()))
        } else {
            Err(BadId(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for AppId {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<AppId> for String {
    fn from(id: AppId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One instance of an app, written `<app>.<16 hex digits>`, for example `sales.5f0c2a9be1d40377`.
///
/// The random part is drawn once, when the pool orders the start; file names, container names and labels derive from it,
/// which is what makes a launch idempotent.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    app: AppId,
    nonce: u64,
}

/// Why a text is no instance id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an instance id: expected `<app>.<16 hex digits>`, as `skep ps` prints it")]
pub struct BadInstanceId(pub String);

impl InstanceId {
    pub fn new(app: AppId, nonce: u64) -> Self {
        Self { app, nonce }
    }

    pub fn app(&self) -> &AppId {
        &self.app
    }

    /// The random part alone.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// The random part alone, 16 hex digits: short enough for a Unix socket's path.
    pub fn short(&self) -> String {
        format!("{:016x}", self.nonce)
    }

    /// The instance of `app` whose [`InstanceId::short`] this is.
    pub fn from_short(app: AppId, short: &str) -> Option<Self> {
        let hex = |b: &u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
        if short.len() != 16 || !short.as_bytes().iter().all(hex) {
            return None;
        }
        Some(Self { app, nonce: u64::from_str_radix(short, 16).ok()? })
    }
}

impl FromStr for InstanceId {
    type Err = BadInstanceId;

    fn from_str(text: &str) -> Result<Self, BadInstanceId> {
        let bad = || BadInstanceId(text.chars().take(100).collect());
        let (app, short) = text.rsplit_once('.').ok_or_else(bad)?;
        let app = app.parse().map_err(|_| bad())?;
        Self::from_short(app, short).ok_or_else(bad)
    }
}

impl TryFrom<String> for InstanceId {
    type Error = BadInstanceId;

    fn try_from(text: String) -> Result<Self, BadInstanceId> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.app, self.nonce)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What somebody calls one of their instances of an app: `[a-z0-9][a-z0-9_-]*`, at most 32 bytes. In addresses it follows the
/// app's id and a `~`, which neither can hold.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName(Arc<str>);

/// Why a text is no instance's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot be an instance's name: use 1 to 32 of a-z, 0-9, `_` and `-`, starting with a letter or a digit (for example `north`)"
)]
pub struct BadName(pub String);

impl InstanceName {
    pub const MAX_LEN: usize = 32;
    /// Stands between an app's id and the name.
    pub const SIGN: char = '~';

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name another spelling makes, as somebody types it or another server allowed it: lower case, `-` for what cannot
    /// stand in a name. `None`: nothing of it can.
    pub fn of_text(text: &str) -> Option<Self> {
        let id = AppId::of_name(text)?;
        let short: String = id.as_str().chars().take(Self::MAX_LEN).collect();
        short.trim_end_matches('-').parse().ok()
    }
}

impl FromStr for InstanceName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        // As an id is written, only shorter.
        match text.parse::<AppId>() {
            Ok(id) if text.len() <= Self::MAX_LEN => Ok(Self(id.0)),
            _ => Err(BadName(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for InstanceName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<InstanceName> for String {
    fn from(name: InstanceName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One visitor's place on an instance (or in the line for one). Random, 128 bits; travels only inside the sealed
/// `skep-seat` cookie.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeatId(pub u128);

impl fmt::Display for SeatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SeatId {
    // Enough to follow a seat through a log, too little to guess it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seat-{:08x}", self.0 >> 96)
    }
}

/// One browser without a login. Random, 128 bits; travels only inside a sealed cookie.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GuestId(pub u128);

impl fmt::Display for GuestId {
    // Enough to tell guests apart in a list, too little to pose as one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest-{:08x}", self.0 >> 96)
    }
}

impl fmt::Debug for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_ids_follow_the_contract() {
        for good in ["a", "sales-report", "9lives", "a_b"] {
            assert_eq!(good.parse::<AppId>().unwrap().as_str(), good);
        }
        let long = "a".repeat(64);
        for bad in ["", "_x", "-x", "Sales", "a b", "a/b", "é", "a.b", long.as_str()] {
            assert!(bad.parse::<AppId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_short_ids() {
        for good in ["a", "north-2", "9", "a_b"] {
            assert_eq!(good.parse::<InstanceName>().unwrap().as_str(), good);
        }
        let long = "a".repeat(33);
        for bad in ["", "_x", "-x", "North", "a b", "a~b", "a/b", "a.b", "é", long.as_str()] {
            assert!(bad.parse::<InstanceName>().is_err(), "{bad}");
        }
        let of = |text: &str| InstanceName::of_text(text).map(String::from);
        assert_eq!(of("My Second.One").as_deref(), Some("my-second-one"));
        assert_eq!(of(&"x".repeat(40)), Some("x".repeat(32)));
        assert_eq!(of("_"), None);
        assert_eq!(of("~"), None);
    }

    #[test]
    fn instance_ids_round_trip() {
        let id = InstanceId::new("a_b-c".parse().unwrap(), 0x1f);
        assert_eq!(id.to_string(), "a_b-c.000000000000001f");
        assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
        for bad in ["a", "a.1", "a.000000000000001F", ".0000000000000000", "a.+00000000000001f"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }
}

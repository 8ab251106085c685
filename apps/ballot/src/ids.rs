//! Names and addresses of what ballot deals with: one type per noun, so that none is taken for another.
//!
//! Invariant: a `PollId` or `OptionId` holds 1 to 40 characters of `[a-z0-9_-]` and starts with a letter or digit,
//! so it is safe in a URL, a cookie name, a file name and a page without escaping.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid id: use 1 to 40 of a-z, 0-9, '-' and '_', starting with a letter or digit")]
pub struct BadId(pub String);

/// The longest poll or option id, in bytes.
pub const MAX_ID: usize = 40;

fn valid(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= MAX_ID
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = BadId;
            fn try_from(text: &str) -> Result<Self, BadId> {
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(BadId(text.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                if valid(&text) { Ok(Self(text)) } else { Err(BadId(text)) }
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::try_from(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A poll.
    PollId
}
name! {
    /// One of a poll's options.
    OptionId
}

macro_rules! tag {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Reads the 32 hexadecimal digits that `Display` writes.
            pub fn from_hex(text: &str) -> Option<Self> {
                let bytes = text.as_bytes();
                if bytes.len() != 32 {
                    return None;
                }
                let mut out = [0u8; 16];
                for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                    *slot = (digit(pair[0])? << 4) | digit(pair[1])?;
                }
                Some(Self(out))
            }

            /// The tag held in a database column, if the column holds exactly 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

tag! {
    /// Who voted, as the log and the database know it: a keyed hash of the voter, useless without the poll's key.
    VoterTag
}
tag! {
    /// One ballot, as the published list shows it: a hash of the secret in the voter's receipt.
    BallotTag
}
tag! {
    /// One front's log. It lives as long as the disk it is on, not as long as the process.
    LogId
}

/// The number of a record in its log: the first is 0, and none is left out.
pub type Seq = u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_once() {
        for good in ["pets", "a", "2026-vote_1", "x".repeat(40).as_str()] {
            assert_eq!(PollId::try_from(good).expect("valid").as_str(), good);
        }
        for bad in ["", "Pets", "-a", "_a", "a/b", "a b", "é", "x".repeat(41).as_str(), "a\0"] {
            assert!(PollId::try_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tags_survive_hex() {
        let tag = LogId([0xab; 16]);
        assert_eq!(LogId::from_hex(&tag.to_string()), Some(tag));
        assert_eq!(LogId::from_hex("abc"), None);
        assert_eq!(LogId::from_hex(&"zz".repeat(16)), None);
    }
}

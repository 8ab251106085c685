//! Who asks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::GuestId;

/// A user's login name: 1 to 128 visible characters, no control characters, no white space at its ends.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = !text.is_empty()
            && text.chars().count() <= 128
            && text.trim() == text
            && !text.chars().any(char::is_control);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err("a user name has 1 to 128 characters, none of them control characters, no white space at its ends"
                .to_owned())
        }
    }
}

impl TryFrom<String> for UserName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Who a request comes from, once admitted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Principal {
    /// No login is configured, or the app is open to anyone and nobody is logged in.
    #[default]
    Anonymous,
    /// As `Anonymous`, told apart from others by a cookie of its own: for apps that run one instance per visitor.
    Guest(GuestId),
    /// A logged-in user and the groups the policy knows.
    User { name: UserName, groups: Vec<String> },
}

impl Principal {
    /// The user who is logged in.
    pub fn user(&self) -> Option<&UserName> {
        match self {
            Self::User { name, .. } => Some(name),
            Self::Anonymous | Self::Guest(_) => None,
        }
    }
}

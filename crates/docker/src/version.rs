//! Which version of the API to speak.

use std::fmt;
use std::str::FromStr;

/// `1.41`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    pub major: u16,
    pub minor: u16,
}

/// The oldest version this crate's calls exist in (Docker 20.10).
pub(crate) const LEAST: ApiVersion = ApiVersion { major: 1, minor: 41 };
/// The newest version whose changes were looked at.
pub(crate) const OURS: ApiVersion = ApiVersion { major: 1, minor: 47 };

/// Why there is no version both sides speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoCommonVersion {
    TooOld(ApiVersion),
    TooNew(ApiVersion),
}

/// The newest version both sides speak.
pub(crate) fn negotiate(
    newest: ApiVersion,
    oldest: Option<ApiVersion>,
) -> Result<ApiVersion, NoCommonVersion> {
    let chosen = newest.min(OURS);
    if chosen < LEAST {
        return Err(NoCommonVersion::TooOld(newest));
    }
    match oldest {
        Some(oldest) if oldest > chosen => Err(NoCommonVersion::TooNew(oldest)),
        _ => Ok(chosen),
    }
}

impl FromStr for ApiVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Self { major: major.parse().map_err(|_| ())?, minor: minor.parse().map_err(|_| ())? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        let v = |text: &str| text.parse::<ApiVersion>().unwrap();
        assert_eq!(negotiate(v("1.41"), Some(v("1.12"))), Ok(v("1.41")));
        assert_eq!(negotiate(v("1.60"), Some(v("1.44"))), Ok(OURS));
        assert_eq!(negotiate(v("1.60"), None), Ok(OURS));
        assert_eq!(negotiate(v("1.40"), Some(v("1.12"))), Err(NoCommonVersion::TooOld(v("1.40"))));
        assert_eq!(negotiate(v("2.1"), Some(v("2.0"))), Err(NoCommonVersion::TooNew(v("2.0"))));
        for bad in ["", "1", "1.", "a.b", "1.4.1", "-1.4", "1.99999999"] {
            assert!(bad.parse::<ApiVersion>().is_err(), "{bad}");
        }
    }
}

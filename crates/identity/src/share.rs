//! The link with which somebody lets others onto an instance of theirs, and what a guest's browser keeps of it.
//!
//! Neither lets anybody in by itself: what an owner shares at the moment is in [`crate::Admission`], and the rules of the app
//! hold for guests as for everybody.

use skep_model::{AppId, InstanceId, InstanceName, Principal};

use crate::keyring::{IdentityError, KeyRing};
use crate::sealer::Sealer;

/// The cookie's name. A browser is a guest of one instance at a time.
pub const SHARE_COOKIE: &str = "skep-share";

/// What is shared, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub instance: InstanceId,
    /// The instance's own name: it is part of its address.
    pub name: Option<InstanceName>,
    /// Of this sharing, milliseconds since the Unix epoch: a link of an earlier one of the same instance is void.
    pub since_ms: i64,
}

impl Share {
    pub fn is_at(&self, app: &AppId, name: Option<&InstanceName>) -> bool {
        self.instance.app() == app && self.name.as_ref() == name
    }
}

/// Where a sealed share is found: one cannot stand in for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareIn<'a> {
    Link,
    /// The cookie of this guest. Nobody else's opens: taken to another browser, or left there by somebody else, it is
    /// worth nothing.
    Cookie(&'a Principal),
}

/// Seals and opens shares.
#[derive(Debug, Clone)]
pub struct ShareSealer(Sealer);

impl ShareSealer {
    pub fn new(ring: &KeyRing) -> Self {
        Self(ring.sealer(SHARE_COOKIE))
    }

    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn seal(&self, place: ShareIn<'_>, share: &Share) -> Result<String, IdentityError> {
        let name = share.name.as_ref().map_or("", InstanceName::as_str);
        let plain = format!("{} {} {name}", share.since_ms, share.instance);
        self.0.seal(&place.context(), plain.as_bytes())
    }

    pub fn open(&self, place: ShareIn<'_>, text: &str) -> Option<Share> {
        let plain = String::from_utf8(self.0.open(&place.context(), text)?).ok()?;
        let mut parts = plain.splitn(3, ' ');
        let since_ms = parts.next()?.parse().ok()?;
        let instance = parts.next()?.parse().ok()?;
        let name = match parts.next()? {
            "" => None,
            name => Some(name.parse().ok()?),
        };
        Some(Share { instance, name, since_ms })
    }
}

impl ShareIn<'_> {
    fn context(self) -> String {
        match self {
            Self::Link => "link".to_owned(),
            Self::Cookie(Principal::User { name, .. }) => format!("cookie user {name}"),
            Self::Cookie(Principal::Guest(id)) => format!("cookie guest {:032x}", id.0),
            Self::Cookie(Principal::Anonymous) => "cookie nobody".to_owned(),
        }
    }
}

/// A `Set-Cookie` value. An empty one, with no time left, removes it.
pub fn share_cookie(sealed: &str, https: bool, max_age_s: i64) -> String {
    let secure = if https { "; Secure" } else { "" };
    format!("{SHARE_COOKIE}={sealed}; Path=/{secure}; HttpOnly; SameSite=Lax; Max-Age={}", max_age_s.max(0))
}

#[cfg(test)]
mod tests {
    use skep_model::GuestId;

    use super::*;

    fn share(name: Option<&str>) -> Share {
        let instance = InstanceId::new("sales".parse().unwrap(), 7);
        Share { instance, name: name.map(|name| name.parse().unwrap()), since_ms: 1_790_000_000_000 }
    }

    #[test]
    fn shares_round_trip_in_their_place_only() {
        let sealer = ShareSealer::new(&KeyRing::ephemeral().unwrap());
        let user = |name: &str, groups: &[String]| Principal::User {
            name: name.parse().unwrap(),
            groups: groups.into(),
        };
        // Groups change; whose the cookie is does not.
        let (ada, ada_later) = (user("ada", &[]), user("ada", &["staff".to_owned()]));
        let (bob, guest) = (user("bob", &[]), Principal::Guest(GuestId(7)));
        let (like, nobody) = (Principal::Guest(GuestId(7 | 1 << 80)), Principal::Anonymous);
        let places = [&ada, &bob, &guest, &like, &nobody].map(ShareIn::Cookie);
        let places = [places.as_slice(), &[ShareIn::Link]].concat();
        let text = sealer.seal(ShareIn::Cookie(&ada), &share(None)).unwrap();
        assert_eq!(sealer.open(ShareIn::Cookie(&ada_later), &text), Some(share(None)));
        for share in [share(None), share(Some("north"))] {
            for place in places.iter().copied() {
                let text = sealer.seal(place, &share).unwrap();
                assert_eq!(sealer.open(place, &text), Some(share.clone()));
                for other in places.iter().copied().filter(|other| *other != place) {
                    assert_eq!(sealer.open(other, &text), None, "{place:?} opens as {other:?}");
                }
                let foreign = ShareSealer::new(&KeyRing::ephemeral().unwrap());
                assert_eq!(foreign.open(place, &text), None);
                let mut forged = text.clone();
                forged.replace_range(20..21, if &text[20..21] == "A" { "B" } else { "A" });
                assert_eq!(sealer.open(place, &forged), None);
            }
        }
        let app = "sales".parse().unwrap();
        assert!(share(None).is_at(&app, None) && !share(Some("north")).is_at(&app, None));
        assert!(!share(None).is_at(&"other".parse().unwrap(), None));
    }

    #[test]
    fn sealed_nonsense_is_no_share() {
        let ring = KeyRing::ephemeral().unwrap();
        let sealer = ShareSealer::new(&ring);
        for plain in [
            "",
            "1",
            "1 sales.0000000000000007",
            "x sales.0000000000000007 ",
            "1 sales ",
            "1 sales.0000000000000007 No",
        ] {
            let text = ring.seal(SHARE_COOKIE, "link", plain.as_bytes()).unwrap();
            assert_eq!(sealer.open(ShareIn::Link, &text), None, "{plain}");
        }
    }

    #[test]
    fn the_cookie_is_kept_from_scripts_and_other_sites() {
        assert_eq!(
            share_cookie("x", true, 60),
            "skep-share=x; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=60"
        );
        assert_eq!(share_cookie("", false, -1), "skep-share=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    }
}

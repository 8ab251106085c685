//! Visitors without a login, told apart by a sealed cookie of their browser: for apps that run one instance per visitor.

use skep_model::GuestId;

use crate::cookies::GUEST_COOKIE;
use crate::keyring::{IdentityError, KeyRing, random};
use crate::sealer::Sealer;

/// How long a browser keeps its identity, seconds: as long as browsers keep anything.
const MAX_AGE_S: u32 = 400 * 24 * 3600;

/// Seals and opens guest cookies.
#[derive(Debug, Clone)]
pub struct GuestSealer(Sealer);

impl GuestSealer {
    pub fn new(ring: &KeyRing) -> Self {
        Self(ring.sealer(GUEST_COOKIE))
    }

    pub fn open(&self, text: &str) -> Option<GuestId> {
        let plain = self.0.open("", text)?;
        Some(GuestId(u128::from_be_bytes(plain.try_into().ok()?)))
    }

    /// A new guest and the `Set-Cookie` value that makes the browser remember it.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn welcome(&self, https: bool) -> Result<(GuestId, String), IdentityError> {
        let id: [u8; 16] = random()?;
        let sealed = self.0.seal("", &id)?;
        let secure = if https { "; Secure" } else { "" };
        let cookie =
            format!("{GUEST_COOKIE}={sealed}; Path=/{secure}; HttpOnly; SameSite=Lax; Max-Age={MAX_AGE_S}");
        Ok((GuestId(u128::from_be_bytes(id)), cookie))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_comes_back_as_the_same_guest() {
        let ring = KeyRing::ephemeral().unwrap();
        let sealer = GuestSealer::new(&ring);
        let (id, cookie) = sealer.welcome(true).unwrap();
        let value = cookie.strip_prefix("skep-guest=").and_then(|rest| rest.split(';').next()).unwrap();
        assert_eq!(sealer.open(value), Some(id));
        assert!(cookie.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=34560000"), "{cookie}");
        assert!(!sealer.welcome(false).unwrap().1.contains("Secure"));
        assert_ne!(sealer.welcome(true).unwrap().0, id);
        assert_eq!(GuestSealer::new(&KeyRing::ephemeral().unwrap()).open(value), None);
        for plain in [&b""[..], b"short", &[0; 17]] {
            assert_eq!(sealer.open(&ring.seal(GUEST_COOKIE, "", plain).unwrap()), None);
        }
    }
}

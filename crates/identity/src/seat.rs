//! What the `skep-seat` cookie says: which seat, and on which instance once there is one.

use std::borrow::Cow;

use skep_model::{AppId, InstanceId, InstanceName, SeatId};

use crate::keyring::{IdentityError, KeyRing};
use crate::sealer::Sealer;

/// The cookie's name. Its path is the app's mount path.
pub const SEAT_COOKIE: &str = "skep-seat";

/// A seat as the visitor carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatCookie {
    pub seat: SeatId,
    pub instance: Option<InstanceId>,
}

/// Seals and opens seat cookies. The app's id, and the name of the visitor's instance where it has one, are authenticated with
/// it, so a cookie of one address opens for no other.
#[derive(Debug, Clone)]
pub struct SeatSealer(Sealer);

impl SeatSealer {
    pub fn new(ring: &KeyRing) -> Self {
        Self(ring.sealer(SEAT_COOKIE))
    }

    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn seal(
        &self,
        app: &AppId,
        name: Option<&InstanceName>,
        cookie: &SeatCookie,
    ) -> Result<String, IdentityError> {
        let mut plain = Vec::with_capacity(32);
        plain.extend_from_slice(&cookie.seat.0.to_be_bytes());
        if let Some(instance) = &cookie.instance {
            plain.extend_from_slice(instance.short().as_bytes());
        }
        self.0.seal(&address(app, name), &plain)
    }

    pub fn open(&self, app: &AppId, name: Option<&InstanceName>, text: &str) -> Option<SeatCookie> {
        let plain = self.0.open(&address(app, name), text)?;
        let (seat, instance) = plain.split_at_checked(16)?;
        let seat = SeatId(u128::from_be_bytes(seat.try_into().ok()?));
        let instance = match instance {
            [] => None,
            short => Some(InstanceId::from_short(app.clone(), std::str::from_utf8(short).ok()?)?),
        };
        Some(SeatCookie { seat, instance })
    }
}

/// What a seat belongs to: `sales`, or `sales~north`.
fn address<'a>(app: &'a AppId, name: Option<&InstanceName>) -> Cow<'a, str> {
    match name {
        None => Cow::Borrowed(app.as_str()),
        Some(name) => Cow::Owned(format!("{app}{}{name}", InstanceName::SIGN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cookies_round_trip(seat in any::<u128>(), nonce in proptest::option::of(any::<u64>())) {
            let app: AppId = "sales".parse().unwrap();
            let sealer = SeatSealer::new(&KeyRing::ephemeral().unwrap());
            let instance = nonce.map(|nonce| InstanceId::new(app.clone(), nonce));
            let cookie = SeatCookie { seat: SeatId(seat), instance };
            let text = sealer.seal(&app, None, &cookie).unwrap();
            prop_assert!(text.len() < 130, "{}", text.len());
            prop_assert_eq!(sealer.open(&app, None, &text), Some(cookie.clone()));
            prop_assert_eq!(sealer.open(&"other".parse().unwrap(), None, &text), None);
            let (north, south) = ("north".parse().unwrap(), "south".parse().unwrap());
            prop_assert_eq!(sealer.open(&app, Some(&north), &text), None);
            let named = sealer.seal(&app, Some(&north), &cookie).unwrap();
            prop_assert_eq!(sealer.open(&app, Some(&north), &named), Some(cookie));
            prop_assert_eq!(sealer.open(&app, Some(&south), &named), None);
            prop_assert_eq!(sealer.open(&app, None, &named), None);
        }

        #[test]
        fn sealed_nonsense_is_no_seat(plain in proptest::collection::vec(any::<u8>(), 0..40)) {
            let ring = KeyRing::ephemeral().unwrap();
            let app: AppId = "sales".parse().unwrap();
            let text = ring.seal(SEAT_COOKIE, "sales", &plain).unwrap();
            if let Some(cookie) = SeatSealer::new(&ring).open(&app, None, &text) {
                prop_assert!(plain.len() == 16 || (plain.len() == 32 && cookie.instance.is_some()));
            }
        }
    }
}

//! Sealed cookies: state that travels with the visitor, unreadable and unforgeable.
//!
//! A [`KeyRing`] holds the keys (a file that several Skeps may share), [`Sealer`] seals and opens for one purpose, and
//! [`SeatCookie`] is what the `skep-seat` cookie says. Invariants: a text opens only under the name and the context it
//! was sealed for; whatever does not open is `None`, without a reason an attacker could learn from; no key ever appears
//! in `Debug` output.
//!
//! Absent on purpose: expiry (it belongs into the sealed content of whoever needs it), session stores, passwords.

mod keyring;
mod seat;
mod subkey;

pub use keyring::{IdentityError, KeyRing, MAX_KEYS, Sealer};
pub use seat::{SEAT_COOKIE, SeatCookie, SeatSealer};

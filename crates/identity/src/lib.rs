//! Who asks, and what they may do: sealed cookies, sessions, passwords, permissions.
//!
//! A [`KeyRing`] holds the keys (a file that several Skeps may share), [`Sealer`] seals and opens for one purpose,
//! [`SeatCookie`] is what the `skep-seat` cookie says and [`Session`] what the login cookie says. [`Policy`] decides who
//! may do what; [`Admission`] is the snapshot of it all that event loops admit requests with. [`Passwords`] and
//! [`Throttle`] serve the login of local users.
//!
//! Invariants: a text opens only under the name and the context it was sealed for; whatever does not open is `None`,
//! without a reason an attacker could learn from; no key and no password ever appears in `Debug` output. Everything but
//! reading the key ring, drawing random numbers and hashing passwords is pure: time is an argument.
//!
//! Absent on purpose: session stores, SQL, HTTP.

pub mod admission;
pub mod cookies;
mod guest;
mod keyring;
mod local;
mod opened;
mod permission;
mod policy;
mod sealer;
mod seat;
mod session;
mod share;
mod subkey;
pub mod throttle;
mod token;

pub use admission::{Admission, Admitted, Person, Sharing};
pub use cookies::{CHOICE_COOKIE, GUEST_COOKIE, LoginCookie};
pub use guest::GuestSealer;
pub use keyring::{IdentityError, KeyRing, MAX_KEYS, TakenUp};
pub use local::{MAX_PASSWORD, MIN_PASSWORD, Passwords, Verdict, WeakPassword, check_choice, cores};
pub use permission::{Permission, Permissions, Role};
pub use policy::{Decision, Gives, Grant, Grantee, Object, Policy, Scope, Why, WhyNot, fold};
pub use sealer::{SealedBy, Sealer};
pub use seat::{SEAT_COOKIE, SeatCookie, SeatSealer};
pub use session::{Opened, Session, SessionId, SessionRules, SessionSealer};
pub use share::{SHARE_COOKIE, Share, ShareIn, ShareSealer, share_cookie};
pub use throttle::{Throttle, ThrottleRules};
pub use token::LinkToken;

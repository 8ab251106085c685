//! The nouns every other crate shares: ids, what is published, who asks, what happened.
//!
//! Nothing here performs I/O, reads a clock or knows an async runtime; that is what keeps this crate at the bottom of the
//! dependency graph and lets the decision-making cores (`launch::pool`, `edge::routes`) stay pure.

mod app;
mod event;
mod framework;
mod ids;
mod image;
mod principal;
mod secret;

pub use app::{
    Access, AppSpec, BackendKind, Bound, Health, Hold, Limits, Mount, Revision, SecretFile, Source,
    default_start_timeout,
};
pub use event::{Event, EventKind};
pub use framework::{Framework, Prefix};
pub use ids::{AppId, BadId, BadInstanceId, GuestId, InstanceId, SeatId};
pub use image::{BindMount, Image, Pull};
pub use principal::{Principal, UserName};
pub use secret::Secret;

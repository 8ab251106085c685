//! The nouns every other crate shares: ids, what is published, who asks, what happened.
//!
//! Nothing here performs I/O, reads a clock or knows an async runtime; that is what keeps this crate at the bottom of the
//! dependency graph and lets the decision-making cores (`launch::pool`, `edge::routes`) stay pure.

mod app;
mod event;
mod framework;
mod icon;
mod ids;
mod image;
mod parameter;
mod place;
mod principal;
mod secret;
mod variant;

pub use app::{
    Access, AppSpec, BackendKind, Bound, Health, Hold, Limits, Mount, Revision, SecretFile, Source,
    default_start_timeout,
};
pub use event::{Event, EventKind};
pub use framework::{Framework, Prefix};
pub use icon::{Icon, RemoteImage, names_image};
pub use ids::{AppId, BadId, BadInstanceId, BadName, GuestId, InstanceId, InstanceName, SeatId};
pub use image::{BindMount, ConfigFile, Gpus, Image, Placement, Pull, Reserve, Volume};
pub use parameter::{
    BadChoice, Choice, Parameter, ParameterSet, ParameterValue, Parameters, fill_in, named_in,
};
pub use place::{BadPlace, Place};
pub use principal::{Principal, UserName};
pub use secret::Secret;
pub use variant::Variant;

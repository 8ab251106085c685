//! People and reconcilers: the portal, the launch page, the API, and the task that keeps the journal.
//!
//! The edge sends here what it does not answer itself ([`Control::serve`]); the command line and monitoring come through
//! listeners of their own ([`Control::serve_admin`], [`Control::serve_metrics`]). What a visitor may do and what an
//! operator may do differ by the router a request came through, never by anything the request says.
//!
//! Absent on purpose: decisions about instances (`launch`), SQL (`store`), cookies (`edge`, `identity`).

mod api;
mod choose;
mod control;
mod follow;
mod former;
mod health;
mod login;
mod mine;
mod personal;
mod portal;
mod reconcile;
mod rights;
mod roster;
mod router;
pub mod services;
mod share;
mod streams;
pub mod terminal;
mod ui;

pub use api::ServerOrder;
pub use control::{Control, ControlConfig, Deps};
pub use login::{LoginConfig, LoginDeps};
pub use portal::{PortalConfig, PortalSection};
pub use roster::{Invitation, Newcomer, Roster, RosterError, UserView};

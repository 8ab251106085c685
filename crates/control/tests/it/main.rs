//! The control plane over the real launcher, a fake backend and a real store.

#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod api;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod choosing;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod launching;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod login;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod pages;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod personal;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod record;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod sharing;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod world;

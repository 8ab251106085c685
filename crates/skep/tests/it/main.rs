//! The binary as its users meet it: started for real, spoken to over HTTP, its commands and its control socket.
//!
//! Apps are tiny Python servers run through `command`, so that a start takes a tenth of a second and needs nothing
//! installed but `python3`. `SKEP_TEST_FULL=1` runs the long versions (100 upgrades, 1,000 visits).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and figures are printed"
)]

mod bad_apps;
mod cli;
mod config;
mod containers;
#[path = "../../../docker/tests/it/daemon.rs"]
mod daemon;
mod engine_crash;
mod lease;
mod live;
mod login;
mod many;
#[path = "../../../store/tests/it/ports.rs"]
mod ports;
mod shinyproxy;
mod survive;
mod test_app;
mod upgrade;
mod visits;
mod web;

/// A number that is larger when the long versions are asked for.
fn scaled(usual: usize, full: usize) -> usize {
    if std::env::var_os("SKEP_TEST_FULL").is_some() { full } else { usual }
}

//! The launcher from outside: the driver with a backend that runs little servers in this process, and the pool's
//! simulation.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails here"
)]

mod fake;
mod launching;
mod living;
mod own;
mod simulation;

//! Integration tests: against a Docker Engine of their own, and against engines that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod containers;
mod daemon;
mod hostile;
mod images;
mod registry;
mod swarm;
mod tls;

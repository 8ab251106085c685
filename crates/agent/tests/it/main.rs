//! Integration tests: a desk, agents, and a Docker Engine of their own that is a Swarm of one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod calls;
#[path = "../../../docker/tests/it/daemon.rs"]
mod daemon;
mod doors;
mod enrolment;
mod outage;
mod spool;
mod stage;

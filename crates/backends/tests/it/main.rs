//! Integration tests: real processes under real shims, real containers of a real Docker Engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on fails

mod containers;
mod course;
#[path = "../../../docker/tests/it/daemon.rs"]
mod daemon;
mod environments;
mod examples;
mod frameworks;
mod hard;
mod outlive;
#[path = "../../../docker/tests/it/registry.rs"]
mod registry;
mod secrets;
mod spec;
mod stage;
mod swarm;

//! Integration tests: real processes under real shims.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on fails

mod course;
mod environments;
mod examples;
mod frameworks;
mod hard;
mod outlive;
mod secrets;
mod spec;
mod stage;

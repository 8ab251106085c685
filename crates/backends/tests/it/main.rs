//! Integration tests: real processes under real shims.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on fails

mod course;
mod hard;
mod spec;
mod stage;

//! Integration tests of ballot.
#![cfg(not(feature = "sim"))]
// Tests say what went wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod spool;

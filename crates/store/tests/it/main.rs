//! The store on both engines: every test of `journal.rs`, `people.rs` and `lease.rs` runs on a SQLite file and on a private PostgreSQL server.

#[allow(clippy::unwrap_used, reason = "tests fail by panicking, in their helpers too")]
#[macro_use]
mod journal;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod lease;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod people;
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod ports;
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
mod postgres;
mod sqlite;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tls;

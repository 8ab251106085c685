//! The launcher from outside: the driver with a backend that runs little servers in this process, and the pool's
//! simulation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails here")]
#![allow(dead_code, reason = "the fake backend can do more than is asked of it so far")]

mod fake;
mod launching;

//! What Skep exposes about itself.

#[allow(clippy::unwrap_used, reason = "tests fail by panicking, in their helpers too")]
mod catalog;
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]
mod exposition;
mod parser;

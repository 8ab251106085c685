//! The server's own log: lines on stderr, filtered by `RUST_LOG` (`info` when unset; `skep_launch=debug,info` and the like).

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("RUST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let json = std::env::var_os("SKEP_LOG_FORMAT").is_some_and(|format| format == "json");
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // Whoever has set a subscriber already keeps it.
    let _ = match json {
        true => lines.json().try_init(),
        false => lines.with_ansi(io::stderr().is_terminal()).try_init(),
    };
}

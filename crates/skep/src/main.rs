//! Skep, the binary: command line, config, and the wiring of the parts.
//!
//! `skep shim` is looked for before anything else: it must stay a tiny process without threads or a runtime. Everything
//! else goes through [`cli`]; [`serve`] is the only place where the parts are put together.

mod cli;
mod config;
mod data_dir;
mod import;
mod init;
mod logging;
mod serve;
mod systemd;
mod upgrade;
mod watch;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "shim") {
        return skep_backends::process::shim::run(args);
    }
    cli::run()
}

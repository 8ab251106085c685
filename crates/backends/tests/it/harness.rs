//! A program for the integration tests: `shim` is what `skep shim` is; `serve` is a server that can be killed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a part of the tests, though a program of its own"
)]

mod spec;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use skep_backends::process::{ProcessBackend, ProcessConfig, shim};
use skep_launch::{Backend, LaunchOrder, ProgressSink};
use skep_model::InstanceId;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|a| a.to_str()) {
        Some("shim") => shim::run(args),
        Some("serve") => serve(args.map(|a| a.into_string().unwrap()).collect()),
        _ => ExitCode::from(2),
    }
}

/// `serve DATA APP-FOLDER COUNT COMMAND…`: launches that many instances, prints each id and process id, then waits to be
/// killed.
#[allow(clippy::print_stdout)]
fn serve(args: Vec<String>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let (events, _kept) = tokio::sync::mpsc::channel(16);
        let config = ProcessConfig::new(PathBuf::from(&args[0]), std::env::current_exe().unwrap());
        let backend = ProcessBackend::open(config, events).unwrap();
        let mut spec = spec::command_spec(PathBuf::from(&args[1]).as_path(), &[]);
        spec.command = Some(args[3..].to_vec());
        let spec = Arc::new(spec);
        for nonce in 0..args[2].parse::<u64>().unwrap() {
            // Unlike any other test's: processes and control groups are told apart by it.
            let id = InstanceId::new(spec.id.clone(), u64::from(std::process::id()) << 32 | nonce);
            let order = LaunchOrder {
                id: id.clone(),
                spec: Arc::clone(&spec),
                owner: None,
                variant: skep_model::Variant::default(),
            };
            let launched = backend.launch(order, ProgressSink::new(|_| {})).await.unwrap();
            println!("{id} {}", launched.pid.unwrap());
        }
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

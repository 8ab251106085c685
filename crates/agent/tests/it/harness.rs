//! A program for the integration tests: an agent that can be killed. `SERVER SOCKET SECRET SPOOL-DIR SPOOL-BYTES`

#![allow(clippy::unwrap_used, reason = "a part of the tests, though a program of its own")]

use std::process::ExitCode;

use skep_agent::{Agent, AgentConfig, JoinSecret};
use skep_docker::{Address, Engine};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, socket, secret, spool, bytes] = args.as_slice() else { return ExitCode::from(2) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut config =
        AgentConfig::new(JoinSecret::new(secret).unwrap(), Engine::new(Address::unix(socket.as_str())));
    config.servers = vec![server.clone()];
    config.spool_dir = Some(spool.into());
    config.spool_bytes = bytes.parse().unwrap();
    match runtime.block_on(Agent::new(config).run(CancellationToken::new())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

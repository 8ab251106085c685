//! `skep agent`: what runs on every node of a Swarm.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use skep_agent::{AGENT_PORT, Agent, AgentConfig, Allow, JoinSecret};
use skep_docker::{Address, Engine};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::logging;
use crate::serve::raise_file_limit;

/// Where Docker puts the secret `skep_join` of a service.
const SECRET_FILE: &str = "/run/secrets/skep_join";
const SOCKET: &str = "unix:///var/run/docker.sock";

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// A server to call in at; of several, whichever answers first [default: the Swarm's managers]
    #[arg(long, value_name = "HOST:PORT")]
    server: Vec<String>,
    /// The agents' port of the Swarm's managers
    #[arg(long, value_name = "PORT", default_value_t = AGENT_PORT)]
    port: u16,
    /// The secret that agents and server share
    #[arg(long, value_name = "FILE", default_value = SECRET_FILE)]
    join_secret_file: PathBuf,
    /// This node's Docker Engine
    #[arg(long, value_name = "ADDRESS", default_value = SOCKET)]
    docker: Address,
    /// Where events are kept that no server has taken yet [default: in memory]
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    /// What the server may ask for: of dial, logs, stats, exec, inspect, pull and events [default: all]
    #[arg(long, value_name = "LIST")]
    allow: Option<Allow>,
    /// The Swarm task the agent runs as (`{{.Task.ID}}` in the service's environment)
    #[arg(long, value_name = "ID", env = "SKEP_TASK_ID")]
    task_id: Option<String>,
    /// Try once whether a server takes the agent in, and say what stands in the way
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    logging::start();
    raise_file_limit();
    let mut config =
        AgentConfig::new(JoinSecret::from_file(&args.join_secret_file)?, Engine::new(args.docker));
    config.servers = args.server;
    config.port = args.port;
    config.spool_dir = args.spool_dir;
    config.allow = args.allow.unwrap_or_else(Allow::all);
    config.task = args.task_id.filter(|id| !id.is_empty());
    let agent = Agent::new(config);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().thread_name("skep-agent").enable_all().build()?;
    let outcome = runtime.block_on(async {
        if args.check {
            let server = agent.check().await?;
            writeln!(io::stdout(), "the server at {server} takes this node's agent in")?;
            return Ok(());
        }
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("signals cannot be listened for")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be listened for")?;
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stopping.cancel();
        });
        agent.run(stop).await.map_err(anyhow::Error::from)
    });
    // What still waits for a disk or an engine is not waited for.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

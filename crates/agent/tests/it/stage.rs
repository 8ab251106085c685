//! What every test needs: a desk, an agent of the node, and containers.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use skep_agent::{Agent, AgentConfig, Desk, DeskConfig, JoinSecret};
use skep_docker::{Address, Engine, Kind, Managers};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::daemon::{Daemon, daemon, until};

pub(crate) const SECRET: &str = "correct horse battery staple";

pub(crate) fn secret() -> JoinSecret {
    JoinSecret::new(SECRET).unwrap()
}

/// The engine, a Swarm of one, and its node's id. Enters its network.
pub(crate) fn swarm() -> (&'static Daemon, &'static str) {
    static NODE: OnceLock<String> = OnceLock::new();
    let daemon = daemon();
    daemon.enter();
    let node = NODE.get_or_init(|| {
        let body = json!({ "ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1:2377" }).to_string();
        let headers = ["Content-Type: application/json"];
        let (status, said) = daemon.ask("POST", "/swarm/init", &headers, body.into_bytes());
        assert_eq!(status, 200, "{said}");
        serde_json::from_str(&said).unwrap()
    });
    (daemon, node)
}

pub(crate) fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    // One for all: a new one asks for the engine's version first.
    ENGINE.get_or_init(|| Engine::new(Address::unix(daemon().socket()))).clone()
}

/// Held by whoever makes many events: an engine remembers no more than 256 of them, of everybody together, for who asks
/// what happened meanwhile.
pub(crate) async fn many_events() -> tokio::sync::MutexGuard<'static, ()> {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ONE.lock().await
}

/// A server, as far as agents see it.
pub(crate) struct Server {
    pub(crate) desk: Desk,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(config: DeskConfig) -> Self {
        // None of those the kernel gives out: nobody else has it until a server is started anew there.
        static PORT: AtomicU16 = AtomicU16::new(10_000);
        let next = async || TcpListener::bind(("127.0.0.1", PORT.fetch_add(1, Ordering::Relaxed))).await.ok();
        Self::on(config, until("a port is free", next).await)
    }

    pub(crate) async fn start_at(config: DeskConfig, address: SocketAddr) -> Self {
        let listener = until("the port is free again", async || TcpListener::bind(address).await.ok());
        Self::on(config, listener.await)
    }

    fn on(config: DeskConfig, listener: TcpListener) -> Self {
        let desk = Desk::new(config).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (serving, stopping) = (desk.clone(), stop.clone());
        let serving = tokio::spawn(async move { serving.serve(listener, stopping).await });
        Self { desk, address, stop, serving }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }

    /// Waits until the node's agent is there.
    pub(crate) async fn sees(&self, node: &str) {
        let mut nodes = self.desk.nodes();
        let seen = tokio::time::timeout(Duration::from_secs(90), nodes.wait_for(|all| all.contains(node)));
        seen.await.expect("the agent never came").unwrap();
    }

    /// Waits until it is gone, and answers how long that took.
    pub(crate) async fn loses(&self, node: &str) -> Duration {
        let begun = Instant::now();
        let mut nodes = self.desk.nodes();
        let seen = tokio::time::timeout(Duration::from_secs(90), nodes.wait_for(|all| !all.contains(node)));
        seen.await.expect("the agent never went").unwrap();
        begun.elapsed()
    }
}

/// A server, an agent of it, and containers of an installation of their own.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) node: &'static str,
    pub(crate) install: String,
    pub(crate) engine: Engine,
    stop: CancellationToken,
}

pub(crate) fn install() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    format!("install{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn desk_config(install: &str) -> DeskConfig {
    DeskConfig { host_agents: true, ..DeskConfig::new(install, secret(), Managers::new(vec![engine()])) }
}

pub(crate) fn agent_config(server: SocketAddr) -> AgentConfig {
    let mut config = AgentConfig::new(secret(), engine());
    config.servers = vec![server.to_string()];
    config
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut AgentConfig)) -> Self {
        let (_, node) = swarm();
        let install = install();
        let server = Server::start(desk_config(&install)).await;
        let mut config = agent_config(server.address);
        change(&mut config);
        let stop = run(config);
        server.sees(node).await;
        Self { server, node, install, engine: engine(), stop }
    }

    pub(crate) fn desk(&self) -> &Desk {
        &self.server.desk
    }

    /// A running container of this installation, and its id.
    pub(crate) async fn container(&self, script: &str) -> String {
        container(&self.engine, Some(&self.install), script, &json!({})).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs an agent until the token is cancelled.
pub(crate) fn run(config: AgentConfig) -> CancellationToken {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move { Agent::new(config).run(stopping).await.unwrap() });
    stop
}

pub(crate) async fn container(
    engine: &Engine,
    install: Option<&str>,
    script: &str,
    host: &serde_json::Value,
) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let labels = install.map_or(json!({}), |install| json!({ "skep.install": install }));
    let spec = json!({
        "Image": "bb:1", "Cmd": ["sh", "-c", script], "Labels": labels, "HostConfig": host, "StopTimeout": 0,
    });
    let name = format!("c{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let id = engine.create_container(&name, &spec).await.unwrap();
    engine.start_container(&id).await.unwrap();
    id
}

/// A service, and the id of a task of it that runs.
pub(crate) async fn task_of(engine: &Engine, name: &str, labels: serde_json::Value) -> String {
    let spec = json!({
        "Name": name, "Labels": labels,
        "TaskTemplate": {
            "ContainerSpec": { "Image": "bb:1", "Command": ["sleep", "600"], "StopGracePeriod": 0 },
            "RestartPolicy": { "Condition": "none" },
        },
        "Mode": { "Replicated": { "Replicas": 1 } },
    });
    engine.create(Kind::Service, &spec).await.unwrap();
    until("the service's task runs", async || {
        let tasks = engine.list(Kind::Task, &[("service", name)]).await.unwrap();
        let running = tasks.iter().find(|task| task.text("/Status/State") == Some("running"));
        running.map(|task| task.id().to_owned())
    })
    .await
}

/// An agent in a process of its own, in the network this thread is in.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(server: SocketAddr, spool: &Path, bytes: u64) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_skep-agent-harness")), server, spool, bytes)
    }

    /// With its spool on a disk of its own, of so many bytes, with a file in it that leaves little room.
    pub(crate) fn start_on_small_disk(server: SocketAddr, spool: &Path, disk: u64) -> Self {
        let mut command = Command::new("unshare");
        let script = format!("mount -t tmpfs -o size={disk} none \"$1\" && shift && exec \"$@\"");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command.arg(spool).arg(env!("CARGO_BIN_EXE_skep-agent-harness"));
        Self::spawn(command, server, spool, 64 << 20)
    }

    fn spawn(mut command: Command, server: SocketAddr, spool: &Path, bytes: u64) -> Self {
        command.arg(server.to_string()).arg(daemon().socket()).arg(SECRET).arg(spool).arg(bytes.to_string());
        Self(command.spawn().unwrap())
    }

    /// Stands still, as on a node that hangs, or goes on.
    pub(crate) fn pause(&self, paused: bool) {
        let signal = if paused { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! Instances as services of a Swarm of one node, with its agent and the desk it calls in at in this process.

mod nodes;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::json;
use skep_agent::{Agent, AgentConfig, Desk, DeskConfig, JoinSecret};
use skep_backends::swarm::{SwarmBackend, SwarmConfig};
use skep_docker::{Address, Document, Engine, ExecOrder, Kind, Managers};
use skep_launch::{
    Adopted, Backend, BackendError, BackendEvent, EndedBy, ExitReport, LaunchOrder, Launched, LogQuery,
    ProgressSink, Stage,
};
use skep_model::{
    AppSpec, BackendKind, BindMount, ConfigFile, Framework, Image, InstanceId, Principal, SeatId, Source,
    Volume,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::daemon::{Daemon, until};
use crate::stage::{DEADLINE, TOLD, get, hungry, tell};

/// An engine of its own that is a Swarm: being a manager changes what the other tests see.
fn daemon() -> &'static Daemon {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(|| swarm_of_one(Daemon::start(|_| Vec::new())))
}

fn swarm_of_one(daemon: Daemon) -> Daemon {
    let init = json!({ "ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1:2377" }).to_string();
    let (status, said) =
        daemon.ask("POST", "/swarm/init", &["Content-Type: application/json"], init.into_bytes());
    assert_eq!(status, 200, "{said}");
    daemon
}

fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    // One for all: a new one asks for the engine's version first.
    ENGINE.get_or_init(|| Engine::new(Address::unix(daemon().socket()))).clone()
}

/// A server's end: desk and backend.
struct Server {
    desk: Desk,
    backend: Arc<SwarmBackend>,
    events: mpsc::Receiver<BackendEvent>,
    progress: Arc<Mutex<Vec<(Stage, String)>>>,
    _end: DropGuard,
}

/// An installation: a data folder, and the agent, which outlives servers.
struct Harbour {
    dir: TempDir,
    engine: Engine,
    install: String,
    port: u16,
    server: Server,
    _agent: DropGuard,
}

fn secret() -> JoinSecret {
    JoinSecret::new("a secret of the tests, long enough").unwrap()
}

async fn serve(engine: &Engine, install: &str, data: &Path, port: u16) -> Server {
    let mut config = DeskConfig::new(install, secret(), Managers::new(vec![engine.clone()]));
    config.host_agents = true;
    let desk = Desk::new(config).unwrap();
    let listener =
        until("the agents' port is free", async || TcpListener::bind(("127.0.0.1", port)).await.ok());
    let (listener, stop) = (listener.await, CancellationToken::new());
    let (serving, stopped) = (desk.clone(), stop.clone());
    tokio::spawn(async move { serving.serve(listener, stopped).await });
    let (sender, events) = mpsc::channel(64);
    let mut config = SwarmConfig::new(data.to_owned(), Managers::new(vec![engine.clone()]));
    config.install = install.to_owned();
    config.stop_grace = Duration::from_secs(20);
    let backend = SwarmBackend::new(config, desk.clone(), sender);
    Server { desk, backend, events, progress: Arc::default(), _end: stop.drop_guard() }
}

async fn node(engine: &Engine) -> Document {
    engine.list(Kind::Node, &[]).await.unwrap().remove(0)
}

impl Harbour {
    /// With an agent that has called in, on a node that is labelled.
    async fn new() -> Self {
        Self::on(daemon()).await
    }

    async fn on(daemon: &Daemon) -> Self {
        daemon.enter();
        let engine = Engine::new(Address::unix(daemon.socket()));
        static INSTALLS: AtomicU16 = AtomicU16::new(1);
        let number = INSTALLS.fetch_add(1, Ordering::Relaxed);
        let install = format!("it-{number}");
        let dir = tempfile::tempdir().unwrap();
        // None of those the kernel gives out: nobody else has it while no server is there.
        let port = 10_000 + number;
        let server = serve(&engine, &install, dir.path(), port).await;
        let mut config = AgentConfig::new(secret(), engine.clone());
        config.servers = vec![format!("127.0.0.1:{port}")];
        let stop = CancellationToken::new();
        let (agent, stopped) = (Agent::new(config), stop.clone());
        tokio::spawn(async move { agent.run(stopped).await.unwrap() });
        let harbour = Self { dir, engine, install, port, server, _agent: stop.drop_guard() };
        harbour.await_agent().await;
        assert!(harbour.adopt().await.is_empty());
        until("the node is labelled", async || {
            (node(&harbour.engine).await.label("skep.agent") == Some("true")).then_some(())
        })
        .await;
        harbour
    }

    async fn await_agent(&self) {
        let mut nodes = self.server.desk.nodes();
        tokio::time::timeout(DEADLINE, nodes.wait_for(|nodes: &BTreeSet<String>| !nodes.is_empty()))
            .await
            .unwrap()
            .unwrap();
    }

    /// The server goes, something happens, another one comes.
    async fn restarted(self, meanwhile: impl Future<Output = ()>) -> Self {
        let Self { dir, engine, install, port, server, _agent } = self;
        drop(server);
        meanwhile.await;
        let server = serve(&engine, &install, dir.path(), port).await;
        let harbour = Self { dir, engine, install, port, server, _agent };
        // Without the agent there are no last lines to be had.
        harbour.await_agent().await;
        harbour
    }

    fn order(spec: AppSpec) -> LaunchOrder {
        static NONCE: AtomicU64 = AtomicU64::new(1);
        let id = InstanceId::new(spec.id.clone(), NONCE.fetch_add(1, Ordering::Relaxed));
        LaunchOrder { id, spec: Arc::new(spec), owner: None, variant: skep_model::Variant::default() }
    }

    async fn launch_as(&self, order: LaunchOrder) -> Result<Launched, BackendError> {
        let seen = Arc::clone(&self.server.progress);
        let sink = ProgressSink::new(move |progress| seen.lock().push((progress.stage, progress.detail)));
        let begun = Instant::now();
        loop {
            let launch = self.server.backend.launch(order.clone(), sink.clone());
            match tokio::time::timeout(DEADLINE, launch).await.unwrap() {
                // The one manager there is was too busy to answer.
                Err(BackendError::Platform(said))
                    if said.starts_with("the Swarm cannot be reached") && begun.elapsed() < DEADLINE => {}
                launched => return launched,
            }
        }
    }

    async fn adopt(&self) -> Vec<Adopted> {
        until("a manager tells what runs", async || self.server.backend.adopt().await.ok()).await
    }

    async fn launch(&self, spec: AppSpec) -> (InstanceId, Result<Launched, BackendError>) {
        let order = Self::order(spec);
        (order.id.clone(), self.launch_as(order).await)
    }

    /// Why a launch did not succeed.
    async fn refused(&self, spec: AppSpec) -> BackendError {
        let (id, launched) = self.launch(spec).await;
        let error = launched.map(drop).unwrap_err();
        assert!(service(&id).await.is_none(), "nothing is left of it");
        error
    }

    async fn exited(&mut self) -> (InstanceId, ExitReport) {
        match tokio::time::timeout(DEADLINE, self.server.events.recv()).await.unwrap().unwrap() {
            BackendEvent::Exited { id, report } => (id, report),
        }
    }

    async fn stop(&self, id: &InstanceId) -> ExitReport {
        let stopped = async || self.server.backend.stop(id, Duration::from_secs(20)).await.ok();
        until("a manager takes the stop", stopped).await
    }

    async fn log(&self, id: &InstanceId) -> Vec<String> {
        let query = LogQuery { tail: 100, follow: false };
        self.server.backend.logs(id, query).await.unwrap().collect().await
    }
}

fn local() -> Image {
    Image { port: Some(8080), ..Image::new("bb:1") }
}

fn spec(image: Image, script: &str) -> AppSpec {
    let mut spec = crate::spec::spec(Path::new("/"), Framework::Command, None);
    spec.source = Source::Image(Box::new(image));
    spec.backend = BackendKind::Swarm;
    spec.command = (!script.is_empty()).then(|| ["sh", "-c", script].map(str::to_owned).to_vec());
    spec
}

/// The small web server of the test image.
fn web() -> AppSpec {
    spec(local(), "")
}

async fn labelled(kind: Kind, id: &InstanceId) -> Vec<Document> {
    let label = format!("skep.instance={id}");
    engine().list(kind, &[("label", &label)]).await.unwrap()
}

async fn service(id: &InstanceId) -> Option<Document> {
    labelled(Kind::Service, id).await.pop()
}

/// The id of an instance's container.
async fn container(id: &InstanceId) -> Option<String> {
    let label = format!("skep.instance={id}");
    let listed = engine().list_containers(&[("label", &label)]).await.unwrap();
    listed.first().map(|container| container.id().to_owned())
}

/// Tells the script of an instance to go on.
async fn go_on(id: &InstanceId) {
    let container = engine().inspect_container(&container(id).await.unwrap()).await.unwrap();
    tell(container.unwrap().state().pid.unwrap());
}

/// What a program says in an instance's container.
async fn run_in(id: &InstanceId, script: &str) -> String {
    let order = ExecOrder {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        terminal: true,
        ..ExecOrder::default()
    };
    let container = container(id).await.unwrap();
    let mut text = String::new();
    engine().exec(&container, &order).await.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn an_instance_is_launched_answers_and_leaves_nothing() {
    let harbour = Harbour::new().await;
    let key = harbour.dir.path().join("key");
    std::fs::write(&key, "s3cret\n").unwrap();
    let mut order = Harbour::order(web());
    let spec = Arc::get_mut(&mut order.spec).unwrap();
    spec.env.insert("GREETING".to_owned(), "{app} at {base_path} on {port}".to_owned());
    spec.secrets.insert("KEY".to_owned(), key.into());
    spec.limits = skep_model::Limits { cpu_millis: Some(900), memory: Some(64 << 20), pids: Some(50) };
    order.owner = Some(Principal::User { name: "ada".parse().unwrap(), groups: Vec::new() });
    let id = order.id.clone();
    let both = futures_util::future::join(harbour.launch_as(order.clone()), harbour.launch_as(order));
    let (launched, second) = both.await;
    let launched = launched.unwrap();
    assert_eq!(second.unwrap().dial.describe(), launched.dial.describe(), "launched once");
    assert_eq!(launched.node, "skep-it");
    assert_eq!(get(&launched, "/").await, (200, "hello from a container\n".to_owned()));
    let (_, env) = get(&launched, "/cgi-bin/env").await;
    for line in ["GREETING=demo at /demo on 8080", "SKEP_USER=ada", "PORT=8080", "KEY_FILE=/run/secrets/KEY"]
    {
        assert!(env.lines().any(|l| l == line), "{line}: {env}");
    }
    assert!(!env.contains("s3cret"), "{env}");
    assert_eq!(run_in(&id, "cat $KEY_FILE").await.trim(), "s3cret");
    let status = run_in(&id, "cat /proc/1/status").await;
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert_eq!(harbour.server.progress.lock().last().unwrap().0, Stage::Boot);
    let measured = async || harbour.server.backend.stats(&id).await;
    let stats = until("a busy engine has measured it", measured).await;
    assert!(stats.memory_bytes > 0 && stats.processes >= 2, "{stats:?}");

    let report = harbour.stop(&id).await;
    assert_eq!((report.reason.as_str(), report.out_of_memory), ("stopped", false));
    assert!(service(&id).await.is_none() && container(&id).await.is_none());
    assert!(labelled(Kind::Secret, &id).await.is_empty());
    assert_eq!(harbour.stop(&id).await, report, "a second stop is told the same");
    let other = InstanceId::new("demo".parse().unwrap(), u64::MAX);
    assert!(matches!(harbour.server.backend.stop(&other, DEADLINE).await, Err(BackendError::Unknown)));

    // States of its task are told as they are seen. A busy machine lets one pass unseen, though not each time.
    let starting = (Stage::Start, "starting on skep-it".to_owned());
    for _ in 0..5 {
        if !harbour.server.progress.lock().contains(&starting) {
            let (id, launched) = harbour.launch(web()).await;
            launched.unwrap();
            harbour.stop(&id).await;
        }
    }
    let told = harbour.server.progress.lock().clone();
    assert!(told.contains(&starting), "{told:?}");
}

#[tokio::test]
async fn ends_nobody_asked_for_are_told_with_their_cause() {
    let mut harbour = Harbour::new().await;
    let script = format!("echo first; echo last >&2; {TOLD}; exit 7");
    let (id, launched) = harbour.launch(spec(local(), &script)).await;
    launched.unwrap();
    go_on(&id).await;
    let (ended, report) = harbour.exited().await;
    assert_eq!((ended, report.reason.as_str(), report.code), (id.clone(), "exited with status 7", Some(7)));
    assert_eq!(report.ended_by, EndedBy::Itself);
    let mut said = report.last_lines.clone();
    said.sort();
    assert_eq!(said, ["first", "last"]);
    assert_eq!(harbour.log(&id).await, report.last_lines, "what it wrote outlives its container");
    until("its service is gone", async || service(&id).await.is_none().then_some(())).await;

    let mut eats = spec(local(), &hungry());
    eats.limits.memory = Some(16 << 20);
    let (id, launched) = harbour.launch(eats).await;
    launched.unwrap();
    go_on(&id).await;
    let (ended, report) = harbour.exited().await;
    assert_eq!((ended, report.out_of_memory), (id, true), "{report:?}");
    assert_eq!(report.reason, "ran out of memory (limit 16 MiB)");

    let (id, launched) = harbour.launch(web()).await;
    launched.unwrap();
    let begun = Instant::now();
    engine().kill_container(&container(&id).await.unwrap(), "KILL").await.unwrap();
    let (_, report) = harbour.exited().await;
    assert_eq!((report.reason.as_str(), report.signal), ("killed by signal 9 (SIGKILL)", Some(9)));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());

    let (id, launched) = harbour.launch(web()).await;
    launched.unwrap();
    engine().remove(Kind::Service, service(&id).await.unwrap().id()).await.unwrap();
    let (ended, report) = harbour.exited().await;
    assert_eq!((ended, report.ended_by), (id, EndedBy::Platform));
    assert!(report.reason.contains("by somebody else"), "{report:?}");
}

#[tokio::test]
async fn what_keeps_an_app_from_starting_is_named() {
    let harbour = Harbour::new().await;
    let absent = Image { port: Some(80), ..Image::new("team/absent:3") };
    let said = harbour.refused(spec(absent, "")).await;
    assert!(
        matches!(&said, BackendError::App { summary, .. } if summary.contains("the node skep-it could not get the image `team/absent:3`")),
        "{said}"
    );
    let said = harbour.refused(spec(Image::new("team/absent:3"), "")).await.to_string();
    assert!(said.contains("set `container.port`"), "{said}");
    let mut nowhere = spec(Image { init: false, ..local() }, "");
    nowhere.command = Some(vec!["nosuch".to_owned()]);
    let said = harbour.refused(nowhere).await.to_string();
    assert!(said.contains("is not in the image `bb:1`") && said.contains("nosuch"), "{said}");
    let said =
        harbour.refused(spec(Image { user: Some("grace".to_owned()), ..local() }, "")).await.to_string();
    assert!(said.contains("`container.user`"), "{said}");
    let said =
        harbour.refused(spec(Image { networks: vec!["absent".to_owned()], ..local() }, "")).await.to_string();
    assert!(said.contains("absent"), "{said}");
    let configs = vec![ConfigFile { name: "absent".to_owned(), target: "/etc/absent".to_owned() }];
    let said = harbour.refused(spec(Image { configs, ..local() }, "")).await.to_string();
    assert!(said.contains("no config `absent`") && said.contains("docker config create"), "{said}");
    let mut unfit = local();
    unfit.placement.constraints = vec!["no constraint".to_owned()];
    let said = harbour.refused(spec(unfit, "")).await.to_string();
    assert!(said.contains("its service cannot be made"), "{said}");
}

#[tokio::test]
async fn what_the_swarm_waits_for_is_told_until_it_is_stopped() {
    let harbour = Harbour::new().await;
    let waiting = async |spec: AppSpec, says: &str| {
        // What the one before was told is nothing this one was.
        harbour.server.progress.lock().clear();
        let order = Harbour::order(spec);
        let id = order.id.clone();
        let stopped = async {
            until(says, async || {
                harbour.server.progress.lock().iter().any(|(_, told)| told.contains(says)).then_some(())
            })
            .await;
            harbour.stop(&id).await
        };
        let (launched, report) = futures_util::future::join(harbour.launch_as(order), stopped).await;
        assert!(launched.is_err());
        assert!(report.reason.contains("stopped before it was started"), "{report:?}");
        assert!(service(&id).await.is_none());
    };
    let mut nowhere = local();
    nowhere.placement.constraints = vec!["node.labels.disk == ssd".to_owned()];
    waiting(spec(nowhere, ""), "pending: no suitable node (scheduling constraints not satisfied on 1 node)")
        .await;
    let mut large = local();
    large.reserve.memory = Some(1 << 44);
    waiting(spec(large, ""), "pending: no suitable node (insufficient resources on 1 node)").await;
    let mut without = local();
    without.reserve.resources.insert("gpu".to_owned(), 1);
    waiting(spec(without, ""), "pending: no suitable node (insufficient resources on 1 node)").await;
}

#[tokio::test]
async fn configs_volumes_labels_and_generic_resources_reach_the_node() {
    let daemon: &'static Daemon = Box::leak(Box::new(swarm_of_one(Daemon::start(|_| {
        vec!["--node-generic-resource".to_owned(), "gpu=UUID-7".to_owned()]
    }))));
    let harbour = Harbour::on(daemon).await;
    let config = json!({ "Name": "sales", "Data": "c2VjdGlvbg==" });
    harbour.engine.create(Kind::Config, &config).await.unwrap();
    let mut image = local();
    image.configs = vec![ConfigFile { name: "sales".to_owned(), target: "/etc/sales.toml".to_owned() }];
    image.reserve.resources.insert("gpu".to_owned(), 1);
    image.labels.insert("team".to_owned(), "sales".to_owned());
    let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    image.volumes.insert("small".to_owned(), Volume { driver: "local".to_owned(), options });
    image.mounts =
        vec![BindMount { source: "small".to_owned(), target: "/small".to_owned(), read_only: false }];
    let (id, launched) = harbour.launch(spec(image, "")).await;
    let launched = launched.unwrap();
    let (_, env) = get(&launched, "/cgi-bin/env").await;
    assert!(env.contains("DOCKER_RESOURCE_GPU=UUID-7"), "{env}");
    let order = ExecOrder {
        command: ["sh", "-c", "cat /etc/sales.toml; grep ' /small ' /proc/mounts"]
            .map(str::to_owned)
            .to_vec(),
        terminal: true,
        ..ExecOrder::default()
    };
    let label = format!("skep.instance={id}");
    let found = harbour.engine.list_containers(&[("label", &label), ("label", "team=sales")]).await.unwrap();
    let mut said = String::new();
    harbour.engine.exec(found[0].id(), &order).await.unwrap().read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("section") && said.contains("size=1024k"), "{said}");
    harbour.stop(&id).await;
}

#[tokio::test]
async fn instances_outlive_the_server_and_are_adopted() {
    let harbour = Harbour::new().await;
    let mut order = Harbour::order(web());
    order.owner = Some(Principal::User { name: "ada".parse().unwrap(), groups: vec!["g".to_owned()] });
    let (id, owner) = (order.id.clone(), order.owner.clone());
    let launched = harbour.launch_as(order).await.unwrap();
    let at = container(&id).await.unwrap();
    let begun = Instant::now();
    harbour.server.backend.note_ready(&id, 321).await;
    harbour.server.backend.note_seats(&id, vec![SeatId(1)]).await;
    harbour.server.backend.note_seats(&id, vec![SeatId(u128::MAX), SeatId(1)]).await;
    assert!(begun.elapsed() >= Duration::from_secs(4), "the managers are spared: {:?}", begun.elapsed());
    let (meanwhile, ran) = harbour.launch(spec(local(), "echo bye; sleep 600")).await;
    ran.unwrap();
    until("it has said so", async || (harbour.log(&meanwhile).await == ["bye"]).then_some(())).await;
    // Another installation on the same Swarm.
    let other = Harbour::new().await;
    let (neighbour, ran) = other.launch(web()).await;
    ran.unwrap();

    let half = Harbour::order(web()).id;
    let install = harbour.install.clone();
    let killed = container(&meanwhile).await.unwrap();
    let killed = killed.as_str();
    let happens = async {
        engine().kill_container(killed, "KILL").await.unwrap();
        // A launch that was cut short, and never ran.
        let labels = json!({
            "skep.install": install, "skep.instance": half, "skep.revision": "0", "skep.started": "1",
            "skep.port": "1", "skep.network": "x",
        });
        let cut_short = json!({
            "Name": format!("skep-demo-{}", half.short()), "Labels": labels,
            "TaskTemplate": {
                "ContainerSpec": { "Image": "bb:1" },
                "Placement": { "Constraints": ["node.labels.no == such"] },
            },
        });
        engine().create(Kind::Service, &cut_short).await.unwrap();
        until("the task of the killed one is over", async || {
            let tasks = engine().list(Kind::Task, &[]).await.unwrap();
            let of_it = |task: &&Document| task.text("/Status/ContainerStatus/ContainerID") == Some(killed);
            let state = tasks.iter().find(of_it).and_then(|task| task.text("/Status/State"));
            (state == Some("failed")).then_some(())
        })
        .await;
    };
    let mut harbour = harbour.restarted(happens).await;

    let mut adopted = harbour.adopt().await;
    assert_eq!(adopted.len(), 1, "{adopted:?}");
    let found = adopted.remove(0);
    assert_eq!((&found.id, found.owner), (&id, owner));
    assert_eq!(found.launched.dial.describe(), launched.dial.describe());
    assert_eq!((found.was_ready, found.ready_ms), (true, Some(321)));
    assert_eq!(found.seats, [SeatId(u128::MAX), SeatId(1)]);
    assert_eq!(found.revision, web().revision);
    assert_eq!(container(&id).await.unwrap(), at, "noting its seats did not start it anew");
    assert_eq!(get(&found.launched, "/").await.0, 200);
    assert!(service(&half).await.is_none(), "nobody's any more");
    assert!(service(&neighbour).await.is_some(), "not ours to touch");
    let (ended, report) = harbour.exited().await;
    assert_eq!((&ended, report.signal), (&meanwhile, Some(9)), "{report:?}");
    assert_eq!(report.last_lines, ["bye"]);

    // What was adopted is watched, too.
    engine().kill_container(&at, "TERM").await.unwrap();
    let (ended, _) = harbour.exited().await;
    assert_eq!(ended, id);
    assert!(harbour.adopt().await.is_empty());
    other.stop(&neighbour).await;
}

#[tokio::test]
async fn instances_do_not_reach_each_other() {
    let harbour = Harbour::new().await;
    let (one, launched) = harbour.launch(web()).await;
    assert_eq!(get(&launched.unwrap(), "/").await.0, 200);
    let (two, launched) = harbour.launch(web()).await;
    assert_eq!(get(&launched.unwrap(), "/").await.0, 200);
    let address = run_in(&one, "ip -4 -o addr show eth0 | sed 's/.*inet //; s,/.*,,'").await;
    let address = address.trim();
    assert!(address.parse::<std::net::Ipv4Addr>().is_ok(), "{address}");
    let said = run_in(&one, &format!("nc -w 20 {address} 8080 </dev/null && echo reached")).await;
    assert!(said.contains("reached"), "it listens there: {said}");
    let said =
        run_in(&two, &format!("nc -w 1 {address} 8080 </dev/null && echo reached || echo kept away")).await;
    assert!(said.contains("kept away"), "{said}");
    futures_util::future::join(harbour.stop(&one), harbour.stop(&two)).await;
}

#[tokio::test]
async fn a_log_is_followed_from_before_the_start_to_the_end() {
    let harbour = Harbour::new().await;
    // An engine may end the log of a container that has just ended before what it wrote last.
    let order = Harbour::order(spec(local(), &format!("echo one; {TOLD}; echo two; sleep 5")));
    let id = order.id.clone();
    let launching = harbour.launch_as(order);
    let following = async {
        let query = LogQuery { tail: 10, follow: true };
        let opened = async || harbour.server.backend.logs(&id, query).await.ok();
        let mut log = until("the instance is known", opened).await;
        assert_eq!(log.next().await.as_deref(), Some("one"));
        log.collect::<Vec<_>>().await
    };
    let launched = async {
        launching.await.unwrap();
        go_on(&id).await;
    };
    let ((), lines) = futures_util::future::join(launched, following).await;
    assert_eq!(lines, ["two"]);
}

#[tokio::test]
async fn without_a_manager_nothing_is_lost_but_time() {
    let dir = tempfile::tempdir().unwrap();
    let away = Managers::new(vec![Engine::new(Address::unix("/nonexistent/docker.sock"))]);
    let desk = Desk::new(DeskConfig::new("away", secret(), away.clone())).unwrap();
    let (sender, _events) = mpsc::channel(1);
    let backend = SwarmBackend::new(SwarmConfig::new(dir.path().to_owned(), away), desk, sender);
    let said = backend.adopt().await.unwrap_err().to_string();
    assert!(said.starts_with("the Swarm cannot be reached"), "{said}");
    let order = Harbour::order(web());
    let told = Arc::new(Mutex::new(String::new()));
    let sink = {
        let told = Arc::clone(&told);
        ProgressSink::new(move |progress| *told.lock() = progress.detail)
    };
    let stopped = async {
        until("it waits", async || told.lock().contains("waiting for a manager").then_some(())).await;
        backend.stop(&order.id, DEADLINE).await.unwrap()
    };
    let (launched, report) = futures_util::future::join(backend.launch(order.clone(), sink), stopped).await;
    assert!(launched.is_err());
    assert!(report.reason.contains("the Swarm cannot be reached"), "{report:?}");
}

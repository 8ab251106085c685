//! Instances as containers of a real engine.

mod shell;
mod variants;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::json;
use skep_backends::docker::{DialBy, DockerBackend, DockerConfig};
use skep_docker::{Address, Engine, ExecOrder, Kind};
use skep_launch::{
    Backend, BackendError, BackendEvent, EndedBy, ExitReport, LaunchOrder, Launched, LogQuery, ProgressSink,
    Stage,
};
use skep_model::{
    AppSpec, BackendKind, BindMount, Framework, Gpus, Image, InstanceId, Principal, Pull, SeatId, Source,
    Volume,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::daemon::{Daemon, daemon};
use crate::registry;
use crate::stage::{DEADLINE, TOLD, get, hungry, tell};

struct Harbour {
    dir: TempDir,
    backend: Arc<DockerBackend>,
    events: mpsc::Receiver<BackendEvent>,
    progress: Arc<Mutex<Vec<(Stage, String)>>>,
}

fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    // One for all: a new one asks for the engine's version first.
    ENGINE.get_or_init(|| Engine::new(Address::unix(daemon().socket()))).clone()
}

fn open(dir: &TempDir, dial: DialBy) -> (Arc<DockerBackend>, mpsc::Receiver<BackendEvent>) {
    let (sender, events) = mpsc::channel(64);
    let config = DockerConfig {
        address: Address::unix(daemon().socket()),
        dial,
        ..DockerConfig::new(dir.path().join("data"))
    };
    (DockerBackend::new(config, sender), events)
}

fn spec(image: Image, script: &str) -> AppSpec {
    let mut spec = crate::spec::spec(std::path::Path::new("/"), Framework::Command, None);
    spec.source = Source::Image(Box::new(image));
    spec.backend = BackendKind::Docker;
    spec.command = (!script.is_empty()).then(|| ["sh", "-c", script].map(str::to_owned).to_vec());
    spec
}

/// The small web server of the test image.
fn web() -> AppSpec {
    spec(local(), "")
}

fn local() -> Image {
    Image { pull: Pull::Never, ..Image::new("bb:1") }
}

impl Harbour {
    /// Enters the engine's network: addresses of containers mean something only there.
    fn new() -> Self {
        Self::dialling(DialBy::Address)
    }

    fn dialling(dial: DialBy) -> Self {
        daemon().enter();
        let dir = tempfile::tempdir().unwrap();
        let (backend, events) = open(&dir, dial);
        Self { dir, backend, events, progress: Arc::default() }
    }

    fn order(spec: AppSpec) -> LaunchOrder {
        static NONCE: AtomicU64 = AtomicU64::new(1);
        let id = InstanceId::new(spec.id.clone(), NONCE.fetch_add(1, Ordering::Relaxed));
        LaunchOrder { id, spec: Arc::new(spec), owner: None, variant: skep_model::Variant::default() }
    }

    async fn launch_as(&self, order: LaunchOrder) -> Result<Launched, BackendError> {
        let seen = Arc::clone(&self.progress);
        let sink = ProgressSink::new(move |progress| seen.lock().push((progress.stage, progress.detail)));
        tokio::time::timeout(DEADLINE, self.backend.launch(order, sink)).await.unwrap()
    }

    async fn launch(&self, spec: AppSpec) -> (InstanceId, Result<Launched, BackendError>) {
        let order = Self::order(spec);
        (order.id.clone(), self.launch_as(order).await)
    }

    /// Why a launch did not succeed.
    async fn refused(&self, spec: AppSpec) -> BackendError {
        let (id, launched) = self.launch(spec).await;
        let error = launched.map(drop).unwrap_err();
        assert!(container(&id).await.is_none(), "nothing is left of it");
        error
    }

    /// What is said of an app that does not come up, at once or a little later.
    async fn failed(&mut self, spec: AppSpec) -> String {
        match self.launch(spec).await {
            (_, Err(error)) => error.to_string(),
            (id, Ok(_)) => {
                let (ended, report) = self.exited().await;
                assert_eq!(ended, id);
                report.reason
            }
        }
    }

    async fn exited(&mut self) -> (InstanceId, ExitReport) {
        match tokio::time::timeout(DEADLINE, self.events.recv()).await.unwrap().unwrap() {
            BackendEvent::Exited { id, report } => (id, report),
        }
    }

    async fn stop(&self, id: &InstanceId) -> ExitReport {
        self.backend.stop(id, Duration::from_secs(30)).await.unwrap()
    }

    async fn log(&self, id: &InstanceId) -> Vec<String> {
        let query = LogQuery { tail: 100, follow: false };
        self.backend.logs(id, query).await.unwrap().collect().await
    }
}

async fn container(id: &InstanceId) -> Option<skep_docker::Container> {
    engine().inspect_container(&format!("skep-{id}")).await.unwrap()
}

/// What a program says in an instance's container.
async fn run_in(id: &InstanceId, user: Option<&str>, script: &str) -> String {
    let order = ExecOrder {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        user: user.map(str::to_owned),
        terminal: true,
        ..ExecOrder::default()
    };
    let mut text = String::new();
    engine().exec(&format!("skep-{id}"), &order).await.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn an_instance_is_launched_answers_and_is_stopped() {
    let harbour = Harbour::new();
    let mut order = Harbour::order(web());
    let spec = Arc::get_mut(&mut order.spec).unwrap();
    spec.env.insert("GREETING".to_owned(), "{app} at {base_path} on {port}".to_owned());
    spec.limits = skep_model::Limits { cpu_millis: Some(900), memory: Some(64 << 20), pids: Some(50) };
    order.owner = Some(Principal::User { name: "ada".parse().unwrap(), groups: Vec::new() });
    let id = order.id.clone();
    let launched = harbour.launch_as(order).await.unwrap();
    assert_eq!(get(&launched, "/").await, (200, "hello from a container\n".to_owned()));
    let (_, env) = get(&launched, "/cgi-bin/env").await;
    for line in ["GREETING=demo at /demo on 8080", "SKEP_USER=ada", "PORT=8080", "SKEP_APP=demo"] {
        assert!(env.lines().any(|l| l == line), "{line}: {env}");
    }
    assert!(std::path::Path::new(&format!("/proc/{}", launched.pid.unwrap())).exists());
    let stages: Vec<Stage> = harbour.progress.lock().iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stages, [Stage::Environment, Stage::Start, Stage::Boot]);

    let status = run_in(&id, None, "cat /proc/1/status").await;
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((line("CapEff:").as_str(), line("NoNewPrivs:").as_str()), ("0000000000000000", "1"));
    let host = container(&id).await.unwrap();
    assert_eq!(host.0.number("/HostConfig/Memory"), Some(64 << 20));
    assert_eq!(host.0.number("/HostConfig/PidsLimit"), Some(50));
    let measured = async || harbour.backend.stats(&id).await;
    let stats = crate::daemon::until("a busy engine has measured it", measured).await;
    assert!(stats.memory_bytes > 0 && stats.processes >= 2, "{stats:?}");

    let report = harbour.stop(&id).await;
    assert_eq!((report.reason.as_str(), report.out_of_memory), ("stopped", false));
    assert!(container(&id).await.is_none());
    assert_eq!(harbour.stop(&id).await, report, "a second stop is told the same");
    let other = InstanceId::new("demo".parse().unwrap(), u64::MAX);
    assert!(matches!(harbour.backend.stop(&other, DEADLINE).await, Err(BackendError::Unknown)));
    assert!(matches!(
        harbour.backend.logs(&other, LogQuery { tail: 1, follow: false }).await.map(drop),
        Err(BackendError::Unknown)
    ));
}

#[tokio::test]
async fn an_id_is_launched_once_whoever_asks() {
    let harbour = Harbour::new();
    let order = Harbour::order(web());
    let both = futures_util::future::join(harbour.launch_as(order.clone()), harbour.launch_as(order.clone()));
    let (one, two) = both.await;
    let pid = one.unwrap().pid;
    assert_eq!(two.unwrap().pid, pid);
    // A server that was killed right after the engine took its order asks again.
    let (again, _events) = open(&harbour.dir, DialBy::Address);
    let joined = again.launch(order.clone(), ProgressSink::new(|_| {})).await.unwrap();
    assert_eq!(joined.pid, pid);
    // Somebody else's container of that name is not taken for ours.
    let stranger = Harbour::new();
    let taken = stranger.launch_as(order.clone()).await.map(drop).unwrap_err();
    assert!(taken.to_string().contains("another container is called"), "{taken}");
    assert!(container(&order.id).await.is_some_and(|c| c.state().running), "and is left alone");
    harbour.stop(&order.id).await;
}

/// The names of networks are not unique, and an engine starts nothing in one whose name is there twice.
#[tokio::test]
async fn servers_that_start_at_once_come_to_share_one_network() {
    daemon().enter();
    for round in 0..4 {
        let network = format!("crowd{round}");
        if round == 0 {
            // What a race may leave, so that it is met every time. Later engines refuse the second.
            let spec =
                json!({ "Name": network, "Driver": "bridge", "Labels": { "skep.network": "instances" } });
            for _ in 0..2 {
                let _ = engine().create(Kind::Network, &spec).await;
            }
        }
        let servers: Vec<_> = (0..6)
            .map(|_| {
                let dir = tempfile::tempdir().unwrap();
                let (sender, events) = mpsc::channel(64);
                let config = DockerConfig {
                    address: Address::unix(daemon().socket()),
                    network: network.clone(),
                    ..DockerConfig::new(dir.path().join("data"))
                };
                (DockerBackend::new(config, sender), events, dir)
            })
            .collect();
        let launches = servers.iter().map(async |(backend, _, _)| {
            let order = Harbour::order(web());
            let launched = backend.launch(order.clone(), ProgressSink::new(|_| {})).await.unwrap();
            assert_eq!(get(&launched, "/").await.0, 200);
            backend.stop(&order.id, Duration::from_secs(5)).await.unwrap();
        });
        futures_util::future::join_all(launches).await;
        let left = engine().list(Kind::Network, &[("name", &network)]).await.unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        engine().remove(Kind::Network, left[0].id()).await.unwrap();
    }
}

#[tokio::test]
async fn ends_nobody_asked_for_are_told_with_their_cause() {
    let mut harbour = Harbour::new();
    let mut image = local();
    image.port = Some(8080);
    let status = spec(image.clone(), &format!("echo first; echo last >&2; {TOLD}; exit 7"));
    let (id, launched) = harbour.launch(status).await;
    tell(launched.unwrap().pid.unwrap());
    let (ended, report) = harbour.exited().await;
    assert_eq!((ended, report.reason.as_str(), report.code), (id.clone(), "exited with status 7", Some(7)));
    assert_eq!(report.last_lines.len(), 2);
    assert_eq!(harbour.log(&id).await, report.last_lines, "what it wrote outlives its container");
    assert!(container(&id).await.is_none());

    let mut eats = spec(image.clone(), &hungry());
    eats.limits.memory = Some(16 << 20);
    let (id, launched) = harbour.launch(eats).await;
    tell(launched.unwrap().pid.unwrap());
    let (ended, report) = harbour.exited().await;
    assert_eq!((ended, report.out_of_memory), (id, true));
    assert_eq!(report.reason, "ran out of memory (limit 16 MiB)");

    let (id, launched) = harbour.launch(web()).await;
    launched.unwrap();
    engine().kill_container(&format!("skep-{id}"), "KILL").await.unwrap();
    let (_, report) = harbour.exited().await;
    assert_eq!((report.reason.as_str(), report.signal), ("killed by signal 9 (SIGKILL)", Some(9)));

    let (id, launched) = harbour.launch(web()).await;
    launched.unwrap();
    engine().remove_container(&format!("skep-{id}")).await.unwrap();
    let (ended, report) = harbour.exited().await;
    assert_eq!(ended, id);
    assert!(report.reason.contains("by somebody else") || report.signal == Some(9), "{report:?}");
}

#[tokio::test]
async fn what_keeps_an_app_from_starting_is_named() {
    let mut harbour = Harbour::new();
    let absent = Image { pull: Pull::Never, ..Image::new("team/absent:3") };
    let said = harbour.refused(spec(absent, "")).await.to_string();
    assert!(
        said.contains("`team/absent:3` is not on this machine") && said.contains("docker load"),
        "{said}"
    );
    let said = harbour.refused(spec(Image::new("no:such:name"), "")).await.to_string();
    assert!(said.contains("is not an image name"), "{said}");
    let away = harbour.refused(spec(Image::new("127.0.0.1:1/team/app"), "")).await;
    assert!(matches!(&away, BackendError::Platform(said) if said.contains("could not be fetched")), "{away}");

    let mut nowhere = spec(local(), "");
    nowhere.command = Some(vec!["nosuch".to_owned()]);
    let said = harbour.failed(nowhere.clone()).await;
    assert!(said.contains("its command was not found in the image"), "{said}");
    let Source::Image(image) = &mut nowhere.source else { unreachable!() };
    image.init = false;
    let said = harbour.refused(nowhere).await.to_string();
    assert!(said.contains("is not in the image `bb:1`") && said.contains("nosuch"), "{said}");
    let mut image = local();
    image.user = Some("grace".to_owned());
    let said = harbour.refused(spec(image, "")).await.to_string();
    assert!(said.contains("`container.user`"), "{said}");
    let mut image = local();
    image.mounts = vec![BindMount {
        source: "/nonexistent/data".to_owned(),
        target: "/data".to_owned(),
        read_only: true,
    }];
    let said = harbour.refused(spec(image, "")).await.to_string();
    assert!(said.contains("/nonexistent/data"), "{said}");
    let mut image = local();
    image.networks = vec!["absent".to_owned()];
    let said = harbour.refused(spec(image, "")).await.to_string();
    assert!(said.contains("absent"), "{said}");
    let image = Image { gpus: Some(Gpus::All), ..local() };
    let said = harbour.refused(spec(image, "")).await.to_string();
    assert!(said.contains("`container.gpus`"), "{said}");
    let mut secret = web();
    secret.secrets.insert("KEY".to_owned(), "/nonexistent/key".into());
    let said = harbour.refused(secret).await.to_string();
    assert!(said.contains("`KEY`") && said.contains("No such file"), "{said}");
}

#[tokio::test]
async fn fetching_an_image_is_followed_and_can_be_stopped() {
    let mut harbour = Harbour::new();
    let registry = registry::slow(Duration::from_millis(250));
    let name = format!("127.0.0.1:{}/team/app", registry.port);
    let fetched = |tag: &str| Image { port: Some(80), ..Image::new(format!("{name}:{tag}")) };

    // From where it takes a minute: it is not over before it is stopped.
    let minute = registry::slow(Duration::from_secs(5));
    let image = Image::new(format!("127.0.0.1:{}/team/app:1", minute.port));
    let order = Harbour::order(spec(Image { port: Some(80), ..image }, ""));
    let id = order.id.clone();
    let told = Arc::clone(&harbour.progress);
    let stopped = async {
        let begun = async || {
            let begun = told.lock().iter().any(|(_, detail)| detail.starts_with("pulling"));
            begun.then_some(())
        };
        crate::daemon::until("the pull begins", begun).await;
        harbour.stop(&id).await
    };
    let (launched, report) = futures_util::future::join(harbour.launch_as(order), stopped).await;
    assert!(launched.is_err());
    assert!(report.reason.contains("stopped before it was started"), "{report:?}");

    // Its one file is no program; but it was fetched.
    harbour.progress.lock().clear();
    let said = harbour.failed(spec(fetched("1"), "")).await;
    assert!(said.contains("may not be executed"), "{said}");
    let told: Vec<String> = harbour.progress.lock().iter().map(|(_, detail)| detail.clone()).collect();
    let between = |detail: &String| {
        let percent = detail.strip_prefix("pulling ").and_then(|rest| rest.strip_suffix(" %"));
        percent.is_some_and(|percent| (1..100).contains(&percent.parse::<u32>().unwrap()))
    };
    assert!(told.iter().any(between), "{told:?}");
    let missing = harbour.refused(spec(fetched("2"), "")).await;
    let named = format!("there is no image `{name}:2`");
    assert!(matches!(&missing, BackendError::App { summary, .. } if summary.contains(&named)), "{missing}");
    engine().remove_image(&format!("{name}:1")).await.unwrap();
}

#[tokio::test]
async fn instances_outlive_the_server_and_are_adopted() {
    let harbour = Harbour::new();
    let mut order = Harbour::order(web());
    order.owner = Some(Principal::User { name: "ada".parse().unwrap(), groups: vec!["g".to_owned()] });
    let (id, owner) = (order.id.clone(), order.owner.clone());
    let launched = harbour.launch_as(order).await.unwrap();
    harbour.backend.note_ready(&id, 321).await;
    harbour.backend.note_seats(&id, vec![SeatId(u128::MAX), SeatId(1)]).await;
    let (meanwhile, ran) = harbour.launch(web()).await;
    ran.unwrap();
    // Another installation on the same engine.
    let other = Harbour::new();
    let (neighbour, ran) = other.launch(web()).await;
    ran.unwrap();

    let Harbour { dir, backend, events, .. } = harbour;
    drop((backend, events));
    engine().kill_container(&format!("skep-{meanwhile}"), "KILL").await.unwrap();
    // Cut short between the order and the start.
    let install = std::fs::read_to_string(dir.path().join("data/docker/install")).unwrap();
    let cut_short = Harbour::order(web()).id;
    let labels = serde_json::json!({ "skep.install": install, "skep.instance": cut_short });
    let half = serde_json::json!({ "Image": "bb:1", "Labels": labels });
    let half = engine().create_container(&format!("skep-{cut_short}"), &half).await.unwrap();
    // Run by hand from an image made of an instance: its labels came along.
    let labels = container(&id).await.unwrap().0.at("/Config/Labels").unwrap().clone();
    let copy = serde_json::json!({ "Image": "bb:1", "Cmd": ["sleep", "600"], "Labels": labels });
    let copy = engine().create_container(&format!("copy-of-{id}"), &copy).await.unwrap();
    engine().start_container(&copy).await.unwrap();

    let (backend, events) = open(&dir, DialBy::Address);
    let mut adopted = backend.adopt().await.unwrap();
    assert_eq!(adopted.len(), 1);
    let found = adopted.remove(0);
    assert_eq!((&found.id, found.launched.pid, found.owner), (&id, launched.pid, owner));
    assert_eq!((found.was_ready, found.ready_ms), (true, Some(321)));
    assert_eq!(found.seats, [SeatId(u128::MAX), SeatId(1)]);
    assert_eq!(found.revision, web().revision);
    assert_eq!(get(&found.launched, "/").await.0, 200);
    assert!(engine().inspect_container(&half).await.unwrap().is_none(), "nobody's any more");
    assert!(container(&neighbour).await.is_some_and(|c| c.state().running), "not ours to touch");
    let mut harbour = Harbour { dir, backend, events, progress: Arc::default() };
    let (ended, report) = harbour.exited().await;
    assert_eq!((ended, report.signal), (meanwhile, Some(9)));

    // What was adopted is watched, too.
    engine().kill_container(&format!("skep-{id}"), "TERM").await.unwrap();
    let (ended, _) = harbour.exited().await;
    assert_eq!(ended, id);
    assert!(harbour.backend.adopt().await.unwrap().is_empty());
    let left = engine().inspect_container(&copy).await.unwrap();
    assert!(left.is_some_and(|copy| copy.state().running), "not ours, either");
    engine().remove_container(&copy).await.unwrap();
    other.stop(&neighbour).await;
}

#[tokio::test]
async fn instances_do_not_reach_each_other() {
    let harbour = Harbour::new();
    let (one, launched) = harbour.launch(web()).await;
    let address = launched.unwrap().dial.describe();
    let (two, launched) = harbour.launch(web()).await;
    assert_eq!(get(&launched.unwrap(), "/").await.0, 200);
    let (host, port) = address.split_once(':').unwrap();
    let said =
        run_in(&two, None, &format!("nc -w 1 {host} {port} </dev/null && echo reached || echo kept away"))
            .await;
    assert!(said.contains("kept away"), "{said}");
    let socket = run_in(&two, None, "ls /var/run/docker.sock /run/docker.sock || echo no socket").await;
    assert!(socket.contains("no socket"), "{socket}");
    futures_util::future::join(harbour.stop(&one), harbour.stop(&two)).await;
}

#[tokio::test]
async fn secrets_are_files_and_the_rest_may_be_read_only() {
    let harbour = Harbour::new();
    let key = harbour.dir.path().join("key");
    std::fs::write(&key, "s3cret\n").unwrap();
    let data = harbour.dir.path().join("shown");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("note"), "on the host").unwrap();
    let mut image = local();
    image.read_only = true;
    image.user = Some("nobody".to_owned());
    image.mounts =
        vec![BindMount { source: data.display().to_string(), target: "/data".to_owned(), read_only: true }];
    let mut app = spec(image, "");
    app.secrets.insert("KEY".to_owned(), key.into());
    let (id, launched) = harbour.launch(app).await;
    let launched = launched.unwrap();
    let (_, env) = get(&launched, "/cgi-bin/env").await;
    assert!(env.contains("KEY_FILE=/run/secrets/KEY") && !env.contains("s3cret"), "{env}");
    let script = "cat /run/secrets/KEY /data/note; id -un; for f in /x /data/x /tmp/x; do touch $f && echo wrote $f; done";
    let said = run_in(&id, Some("nobody"), script).await;
    for expected in ["s3cret", "on the host", "nobody", "wrote /tmp/x"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("wrote /x") && !said.contains("wrote /data/x"), "{said}");
    let laid_out = harbour.dir.path().join(format!("data/docker/instances/{id}/secrets/KEY"));
    assert!(laid_out.exists());
    harbour.stop(&id).await;
    assert!(!laid_out.exists());
}

#[tokio::test]
async fn volumes_are_made_with_their_options_and_labels_are_put_on() {
    let harbour = Harbour::new();
    let mut image = local();
    let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=7")];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    image.volumes.insert("small".to_owned(), Volume { driver: "local".to_owned(), options });
    image.mounts =
        vec![BindMount { source: "small".to_owned(), target: "/small".to_owned(), read_only: false }];
    image.labels.insert("team".to_owned(), "sales".to_owned());
    let (id, launched) = harbour.launch(spec(image, "")).await;
    launched.unwrap();
    let said = run_in(&id, None, "grep ' /small ' /proc/mounts").await;
    assert!(said.contains("tmpfs") && said.contains("size=1024k") && said.contains("uid=7"), "{said}");
    let found = engine().inspect_container(&format!("skep-{id}")).await.unwrap().unwrap();
    assert_eq!(found.0.label("team"), Some("sales"));
    harbour.stop(&id).await;

    let mut image = local();
    image.volumes.insert("odd".to_owned(), Volume { driver: "nosuch".to_owned(), ..Volume::default() });
    image.mounts = vec![BindMount { source: "odd".to_owned(), target: "/odd".to_owned(), read_only: true }];
    let said = harbour.refused(spec(image, "")).await.to_string();
    assert!(said.contains("nosuch"), "{said}");
}

#[tokio::test]
async fn a_loopback_port_is_dialled_where_addresses_cannot_be() {
    let harbour = Harbour::dialling(DialBy::Port);
    let (id, launched) = harbour.launch(web()).await;
    let launched = launched.unwrap();
    assert!(launched.dial.describe().starts_with("127.0.0.1:"), "{}", launched.dial.describe());
    assert_eq!(get(&launched, "/").await.0, 200);
    let Harbour { dir, backend, events, .. } = harbour;
    drop((backend, events));
    let (backend, _events) = open(&dir, DialBy::Port);
    let adopted = backend.adopt().await.unwrap();
    assert_eq!(adopted[0].launched.dial.describe(), launched.dial.describe());
    backend.stop(&id, Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_log_is_followed_from_before_the_start_to_the_end() {
    let harbour = Harbour::new();
    let mut image = local();
    image.port = Some(1);
    // An engine may end the log of a container that has just ended before what it wrote last.
    let order = Harbour::order(spec(image, &format!("echo one; {TOLD}; echo two; sleep 5")));
    let id = order.id.clone();
    let launching = harbour.launch_as(order);
    let following = async {
        let query = LogQuery { tail: 10, follow: true };
        let opened = async || harbour.backend.logs(&id, query).await.ok();
        let mut log = crate::daemon::until("the instance is known", opened).await;
        assert_eq!(log.next().await.as_deref(), Some("one"));
        log.collect::<Vec<_>>().await
    };
    let launched = async { tell(launching.await.unwrap().pid.unwrap()) };
    let ((), lines) = futures_util::future::join(launched, following).await;
    assert_eq!(lines, ["two"]);
}

#[tokio::test]
async fn without_an_engine_nothing_waits_until_one_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let config = DockerConfig {
        address: Address::unix("/nonexistent/docker.sock"),
        ..DockerConfig::new(dir.path().to_owned())
    };
    let (sender, _events) = mpsc::channel(1);
    let backend = DockerBackend::new(config, sender);
    assert!(backend.adopt().await.unwrap().is_empty());
    let order = Harbour::order(web());
    let error = backend.launch(order.clone(), ProgressSink::new(|_| {})).await.map(drop).unwrap_err();
    assert!(
        matches!(&error, BackendError::Platform(said) if said.contains("is Docker installed")),
        "{error}"
    );
    assert!(matches!(backend.stop(&order.id, DEADLINE).await, Err(BackendError::Unknown)));
}

// Several threads: while the engine is started anew this one waits, and the backend must go on noticing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_with_the_engine_is_nothing_the_app_did() {
    // An engine of its own: its end is everybody's who uses it.
    let daemon = Daemon::start(|_| Vec::new());
    daemon.enter();
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::channel(4);
    let config = DockerConfig {
        address: Address::unix(daemon.socket()),
        ..DockerConfig::new(dir.path().join("data"))
    };
    let backend = DockerBackend::new(config, sender);
    let order = Harbour::order(web());
    backend.launch(order.clone(), ProgressSink::new(|_| {})).await.unwrap();
    // The reader of events subscribes once the first instance is ordered.
    let subscribed = async || backend.stats(&order.id).await.is_some().then_some(());
    crate::daemon::until("the instance is known to run", subscribed).await;
    let namespaces = daemon.crash();
    daemon.restart(&namespaces);
    let ended = tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
    let BackendEvent::Exited { id, report } = ended;
    assert_eq!((id, report.ended_by), (order.id, EndedBy::Platform), "{report:?}");
    assert!(report.reason.ends_with(", with the Docker Engine"), "{report:?}");
}

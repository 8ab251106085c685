//! An edge with a launcher behind it and apps behind that.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use skep_edge::{
    ControlCall, Edge, EdgeConfig, HostRule, Limits, ListenSocket, ListenerConfig, Purpose, RouteTable,
};
use skep_identity::{Admission, KeyRing};
use skep_launch::driver::{self, DriverConfig};
use skep_launch::{
    Adopted, Backend, BackendError, BackendEvent, Dial, EndedBy, ExitReport, Handle, LaunchOrder, Launched,
    LogQuery, ProgressSink, Stats,
};
use skep_model::{
    Access, AppId, AppSpec, BackendKind, Framework, Health, Hold, InstanceId, Limits as AppLimits, Mount,
    Prefix, Revision, SeatId, Source,
};
use tokio::sync::{mpsc, watch};

use crate::app::{App, HEALTH};
use crate::client::Client;

/// "Starts" an app by handing out its dialer.
#[derive(Default)]
struct Apps {
    dialers: Mutex<HashMap<AppId, Arc<dyn Dial>>>,
}

impl Backend for Apps {
    fn kind(&self) -> BackendKind {
        BackendKind::Process
    }

    fn launch(&self, order: LaunchOrder, _: ProgressSink) -> BoxFuture<'_, Result<Launched, BackendError>> {
        let dial = self.dialers.lock().get(order.id.app()).cloned();
        Box::pin(async move {
            let dial =
                dial.ok_or(BackendError::App { summary: "no such app here".to_owned(), last_lines: vec![] })?;
            Ok(Launched { dial, pid: None, node: "local".to_owned() })
        })
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Adopted>, BackendError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn stop<'a>(&'a self, _: &'a InstanceId, _: Duration) -> BoxFuture<'a, Result<ExitReport, BackendError>> {
        Box::pin(async { Ok(exit("stopped", 0)) })
    }

    fn note_seats<'a>(&'a self, _: &'a InstanceId, _: Vec<SeatId>) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn note_ready<'a>(&'a self, _: &'a InstanceId, _: u64) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn logs<'a>(
        &'a self,
        _: &'a InstanceId,
        _: LogQuery,
    ) -> BoxFuture<'a, Result<BoxStream<'static, String>, BackendError>> {
        Box::pin(async { Err(BackendError::Unknown) })
    }

    fn stats<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Option<Stats>> {
        Box::pin(async { None })
    }
}

fn exit(reason: &str, code: i32) -> ExitReport {
    let reason = reason.to_owned();
    let ended_by = EndedBy::Itself;
    ExitReport { reason, code: Some(code), signal: None, out_of_memory: false, last_lines: vec![], ended_by }
}

pub(crate) struct World {
    pub(crate) edge: Edge,
    pub(crate) keys: Arc<KeyRing>,
    /// Who may come in.
    pub(crate) admission: watch::Sender<Arc<Admission>>,
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) app: Arc<App>,
    /// What left for the control runtime, in order.
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
    /// While locked, the control runtime takes no call.
    pub(crate) control_stuck: Arc<tokio::sync::Mutex<()>>,
    pub(crate) log: Arc<Mutex<Vec<u8>>>,
    /// Instances that end by themselves.
    exits: mpsc::Sender<BackendEvent>,
    /// Holds the app's socket; removed at the end.
    _dir: tempfile::TempDir,
    routes: watch::Sender<Arc<RouteTable>>,
}

pub(crate) fn spec(id: &str, prefix: Prefix) -> AppSpec {
    let app: AppId = id.parse().unwrap();
    let health = match prefix {
        Prefix::Keep => format!("/{id}{HEALTH}"),
        Prefix::Strip => HEALTH.to_owned(),
    };
    AppSpec {
        mount: Mount::of(&app),
        id: app,
        title: id.to_owned(),
        description: String::new(),
        icon: None,
        section: None,
        framework: Framework::Command,
        prefix,
        source: Source::Folder { dir: "/nowhere".into(), entry: None },
        backend: BackendKind::Process,
        revision: Revision(1),
        command: None,
        env: Default::default(),
        secrets: Default::default(),
        seats: 1000,
        min_seats: 0,
        max_instances: 4,
        per_user: false,
        max_instances_per_user: 3,
        parameters: Default::default(),
        stop_on_logout: false,
        start_timeout: Duration::from_secs(120),
        idle_timeout: Duration::from_secs(600),
        inactivity_timeout: None,
        max_lifetime: None,
        max_waiting: 1000,
        health: Health { path: health, strict: false },
        access: Access::default(),
        allowed_origins: vec!["https://friend.example".to_owned()],
        limits: AppLimits::default(),
        run_as: None,
        hold: Hold::Page,
    }
}

/// How a world differs from the usual one.
pub(crate) struct Setup {
    pub(crate) specs: Vec<AppSpec>,
    pub(crate) limits: Limits,
    pub(crate) trusted: Vec<&'static str>,
    pub(crate) hosts: HostRule,
    pub(crate) console: Option<skep_edge::ConsoleHost>,
    pub(crate) unix: bool,
    /// The backend hands out streams that are no plain sockets.
    pub(crate) opaque: bool,
    pub(crate) tls: Option<skep_edge::Certificates>,
    pub(crate) inherited: Option<Inherited>,
    pub(crate) admission: Admission,
}

/// What a new process takes over from an old one.
pub(crate) struct Inherited {
    pub(crate) listener: TcpListener,
    pub(crate) relay: UnixListener,
    pub(crate) app: Arc<App>,
    pub(crate) keys: Arc<KeyRing>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            specs: vec![spec("keep", Prefix::Keep), spec("strip", Prefix::Strip)],
            limits: Limits::default(),
            trusted: vec![],
            hosts: HostRule::Loopback { also: vec![] },
            console: None,
            unix: false,
            opaque: false,
            tls: None,
            inherited: None,
            admission: Admission::default(),
        }
    }
}

#[derive(Clone)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let app = match &setup.inherited {
            Some(inherited) => Arc::clone(&inherited.app),
            None if setup.unix => App::unix(dir.path().join("app.sock")).await,
            None => App::tcp().await,
        };
        let apps = Apps::default();
        for spec in &setup.specs {
            apps.dialers.lock().insert(spec.id.clone(), app.dialer(setup.opaque));
        }
        let (exits, backend_events) = mpsc::channel(8);
        let (journal, mut journal_out) = mpsc::channel(64);
        tokio::spawn(async move { while journal_out.recv().await.is_some() {} });
        let (handle, _driver) =
            driver::start(DriverConfig::default(), vec![Arc::new(apps)], backend_events, journal);
        let specs: Vec<Arc<AppSpec>> = setup.specs.into_iter().map(Arc::new).collect();
        handle.set_apps(specs.clone());
        let (routes, routes_in) = watch::channel(Arc::new(RouteTable::new(&specs)));
        let (control, calls_in) = mpsc::channel(16);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let control_stuck = Arc::new(tokio::sync::Mutex::new(()));
        tokio::spawn(answer_calls(calls_in, Arc::clone(&calls), Arc::clone(&control_stuck)));
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut listeners = Vec::new();
        let mut listen = |name: &str, socket, trust_peers| {
            let tls = setup.tls.clone();
            listeners.push(ListenerConfig { name: name.to_owned(), socket, tls, trust_peers });
        };
        let (listener, keys) = match setup.inherited {
            None => (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(KeyRing::ephemeral().unwrap())),
            Some(inherited) => {
                listen("relay", ListenSocket::Unix(inherited.relay), true);
                (inherited.listener, inherited.keys)
            }
        };
        let address = listener.local_addr().unwrap();
        listen("test", ListenSocket::Tcp(listener), false);
        let config = EdgeConfig {
            listeners,
            threads: 2,
            limits: setup.limits,
            trusted_proxies: setup.trusted.iter().map(|range| range.parse().unwrap()).collect(),
            hosts: setup.hosts,
            console: setup.console,
            access_log: Some(skep_edge::AccessLog {
                format: skep_edge::LogFormat::Json,
                writer: Box::new(Kept(Arc::clone(&log))),
            }),
        };
        let (admission, admission_in) = watch::channel(Arc::new(setup.admission));
        let edge =
            Edge::start_with_login(config, handle.clone(), &keys, routes_in, control, admission_in).unwrap();
        Self {
            edge,
            keys,
            admission,
            address,
            handle,
            app,
            calls,
            control_stuck,
            log,
            exits,
            _dir: dir,
            routes,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// The app is started and answers.
    pub(crate) async fn warm_up(&self) {
        for path in ["/keep/__warm", "/strip/__warm"] {
            assert_eq!(self.client().await.get(path).await.status, 200);
        }
    }

    /// Requests the app saw, those of [`World::warm_up`] aside.
    pub(crate) fn seen(&self) -> Vec<crate::app::Seen> {
        self.app.seen().into_iter().filter(|seen| !seen.line().contains("__warm")).collect()
    }

    /// Every instance of this app ends by itself.
    pub(crate) async fn crash(&self, app: &str) {
        for view in self.handle.instances().into_iter().filter(|view| view.app.as_str() == app) {
            let event = BackendEvent::Exited { id: view.id, report: exit("exited with status 1", 1) };
            self.exits.send(event).await.unwrap();
        }
    }

    pub(crate) fn publish(&self, specs: Vec<AppSpec>) {
        let specs: Vec<Arc<AppSpec>> = specs.into_iter().map(Arc::new).collect();
        self.handle.set_apps(specs.clone());
        self.routes.send(Arc::new(RouteTable::new(&specs))).unwrap();
    }

    /// Publishes services beside the usual apps.
    pub(crate) fn publish_services(&self, services: Vec<Arc<skep_edge::ServiceRoute>>) {
        let specs = [spec("keep", Prefix::Keep), spec("strip", Prefix::Strip)].map(Arc::new);
        self.routes.send(Arc::new(RouteTable::with_services(&specs, &services))).unwrap();
    }

    /// The access log's lines that name this path, once there are so many.
    pub(crate) async fn logged(&self, path: &str, count: usize) -> Vec<serde_json::Value> {
        eventually("the access log line", || {
            let text = String::from_utf8(self.log.lock().clone()).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            let lines: Vec<_> = lines.filter(|line| line["path"] == path).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }
}

/// Waits for a condition, a minute at most.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "{what} within 60 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The control runtime's stand-in: says what it was asked.
async fn answer_calls(
    mut calls: mpsc::Receiver<ControlCall>,
    seen: Arc<Mutex<Vec<String>>>,
    stuck: Arc<tokio::sync::Mutex<()>>,
) {
    while let Some(call) = calls.recv().await {
        drop(stuck.lock().await);
        let purpose = match &call.purpose {
            Purpose::Own if call.client.at_console => "own".to_owned(),
            Purpose::Own => "own-beside-apps".to_owned(),
            Purpose::LaunchPage { app, .. } => format!("launch-page {app}"),
            Purpose::LaunchFollow { app, .. } => format!("launch-follow {app}"),
            Purpose::LaunchRetry { app } => format!("launch-retry {app}"),
            Purpose::RefusedPage { app, refusal, .. } => format!("refused-page {app} {}", refusal.code()),
            Purpose::MisnamedPage { app, why } => format!("misnamed-page {app} {}", why.code()),
            Purpose::DeniedPage { app } => format!("denied-page {}", app.id),
            Purpose::BrokenPage { app, .. } => format!("broken-page {app}"),
            Purpose::NoTaskPage { service } => format!("no-task-page {}", service.id),
        };
        let (parts, body) = call.request.into_parts();
        let line = format!("{purpose}: {} {}", parts.method, parts.uri);
        seen.lock().push(line.clone());
        let status = match call.purpose {
            Purpose::LaunchPage { .. } | Purpose::NoTaskPage { .. } => 503,
            Purpose::DeniedPage { .. } => 403,
            Purpose::BrokenPage { .. } => 502,
            _ => 200,
        };
        tokio::spawn(async move {
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let text = format!("{line} [{}]", String::from_utf8_lossy(&body));
            let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
            let _ = call.reply.send(http::Response::builder().status(status).body(body).unwrap());
        });
    }
}

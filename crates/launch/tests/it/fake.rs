//! A backend whose instances are little HTTP servers in this process.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use skep_launch::driver::{self, DriverConfig, DriverTask};
use skep_launch::{
    Adopted, Backend, BackendError, BackendEvent, Claim, ClaimKind, Dial, EndedBy, ExitReport, Handle,
    LaunchOrder, Launched, Lease, LogQuery, Outcome, ProgressSink, Refusal, SeatKey, Stage, Stats, Stream,
    Waiting,
};
use skep_model::{
    Access, AppId, AppSpec, BackendKind, Event, EventKind, Framework, Health, Hold, InstanceId, Limits,
    Mount, Prefix, Principal, Revision, SeatId, Source, Variant,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// How the instances of an app behave.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// From the launch to listening.
    pub(crate) boot: Duration,
    /// From listening to the first good answer; until then requests hang.
    pub(crate) warm_up: Duration,
    pub(crate) unix: bool,
    pub(crate) launch_error: Option<BackendError>,
    /// Ends by itself this long after the launch.
    pub(crate) exit_after: Option<Duration>,
    pub(crate) stop_takes: Duration,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            boot: Duration::from_millis(20),
            warm_up: Duration::ZERO,
            unix: false,
            launch_error: None,
            exit_after: None,
            stop_takes: Duration::from_millis(5),
        }
    }
}

/// One running server.
struct Server {
    tasks: Vec<AbortHandle>,
    alive: Arc<AtomicBool>,
    wedged: Arc<AtomicBool>,
    missing: Arc<AtomicBool>,
    dialled: Arc<AtomicU32>,
    launched: Launched,
    revision: Revision,
    owner: Option<Principal>,
    variant: Variant,
    started_at_ms: i64,
}

#[derive(Default)]
struct Inner {
    manners: BTreeMap<AppId, Manner>,
    servers: HashMap<InstanceId, Server>,
    noted: HashMap<InstanceId, Vec<SeatId>>,
    lines: Vec<String>,
}

pub(crate) struct FakeBackend {
    inner: Mutex<Inner>,
    events: Mutex<mpsc::Sender<BackendEvent>>,
    pub(crate) launches: AtomicU32,
    pub(crate) stops: AtomicU32,
    /// So many questions after what is alive get no answer.
    pub(crate) adopt_fails: AtomicU32,
    folder: tempfile::TempDir,
    answered: Answered,
}

/// When each instance had its first answer ready.
type Answered = Arc<Mutex<HashMap<String, Instant>>>;

#[derive(Clone)]
enum Address {
    Tcp(u16),
    Unix(PathBuf),
}

/// The way to an instance, by way of an agent that may be missing.
struct Way {
    address: Address,
    missing: Arc<AtomicBool>,
    dialled: Arc<AtomicU32>,
}

impl Dial for Way {
    fn dial(&self) -> BoxFuture<'static, io::Result<Stream>> {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        if self.missing.load(Ordering::Acquire) {
            return async { Err(io::ErrorKind::NetworkDown.into()) }.boxed();
        }
        self.address.dial()
    }

    fn describe(&self) -> String {
        self.address.describe()
    }
}

impl Dial for Address {
    fn dial(&self) -> BoxFuture<'static, io::Result<Stream>> {
        match self.clone() {
            Self::Tcp(port) => {
                async move { TcpStream::connect(("127.0.0.1", port)).await.map(Stream::Tcp) }.boxed()
            }
            Self::Unix(path) => async move { UnixStream::connect(path).await.map(Stream::Unix) }.boxed(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Tcp(port) => format!("127.0.0.1:{port}"),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

impl FakeBackend {
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<BackendEvent>) {
        let (events, receiver) = mpsc::channel(64);
        let backend = Self {
            inner: Mutex::default(),
            events: Mutex::new(events),
            launches: AtomicU32::new(0),
            stops: AtomicU32::new(0),
            adopt_fails: AtomicU32::new(0),
            folder: tempfile::tempdir().unwrap(),
            answered: Answered::default(),
        };
        (Arc::new(backend), receiver)
    }

    /// For a second driver over the same instances.
    pub(crate) fn reconnect(&self) -> mpsc::Receiver<BackendEvent> {
        let (events, receiver) = mpsc::channel(64);
        *self.events.lock() = events;
        receiver
    }

    pub(crate) fn manner(&self, app: &str, manner: Manner) {
        self.inner.lock().manners.insert(app.parse().unwrap(), manner);
    }

    pub(crate) fn lines(&self, lines: &[&str]) {
        self.inner.lock().lines = lines.iter().map(|line| (*line).to_owned()).collect();
    }

    pub(crate) fn alive(&self) -> Vec<InstanceId> {
        self.inner.lock().servers.keys().cloned().collect()
    }

    pub(crate) fn is_alive(&self, id: &InstanceId) -> bool {
        self.inner.lock().servers.contains_key(id)
    }

    pub(crate) fn noted(&self, id: &InstanceId) -> Vec<SeatId> {
        self.inner.lock().noted.get(id).cloned().unwrap_or_default()
    }

    /// Nobody can say how it is; answers how often somebody has tried.
    pub(crate) fn lose_way(&self, id: &InstanceId, missing: bool) -> u32 {
        let server = &self.inner.lock().servers[id];
        server.missing.store(missing, Ordering::Release);
        server.dialled.load(Ordering::Relaxed)
    }

    pub(crate) fn wedge(&self, id: &InstanceId, wedged: bool) {
        self.inner.lock().servers[id].wedged.store(wedged, Ordering::Release);
    }

    pub(crate) fn first_answer(&self, id: &InstanceId) -> Instant {
        self.answered.lock()[&id.to_string()]
    }

    /// The instance ends by itself.
    pub(crate) async fn crash(&self, id: &InstanceId) {
        let report = ExitReport {
            last_lines: vec!["segfault".into()],
            ..exit("killed by signal 11 (SIGSEGV)", None, Some(11))
        };
        self.tell(id, report).await;
    }

    /// The instance ends with what it runs on.
    pub(crate) async fn lose(&self, id: &InstanceId) {
        let report = ExitReport { ended_by: EndedBy::Platform, ..exit("its node sk2 is down", None, None) };
        self.tell(id, report).await;
    }

    async fn tell(&self, id: &InstanceId, report: ExitReport) {
        self.end(id);
        let events = self.events.lock().clone();
        events.send(BackendEvent::Exited { id: id.clone(), report }).await.unwrap();
    }

    fn end(&self, id: &InstanceId) {
        if let Some(server) = self.inner.lock().servers.remove(id) {
            server.alive.store(false, Ordering::Release);
            server.tasks.iter().for_each(AbortHandle::abort);
        }
    }

    async fn start(self: &Arc<Self>, order: &LaunchOrder, manner: &Manner) -> Launched {
        let (alive, wedged) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let name = order.id.to_string();
        let manner = manner.clone();
        let state = (alive.clone(), wedged.clone(), self.answered.clone());
        let (address, task) = if manner.unix {
            let path = self.folder.path().join(order.id.short());
            let address = Address::Unix(path.clone());
            let task = tokio::spawn(async move {
                tokio::time::sleep(manner.boot).await;
                let listener = UnixListener::bind(&path).unwrap();
                tokio::time::sleep(manner.warm_up).await;
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, name.clone(), state.clone()));
                }
            });
            (address, task)
        } else {
            // The port is taken at once, so that no other test gets it; nobody is served before the boot is over.
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = Address::Tcp(listener.local_addr().unwrap().port());
            let task = tokio::spawn(async move {
                tokio::time::sleep(manner.boot + manner.warm_up).await;
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, name.clone(), state.clone()));
                }
            });
            (address, task)
        };
        let (missing, dialled) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let way = Way { address, missing: missing.clone(), dialled: dialled.clone() };
        let launched = Launched { dial: Arc::new(way), pid: Some(1), node: "local".into() };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let server = Server {
            tasks: vec![task.abort_handle()],
            alive,
            wedged,
            missing,
            dialled,
            launched: launched.clone(),
            revision: order.spec.revision,
            owner: order.owner.clone(),
            variant: order.variant.clone(),
            started_at_ms: i64::try_from(now.as_millis()).unwrap(),
        };
        self.inner.lock().servers.insert(order.id.clone(), server);
        launched
    }
}

/// Answers `200` with its own name, for as long as it is alive and not wedged.
async fn serve(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    name: String,
    (alive, wedged, answered): (Arc<AtomicBool>, Arc<AtomicBool>, Answered),
) {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => head.extend_from_slice(&buffer[..n]),
        }
    }
    while wedged.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if !alive.load(Ordering::Acquire) {
        return;
    }
    answered.lock().entry(name.clone()).or_insert_with(Instant::now);
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len());
    let _gone = stream.write_all(answer.as_bytes()).await;
}

pub(crate) struct Backing(pub Arc<FakeBackend>);

impl Backend for Backing {
    fn kind(&self) -> BackendKind {
        BackendKind::Process
    }

    fn launch(
        &self,
        order: LaunchOrder,
        progress: ProgressSink,
    ) -> BoxFuture<'_, Result<Launched, BackendError>> {
        let backend = self.0.clone();
        async move {
            backend.launches.fetch_add(1, Ordering::Relaxed);
            progress.report(Stage::Start, "starting");
            let manner = backend.inner.lock().manners.get(&order.spec.id).cloned().unwrap_or_default();
            if let Some(error) = manner.launch_error {
                return Err(error);
            }
            let launched = backend.start(&order, &manner).await;
            if let Some(after) = manner.exit_after {
                let (backend, id) = (backend.clone(), order.id.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    backend.crash(&id).await;
                });
            }
            Ok(launched)
        }
        .boxed()
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Adopted>, BackendError>> {
        let fails = &self.0.adopt_fails;
        if fails.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return async { Err(BackendError::Platform("no answer".into())) }.boxed();
        }
        let inner = self.0.inner.lock();
        let adopted = inner.servers.iter().map(|(id, server)| Adopted {
            id: id.clone(),
            launched: server.launched.clone(),
            revision: server.revision,
            owner: server.owner.clone(),
            variant: server.variant.clone(),
            started_at_ms: server.started_at_ms,
            was_ready: true,
            ready_ms: Some(20),
            seats: inner.noted.get(id).cloned().unwrap_or_default(),
        });
        let adopted = adopted.collect();
        async move { Ok(adopted) }.boxed()
    }

    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        _grace: Duration,
    ) -> BoxFuture<'a, Result<ExitReport, BackendError>> {
        async move {
            self.0.stops.fetch_add(1, Ordering::Relaxed);
            let takes = self.0.inner.lock().manners.get(id.app()).map(|manner| manner.stop_takes);
            // Dead to visitors from the first moment of the stop.
            self.0.end(id);
            tokio::time::sleep(takes.unwrap_or_default()).await;
            Ok(exit("exited with status 0", Some(0), None))
        }
        .boxed()
    }

    fn note_seats<'a>(&'a self, id: &'a InstanceId, seats: Vec<SeatId>) -> BoxFuture<'a, ()> {
        self.0.inner.lock().noted.insert(id.clone(), seats);
        async {}.boxed()
    }

    fn logs<'a>(
        &'a self,
        _id: &'a InstanceId,
        query: LogQuery,
    ) -> BoxFuture<'a, Result<BoxStream<'static, String>, BackendError>> {
        let lines: Vec<_> = self.0.inner.lock().lines.iter().take(query.tail).cloned().collect();
        async move { Ok(stream::iter(lines).boxed()) }.boxed()
    }

    fn stats<'a>(&'a self, _id: &'a InstanceId) -> BoxFuture<'a, Option<Stats>> {
        async { None }.boxed()
    }
}

/// A launcher over a fake backend.
pub(crate) struct World {
    pub(crate) backend: Arc<FakeBackend>,
    pub(crate) handle: Handle,
    pub(crate) task: DriverTask,
    pub(crate) journal: mpsc::Receiver<Event>,
}

impl World {
    pub(crate) fn new(config: DriverConfig, specs: Vec<AppSpec>) -> Self {
        let (backend, events) = FakeBackend::new();
        Self::over(backend, events, config, specs)
    }

    pub(crate) fn over(
        backend: Arc<FakeBackend>,
        events: mpsc::Receiver<BackendEvent>,
        config: DriverConfig,
        specs: Vec<AppSpec>,
    ) -> Self {
        let (to, journal) = mpsc::channel(10_000);
        let backends: Vec<Arc<dyn Backend>> = vec![Arc::new(Backing(backend.clone()))];
        let (handle, task) = driver::start(config, backends, events, to);
        handle.set_apps(specs.into_iter().map(Arc::new).collect());
        Self { backend, handle, task, journal }
    }

    pub(crate) fn ask(&self, kind: ClaimKind, key: Option<SeatKey>) -> Outcome {
        self.handle.claim(Claim { key, kind, ..claim("a") })
    }

    /// A seat of the app `a`, waited for.
    pub(crate) async fn seat(&self, kind: ClaimKind, key: Option<SeatKey>) -> Result<Lease, Refusal> {
        match self.ask(kind, key) {
            Outcome::Granted(lease) => Ok(lease),
            Outcome::Waiting(waiting) => waiting.granted().await,
            Outcome::Refused(refusal) => Err(refusal),
        }
    }

    pub(crate) fn wait(&self, kind: ClaimKind) -> Waiting {
        match self.ask(kind, None) {
            Outcome::Waiting(waiting) => waiting,
            Outcome::Granted(_) => panic!("granted instead of waiting"),
            Outcome::Refused(refusal) => panic!("refused: {refusal}"),
        }
    }

    /// With one seat of two taken: takes the other, and waits for a third on another instance.
    pub(crate) async fn wait_for_third(&self) -> Waiting {
        let second = self.seat(ClaimKind::HeldPage, None).await.unwrap();
        // Kept open until the test ends.
        std::mem::forget(second);
        self.wait(ClaimKind::Held)
    }

    pub(crate) fn kinds(&mut self) -> Vec<EventKind> {
        std::iter::from_fn(|| self.journal.try_recv().ok()).map(|event| event.kind).collect()
    }
}

pub(crate) fn app(name: &str) -> AppId {
    name.parse().unwrap()
}

/// Of somebody about whom nothing is known.
pub(crate) fn claim(name: &str) -> Claim {
    Claim {
        app: app(name),
        name: None,
        joins: None,
        chosen: None,
        key: None,
        principal: Principal::Anonymous,
        kind: ClaimKind::Held,
    }
}

pub(crate) fn user(name: &str) -> Principal {
    Principal::User { name: name.parse().unwrap(), groups: Vec::new() }
}

pub(crate) fn spec(name: &str) -> AppSpec {
    AppSpec {
        id: app(name),
        mount: Mount::of(&app(name)),
        title: name.to_owned(),
        description: String::new(),
        icon: None,
        section: None,
        framework: Framework::Command,
        prefix: Prefix::Strip,
        source: Source::Folder { dir: PathBuf::from("/nowhere"), entry: None },
        backend: BackendKind::Process,
        revision: Revision(1),
        command: None,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        seats: 2,
        min_seats: 0,
        max_instances: 4,
        per_user: false,
        max_instances_per_user: 5,
        parameters: Default::default(),
        stop_on_logout: false,
        start_timeout: Duration::from_secs(120),
        idle_timeout: Duration::from_secs(60),
        inactivity_timeout: None,
        max_lifetime: None,
        max_waiting: 10,
        health: Health { path: "/".into(), strict: false },
        access: Access::default(),
        allowed_origins: Vec::new(),
        limits: Limits::default(),
        run_as: None,
        hold: Hold::Page,
    }
}

/// One request as the edge would send it. Answers the body.
pub(crate) async fn get(lease: &Lease) -> io::Result<String> {
    let mut text = String::new();
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    match lease.upstream().dial.dial().await? {
        Stream::Tcp(mut stream) => {
            stream.write_all(request).await?;
            stream.read_to_string(&mut text).await?;
        }
        Stream::Unix(mut stream) => {
            stream.write_all(request).await?;
            stream.read_to_string(&mut text).await?;
        }
        Stream::Other(_) => unreachable!("the fake backend has sockets only"),
    }
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(format!("cut off: {text:?}")))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(head.to_owned()));
    }
    Ok(body.to_owned())
}

/// Waits for something to become true, at most a minute.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn exit(reason: &str, code: Option<i32>, signal: Option<i32>) -> ExitReport {
    ExitReport {
        reason: reason.to_owned(),
        code,
        signal,
        out_of_memory: false,
        last_lines: Vec::new(),
        ended_by: EndedBy::Itself,
    }
}

//! Everything around the control plane: a launcher whose instances are doors in this process, a store in a temporary
//! folder, and the edge's end of the channel.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use skep_control::{Control, ControlConfig, Deps, LoginConfig, LoginDeps};
use skep_edge::{CallBody, Client, ControlCall, Purpose, ReplyBody};
use skep_identity::{KeyRing, LoginCookie, SessionSealer};
use skep_launch::driver::{self, DriverConfig};
use skep_launch::{
    Adopted, Backend, BackendError, BackendEvent, Claim, ClaimKind, Dial, EndedBy, ExitReport, Handle,
    LaunchOrder, Launched, LogQuery, Outcome, ProgressSink, SeatKey, Stage, Stats, Stream,
};
use skep_model::{
    Access, AppId, AppSpec, BackendKind, Framework, Health, Hold, InstanceId, Limits, Mount, Prefix,
    Principal, Revision, SeatId, Source,
};
use skep_store::{Location, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tower::ServiceExt;

pub(crate) fn app(id: &str) -> AppId {
    id.parse().unwrap()
}

pub(crate) fn spec(id: &str, title: &str) -> AppSpec {
    AppSpec {
        id: app(id),
        mount: Mount::of(&app(id)),
        title: title.to_owned(),
        description: format!("What {id} shows"),
        max_instances_per_user: 5,
        parameters: Default::default(),
        icon: None,
        section: None,
        framework: Framework::Command,
        prefix: Prefix::Strip,
        source: Source::Folder { dir: "/nowhere".into(), entry: None },
        backend: BackendKind::Process,
        revision: Revision(1),
        command: None,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        seats: 1,
        min_seats: 0,
        max_instances: 1,
        per_user: false,
        stop_on_logout: false,
        start_timeout: Duration::from_secs(120),
        idle_timeout: Duration::from_secs(600),
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

/// A backend whose instances listen from the start and answer once their app's door is open.
pub(crate) struct Doors {
    open: watch::Sender<bool>,
    /// Launches fail with this.
    pub(crate) broken: Mutex<Option<BackendError>>,
    lines: Mutex<HashMap<InstanceId, Vec<String>>>,
    news: broadcast::Sender<(InstanceId, String)>,
    tasks: Mutex<HashMap<InstanceId, tokio::task::AbortHandle>>,
}

impl Doors {
    pub(crate) fn write(&self, id: &InstanceId, line: &str) {
        self.lines.lock().entry(id.clone()).or_default().push(line.to_owned());
        let _nobody = self.news.send((id.clone(), line.to_owned()));
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
}

struct Door(u16);

impl Dial for Door {
    fn dial(&self) -> BoxFuture<'static, io::Result<Stream>> {
        let port = self.0;
        async move { TcpStream::connect(("127.0.0.1", port)).await.map(Stream::Tcp) }.boxed()
    }

    fn describe(&self) -> String {
        format!("127.0.0.1:{}", self.0)
    }
}

impl Backend for Doors {
    fn kind(&self) -> BackendKind {
        BackendKind::Process
    }

    fn launch(
        &self,
        order: LaunchOrder,
        progress: ProgressSink,
    ) -> BoxFuture<'_, Result<Launched, BackendError>> {
        async move {
            if let Some(problem) = self.broken.lock().clone() {
                return Err(problem);
            }
            self.write(&order.id, "the first line");
            progress.report(Stage::Start, "python3 serve.py");
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut open = self.open.subscribe();
            let task = tokio::spawn(async move {
                open.wait_for(|open| *open).await.unwrap();
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut head = [0; 2048];
                    let _some = stream.read(&mut head).await;
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                    let _gone = stream.write_all(answer.as_bytes()).await;
                }
            });
            self.tasks.lock().insert(order.id, task.abort_handle());
            Ok(Launched { dial: Arc::new(Door(port)), pid: Some(4711), node: "local".into() })
        }
        .boxed()
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Adopted>, BackendError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        _: Duration,
    ) -> BoxFuture<'a, Result<ExitReport, BackendError>> {
        if let Some(task) = self.tasks.lock().remove(id) {
            task.abort();
        }
        let report = ExitReport {
            reason: "exited with status 0".into(),
            code: Some(0),
            signal: None,
            out_of_memory: false,
            last_lines: Vec::new(),
            ended_by: EndedBy::Itself,
        };
        async { Ok(report) }.boxed()
    }

    fn note_seats<'a>(&'a self, _: &'a InstanceId, _: Vec<SeatId>) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }

    fn logs<'a>(
        &'a self,
        id: &'a InstanceId,
        query: LogQuery,
    ) -> BoxFuture<'a, Result<BoxStream<'static, String>, BackendError>> {
        let news = self.news.subscribe();
        let Some(lines) = self.lines.lock().get(id).cloned() else {
            return async { Err(BackendError::Unknown) }.boxed();
        };
        let skip = lines.len().saturating_sub(query.tail);
        let old = stream::iter(lines.into_iter().skip(skip));
        let id = id.clone();
        let new = stream::unfold((news, id), |(mut news, id)| async move {
            loop {
                let (of, line) = news.recv().await.ok()?;
                if of == id {
                    return Some((line, (news, id)));
                }
            }
        });
        let all = if query.follow { old.chain(new).boxed() } else { old.boxed() };
        async { Ok(all) }.boxed()
    }

    fn stats<'a>(&'a self, _: &'a InstanceId) -> BoxFuture<'a, Option<Stats>> {
        async { Some(Stats { cpu_seconds: 1.5, memory_bytes: 4096, processes: 2 }) }.boxed()
    }
}

pub(crate) struct World {
    pub(crate) doors: Arc<Doors>,
    pub(crate) handle: Handle,
    pub(crate) control: Control,
    pub(crate) store: Store,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) keys: Arc<KeyRing>,
    /// The name visitors use.
    pub(crate) host: Mutex<String>,
    /// Whether visitors come to the host the console answers at.
    pub(crate) at_console: Mutex<bool>,
    calls: mpsc::Sender<ControlCall>,
    _backend_events: mpsc::Sender<BackendEvent>,
}

/// An answer with its body read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The stable code of a problem.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        body["code"].as_str().unwrap().to_owned()
    }
}

impl World {
    /// With the journal being kept, as in the real server.
    pub(crate) async fn new(config: ControlConfig, specs: Vec<AppSpec>) -> Self {
        Self::build(config, specs, None).await
    }

    /// With a login.
    pub(crate) async fn with_login(login: LoginConfig, specs: Vec<AppSpec>) -> Self {
        Self::build(ControlConfig::default(), specs, Some(login)).await
    }

    async fn build(config: ControlConfig, specs: Vec<AppSpec>, login: Option<LoginConfig>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Location::Sqlite(folder.path().join("skep.db"))).await.unwrap();
        let doors = Arc::new(Doors {
            open: watch::Sender::new(false),
            broken: Mutex::default(),
            lines: Mutex::default(),
            news: broadcast::Sender::new(64),
            tasks: Mutex::default(),
        });
        let (backend_events, events_in) = mpsc::channel(8);
        let (journal, journal_in) = mpsc::channel(1024);
        let backends: Vec<Arc<dyn Backend>> = vec![doors.clone()];
        let mut driving = DriverConfig::default();
        // A failed start is told until it may be tried again: so long that no machine is slow enough to miss it.
        driving.pool.backoff_base = Duration::from_secs(60);
        let (handle, _task) = driver::start(driving, backends.clone(), events_in, journal.clone());
        handle.set_apps(specs.into_iter().map(Arc::new).collect());
        let exposition = skep_telemetry::install().unwrap();
        // Nobody carries out orders to the server here.
        let (orders, _) = mpsc::channel(1);
        let keys = Arc::new(KeyRing::ephemeral().unwrap());
        let (handle_of, store_of, keys_of) = (handle.clone(), store.clone(), Arc::clone(&keys));
        let deps =
            Deps { handle: handle_of, backends, store: store_of, exposition, config, keys: keys_of, orders };
        let control = match login {
            None => Control::new(deps),
            Some(config) => Control::with_login(deps, LoginDeps { keys: Arc::clone(&keys), journal, config }),
        };
        control.read_users().await.unwrap();
        let (calls, calls_in) = mpsc::channel(64);
        tokio::spawn(control.clone().serve(calls_in));
        tokio::spawn(control.clone().record(journal_in));
        let host = Mutex::new("localhost:8080".to_owned());
        let at_console = Mutex::new(true);
        Self {
            doors,
            handle,
            control,
            store,
            folder,
            keys,
            host,
            at_console,
            calls,
            _backend_events: backend_events,
        }
    }

    /// Whom the edge would take the visitor for.
    fn principal(&self, headers: &axum::http::HeaderMap) -> Principal {
        let admission = Arc::clone(&self.control.admission().borrow());
        let cookie = headers.get("cookie").map(|value| value.to_str().unwrap()).unwrap_or_default();
        let values = skep_identity::cookies::values(cookie, LoginCookie::Host.name());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now_ms = i64::try_from(now.as_millis()).unwrap();
        let admitted = admission.admit(&SessionSealer::new(&self.keys), LoginCookie::Host, values, now_ms);
        admitted.map_or(Principal::Anonymous, |admitted| admitted.principal)
    }

    /// What the edge would send.
    pub(crate) async fn call(
        &self,
        purpose: Purpose,
        request: Request<impl Into<Bytes>>,
    ) -> Response<ReplyBody> {
        let (reply, answer) = oneshot::channel();
        let (head, body) = request.into_parts();
        let body = http_body_util::Full::new(body.into());
        let client = Client {
            ip: [127, 0, 0, 1].into(),
            https: false,
            host: self.host.lock().clone(),
            at_console: *self.at_console.lock(),
            request_id: 0x5eed,
        };
        let request = Request::from_parts(head, CallBody::new(body.map_err(|never| match never {})));
        let principal = self.principal(request.headers());
        let call = ControlCall { purpose, request, client, principal, reply };
        assert!(self.calls.send(call).await.is_ok());
        tokio::time::timeout(Duration::from_secs(60), answer).await.unwrap().unwrap()
    }

    pub(crate) async fn answer(&self, purpose: Purpose, request: Request<impl Into<Bytes>>) -> Answer {
        read(self.call(purpose, request).await.map(Body::new)).await
    }

    /// A visitor's page load of one of our own addresses.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header("accept", "text/html,*/*;q=0.8").body("").unwrap();
        self.answer(Purpose::Own, request).await
    }

    /// Through the control socket.
    pub(crate) async fn operator(&self, method: &str, path: &str) -> Response<Body> {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        self.control.admin_router().oneshot(request).await.unwrap()
    }

    pub(crate) async fn operate(&self, method: &str, path: &str) -> Answer {
        read(self.operator(method, path).await).await
    }

    /// A page load's claim that has to wait. The seat keeps its place, as the edge's page loads do.
    pub(crate) fn claim(&self, id: &str) -> Result<SeatKey, skep_launch::Refusal> {
        let claim = Claim {
            app: app(id),
            name: None,
            joins: None,
            chosen: None,
            key: None,
            principal: Principal::Anonymous,
            kind: ClaimKind::Page,
        };
        match self.handle.claim(claim) {
            Outcome::Waiting(waiting) => Ok(waiting.key()),
            Outcome::Granted(lease) => Ok(lease.key()),
            Outcome::Refused(refusal) => Err(refusal),
        }
    }

    /// Waits until the journal has so many records: they are written behind whatever they tell of.
    pub(crate) async fn recorded(&self, count: i64) {
        let journal = self.store.journal();
        let written = async {
            while journal.last_seq().await.unwrap() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), written).await.unwrap();
    }

    /// Waits until the app has an instance in this state.
    pub(crate) async fn instance(&self, id: &str, ready: bool) -> InstanceId {
        let phase =
            if ready { skep_launch::InstancePhase::Ready } else { skep_launch::InstancePhase::Starting };
        let mut found = None;
        until("an instance", || {
            found =
                self.handle.instances().into_iter().find(|view| view.app == app(id) && view.phase == phase);
            found.is_some()
        })
        .await;
        found.unwrap().id
    }
}

pub(crate) async fn read(response: Response<Body>) -> Answer {
    let (head, body) = response.into_parts();
    let body =
        tokio::time::timeout(Duration::from_secs(60), body.collect()).await.unwrap().unwrap().to_bytes();
    Answer { status: head.status, headers: head.headers, text: String::from_utf8(body.to_vec()).unwrap() }
}

/// The lines of a body as they come.
pub(crate) struct Lines {
    body: Body,
    rest: String,
}

impl Lines {
    pub(crate) fn of(body: Body) -> Self {
        Self { body, rest: String::new() }
    }

    /// The next line that is not empty; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((line, rest)) = self.rest.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.rest = rest;
                if !line.is_empty() {
                    return Some(line);
                }
                continue;
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), self.body.frame()).await.unwrap()?;
            let data = frame.unwrap().into_data().unwrap();
            self.rest.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    pub(crate) async fn json(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.next().await.unwrap()).unwrap()
    }
}

/// Waits for something to become true, at most a minute.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

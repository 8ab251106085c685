//! The control plane's hub: it hands each call to whoever answers it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use skep_edge::{Client, ControlCall, Purpose, ReplyBody};
use skep_identity::{Admission, GuestSealer, KeyRing, SeatSealer, ShareSealer};
use skep_launch::{Backend, BackendError, Handle, LogQuery, Refusal};
use skep_model::{AppId, AppSpec, Event, InstanceId, Mount, Principal, SeatId, Source, Variant};
use skep_store::{Journal, Store, StoreError, Usage};
use skep_telemetry::Exposition;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::api::{self, ServerOrder};
use crate::login::{Login, LoginDeps};
use crate::portal::PortalConfig;
use crate::reconcile::record::{self, RecordState};
use crate::reconcile::usage;
use crate::rights::{Caller, Rights};
use crate::roster::Roster;
use crate::streams::Streams;
use crate::ui::launch::LaunchView;
use crate::ui::page::Page;
use crate::ui::portal::Cards;
use crate::ui::refused::Refused;
use crate::{choose, follow, login, router, ui};

/// Calls of the edge answered at a time; the rest wait in the edge's bounded channel.
const MAX_ANSWERS: usize = 256;
/// The longest an answer may take to begin. Stopping an app drains it first.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
const LAUNCH_LOG_LINES: usize = 12;

/// What the control plane works with.
pub struct Deps {
    pub handle: Handle,
    pub backends: Vec<Arc<dyn Backend>>,
    pub store: Store,
    pub exposition: Exposition,
    pub config: ControlConfig,
    /// What links and cookies are sealed with.
    pub keys: Arc<KeyRing>,
    /// Where orders to the server as a whole go.
    pub orders: mpsc::Sender<ServerOrder>,
}

#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// What the portal looks like; followed while the server runs.
    pub portal: watch::Receiver<Arc<PortalConfig>>,
    /// Where people reach the server, for links: `https://apps.example.org`. Empty when not known.
    pub address: String,
    /// Where apps are, when the console has a host of its own: `https://apps.example.org`.
    pub apps_elsewhere: Option<String>,
    /// Whether every visitor sees what a starting or failed app wrote, not only who manages it. For loopback without
    /// a login.
    pub show_logs: bool,
    /// How long others may come onto an instance its owner shares. Zero: nobody shares.
    pub share_lifetime: Duration,
    /// How long the journal is kept.
    pub journal_age: Duration,
    /// How many records of it are kept at most.
    pub journal_records: u32,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            portal: watch::channel(Arc::default()).1,
            address: String::new(),
            apps_elsewhere: None,
            show_logs: false,
            share_lifetime: Duration::from_secs(24 * 3600),
            journal_age: Duration::from_secs(365 * 24 * 3600),
            journal_records: 1_000_000,
        }
    }
}

/// The control plane. Cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    deps: Deps,
    login: Login,
    shares: ShareSealer,
    guests: GuestSealer,
    seats: SeatSealer,
    record: watch::Sender<RecordState>,
    streams: Streams,
    seen: Mutex<Seen>,
}

/// What is remembered between two answers.
#[derive(Default)]
struct Seen {
    cards: Arc<Cards>,
    /// Apps whose instances were ever reported in the metrics.
    reported: BTreeSet<String>,
}

impl Control {
    /// Without a login: everybody uses every app.
    pub fn new(deps: Deps) -> Self {
        Self::build(deps, None)
    }

    /// With a login for local users. Nobody is anybody until [`Control::read_users`] has been called.
    pub fn with_login(deps: Deps, login: LoginDeps) -> Self {
        Self::build(deps, Some(login))
    }

    fn build(deps: Deps, login: Option<LoginDeps>) -> Self {
        Self(Arc::new(Inner {
            login: Login::new(Roster::new(deps.store.people(), &deps.config.address), login),
            shares: ShareSealer::new(&deps.keys),
            guests: GuestSealer::new(&deps.keys),
            seats: SeatSealer::new(&deps.keys),
            deps,
            record: watch::Sender::default(),
            streams: Streams::default(),
            seen: Mutex::default(),
        }))
    }

    /// Who may come in, as the edge needs it. Changes with every change of users, groups and grants.
    pub fn admission(&self) -> watch::Receiver<Arc<Admission>> {
        self.0.login.subscribe()
    }

    /// Reads the users, so that the first request is admitted rightly.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read_users(&self) -> Result<(), StoreError> {
        self.0.login.refresh().await
    }

    /// Follows changes of the users, and of what is shared, made elsewhere, and forgets what has run out.
    pub async fn keep_users(self) {
        if self.0.login.is_on() {
            let leaving = login::leaving::follow(self.clone());
            tokio::join!(self.0.login.keep(), leaving);
        }
    }

    /// The users, for the first administrator's link.
    pub fn roster(&self) -> &Roster {
        &self.0.login.roster
    }

    /// Answers the edge's calls, a bounded number at a time, until the edge is gone.
    pub async fn serve(self, mut calls: mpsc::Receiver<ControlCall>) {
        let answers = Arc::new(Semaphore::new(MAX_ANSWERS));
        let own = router::visitors(self.clone());
        while let Some(call) = calls.recv().await {
            let Ok(permit) = Arc::clone(&answers).acquire_owned().await else { return };
            let (control, own) = (self.clone(), own.clone());
            tokio::spawn(async move {
                control.answer(own, call).await;
                drop(permit);
            });
        }
    }

    /// Serves the API with full rights, health and metrics on the control socket. Its file mode is its lock.
    ///
    /// # Errors
    /// When the socket cannot accept any more.
    pub async fn serve_admin(self, listener: UnixListener) -> std::io::Result<()> {
        axum::serve(listener, router::operators(self)).await
    }

    /// Serves metrics and health, and nothing else, on the admin listener.
    ///
    /// # Errors
    /// When the listener cannot accept any more.
    pub async fn serve_metrics(self, listener: TcpListener) -> std::io::Result<()> {
        axum::serve(listener, router::metrics(self)).await
    }

    /// The API with full rights, health and metrics, for whoever serves it otherwise.
    pub fn admin_router(&self) -> axum::Router {
        router::operators(self.clone())
    }

    /// Metrics and health.
    pub fn metrics_router(&self) -> axum::Router {
        router::metrics(self.clone())
    }

    /// Keeps the journal: writes what arrives until the channel closes, then what is left.
    pub async fn record(self, events: mpsc::Receiver<Event>) {
        let config = &self.0.deps.config;
        let retention = record::Keep { age: config.journal_age, records: config.journal_records };
        record::run(self.0.deps.store.journal(), events, &self.0.record, retention).await;
    }

    /// Counts visits until `end`.
    pub async fn count_visits(self, end: CancellationToken) {
        usage::run(&self.0.deps.handle, &self.0.deps.store.usage(), &end).await;
    }

    async fn answer(&self, own: axum::Router, call: ControlCall) {
        let ControlCall { purpose, request, client, principal, mut reply } = call;
        let name = purpose_name(&purpose);
        let respond = self.respond(own, purpose, request.map(Body::new), client, principal);
        let response = tokio::select! {
            response = tokio::time::timeout(ANSWER_DEADLINE, Box::pin(respond)) => response,
            // The visitor left; nobody wants the answer.
            () = reply.closed() => return,
        };
        let response = response.unwrap_or_else(|_| {
            ui::assets::plain(StatusCode::GATEWAY_TIMEOUT, "Skep took too long to answer. Try again.\n")
        });
        let code = response.status().as_u16().to_string();
        metrics::counter!("skep_control_answers_total", "purpose" => name, "code" => code).increment(1);
        let _ = reply.send(response.map(into_reply));
    }

    async fn respond(
        &self,
        own: axum::Router,
        purpose: Purpose,
        mut request: Request<Body>,
        client: Client,
        principal: Principal,
    ) -> Response<Body> {
        let rights = Rights::Visitor { principal: principal.clone(), admission: self.0.login.admission() };
        let caller = Caller { rights, manages: client.at_console, request_id: client.request_id };
        match purpose {
            Purpose::Own => {
                request.extensions_mut().insert(caller);
                request.extensions_mut().insert(client);
                own.oneshot(request).await.unwrap_or_else(|never| match never {})
            }
            Purpose::LaunchPage { app, name, seat } => {
                self.launch_page(&app, Variant::named(name), seat.seat, &caller).await
            }
            Purpose::LaunchFollow { app, seat } => self.launch_follow(app, seat.seat, &caller),
            Purpose::LaunchRetry { app } => {
                self.0.deps.handle.retry(&app);
                empty(StatusCode::NO_CONTENT)
            }
            Purpose::RefusedPage { app, name, refusal: Refusal::ChoiceNeeded | Refusal::ChoiceWithdrawn } => {
                let variant = Variant::named(name.clone());
                match self.app(&app).map(|spec| spec.of_variant(&variant)) {
                    Some(spec) => {
                        let asked = (request.uri(), request.headers());
                        choose::page(self, &spec, name.as_ref(), &principal, asked)
                    }
                    None => api::Problem::unknown_app(app.as_str()).response(),
                }
            }
            Purpose::RefusedPage { app, name, refusal } => {
                let variant = Variant::named(name);
                self.refusal_of(&app, &variant, &request, &caller, |refused| {
                    ui::refused::refusal_page(refused, &app, &refusal)
                })
            }
            Purpose::MisnamedPage { app, why } => self
                .refusal(&app, &request, &caller, |refused| ui::refused::misnamed_page(refused, &app, why)),
            Purpose::DeniedPage { app } => {
                let user = match &principal {
                    Principal::User { name, .. } => name.as_str(),
                    _ => "nobody",
                };
                self.refusal_by(Some(&app), &request, &caller, |refused| {
                    ui::refused::denied_page(refused, &app.id, user)
                })
            }
            Purpose::BrokenPage { app, service, summary } => {
                let spec = service.or_else(|| self.app(&app));
                self.refusal_by(spec.as_deref(), &request, &caller, |refused| {
                    ui::refused::broken_page(refused, &app, &summary)
                })
            }
            Purpose::NoTaskPage { service } => {
                self.refusal_by(Some(&service), &request, &caller, |refused| {
                    ui::refused::no_task_page(refused, &service.id)
                })
            }
        }
    }

    async fn launch_page(
        &self,
        app: &AppId,
        variant: Variant,
        seat: SeatId,
        caller: &Caller,
    ) -> Response<Body> {
        let request_id = caller.request_id;
        let Some(spec) = self.app(app).map(|spec| spec.of_variant(&variant)) else {
            let page = ui::refused::not_found_page(app.as_str(), &[], self.portal_path(), request_id);
            return page.respond();
        };
        let status = self.0.deps.handle.status(app, Some(seat));
        let shows_log = self.shows_log(caller, Some(&spec));
        let lines = match &status.instance {
            Some(instance) if shows_log => self.tail(instance, LAUNCH_LOG_LINES).await,
            _ => Vec::new(),
        };
        let lines = shows_log.then_some(lines.as_slice());
        let portal = self.portal_path();
        ui::launch::page(&LaunchView { spec: &spec, status: &status, lines, portal, request_id }).respond()
    }

    fn launch_follow(&self, app: AppId, seat: SeatId, caller: &Caller) -> Response<Body> {
        let control = self.clone();
        let shows_log = self.shows_log(caller, self.app(&app).as_deref());
        let stream = |feed| follow::follow(control, app, seat, shows_log, feed);
        let Some(body) = self.0.streams.open(stream) else {
            return api::Problem::too_many_streams().response();
        };
        streaming("application/x-ndjson", body)
    }

    /// Whether whoever asks may see what the app wrote.
    fn shows_log(&self, caller: &Caller, spec: Option<&AppSpec>) -> bool {
        self.0.deps.config.show_logs || spec.is_some_and(|spec| caller.may_manage(spec))
    }

    fn refusal(
        &self,
        app: &AppId,
        request: &Request<Body>,
        caller: &Caller,
        page: impl FnOnce(&Refused<'_>) -> Page,
    ) -> Response<Body> {
        self.refusal_of(app, &Variant::default(), request, caller, page)
    }

    fn refusal_of(
        &self,
        app: &AppId,
        variant: &Variant,
        request: &Request<Body>,
        caller: &Caller,
        page: impl FnOnce(&Refused<'_>) -> Page,
    ) -> Response<Body> {
        let spec = self.app(app).map(|spec| spec.of_variant(variant));
        self.refusal_by(spec.as_deref(), request, caller, page)
    }

    fn refusal_by(
        &self,
        spec: Option<&AppSpec>,
        request: &Request<Body>,
        caller: &Caller,
        page: impl FnOnce(&Refused<'_>) -> Page,
    ) -> Response<Body> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let refused = Refused {
            spec,
            target,
            show_lines: self.shows_log(caller, spec),
            // On a host of its own, `/` is the service's.
            portal: match spec.map(|spec| &spec.source) {
                Some(Source::Service(_)) => "/_skep/",
                _ => self.portal_path(),
            },
            request_id: caller.request_id,
        };
        page(&refused).respond()
    }
}

/// What the routes use.
impl Control {
    pub(crate) fn handle(&self) -> &Handle {
        &self.0.deps.handle
    }

    pub(crate) fn login(&self) -> &Login {
        &self.0.login
    }

    pub(crate) fn seats(&self) -> &SeatSealer {
        &self.0.seats
    }

    pub(crate) fn shares(&self) -> &ShareSealer {
        &self.0.shares
    }

    pub(crate) fn guests(&self) -> &GuestSealer {
        &self.0.guests
    }

    /// What an address of an app begins with on a page of ours: nothing, unless the page is on the console's own host.
    pub(crate) fn apps_at(&self, client: &Client) -> &str {
        let elsewhere = self.0.deps.config.apps_elsewhere.as_deref().filter(|_| client.at_console);
        elsewhere.map_or("", |url| url.trim_end_matches('/'))
    }

    pub(crate) fn config(&self) -> &ControlConfig {
        &self.0.deps.config
    }

    pub(crate) fn orders(&self) -> &mpsc::Sender<ServerOrder> {
        &self.0.deps.orders
    }

    pub(crate) fn journal(&self) -> Journal {
        self.0.deps.store.journal()
    }

    pub(crate) fn usage(&self) -> Usage {
        self.0.deps.store.usage()
    }

    pub(crate) fn exposition(&self) -> &Exposition {
        &self.0.deps.exposition
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// How the journal is doing; changes with every batch written.
    pub(crate) fn recorded(&self) -> watch::Receiver<RecordState> {
        self.0.record.subscribe()
    }

    pub(crate) fn app(&self, id: &AppId) -> Option<Arc<AppSpec>> {
        self.0.deps.handle.apps().into_iter().find(|spec| spec.id == *id)
    }

    /// What the portal looks like now.
    pub(crate) fn look(&self) -> Arc<PortalConfig> {
        Arc::clone(&self.0.deps.config.portal.borrow())
    }

    /// The cards of the apps published now.
    pub(crate) fn cards(&self) -> Arc<Cards> {
        let apps = self.0.deps.handle.apps();
        let look = self.look();
        let known = Arc::clone(&self.0.seen.lock().cards);
        if known.fit(&apps, &look) {
            return known;
        }
        let cards = Arc::new(Cards::render(apps, look));
        self.0.seen.lock().cards = Arc::clone(&cards);
        cards
    }

    /// Where the list of apps is: at `/`, unless an app is published there.
    pub(crate) fn portal_path(&self) -> &'static str {
        let root = Mount::root();
        if self.0.deps.handle.apps().iter().any(|spec| spec.mount == root) { "/_skep/" } else { "/" }
    }

    /// Apps with at least one instance that is up.
    pub(crate) fn running(&self) -> HashSet<AppId> {
        let up = |view: &skep_launch::InstanceView| view.phase == skep_launch::InstancePhase::Ready;
        self.0.deps.handle.instances().into_iter().filter(up).map(|view| view.app).collect()
    }

    /// Every app that was ever reported in the metrics, including these now.
    pub(crate) fn known_apps<'a>(&self, now: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
        let reported = &mut self.0.seen.lock().reported;
        reported.extend(now.cloned());
        reported.clone()
    }

    pub(crate) fn backends(&self) -> &[Arc<dyn Backend>] {
        &self.0.deps.backends
    }

    /// The log of an instance, alive or ended, from whichever backend knows it.
    pub(crate) async fn logs(
        &self,
        id: &InstanceId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, String>, BackendError> {
        let mut answer = Err(BackendError::Unknown);
        for backend in &self.0.deps.backends {
            answer = backend.logs(id, query).await;
            if !matches!(answer, Err(BackendError::Unknown)) {
                break;
            }
        }
        answer
    }

    /// The last lines of an instance's log; none when they cannot be had at once.
    async fn tail(&self, id: &InstanceId, lines: usize) -> Vec<String> {
        let read = async {
            let stream = self.logs(id, LogQuery { tail: lines, follow: false }).await.ok()?;
            Some(stream.take(lines).collect::<Vec<_>>().await)
        };
        let read = tokio::time::timeout(Duration::from_millis(200), read).await;
        read.ok().flatten().unwrap_or_default()
    }
}

pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// An answer that goes on; nothing between us and the browser may collect it first.
pub(crate) fn streaming(media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn into_reply(body: Body) -> ReplyBody {
    ReplyBody::new(body.map_err(Into::into))
}

fn purpose_name(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Own => "own",
        Purpose::LaunchPage { .. } => "launch-page",
        Purpose::LaunchFollow { .. } => "launch-follow",
        Purpose::LaunchRetry { .. } => "launch-retry",
        Purpose::RefusedPage { .. } => "refused-page",
        Purpose::MisnamedPage { .. } => "misnamed-page",
        Purpose::DeniedPage { .. } => "denied-page",
        Purpose::BrokenPage { .. } => "broken-page",
        Purpose::NoTaskPage { .. } => "no-task-page",
    }
}

//! Ordinary services: their tasks are started and stopped by somebody else (a Swarm), and a request goes to one of those
//! that are well. No seat, no claim: the choice is made per request.
//!
//! Invariants: a request that was surely not sent goes to another task before anybody is told of a failure; a task that
//! refused is left alone for a moment; a task that is off the list gets nothing new, while what it is at goes on. A request
//! that waits outlives its route: when the service is published another way, it is routed and admitted anew, and told so when
//! nothing is published there any more.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{HeaderValue, Response, header::SET_COOKIE};
use skep_launch::{Dial, Upstream};
use skep_model::{AppSpec, InstanceId, Principal};
use tokio::sync::{Notify, watch};

use crate::admit::{self, Admitted};
use crate::body::EdgeBody;
use crate::claim;
use crate::control_call::Purpose;
use crate::exchange::Exchange;
use crate::forward::{Broken, Speaker};
use crate::own;
use crate::pool::ConnectError;
use crate::problem::Problem;
use crate::request::{self, Conn, Lost, Stop, Target, Visit, carry, problem_of};
use crate::routes::Route;
use crate::visit;

/// For how long a task that refused is avoided, as long as there are others.
const SUSPECT_MS: u64 = 1000;
/// Between two looks for a task that may be tried again.
const REST: Duration = Duration::from_millis(100);

/// An ordinary service, published.
#[derive(Debug)]
pub struct ServiceRoute {
    /// Whose access rules, mount path and id (in logs and figures) it has.
    pub spec: Arc<AppSpec>,
    /// The name it is published under; none: every name.
    pub host: Option<String>,
    pub spread: Spread,
    /// A visitor stays with a task for as long as that is well.
    pub sticky: bool,
    /// How long a request waits for a first task that is well.
    pub patience: Duration,
    /// The tasks that are well now. Its sender goes when the service is published so no longer, and not before the table of
    /// routes says so.
    pub targets: watch::Receiver<Arc<[Arc<ServiceTarget>]>>,
    /// Told whenever a request finds no task.
    pub wanted: Arc<Notify>,
    turn: AtomicUsize,
}

/// Which task a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spread {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest open requests.
    LeastLoad,
}

/// One task of a service.
pub struct ServiceTarget {
    upstream: Arc<Upstream>,
    open: AtomicUsize,
    /// When it last refused, milliseconds of the process's clock; 0: never.
    refused_at: AtomicU64,
}

impl fmt::Debug for ServiceTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({} open)", self.upstream, self.open.load(Relaxed))
    }
}

impl ServiceTarget {
    /// `nonce` tells it from the service's other tasks, also for a visitor who comes back.
    pub fn new(spec: &AppSpec, nonce: u64, dial: Arc<dyn Dial>) -> Arc<Self> {
        let upstream = Arc::new(Upstream {
            app: spec.id.clone(),
            name: None,
            instance: InstanceId::new(spec.id.clone(), nonce),
            prefix: spec.prefix,
            base_path: spec.mount.base_path().to_owned(),
            dial,
        });
        Arc::new(Self { upstream, open: AtomicUsize::new(0), refused_at: AtomicU64::new(0) })
    }

    pub fn instance(&self) -> &InstanceId {
        &self.upstream.instance
    }

    /// Requests and tunnels it is at.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    fn is_suspect(&self, now_ms: u64) -> bool {
        let refused_at = self.refused_at.load(Relaxed);
        refused_at != 0 && now_ms.saturating_sub(refused_at) < SUSPECT_MS
    }
}

/// A request or a tunnel that a task is at. Counted until it is dropped.
pub(crate) struct Attended(Arc<ServiceTarget>);

impl Attended {
    fn by(target: &Arc<ServiceTarget>) -> Self {
        target.open.fetch_add(1, Relaxed);
        Self(Arc::clone(target))
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl ServiceRoute {
    pub fn new(
        spec: Arc<AppSpec>,
        host: Option<String>,
        targets: watch::Receiver<Arc<[Arc<ServiceTarget>]>>,
    ) -> Self {
        Self {
            spec,
            host,
            spread: Spread::default(),
            sticky: false,
            patience: Duration::from_secs(10),
            targets,
            wanted: Arc::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The task for the next request: the visitor's own if it is there, else by [`Spread`] among those that have not been
    /// tried and did not just refuse; when all did, one of them.
    fn choose(
        &self,
        targets: &[Arc<ServiceTarget>],
        own: Option<&InstanceId>,
        tried: &[InstanceId],
        now_ms: u64,
    ) -> Option<Arc<ServiceTarget>> {
        let untried = |target: &&Arc<ServiceTarget>| !tried.contains(&target.upstream.instance);
        if let Some(own) = own
            && let Some(target) = targets.iter().filter(untried).find(|target| target.instance() == own)
        {
            return Some(Arc::clone(target));
        }
        // Two passes over a handful of tasks cost less than a list of candidates.
        let pick = |good: &dyn Fn(&&Arc<ServiceTarget>) -> bool| {
            let turn = self.turn.fetch_add(1, Relaxed);
            let from = turn % targets.len().max(1);
            let around = targets[from..].iter().chain(&targets[..from]);
            let mut candidates = around.filter(|target| good(target));
            match self.spread {
                Spread::RoundRobin => candidates.next(),
                Spread::LeastLoad => candidates.min_by_key(|target| target.open()),
            }
        };
        pick(&|target| untried(target) && !target.is_suspect(now_ms))
            .or_else(|| pick(&untried))
            .map(Arc::clone)
    }
}

/// Milliseconds of a clock that only goes forward; never 0.
fn clock_ms() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let since = START.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// What a request that waited is served by.
enum Held {
    By(Arc<ServiceTarget>),
    /// No task came in time.
    Nobody,
    /// The service is published another way now, or not at all.
    Unrouted,
}

/// Serves a request by one of the service's tasks, whatever becomes of its route while the request waits for one.
pub(crate) async fn serve(
    conn: &std::rc::Rc<Conn>,
    mut visit: Box<Visit>,
    mut service: Arc<ServiceRoute>,
    exchange: &mut Option<Box<Exchange>>,
    cookies: &mut Vec<HeaderValue>,
) -> Result<Response<EdgeBody>, Stop> {
    let since = Instant::now();
    loop {
        if let Some(response) = by_a_task(conn, &mut visit, &service, since, exchange).await? {
            return Ok(response);
        }
        // Who may come in may be what has changed.
        let target = request::find(conn, &visit.host, &visit.parts.uri);
        let anew = match &target {
            Target::Service(Route { service: Some(next), .. }) => !Arc::ptr_eq(next, &service),
            Target::Own => visit.navigation,
            _ => false,
        };
        if !anew {
            let detail = "while the request waited for a task, the service was withdrawn from this address; it has seen \
                          nothing of the request";
            return Err(Problem::new(404, "route-withdrawn", detail).into());
        }
        (visit.principal, visit.joins) = (Principal::Anonymous, None);
        match admit::admit(conn, &mut visit, &target, exchange, cookies)? {
            Admitted::In => {}
            Admitted::Answer(response) => return Ok(*response),
            Admitted::Page(purpose) => return Ok(Box::pin(own::call(conn, *visit, purpose)).await?),
        }
        service = match target {
            Target::Service(Route { service: Some(next), .. }) => next,
            _ => return Ok(Box::pin(own::call(conn, *visit, Purpose::Own)).await?),
        };
        if let Some(exchange) = exchange {
            exchange.note_app(&service.spec.id);
        }
    }
}

/// The answer of one of the tasks, or what there is to say instead; none when the route is no more.
async fn by_a_task(
    conn: &std::rc::Rc<Conn>,
    visit: &mut Visit,
    service: &ServiceRoute,
    since: Instant,
    exchange: &mut Option<Box<Exchange>>,
) -> Result<Option<Response<EdgeBody>>, Stop> {
    let own = if service.sticky { claim::seat_key(conn, visit, &service.spec.id, None) } else { None };
    let own = own.and_then(|key| key.instance);
    let end = since + service.patience;
    let mut tried: Vec<InstanceId> = Vec::new();
    loop {
        let targets = Arc::clone(&service.targets.borrow());
        let target = match service.choose(&targets, own.as_ref(), &tried, clock_ms()) {
            Some(target) => target,
            // Those there were refused; others may be on their way, or one of these be well again.
            None => match Box::pin(await_one(conn, visit, service, &tried, end, exchange)).await? {
                Held::By(target) if is_published(conn, service) => target,
                Held::Nobody => return Box::pin(nobody(conn, visit, service)).await.map(Some),
                Held::By(_) | Held::Unrouted => return Ok(None),
            },
        };
        let upstream = Arc::clone(&target.upstream);
        if let Some(exchange) = exchange {
            exchange.note_instance(&upstream.instance);
            exchange.attend(Attended::by(&target));
        }
        let Lost { broken, unsent } = match carry(conn, visit, &upstream, Speaker::App, exchange).await? {
            Ok(mut response) => {
                if service.sticky && own.as_ref() != Some(&upstream.instance) {
                    let cookie = claim::stick(conn, visit, &upstream);
                    response.headers_mut().extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
                }
                return Ok(Some(response));
            }
            Err(lost) => lost,
        };
        // The service as a whole is busy then; no other task helps, and none is at fault.
        let busy = matches!(broken, Broken::Connect(ConnectError::Budget(_)));
        if !busy {
            target.refused_at.store(clock_ms(), Relaxed);
        }
        tried.push(upstream.instance.clone());
        if busy || !unsent || Instant::now() >= end {
            return Box::pin(failed(conn, visit, service, &broken, exchange)).await.map(Some);
        }
    }
}

/// Whether the table of routes has the service as it was when the request came.
fn is_published(conn: &Conn, service: &ServiceRoute) -> bool {
    let routes = conn.worker.routes();
    routes.published(&service.spec.id).is_some_and(|spec| Arc::ptr_eq(spec, &service.spec))
}

/// Holds the request until there is a task that has not been tried, or has had a rest, for as long as the service has
/// patience.
async fn await_one(
    conn: &Conn,
    visit: &mut Visit,
    service: &ServiceRoute,
    tried: &[InstanceId],
    end: Instant,
    exchange: &mut Option<Box<Exchange>>,
) -> Result<Held, Stop> {
    let since = Instant::now();
    let mut targets = service.targets.clone();
    if !visit::must_not_wake(&visit.parts.headers) {
        service.wanted.notify_one();
    }
    let found = async {
        loop {
            if targets.has_changed().is_err() {
                return Held::Unrouted;
            }
            let (now, now_ms) = (Arc::clone(&targets.borrow_and_update()), clock_ms());
            let rested = || now.iter().find(|target| !target.is_suspect(now_ms)).map(Arc::clone);
            if let Some(target) = service.choose(&now, None, tried, now_ms).or_else(rested) {
                return Held::By(target);
            }
            tokio::select! {
                // Looked at above, whatever it says.
                _ = targets.changed() => {}
                () = tokio::time::sleep(REST), if !now.is_empty() => {}
            }
        }
    };
    if let Some(exchange) = exchange {
        exchange.note_waiting(true);
    }
    let held = claim::hold(conn, visit, tokio::time::timeout_at(end.into(), found)).await;
    if let Some(exchange) = exchange {
        exchange.note_waiting(false);
        exchange.note_held(since);
    }
    Ok(held?.unwrap_or(Held::Nobody))
}

/// No task is well.
async fn nobody(
    conn: &std::rc::Rc<Conn>,
    visit: &Visit,
    service: &ServiceRoute,
) -> Result<Response<EdgeBody>, Stop> {
    if !visit.navigation {
        let detail = "none of the service's tasks is well at the moment; try again shortly";
        return Err(Problem::new(503, "no-task", detail).retry_after(Duration::from_secs(5)).into());
    }
    let parts = own::copy_of(&visit.parts);
    let purpose = Purpose::NoTaskPage { service: Arc::clone(&service.spec) };
    Ok(own::page(conn, parts, visit.client.clone(), visit.principal.clone(), purpose).await?)
}

/// A task had the request, or perhaps had it, and gave no answer.
async fn failed(
    conn: &std::rc::Rc<Conn>,
    visit: &Visit,
    service: &ServiceRoute,
    broken: &Broken,
    exchange: &mut Option<Box<Exchange>>,
) -> Result<Response<EdgeBody>, Stop> {
    if let Some(exchange) = exchange {
        exchange.note_broken(&broken.to_string());
    }
    if !visit.navigation {
        return Err(problem_of(broken).into());
    }
    let parts = own::copy_of(&visit.parts);
    let spec = &service.spec;
    let (app, summary) = (spec.id.clone(), broken.to_string());
    let purpose = Purpose::BrokenPage { app, service: Some(Arc::clone(spec)), summary };
    Ok(own::page(conn, parts, visit.client.clone(), visit.principal.clone(), purpose).await?)
}

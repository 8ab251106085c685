//! One event loop: its connections, its upstream pool, its clock. Nothing here is shared with another thread; what is
//! lies in [`Shared`].

use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics::Gauge;
use skep_identity::{Admission, SeatSealer};
use skep_launch::{Handle, Upstream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::access_log::{LogBuffer, Record};
use crate::admit::{Doors, now_ms};
use crate::config::{Cidr, HostRule, Limits};
use crate::conn::{Accepted, ClientIo, ConnState, PlainIo, TICK, set_tick};
use crate::console_host::ConsoleHost;
use crate::control_call::ControlCall;
use crate::guard::Guard;
use crate::listen::{Arrival, ArrivingSocket, Listener};
use crate::meters::Meters;
use crate::pool::{Budgets, Pool};
use crate::request::{self, Conn};
use crate::routes::RouteTable;

/// Between two looks at whether those who are in may stay, besides at every change of the rules.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What all loops share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) trusted_proxies: Vec<Cidr>,
    pub(crate) hosts: HostRule,
    pub(crate) console: Option<ConsoleHost>,
    pub(crate) handle: Handle,
    pub(crate) seats: SeatSealer,
    pub(crate) doors: Doors,
    pub(crate) control: mpsc::Sender<ControlCall>,
    pub(crate) budgets: Arc<Budgets>,
    /// Per loop: its connections, tunnels included, and the way to it.
    pub(crate) loops: Vec<LoopPort>,
    pub(crate) draining: AtomicBool,
    /// Everything is closed now.
    pub(crate) stopping: CancellationToken,
    /// Set once, by the hand-over: where everything that still arrives goes.
    pub(crate) successor: OnceLock<Arc<Upstream>>,
    pub(crate) ready: AtomicBool,
    pub(crate) tunnels: AtomicUsize,
    pub(crate) tunnel_gauge: Gauge,
}

pub(crate) struct LoopPort {
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl Shared {
    /// Nothing new is accepted, connections end with their next answer.
    pub(crate) fn is_leaving(&self) -> bool {
        self.draining.load(Relaxed) || self.successor.get().is_some()
    }

    /// Idle connections are closed. Not after a hand-over: their next request is passed on, so that no client sees a
    /// connection end that it is just about to use.
    pub(crate) fn closes_idle(&self) -> bool {
        self.draining.load(Relaxed) && self.successor.get().is_none()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) && !self.is_leaving() && !self.control.is_closed()
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.loops.iter().map(|port| port.open.load(Relaxed)).sum()
    }
}

/// An order to a loop.
pub(crate) enum Command {
    Serve(Arrival),
    /// Close what is idle now; the rest closes after its answer.
    Drain,
}

/// A connection's share of its loop's load.
pub(crate) struct Load {
    open: Arc<AtomicUsize>,
    gauge: Gauge,
}

impl Load {
    fn take(open: &Arc<AtomicUsize>, listener: &Listener) -> Self {
        open.fetch_add(1, Relaxed);
        listener.open.increment(1.0);
        Self { open: Arc::clone(open), gauge: listener.open.clone() }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
        self.gauge.decrement(1.0);
    }
}

/// One event loop.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Rc<Pool>,
    index: usize,
    routes: RefCell<Arc<RouteTable>>,
    routes_in: RefCell<watch::Receiver<Arc<RouteTable>>>,
    admission: RefCell<Arc<Admission>>,
    admission_in: RefCell<watch::Receiver<Arc<Admission>>>,
    /// What must end when a login does, by request id.
    pub(crate) guards: RefCell<HashMap<u64, Guard, foldhash::fast::RandomState>>,
    connections: RefCell<HashMap<u64, (Arc<ConnState>, AbortHandle)>>,
    tunnels: RefCell<HashMap<u64, AbortHandle>>,
    next_id: Cell<u64>,
    log: RefCell<Option<LogBuffer>>,
    meters: RefCell<Meters>,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        index: usize,
        routes_in: watch::Receiver<Arc<RouteTable>>,
        admission_in: watch::Receiver<Arc<Admission>>,
        log: Option<LogBuffer>,
    ) -> Rc<Self> {
        let pool = Rc::new(Pool::new(Arc::clone(&shared.budgets), shared.limits.clone()));
        let routes = Arc::clone(&routes_in.borrow());
        let admission = Arc::clone(&admission_in.borrow());
        // Unlike those of another loop or an earlier process: the hash keys are random.
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), index);
        Rc::new(Self {
            shared,
            pool,
            index,
            routes: RefCell::new(routes),
            routes_in: RefCell::new(routes_in),
            admission: RefCell::new(admission),
            admission_in: RefCell::new(admission_in),
            guards: RefCell::default(),
            connections: RefCell::default(),
            tunnels: RefCell::default(),
            next_id: Cell::new(seed),
            log: RefCell::new(log),
            meters: RefCell::new(Meters::new()),
        })
    }

    /// The newest snapshot of what is published.
    pub(crate) fn routes(&self) -> Ref<'_, Arc<RouteTable>> {
        let mut routes_in = self.routes_in.borrow_mut();
        if routes_in.has_changed().unwrap_or(false) {
            *self.routes.borrow_mut() = Arc::clone(&routes_in.borrow_and_update());
        }
        drop(routes_in);
        self.routes.borrow()
    }

    /// The newest snapshot of who may come in.
    pub(crate) fn admission(&self) -> Ref<'_, Arc<Admission>> {
        let mut admission_in = self.admission_in.borrow_mut();
        if admission_in.has_changed().unwrap_or(false) {
            *self.admission.borrow_mut() = Arc::clone(&admission_in.borrow_and_update());
        }
        drop(admission_in);
        self.admission.borrow()
    }

    /// Ends what the newest snapshots do not allow any more, for as long as the loop runs.
    pub(crate) async fn keep_doors(self: Rc<Self>) {
        let (mut admission, mut routes) =
            (self.admission_in.borrow().clone(), self.routes_in.borrow().clone());
        let mut routed = true;
        loop {
            tokio::select! {
                changed = admission.changed() => if changed.is_err() { return },
                // A server that was replaced has its tunnels still, and gets no routes any more.
                changed = routes.changed(), if routed => routed = changed.is_ok(),
                // Logins end by themselves, too, and with the key of their cookie.
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.end_unwelcome();
        }
    }

    fn end_unwelcome(&self) {
        let (admission, routes) = (Arc::clone(&self.admission()), Arc::clone(&self.routes()));
        let now_ms = now_ms();
        let guards = self.guards.borrow();
        let over = guards
            .values()
            .filter(|guard| !guard.holds(&admission, &self.shared.doors.sessions, &routes, now_ms));
        let over: HashSet<tokio::task::Id> = over.filter_map(|guard| guard.task).collect();
        drop(guards);
        if over.is_empty() {
            return;
        }
        tracing::info!(count = over.len(), "closing what is not allowed any more");
        let connections = self.connections.borrow();
        let tunnels = self.tunnels.borrow();
        for task in connections.values().map(|(_, task)| task).chain(tunnels.values()) {
            if over.contains(&task.id()) {
                task.abort();
            }
        }
    }

    pub(crate) fn next_request_id(&self) -> u64 {
        self.next_id.set(self.next_id.get().wrapping_add(1));
        self.next_id.get()
    }

    /// Gives a new connection to the loop that has the fewest.
    pub(crate) fn place(self: &Rc<Self>, socket: Accepted, peer: IpAddr, listener: &Arc<Listener>) {
        let ports = self.shared.loops.iter().enumerate();
        let Some((index, port)) = ports.min_by_key(|(_, port)| port.open.load(Relaxed)) else { return };
        // Counted here, so that a burst is spread before its first connection is served.
        let load = Load::take(&port.open, listener);
        if index == self.index {
            return self.serve(socket, peer, Arc::clone(listener), load);
        }
        let socket = match socket {
            Accepted::Tcp(stream) => stream.into_std().map(ArrivingSocket::Tcp),
            Accepted::Unix(stream) => stream.into_std().map(ArrivingSocket::Unix),
        };
        let Ok(socket) = socket else { return };
        let arrival = Arrival { socket, peer, listener: Arc::clone(listener), load };
        if port.commands.try_send(Command::Serve(arrival)).is_err() {
            tracing::warn!("an event loop does not take connections; one was dropped");
        }
    }

    fn arrive(self: &Rc<Self>, arrival: Arrival) {
        let socket = match arrival.socket {
            ArrivingSocket::Tcp(stream) => tokio::net::TcpStream::from_std(stream).map(Accepted::Tcp),
            ArrivingSocket::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Accepted::Unix),
        };
        match socket {
            Ok(socket) => self.serve(socket, arrival.peer, arrival.listener, arrival.load),
            Err(error) => tracing::warn!(%error, "cannot watch a connection"),
        }
    }

    pub(crate) fn execute(self: &Rc<Self>, command: Command) {
        match command {
            Command::Serve(arrival) => self.arrive(arrival),
            Command::Drain if self.shared.closes_idle() => self.close_idle(),
            Command::Drain => {}
        }
    }

    /// Ends every connection and tunnel.
    pub(crate) fn cut(&self) {
        for (_, task) in self.connections.borrow().values() {
            task.abort();
        }
        for task in self.tunnels.borrow().values() {
            task.abort();
        }
    }

    fn serve(self: &Rc<Self>, socket: Accepted, peer: IpAddr, listener: Arc<Listener>, load: Load) {
        let io = PlainIo::new(socket, peer, listener, load);
        let state = Arc::clone(io.state());
        let id = self.next_request_id();
        let worker = Rc::clone(self);
        let task = tokio::task::spawn_local(async move {
            worker.run(io).await;
            worker.connections.borrow_mut().remove(&id);
        });
        self.connections.borrow_mut().insert(id, (state, task.abort_handle()));
    }

    async fn run(self: &Rc<Self>, io: PlainIo) {
        let listener = Arc::clone(&io.state().listener);
        let io = match listener.tls() {
            None => ClientIo::plain(io),
            // The sweeper ends a handshake that takes too long.
            Some(tls) => match tls.accept(io).await {
                Ok(stream) => ClientIo::tls(stream),
                Err(error) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    return;
                }
            },
        };
        let (worker, state) = (Rc::clone(self), Arc::clone(io.state()));
        let conn = Rc::new(Conn { worker, state, served: Cell::new(0) });
        let service = service_fn(move |request| {
            // Asked for here and now: by the time the answer is worked on, the next head may have been scanned.
            let fault = conn.state.fault();
            Box::pin(request::serve(Rc::clone(&conn), request, fault))
        });
        let limits = &self.shared.limits;
        let served = http1::Builder::new()
            .max_buf_size(limits.head_bytes.max(8192))
            .max_headers(limits.head_fields)
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    pub(crate) fn spawn_tunnel(self: &Rc<Self>, tunnel: impl Future<Output = ()> + 'static) {
        let id = self.next_request_id();
        let worker = Rc::clone(self);
        let task = tokio::task::spawn_local(async move {
            tunnel.await;
            worker.tunnels.borrow_mut().remove(&id);
        });
        self.tunnels.borrow_mut().insert(id, task.abort_handle());
    }

    pub(crate) fn tunnel_opened(&self) {
        self.shared.tunnels.fetch_add(1, Relaxed);
        self.shared.tunnel_gauge.increment(1.0);
    }

    pub(crate) fn tunnel_closed(&self) {
        self.shared.tunnels.fetch_sub(1, Relaxed);
        self.shared.tunnel_gauge.decrement(1.0);
    }

    /// An exchange is over: count it, log it.
    pub(crate) fn finished(&self, record: &Record) {
        self.meters.borrow_mut().finished(record);
        if let Some(log) = self.log.borrow_mut().as_mut() {
            log.add(record);
        }
    }

    fn close_idle(&self) {
        for (state, task) in self.connections.borrow().values() {
            if state.is_idle() {
                task.abort();
            }
        }
    }

    /// The loop's housekeeping, for as long as it runs.
    pub(crate) async fn keep_house(self: Rc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tick: u32 = 1;
        loop {
            let before = Instant::now();
            interval.tick().await;
            let late = before.elapsed().saturating_sub(TICK);
            self.meters.borrow().lag.record(late.as_secs_f64());
            if late > Duration::from_millis(500) {
                tracing::warn!(late_ms = late.as_millis(), "an event loop was blocked");
            }
            tick = tick.wrapping_add(1);
            set_tick(tick);
            self.pool.deadlines.ring();
            if let Some(log) = self.log.borrow_mut().as_mut() {
                log.hand_over();
            }
            if tick.is_multiple_of(4) {
                self.pool.sweep();
                self.sweep_connections();
            }
        }
    }

    fn sweep_connections(&self) {
        let closes_idle = self.shared.closes_idle();
        for (state, task) in self.connections.borrow().values() {
            if let Some(reason) = state.overdue(&self.shared.limits) {
                tracing::debug!(reason, peer = %state.peer, "dropping a connection");
                task.abort();
            } else if closes_idle && state.is_idle() {
                task.abort();
            }
        }
        self.forget_finished();
    }

    pub(crate) fn forget_finished(&self) {
        self.connections.borrow_mut().retain(|_, (_, task)| !task.is_finished());
        self.tunnels.borrow_mut().retain(|_, task| !task.is_finished());
    }

    /// Connections and tunnels that are still open.
    pub(crate) fn busy(&self) -> usize {
        self.connections.borrow().len() + self.tunnels.borrow().len()
    }
}

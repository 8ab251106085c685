//! The edge as a whole: its threads, and what its owner can do with them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use skep_identity::{Admission, KeyRing, SeatSealer};
use skep_launch::Handle;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::access_log::{LogBuffer, LogWriter};
use crate::admit::Doors;
use crate::config::{EdgeConfig, ListenSocket, ListenerConfig};
use crate::control_call::ControlCall;
use crate::error::EdgeError;
use crate::handover;
use crate::listen::{self, Listener};
use crate::meters;
use crate::pool::Budgets;
use crate::routes::RouteTable;
use crate::worker::{Command, LoopPort, Shared, Worker};

/// Orders a loop may be behind with, new connections among them.
const COMMANDS: usize = 4096;
/// Threads per loop that read files of static sites.
const FILE_THREADS: usize = 4;

/// The running edge. Dropping it stops it at once; [`Edge::drain`] does so politely.
pub struct Edge {
    shared: Arc<Shared>,
    listeners: Vec<ListenerConfig>,
    accepting: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    log: Option<LogWriter>,
}

impl Edge {
    /// Starts the event loops and begins to accept. Needs no async runtime of its own.
    ///
    /// # Errors
    /// When a listening socket, a certificate or a thread cannot be used.
    pub fn start(
        config: EdgeConfig,
        handle: Handle,
        keys: &Arc<KeyRing>,
        routes: watch::Receiver<Arc<RouteTable>>,
        control: mpsc::Sender<ControlCall>,
    ) -> Result<Self, EdgeError> {
        // Never changes: nobody has to log in.
        let (_, open) = watch::channel(Arc::default());
        Self::start_with_login(config, handle, keys, routes, control, open)
    }

    /// As [`Edge::start`], with a snapshot of who may come in. Each change of it counts at once, for what is open, too.
    ///
    /// # Errors
    /// When a listening socket, a certificate or a thread cannot be used.
    pub fn start_with_login(
        config: EdgeConfig,
        handle: Handle,
        keys: &Arc<KeyRing>,
        routes: watch::Receiver<Arc<RouteTable>>,
        control: mpsc::Sender<ControlCall>,
        admission: watch::Receiver<Arc<Admission>>,
    ) -> Result<Self, EdgeError> {
        if config.listeners.is_empty() {
            return Err(EdgeError::NoListener);
        }
        let listening = config.listeners.iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let mut ports = Vec::new();
        let mut orders = Vec::new();
        for _ in 0..threads {
            let (commands, incoming) = mpsc::channel(COMMANDS);
            ports.push(LoopPort { open: Arc::default(), commands });
            orders.push(incoming);
        }
        let shared = Arc::new(Shared {
            limits: config.limits,
            trusted_proxies: config.trusted_proxies,
            hosts: config.hosts,
            console: config.console,
            handle,
            seats: SeatSealer::new(keys),
            doors: Doors::new(keys),
            control,
            budgets: Arc::new(Budgets::default()),
            loops: ports,
            draining: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            successor: OnceLock::new(),
            ready: AtomicBool::new(true),
            tunnels: AtomicUsize::new(0),
            tunnel_gauge: meters::tunnels(),
        });
        let log = config.access_log.map(LogWriter::start).transpose().map_err(EdgeError::Thread)?;
        let mut edge = Self {
            shared,
            listeners: config.listeners,
            accepting: CancellationToken::new(),
            threads: vec![],
            log,
        };
        let mut listening = listening.into_iter().enumerate().collect::<Vec<_>>();
        for (index, orders) in orders.into_iter().enumerate() {
            let (mine, rest) = listening.into_iter().partition(|(n, _)| n % threads == index);
            listening = rest;
            let sockets: Vec<_> = Vec::into_iter(mine).map(|(_, socket)| socket).collect();
            edge.spawn(index, orders, sockets, routes.clone(), admission.clone())?;
        }
        Ok(edge)
    }

    fn spawn(
        &mut self,
        index: usize,
        orders: mpsc::Receiver<Command>,
        sockets: Vec<(Arc<Listener>, ListenSocket)>,
        routes: watch::Receiver<Arc<RouteTable>>,
        admission: watch::Receiver<Arc<Admission>>,
    ) -> Result<(), EdgeError> {
        let (shared, stop) = (Arc::clone(&self.shared), self.accepting.clone());
        let log = self.log.as_ref().map(LogWriter::buffer);
        // A loop's runtime lives and dies on its own thread, which tells whether there is one.
        let (began, begun) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("skep-edge-{index}")).spawn(move || {
            let runtime = match runtime(index) {
                Ok(runtime) => runtime,
                Err(error) => return drop(began.send(Err(error))),
            };
            drop(began.send(Ok(())));
            runtime.block_on(run_loop(shared, index, orders, sockets, (routes, admission), log, stop));
            // A file that hangs (a network folder) must not hold up the end.
            runtime.shutdown_timeout(Duration::from_millis(100));
        });
        self.threads.push(thread.map_err(EdgeError::Thread)?);
        let gone = |_| std::io::Error::other("the event loop's thread ended at once");
        begun.recv().map_err(gone).and_then(|began| began).map_err(EdgeError::Thread)
    }

    /// The addresses of the TCP listeners, in the order given.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        let tcp = |listener: &ListenerConfig| match &listener.socket {
            ListenSocket::Tcp(socket) => socket.local_addr().ok(),
            ListenSocket::Unix(_) => None,
        };
        self.listeners.iter().filter_map(tcp).collect()
    }

    /// The listeners as given at start, for handing their sockets over.
    pub fn listeners(&self) -> &[ListenerConfig] {
        &self.listeners
    }

    /// What `/_skep/health/ready` says. Ready from the start unless told otherwise.
    pub fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, Relaxed);
    }

    pub fn open_tunnels(&self) -> usize {
        self.shared.tunnels.load(Relaxed)
    }

    pub fn open_connections(&self) -> usize {
        self.shared.open_connections()
    }

    /// Hands over to a new process that has (or will have) the same listening sockets and serves the Unix socket
    /// `relay` with a listener whose peers are trusted ([`ListenerConfig::trust_peers`]).
    ///
    /// From now on nothing is accepted here. Requests that arrive on connections of ours, and those that wait for an app
    /// when the launcher freezes, are passed on through the socket, each answer with `Connection: close`; idle
    /// connections stay until their next request. Running answers and tunnels go on. Call this before the launcher is
    /// frozen, and [`Edge::drain`] at the end.
    pub fn hand_over(&self, relay: PathBuf) {
        if let Some(successor) = handover::successor(relay) {
            // A second hand-over changes nothing: the first successor has the sockets.
            let _ = self.shared.successor.set(successor);
        }
        self.accepting.cancel();
    }

    /// Stops accepting, lets running answers and tunnels go on until `deadline`, then closes the rest. Answers how many
    /// connections had to be cut.
    pub async fn drain(mut self, deadline: Duration) -> usize {
        self.accepting.cancel();
        self.shared.draining.store(true, Relaxed);
        for port in &self.shared.loops {
            // A loop whose queue is full of new connections hears of it from its own sweeper.
            let _ = port.commands.try_send(Command::Drain);
        }
        let end = Instant::now() + deadline;
        while self.shared.open_connections() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let cut = self.shared.open_connections();
        self.shared.stopping.cancel();
        let threads = std::mem::take(&mut self.threads);
        let log = self.log.take();
        let joined = tokio::task::spawn_blocking(move || finish(threads, log)).await;
        if joined.is_err() {
            tracing::error!("an event loop ended with a panic");
        }
        cut
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.accepting.cancel();
        self.shared.draining.store(true, Relaxed);
        self.shared.stopping.cancel();
        finish(std::mem::take(&mut self.threads), self.log.take());
    }
}

fn finish(threads: Vec<JoinHandle<()>>, log: Option<LogWriter>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("an event loop ended with a panic");
        }
    }
    if let Some(log) = log {
        log.finish();
    }
}

fn prepare(config: &ListenerConfig) -> Result<(Arc<Listener>, ListenSocket), EdgeError> {
    let failed = |source| EdgeError::Listener { name: config.name.clone(), source };
    listen::prepare(&config.socket).map_err(failed)?;
    let socket = config.socket.try_clone().map_err(failed)?;
    Ok((Arc::new(Listener::new(config)?), socket))
}

fn runtime(index: usize) -> std::io::Result<LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS)
        .thread_name(format!("skep-files-{index}"))
        .build_local(LocalOptions::default())
}

async fn run_loop(
    shared: Arc<Shared>,
    index: usize,
    mut orders: mpsc::Receiver<Command>,
    sockets: Vec<(Arc<Listener>, ListenSocket)>,
    (routes, admission): (watch::Receiver<Arc<RouteTable>>, watch::Receiver<Arc<Admission>>),
    log: Option<LogBuffer>,
    stop: CancellationToken,
) {
    let worker = Worker::new(shared, index, routes, admission, log);
    for (listener, socket) in sockets {
        tokio::task::spawn_local(listen::accept(worker.clone(), listener, socket, stop.clone()));
    }
    let house = tokio::task::spawn_local(worker.clone().keep_house());
    let doors = tokio::task::spawn_local(worker.clone().keep_doors());
    let stopping = worker.shared.stopping.clone();
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            Some(command) = orders.recv() => worker.execute(command),
            else => break,
        }
    }
    // What was cut takes a moment to be dropped, and its exchanges are logged.
    let end = Instant::now() + Duration::from_secs(1);
    while worker.busy() > 0 && Instant::now() < end {
        worker.cut();
        tokio::time::sleep(Duration::from_millis(1)).await;
        worker.forget_finished();
    }
    house.abort();
    doors.abort();
}

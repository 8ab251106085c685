//! The only wiring: puts a front, a worker and results together, in one process or in three.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::front::{Front, FrontOptions, slots};
use crate::http::{self, HttpLimits};
use crate::keys::{KeyError, Keys};
use crate::net::TcpListener;
use crate::polls::{self, Poll, PollsError};
use crate::results::site::Both;
use crate::results::{Results, ResultsOptions};
use crate::source::Source;
use crate::spool::SpoolError;
use crate::stop::stopped;
use crate::store::{Database, StoreError};
use crate::surroundings::{Machine, World};
use crate::worker::{self, Place, Worker, WorkerOptions};

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Polls(#[from] PollsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the front's log: {0}")]
    Spool(#[from] SpoolError),
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("the data folder {}: {error}", path.display())]
    Data { path: PathBuf, error: std::io::Error },
}

/// Something that serves until it is told to stop.
pub struct Running {
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    /// The front in it, to be drained first.
    pub front: Option<Arc<Front>>,
    pub results: Option<Arc<Results>>,
    _slot: Option<slots::Slot>,
}

impl Running {
    /// Takes no more ballots, waits until workers have taken all (at most `patience`), then stops. Answers whether
    /// nothing was left.
    pub async fn drain(self, seal: bool, patience: Duration) -> bool {
        let mut empty = true;
        if let Some(front) = &self.front {
            front.drain();
            let deadline = tokio::time::Instant::now() + patience;
            empty = loop {
                let done = if seal {
                    front.seal().unwrap_or(false) && front.is_finished()
                } else {
                    front.is_taken()
                };
                if done || tokio::time::Instant::now() > deadline {
                    break done;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
        }
        self.stop().await;
        empty
    }

    /// Stops at once; what is on disk stays there.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        for task in self.tasks {
            let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
        }
    }
}

fn world() -> World {
    Arc::new(Machine)
}

/// Runs a front's group commit on a thread of its own, since it waits for the disk.
fn commit_on_own_thread(front: &Front) -> std::io::Result<()> {
    let intake = Arc::clone(front.intake());
    std::thread::Builder::new().name("ballot-log".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "the log has no runtime"),
        };
        let error = runtime.block_on(intake.run());
        tracing::error!(%error, "this front acknowledges nothing any more");
    })?;
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |error| ServeError::Listen { address, error };
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
    let socket = socket.map_err(failed)?;
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    // Thousands of voters may arrive within a moment.
    let listener = socket.listen(8192).map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// The polls of a file, or the demo poll.
///
/// # Errors
/// As [`polls::load`].
pub fn polls_of(file: Option<&Path>) -> Result<Vec<Poll>, ServeError> {
    Ok(match file {
        Some(file) => polls::load(file)?,
        None => vec![polls::demo()],
    })
}

async fn put_polls(store: &Database, all: &[Poll]) -> Result<(), ServeError> {
    let now_ms = world().now_ms();
    for poll in all {
        store.put_poll(poll, now_ms).await?;
    }
    Ok(())
}

/// What every role is told.
#[derive(Clone)]
pub struct Common {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub keys: Arc<Keys>,
    pub limits: HttpLimits,
}

/// Everything in one process.
///
/// # Errors
/// When any part cannot start.
pub async fn all(
    common: Common,
    store_url: &str,
    polls: Vec<Poll>,
    front_options: FrontOptions,
    results_options: ResultsOptions,
) -> Result<Running, ServeError> {
    let store = Arc::new(Database::open(store_url).await?);
    put_polls(&store, &polls).await?;
    let (front, slot) = open_front(&common, front_options, polls)?;
    let (listener, address) = listen(common.listen).await?;
    let (stop, stopping) = watch::channel(false);
    let results = Results::new(results_options, Arc::clone(&store), Arc::clone(&common.keys), world());
    results.refresh().await?;
    let name = format!("all-{}", std::process::id());
    let worker = Arc::new(Worker::new(
        WorkerOptions { idle: Duration::from_millis(50), ..WorkerOptions::new(name) },
        store,
        world(),
    ));
    let mut tasks = Vec::new();
    let source: Arc<dyn Source> = Arc::clone(&front) as Arc<dyn Source>;
    let quit = stopping.clone();
    tasks.push(tokio::spawn(async move { worker.follow(source, &AtomicU64::new(0), quit).await }));
    let (shower, quit) = (Arc::clone(&results), stopping.clone());
    tasks.push(tokio::spawn(async move { shower.run(quit).await }));
    let site = Arc::new(Both { front: Arc::clone(&front), results: Arc::clone(&results) });
    tasks.push(tokio::spawn(http::serve(listener, site, common.limits, stopping.clone())));
    tasks.push(look_after_stranded(common.data_dir.join("logs"), Arc::clone(&front), stopping));
    Ok(Running { address, stop, tasks, front: Some(front), results: Some(results), _slot: Some(slot) })
}

fn open_front(
    common: &Common,
    options: FrontOptions,
    polls: Vec<Poll>,
) -> Result<(Arc<Front>, slots::Slot), ServeError> {
    let data = |error| ServeError::Data { path: common.data_dir.clone(), error };
    let slot = slots::take(&common.data_dir.join("logs")).map_err(data)?;
    let front = Front::open(&slot.dir, options, Arc::clone(&common.keys), world(), polls)?;
    commit_on_own_thread(&front).map_err(data)?;
    Ok((front, slot))
}

fn look_after_stranded(root: PathBuf, front: Arc<Front>, mut stop: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let (root, keeper) = (root.clone(), Arc::clone(&front));
            let looked = tokio::task::spawn_blocking(move || slots::adopt_stranded(&root, &keeper)).await;
            if let Ok(Err(error)) = looked {
                tracing::warn!(%error, "cannot look for stranded logs");
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(5)) => {}
                () = stopped(&mut stop) => return,
            }
        }
    })
}

/// A front alone.
///
/// # Errors
/// When it cannot start.
pub async fn front(common: Common, options: FrontOptions, polls: Vec<Poll>) -> Result<Running, ServeError> {
    let (front, slot) = open_front(&common, options, polls)?;
    let (listener, address) = listen(common.listen).await?;
    let (stop, stopping) = watch::channel(false);
    let server = tokio::spawn(http::serve(listener, Arc::clone(&front), common.limits, stopping.clone()));
    let keeper = look_after_stranded(common.data_dir.join("logs"), Arc::clone(&front), stopping);
    Ok(Running {
        address,
        stop,
        tasks: vec![server, keeper],
        front: Some(front),
        results: None,
        _slot: Some(slot),
    })
}

/// Results alone.
///
/// # Errors
/// When it cannot start.
pub async fn results(
    common: Common,
    store_url: &str,
    polls: &[Poll],
    options: ResultsOptions,
) -> Result<Running, ServeError> {
    let store = Arc::new(Database::open(store_url).await?);
    put_polls(&store, polls).await?;
    let (listener, address) = listen(common.listen).await?;
    let (stop, stopping) = watch::channel(false);
    let results = Results::new(options, store, common.keys, world());
    results.refresh().await?;
    let (shower, quit) = (Arc::clone(&results), stopping.clone());
    let mut tasks = vec![tokio::spawn(async move { shower.run(quit).await })];
    tasks.push(tokio::spawn(http::serve(listener, Arc::clone(&results), common.limits, stopping)));
    Ok(Running { address, stop, tasks, front: None, results: Some(results), _slot: None })
}

/// A worker alone, until told to stop.
///
/// # Errors
/// When the database does not answer at first.
pub async fn worker(
    options: WorkerOptions,
    store_url: &str,
    polls: &[Poll],
    places: Vec<Place>,
    keys: &Keys,
    stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let store = Arc::new(Database::open(store_url).await?);
    put_polls(&store, polls).await?;
    let worker = Arc::new(Worker::new(options, store, world()));
    worker::run(worker, places, keys.internal_token().to_owned(), stop).await;
    Ok(())
}

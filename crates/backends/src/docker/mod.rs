//! Instances as containers of this machine's Docker Engine.
//!
//! What a later server needs to know of an instance lies in its container's labels; what changes while it lives (its seats,
//! whether it was ready), and what it wrote once it has ended, in a folder below the data folder. A container is made,
//! named and labelled from the instance's id, so a launch that is repeated meets the first.
//!
//! Invariants: nothing is asked of the engine before the first app with an image is started or adopted; containers
//! without this installation's label are never touched; an ended container's last words are kept before it is removed;
//! whatever was launched ends up in a report or an adoption, also when server or engine are killed in between.
//!
//! Absent on purpose: engines of other machines (their containers' addresses cannot be reached from here), whether an
//! instance answers (the launcher probes), and when to start or stop one.

mod adopt;
mod ending;
mod image;
mod launching;
mod notes;
mod order;
mod stats;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use skep_docker::{Address, Engine, LogOptions};
use skep_launch::{
    Adopted, Backend, BackendError, BackendEvent, ExitReport, LaunchOrder, Launched, LogQuery, ProgressSink,
    Stats,
};
use skep_model::{BackendKind, InstanceId, SeatId};
use tokio::sync::{Notify, mpsc, watch as tokio_watch};

use notes::Notes;

/// Lines anybody may ask for at once.
const MAX_TAIL: usize = 10_000;

/// What the backend is told once.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Absolute. What the backend keeps lies in `docker` below it; the engine must see the same path.
    pub data_dir: PathBuf,
    pub address: Address,
    pub dial: DialBy,
    /// The network every instance is in; made when it is not there, with no traffic between its containers.
    pub network: String,
}

/// How an instance is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DialBy {
    /// At its own address, which an engine that runs natively on this machine makes reachable.
    #[default]
    Address,
    /// At a loopback port the engine publishes: also when it runs rootless or in a virtual machine.
    Port,
}

impl DockerConfig {
    /// The engine at its usual socket, instances dialled at their addresses in a network called `skep`.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            address: Address::unix("/var/run/docker.sock"),
            dial: DialBy::default(),
            network: "skep".to_owned(),
        }
    }
}

/// Runs instances as containers.
pub struct DockerBackend {
    inner: Arc<Inner>,
}

/// What every task of the backend shares.
struct Inner {
    config: DockerConfig,
    engine: Engine,
    notes: Notes,
    events: mpsc::Sender<BackendEvent>,
    instances: Mutex<HashMap<InstanceId, Arc<Instance>>>,
    /// Held by whoever looks for the network, or makes it.
    network: tokio::sync::Mutex<()>,
    watch: Watch,
    samples: stats::Samples,
    /// Containers of launches before this moment belong to an earlier server, milliseconds since the Unix epoch.
    opened_at_ms: i64,
}

/// What the reader of events and the one who acts on them share.
#[derive(Default)]
struct Watch {
    running: AtomicBool,
    /// Containers something happened to.
    touched: Mutex<BTreeSet<String>>,
    /// Everything is to be looked at.
    all: AtomicBool,
    wake: Notify,
    /// Whatever is alive and not known is nobody's from now on.
    adopted: AtomicBool,
}

/// One instance this server launched or adopted.
struct Instance {
    id: InstanceId,
    life: tokio_watch::Sender<Life>,
    /// Set once a stop was asked for.
    stop: tokio_watch::Sender<bool>,
    /// The container's id, once there is one.
    container: Mutex<Option<String>>,
    /// Held by whoever finds out whether it has ended.
    ending: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
enum Life {
    Launching,
    Running(Launched),
    Failed(BackendError),
    Ended(ExitReport),
}

impl DockerBackend {
    /// Touches neither the disk nor the engine.
    pub fn new(config: DockerConfig, events: mpsc::Sender<BackendEvent>) -> Arc<Self> {
        let inner = Inner {
            engine: Engine::new(config.address.clone()),
            notes: Notes::below(&config.data_dir),
            events,
            instances: Mutex::default(),
            network: tokio::sync::Mutex::default(),
            watch: Watch::default(),
            samples: stats::Samples::default(),
            opened_at_ms: now_ms(),
            config,
        };
        Arc::new(Self { inner: Arc::new(inner) })
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// File work of a few small files, off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BackendError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| BackendError::Platform(format!("a background step did not finish: {e}")))
}

fn app_error(summary: impl Into<String>) -> BackendError {
    BackendError::App { summary: summary.into(), last_lines: Vec::new() }
}

impl Instance {
    fn new(id: InstanceId, life: Life, container: Option<String>) -> Self {
        Self {
            id,
            life: tokio_watch::Sender::new(life),
            stop: tokio_watch::Sender::new(false),
            container: Mutex::new(container),
            ending: tokio::sync::Mutex::default(),
        }
    }

    fn is_running(&self) -> bool {
        matches!(*self.life.borrow(), Life::Running(_))
    }

    fn is_launching(&self) -> bool {
        matches!(*self.life.borrow(), Life::Launching)
    }

    /// Waits until the launch is over, however it went.
    async fn launched(&self) -> Result<Launched, BackendError> {
        let mut life = self.life.subscribe();
        let now = life.wait_for(|life| !matches!(life, Life::Launching)).await;
        match now.map(|life| life.clone()) {
            Ok(Life::Running(launched)) => Ok(launched),
            Ok(Life::Failed(error)) => Err(error),
            Ok(Life::Ended(report)) => {
                Err(BackendError::App { summary: report.reason, last_lines: report.last_lines })
            }
            Ok(Life::Launching) | Err(_) => Err(BackendError::Unknown),
        }
    }
}

impl Inner {
    fn instance(&self, id: &InstanceId) -> Option<Arc<Instance>> {
        self.instances.lock().get(id).cloned()
    }

    /// The log of a container, for people: best effort, errors end it.
    async fn container_log(
        &self,
        container: &str,
        query: LogQuery,
    ) -> Result<BoxStream<'static, String>, BackendError> {
        let options =
            LogOptions { tail: Some(query.tail.min(MAX_TAIL)), follow: query.follow, terminal: false };
        match self.engine.container_logs(container, options).await {
            Ok(lines) => Ok(lines.filter_map(|line| ready(line.ok().map(|line| line.text))).boxed()),
            Err(error) if error.is_not_found() => Err(BackendError::Unknown),
            Err(error) => Err(BackendError::Platform(error.to_string())),
        }
    }

    async fn logs(
        self: Arc<Self>,
        id: InstanceId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, String>, BackendError> {
        if let Some(instance) = self.instance(&id) {
            if query.follow && instance.is_launching() {
                // The log begins with the container.
                let later = async move {
                    let _ = instance.launched().await;
                    let container = instance.container.lock().clone();
                    match container {
                        Some(container) => self.container_log(&container, query).await.ok(),
                        None => None,
                    }
                };
                return Ok(stream::once(later).filter_map(ready).flatten().boxed());
            }
            let container = instance.container.lock().clone();
            return match container {
                Some(container) => self.container_log(&container, query).await,
                None => Ok(stream::empty().boxed()),
            };
        }
        let notes = self.notes.clone();
        let kept = blocking(move || notes.log(&id)).await?;
        let mut lines = kept.ok_or(BackendError::Unknown)?;
        let first = lines.len().saturating_sub(query.tail);
        Ok(stream::iter(lines.split_off(first)).boxed())
    }
}

impl Backend for DockerBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Docker
    }

    fn launch(
        &self,
        order: LaunchOrder,
        progress: ProgressSink,
    ) -> BoxFuture<'_, Result<Launched, BackendError>> {
        Box::pin(async move {
            let (instance, fresh) = {
                let mut instances = self.inner.instances.lock();
                match instances.get(&order.id) {
                    Some(known) => (Arc::clone(known), false),
                    None => {
                        let instance = Arc::new(Instance::new(order.id.clone(), Life::Launching, None));
                        instances.insert(order.id.clone(), Arc::clone(&instance));
                        (instance, true)
                    }
                }
            };
            if fresh {
                // A task of its own: dropping this future must not undo half a launch.
                let (inner, started) = (Arc::clone(&self.inner), Arc::clone(&instance));
                tokio::spawn(async move { inner.see_through(started, order, progress).await });
            }
            instance.launched().await
        })
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Vec<Adopted>, BackendError>> {
        Box::pin(Arc::clone(&self.inner).adopt())
    }

    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        grace: Duration,
    ) -> BoxFuture<'a, Result<ExitReport, BackendError>> {
        Box::pin(self.inner.stop(id, grace))
    }

    fn note_seats<'a>(&'a self, id: &'a InstanceId, seats: Vec<SeatId>) -> BoxFuture<'a, ()> {
        let (notes, id) = (self.inner.notes.clone(), id.clone());
        Box::pin(async move {
            let _ = blocking(move || notes.note_seats(&id, &seats)).await;
        })
    }

    fn note_ready<'a>(&'a self, id: &'a InstanceId, ready_ms: u64) -> BoxFuture<'a, ()> {
        let (notes, id) = (self.inner.notes.clone(), id.clone());
        Box::pin(async move {
            let _ = blocking(move || notes.note_ready(&id, ready_ms)).await;
        })
    }

    fn logs<'a>(
        &'a self,
        id: &'a InstanceId,
        query: LogQuery,
    ) -> BoxFuture<'a, Result<BoxStream<'static, String>, BackendError>> {
        Box::pin(Arc::clone(&self.inner).logs(id.clone(), query))
    }

    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Option<Stats>> {
        Box::pin(self.inner.stats(id))
    }
}

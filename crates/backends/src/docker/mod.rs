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
mod exec;
mod image;
mod launching;
mod network;
mod order;
mod stats;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use skep_docker::{Address, Engine, LogOptions};
use skep_launch::{
    Adopted, Backend, BackendError, BackendEvent, ExecOrder, Execution, ExitReport, LaunchOrder, Launched,
    LogQuery, ProgressSink, Stats,
};
use skep_model::{BackendKind, InstanceId, SeatId};
use tokio::sync::{Notify, mpsc};

use crate::container::MAX_TAIL;
use crate::container::notes::Notes;
use crate::table::{self, Table, blocking, now_ms};

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
    table: Table<Own>,
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
    /// When the engine was last away, from and to, milliseconds since the Unix epoch.
    away: Mutex<Option<(i64, Option<i64>)>>,
}

/// One instance this server launched or adopted.
type Instance = table::Instance<Own>;

/// What is known of an instance besides how far it is.
#[derive(Default)]
struct Own {
    /// The container's id, once there is one.
    container: Mutex<Option<String>>,
    /// Held by whoever finds out whether it has ended.
    ending: tokio::sync::Mutex<()>,
}

impl DockerBackend {
    /// Touches neither the disk nor the engine.
    pub fn new(config: DockerConfig, events: mpsc::Sender<BackendEvent>) -> Arc<Self> {
        let inner = Inner {
            engine: Engine::new(config.address.clone()),
            notes: Notes::below(config.data_dir.join("docker")),
            table: Table::new(events),
            network: tokio::sync::Mutex::default(),
            watch: Watch::default(),
            samples: stats::Samples::default(),
            opened_at_ms: now_ms(),
            config,
        };
        Arc::new(Self { inner: Arc::new(inner) })
    }
}

impl Own {
    fn of(container: String) -> Self {
        Self { container: Mutex::new(Some(container)), ..Self::default() }
    }

    fn container(&self) -> Option<String> {
        self.container.lock().clone()
    }
}

impl Inner {
    /// The log of a container, for people: best effort, errors end it.
    async fn container_log(
        &self,
        container: &str,
        query: LogQuery,
    ) -> Result<BoxStream<'static, String>, BackendError> {
        let options = LogOptions {
            tail: Some(query.tail.min(MAX_TAIL)),
            follow: query.follow,
            ..LogOptions::default()
        };
        match self.engine.container_log_to_its_end(container, options).await {
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
        if let Some(instance) = self.table.get(&id) {
            if query.follow && instance.is_launching() {
                // The log begins with the container.
                let later = async move {
                    let _ = instance.launched().await;
                    let container = instance.own.container();
                    match container {
                        Some(container) => self.container_log(&container, query).await.ok(),
                        None => None,
                    }
                };
                return Ok(stream::once(later).filter_map(ready).flatten().boxed());
            }
            let container = instance.own.container();
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
            let (inner, id) = (Arc::clone(&self.inner), order.id.clone());
            let course = |instance| inner.see_through(instance, order, progress);
            self.inner.table.launch(&id, Own::default, course).await
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

    fn exec<'a>(
        &'a self,
        id: &'a InstanceId,
        order: ExecOrder,
    ) -> BoxFuture<'a, Result<Execution, BackendError>> {
        Box::pin(async move {
            let known = self.inner.table.get(id).and_then(|instance| instance.own.container());
            let container = known.ok_or(BackendError::Unknown)?;
            exec::start(&self.inner.engine, &container, order).await
        })
    }

    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Option<Stats>> {
        Box::pin(self.inner.stats(id))
    }
}

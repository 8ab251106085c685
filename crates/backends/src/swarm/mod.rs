//! Instances as services of a Docker Swarm, each of one task, on whichever node its scheduler chooses.
//!
//! The managers place and start; the agents of the nodes dial, read and look (see `skep_agent`). What a later server needs to
//! know of an instance lies in its service's labels, seats included: the Swarm's own memory, which is there wherever Skep is
//! started next. A service is named and labelled from the instance's id, so a launch that is repeated meets the first.
//!
//! Invariants: services without this installation's label are never touched; a task is never started a second time by the
//! Swarm; an ended instance's last words are kept, as far as its node could be asked for them, before its service is removed;
//! whatever was launched ends up in a report or an adoption, also when this server, a manager or a node goes in between.
//!
//! Absent on purpose: addresses (everything goes through the agents), whether an instance answers (the launcher probes), and
//! when to start or stop one.

mod adopt;
mod ending;
mod exec;
mod launching;
mod network;
mod nodes;
mod noting;
mod order;
mod place;
mod task;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use skep_agent::{AgentError, Desk};
use skep_docker::{Error, Managers};
use skep_launch::{
    Adopted, Backend, BackendError, BackendEvent, ExecOrder, Execution, ExitReport, LaunchOrder, Launched,
    LogQuery, ProgressSink, Stats,
};
use skep_model::{BackendKind, InstanceId, SeatId};
use tokio::sync::{mpsc, watch as tokio_watch};

use crate::container::MAX_TAIL;
use crate::container::notes::Notes;
use crate::container::words::platform;
use crate::table::{self, Table, blocking, now_ms};
use nodes::Nodes;
use noting::Noting;
use place::Place;
use task::Task;
use watch::Watch;

/// For an agent to say what a container uses; its engine takes a second or two over it.
const STATS_WITHIN: Duration = Duration::from_secs(5);

/// What the backend is told once.
#[derive(Clone)]
pub struct SwarmConfig {
    /// The installation's name, the same wherever on the Swarm Skep runs.
    pub install: String,
    /// Absolute. What the backend keeps lies in `swarm` below it: last words only, so it may get lost.
    pub data_dir: PathBuf,
    pub managers: Managers,
    /// The network every instance is in; made when it is not there, from the nodes' own `skep_node`.
    pub network: String,
    /// How long instances get to end when asked to.
    pub stop_grace: Duration,
}

impl SwarmConfig {
    /// An installation called `skep`, its instances in `skep_apps`, ten seconds to end.
    pub fn new(data_dir: PathBuf, managers: Managers) -> Self {
        Self {
            install: "skep".to_owned(),
            data_dir,
            managers,
            network: "skep_apps".to_owned(),
            stop_grace: Duration::from_secs(10),
        }
    }
}

/// Runs instances on a Swarm.
pub struct SwarmBackend {
    inner: Arc<Inner>,
}

/// What every task of the backend shares.
struct Inner {
    config: SwarmConfig,
    managers: Managers,
    desk: Desk,
    nodes: Nodes,
    notes: Notes,
    table: Table<Own>,
    /// Held by whoever looks for the network, or makes it.
    network: tokio::sync::Mutex<()>,
    watch: Watch,
    /// Services of launches before this moment belong to an earlier server, milliseconds since the Unix epoch.
    opened_at_ms: i64,
}

/// One instance this server launched or adopted.
type Instance = table::Instance<Own>;

/// What is known of an instance besides how far it is.
#[derive(Default)]
struct Own {
    /// The id of its service, once there is one.
    service: Mutex<Option<String>>,
    /// What the Swarm says of its task, while it is launched.
    task: tokio_watch::Sender<Option<Task>>,
    place: Mutex<Option<Place>>,
    /// The id of the network it is in.
    network: Mutex<String>,
    /// When it ran. `None`: an earlier server launched it.
    since: Mutex<Option<Instant>>,
    noting: Noting,
    /// Held by whoever finds out whether it has ended.
    ending: tokio::sync::Mutex<()>,
}

impl Own {
    fn place(&self) -> Option<Place> {
        self.place.lock().clone()
    }

    fn service(&self) -> Option<String> {
        self.service.lock().clone()
    }
}

impl SwarmBackend {
    /// Touches neither the disk nor the Swarm.
    pub fn new(config: SwarmConfig, desk: Desk, events: mpsc::Sender<BackendEvent>) -> Arc<Self> {
        let inner = Inner {
            managers: config.managers.clone(),
            desk,
            nodes: Nodes::default(),
            notes: Notes::below(config.data_dir.join("swarm")),
            table: Table::new(events),
            network: tokio::sync::Mutex::default(),
            watch: Watch::default(),
            opened_at_ms: now_ms(),
            config,
        };
        Arc::new(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    /// The log of a container, for people.
    async fn container_log(
        &self,
        place: &Place,
        query: LogQuery,
    ) -> Result<BoxStream<'static, String>, BackendError> {
        let tail = query.tail.min(MAX_TAIL);
        match self.desk.logs(&place.node, &place.container, tail, query.follow).await {
            Ok(lines) => Ok(lines.map(|line| line.text).boxed()),
            Err(error) => Err(agent(&error)),
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
                    self.container_log(&instance.own.place()?, query).await.ok()
                };
                return Ok(stream::once(later).filter_map(ready).flatten().boxed());
            }
            return match instance.own.place() {
                Some(place) => self.container_log(&place, query).await,
                None => Ok(stream::empty().boxed()),
            };
        }
        let notes = self.notes.clone();
        let kept = blocking(move || notes.log(&id)).await?;
        let mut lines = kept.ok_or(BackendError::Unknown)?;
        let first = lines.len().saturating_sub(query.tail);
        Ok(stream::iter(lines.split_off(first)).boxed())
    }

    async fn stats(&self, id: &InstanceId) -> Option<Stats> {
        let place = self.table.get(id).filter(|instance| instance.is_running())?.own.place()?;
        let asked = self.desk.stats(&place.node, &place.container);
        let used = tokio::time::timeout(STATS_WITHIN, asked).await.ok()?.ok()?;
        Some(Stats {
            cpu_seconds: used.cpu_seconds,
            memory_bytes: used.memory_bytes,
            processes: used.processes,
        })
    }
}

/// Something about a node's agent.
fn agent(error: &AgentError) -> BackendError {
    BackendError::Platform(error.to_string())
}

impl Backend for SwarmBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Swarm
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
        Box::pin(self.inner.note(id, move |noted| noted.seats = seats))
    }

    fn note_ready<'a>(&'a self, id: &'a InstanceId, ready_ms: u64) -> BoxFuture<'a, ()> {
        Box::pin(self.inner.note(id, move |noted| noted.ready_ms = Some(ready_ms)))
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
            let place = self.inner.table.get(id).and_then(|instance| instance.own.place());
            exec::start(&self.inner.desk, &place.ok_or(BackendError::Unknown)?, order).await
        })
    }

    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Option<Stats>> {
        Box::pin(self.inner.stats(id))
    }
}

/// Something about the Swarm rather than the app.
fn swarm(error: &Error) -> BackendError {
    if error.is_away() {
        return BackendError::Platform(format!("the Swarm cannot be reached: {error}"));
    }
    platform(error)
}

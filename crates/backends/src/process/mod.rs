//! Instances as local processes.
//!
//! Each instance runs under a [`shim`] that outlives this server. The instance's folder holds everything a later server
//! needs: what was ordered, who attends to it, its log, its exit status. [`ProcessBackend::open`] reads nothing of
//! this; [`Backend::adopt`](skep_launch::Backend::adopt) does, once.
//!
//! Invariants: an id is launched once; whatever is launched ends up in a report or an adoption, also when the server is
//! killed at any point in between; no step of a launch blocks an async thread.
//!
//! Absent on purpose: whether an instance answers (the launcher probes), and when to start or stop one.

mod adopt;
mod attend;
mod cgroup;
mod environment;
mod exit;
mod folder;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod launching;
mod logs;
mod order;
mod place;
mod protocol;
pub mod shim;
mod stats;
mod user;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use skep_launch::{
    Adopted, Backend, BackendError, BackendEvent, ExitReport, LaunchOrder, Launched, LogQuery, ProgressSink,
    Stats,
};
use skep_model::{BackendKind, InstanceId, SeatId};
use tokio::sync::mpsc;

use crate::table::{self, Table, blocking};
use environment::Environments;
use folder::Folder;
pub use place::PORTS;

/// What the backend is told once.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Absolute. Instances and environments live below it.
    pub data_dir: PathBuf,
    /// Where Unix sockets are made. `None`: `<data_dir>/run` where its path is short enough, else a folder in `/run`,
    /// `$XDG_RUNTIME_DIR` or `/tmp`.
    pub run_dir: Option<PathBuf>,
    /// The program whose `shim_args` lead to [`shim::run`].
    pub shim_exe: PathBuf,
    pub shim_args: Vec<String>,
    /// Where programs (`R`, `python3`, `uv`) are looked for, and what apps get as `PATH`.
    pub path: String,
    /// Bytes of each of the two log files of an instance.
    pub log_bytes: u64,
}

impl ProcessConfig {
    /// The usual settings: this process's own `PATH`, two log files of 5 MiB, `<shim_exe> shim`.
    pub fn new(data_dir: PathBuf, shim_exe: PathBuf) -> Self {
        let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            data_dir,
            run_dir: None,
            shim_exe,
            shim_args: vec!["shim".to_owned()],
            path: std::env::var("PATH").ok().filter(|p| !p.is_empty()).unwrap_or_else(|| usual.to_owned()),
            log_bytes: 5 << 20,
        }
    }
}

/// Why the backend cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data folder must be an absolute path, not {0}")]
    Relative(PathBuf),
    #[error("cannot use {path}: {source}; choose another data folder or mend its permissions", path = path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("no folder for Unix sockets can be used ({0}); set a short run folder")]
    RunFolder(std::io::Error),
}

/// Runs instances as processes of this machine.
pub struct ProcessBackend {
    inner: Arc<Inner>,
}

/// What every task of the backend shares.
struct Inner {
    config: ProcessConfig,
    instances_dir: PathBuf,
    table: Table<Folder>,
    places: place::Places,
    environments: Arc<Environments>,
    groups: cgroup::Groups,
}

/// One instance this server launched or adopted.
type Instance = table::Instance<Folder>;

impl ProcessBackend {
    /// Prepares the folders and finds out what this machine permits. Starts nothing and adopts nothing.
    ///
    /// # Errors
    /// When a folder cannot be made or used.
    pub fn open(config: ProcessConfig, events: mpsc::Sender<BackendEvent>) -> Result<Arc<Self>, OpenError> {
        if !config.data_dir.is_absolute() {
            return Err(OpenError::Relative(config.data_dir));
        }
        let instances_dir = config.data_dir.join("instances");
        private_folder(&instances_dir)
            .map_err(|source| OpenError::Folder { path: instances_dir.clone(), source })?;
        let envs = config.data_dir.join("envs");
        let environments = Environments::open(envs.clone(), config.path.clone())
            .map_err(|source| OpenError::Folder { path: envs, source })?;
        let places =
            place::Places::open(config.run_dir.as_deref(), &config.data_dir).map_err(OpenError::RunFolder)?;
        let inner = Inner {
            instances_dir,
            table: Table::new(events),
            places,
            environments: Arc::new(environments),
            groups: cgroup::Groups::find(),
            config,
        };
        Ok(Arc::new(Self { inner: Arc::new(inner) }))
    }
}

fn private_folder(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

impl Inner {
    fn folder(&self, id: &InstanceId) -> Folder {
        Folder::of(&self.instances_dir, id)
    }

    /// Whether nothing more is written to the instance's log.
    fn is_over(&self, id: &InstanceId) -> bool {
        self.table.get(id).is_none_or(|instance| instance.is_over())
    }
}

impl Backend for ProcessBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Process
    }

    fn launch(
        &self,
        order: LaunchOrder,
        progress: ProgressSink,
    ) -> BoxFuture<'_, Result<Launched, BackendError>> {
        Box::pin(async move {
            let (inner, id) = (Arc::clone(&self.inner), order.id.clone());
            let course = |instance| inner.see_through(instance, order, progress);
            self.inner.table.launch(&id, || self.inner.folder(&id), course).await
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
        let folder = self.inner.folder(id);
        Box::pin(async move {
            let _ = blocking(move || folder.note_seats(&seats)).await;
        })
    }

    fn note_ready<'a>(&'a self, id: &'a InstanceId, ready_ms: u64) -> BoxFuture<'a, ()> {
        let folder = self.inner.folder(id);
        Box::pin(async move {
            let _ = blocking(move || folder.note_ready(ready_ms)).await;
        })
    }

    fn logs<'a>(
        &'a self,
        id: &'a InstanceId,
        query: LogQuery,
    ) -> BoxFuture<'a, Result<BoxStream<'static, String>, BackendError>> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        Box::pin(async move {
            let folder = inner.folder(&id);
            let known = inner.table.get(&id).is_some() || folder.path().is_dir();
            if !known {
                return Err(BackendError::Unknown);
            }
            let (path, lines) = (folder.path().to_path_buf(), query.tail.min(logs::MAX_TAIL));
            if query.follow {
                // Also while it is being launched: the log appears with the shim.
                return Ok(logs::follow(path, lines, move || inner.is_over(&id)).boxed());
            }
            let lines = blocking(move || logs::tail(&path, lines)).await?;
            Ok(stream::iter(lines).boxed())
        })
    }

    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Option<Stats>> {
        let folder = self.inner.folder(id);
        let alive = !self.inner.is_over(id);
        Box::pin(async move {
            let measured = blocking(move || alive.then(|| stats::of(&folder)).flatten()).await;
            measured.ok().flatten()
        })
    }
}

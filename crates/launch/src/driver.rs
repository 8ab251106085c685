//! The only place with a clock: carries the pool's actions to the backends and their answers back.
//!
//! The driver is one task that finds work, starts a task for whatever takes time, and ticks the pool while anything is
//! alive or waiting. Tasks step the pool themselves: the first good answer of an instance reaches those who wait for it
//! without passing through a queue.
//!
//! Absent on purpose: decisions. What to start, stop or grant is the pool's alone.

mod clock;
mod figures;
mod journal;
mod lift;
mod probe;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use skep_model::{AppId, BackendKind, Event, EventKind, InstanceId};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle};

use crate::backend::{Backend, BackendEvent, EndedBy};
use crate::desk::{Desk, Work};
use crate::handle::Handle;
use crate::pool::{Action, Input, Pool, PoolConfig, Record};

pub(crate) use clock::Clock;
use journal::Journal;

/// How the driver goes about it; the caps are in [`PoolConfig`].
#[derive(Debug, Clone)]
pub struct DriverConfig {
    pub pool: PoolConfig,
    /// Between two attempts to connect to an instance that does not listen yet.
    pub connect_every: Duration,
    /// Between two questions to an instance that answers, but not well.
    pub ask_again_every: Duration,
    /// How long an instance may take over one answer before it is asked anew, while it starts.
    pub start_answer_timeout: Duration,
    /// How long a running instance may take to answer a probe.
    pub probe_timeout: Duration,
    /// Probes of running instances at a time.
    pub probes_at_once: usize,
    /// What probes send as `Host`.
    pub probe_host: String,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            connect_every: Duration::from_millis(5),
            ask_again_every: Duration::from_millis(20),
            start_answer_timeout: Duration::from_secs(10),
            probe_timeout: Duration::from_secs(10),
            probes_at_once: 16,
            probe_host: "localhost".to_owned(),
        }
    }
}

/// How long after its start the driver hears of instances that ended before.
const EARLY_EXITS_WITHIN: Duration = Duration::from_secs(10);

/// The running driver.
pub struct DriverTask {
    task: JoinHandle<()>,
}

impl DriverTask {
    /// Resolves when the driver has ended, after [`Handle::shutdown`] or [`Handle::drain_for_handover`].
    pub async fn ended(self) {
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            tracing::error!("the launcher's driver ended by a panic");
        }
    }
}

/// Starts the driver on the current tokio runtime. Claims are answered only after every backend was asked what is alive.
pub fn start(
    config: DriverConfig,
    backends: Vec<Arc<dyn Backend>>,
    events_in: mpsc::Receiver<BackendEvent>,
    journal: mpsc::Sender<Event>,
) -> (Handle, DriverTask) {
    let desk = Desk::new(Pool::new(config.pool.clone()), Clock::new());
    let handle = Handle::new(desk.clone());
    let links = Links {
        desk: desk.clone(),
        backends: Arc::new(backends.into_iter().map(|backend| (backend.kind(), backend)).collect()),
        config: Arc::new(config),
    };
    let driver = Driver {
        probes: Arc::new(Semaphore::new(links.config.probes_at_once.max(1))),
        journal: Journal::new(journal, desk),
        links,
        lifts: HashMap::new(),
        notes: HashMap::new(),
        side: Vec::new(),
        used: BTreeMap::new(),
    };
    let task = tokio::spawn(driver.run(events_in));
    (handle, DriverTask { task })
}

/// What every task of the driver works with.
#[derive(Clone)]
struct Links {
    desk: Arc<Desk>,
    backends: Arc<HashMap<BackendKind, Arc<dyn Backend>>>,
    config: Arc<DriverConfig>,
}

impl Links {
    /// The backend an instance runs on.
    fn backend_of(&self, id: &InstanceId) -> Option<&Arc<dyn Backend>> {
        let kind = self.desk.kind_of(id)?;
        self.backends.get(&kind)
    }
}

struct Driver {
    links: Links,
    journal: Journal,
    probes: Arc<Semaphore>,
    /// Launches and first probes under way.
    lifts: HashMap<InstanceId, AbortHandle>,
    /// The latest note of seats per instance: the next one waits for it.
    notes: HashMap<InstanceId, JoinHandle<()>>,
    /// Everything else under way, ended with the driver.
    side: Vec<AbortHandle>,
    /// How long seats were held, not yet counted.
    used: BTreeMap<AppId, Duration>,
}

impl Driver {
    async fn run(mut self, mut events: mpsc::Receiver<BackendEvent>) {
        let desk = self.links.desk.clone();
        let mut adoption = tokio::spawn(lift::adopt_all(self.links.clone()));
        self.side.push(adoption.abort_handle());
        let mut adopting = true;
        // What ended before everything alive was known. Bounded by the instances there were.
        let mut early = Vec::new();
        // A backend reports these without being waited for, so the last of them may come a little after its answer.
        let late = tokio::time::Instant::now() + EARLY_EXITS_WITHIN;
        let mut listening = true;
        loop {
            let (work, next) = desk.take_work();
            self.carry_out(work);
            if desk.has_ended() {
                break;
            }
            // Without anything alive there is nothing to tick for.
            let tick = next.unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                () = desk.wake.notified() => {}
                _ = &mut adoption, if adopting => {
                    adopting = false;
                    early.drain(..).for_each(|event| self.take(event, true));
                }
                event = events.recv(), if listening => match event {
                    Some(event) if adopting => early.push(event),
                    Some(event) => self.take(event, tokio::time::Instant::now() < late),
                    None => listening = false,
                },
                () = tokio::time::sleep(tick) => {
                    desk.step(Input::Tick);
                    self.journal.flush();
                    self.side.retain(|task| !task.is_finished());
                }
            }
        }
        let (work, _) = desk.take_work();
        self.carry_out(work);
        self.lifts.values().chain(&self.side).for_each(AbortHandle::abort);
        // The last notes are for the successor; each has its own limit.
        for (_, note) in self.notes {
            drop(note.await);
        }
        desk.finish();
    }

    fn take(&mut self, event: BackendEvent, early: bool) {
        let BackendEvent::Exited { id, report } = event;
        let known = self.links.desk.read(|pool| pool.knows_any(std::slice::from_ref(&id)));
        if early && !known {
            // What went with its node, or by somebody's hand, is no crash.
            let lost = report.ended_by == EndedBy::Platform;
            self.journal.write(Record {
                kind: if lost { EventKind::InstanceStop } else { EventKind::InstanceCrash },
                app: id.app().clone(),
                instance: Some(id),
                user: None,
                detail: format!("ended while Skep was not running: {}", report.reason),
            });
        } else {
            self.links.desk.step(Input::Exited { id, report });
        }
    }

    fn carry_out(&mut self, work: Work) {
        for action in work.actions {
            self.carry_out_one(action);
        }
        for app in work.dirty {
            self.gauge(&app);
        }
        for (app, time) in work.used {
            *self.used.entry(app).or_default() += time;
        }
        figures::used(&mut self.used);
    }

    fn carry_out_one(&mut self, action: Action) {
        match action {
            Action::Launch(order) => {
                let id = order.id.clone();
                let task = tokio::spawn(lift::bring_up(self.links.clone(), order));
                self.lifts.insert(id, task.abort_handle());
            }
            Action::AwaitReady { id } => {
                let task = tokio::spawn(lift::await_ready(self.links.clone(), id.clone()));
                self.lifts.insert(id, task.abort_handle());
            }
            Action::Stop { id, grace, reason } => {
                if let Some(lift) = self.lifts.remove(&id) {
                    lift.abort();
                }
                tokio::spawn(lift::take_down(self.links.clone(), id, grace, reason));
            }
            Action::Forget { id } => {
                self.lifts.remove(&id);
                self.notes.remove(&id);
            }
            Action::Probe { id } => {
                let task = tokio::spawn(lift::probe_running(self.links.clone(), self.probes.clone(), id));
                self.side.push(task.abort_handle());
            }
            Action::NoteSeats { id, seats } => {
                let before = self.notes.remove(&id);
                let task = tokio::spawn(lift::note_seats(self.links.clone(), id.clone(), seats, before));
                self.notes.insert(id, task);
            }
            Action::Journal(record) => self.journal.write(record),
            Action::Figure { app, figure } => figures::count(&app, figure),
            // Settled at the desk, under the lock.
            Action::Grant { .. }
            | Action::Refuse { .. }
            | Action::Revoke { .. }
            | Action::Free { .. }
            | Action::AskActivity { .. }
            | Action::Changed { .. } => {}
        }
    }

    fn gauge(&self, app: &AppId) {
        let instances = self.links.desk.read(|pool| pool.app_instances(app));
        figures::instances(app, &instances);
    }
}

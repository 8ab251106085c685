//! Noticing what happens on the Swarm.
//!
//! Managers and agents send events, which only say where to look; lists of tasks and nodes say what is. While something is
//! launched its tasks are asked for every few hundredths of a second, all in one call; everything is compared every two
//! seconds, whatever the events said.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use skep_docker::{Engine, Error, Event, Kind};
use skep_model::InstanceId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::ending::Sign;
use super::order::labels_of;
use super::task::Task;
use super::{Inner, Instance, nodes};
use crate::container::labels::INSTALL;
use crate::table::now_ms;

/// Between two looks at everything.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two looks at what is launched: while it is fresh, and later.
const LAUNCHING: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(250)];
const FRESH: Duration = Duration::from_secs(5);
/// Between two looks for services that are nobody's.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// After a look that failed.
const AGAIN: Duration = Duration::from_millis(200);
/// No launch takes this long before its service is there.
const FORGOTTEN_AFTER_MS: i64 = 10 * 60 * 1000;

/// What the readers of events and the one who acts on them share.
#[derive(Default)]
pub(super) struct Watch {
    running: AtomicBool,
    /// Containers something happened to.
    touched: Mutex<BTreeSet<String>>,
    /// Everything is to be looked at.
    all: AtomicBool,
    pub(super) wake: Notify,
    /// Whatever is alive and not known is nobody's from now on.
    pub(super) adopted: AtomicBool,
    /// Instances whose services could not be removed yet.
    doomed: Mutex<BTreeSet<InstanceId>>,
}

impl Inner {
    /// Starts the tasks, once. They end with the backend or the launcher.
    pub(super) fn keep_watch(self: &Arc<Self>) {
        if self.watch.running.swap(true, Ordering::AcqRel) {
            return;
        }
        tokio::spawn(read_managers(Arc::downgrade(self)));
        tokio::spawn(read_agents(Arc::downgrade(self)));
        tokio::spawn(look(Arc::downgrade(self)));
        tokio::spawn(nodes::keep_labels(Arc::downgrade(self)));
    }

    pub(super) fn touch_all(&self) {
        self.watch.all.store(true, Ordering::Release);
        self.watch.wake.notify_one();
    }

    pub(super) fn doom(&self, id: &InstanceId) {
        self.watch.doomed.lock().insert(id.clone());
    }

    /// Finds out in a task of its own whether an instance has ended: nodes may take their time to answer.
    fn look_at(self: &Arc<Self>, instance: Arc<Instance>, sign: Sign) {
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = inner.conclude(&instance, sign).await {
                tracing::warn!(instance = %instance.id, %error, "whether it has ended is not known yet");
            }
        });
    }

    /// Tasks of this installation, or of these services only.
    pub(super) async fn tasks(&self, services: Option<&[String]>) -> Result<Vec<Task>, Error> {
        let label = format!("{INSTALL}={}", self.config.install);
        let mut filters = vec![("label", label.as_str())];
        filters.extend(services.into_iter().flatten().map(|service| ("service", service.as_str())));
        let filters = filters.as_slice();
        let list = |engine: Engine| async move { engine.list(Kind::Task, filters).await };
        Ok(self.managers.ask(list).await?.iter().map(Task::of).collect())
    }

    /// Tells whoever waits for a launch how far its task is.
    async fn look_at_launches(&self, launching: &[(Arc<Instance>, String)]) -> Result<(), Error> {
        let services: Vec<String> = launching.iter().map(|(_, service)| service.clone()).collect();
        let tasks = match self.tasks(Some(&services)).await {
            // One of them is gone, and the managers name none of the others then.
            Err(error) if error.is_not_found() => self.tasks(None).await?,
            tasks => tasks?,
        };
        for (instance, service) in launching {
            let task = Task::newest(&tasks, service).cloned();
            instance.own.task.send_if_modified(|known| {
                // Another service may have taken its place since the list was asked for.
                let still = instance.own.service().as_deref() == Some(service.as_str());
                let changed = still && task.is_some() && *known != task;
                if changed {
                    *known = task;
                }
                changed
            });
        }
        Ok(())
    }

    /// Compares what is known with what there is.
    async fn look_at_all(self: &Arc<Self>) -> Result<(), Error> {
        // Taken before the list: what is launched meanwhile is not missed in it.
        let mut known = self.table.all();
        known.retain(|instance| instance.is_running());
        if known.is_empty() {
            return Ok(());
        }
        self.nodes.refresh(&self.managers).await?;
        let tasks = self.tasks(None).await?;
        for instance in known {
            if instance.own.noting.is_behind() {
                let (inner, id) = (Arc::clone(self), instance.id.clone());
                tokio::spawn(async move { inner.note(&id, |_| {}).await });
            }
            let Some(place) = instance.own.place() else { continue };
            let task = tasks.iter().find(|task| task.id == place.task);
            let sign = match (self.nodes.loss(&place.node), task) {
                (Some(loss), _) => Sign::Lost(loss),
                (None, None) => Sign::Missing,
                (None, Some(task)) if task.is_over() || task.is_unwanted() => Sign::Task(task.clone()),
                _ => continue,
            };
            if matches!(sign, Sign::Lost(_)) {
                self.desk.give_up(&place.node);
            }
            self.look_at(instance, sign);
        }
        Ok(())
    }

    /// Removes services that are ours and nobody's, and those that could not be removed before.
    async fn sweep(&self) -> Result<(), Error> {
        let doomed: Vec<InstanceId> = std::mem::take(&mut *self.watch.doomed.lock()).into_iter().collect();
        for id in doomed {
            self.clear(&id).await;
        }
        for service in self.services().await?.iter().filter_map(labels_of) {
            // Made by an earlier server and not adopted, so that nobody will ever ask for it; or by a launch here that
            // was given up before the managers were done with it. What a successor of this server makes is younger; and
            // once the launcher listens no more, nothing is this server's to judge.
            let adopted = self.watch.adopted.load(Ordering::Acquire) && !self.table.is_deserted();
            let old = service.started_at_ms < self.opened_at_ms
                || service.started_at_ms < now_ms() - FORGOTTEN_AFTER_MS;
            if adopted && old && self.table.get(&service.id).is_none() {
                tracing::info!(instance = %service.id, "its service belonged to nobody any more");
                self.clear(&service.id).await;
            }
        }
        Ok(())
    }

    /// Every service of this installation.
    pub(super) async fn services(&self) -> Result<Vec<skep_docker::Document>, Error> {
        let label = format!("{INSTALL}={}", self.config.install);
        let filters = [("label", label.as_str())];
        self.managers.ask(|engine| async move { engine.list(Kind::Service, &filters).await }).await
    }
}

/// Reads the managers' events for as long as anybody wants to know.
async fn read_managers(inner: Weak<Inner>) {
    let Some(managers) = living(&inner).map(|inner| inner.managers.clone()) else { return };
    let filters = [("type", "node"), ("type", "service"), ("scope", "swarm")];
    let told = |event: Option<&Event>| {
        let Some(inner) = living(&inner) else { return false };
        // Services are made and changed by ourselves, mostly.
        if event.is_none_or(|event| event.kind() == "node" || event.action() == "remove") {
            inner.touch_all();
        }
        true
    };
    managers.follow(&filters, told).await;
}

/// Reads what the agents say of their nodes' containers.
async fn read_agents(inner: Weak<Inner>) {
    let Some(mut events) = living(&inner).map(|inner| inner.desk.events()) else { return };
    while let Some(event) = events.recv().await {
        let Some(inner) = living(&inner) else { return };
        match event.action.as_str() {
            "die" | "destroy" | "oom" => {
                inner.watch.touched.lock().insert(event.container);
                inner.watch.wake.notify_one();
            }
            "start" => inner.watch.wake.notify_one(),
            "gap" => inner.touch_all(),
            _ => {}
        }
    }
}

/// Looks at what was touched, at what is launched, and now and then at everything.
async fn look(inner: Weak<Inner>) {
    let (mut looked, mut swept) = (Instant::now(), Instant::now());
    let mut fresh_until = Instant::now();
    let mut away = false;
    loop {
        let Some(inner) = living(&inner) else { return };
        let launching = launching(&inner);
        let now = Instant::now();
        if launching.iter().any(|(instance, _)| instance.own.task.borrow().is_none()) {
            fresh_until = now + FRESH;
        }
        let pause = match (launching.is_empty(), now < fresh_until) {
            (true, _) => LOOK_EVERY,
            (false, true) => LAUNCHING[0],
            (false, false) => LAUNCHING[1],
        };
        let _ = timeout(pause, inner.watch.wake.notified()).await;
        let touched = std::mem::take(&mut *inner.watch.touched.lock());
        for instance in inner.table.all() {
            if instance.own.place().is_some_and(|place| touched.contains(&place.container)) {
                inner.look_at(instance, Sign::Event);
            }
        }
        let look = async {
            if !launching.is_empty() {
                inner.look_at_launches(&launching).await?;
            }
            if inner.watch.all.swap(false, Ordering::AcqRel) || looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                inner.look_at_all().await?;
            }
            if swept.elapsed() >= SWEEP_EVERY {
                swept = Instant::now();
                inner.sweep().await?;
            }
            Ok::<_, Error>(())
        };
        match look.await {
            Ok(()) if std::mem::take(&mut away) => tracing::info!("the Swarm answers again"),
            Ok(()) => {}
            Err(error) => {
                inner.nodes.managers_are_away(std::time::Instant::now());
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(%error, "what runs on the Swarm cannot be compared with what is known of it");
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// What is launched and has a service by now.
fn launching(inner: &Inner) -> Vec<(Arc<Instance>, String)> {
    let all = inner.table.all().into_iter().filter(|instance| instance.is_launching());
    all.filter_map(|instance| instance.own.service().map(|service| (instance, service))).collect()
}

/// The backend, while it has a launcher to report to.
pub(super) fn living(inner: &Weak<Inner>) -> Option<Arc<Inner>> {
    inner.upgrade().filter(|inner| !inner.table.is_deserted())
}

//! Ordinary services of a Swarm, published: which there are, what they ask for, and which of their tasks are well.
//!
//! What happens in the Swarm only says *look*; the lists of services and tasks say what is. A task is sent requests once it
//! runs (its own health check included) and accepts a connection, and gets nothing new from the moment it is told to end.
//! When the Swarm cannot be asked, everything stays as it was: the tasks run on without their managers.
//!
//! Absent on purpose: starting and stopping tasks (the Swarm's), except that a first request wakes a service that says so.

mod ask;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use skep_docker::{Event, Kind, Managers};
use skep_edge::{ServiceRoute, ServiceTarget};
use skep_launch::Dial;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

pub use ask::{PATIENCE, ROUTE_LABEL, ServiceAsk, WAKE_PATIENCE};
use tasks::{Running, Seen, Task};

/// Between two looks when nothing moves. Events shorten it.
const CALM: Duration = Duration::from_secs(2);
/// Between two looks while tasks come and go.
const BUSY: Duration = Duration::from_millis(100);
/// So many looks at the same tasks, and they do not move any more.
const STILL: u32 = 100;
/// A task that was told to end, and that the Swarm still wants to run after this long, was told something else.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);
/// Between two times a service is woken.
const WAKE_AGAIN: Duration = Duration::from_secs(1);
/// Between two tries to connect to a new task.
const PROBE_EVERY: Duration = Duration::from_millis(50);
const PROBE_WITHIN: Duration = Duration::from_secs(2);

/// What the follower reaches the Swarm with.
pub struct Reach {
    pub managers: Managers,
    /// Connects to a port of a container on a node.
    pub dial: Arc<dyn Fn(TaskPort) -> Arc<dyn Dial> + Send + Sync>,
    /// Nodes whose containers can be connected to.
    pub nodes: watch::Receiver<BTreeSet<String>>,
    /// Host names that are Skep's own: no service gets one of them.
    pub reserved: BTreeSet<String>,
    /// What nodes tell of their containers.
    pub hints: mpsc::Receiver<Hint>,
}

/// A port of a task's container.
#[derive(Debug, Clone)]
pub struct TaskPort {
    /// The node's id.
    pub node: String,
    pub container: String,
    pub port: u16,
}

/// A container is told to end, or has ended.
#[derive(Debug, Clone)]
pub struct Hint {
    /// The id of the node that says so; nobody speaks for another's containers.
    pub node: String,
    pub container: String,
}

type Targets = watch::Sender<Arc<[Arc<ServiceTarget>]>>;

/// Follows services until it is dropped. `asks`: those the config names; `publish`: what becomes of all of them.
pub async fn follow(
    reach: Reach,
    mut asks: watch::Receiver<Arc<[ServiceAsk]>>,
    publish: impl Fn(Vec<Arc<ServiceRoute>>) + Send,
) {
    let Reach { managers, dial, mut nodes, mut hints, reserved } = reach;
    let wake = Arc::new(Notify::new());
    let _events = AbortOnDropHandle::new(tokio::spawn(hear(managers.clone(), Arc::clone(&wake))));
    let (probed_in, mut probed) = mpsc::channel(256);
    let mut follower = Follower {
        managers,
        dial,
        reserved,
        probed: probed_in,
        services: BTreeMap::new(),
        replaced: Vec::new(),
        complaints: BTreeSet::new(),
        seen: Seldom::default(),
        failing: false,
    };
    let mut next = Instant::now();
    let mut hinting = true;
    // A manager that hangs must not keep what nodes say from being heeded.
    let mut looking: Option<AbortOnDropHandle<Result<Lists, String>>> = None;
    loop {
        let idle = looking.is_none();
        tokio::select! {
            biased;
            hint = hints.recv(), if hinting => match hint {
                Some(hint) => follower.heed(&hint),
                None => hinting = false,
            },
            Some((service, task)) = probed.recv() => follower.admit(&service, &task),
            lists = finished(&mut looking), if !idle => {
                looking = None;
                let (asked, reachable) = (Arc::clone(&asks.borrow()), nodes.borrow().clone());
                let (changed, moving) = follower.compare(lists, &asked, &reachable);
                if changed {
                    publish(follower.services.values().map(|service| Arc::clone(&service.route)).collect());
                }
                follower.replaced.clear();
                next = Instant::now() + if moving { BUSY } else { CALM };
            }
            changed = asks.changed(), if idle => match changed {
                Ok(()) => next = Instant::now(),
                Err(_) => return,
            },
            changed = nodes.changed(), if idle => match changed {
                Ok(()) => next = Instant::now(),
                Err(_) => return,
            },
            () = wake.notified(), if idle => next = Instant::now(),
            () = sleep_until(next), if idle => {
                looking = Some(AbortOnDropHandle::new(tokio::spawn(lists(follower.managers.clone()))));
            }
        }
    }
}

/// All services with their labels, and the tasks that are meant to run.
type Lists = (Vec<(Seen, Option<Value>)>, Vec<Task>);

async fn finished(looking: &mut Option<AbortOnDropHandle<Result<Lists, String>>>) -> Result<Lists, String> {
    match looking {
        Some(task) => task.await.unwrap_or_else(|_| Err("the look at the Swarm was broken off".to_owned())),
        None => std::future::pending().await,
    }
}

async fn lists(managers: Managers) -> Result<Lists, String> {
    let lists = managers.ask(|engine| async move {
        let services = engine.list(Kind::Service, &[]).await?;
        let tasks = engine.list(Kind::Task, &[("desired-state", "running")]).await?;
        Ok((services, tasks))
    });
    let (services, tasks) = lists.await.map_err(|error| error.to_string())?;
    let labels = |service: &skep_docker::Document| service.at("/Spec/Labels").cloned();
    let services = services.iter().filter_map(|service| Some((Seen::of(service)?, labels(service))));
    Ok((services.collect(), tasks.iter().filter_map(Task::of).collect()))
}

/// Wakes the follower whenever something happens in the Swarm.
async fn hear(managers: Managers, wake: Arc<Notify>) {
    let filters = &[("scope", "swarm"), ("type", "service"), ("type", "node")];
    let told = |_: Option<&Event>| {
        wake.notify_one();
        true
    };
    managers.follow(filters, told).await;
}

struct Follower {
    managers: Managers,
    dial: Arc<dyn Fn(TaskPort) -> Arc<dyn Dial> + Send + Sync>,
    /// Service and task that accepted a connection.
    probed: mpsc::Sender<(String, String)>,
    /// By the service's id.
    services: BTreeMap<String, Followed>,
    /// Published no longer, or otherwise. Their requests look for another route when these go, so the table comes first.
    replaced: Vec<Followed>,
    /// Told already.
    complaints: BTreeSet<String>,
    reserved: BTreeSet<String>,
    seen: Seldom,
    failing: bool,
}

/// Whether tasks have changed of late.
#[derive(Default)]
struct Seldom {
    tasks: Vec<Task>,
    same: u32,
}

impl Seldom {
    fn changed(&mut self, tasks: Vec<Task>) -> bool {
        self.same = if tasks == self.tasks { self.same.saturating_add(1) } else { 0 };
        self.tasks = tasks;
        self.same < STILL
    }
}

/// A published service.
struct Followed {
    ask: ServiceAsk,
    route: Arc<ServiceRoute>,
    targets: Targets,
    tasks: BTreeMap<String, Followee>,
    _waker: Option<AbortOnDropHandle<()>>,
}

/// A running task.
struct Followee {
    running: Running,
    target: Arc<ServiceTarget>,
    /// Gone once it accepted a connection.
    probe: Option<AbortOnDropHandle<()>>,
    /// When it was told to end.
    leaving: Option<Instant>,
}

impl Follower {
    /// Compares what is published with the Swarm. Answers whether the list of services changed, and whether tasks move.
    fn compare(
        &mut self,
        lists: Result<Lists, String>,
        asked: &[ServiceAsk],
        reachable: &BTreeSet<String>,
    ) -> (bool, bool) {
        let (services, tasks) = match lists {
            Ok(lists) => lists,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("services of the Swarm stay published as they are: {error}");
                }
                return (false, false);
            }
        };
        if std::mem::replace(&mut self.failing, false) {
            tracing::info!("the Swarm answers again");
        }
        let wanted = self.wanted(asked, &services);
        let (managers, replaced) = (&self.managers, &mut self.replaced);
        let before = replaced.len();
        replaced.extend(self.services.extract_if(.., |id, _| !wanted.contains_key(id)).map(|(_, gone)| gone));
        for (id, service) in &mut self.services {
            if let Some((_, ask)) = wanted.get(id).filter(|(_, ask)| *ask != service.ask) {
                tracing::info!(service = ask.service, place = %ask.place, "a service is published another way");
                let renewed = service.renewed(ask.clone(), id, managers);
                replaced.push(std::mem::replace(service, renewed));
            }
        }
        let mut changed = replaced.len() > before;
        let mut moving = false;
        for (id, (seen, ask)) in wanted {
            let service = self.services.entry(id.clone()).or_insert_with(|| {
                changed = true;
                tracing::info!(service = seen.name, place = %ask.place, "a service is published");
                Followed::new(ask, &id, managers)
            });
            let own: Vec<&Task> = tasks.iter().filter(|task| task.service == id).collect();
            let well = own.iter().filter(|task| task.running.is_some()).count() as u64;
            moving |= seen.updating || own.len() as u64 != well || seen.replicas.is_some_and(|n| n != well);
            service.follow(&own, reachable, &self.dial, &self.probed);
        }
        // What is stuck (no node has room, a program that crashes) is no reason to go on asking ten times a second.
        (changed, moving && self.seen.changed(tasks))
    }

    /// Which services are to be published: those the config names, then, oldest first, those whose labels say so. Of two
    /// that want the same place, or have the same id, the first has it.
    fn wanted(
        &mut self,
        asked: &[ServiceAsk],
        services: &[(Seen, Option<Value>)],
    ) -> BTreeMap<String, (Seen, ServiceAsk)> {
        let mut complaints = BTreeSet::new();
        let mut candidates = Vec::new();
        for ask in asked {
            match services.iter().find(|(seen, _)| seen.name == ask.service) {
                Some((seen, _)) => candidates.push((seen.clone(), ask.clone())),
                None => {
                    complaints.insert(format!("there is no service `{}` in the Swarm", ask.service));
                }
            }
        }
        let mut labelled: Vec<_> = services.iter().collect();
        labelled.sort_by_key(|(seen, _)| (&seen.created, &seen.id));
        for (seen, labels) in labelled {
            let named = asked.iter().any(|ask| ask.service == seen.name);
            let labels = labels.as_ref().and_then(Value::as_object).filter(|_| !named);
            match labels.and_then(|labels| ServiceAsk::of_labels(&seen.name, labels)) {
                None => {}
                Some(Ok(ask)) => candidates.push((seen.clone(), ask)),
                Some(Err(wrong)) => {
                    complaints.insert(wrong);
                }
            }
        }
        let mut wanted: BTreeMap<String, (Seen, ServiceAsk)> = BTreeMap::new();
        for (seen, ask) in candidates {
            if let Some(host) = ask.place.host.as_ref().filter(|host| self.reserved.contains(*host)) {
                complaints.insert(format!(
                    "the service `{}` is not published: `{host}` is Skep's own name; give it a path (`/{}/`)",
                    seen.name, ask.id
                ));
                continue;
            }
            let rival = wanted.values().find(|(_, other)| other.place == ask.place || other.id == ask.id);
            match rival {
                Some((rival, _)) => {
                    complaints.insert(format!(
                        "the service `{}` is not published: `{}` has its place {} or its id `{}`",
                        seen.name, rival.name, ask.place, ask.id
                    ));
                }
                None => drop(wanted.insert(seen.id.clone(), (seen, ask))),
            }
        }
        for complaint in complaints.difference(&self.complaints) {
            tracing::warn!("{complaint}");
        }
        self.complaints = complaints;
        wanted
    }

    /// A task that is told to end gets nothing new, from now on.
    fn heed(&mut self, hint: &Hint) {
        for service in self.services.values_mut() {
            let is_it = |at: &Running| at.container == hint.container && at.node == hint.node;
            if let Some(task) = service.tasks.values_mut().find(|task| is_it(&task.running)) {
                task.leaving = Some(Instant::now());
                service.tell();
            }
        }
    }

    /// A task accepted a connection.
    fn admit(&mut self, service: &str, task: &str) {
        let Some(service) = self.services.get_mut(service) else { return };
        if let Some(task) = service.tasks.get_mut(task) {
            task.probe = None;
        }
        service.tell();
    }
}

impl Followed {
    fn new(ask: ServiceAsk, id: &str, managers: &Managers) -> Self {
        let targets: Targets = watch::Sender::new(Arc::from([]));
        let mut route = ServiceRoute::new(Arc::new(ask.spec()), ask.place.host.clone(), targets.subscribe());
        route.spread = ask.spread;
        route.sticky = ask.sticky;
        route.patience = ask.patience;
        let waker = ask.wake.map(|tasks| {
            let wanted = Arc::clone(&route.wanted);
            AbortOnDropHandle::new(tokio::spawn(wake_up(managers.clone(), id.to_owned(), wanted, tasks)))
        });
        Self { ask, route: Arc::new(route), targets, tasks: BTreeMap::new(), _waker: waker }
    }

    /// The same service as it is asked for now. What is known of its tasks stays known, unless it is the tasks' part of the
    /// question that has changed.
    fn renewed(&mut self, ask: ServiceAsk, id: &str, managers: &Managers) -> Self {
        let of_tasks = |ask: &ServiceAsk| (ask.id.clone(), ask.place.mount.clone(), ask.port, ask.prefix);
        let same = of_tasks(&ask) == of_tasks(&self.ask);
        let mut renewed = Self::new(ask, id, managers);
        if same {
            renewed.tasks = std::mem::take(&mut self.tasks);
            renewed.tell();
        }
        renewed
    }

    /// Takes over which tasks there are now.
    fn follow(
        &mut self,
        tasks: &[&Task],
        reachable: &BTreeSet<String>,
        dial: &Arc<dyn Fn(TaskPort) -> Arc<dyn Dial> + Send + Sync>,
        probed: &mpsc::Sender<(String, String)>,
    ) {
        let reached = |task: &Task| task.running.as_ref().is_some_and(|at| reachable.contains(&at.node));
        let well: BTreeMap<&str, &Task> =
            tasks.iter().filter(|task| reached(task)).map(|task| (task.id.as_str(), *task)).collect();
        let before = self.tasks.len();
        self.tasks.retain(|id, known| {
            well.get(id.as_str()).is_some_and(|task| task.running.as_ref() == Some(&known.running))
        });
        let mut gone = before != self.tasks.len();
        for task in self.tasks.values_mut() {
            gone |= task.leaving.take_if(|since| since.elapsed() > LEAVES_WITHIN).is_some();
        }
        for (id, task) in well {
            let Some(running) = task.running.clone().filter(|_| !self.tasks.contains_key(id)) else {
                continue;
            };
            let TaskPort { node, container, port } = TaskPort {
                node: running.node.clone(),
                container: running.container.clone(),
                port: self.ask.port,
            };
            let dial = dial(TaskPort { node, container, port });
            let target = ServiceTarget::new(&self.route.spec, task.nonce(), Arc::clone(&dial));
            let (service, id) = (task.service.clone(), id.to_owned());
            let told = (service, id.clone());
            let probe = probe(dial, probed.clone(), told);
            let probe = Some(AbortOnDropHandle::new(tokio::spawn(probe)));
            self.tasks.insert(id, Followee { running, target, probe, leaving: None });
        }
        if gone {
            self.tell();
        }
    }

    /// Tells the edge which tasks are well.
    fn tell(&self) {
        let well = self.tasks.values().filter(|task| task.probe.is_none() && task.leaving.is_none());
        self.targets.send_replace(well.map(|task| Arc::clone(&task.target)).collect());
    }
}

/// Tries to connect until that works.
async fn probe(dial: Arc<dyn Dial>, probed: mpsc::Sender<(String, String)>, task: (String, String)) {
    loop {
        if let Ok(Ok(_)) = timeout(PROBE_WITHIN, dial.dial()).await {
            let _ = probed.send(task).await;
            return;
        }
        sleep(PROBE_EVERY).await;
    }
}

/// Scales a service that is scaled to zero, whenever a request finds no task.
async fn wake_up(managers: Managers, service: String, wanted: Arc<Notify>, tasks: u32) {
    // A request asks once, and waits: without a leader for example the managers are asked again for it.
    let mut failing: Option<Instant> = None;
    loop {
        if failing.is_none_or(|since| since.elapsed() > WAKE_PATIENCE) {
            failing = None;
            wanted.notified().await;
        }
        let id = service.as_str();
        let scaled = managers.ask(|engine| async move {
            let asleep = engine.inspect(Kind::Service, id).await?;
            if asleep.and_then(|service| service.number("/Spec/Mode/Replicated/Replicas")) != Some(0) {
                return Ok(false);
            }
            let wake = |spec: &mut Value| {
                // Somebody else may have been faster.
                if let Some(replicas) = spec.pointer_mut("/Mode/Replicated/Replicas")
                    && *replicas == 0
                {
                    *replicas = tasks.into();
                }
            };
            engine.update(Kind::Service, id, wake).await.map(|()| true)
        });
        match scaled.await {
            Ok(woken) => {
                failing = None;
                if woken {
                    tracing::info!(service, tasks, "a request wakes a service");
                }
            }
            Err(error) => {
                if failing.is_none() {
                    tracing::warn!(service, "a service cannot be woken: {error}; trying until it can");
                }
                failing.get_or_insert_with(Instant::now);
            }
        }
        sleep(WAKE_AGAIN).await;
    }
}

//! The books every backend keeps: which instances there are, how far each is, and what was asked of it.
//!
//! Invariants: an id is launched once, whoever asks and however often; a launch outlives whoever ordered it; an instance
//! leaves the table before its end is told; an end nobody asked for is told to the launcher, each once.
//!
//! Absent on purpose: how an instance is launched, watched or stopped. That is the backend's, as is whatever else it knows
//! of an instance (`X`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skep_launch::{BackendError, BackendEvent, EndedBy, ExitReport, Launched};
use skep_model::InstanceId;
use tokio::sync::{mpsc, watch};

/// The instances this server launched or adopted.
pub(crate) struct Table<X> {
    instances: Mutex<HashMap<InstanceId, Arc<Instance<X>>>>,
    events: mpsc::Sender<BackendEvent>,
}

/// One of them.
pub(crate) struct Instance<X> {
    pub(crate) id: InstanceId,
    life: watch::Sender<Life>,
    /// The grace of a request to stop, the shortest of several.
    stop: watch::Sender<Option<Duration>>,
    /// What its backend knows of it.
    pub(crate) own: X,
}

#[derive(Debug, Clone)]
pub(crate) enum Life {
    Launching,
    Running(Launched),
    Failed(BackendError),
    Ended(ExitReport),
}

impl<X: Send + Sync + 'static> Table<X> {
    pub(crate) fn new(events: mpsc::Sender<BackendEvent>) -> Self {
        Self { instances: Mutex::default(), events }
    }

    pub(crate) fn get(&self, id: &InstanceId) -> Option<Arc<Instance<X>>> {
        self.instances.lock().get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Instance<X>>> {
        self.instances.lock().values().cloned().collect()
    }

    pub(crate) fn ids(&self) -> Vec<InstanceId> {
        self.instances.lock().keys().cloned().collect()
    }

    /// Whether nobody is told of ends any more: another server is about to take over, or none is.
    pub(crate) fn is_deserted(&self) -> bool {
        self.events.is_closed()
    }

    /// The first to order an instance starts `course`, a task of its own that ends in [`run`](Self::run) or
    /// [`fail`](Self::fail); everybody waits for how it went. Dropping this future undoes nothing.
    pub(crate) async fn launch<F>(
        &self,
        id: &InstanceId,
        own: impl FnOnce() -> X + Send,
        course: impl FnOnce(Arc<Instance<X>>) -> F + Send,
    ) -> Result<Launched, BackendError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (instance, fresh) = {
            let mut instances = self.instances.lock();
            match instances.get(id) {
                Some(known) => (Arc::clone(known), false),
                None => {
                    let instance = Arc::new(Instance::new(id.clone(), Life::Launching, own()));
                    instances.insert(id.clone(), Arc::clone(&instance));
                    (instance, true)
                }
            }
        };
        if fresh {
            tokio::spawn(course(Arc::clone(&instance)));
        }
        instance.launched().await
    }

    /// Takes an instance in that an earlier server launched.
    pub(crate) fn adopt(&self, id: InstanceId, launched: Launched, own: X) -> Arc<Instance<X>> {
        let instance = Arc::new(Instance::new(id.clone(), Life::Running(launched), own));
        self.instances.lock().insert(id, Arc::clone(&instance));
        instance
    }

    /// The launch succeeded.
    pub(crate) fn run(&self, instance: &Instance<X>, launched: Launched) {
        instance.life.send_replace(Life::Running(launched));
    }

    /// The launch failed, and nothing of it is left.
    pub(crate) fn fail(&self, instance: &Instance<X>, error: BackendError) {
        self.instances.lock().remove(&instance.id);
        instance.life.send_replace(Life::Failed(error));
    }

    /// The instance has ended, and nothing of it is left that could be taken for alive.
    pub(crate) async fn end(&self, instance: &Instance<X>, report: ExitReport) {
        let asked = instance.grace().is_some();
        self.instances.lock().remove(&instance.id);
        instance.life.send_replace(Life::Ended(report.clone()));
        if !asked {
            // Bounded by the receiver; when the launcher is gone, so is whoever wants to know.
            let _ = self.events.send(BackendEvent::Exited { id: instance.id.clone(), report }).await;
        }
    }

    /// Tells of instances that ended while no server ran. Not awaited by whoever adopts: the launcher may listen only once
    /// it knows what is alive.
    pub(crate) fn tell(&self, ended: Vec<(InstanceId, ExitReport)>) {
        let events = self.events.clone();
        tokio::spawn(async move {
            for (id, report) in ended {
                if events.send(BackendEvent::Exited { id, report }).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl<X> Instance<X> {
    fn new(id: InstanceId, life: Life, own: X) -> Self {
        Self { id, life: watch::Sender::new(life), stop: watch::Sender::new(None), own }
    }

    pub(crate) fn life(&self) -> Life {
        self.life.borrow().clone()
    }

    pub(crate) fn is_launching(&self) -> bool {
        matches!(*self.life.borrow(), Life::Launching)
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(*self.life.borrow(), Life::Running(_))
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.life.borrow(), Life::Failed(_) | Life::Ended(_))
    }

    /// Waits until the launch is over, however it went.
    pub(crate) async fn launched(&self) -> Result<Launched, BackendError> {
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

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) -> ExitReport {
        let mut life = self.life.subscribe();
        let now = life.wait_for(|life| matches!(life, Life::Failed(_) | Life::Ended(_))).await;
        match now.map(|life| life.clone()) {
            Ok(Life::Ended(report)) => report,
            Ok(Life::Failed(error)) => not_started(&error),
            _ => not_started(&BackendError::Unknown),
        }
    }

    pub(crate) fn ask_to_stop(&self, grace: Duration) {
        self.stop.send_modify(|before| *before = Some(before.map_or(grace, |before| before.min(grace))));
    }

    /// How long a stop that was asked for may take; `None`: none was.
    pub(crate) fn grace(&self) -> Option<Duration> {
        *self.stop.borrow()
    }

    /// Every request to stop, from the first on.
    pub(crate) fn stops(&self) -> watch::Receiver<Option<Duration>> {
        self.stop.subscribe()
    }

    /// Waits until a stop is asked for.
    pub(crate) async fn stop_asked(&self) {
        // The sender is here: it cannot fail.
        let _ = self.stop.subscribe().wait_for(Option::is_some).await;
    }
}

/// What is reported of an instance whose launch failed.
pub(crate) fn not_started(error: &BackendError) -> ExitReport {
    let last_lines = match error {
        BackendError::App { last_lines, .. } => last_lines.clone(),
        _ => Vec::new(),
    };
    ExitReport {
        reason: error.to_string(),
        code: None,
        signal: None,
        out_of_memory: false,
        last_lines,
        ended_by: EndedBy::Itself,
    }
}

/// A launch met a request to stop.
pub(crate) fn stopped_early() -> BackendError {
    BackendError::Platform("stopped before it was started".to_owned())
}

/// Work on a few small files, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BackendError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| BackendError::Platform(format!("a background step did not finish: {e}")))
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn id(nonce: u64) -> InstanceId {
        InstanceId::new("sales".parse().unwrap(), nonce)
    }

    fn failed(what: &str) -> BackendError {
        BackendError::Platform(what.to_owned())
    }

    fn report(reason: &str) -> ExitReport {
        not_started(&failed(reason))
    }

    #[tokio::test]
    async fn the_first_of_equal_orders_launches_and_goes_on_without_whoever_gave_it() {
        let (events, _told) = mpsc::channel(1);
        let (table, launches) = (Arc::new(Table::new(events)), Arc::new(AtomicU32::new(0)));
        let (go, gone) = watch::channel(false);
        let launch = || {
            let (books, launches, mut gone) = (Arc::clone(&table), Arc::clone(&launches), gone.clone());
            let table = Arc::clone(&table);
            async move {
                let course = |instance: Arc<Instance<()>>| async move {
                    launches.fetch_add(1, Ordering::Relaxed);
                    gone.wait_for(|go| *go).await.unwrap();
                    books.fail(&instance, failed("no room"));
                };
                table.launch(&id(1), || (), course).await
            }
        };
        // Whoever ordered it first does not wait for it.
        let first = tokio::time::timeout(Duration::from_millis(1), launch()).await;
        assert!(first.is_err());
        let others = tokio::spawn(futures_util::future::join(launch(), launch()));
        tokio::task::yield_now().await;
        go.send(true).unwrap();
        let (one, two) = others.await.unwrap();
        assert_eq!(one.unwrap_err().to_string(), "no room");
        assert_eq!(two.unwrap_err().to_string(), "no room");
        assert_eq!(launches.load(Ordering::Relaxed), 1);
        assert!(table.get(&id(1)).is_none());
        // A failed one is launched anew.
        assert!(launch().await.is_err());
        assert_eq!(launches.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_end_is_told_unless_it_was_asked_for() {
        let (events, mut told) = mpsc::channel(4);
        let table = Table::new(events);
        let enter = |nonce| {
            let instance = Arc::new(Instance::new(id(nonce), Life::Launching, ()));
            table.instances.lock().insert(id(nonce), Arc::clone(&instance));
            instance
        };
        let (asked, not) = (enter(1), enter(2));
        asked.ask_to_stop(Duration::from_secs(5));
        asked.ask_to_stop(Duration::from_secs(2));
        asked.ask_to_stop(Duration::from_secs(9));
        assert_eq!((asked.grace(), not.grace()), (Some(Duration::from_secs(2)), None));
        asked.stop_asked().await;
        table.end(&asked, report("stopped")).await;
        table.end(&not, report("exited")).await;
        assert_eq!(asked.ended().await.reason, "stopped");
        assert!(table.ids().is_empty());
        table.tell(vec![(id(3), report("while nobody looked"))]);
        for (expected, reason) in [(id(2), "exited"), (id(3), "while nobody looked")] {
            let BackendEvent::Exited { id, report } = told.recv().await.unwrap();
            assert_eq!((id, report.reason.as_str()), (expected, reason));
        }
        assert!(!table.is_deserted());
        drop(told);
        assert!(table.is_deserted());
    }
}

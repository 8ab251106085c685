//! Noticing what happens to containers that nobody asked for.
//!
//! Two tasks. One reads the engine's events and only notes which containers they are about: the engine holds up everybody
//! when a reader is slow. The other looks at those containers. Whatever was missed, because the connection broke or the
//! engine dropped events, is found by looking at everything: after each connection, and now and then.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use skep_docker::Document;

use super::launching::runs;
use super::order::labels_of;
use super::{Inner, Instance, Watch};
use crate::container::labels::INSTALL;
use crate::table::now_ms;

/// Between two looks at everything, without any sign that one is needed.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between two attempts to subscribe: the first, and the longest.
const AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
/// No launch takes this long after its image is there.
const FORGOTTEN_AFTER_MS: i64 = 10 * 60 * 1000;
/// Between the engine's clock and ours, and between its end and our notice of it.
const SLACK_MS: i64 = 500;
/// An engine that comes back ends what it finds running, and answers before that is done.
const CLEANING_UP_MS: i64 = 3000;
/// Containers looked at at a time.
const AT_ONCE: usize = 8;

impl Inner {
    /// Starts both tasks, once. They end with the backend or the launcher.
    pub(super) fn keep_watch(self: &Arc<Self>, install: &str) {
        if self.watch.running.swap(true, Ordering::AcqRel) {
            return;
        }
        tokio::spawn(read(Arc::downgrade(self), install.to_owned()));
        tokio::spawn(look(Arc::downgrade(self), install.to_owned()));
    }

    /// Something happened to a container. Bounded by the containers there are.
    pub(super) fn touch(&self, container: String) {
        self.watch.touched.lock().insert(container);
        self.watch.wake.notify_one();
    }

    fn touch_all(&self) {
        self.watch.all.store(true, Ordering::Release);
        self.watch.wake.notify_one();
    }

    /// Concludes whichever of these instances have ended.
    async fn look_at(&self, instances: Vec<Arc<Instance>>) {
        stream::iter(instances)
            .for_each_concurrent(AT_ONCE, |instance| async move {
                if let Err(error) = self.conclude(&instance).await {
                    tracing::warn!(instance = %instance.id, %error, "whether it has ended is not known yet");
                }
            })
            .await;
    }

    /// Compares what is known with what there is.
    async fn look_at_all(&self, install: &str) {
        // Taken before the list: what is launched meanwhile is not missed in it.
        let mut known = self.table.all();
        known.retain(|instance| instance.is_running());
        let listed = match self.list(install).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, "the containers cannot be compared with what is known of them");
                return;
            }
        };
        let alive = |instance: &Arc<Instance>| {
            let container = instance.own.container();
            container.is_some_and(|id| listed.iter().any(|c| c.id() == id && runs(c)))
        };
        self.look_at(known.into_iter().filter(|instance| !alive(instance)).collect()).await;
        for orphan in listed.iter().filter(|container| self.is_orphan(container)) {
            self.sweep(orphan).await;
        }
    }

    /// Made by an earlier server and not adopted, so that nobody will ever ask for it; or by a launch here that was given
    /// up before the engine was done with it. What a successor of this server makes is younger; and once the launcher
    /// listens no more, nothing is this server's to judge.
    fn is_orphan(&self, container: &Document) -> bool {
        let adopted = self.watch.adopted.load(Ordering::Acquire) && !self.table.is_deserted();
        adopted
            && labels_of(container).is_some_and(|labels| {
                let old = labels.started_at_ms < self.opened_at_ms
                    || labels.started_at_ms < now_ms() - FORGOTTEN_AFTER_MS;
                old && self.table.get(&labels.id).is_none()
            })
    }
}

impl Watch {
    fn engine_left(&self) {
        let mut away = self.away.lock();
        // Still the same absence, while it does not answer.
        if !matches!(*away, Some((_, None))) {
            *away = Some((now_ms(), None));
        }
    }

    fn engine_came(&self) {
        if let Some((_, back @ None)) = &mut *self.away.lock() {
            *back = Some(now_ms());
        }
    }

    /// Whether the engine was away at that moment: it was stopping, stopped, or cleaning up after a crash.
    pub(super) fn was_away(&self, at_ms: i64) -> bool {
        let at = at_ms + SLACK_MS;
        match *self.away.lock() {
            Some((from, None)) => at >= from,
            Some((from, Some(to))) => at >= from && at_ms <= to + CLEANING_UP_MS,
            None => false,
        }
    }
}

/// Reads events for as long as anybody wants to know.
async fn read(inner: Weak<Inner>, install: String) {
    let label = format!("{INSTALL}={install}");
    let filters = [("type", "container"), ("label", &label)];
    let (mut pause, mut away) = (AGAIN[0], false);
    loop {
        let Some(engine) = living(&inner).map(|inner| inner.engine.clone()) else { return };
        match engine.events(&filters, None).await {
            Ok(mut events) => {
                if std::mem::take(&mut away) {
                    tracing::info!("the Docker Engine is back");
                }
                pause = AGAIN[0];
                // Subscribed first: what happens from here on is told, what happened before is looked for.
                let Some(inner_now) = living(&inner) else { return };
                inner_now.watch.engine_came();
                inner_now.touch_all();
                drop(inner_now);
                while let Some(Ok(event)) = events.next().await {
                    let Some(inner) = living(&inner) else { return };
                    if matches!(event.action(), "die" | "destroy" | "oom" | "stop" | "kill") {
                        inner.touch(event.actor().to_owned());
                    }
                }
                let Some(()) = living(&inner).map(|inner| inner.watch.engine_left()) else { return };
                tracing::warn!("the Docker Engine ended its stream of events; subscribing anew");
            }
            // Told once: an engine may be away for long.
            Err(error) if !away => {
                tracing::warn!(%error, "the Docker Engine's events cannot be read; trying until they can");
                away = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN[1]);
    }
}

/// Looks at what was touched, and now and then at everything.
async fn look(inner: Weak<Inner>, install: String) {
    loop {
        let Some(inner) = living(&inner) else { return };
        let woken = tokio::time::timeout(LOOK_EVERY, inner.watch.wake.notified()).await;
        let touched = std::mem::take(&mut *inner.watch.touched.lock());
        if inner.watch.all.swap(false, Ordering::AcqRel) || woken.is_err() {
            inner.look_at_all(&install).await;
            continue;
        }
        let instances = inner.table.all();
        let is_touched =
            |instance: &Arc<Instance>| instance.own.container().is_some_and(|id| touched.contains(&id));
        inner.look_at(instances.into_iter().filter(is_touched).collect()).await;
    }
}

/// The backend, while it has a launcher to report to.
fn living(inner: &Weak<Inner>) -> Option<Arc<Inner>> {
    inner.upgrade().filter(|inner| !inner.table.is_deserted())
}

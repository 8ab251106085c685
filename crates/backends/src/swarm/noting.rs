//! Writing what changes of an instance into its service's labels: its seats, and how long it took to answer.
//!
//! Each write is an agreement among the managers, so there is at most one of an instance every two seconds; in between, the
//! newest wins.

use std::time::Duration;

use parking_lot::Mutex;
use skep_docker::Kind;
use skep_model::InstanceId;
use tokio::time::{Instant, sleep_until};

use super::Inner;
use super::order::Noted;

const BETWEEN: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Noting {
    wanted: Mutex<Noted>,
    /// What was written last, and when. Held by whoever writes.
    written: tokio::sync::Mutex<(Noted, Option<Instant>)>,
}

impl Noting {
    /// As an earlier server left it.
    pub(super) fn of(noted: Noted) -> Self {
        Self { wanted: Mutex::new(noted.clone()), written: tokio::sync::Mutex::new((noted, None)) }
    }

    /// What was wanted last is not written, and nobody is about to.
    pub(super) fn is_behind(&self) -> bool {
        self.written.try_lock().is_ok_and(|written| written.0 != *self.wanted.lock())
    }
}

impl Inner {
    pub(super) async fn note(&self, id: &InstanceId, change: impl FnOnce(&mut Noted)) {
        let Some(instance) = self.table.get(id) else { return };
        change(&mut instance.own.noting.wanted.lock());
        let mut written = instance.own.noting.written.lock().await;
        if let Some(last) = written.1 {
            sleep_until(last + BETWEEN).await;
        }
        let wanted = instance.own.noting.wanted.lock().clone();
        let Some(service) = instance.own.service() else { return };
        // Whoever was here before may have written this, too.
        if wanted == written.0 || instance.is_over() {
            return;
        }
        let wanted = &wanted;
        let service = service.as_str();
        let update = |engine: skep_docker::Engine| async move {
            engine.update(Kind::Service, service, |spec| wanted.write(spec)).await
        };
        let done = self.managers.ask(update).await;
        written.1 = Some(Instant::now());
        match done {
            Ok(()) => written.0 = wanted.clone(),
            // The next look at everything tries again.
            Err(error) => tracing::debug!(instance = %id, %error, "its seats cannot be noted"),
        }
    }
}

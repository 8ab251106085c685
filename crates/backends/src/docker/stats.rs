//! What instances use.
//!
//! A single question takes the engine a second or two, and each open stream costs it work. So the first question opens a
//! stream, later ones read its newest sample, and a stream nobody has asked for a while is closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use skep_docker::StatsSample;
use skep_launch::Stats;
use skep_model::InstanceId;
use tokio::sync::watch;

use super::Inner;

/// How long the first sample is waited for. Whoever asks has a limit of its own.
const FIRST_WITHIN: Duration = Duration::from_secs(3);
/// A stream nobody asked for this long is closed.
const UNASKED: Duration = Duration::from_secs(30);

/// The open streams.
#[derive(Default)]
pub(super) struct Samples(Arc<Mutex<HashMap<InstanceId, Open>>>);

struct Open {
    newest: watch::Receiver<Option<StatsSample>>,
    asked: Instant,
}

impl Samples {
    pub(super) fn forget(&self, id: &InstanceId) {
        self.0.lock().remove(id);
    }
}

impl Inner {
    pub(super) async fn stats(&self, id: &InstanceId) -> Option<Stats> {
        let instance = self.table.get(id).filter(|instance| instance.is_running())?;
        let container = instance.own.container()?;
        let mut newest = self.subscribe(id, container);
        let first = tokio::time::timeout(FIRST_WITHIN, newest.wait_for(Option::is_some)).await;
        let sample = (*first.ok()?.ok()?)?;
        let StatsSample { cpu_seconds, memory_bytes, processes } = sample;
        Some(Stats { cpu_seconds, memory_bytes, processes })
    }

    fn subscribe(&self, id: &InstanceId, container: String) -> watch::Receiver<Option<StatsSample>> {
        let mut open = self.samples.0.lock();
        if let Some(known) = open.get_mut(id) {
            known.asked = Instant::now();
            return known.newest.clone();
        }
        let (sender, newest) = watch::channel(None);
        open.insert(id.clone(), Open { newest: newest.clone(), asked: Instant::now() });
        let (engine, samples, id) = (self.engine.clone(), Arc::clone(&self.samples.0), id.clone());
        tokio::spawn(async move {
            if let Ok(stream) = engine.container_stats(&container).await {
                let mut stream = Box::pin(stream);
                while let Some(Ok(sample)) = stream.next().await {
                    let wanted = samples.lock().get(&id).is_some_and(|open| open.asked.elapsed() < UNASKED);
                    if !wanted || sender.send(Some(sample)).is_err() {
                        break;
                    }
                }
            }
            samples.lock().remove(&id);
        });
        newest
    }
}

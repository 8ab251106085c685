//! What containers use.
//!
//! A single question takes the engine a second or two, and each open stream costs it work. So the first question opens a
//! stream, later ones read its newest sample, and a stream nobody has asked for a while is closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use skep_docker::{Engine, StatsSample};
use tokio::sync::watch;

use crate::wire::{Refusal, RefusalCode, Usage};

/// A stream nobody asked for this long is closed.
const UNASKED: Duration = Duration::from_secs(30);
/// Streams open at a time.
const MOST: usize = 1024;

pub(super) struct Samples {
    engine: Engine,
    open: Arc<Mutex<HashMap<String, Open>>>,
}

struct Open {
    newest: watch::Receiver<Option<StatsSample>>,
    asked: Instant,
}

impl Samples {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, open: Arc::default() }
    }

    /// The newest sample. Whoever asks limits the wait for the first one.
    pub(super) async fn of(&self, id: &str) -> Result<Usage, Refusal> {
        let gone = || Refusal::new(RefusalCode::Gone, "the container has ended, or cannot be measured");
        let mut newest = self.subscribe(id)?;
        let sample = *newest.wait_for(Option::is_some).await.map_err(|_| gone())?;
        let StatsSample { cpu_seconds, memory_bytes, processes } = sample.ok_or_else(gone)?;
        let cpu = Duration::try_from_secs_f64(cpu_seconds).unwrap_or_default();
        Ok(Usage { cpu_ns: u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX), memory_bytes, processes })
    }

    fn subscribe(&self, id: &str) -> Result<watch::Receiver<Option<StatsSample>>, Refusal> {
        let mut open = self.open.lock();
        if let Some(known) = open.get_mut(id) {
            known.asked = Instant::now();
            return Ok(known.newest.clone());
        }
        if open.len() >= MOST {
            let why = format!("{MOST} containers are being measured already");
            return Err(Refusal::new(RefusalCode::Busy, why));
        }
        let (sender, newest) = watch::channel(None);
        open.insert(id.to_owned(), Open { newest: newest.clone(), asked: Instant::now() });
        let (engine, all, id) = (self.engine.clone(), Arc::clone(&self.open), id.to_owned());
        tokio::spawn(async move {
            if let Ok(stream) = engine.container_stats(&id).await {
                let mut stream = Box::pin(stream);
                while let Some(Ok(sample)) = stream.next().await {
                    let wanted = all.lock().get(&id).is_some_and(|open| open.asked.elapsed() < UNASKED);
                    if !wanted || sender.send(Some(sample)).is_err() {
                        break;
                    }
                }
            }
            all.lock().remove(&id);
        });
        Ok(newest)
    }
}

//! Time and randomness, as arguments: the one place that asks the system for either.

use std::sync::Arc;

/// What a front or worker learns from outside itself besides the network and the disk.
pub trait Surroundings: Send + Sync + 'static {
    /// Milliseconds since 1970 by this machine's clock.
    fn now_ms(&self) -> u64;
    /// Unpredictable bytes.
    fn fill(&self, bytes: &mut [u8]);
}

pub type World = Arc<dyn Surroundings>;

/// The machine itself.
#[derive(Debug, Default, Clone, Copy)]
pub struct Machine;

impl Surroundings for Machine {
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn fill(&self, bytes: &mut [u8]) {
        if getrandom::fill(bytes).is_err() {
            // Without random numbers nothing sealed or hidden would be; there is no going on.
            tracing::error!("the system gives no random numbers");
            std::process::abort();
        }
    }
}

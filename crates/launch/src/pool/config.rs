//! The caps over all apps and the pool's own deadlines.

use std::time::Duration;

/// What applies to all apps together. The app's own numbers are in [`skep_model::AppSpec`].
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Instances at a time, all apps, all phases.
    pub max_instances: u32,
    /// Starts at a time, all apps. An environment that is being built does not count.
    pub max_starts: u32,
    /// Starts at a time of one app.
    pub max_starts_per_app: u32,
    /// Starts at a time that only keep seats warm; the rest of `max_starts` is for visitors who wait.
    pub max_warm_starts: u32,
    /// Between two starts that only keep seats warm.
    pub warm_spacing: Duration,
    /// How long the building of an environment may take, before `start_timeout` begins to count.
    pub environment_timeout: Duration,
    /// How long a seat stays with its visitor after the last request or tunnel closed.
    pub reservation: Duration,
    /// How long a page keeps its place in the line without being seen.
    pub page_patience: Duration,
    /// Requests that may wait in one place of the line (one visitor's).
    pub tickets_per_place: usize,
    /// How long an instance may go on with its visitors once it is to go.
    pub drain_deadline: Duration,
    /// The same for one that does not answer probes any more. As long by default: it may only be busy, and whoever
    /// reloads the page gets another one.
    pub wedged_deadline: Duration,
    /// The same when a person ordered the stop.
    pub command_deadline: Duration,
    /// From the polite signal to the rude one.
    pub stop_grace: Duration,
    /// Between two probes of a running instance.
    pub probe_every: Duration,
    /// Consecutive probes without an answer after which an instance is taken for wedged.
    pub probe_misses: u32,
    /// After the first failure; doubled after each further one.
    pub backoff_base: Duration,
    pub backoff_cap: Duration,
    /// A run this long forgives earlier failures.
    pub healthy_after: Duration,
    /// Between two notes of the seats of one instance.
    pub note_every: Duration,
    /// Between two journal records of the same refusal of one app.
    pub refusal_every: Duration,
    /// Between two ticks.
    pub tick: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_instances: 256,
            max_starts: 8,
            max_starts_per_app: 2,
            max_warm_starts: 2,
            warm_spacing: Duration::from_millis(250),
            environment_timeout: Duration::from_secs(30 * 60),
            reservation: Duration::from_secs(30),
            page_patience: Duration::from_secs(30),
            tickets_per_place: 64,
            drain_deadline: Duration::from_secs(30 * 60),
            wedged_deadline: Duration::from_secs(30 * 60),
            command_deadline: Duration::from_secs(5),
            stop_grace: Duration::from_secs(10),
            probe_every: Duration::from_secs(10),
            probe_misses: 3,
            backoff_base: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(60),
            healthy_after: Duration::from_secs(30),
            note_every: Duration::from_secs(1),
            refusal_every: Duration::from_secs(10),
            tick: Duration::from_millis(200),
        }
    }
}

impl PoolConfig {
    /// How long nothing is started after this many consecutive failures.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        self.backoff_base.saturating_mul(1 << doublings).min(self.backoff_cap)
    }
}

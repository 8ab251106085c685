//! Whole deployments in a deterministic simulation: the shipped fronts, logs and workers on simulated disks, networks and
//! clocks, with crashes, torn writes, partitions, lost answers and clocks that are half a minute wrong.
//!
//! Each seed is one deployment: three fronts, two workers, voters who change their minds and try again. At the end every
//! front loses power once more, everything heals, and the checker compares what voters were told with what is counted.
//! `BALLOT_SEEDS=2000` runs more of them, `BALLOT_SEED=17` one, with its story.
#![cfg(feature = "sim")]

#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
mod dice;
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
mod model;
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
mod run;
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
mod seeds;

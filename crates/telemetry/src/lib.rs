//! Skep's own figures: a recorder behind the `metrics` facade and their Prometheus text exposition.
//!
//! Every crate records with `metrics::counter!` and its siblings under the names of [`catalog`]; [`install`] puts one
//! registry behind the facade for the whole process. Recording is an atomic addition; all formatting happens when
//! somebody asks for [`Exposition::prometheus`]. Histograms have fixed buckets, so an endpoint that nobody scrapes
//! costs no memory.
//!
//! Absent on purpose: labels that name a user (they are personal data and have no bound; users live in the journal),
//! any listener (the control plane serves the text), and history.

pub mod catalog;
mod exposition;
mod histogram;
mod process;
mod recorder;

pub use exposition::Exposition;
pub use recorder::{TelemetryError, install};

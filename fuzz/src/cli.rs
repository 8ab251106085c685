//! What the importer needs of the command line.

#[path = "../../crates/skep/src/cli/paint.rs"]
pub(crate) mod paint;

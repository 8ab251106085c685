//! Tasks that keep something true.

pub(crate) mod record;
pub(crate) mod usage;

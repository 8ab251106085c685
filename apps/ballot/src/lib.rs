//! ballot: votes by the million, each counted exactly once, and anyone can check it.
//!
//! A *front* stamps a ballot, makes it durable in its own log and only then acknowledges it. *Workers* take batches from
//! the fronts' logs and merge them into the database, together with how far they got, in one transaction. *Results*
//! shows the tally live, and when a poll is final publishes the counted ballots under one signed root.
//!
//! The heart is `ballot` (pure): which of two votes counts. The rest is arranged so that it may crash, repeat and overlap.
//! Absent: any knowledge of the platform it may run on; it needs a port, HTTP headers and SQL.

pub mod ballot;
pub mod checker;
#[cfg(not(feature = "sim"))]
pub mod cli;
pub mod client;
pub mod cookie;
pub mod disk;
pub mod front;
pub mod hlc;
pub mod http;
pub mod ids;
pub mod intake;
pub mod keys;
#[cfg(not(feature = "sim"))]
pub mod load;
pub mod log;
pub mod net;
pub mod polls;
pub mod proof;
pub mod receipt;
pub mod record;
pub mod results;
#[cfg(not(feature = "sim"))]
pub mod serve;
pub mod source;
pub mod spool;
pub mod spool_sqlite;
pub mod stop;
pub mod store;
pub mod surroundings;
pub mod ticket;
pub mod worker;

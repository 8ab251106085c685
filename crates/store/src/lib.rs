//! The only SQL of Skep: what must survive a restart, in a SQLite file by default and in PostgreSQL when asked.
//!
//! Both engines are driven through sqlx's `AnyPool` with one set of statements, each a named constant (`sql.rs`) that a
//! test prepares on both. Times are `BIGINT` milliseconds since the Unix epoch. SQLite runs in WAL mode with
//! `synchronous=FULL` (a commit survives a power cut) and has exactly one writing connection; PostgreSQL is expected to
//! be as durable as its administrator made it.
//!
//! Absent on purpose: repository traits, an object mapper, compile-time checked queries (they cannot target two
//! engines), anything on a request's path.

mod error;
mod journal;
mod lease;
mod links;
mod open;
mod people;
mod sql;
mod sql_people;
mod usage;

pub use error::StoreError;
pub use journal::{Filter, Journal, Record, Retention};
pub use lease::{Asked, Holder, Lease, Tenant};
pub use links::{Link, LinkPurpose, Redeemed};
pub use open::{Engine, Location, Store};
pub use people::{Everybody, GrantRow, NewUser, People, ShareRow, UserRow, Verifier};
pub use usage::{Usage, UsageDay};

//! Runs apps: how each framework is recognised and launched, and the backends that do it.
//!
//! [`framework`] looks at a folder and says what it holds and how that is started; it runs nothing. [`process`] runs
//! instances as local processes, each under a small shim that outlives this server; [`docker`] runs them as containers of
//! this machine's Docker Engine, [`swarm`] as services of a Docker Swarm.
//!
//! Absent on purpose: deciding when to start or stop anything, and probing whether an instance answers. The launcher
//! does both.

mod container;
pub mod docker;
mod ending;
pub mod found_file;
pub mod framework;
pub mod process;
mod secret;
pub mod swarm;
mod table;

//! The launcher from outside: the driver with a backend that runs little servers in this process, and the pool's
//! simulation.

mod fake;
mod launching;

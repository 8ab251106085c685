//! The edge against real sockets: a real launcher with a backend whose "instances" are servers written here.

// Clippy's permission for tests covers functions marked as tests, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod app;
mod client;
mod encrypted;
mod forwarding;
mod guests;
mod handing_over;
mod holding;
mod hygiene;
mod launch_page;
mod limits;
mod login;
mod named;
mod services;

mod static_sites;
mod tunnels;
mod world;

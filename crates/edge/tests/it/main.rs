//! The edge against real sockets: a real launcher with a backend whose "instances" are servers written here.

mod app;
mod client;
mod forwarding;
mod holding;
mod hygiene;
mod launch_page;
mod limits;
mod static_sites;
mod tunnels;
mod world;

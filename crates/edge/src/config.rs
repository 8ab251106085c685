//! What the edge is told at start. Everything here is checked; sound defaults where a field has one.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixListener;
use std::str::FromStr;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::console_host::ConsoleHost;
use crate::tls::Certificates;

/// The edge's configuration.
pub struct EdgeConfig {
    /// Already bound and listening, so that sockets handed over by an older process work as well.
    pub listeners: Vec<ListenerConfig>,
    /// Event loops. 0: one per core.
    pub threads: usize,
    pub limits: Limits,
    /// Peers whose forwarded headers count.
    pub trusted_proxies: Vec<Cidr>,
    pub hosts: HostRule,
    /// The console on a host of its own; `None`: beside the apps.
    pub console: Option<ConsoleHost>,
    pub access_log: Option<AccessLog>,
}

/// One listening socket.
pub struct ListenerConfig {
    /// For logs and metrics: `http`, `https`, `relay`.
    pub name: String,
    pub socket: ListenSocket,
    /// TLS with these certificates; plain when `None`.
    pub tls: Option<Certificates>,
    /// Every peer of this listener is a trusted proxy, whatever its address (the relay of a hand-over, a Unix socket
    /// behind another web server).
    pub trust_peers: bool,
}

pub enum ListenSocket {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

impl ListenSocket {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }
}

impl fmt::Debug for ListenerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {}", self.name)
    }
}

/// Which `Host` names are answered.
#[derive(Debug, Clone, Default)]
pub enum HostRule {
    /// Any: somebody logs in, or the administrator said so.
    #[default]
    Any,
    /// Without a login: `localhost`, `127.0.0.1` and `[::1]` with any port, and the names given (with or without a
    /// port). Keeps foreign names that resolve to this machine out (DNS rebinding). Forwarded headers from peers that
    /// are no trusted proxy are refused, too: they mean that somebody published this port.
    Loopback { also: Vec<String> },
}

/// Bounds on what clients and apps may take. All waits are about progress, none caps the size of an upload or the
/// length of an answer.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections at a time, tunnels included; further ones wait in the kernel.
    pub connections: usize,
    /// Bytes of a request head.
    pub head_bytes: usize,
    pub head_fields: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// A connection that waits for its next request.
    pub keep_alive: Duration,
    pub requests_per_connection: u32,
    /// A request body that stands still for this long ends the connection.
    pub body_stall: Duration,
    /// After `body_stall` of waiting in sum, a body must have come at this rate at least, bytes per second.
    pub body_rate: u32,
    /// A client that takes no byte of an answer for this long is dropped.
    pub write_stall: Duration,
    /// Body bytes kept for a request that waits for its app.
    pub held_body: usize,
    /// Connecting to an instance.
    pub connect_timeout: Duration,
    /// From the last byte of a request to the first of its answer. Generous: apps compute.
    pub answer_timeout: Duration,
    /// Idle connections to an instance are dropped after this long; below what app servers do themselves.
    pub upstream_idle: Duration,
    /// Idle connections kept per instance and loop.
    pub upstream_idle_count: usize,
    /// Connections to all instances of one app at a time, tunnels included.
    pub upstream_connections: usize,
    /// Waiting for the control runtime to begin its answer.
    pub control_timeout: Duration,
    /// A tunnel of which one side said goodbye may go on this long.
    pub half_closed: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            head_bytes: 64 * 1024,
            head_fields: 100,
            head_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            requests_per_connection: 100_000,
            body_stall: Duration::from_secs(30),
            body_rate: 128,
            write_stall: Duration::from_secs(60),
            held_body: 64 * 1024,
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(3600),
            upstream_idle: Duration::from_secs(4),
            upstream_idle_count: 64,
            upstream_connections: 10_000,
            control_timeout: Duration::from_secs(60),
            half_closed: Duration::from_secs(300),
        }
    }
}

/// A range of addresses: `10.0.0.0/8`, `::1`, `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

/// Why a text is no address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address range; write `10.0.0.0/8`, `192.0.2.7` or `fd00::/8`")]
pub struct BadCidr(pub String);

impl Cidr {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                network.to_bits() & mask == ip.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                network.to_bits() & mask == ip.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.chars().take(80).collect());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| bad())?;
        let widest = match network {
            IpAddr::V4(Ipv4Addr { .. }) => 32,
            IpAddr::V6(Ipv6Addr { .. }) => 128,
        };
        let digits = |bits: &&str| !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = match bits {
            None => widest,
            Some(bits) => Some(bits).filter(digits).and_then(|bits| bits.parse().ok()).ok_or_else(bad)?,
        };
        if bits <= widest { Ok(Self { network, bits }) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_they_should() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::1"),
            ("fd00::/8", "fd12::1", "fe80::1"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("::/0", "fd00::1", "1.2.3.4"),
        ] {
            let cidr: Cidr = range.parse().unwrap();
            assert!(cidr.contains(inside.parse().unwrap()), "{range} {inside}");
            assert!(!cidr.contains(outside.parse().unwrap()), "{range} {outside}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/+8", "10.0.0.0/", "host/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}

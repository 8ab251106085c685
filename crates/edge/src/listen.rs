//! Accepting connections: one task per listening socket, each connection to the event loop that has fewer.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::{ListenSocket, ListenerConfig};
use crate::conn::Accepted;
use crate::error::EdgeError;
use crate::meters;
use crate::worker::{Load, Worker};

/// What connections know of the listener they came through.
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) trust_peers: bool,
    tls: Option<TlsAcceptor>,
    pub(crate) open: Gauge,
}

impl Listener {
    pub(crate) fn new(config: &ListenerConfig) -> Result<Self, EdgeError> {
        let tls = config.tls.as_ref().map(|certificates| certificates.server_config()).transpose()?;
        let protocol = if tls.is_some() { "https" } else { "http" };
        Ok(Self {
            name: config.name.clone(),
            trust_peers: config.trust_peers,
            tls: tls.map(TlsAcceptor::from),
            open: meters::connections(&config.name, protocol),
        })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) fn tls(&self) -> Option<&TlsAcceptor> {
        self.tls.as_ref()
    }
}

/// An accepted socket on its way to another loop.
pub(crate) struct Arrival {
    pub(crate) socket: ArrivingSocket,
    pub(crate) peer: IpAddr,
    pub(crate) listener: Arc<Listener>,
    pub(crate) load: Load,
}

pub(crate) enum ArrivingSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    async fn accept(&self) -> io::Result<(Accepted, IpAddr)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                Ok((Accepted::Tcp(stream), address.ip().to_canonical()))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                Ok((Accepted::Unix(stream), IpAddr::V4(Ipv4Addr::LOCALHOST)))
            }
        }
    }
}

/// Makes a listening socket ready: non-blocking, and with options that accepted sockets inherit.
pub(crate) fn prepare(socket: &ListenSocket) -> io::Result<()> {
    match socket {
        ListenSocket::Tcp(socket) => {
            socket.set_nonblocking(true)?;
            let socket = socket2::SockRef::from(socket);
            socket.set_tcp_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new()
                .with_time(Duration::from_secs(60))
                .with_interval(Duration::from_secs(15))
                .with_retries(4);
            socket.set_tcp_keepalive(&keepalive)
        }
        ListenSocket::Unix(socket) => socket.set_nonblocking(true),
    }
}

/// Accepts until `stop`.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    socket: ListenSocket,
    stop: CancellationToken,
) {
    let socket = match socket {
        ListenSocket::Tcp(socket) => TcpListener::from_std(socket).map(Socket::Tcp),
        ListenSocket::Unix(socket) => UnixListener::from_std(socket).map(Socket::Unix),
    };
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, listener = listener.name, "cannot watch the listening socket");
            return;
        }
    };
    loop {
        while worker.shared.open_connections() >= worker.shared.limits.connections {
            // Further clients wait in the kernel's queue meanwhile.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => worker.place(socket, peer, &listener),
            // The client left before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // No more file descriptors, most likely: those in use must be given back first.
                tracing::warn!(%error, listener = listener.name, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

//! Sockets and files the server holds open: made here or inherited.

use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use skep_control::Control;
use skep_edge::{AccessLog, LogFormat};
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::task::AbortOnDropHandle;

use crate::config::ServerKeys;
use crate::config::server_keys::AccessLogFormat;
use crate::data_dir::{DataDir, socket_path};
use crate::upgrade::heir::Sockets;

/// Connections the kernel keeps for us while all loops are busy, or while a new server takes over.
const BACKLOG: i32 = 4096;

/// Everything listened on. Kept besides the copies that serve, to be handed over.
pub(crate) struct Listening {
    pub(crate) public: Vec<Bound>,
    pub(crate) admin: Option<Bound>,
    pub(crate) control: UnixListener,
    /// Requests from servers that have been replaced come in here.
    pub(crate) relays: Vec<UnixListener>,
}

/// A TCP listener.
pub(crate) struct Bound {
    /// The address as configured. Its port may be 0, which asks the kernel for a free one.
    pub(crate) asked: SocketAddr,
    /// The address as it is.
    pub(crate) address: SocketAddr,
    pub(crate) listener: TcpListener,
}

impl Bound {
    /// What was inherited for this address, or a new listener.
    fn open(asked: SocketAddr, inherited: &mut Vec<(SocketAddr, TcpListener)>) -> anyhow::Result<Self> {
        let listener = match inherited.iter().position(|(address, _)| *address == asked) {
            Some(index) => inherited.swap_remove(index).1,
            None => bind(asked)?,
        };
        Ok(Self { asked, address: listener.local_addr()?, listener })
    }
}

impl Listening {
    /// Uses what was inherited for the addresses asked for and opens the rest.
    pub(crate) fn open(server: &ServerKeys, data: &DataDir, inherited: Sockets) -> anyhow::Result<Self> {
        let Sockets { mut public, mut admin, control, relays } = inherited;
        let open = |asked: &SocketAddr| Bound::open(*asked, &mut public);
        Ok(Self {
            public: server.listen.iter().map(open).collect::<Result<_, _>>()?,
            admin: server.admin_listen.map(|asked| Bound::open(asked, &mut admin)).transpose()?,
            control: match control {
                Some(control) => control,
                None => data.listen()?,
            },
            relays,
        })
    }

    /// The relays whose owner still lives: a server removes its socket's file when it goes.
    pub(crate) fn relays_in_use(&self) -> impl Iterator<Item = &UnixListener> {
        let exists = |relay: &&UnixListener| {
            relay.local_addr().is_ok_and(|address| address.as_pathname().is_some_and(Path::exists))
        };
        self.relays.iter().filter(exists)
    }

    /// Serves the control socket and the admin listener until what this answers is dropped. Answers under way are
    /// finished even then.
    pub(crate) fn serve_control(&self, control: &Control) -> anyhow::Result<Vec<AbortOnDropHandle<()>>> {
        let listener = self.control.try_clone()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let operators = control.clone();
        let mut serving = vec![AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = operators.serve_admin(listener).await {
                tracing::error!("the control socket cannot be served any more: {error}");
            }
        }))];
        if let Some(admin) = &self.admin {
            let admin = admin.listener.try_clone()?;
            admin.set_nonblocking(true)?;
            let admin = tokio::net::TcpListener::from_std(admin)?;
            let control = control.clone();
            serving.push(AbortOnDropHandle::new(tokio::spawn(async move {
                if let Err(error) = control.serve_metrics(admin).await {
                    tracing::error!("the admin address cannot be served any more: {error}");
                }
            })));
        }
        Ok(serving)
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // So that 0.0.0.0 and [::] can be listened on side by side.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().with_context(|| match address.port() {
        1..1024 => format!("cannot listen on {address} (ports below 1024 need root or CAP_NET_BIND_SERVICE)"),
        _ => format!("cannot listen on {address}; is another program there? Choose another with --listen"),
    })
}

/// Without a login only this machine is served, unless the administrator insists.
pub(crate) fn refuse_open_addresses(listen: &[SocketAddr], insecure_no_auth: bool) -> anyhow::Result<()> {
    match listen.iter().find(|address| !address.ip().is_loopback()) {
        Some(address) if !insecure_no_auth => bail!(
            "{address} can be reached from other machines, and no login is configured: everybody there could use every \
             app. Listen on 127.0.0.1, or add --insecure-no-auth if that is what you want"
        ),
        _ => Ok(()),
    }
}

/// Each visitor takes two or three descriptors, so the soft limit is raised as far as it goes.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open files cannot be raised: {error}");
    }
}

/// Where the access log goes: its file, or stdout.
pub(crate) fn access_log(server: &ServerKeys) -> anyhow::Result<Option<AccessLog>> {
    let format = match server.access_log {
        AccessLogFormat::Off => return Ok(None),
        AccessLogFormat::Json => LogFormat::Json,
        AccessLogFormat::Common => LogFormat::Common,
    };
    let writer: Box<dyn std::io::Write + Send> = match &server.access_log_file {
        None => Box::new(std::io::stdout()),
        Some(path) => {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path)
                .with_context(|| format!("the access log {} cannot be opened", path.display()))?;
            Box::new(file)
        }
    };
    Ok(Some(AccessLog { format, writer }))
}

/// The socket on which a successor receives the requests this server may not serve any more. Its file goes with it.
pub(crate) struct Relay {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
    file: PathBuf,
    _dir: Option<std::os::fd::OwnedFd>,
}

impl Relay {
    pub(crate) fn bind(data: &Path) -> anyhow::Result<Self> {
        let name = format!("relay-{}.sock", std::process::id());
        let file = data.join(&name);
        let _ = std::fs::remove_file(&file);
        let (path, dir) = socket_path(data, &name)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&socket2::SockAddr::unix(&path)?)?;
        socket.listen(BACKLOG)?;
        Ok(Self { listener: socket.into(), path, file, _dir: dir })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

//! Connections to instances: one pool per event loop, newest first.
//!
//! A connection carries its place in the app's budget with it, into a tunnel too. Idle ones are dropped before app
//! servers do it themselves; what is stale nevertheless is found out by `forward`, which can send again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use skep_launch::backend::Duplex;
use skep_launch::{Stream, Upstream};
use skep_model::{AppId, InstanceId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::body::RequestBody;
use crate::config::Limits;
use crate::conn::{tick, ticks};
use crate::deadline::Deadlines;

/// Why no connection could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the app has {0} connections open already")]
    Budget(usize),
    #[error("connecting took longer than {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// How many connections each app has, over all loops.
#[derive(Default)]
pub(crate) struct Budgets {
    open: Mutex<HashMap<AppId, Arc<AtomicUsize>>>,
}

impl Budgets {
    fn of(&self, app: &AppId) -> Arc<AtomicUsize> {
        Arc::clone(self.open.lock().entry(app.clone()).or_default())
    }
}

/// A place in an app's budget.
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn take(counter: Arc<AtomicUsize>, most: usize) -> Result<Self, ConnectError> {
        if counter.fetch_add(1, Relaxed) >= most {
            counter.fetch_sub(1, Relaxed);
            return Err(ConnectError::Budget(most));
        }
        Ok(Self(counter))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A connection to an instance, for hyper and for the tunnel.
pub(crate) struct UpstreamIo {
    stream: UpstreamStream,
    _permit: Permit,
}

enum UpstreamStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Other(Box<dyn Duplex>),
}

macro_rules! on_stream {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            UpstreamStream::Tcp($stream) => $call,
            UpstreamStream::Unix($stream) => $call,
            UpstreamStream::Other($stream) => $call,
        }
    };
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head without a body, as most requests are, needs no list of pieces.
        if let [only] = slices {
            return self.poll_write(cx, only);
        }
        on_stream!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            UpstreamStream::Tcp(stream) => stream.is_write_vectored(),
            UpstreamStream::Unix(stream) => stream.is_write_vectored(),
            UpstreamStream::Other(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A connection ready to carry a request.
pub(crate) struct Link {
    pub(crate) sender: SendRequest<RequestBody>,
    pub(crate) instance: InstanceId,
    /// It has carried a request before, so it may turn out to be stale.
    pub(crate) used: bool,
}

/// A connection whose answer is still being read.
pub(crate) struct Returning {
    link: Link,
    pool: Rc<Pool>,
}

impl Returning {
    pub(crate) fn new(link: Link, pool: &Rc<Pool>) -> Self {
        Self { link, pool: Rc::clone(pool) }
    }

    pub(crate) fn give_back(self) {
        self.pool.put(self.link);
    }
}

struct Idle {
    sender: SendRequest<RequestBody>,
    /// By the loop's coarse clock.
    since: u32,
}

/// One loop's idle connections.
pub(crate) struct Pool {
    idle: RefCell<HashMap<InstanceId, Vec<Idle>, foldhash::fast::RandomState>>,
    budgets: Arc<Budgets>,
    limits: Limits,
    /// Of the answers that are waited for.
    pub(crate) deadlines: Deadlines,
}

impl Pool {
    pub(crate) fn new(budgets: Arc<Budgets>, limits: Limits) -> Self {
        Self { idle: RefCell::default(), budgets, limits, deadlines: Deadlines::default() }
    }

    /// The connection used last, if it was surely used within `age`: what the coarse clock leaves open counts as too long.
    pub(crate) fn take(&self, upstream: &Upstream, age: Duration) -> Option<Link> {
        let age = ticks(age.min(self.limits.upstream_idle));
        let mut idle = self.idle.borrow_mut();
        let links = idle.get_mut(&upstream.instance)?;
        let now = tick();
        // One whose answer was read a moment ago may not be ready yet: look a little deeper, newest first.
        let young = |link: &Idle| now.saturating_sub(link.since) < age;
        let at = links.iter().rposition(|link| link.sender.is_ready() && young(link))?;
        let sender = links.remove(at).sender;
        Some(Link { sender, instance: upstream.instance.clone(), used: true })
    }

    fn put(&self, link: Link) {
        if link.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let links = idle.entry(link.instance).or_default();
        if links.len() < self.limits.upstream_idle_count {
            links.push(Idle { sender: link.sender, since: tick() });
        }
    }

    /// Drops what is closed or has been idle for too long.
    pub(crate) fn sweep(&self) {
        let now = tick();
        let age = ticks(self.limits.upstream_idle);
        self.idle.borrow_mut().retain(|_, links| {
            links.retain(|link| !link.sender.is_closed() && now.saturating_sub(link.since) < age);
            !links.is_empty()
        });
    }

    /// A new connection.
    pub(crate) async fn connect(&self, upstream: &Upstream) -> Result<Link, ConnectError> {
        let permit = Permit::take(self.budgets.of(&upstream.app), self.limits.upstream_connections)?;
        let within = self.limits.connect_timeout;
        let stream = tokio::time::timeout(within, dial(upstream)).await;
        let stream = match stream.map_err(|_| ConnectError::Timeout(within))?? {
            Stream::Tcp(stream) => {
                stream.set_nodelay(true)?;
                UpstreamStream::Tcp(stream)
            }
            Stream::Unix(stream) => UpstreamStream::Unix(stream),
            Stream::Other(stream) => UpstreamStream::Other(stream),
        };
        let io = TokioIo::new(UpstreamIo { stream, _permit: permit });
        let (sender, connection) = http1::Builder::new().handshake(io).await?;
        tokio::task::spawn_local(async move {
            // How it ended is told to whoever waits for an answer on it.
            let _ = connection.with_upgrades().await;
        });
        Ok(Link { sender, instance: upstream.instance.clone(), used: false })
    }
}

/// Dials, again after a moment where that makes sense: a full backlog (which a Unix socket reports at once), and, twice,
/// a refusal, as an app that restarts its listener gives one. The caller limits the time.
async fn dial(upstream: &Upstream) -> io::Result<Stream> {
    let mut pause = Duration::from_millis(2);
    let mut refusals = 0;
    loop {
        let error = match upstream.dial.dial().await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        refusals += u32::from(error.kind() == io::ErrorKind::ConnectionRefused);
        let again = error.kind() == io::ErrorKind::WouldBlock
            || (error.kind() == io::ErrorKind::ConnectionRefused && refusals <= 2);
        if !again {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

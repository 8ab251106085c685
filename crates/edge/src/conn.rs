//! One client connection as seen from below HTTP: its socket, where it stands, and who watches it.
//!
//! [`ClientIo`] is what hyper reads and writes. It hands a request head to hyper only up to the head's end, so that each
//! head is scanned ([`HeadScan`]) even when requests are pipelined. [`ConnState`] is shared with the loop's sweeper,
//! which drops connections that stand still, and with a request that is held, which learns through
//! [`ConnState::departed`] that the client has left, whatever hyper is or is not reading at the time.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio_rustls::server::TlsStream;

use crate::config::Limits;
use crate::listen::Listener;
use crate::sanitize::head_scan::{Framing, HeadFault, HeadScan};
use crate::worker::Load;

/// A loop's coarse clock counts in steps of this.
pub(crate) const TICK: Duration = Duration::from_millis(250);

thread_local! {
    /// Starts at 1: 0 means "never" in the fields of [`ConnState`].
    static NOW: Cell<u32> = const { Cell::new(1) };
}

/// Sets this loop's coarse clock.
pub(crate) fn set_tick(tick: u32) {
    NOW.with(|now| now.set(tick.max(1)));
}

pub(crate) fn tick() -> u32 {
    NOW.with(Cell::get)
}

/// In whole steps of the coarse clock.
pub(crate) fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// What a connection shares with its watchers.
pub(crate) struct ConnState {
    socket: WriteSide,
    _load: Load,
    pub(crate) peer: IpAddr,
    pub(crate) listener: Arc<Listener>,
    /// Requests being answered.
    in_flight: AtomicU32,
    /// When the connection became idle.
    idle_since: AtomicU32,
    /// When the head being read began; 0 when none is.
    head_since: AtomicU32,
    /// Since when the client's body is waited for; 0 when it is not.
    body_wait_since: AtomicU32,
    /// Ticks of waiting for this body, and the bytes that came.
    body_waited: AtomicU32,
    body_bytes: AtomicU64,
    /// Since when the client takes no byte; 0 when it does.
    write_wait_since: AtomicU32,
    /// The fault of the head read last, as [`HeadFault::to_byte`].
    fault: AtomicU8,
    chunked: AtomicBool,
    body_over: AtomicBool,
}

impl ConnState {
    /// Resolves when the client has closed its side (half-closed counts), or the connection broke, even while unread
    /// bytes lie in front of that. Bytes that the client's kernel could not send yet hide it; see `HeldBody`.
    pub(crate) async fn departed(&self) {
        loop {
            // `PRIORITY` is never registered, which leaves "read side closed" as the only thing this wakes for.
            let ready = match &self.socket {
                WriteSide::Tcp(half) => half.as_ref().ready(Interest::PRIORITY).await,
                WriteSide::Unix(half) => half.as_ref().ready(Interest::PRIORITY).await,
            };
            match ready {
                Ok(ready) if !ready.is_read_closed() => {}
                _ => return,
            }
        }
    }

    /// Asks the kernel, now, whether the client has closed its side or the connection broke.
    pub(crate) fn has_departed(&self) -> bool {
        let asked = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut fds = match &self.socket {
            WriteSide::Tcp(half) => [PollFd::new(half.as_ref(), PollFlags::RDHUP)],
            WriteSide::Unix(half) => [PollFd::new(half.as_ref(), PollFlags::RDHUP)],
        };
        match rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) | Err(_) => false,
            Ok(_) => fds.iter().any(|fd| fd.revents().intersects(asked)),
        }
    }

    /// What the raw scan held against the head read last.
    pub(crate) fn fault(&self) -> Option<HeadFault> {
        HeadFault::from_byte(self.fault.load(Relaxed))
    }

    /// Whether a chunked body came on this connection: what follows it cannot be scanned, so nothing may follow.
    pub(crate) fn was_chunked(&self) -> bool {
        self.chunked.load(Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.idle_since.store(tick(), Relaxed);
        // A pipelined head that began to come in the meantime has its full time from now on.
        if self.head_since.load(Relaxed) != 0 {
            self.head_since.store(tick(), Relaxed);
        }
    }

    /// Nothing is being asked or answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0
    }

    /// Why the connection should be dropped now, if it should. Called by the sweeper, once a second or so.
    pub(crate) fn overdue(&self, limits: &Limits) -> Option<&'static str> {
        let now = tick();
        let waited = |since: &AtomicU32| match since.load(Relaxed) {
            0 => 0,
            since => now.saturating_sub(since),
        };
        if waited(&self.write_wait_since) > ticks(limits.write_stall) {
            return Some("the client took no byte of its answer");
        }
        if self.in_flight.load(Relaxed) == 0 {
            if waited(&self.head_since) > ticks(limits.head_timeout) {
                return Some("the request head did not come to its end");
            }
            let idle = waited(&self.idle_since) > ticks(limits.keep_alive);
            return (idle && self.head_since.load(Relaxed) == 0).then_some("idle");
        }
        let standing = waited(&self.body_wait_since);
        let in_all = standing.saturating_add(self.body_waited.load(Relaxed));
        if standing > ticks(limits.body_stall) {
            return Some("the request body stood still");
        }
        let seconds = u64::from(in_all) * u64::try_from(TICK.as_millis()).unwrap_or(250) / 1000;
        let due = seconds.saturating_mul(u64::from(limits.body_rate));
        let slow = in_all > ticks(limits.body_stall) && self.body_bytes.load(Relaxed) < due;
        slow.then_some("the request body came too slowly")
    }

    fn note_body(&self, got: usize) {
        let since = self.body_wait_since.swap(0, Relaxed);
        if since != 0 {
            self.body_waited.fetch_add(tick().saturating_sub(since), Relaxed);
        }
        self.body_bytes.fetch_add(got as u64, Relaxed);
    }

    /// The request body has ended or nobody wants it any more: silence is no stall.
    pub(crate) fn note_body_over(&self) {
        self.body_over.store(true, Relaxed);
        self.body_wait_since.store(0, Relaxed);
    }

    fn note_body_wait(&self) {
        if !self.body_over.load(Relaxed) && self.body_wait_since.load(Relaxed) == 0 {
            self.body_wait_since.store(tick(), Relaxed);
        }
    }

    fn note_head_end(&self, fault: Option<HeadFault>, chunked: bool) {
        self.head_since.store(0, Relaxed);
        self.fault.store(HeadFault::to_byte(fault), Relaxed);
        self.body_wait_since.store(0, Relaxed);
        self.body_waited.store(0, Relaxed);
        self.body_bytes.store(0, Relaxed);
        self.body_over.store(false, Relaxed);
        if chunked {
            self.chunked.store(true, Relaxed);
        }
    }
}

enum WriteSide {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

enum ReadSide {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

/// The bare socket.
pub(crate) struct PlainIo {
    read: ReadSide,
    state: Arc<ConnState>,
}

/// An accepted socket, on the loop that will serve it.
pub(crate) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl PlainIo {
    pub(crate) fn new(socket: Accepted, peer: IpAddr, listener: Arc<Listener>, load: Load) -> Self {
        let (read, write) = match socket {
            Accepted::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadSide::Tcp(read), WriteSide::Tcp(write))
            }
            Accepted::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadSide::Unix(read), WriteSide::Unix(write))
            }
        };
        let state = ConnState {
            socket: write,
            _load: load,
            peer,
            listener,
            in_flight: AtomicU32::new(0),
            idle_since: AtomicU32::new(tick()),
            // A fresh connection owes its first head at once.
            head_since: AtomicU32::new(tick()),
            body_wait_since: AtomicU32::new(0),
            body_waited: AtomicU32::new(0),
            body_bytes: AtomicU64::new(0),
            write_wait_since: AtomicU32::new(0),
            fault: AtomicU8::new(0),
            chunked: AtomicBool::new(false),
            body_over: AtomicBool::new(false),
        };
        Self { read, state: Arc::new(state) }
    }

    pub(crate) fn state(&self) -> &Arc<ConnState> {
        &self.state
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&WriteSide) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            // As a rule there is room: whether there is, is asked only when there was none.
            match write(&self.state.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.state.write_wait_since.store(0, Relaxed);
                    return Poll::Ready(result);
                }
            }
            let ready = match &self.state.socket {
                WriteSide::Tcp(half) => half.as_ref().poll_write_ready(cx),
                WriteSide::Unix(half) => half.as_ref().poll_write_ready(cx),
            };
            if ready.is_pending() {
                if self.state.write_wait_since.load(Relaxed) == 0 {
                    self.state.write_wait_since.store(tick(), Relaxed);
                }
                return Poll::Pending;
            }
            ready!(ready)?;
        }
    }
}

impl AsyncRead for PlainIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().read {
            ReadSide::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            ReadSide::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PlainIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |socket| match socket {
            WriteSide::Tcp(half) => half.try_write(bytes),
            WriteSide::Unix(half) => half.try_write(bytes),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut room = [0; GATHERED];
        if let Some(bytes) = gather(slices, &mut room) {
            return self.poll_write(cx, bytes);
        }
        self.poll_write_with(cx, |socket| match socket {
            WriteSide::Tcp(half) => half.try_write_vectored(slices),
            WriteSide::Unix(half) => half.try_write_vectored(slices),
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match &self.state.socket {
            WriteSide::Tcp(half) => socket2::SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
            WriteSide::Unix(half) => socket2::SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
        };
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// A short answer is written as one piece: copying it costs less than the kernel's way with several.
const GATHERED: usize = 1024;

fn gather<'a>(slices: &'a [IoSlice<'_>], room: &'a mut [u8; GATHERED]) -> Option<&'a [u8]> {
    let mut filled = 0;
    for slice in slices {
        let end = filled + slice.len();
        room.get_mut(filled..end)?.copy_from_slice(slice);
        filled = end;
    }
    room.get(..filled)
}

enum Inner {
    Plain(PlainIo),
    Tls(Box<TlsStream<PlainIo>>),
}

/// What the next bytes of the connection are.
enum Expect {
    Head(Box<HeadScan>),
    Body(u64),
    /// A chunked body, or whatever comes after an upgrade.
    Opaque,
}

/// A client connection for hyper, and after an upgrade for the tunnel.
pub(crate) struct ClientIo {
    inner: Inner,
    state: Arc<ConnState>,
    expect: Expect,
    /// Bytes read from the socket that lie behind the end of a head.
    ahead: Vec<u8>,
}

impl ClientIo {
    pub(crate) fn plain(io: PlainIo) -> Self {
        let state = Arc::clone(io.state());
        Self { inner: Inner::Plain(io), state, expect: Expect::Head(Box::default()), ahead: Vec::new() }
    }

    pub(crate) fn tls(stream: TlsStream<PlainIo>) -> Self {
        let state = Arc::clone(stream.get_ref().0.state());
        let inner = Inner::Tls(Box::new(stream));
        Self { inner, state, expect: Expect::Head(Box::default()), ahead: Vec::new() }
    }

    pub(crate) fn state(&self) -> &Arc<ConnState> {
        &self.state
    }

    /// HTTP is over on this connection: nothing is scanned any more.
    pub(crate) fn into_tunnel(mut self) -> Self {
        self.expect = Expect::Opaque;
        self
    }

    fn fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buf.remaining());
            buf.put_slice(self.ahead.get(..n).unwrap_or_default());
            if n == self.ahead.len() {
                self.ahead = Vec::new();
            } else {
                self.ahead.drain(..n);
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.inner {
            Inner::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }

    /// Puts what follows the first `keep` of the bytes just read back.
    fn hold_back(&mut self, buf: &mut ReadBuf<'_>, before: usize, keep: usize) {
        let end = before + keep;
        let mut rest = buf.filled().get(end..).unwrap_or_default().to_vec();
        if !rest.is_empty() {
            rest.append(&mut self.ahead);
            self.ahead = rest;
            buf.set_filled(end);
        }
    }

    fn scan(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let fresh = buf.filled().get(before..).unwrap_or_default();
        let got = fresh.len();
        if got == 0 {
            return;
        }
        match &mut self.expect {
            Expect::Opaque => {}
            Expect::Body(left) => {
                self.state.note_body(got);
                if got as u64 >= *left {
                    let keep = usize::try_from(*left).unwrap_or(got);
                    self.expect = Expect::Head(Box::default());
                    self.hold_back(buf, before, keep);
                } else {
                    *left -= got as u64;
                }
            }
            Expect::Head(scan) => {
                if scan.is_untouched() && self.state.head_since.load(Relaxed) == 0 {
                    self.state.head_since.store(tick(), Relaxed);
                }
                if let Some((end, head)) = scan.feed(fresh) {
                    self.state.note_head_end(head.fault, head.framing == Framing::Chunked);
                    match head.framing {
                        Framing::Length(0) => {}
                        Framing::Length(length) => self.expect = Expect::Body(length),
                        Framing::Chunked => self.expect = Expect::Opaque,
                    }
                    self.hold_back(buf, before, end);
                }
            }
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = this.fill(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) => this.scan(buf, before),
            Poll::Pending if matches!(this.expect, Expect::Body(_)) => this.state.note_body_wait(),
            Poll::Pending if matches!(this.expect, Expect::Opaque) && this.state.was_chunked() => {
                this.state.note_body_wait();
            }
            _ => {}
        }
        polled
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Plain(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Plain(io) => io.is_write_vectored(),
            Inner::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Plain(io) => Pin::new(io).poll_flush(cx),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Inner::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

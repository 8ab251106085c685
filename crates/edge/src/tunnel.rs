//! What remains of a connection after `101`: two streams and a small task that pumps bytes between them.
//!
//! One 64 KiB scratch buffer per thread serves every tunnel; a tunnel owns memory only while a peer is slow. A side that
//! says goodbye is passed on as such (half-close); the tunnel ends when both have, when either breaks, or when the seat
//! is taken back.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use skep_launch::Lease;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::conn::ClientIo;
use crate::exchange::Exchange;
use crate::frames::FrameScan;
use crate::pool::UpstreamIo;

const SCRATCH: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Both ends on their way out of hyper.
pub(crate) struct Opening {
    pub(crate) client: OnUpgrade,
    pub(crate) upstream: OnUpgrade,
}

impl Opening {
    /// Waits for both bare streams and pumps until the tunnel ends. `exchange` is logged then.
    pub(crate) async fn run(self, mut exchange: Box<Exchange>, half_closed: Duration) {
        exchange.moved_here();
        let (client, upstream) = match (self.client.await, self.upstream.await) {
            (Ok(client), Ok(upstream)) => (client, upstream),
            (Err(error), _) | (_, Err(error)) => {
                exchange.note_broken(&error.to_string());
                return;
            }
        };
        let Some(tunnel) = Tunnel::new(client, upstream) else {
            exchange.note_broken("the upgraded streams are not ours");
            return;
        };
        // Boxed on its own: what was needed to get here is gone while the tunnel lives.
        Box::pin(pump(tunnel, exchange, half_closed)).await;
    }
}

async fn pump(mut tunnel: Tunnel, mut exchange: Box<Exchange>, half_closed: Duration) {
    let lease = exchange.take_lease();
    let ended = tunnel.until(lease.as_ref(), |tunnel| tunnel.to_upstream.shut || tunnel.to_client.shut).await;
    if let Ok(()) = ended
        && tunnel.is_half_closed()
    {
        // One side is done and the other has not been heard to be: it may finish, but not for ever.
        // Boxed: few tunnels ever come here.
        let rest = tunnel.until(lease.as_ref(), |tunnel| tunnel.to_upstream.shut && tunnel.to_client.shut);
        let _ = Box::pin(tokio::time::timeout(half_closed, Box::pin(rest))).await;
    }
    exchange.add_bytes(usize::try_from(tunnel.to_client.moved).unwrap_or(usize::MAX));
    if let Err(error) = ended {
        exchange.note_broken(&error.to_string());
    }
}

struct Tunnel {
    client: ClientIo,
    upstream: UpstreamIo,
    to_upstream: Flow,
    to_client: Flow,
    scan: FrameScan,
}

impl Tunnel {
    fn new(client: Upgraded, upstream: Upgraded) -> Option<Self> {
        let client = client.downcast::<TokioIo<ClientIo>>().ok()?;
        let upstream = upstream.downcast::<TokioIo<UpstreamIo>>().ok()?;
        let mut scan = FrameScan::default();
        scan.feed(&client.read_buf);
        Some(Self {
            client: client.io.into_inner().into_tunnel(),
            upstream: upstream.io.into_inner(),
            to_upstream: Flow::starting_with(client.read_buf),
            to_client: Flow::starting_with(upstream.read_buf),
            scan,
        })
    }

    fn is_half_closed(&self) -> bool {
        self.to_upstream.shut != self.to_client.shut
    }

    /// Pumps until `done` says so (a half-close has been passed on by then), either side breaks, or the seat is taken
    /// back.
    async fn until(&mut self, lease: Option<&Lease>, done: impl Fn(&Self) -> bool) -> io::Result<()> {
        let revoked = async {
            match lease {
                Some(lease) => lease.revoked().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(revoked);
        let mut told: Option<Waker> = None;
        std::future::poll_fn(|cx| {
            // Once it knows whom to wake, the notice need not be asked with every message.
            let known = told.as_ref().is_some_and(|told| told.will_wake(cx.waker()));
            if !known || lease.is_some_and(Lease::is_revoked) {
                if revoked.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                told = Some(cx.waker().clone());
            }
            self.poll(cx, lease)?;
            if done(self) { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>, lease: Option<&Lease>) -> io::Result<()> {
        let scan = &mut self.scan;
        let touch = |bytes: &[u8]| {
            if scan.feed(bytes)
                && let Some(lease) = lease
            {
                lease.touch();
            }
        };
        let up = self.to_upstream.poll(cx, &mut self.client, &mut self.upstream, touch);
        let down = self.to_client.poll(cx, &mut self.upstream, &mut self.client, |_| {});
        for result in [up, down] {
            if let Poll::Ready(result) = result {
                result?;
            }
        }
        Ok(())
    }
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// Read, but not yet taken by a slow peer.
    spill: Bytes,
    unflushed: bool,
    eof: bool,
    /// The end has been passed on.
    shut: bool,
    moved: u64,
}

impl Flow {
    fn starting_with(bytes: Bytes) -> Self {
        // Even an empty slice of hyper's buffer keeps all of that buffer.
        let spill = if bytes.is_empty() { Bytes::new() } else { bytes };
        Self { spill, ..Self::default() }
    }

    /// Moves what can be moved. `Ready` when the end has been passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        mut see: impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.spill.is_empty() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.spill))?;
                self.wrote(n)?;
                self.spill.advance(n);
                if self.spill.is_empty() {
                    self.spill = Bytes::new();
                }
            }
            if self.eof {
                if !self.shut {
                    // A peer that is gone already needs no goodbye.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            let read = BUFFER.with_borrow_mut(|buffer| {
                let mut buf = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buf))?;
                see(buf.filled());
                Poll::Ready(self.pass_on(cx, to, buf.filled()))
            });
            match read {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes what the peer takes at once and keeps the rest.
    fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        mut bytes: &[u8],
    ) -> io::Result<()> {
        if bytes.is_empty() {
            self.eof = true;
        }
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(n) => {
                    let n = n?;
                    self.wrote(n)?;
                    bytes = bytes.get(n..).unwrap_or_default();
                }
                Poll::Pending => {
                    self.spill = Bytes::copy_from_slice(bytes);
                    break;
                }
            }
        }
        Ok(())
    }

    fn wrote(&mut self, n: usize) -> io::Result<()> {
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.moved += n as u64;
        self.unflushed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F>(_: impl Fn(Tunnel, Box<Exchange>, Duration) -> F) -> usize {
        size_of::<F>()
    }

    // Thousands of tunnels idle at a time. What the rest of one costs (two registered sockets, the exchange) is
    // measured from outside; this keeps the task itself from growing unnoticed.
    #[test]
    fn a_tunnels_task_stays_small() {
        let size = size_of_future(pump);
        assert!(size <= 896, "{size} bytes");
    }
}

//! A dialled container: the bytes of its port, as they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::board::Line;
use crate::socket::Socket;

/// A connection to a port of a container on another node. Ending the writing side is seen by the container while what it
/// still writes is read. An end that the container did not mean is an error, never a silent end.
pub struct LineStream {
    stream: Box<Line>,
    /// What came with the answer.
    early: Bytes,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl LineStream {
    pub(super) fn new(mut line: Box<Line>) -> Self {
        let early = std::mem::take(&mut line.frames.decoder).rest();
        let cut = Box::pin(line.cut.clone().cancelled_owned());
        Self { stream: line, early, cut }
    }

    fn inner(&mut self) -> Pin<&mut TlsStream<Socket>> {
        Pin::new(&mut self.stream.frames.stream)
    }
}

impl AsyncRead for LineStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.has_remaining() {
            let take = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(take));
            return Poll::Ready(Ok(()));
        }
        match self.inner().poll_read(cx, buf) {
            Poll::Pending => {
                ready!(self.cut.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the node fell silent")))
            }
            read => read,
        }
    }
}

impl AsyncWrite for LineStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.frames.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

//! A TCP connection that can move from one event loop to another.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A cut is noticed within thirty seconds: after this much silence …
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// … this many questions …
const KEEPALIVE_PROBES: u32 = 3;
/// … this far apart; or this long after something was sent that nobody acknowledges.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

pub(crate) struct Socket(
    /// `None` when a move failed half way.
    Option<TcpStream>,
);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        Ok(Self(Some(stream)))
    }

    /// From now on whoever is at the other end may read nothing for as long as they like: a download that is paused, an app
    /// that is busy. The kernel counts that as unacknowledged too. Without the limit a cut is noticed by keepalive while
    /// nothing is on its way; with something on its way the idle lines tell, which keep it.
    pub(crate) fn be_patient(&self) -> io::Result<()> {
        match &self.0 {
            Some(stream) => SockRef::from(stream).set_tcp_user_timeout(None),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Moves it to the event loop this is called on, so that what happens to it wakes nobody else.
    pub(crate) fn rehome(&mut self) -> io::Result<()> {
        if let Some(stream) = self.0.take() {
            self.0 = Some(TcpStream::from_std(stream.into_std()?)?);
        }
        Ok(())
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_line_in_use_outlives_a_reader_that_pauses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(stream).unwrap();
        let limit = || {
            let limit = SockRef::from(socket.0.as_ref().unwrap()).tcp_user_timeout().unwrap();
            limit.filter(|limit| !limit.is_zero())
        };
        assert_eq!(limit(), Some(UNACKNOWLEDGED));
        socket.be_patient().unwrap();
        assert_eq!(limit(), None);
        assert!(SockRef::from(socket.0.as_ref().unwrap()).keepalive().unwrap(), "cuts are still noticed");
    }
}

//! Frames over a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::wire::{BadFrame, Decoder, Frame, Message};

/// Read from a connection at a time.
const CHUNK: usize = 16 * 1024;

/// A connection that frames are read from, written to, or both.
pub(crate) struct Frames<S> {
    pub(crate) stream: S,
    pub(crate) decoder: Decoder,
}

impl<S> Frames<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, decoder: Decoder::default() }
    }
}

impl<S: AsyncRead + Unpin> Frames<S> {
    /// The next frame; `None` when the other side ended between two. Can be cancelled without loss.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(bad)? {
                return Ok(Some(frame));
            }
            self.decoder.buffer().reserve(CHUNK);
            if self.stream.read_buf(self.decoder.buffer()).await? == 0 {
                return self.ended();
            }
        }
    }

    /// As [`Frames::next`], for whoever must not hold on to it while it waits.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame>>> {
        let mut chunk = [0; 1024];
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(bad)? {
                return Poll::Ready(Ok(Some(frame)));
            }
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(self.ended());
            }
            self.decoder.push(read.filled());
        }
    }

    /// The next message, whatever it says.
    pub(crate) async fn message(&mut self) -> io::Result<Message> {
        match self.next().await? {
            Some(Frame::Message(message)) => Ok(message),
            Some(Frame::Bytes(..)) => Err(io::Error::new(io::ErrorKind::InvalidData, "bytes out of turn")),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn ended(&self) -> io::Result<Option<Frame>> {
        if self.decoder.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<S: AsyncWrite + Unpin> Frames<S> {
    /// Writes a frame, all of it. Cancelled, it may leave half of one behind: the connection is of no use then.
    pub(crate) async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.put(&frame.encode().map_err(bad)?).await
    }

    /// As [`Frames::send`], of a frame that is encoded already.
    pub(crate) async fn put(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.write_all(frame).await?;
        self.stream.flush().await
    }

    pub(crate) async fn say(&mut self, message: Message) -> io::Result<()> {
        self.send(&Frame::Message(message)).await
    }

    /// Writes a short message without waiting. What the connection does not take at once breaks it.
    pub(crate) fn say_at_once(&mut self, cx: &mut Context<'_>, message: Message) -> io::Result<()> {
        let bytes = Frame::Message(message).encode().map_err(bad)?;
        match Pin::new(&mut self.stream).poll_write(cx, &bytes) {
            Poll::Ready(Ok(written)) if written == bytes.len() => {}
            Poll::Ready(Err(error)) => return Err(error),
            _ => return Err(io::ErrorKind::WriteZero.into()),
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            // What is left goes out with what is written next.
            _ => Ok(()),
        }
    }
}

fn bad(error: BadFrame) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

//! A program that runs in a container of another node: its input, its output, its terminal, its end.

use std::io;

use bytes::Bytes;
use tokio::io::{ReadHalf, WriteHalf};
use tokio_rustls::server::TlsStream;

use super::board::Line;
use crate::frames::Frames;
use crate::socket::Socket;
use crate::wire::{Channel, Frame, Message};

/// Sent at a time; a frame holds more.
const PIECE: usize = 64 * 1024;

/// A running program. Dropping it closes its input; the program may go on.
pub struct ExecSession {
    pub input: ExecInput,
    pub output: ExecOutput,
}

/// What goes to it. A write that is cancelled breaks it.
pub struct ExecInput(Frames<WriteHalf<TlsStream<Socket>>>);

/// What comes from it.
pub struct ExecOutput {
    frames: Frames<ReadHalf<TlsStream<Socket>>>,
    ended: bool,
}

/// A piece of output, or the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecChunk {
    /// With a terminal everything comes here.
    Stdout(Bytes),
    Stderr(Bytes),
    /// Its exit status. Nothing follows.
    Exit(i64),
}

impl ExecSession {
    pub(super) fn new(line: Box<Line>) -> Self {
        let Frames { stream, decoder } = line.frames;
        let (read, write) = tokio::io::split(stream);
        Self {
            input: ExecInput(Frames::new(write)),
            output: ExecOutput { frames: Frames { stream: read, decoder }, ended: false },
        }
    }

    /// For two tasks, one per direction.
    pub fn split(self) -> (ExecInput, ExecOutput) {
        (self.input, self.output)
    }
}

impl ExecInput {
    /// # Errors
    /// When the program or its node is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.0.send(&Frame::Bytes(Channel::Stdin, Bytes::copy_from_slice(piece))).await?;
        }
        Ok(())
    }

    /// The terminal has another size.
    ///
    /// # Errors
    /// When the program or its node is gone.
    pub async fn resize(&mut self, rows: u16, columns: u16) -> io::Result<()> {
        self.0.say(Message::Resize { rows, columns }).await
    }

    /// Nothing more will be written.
    ///
    /// # Errors
    /// When the program or its node is gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.0.send(&Frame::Bytes(Channel::Stdin, Bytes::new())).await
    }
}

impl ExecOutput {
    /// The next piece; `None` after [`ExecChunk::Exit`]. Can be cancelled without loss.
    ///
    /// # Errors
    /// When the connection broke, or the node's engine did: what became of the program is not known then.
    pub async fn next(&mut self) -> io::Result<Option<ExecChunk>> {
        if self.ended {
            return Ok(None);
        }
        let chunk = match self.frames.next().await? {
            Some(Frame::Bytes(Channel::Stderr, bytes)) => ExecChunk::Stderr(bytes),
            Some(Frame::Bytes(_, bytes)) => ExecChunk::Stdout(bytes),
            Some(Frame::Message(Message::Exit { code })) => {
                self.ended = true;
                ExecChunk::Exit(code)
            }
            Some(Frame::Message(Message::End { error })) => {
                self.ended = true;
                return Err(io::Error::other(
                    error.unwrap_or_else(|| "it ended without a status".to_owned()),
                ));
            }
            Some(Frame::Message(_)) => return Err(io::ErrorKind::InvalidData.into()),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        Ok(Some(chunk))
    }
}

//! Running a program in a container for somebody who is named.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use skep_docker::{Demux, Exec, ExecControl, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_rustls::client::TlsStream;

use super::Here;
use super::containers::engine;
use super::rights;
use super::serve::{Line, in_time, refuse};
use crate::frames::Frames;
use crate::socket::Socket;
use crate::wire::{Channel, Done, ExecOrder, Frame, Message};

/// Output read at a time.
const PIECE: usize = 16 * 1024;
/// The engine learns of a program's end a little after its output has ended.
const STATUS_WITHIN: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_millis(20);

pub(super) async fn run(
    here: &Here,
    install: &str,
    mut line: Line,
    container: &str,
    order: ExecOrder,
    within: Duration,
) -> io::Result<()> {
    let terminal = order.tty.is_some();
    let program = order.cmd.first().cloned().unwrap_or_default();
    let spec = skep_docker::ExecOrder {
        command: order.cmd,
        env: order.env,
        user: order.user,
        terminal,
        size: order.tty.map(|(rows, columns)| (columns, rows)),
    };
    let started = async {
        let found = here.containers.inspect(container, install).await?;
        rights::harmless(&found.0)?;
        here.config.engine.exec(container, &spec).await.map_err(|error| engine(&error))
    };
    let exec = match in_time(within, started).await {
        Ok(exec) => exec,
        Err(refusal) => {
            tracing::warn!(who = order.who, container, program, %refusal, "no program is run");
            return refuse(line, container, refusal).await;
        }
    };
    tracing::info!(who = order.who, container, program, "a program is run in a container");
    line.say(Message::Done(Done::Open)).await?;
    let control = exec.control();
    let (from_program, to_program) = tokio::io::split(exec);
    let Frames { stream, decoder } = line;
    let (read, write) = tokio::io::split(stream);
    let mut said = Frames { stream: read, decoder };
    let mut telling = Frames::new(write);
    tokio::select! {
        ended = output(from_program, &mut telling, terminal) => ended?,
        // Whoever asked is gone: there is nobody to tell.
        ended = input(&mut said, to_program, &control) => return ended,
    }
    let end = match status(&control).await {
        Ok(code) => Message::Exit { code },
        Err(error) => Message::End { error: Some(error) },
    };
    telling.say(end).await?;
    telling.stream.shutdown().await
}

/// From the program, until it has closed its output.
async fn output(
    mut from: ReadHalf<Exec>,
    to: &mut Frames<WriteHalf<TlsStream<Socket>>>,
    terminal: bool,
) -> io::Result<()> {
    let mut demux = Demux::default();
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let piece = buffer.split().freeze();
        if terminal {
            to.send(&Frame::Bytes(Channel::Stdout, piece)).await?;
            continue;
        }
        let frames = demux.push(piece).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        for frame in frames.into_iter().filter(|frame| !frame.bytes.is_empty()) {
            let channel = if frame.source == Source::Stderr { Channel::Stderr } else { Channel::Stdout };
            to.send(&Frame::Bytes(channel, frame.bytes)).await?;
        }
    }
}

/// To the program, until whoever asked is gone.
async fn input(
    from: &mut Frames<ReadHalf<TlsStream<Socket>>>,
    mut to: WriteHalf<Exec>,
    control: &ExecControl,
) -> io::Result<()> {
    let mut closed = false;
    while let Some(frame) = from.next().await? {
        match frame {
            Frame::Bytes(Channel::Stdin, bytes) if bytes.is_empty() => {
                closed = true;
                // A program that has ended needs no end of its input.
                let _ = to.shutdown().await;
            }
            // A program that reads no more is no fault of whoever writes; its end comes with its output.
            Frame::Bytes(Channel::Stdin, bytes) if !closed => closed = write(&mut to, &bytes).await.is_err(),
            Frame::Bytes(..) => {}
            Frame::Message(Message::Resize { rows, columns }) => {
                if let Err(error) = control.resize(columns, rows).await {
                    tracing::debug!(%error, "a terminal keeps its size");
                }
            }
            Frame::Message(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

async fn write(to: &mut WriteHalf<Exec>, bytes: &Bytes) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

async fn status(control: &ExecControl) -> Result<i64, String> {
    let asked = async {
        loop {
            match control.exit_code().await {
                Ok(Some(code)) => return Ok(code),
                Ok(None) => tokio::time::sleep(STATUS_EVERY).await,
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let late = || Err("it closed its output and runs on; its status is not known".to_owned());
    tokio::time::timeout(STATUS_WITHIN, asked).await.unwrap_or_else(|_| late())
}

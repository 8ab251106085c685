//! Serving the one call of a line.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use skep_docker::{LogOptions, Source, StampedLine};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use super::containers::{Place, engine};
use super::find::Session;
use super::{Here, exec, pull};
use crate::frames::Frames;
use crate::socket::Socket;
use crate::wire::{AgentLogLine, Ask, Call, Channel, Done, Message, Refusal, RefusalCode};

pub(super) type Line = Frames<TlsStream<Socket>>;

/// Held of each direction of a dialled connection.
const RELAYED: usize = 16 * 1024;
/// Lines of a log at most, whatever is asked for.
const MOST_LINES: usize = 100_000;
/// A container that has just started refuses until its program listens. It is waited for here, because each attempt of the
/// server's would cost a line, with its handshake, on a machine that has an app to start.
const LISTENS_WITHIN: Duration = Duration::from_millis(500);
const KNOCK_EVERY: Duration = Duration::from_millis(5);
/// No call may begin later than this after it was made.
const LONGEST: Duration = Duration::from_secs(60);

/// Serves a call, or says why not.
pub(super) async fn serve(here: &Here, session: &Session, line: Line, call: Call) {
    let Call { container, within_ms, ask } = call;
    let within = Duration::from_millis(within_ms).min(LONGEST);
    let name = ask.name();
    if let Err(error) = answer(here, &session.install, line, &container, ask, within).await {
        tracing::debug!(call = name, container, %error, "a call ended early");
    }
}

async fn answer(
    here: &Here,
    install: &str,
    mut line: Line,
    container: &str,
    ask: Ask,
    within: Duration,
) -> io::Result<()> {
    if let Err(refusal) = here.config.allow.check(&ask) {
        tracing::warn!(call = ask.name(), container, %refusal, "a call is refused");
        return line.say(Message::Refused(refusal)).await;
    }
    if ask.may_be_long() {
        line.stream.get_mut().0.be_patient()?;
    }
    match ask {
        Ask::Dial { port } => match in_time(within, dial(here, install, container, port)).await {
            Ok(stream) => relay(line, stream).await,
            Err(refusal) => refuse(line, container, refusal).await,
        },
        Ask::Stats => {
            let usage = async {
                here.containers.inspect(container, install).await?;
                here.samples.of(container).await
            };
            match in_time(within, usage).await {
                Ok(usage) => line.say(Message::Done(Done::Stats(usage))).await,
                Err(refusal) => refuse(line, container, refusal).await,
            }
        }
        Ask::Inspect => match in_time(within, here.containers.describe(container, install)).await {
            Ok(found) => line.say(Message::Done(Done::Inspect { container: Some(found) })).await,
            Err(refusal) => refuse(line, container, refusal).await,
        },
        Ask::Logs { tail, follow } => {
            Box::pin(logs(here, install, line, container, (tail, follow), within)).await
        }
        Ask::Exec(order) => exec::run(here, install, line, container, order, within).await,
        Ask::Pull(order) => pull::run(here, line, order).await,
        // What it has not told its successor will.
        Ask::Events { after } => tokio::select! {
            () = here.stop.cancelled() => Ok(()),
            told = here.journal.tell(line, after) => told,
        },
    }
}

/// Within the time whoever asks will wait.
pub(super) async fn in_time<T>(
    within: Duration,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let late = || Refusal::new(RefusalCode::Late, format!("it was not done within {within:?}"));
    timeout(within, work).await.unwrap_or_else(|_| Err(late()))
}

pub(super) async fn refuse(mut line: Line, container: &str, refusal: Refusal) -> io::Result<()> {
    if matches!(refusal.code, RefusalCode::NotOurs | RefusalCode::BadRequest) {
        tracing::warn!(container, %refusal, "a call is refused");
    }
    line.say(Message::Refused(refusal)).await
}

async fn dial(here: &Here, install: &str, container: &str, port: u16) -> Result<TcpStream, Refusal> {
    let mut again = true;
    loop {
        let place = here.containers.place(container, install).await?;
        let connected = connect(&place, port).await;
        // What was remembered may be another container's address by now: only an answer that nothing has overtaken counts.
        if here.containers.is_current(&place) || !again {
            return connected;
        }
        again = false;
    }
}

async fn connect(place: &Place, port: u16) -> Result<TcpStream, Refusal> {
    let mut why = Refusal::new(RefusalCode::NoAddress, "the container has no address");
    for address in &place.addresses {
        match connect_to(*address, port).await {
            Ok(stream) => return Ok(stream),
            Err(refusal) => why = refusal,
        }
    }
    Err(why)
}

async fn connect_to(address: IpAddr, port: u16) -> Result<TcpStream, Refusal> {
    let refusal = |error: io::Error| {
        let code = match error.kind() {
            io::ErrorKind::ConnectionRefused => RefusalCode::ConnectionRefused,
            _ => RefusalCode::Unreachable,
        };
        Refusal::new(code, format!("port {port} of the container: {error}"))
    };
    let until = Instant::now() + LISTENS_WITHIN;
    loop {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(refusal)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < until => {
                sleep(KNOCK_EVERY).await;
            }
            Err(error) => return Err(refusal(error)),
        }
    }
}

/// Bytes both ways, until both directions have ended or one broke: then the other side is cut too.
async fn relay(mut line: Line, mut stream: TcpStream) -> io::Result<()> {
    line.say(Message::Done(Done::Open)).await?;
    if !line.decoder.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes before the answer"));
    }
    copy_bidirectional_with_sizes(&mut line.stream, &mut stream, RELAYED, RELAYED).await.map(drop)
}

async fn logs(
    here: &Here,
    install: &str,
    mut line: Line,
    container: &str,
    (tail, follow): (usize, bool),
    within: Duration,
) -> io::Result<()> {
    let opened = async {
        let found = here.containers.inspect(container, install).await?;
        let options = LogOptions {
            tail: Some(tail.min(MOST_LINES)),
            follow,
            terminal: found.has_terminal(),
            ..LogOptions::default()
        };
        let log = here.config.engine.container_log_to_its_end(container, options).await;
        log.map_err(|error| engine(&error))
    };
    let log = match in_time(within, opened).await {
        Ok(log) => log,
        Err(refusal) => return refuse(line, container, refusal).await,
    };
    line.say(Message::Done(Done::Open)).await?;
    let mut log = pin!(log);
    loop {
        // Nothing more is said to us: whatever comes is the end.
        let next = tokio::select! {
            next = log.next() => next,
            _ = line.next() => return Ok(()),
        };
        match next {
            Some(Ok(said)) => line.say(Message::Line(said_by(said))).await?,
            Some(Err(error)) => return line.say(Message::End { error: Some(error.to_string()) }).await,
            None => break,
        }
    }
    line.say(Message::End { error: None }).await
}

fn said_by(line: StampedLine) -> AgentLogLine {
    let StampedLine { source, time, text } = line;
    let channel = if source == Source::Stderr { Channel::Stderr } else { Channel::Stdout };
    AgentLogLine { channel, time, text }
}

//! Asking a node's agent for something.

use std::io;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::time::timeout;

use super::board::Line;
use super::exec::ExecSession;
use super::{Desk, LineStream};
use crate::AgentError;
use crate::wire::{
    AgentContainer, AgentLogLine, Ask, Call, Done, ExecOrder, Frame, Message, PullOrder, RefusalCode, Usage,
};

/// Connecting to a port of a container.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// Everything else until its answer begins. The first figures take the engine two seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Lines that turn out to be dead one after the other: all of them at worst, when an agent has just been killed.
const ATTEMPTS: usize = 64;

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct AgentStats {
    /// Since its start, all processes.
    pub cpu_seconds: f64,
    /// Bytes that cannot be given back by dropping caches.
    pub memory_bytes: u64,
    pub processes: u32,
}

impl Desk {
    /// Opens a connection to a port of a container. The stream belongs to the event loop this is called on.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens there (yet), `NotFound` when there is no such container, `PermissionDenied` when
    /// the agent does not allow it, `TimedOut`, `NetworkDown` when the node has no agent.
    pub async fn dial(&self, node: &str, container: &str, port: u16) -> io::Result<LineStream> {
        let asked = self.ask(node, container, Ask::Dial { port }, DIAL_WITHIN).await;
        let (line, done) = asked.map_err(AgentError::into_io)?;
        match done {
            Done::Open => Ok(LineStream::new(line)),
            other => Err(garbled(node, "dial", &other).into_io()),
        }
    }

    /// What a container wrote, oldest first. Ends with the container when followed, and when the line breaks.
    ///
    /// # Errors
    /// When the node has no agent, or the agent refuses.
    pub async fn logs(
        &self,
        node: &str,
        container: &str,
        tail: usize,
        follow: bool,
    ) -> Result<BoxStream<'static, AgentLogLine>, AgentError> {
        let asked = self.ask(node, container, Ask::Logs { tail, follow }, ANSWER_WITHIN).await?;
        let (Done::Open, line) = (asked.1.clone(), asked.0) else {
            return Err(garbled(node, "logs", &asked.1));
        };
        Ok(stream::unfold(line, |mut line| async move {
            match line.frames.message().await {
                Ok(Message::Line(said)) => Some((said, line)),
                Ok(Message::End { error: None }) => None,
                Ok(Message::End { error: Some(error) }) => {
                    tracing::warn!(node = line.node, error, "a container's log ended early");
                    None
                }
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(node = line.node, %error, "a container's log broke off");
                    None
                }
            }
        })
        .boxed())
    }

    /// How far an image is, in percent, that the node's engine fetches. Ends when it is there, or cannot be had, which the task
    /// that needs it tells better.
    ///
    /// # Errors
    /// When the node has no agent, or the agent refuses.
    pub async fn pull(&self, node: &str, order: PullOrder) -> Result<BoxStream<'static, u8>, AgentError> {
        let line = match self.ask(node, "", Ask::Pull(order), ANSWER_WITHIN).await? {
            (line, Done::Open) => line,
            (_, other) => return Err(garbled(node, "pull", &other)),
        };
        let percents = stream::unfold(line, |mut line| async move {
            match line.frames.message().await {
                Ok(Message::Pulled { percent }) => Some((percent.min(100), line)),
                _ => None,
            }
        });
        Ok(percents.boxed())
    }

    /// What a container uses now.
    ///
    /// # Errors
    /// When the node has no agent, or the agent refuses; the engine needs a second or two for the first answer.
    pub async fn stats(&self, node: &str, container: &str) -> Result<AgentStats, AgentError> {
        match self.ask(node, container, Ask::Stats, ANSWER_WITHIN).await?.1 {
            Done::Stats(Usage { cpu_ns, memory_bytes, processes }) => {
                let cpu_seconds = Duration::from_nanos(cpu_ns).as_secs_f64();
                Ok(AgentStats { cpu_seconds, memory_bytes, processes })
            }
            other => Err(garbled(node, "stats", &other)),
        }
    }

    /// A container as its node sees it; `None` when there is none.
    ///
    /// # Errors
    /// When the node has no agent, or the agent refuses.
    pub async fn inspect(&self, node: &str, container: &str) -> Result<Option<AgentContainer>, AgentError> {
        match self.ask(node, container, Ask::Inspect, ANSWER_WITHIN).await {
            Ok((_, Done::Inspect { container })) => Ok(container),
            Ok((_, other)) => Err(garbled(node, "inspect", &other)),
            Err(error) if error.refusal().is_some_and(|refusal| refusal.code == RefusalCode::Gone) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Runs a program in a container.
    ///
    /// # Errors
    /// When the node has no agent, or the agent refuses.
    pub async fn exec(
        &self,
        node: &str,
        container: &str,
        order: ExecOrder,
    ) -> Result<ExecSession, AgentError> {
        match self.ask(node, container, Ask::Exec(order), ANSWER_WITHIN).await? {
            (line, Done::Open) => Ok(ExecSession::new(line)),
            (_, other) => Err(garbled(node, "exec", &other)),
        }
    }

    /// One call on one line. A line that turns out to be dead before anything came back is no answer: the next one is
    /// asked, unless a program may have been started, or an agent that does not know the call has broken it.
    pub(super) async fn ask(
        &self,
        node: &str,
        container: &str,
        ask: Ask,
        within: Duration,
    ) -> Result<(Box<Line>, Done), AgentError> {
        let name = ask.name();
        let once = matches!(ask, Ask::Exec(_) | Ask::Pull(_));
        let patient = ask.may_be_long();
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let call = Message::Call(Call { container: container.to_owned(), within_ms, ask });
        let bytes = Frame::Message(call).encode().map_err(|error| AgentError::Garbled {
            node: node.to_owned(),
            call: name,
            what: format!("the call itself is no frame: {error}"),
        })?;
        let mut attempt = 1;
        loop {
            let mut line = self.line(node).await?;
            let cut = line.cut.clone();
            let exchange = async {
                line.frames.stream.get_mut().0.rehome()?;
                if patient {
                    line.frames.stream.get_mut().0.be_patient()?;
                }
                line.frames.put(&bytes).await?;
                loop {
                    match line.frames.message().await? {
                        // It had been sent before the call arrived; after an end the agent serves a call all the same.
                        Message::Ping | Message::End { .. } => {}
                        message => return io::Result::Ok(message),
                    }
                }
            };
            // The agent has the same limit, and names what took so long.
            let exchange = timeout(within + Duration::from_secs(1), exchange);
            // Nobody waits that long for a node that is known to be gone.
            let Some(answer) = cut.run_until_cancelled(exchange).await else {
                return Err(AgentError::GivenUp { node: node.to_owned() });
            };
            match answer {
                Ok(Ok(Message::Done(done))) => return Ok((line, done)),
                Ok(Ok(Message::Refused(refusal))) => {
                    return Err(AgentError::Refused { node: node.to_owned(), refusal });
                }
                Ok(Ok(other)) => {
                    let what = format!("{other:?}").chars().take(100).collect();
                    return Err(AgentError::Garbled { node: node.to_owned(), call: name, what });
                }
                Ok(Err(_)) if !once && attempt < ATTEMPTS => attempt += 1,
                Ok(Err(reason)) => {
                    return Err(AgentError::Broken { node: node.to_owned(), call: name, reason });
                }
                Err(_) => return Err(AgentError::Late { node: node.to_owned(), call: name, after: within }),
            }
        }
    }
}

fn garbled(node: &str, call: &'static str, what: &Done) -> AgentError {
    AgentError::Garbled { node: node.to_owned(), call, what: format!("{what:?}").chars().take(100).collect() }
}

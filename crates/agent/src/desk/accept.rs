//! From an accepted connection to an agent that is taken in, or to a line.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::board::Line;
use super::{Desk, identity};
use crate::enrol::{Binding, Statement};
use crate::frames::Frames;
use crate::socket::Socket;
use crate::wire::{Enrol, Enrolled, Message, Refusal, RefusalCode, VERSION};
use crate::{AgentError, tls};

/// From the connection to its first frame.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(2);
/// From there to the answer; managers may be asked meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// After an accept that failed, because there are no more files for example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

type Connection = Frames<TlsStream<Socket>>;

/// What a connection is for.
enum Said {
    Enrol(Connection, Enrol, Binding),
    Line(Connection, Message),
}

/// Its place is free again when this is dropped.
struct Seat<'a> {
    desk: &'a Desk,
    number: u64,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.desk.0.greeted.lock().leave(self.number);
    }
}

impl Desk {
    /// Takes agents in until told to stop. Lines in use live on; idle ones are closed, so that agents look for another
    /// server.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.0.hub.wanted() => {
                    for node in self.0.board.shown() {
                        self.listen_to(&node);
                    }
                }
                Some(_) = tasks.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        // Under the lock, so that no task leaves its place before it has one.
                        self.0.greeted.lock().give(from.ip(), |number| {
                            tasks.spawn(self.clone().meet(stream, from, number))
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no connection of an agent can be accepted");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        }
        self.0.hub.stop();
        self.0.board.clear();
    }

    async fn meet(self, stream: TcpStream, from: SocketAddr, number: u64) {
        let place = Seat { desk: &self, number };
        let first = timeout(FIRST_WORD_WITHIN, self.greet(stream));
        let met = match first.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(said) => {
                drop(place);
                let answer = async {
                    match said {
                        Said::Enrol(frames, asked, binding) => {
                            self.enrol(frames, &asked, &binding, from).await
                        }
                        Said::Line(frames, said) => self.take_line(frames, &said).await,
                    }
                };
                timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = met {
            tracing::debug!(%from, %error, "a connection to the agents' port came to nothing");
        }
    }

    /// Until it has said what it wants.
    async fn greet(&self, stream: TcpStream) -> io::Result<Said> {
        let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), Socket::new(stream)?);
        let start = acceptor.await?;
        let asked = |protocol: &[u8]| {
            start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == protocol))
        };
        if asked(tls::ENROL) {
            let stream = start.into_stream(Arc::clone(&self.0.doors.enrol)).await?;
            let binding = tls::binding(stream.get_ref().1).map_err(io::Error::other)?;
            let mut frames = Frames::new(stream);
            return match frames.message().await? {
                Message::Enrol(asked) => Ok(Said::Enrol(frames, asked, binding)),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no enrolment")),
            };
        }
        // Also for whoever names no purpose: TLS itself refuses without a certificate of ours.
        let stream = start.into_stream(Arc::clone(&self.0.doors.line)).await?;
        let mut frames = Frames::new(stream);
        let said = frames.message().await?;
        Ok(Said::Line(frames, said))
    }

    async fn take_line(&self, mut frames: Connection, said: &Message) -> io::Result<()> {
        let shown = frames.stream.get_ref().1.peer_certificates();
        let shown = shown.and_then(<[CertificateDer<'_>]>::first);
        let holder = shown.and_then(|shown| self.0.authority.holder(shown, SystemTime::now()));
        let Some(holder) = holder else {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "no certificate of this server's"));
        };
        if !matches!(said, Message::Hello { version: VERSION, node, .. } if *node == holder.node) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no greeting of the certificate's node"));
        }
        frames.say(Message::Welcome).await?;
        self.add(Box::new(Line::new(frames, holder.node, holder.expires)));
        Ok(())
    }

    async fn enrol(
        &self,
        mut frames: Connection,
        asked: &Enrol,
        binding: &[u8; 32],
        from: SocketAddr,
    ) -> io::Result<()> {
        let answer = match self.judge(asked, binding, from).await {
            Ok(enrolled) => {
                tracing::info!(node = asked.node, %from, "an agent has enrolled");
                Message::Enrolled(enrolled)
            }
            Err(refusal) => {
                if refusal.code != RefusalCode::TooOften {
                    let node: String = asked.node.chars().take(64).collect();
                    tracing::warn!(%from, node, %refusal, "an agent is not taken in");
                }
                Message::Refused(refusal)
            }
        };
        frames.say(answer).await
    }

    /// Whether it speaks our language and knows the join secret. Answers its key.
    fn prove(&self, asked: &Enrol, binding: &[u8; 32]) -> Result<Vec<u8>, Refusal> {
        let refuse = |code, why: &str| Err(Refusal::new(code, why));
        if asked.version != VERSION {
            let why = format!("the agent speaks version {}, the server {VERSION}", asked.version);
            return refuse(RefusalCode::WrongVersion, &why);
        }
        let (Ok(key), Ok(proof)) = (STANDARD.decode(&asked.key), STANDARD.decode(&asked.proof)) else {
            return refuse(RefusalCode::BadRequest, "key or proof is no Base64");
        };
        let said = Statement::Agent { node: &asked.node, task: asked.task.as_deref(), key: &key };
        if !self.0.config.secret.is_proof(&proof, binding, &said) {
            return refuse(RefusalCode::WrongSecret, "the agent's join secret is not the server's");
        }
        Ok(key)
    }

    async fn judge(&self, asked: &Enrol, binding: &[u8; 32], from: SocketAddr) -> Result<Enrolled, Refusal> {
        let too_often = |why: &str| Refusal::new(RefusalCode::TooOften, why);
        let key = self.prove(asked, binding).map_err(|refusal| {
            let free = self.0.wrong.lock().take(from.ip(), Instant::now());
            if free { refusal } else { too_often("too many enrolments from there failed; wait a little") }
        })?;
        // An id is shorter; what is none is found out below.
        let node: String = asked.node.chars().take(64).collect();
        if !self.0.checks.lock().take(node, Instant::now()) {
            return Err(too_often("the agent of this node enrols too often; wait a little"));
        }
        identity::check(&self.0.config, &asked.node, asked.task.as_deref()).await?;
        let now = SystemTime::now();
        let certificate = self.0.authority.issue(&asked.node, &key, now).map_err(|error| {
            let code = match error {
                AgentError::Certificates(_) => RefusalCode::BadRequest,
                _ => RefusalCode::Other,
            };
            Refusal::new(code, error.to_string())
        })?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let time_ms = millis(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let lives_ms = millis(self.0.authority.lives());
        let (authority, install) = (self.0.authority.certificate(), self.0.config.install.as_str());
        let said = Statement::Server { authority, certificate: &certificate, install, time_ms, lives_ms };
        let proof = self.0.config.secret.prove(binding, &said);
        Ok(Enrolled {
            authority: STANDARD.encode(authority),
            certificate: STANDARD.encode(&certificate),
            install: install.to_owned(),
            time_ms,
            lives_ms,
            proof: STANDARD.encode(proof),
        })
    }
}

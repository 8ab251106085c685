//! Finding the server, and getting in.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use skep_docker::Document;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{AgentConfig, Here};
use crate::authority::{Identity, agent_key};
use crate::enrol::Statement;
use crate::frames::Frames;
use crate::socket::Socket;
use crate::wire::{Enrol, Enrolled, Message, VERSION};
use crate::{AgentError, tls};

const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// The server asks its managers meanwhile.
const ADMITTED_WITHIN: Duration = Duration::from_secs(12);
/// Before the end of a certificate; a tenth of its life where that is less.
const MARGIN: Duration = Duration::from_secs(30);
/// So many lines in a row that do not come about are no accident.
const SEVERAL: u32 = 3;
/// Clocks that differ by more than this are told.
const SKEW: Duration = Duration::from_secs(60);

/// Being in: until the certificate is too old.
pub(super) struct Session {
    pub(super) server: String,
    pub(super) install: String,
    tls: Arc<ClientConfig>,
    since: Instant,
    lives: Duration,
    /// Lines of it that are being made.
    pub(super) making: AtomicUsize,
    /// Lines that did not come about, in a row.
    failures: AtomicU32,
}

impl Session {
    /// When to ask for a new certificate.
    pub(super) fn renew_at(&self) -> Instant {
        self.since + self.lives / 2
    }

    /// When lines are of no use any more.
    pub(super) fn retire_at(&self) -> Instant {
        self.since + self.lives - (self.lives / 10).min(MARGIN)
    }

    pub(super) fn opened(&self) {
        self.failures.store(0, Ordering::Release);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::AcqRel);
    }

    /// As after several failures.
    pub(super) fn doubt(&self) {
        self.failures.fetch_max(SEVERAL, Ordering::AcqRel);
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Acquire)
    }

    /// Whether enrolling anew is worth a try: it finds the server where it is now, and tells what is wrong.
    pub(super) fn is_doubtful(&self) -> bool {
        self.failures() >= SEVERAL
    }

    /// A new connection to the server, both sides showing their certificates.
    pub(super) async fn line(&self) -> Result<Frames<TlsStream<Socket>>, AgentError> {
        let stream = connect(&self.server).await?;
        let stream = handshake(&self.server, &self.tls, stream).await?;
        Ok(Frames::new(stream))
    }
}

async fn connect(server: &str) -> Result<Socket, AgentError> {
    let unreachable = |reason: io::Error| AgentError::Unreachable { server: server.to_owned(), reason };
    let connected = timeout(CONNECT_WITHIN, TcpStream::connect(server)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
    Socket::new(stream).map_err(unreachable)
}

async fn handshake(
    server: &str,
    config: &Arc<ClientConfig>,
    stream: Socket,
) -> Result<TlsStream<Socket>, AgentError> {
    let connecting = TlsConnector::from(Arc::clone(config)).connect(tls::server_name()?, stream);
    let done = timeout(HANDSHAKE_WITHIN, connecting).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| AgentError::Tls { server: server.to_owned(), reason: tls_reason(&error) })
}

/// What a failed handshake most likely means.
pub(super) fn tls_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let mend = if text.contains("xpired") || text.contains("NotValidYet") || text.contains("not valid yet") {
        "; do the clocks of both machines agree?"
    } else if text.contains("pplication") || error.kind() == io::ErrorKind::InvalidData {
        "; is this the agents' port of a Skep server (`[swarm] agent_listen`)?"
    } else {
        ""
    };
    format!("{text}{mend}")
}

/// Whom to ask.
pub(super) async fn candidates(config: &AgentConfig) -> Result<Vec<String>, AgentError> {
    if !config.servers.is_empty() {
        return Ok(config.servers.clone());
    }
    let info = timeout(super::ENGINE_WITHIN, config.engine.info())
        .await
        .map_err(|_| AgentError::Node("the node's Docker Engine does not answer".to_owned()))??;
    let servers = managers(&info, config.port);
    if servers.is_empty() {
        let why = "this node's Docker Engine names no manager of its Swarm; is the node still a member? \
                   (`--server HOST:PORT` does without)";
        return Err(AgentError::Node(why.to_owned()));
    }
    Ok(servers)
}

/// The Swarm's managers, each with the agents' port.
fn managers(info: &Document, port: u16) -> Vec<String> {
    let mut found: Vec<String> = info
        .remote_managers()
        .iter()
        .filter_map(|address| address.rsplit_once(':'))
        .map(|(host, _)| format!("{host}:{port}"))
        .collect();
    // A manager asks itself first: most often the server is there.
    if let Some(own) = info.text("/Swarm/NodeAddr").filter(|own| !own.is_empty()) {
        let own = if own.contains(':') { format!("[{own}]:{port}") } else { format!("{own}:{port}") };
        found.sort_by_key(|server| *server != own);
    }
    found.dedup();
    found
}

/// Proves the join secret, and has it proved.
pub(super) async fn enrol(here: &Here, server: &str) -> Result<Session, AgentError> {
    let stream = connect(server).await?;
    let stream = handshake(server, &tls::enrolling()?, stream).await?;
    let binding = tls::binding(stream.get_ref().1)?;
    let (private, point) = agent_key()?;
    let task = here.config.task.as_deref();
    let said = Statement::Agent { node: &here.node, task, key: &point };
    let ask = Message::Enrol(Enrol {
        version: VERSION,
        node: here.node.clone(),
        task: here.config.task.clone(),
        key: STANDARD.encode(&point),
        proof: STANDARD.encode(here.config.secret.prove(&binding, &said)),
    });
    let mut frames = Frames::new(stream);
    let since = Instant::now();
    let exchange = async {
        frames.say(ask).await?;
        frames.message().await
    };
    let unreachable = |reason: io::Error| AgentError::Unreachable { server: server.to_owned(), reason };
    let answer = timeout(ADMITTED_WITHIN, exchange).await;
    let enrolled =
        match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)? {
            Message::Enrolled(enrolled) => enrolled,
            Message::Refused(refusal) => {
                return Err(AgentError::NotAdmitted { server: server.to_owned(), refusal });
            }
            _ => return Err(AgentError::WrongServer { server: server.to_owned() }),
        };
    let (authority, certificate) = admitted(here, server, &binding, &enrolled)?;
    tell_skew(server, enrolled.time_ms);
    let tls = tls::calling(&authority, Identity { certificate, key: private })?;
    let lives = Duration::from_millis(enrolled.lives_ms);
    Ok(Session {
        server: server.to_owned(),
        install: enrolled.install,
        tls,
        since,
        lives,
        making: AtomicUsize::new(0),
        failures: AtomicU32::new(0),
    })
}

type Certificates = (CertificateDer<'static>, CertificateDer<'static>);

/// The server's certificates, if it knows the secret.
fn admitted(
    here: &Here,
    server: &str,
    binding: &[u8; 32],
    enrolled: &Enrolled,
) -> Result<Certificates, AgentError> {
    let wrong = || AgentError::WrongServer { server: server.to_owned() };
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| wrong());
    let (authority, certificate) = (decode(&enrolled.authority)?, decode(&enrolled.certificate)?);
    let said = Statement::Server {
        authority: &authority,
        certificate: &certificate,
        install: &enrolled.install,
        time_ms: enrolled.time_ms,
        lives_ms: enrolled.lives_ms,
    };
    if !here.config.secret.is_proof(&decode(&enrolled.proof)?, binding, &said) {
        return Err(wrong());
    }
    Ok((authority.into(), certificate.into()))
}

fn tell_skew(server: &str, time_ms: u64) {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let skew = ours.abs_diff(Duration::from_millis(time_ms));
    if skew > SKEW {
        tracing::warn!(
            server,
            "the clocks of this node and of the server differ by {} s: times of logs and events will not fit, \
             and beyond an hour no connection comes about",
            skew.as_secs()
        );
    }
}

/// The time between two attempts: longer and longer, a second at most, never quite the same for two agents.
#[derive(Default)]
pub(super) struct Pause(u32);

impl Pause {
    const LONGEST_MS: u64 = 1000;

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    pub(super) fn next(&mut self) -> Duration {
        let millis = (100_u64 << self.0.min(5)).min(Self::LONGEST_MS);
        self.0 = self.0.saturating_add(1);
        let jitter = getrandom::u32().map_or(0, u64::from) % (millis / 2 + 1);
        Duration::from_millis(millis - jitter)
    }

    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managers_are_asked_at_the_agents_port_the_own_node_first() {
        let info = Document::new(json!({ "Swarm": { "NodeAddr": "10.0.0.2", "RemoteManagers": [
            { "NodeID": "a", "Addr": "10.0.0.1:2377" }, { "NodeID": "b", "Addr": "10.0.0.2:2377" },
            { "NodeID": "c", "Addr": "[fd00::1]:2377" }, { "NodeID": "d", "Addr": "" }, { "NodeID": "e" },
        ] } }));
        assert_eq!(managers(&info, 7443), ["10.0.0.2:7443", "10.0.0.1:7443", "[fd00::1]:7443"]);
        assert!(managers(&Document::new(json!({ "Swarm": { "RemoteManagers": null } })), 1).is_empty());
    }

    #[test]
    fn handshakes_that_fail_say_what_to_look_at() {
        let of = |text: &str, kind| tls_reason(&io::Error::new(kind, text));
        assert!(of("invalid peer certificate: Expired", io::ErrorKind::InvalidData).contains("clocks"));
        assert!(of("received corrupt message", io::ErrorKind::InvalidData).contains("agent_listen"));
        assert_eq!(of("connection reset", io::ErrorKind::ConnectionReset), "connection reset");
    }
}

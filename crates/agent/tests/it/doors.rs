//! What comes to the agents' port and is no agent of ours: spoken by hand.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use skep_agent::DeskConfig;
use skep_agent::enrol::{EXPORTER, Statement};
use skep_agent::wire::{Decoder, Done, Enrol, Enrolled, Frame, MAX_FRAME, Message, RefusalCode, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::daemon::until;
use crate::stage::{Server, desk_config, install, secret, swarm};

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

struct Peer {
    stream: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Peer {
    async fn connect(server: SocketAddr, purpose: &str, own: Option<&Identity>) -> io::Result<Self> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match own {
            Some((certificate, key)) => {
                config.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![purpose.as_bytes().to_vec()];
        let stream = TcpStream::connect(server).await?;
        let name = ServerName::try_from("skep").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Self { stream, decoder: Decoder::default() })
    }

    async fn say(&mut self, message: Message) -> io::Result<()> {
        self.stream.write_all(&Frame::Message(message).encode().unwrap()).await?;
        self.stream.flush().await
    }

    /// The next message; an error when the other side closed instead.
    async fn hear(&mut self) -> io::Result<Message> {
        let mut chunk = [0; 4096];
        loop {
            match self.decoder.next_frame().map_err(io::Error::other)? {
                Some(Frame::Message(message)) => return Ok(message),
                Some(Frame::Bytes(..)) => return Err(io::ErrorKind::InvalidData.into()),
                None => {}
            }
            let read = timeout(Duration::from_secs(60), self.stream.read(&mut chunk));
            match read.await.expect("nothing came, nor an end")? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.decoder.push(&chunk[..read]),
            }
        }
    }

    fn application(&self, node: &str, key: &rcgen::KeyPair) -> Enrol {
        let binding = self.stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None).unwrap();
        let point = key.public_key_raw();
        let said = Statement::Agent { node, task: None, key: point };
        Enrol {
            version: VERSION,
            node: node.to_owned(),
            task: None,
            key: STANDARD.encode(point),
            proof: STANDARD.encode(secret().prove(&binding, &said)),
        }
    }
}

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

/// What is said to an application. Whoever is held up for two seconds on the way is sent away unheard, and comes again.
async fn answered(server: &Server, mut application: impl FnMut(&Peer) -> Enrol) -> Message {
    until("an application is heard", async || {
        let mut peer = Peer::connect(server.address, "skep-enrol/1", None).await.ok()?;
        let application = application(&peer);
        peer.say(Message::Enrol(application)).await.ok()?;
        peer.hear().await.ok()
    })
    .await
}

/// Enrols by hand.
async fn enrolled(server: &Server, node: &str) -> (Identity, Enrolled, [u8; 32]) {
    let (key, begun) = (key(), Instant::now());
    let (enrolled, binding) = loop {
        let mut binding = [0; 32];
        let answer = answered(server, |peer| {
            binding = peer.stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None).unwrap();
            peer.application(node, &key)
        });
        match answer.await {
            Message::Enrolled(enrolled) => break (enrolled, binding),
            // The manager was too busy to be asked.
            Message::Refused(refusal)
                if refusal.code == RefusalCode::Unchecked && begun.elapsed() < Duration::from_secs(60) =>
            {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            other => panic!("not taken in: {other:?}"),
        }
    };
    let certificate = CertificateDer::from(STANDARD.decode(&enrolled.certificate).unwrap());
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    ((certificate, key), enrolled, binding)
}

fn hello(node: &str) -> Message {
    Message::Hello { version: VERSION, node: node.to_owned(), engine: "x".to_owned() }
}

/// A line, if one comes about.
async fn line(server: &Server, own: Option<&Identity>, node: &str) -> Option<Peer> {
    let mut peer = Peer::connect(server.address, "skep-line/1", own).await.ok()?;
    peer.say(hello(node)).await.ok()?;
    matches!(peer.hear().await, Ok(Message::Welcome)).then_some(peer)
}

/// A line of somebody who is welcome, though not when held up on the way.
async fn own_line(server: &Server, own: &Identity, node: &str) -> Peer {
    until("a line comes about", async || line(server, Some(own), node).await).await
}

#[tokio::test]
async fn a_proof_is_good_on_its_own_connection_only() {
    let (_, node) = swarm();
    let server = Server::start(desk_config(&install())).await;
    let connect = async || Peer::connect(server.address, "skep-enrol/1", None).await.ok();
    let one = until("there is another connection", connect).await;
    let answer = answered(&server, |_| one.application(node, &key())).await;
    let Message::Refused(refusal) = answer else { panic!("taken in") };
    assert_eq!(refusal.code, RefusalCode::WrongSecret);
}

#[tokio::test]
async fn nothing_of_an_application_can_be_changed_on_the_way() {
    let (_, node) = swarm();
    let server = Server::start(desk_config(&install())).await;
    let changes: [fn(&mut Enrol); 5] = [
        |enrol| enrol.node = "n2".to_owned(),
        |enrol| enrol.task = Some("t".to_owned()),
        |enrol| enrol.key = STANDARD.encode(key().public_key_raw()),
        |enrol| enrol.proof = STANDARD.encode([0; 32]),
        |enrol| enrol.proof = String::new(),
    ];
    for change in changes {
        let answer = answered(&server, |peer| {
            let mut application = peer.application(node, &key());
            change(&mut application);
            application
        });
        let Message::Refused(refusal) = answer.await else { panic!("taken in") };
        assert_eq!(refusal.code, RefusalCode::WrongSecret);
    }
    let newer = |peer: &Peer| Enrol { version: VERSION + 1, ..peer.application(node, &key()) };
    let Message::Refused(refusal) = answered(&server, newer).await else { panic!("taken in") };
    assert_eq!(refusal.code, RefusalCode::WrongVersion);
}

#[tokio::test]
async fn the_server_proves_the_secret_too() {
    let (_, node) = swarm();
    let server = Server::start(desk_config("this-install")).await;
    let (_, enrolled, binding) = enrolled(&server, node).await;
    let (authority, certificate) =
        (STANDARD.decode(&enrolled.authority).unwrap(), STANDARD.decode(&enrolled.certificate).unwrap());
    let said = |install| Statement::Server {
        authority: &authority,
        certificate: &certificate,
        install,
        time_ms: enrolled.time_ms,
        lives_ms: enrolled.lives_ms,
    };
    let proof = STANDARD.decode(&enrolled.proof).unwrap();
    assert!(secret().is_proof(&proof, &binding, &said("this-install")));
    assert!(!secret().is_proof(&proof, &binding, &said("that-install")));
}

#[tokio::test]
async fn without_a_certificate_of_this_server_there_is_no_line() {
    let (_, node) = swarm();
    let server = Server::start(desk_config(&install())).await;
    let (own, ..) = enrolled(&server, node).await;
    own_line(&server, &own, node).await;
    assert!(line(&server, None, node).await.is_none(), "nobody");
    assert!(line(&server, Some(&own), "n2").await.is_none(), "another node's name");
    let elsewhere = Server::start(desk_config(&install())).await;
    assert!(line(&elsewhere, Some(&own), node).await.is_none(), "another server's certificate");
    let forged = rcgen::generate_simple_self_signed(vec![node.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(forged.signing_key.serialize_der().into());
    assert!(line(&server, Some(&(forged.cert.der().clone(), key)), node).await.is_none(), "one's own");
    // No way round by saying nothing of one's purpose, or by enrolling where a line is asked for.
    assert!(Peer::connect(server.address, "http/1.1", None).await.is_err());
    let mut peer = Peer::connect(server.address, "skep-enrol/1", None).await.unwrap();
    peer.say(hello(node)).await.unwrap();
    assert!(peer.hear().await.is_err());
}

#[tokio::test]
async fn an_expired_certificate_opens_nothing_and_its_lines_take_no_calls() {
    let (_, node) = swarm();
    let lives = Duration::from_secs(10);
    let config = DeskConfig {
        certificate_lives: lives,
        line_within: Duration::from_millis(200),
        ..desk_config(&install())
    };
    let server = Server::start(config).await;
    let (own, ..) = enrolled(&server, node).await;
    let mut peer = own_line(&server, &own, node).await;
    server.sees(node).await;
    tokio::time::sleep(lives + Duration::from_millis(100)).await;
    let asked = server.desk.inspect(node, &"0".repeat(64)).await;
    assert!(asked.is_err());
    assert!(peer.hear().await.is_err(), "its line is closed, not asked");
    assert!(line(&server, Some(&own), node).await.is_none());
}

#[tokio::test]
async fn whatever_else_comes_is_closed() {
    let (_, node) = swarm();
    let server = Server::start(desk_config(&install())).await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(60), plain.read_to_end(&mut rest)).await.expect("closed");

    let mut peer = Peer::connect(server.address, "skep-enrol/1", None).await.unwrap();
    let too_long = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
    peer.stream.write_all(&too_long).await.unwrap();
    peer.stream.flush().await.unwrap();
    assert!(peer.hear().await.is_err());
    // And whoever comes properly is still taken in.
    enrolled(&server, node).await;
}

#[tokio::test]
async fn a_line_given_up_ends_properly_and_serves_the_call_that_crossed_its_end() {
    let (_, node) = swarm();
    let server = Server::start(desk_config(&install())).await;
    let (own, ..) = enrolled(&server, node).await;
    let end = || Message::End { error: None };
    let mut peer = own_line(&server, &own, node).await;
    peer.say(end()).await.unwrap();
    let rest = timeout(Duration::from_secs(60), peer.stream.read(&mut [0; 16])).await.expect("closed");
    assert_eq!(rest.expect("closed with a word"), 0);

    let mut peer = own_line(&server, &own, node).await;
    server.sees(node).await;
    let container = "0".repeat(64);
    let asking = server.desk.inspect(node, &container);
    let serving = async {
        assert!(matches!(peer.hear().await, Ok(Message::Call(_))));
        peer.say(end()).await.unwrap();
        peer.say(Message::Done(Done::Inspect { container: None })).await.unwrap();
    };
    assert_eq!(tokio::join!(asking, serving).0.unwrap(), None);
}

#[tokio::test]
async fn whoever_guesses_or_keeps_silent_holds_up_nobody_who_knows_the_secret() {
    let (_, node) = swarm();
    let server = Server::start(desk_config(&install())).await;
    // From the address the agent has, too.
    let mut held_up = false;
    // One is forgiven in a second.
    for _ in 0..60 {
        let wrong = |peer: &Peer| Enrol { proof: STANDARD.encode([0; 32]), ..peer.application(node, &key()) };
        let Message::Refused(refusal) = answered(&server, wrong).await else { panic!("taken in") };
        held_up |= refusal.code == RefusalCode::TooOften;
    }
    assert!(held_up, "guesses are bounded");
    enrolled(&server, node).await;

    let mut silent: Vec<TcpStream> = Vec::new();
    // At once, that is, before the silent ones are sent away, two seconds after they came; a slow machine may take longer,
    // though not each time.
    let mut at_once = false;
    for _ in 0..5 {
        silent.clear();
        for _ in 0..400 {
            silent.push(TcpStream::connect(server.address).await.unwrap());
        }
        let begun = Instant::now();
        let (own, ..) = enrolled(&server, node).await;
        at_once = begun.elapsed() < Duration::from_secs(1);
        own_line(&server, &own, node).await;
        if at_once {
            break;
        }
    }
    assert!(at_once, "they were waited for");
    for mut silent in silent {
        let end = timeout(Duration::from_secs(60), silent.read(&mut [0; 16])).await.expect("ended in time");
        assert!(matches!(end, Ok(0) | Err(_)));
    }
}

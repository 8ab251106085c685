//! TLS from certificate files, replaced while the edge runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use skep_edge::{Certificates, EdgeError, HostRule, Limits};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Client;
use crate::world::{Setup, World, eventually};

/// Writes a certificate for `localhost` and its key; gives what a client must trust.
fn issue(dir: &Path) -> rustls::pki_types::CertificateDer<'static> {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), issued.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), issued.signing_key.serialize_pem()).unwrap();
    issued.cert.der().clone()
}

fn connector(trusted: rustls::pki_types::CertificateDer<'static>, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn connect(world: &World, connector: &TlsConnector) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(world.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    Ok(Client::over(connector.connect(name, stream).await?))
}

#[tokio::test]
async fn requests_tunnels_and_departures_work_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = issue(dir.path());
    let certificates =
        Certificates::from_files(&dir.path().join("cert.pem"), &dir.path().join("key.pem")).unwrap();
    let setup = Setup { tls: Some(certificates.clone()), hosts: HostRule::Any, ..Setup::default() };
    let world = World::with(setup).await;
    let connector = connector(trusted, &[b"h2", b"http/1.1"]);

    // A held request whose client leaves, seen through TLS.
    world.app.awake.store(false, SeqCst);
    let waiting = || world.handle.status(&"keep".parse().unwrap(), None).waiting;
    let mut stays = connect(&world, &connector).await.unwrap();
    stays.send("GET /keep/stays HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut leaves = connect(&world, &connector).await.unwrap();
    leaves.send("POST /keep/leaves HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello").await;
    eventually("two in the line", || (waiting() == 2).then_some(())).await;
    drop(leaves);
    eventually("one in the line", || (waiting() == 1).then_some(())).await;
    world.app.awake.store(true, SeqCst);
    assert_eq!(stays.answer().await.status, 200);
    assert_eq!(world.seen().len(), 1);
    assert_eq!(world.seen()[0].field("x-forwarded-proto"), Some("https"));
    assert_eq!(stays.stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));

    assert_eq!(stays.get("/keep/big").await.body.len(), 3_000_000);
    stays.send("GET /keep/page HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n").await;
    assert!(stays.answer().await.field("set-cookie").unwrap().ends_with("; Secure"));
    stays.send(crate::tunnels::UPGRADE).await;
    assert_eq!(stays.head().await.status, 101);
    assert_eq!(stays.take(5).await, b"hello");
    let data = vec![b'd'; 1_000_000];
    let echo = async {
        stays.send(&data).await;
        stays
    };
    let mut stays = echo.await;
    assert!(stays.take(data.len()).await == data);
}

#[tokio::test]
async fn a_new_certificate_is_served_at_once_and_a_bad_one_never() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let first = issue(dir.path());
    let certificates = Certificates::from_files(&cert, &key).unwrap();
    let setup = Setup { tls: Some(certificates.clone()), ..Setup::default() };
    let world = World::with(setup).await;
    let old = connector(first, &[]);
    connect(&world, &old).await.unwrap();

    // A key that does not fit, and no certificate at all: what is in use stays in use.
    let other = tempfile::tempdir().unwrap();
    issue(other.path());
    let mismatch = certificates.reload(&cert, &other.path().join("key.pem")).unwrap_err();
    assert!(matches!(mismatch, EdgeError::CertificateContent { .. }), "{mismatch}");
    let missing = certificates.reload(&dir.path().join("none.pem"), &key).unwrap_err();
    assert!(matches!(missing, EdgeError::CertificateFile { .. }), "{missing}");
    let swapped = certificates.reload(&key, &cert).unwrap_err();
    assert!(matches!(swapped, EdgeError::CertificateContent { .. }), "{swapped}");
    connect(&world, &old).await.unwrap();

    let second = issue(dir.path());
    certificates.reload(&cert, &key).unwrap();
    assert!(connect(&world, &old).await.is_err(), "the old certificate is gone");
    let mut client = connect(&world, &connector(second, &[])).await.unwrap();
    assert_eq!(client.get("/_skep/health/live").await.status, 200);
}

#[tokio::test]
async fn plain_http_to_a_tls_port_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let certificates =
        Certificates::from_files(&dir.path().join("cert.pem"), &dir.path().join("key.pem")).unwrap();
    let world = World::with(Setup { tls: Some(certificates), ..Setup::default() }).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let rest = client.rest().await;
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
}

#[tokio::test]
async fn a_handshake_that_stands_still_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let certificates =
        Certificates::from_files(&dir.path().join("cert.pem"), &dir.path().join("key.pem")).unwrap();
    let limits = Limits { head_timeout: Duration::from_secs(1), ..Limits::default() };
    let setup = Setup { tls: Some(certificates), hosts: HostRule::Any, limits, ..Setup::default() };
    let world = World::with(setup).await;
    let mut silent = world.client().await;
    let mut begun = world.client().await;
    // The head of a TLS record that announces a client hello of 512 bytes, and a byte of it.
    begun.send(&b"\x16\x03\x01\x02\x00\x01"[..]).await;
    for client in [&mut silent, &mut begun] {
        let rest = tokio::time::timeout(Duration::from_secs(60), client.rest()).await;
        assert!(rest.expect("the connection's end").is_empty());
    }
}

//! Where an engine listens, and how a connection to it is opened.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// `unix:///var/run/docker.sock`, `tcp://10.0.0.5:2375`, or the latter with TLS ([`Address::with_tls`]).
#[derive(Clone)]
pub struct Address(Kind);

#[derive(Clone)]
enum Kind {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<Arc<ClientConfig>> },
}

/// PEM files of a connection on which both sides show certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may have signed the engine's certificate.
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadAddress {
    #[error(
        "`{0}` is no address of a Docker Engine: write `unix:///var/run/docker.sock` or `tcp://host:port`"
    )]
    Form(String),
    #[error("TLS goes with `tcp://host:port`, not with {0}")]
    NoTls(String),
    #[error("{path} cannot be used for TLS: {reason}", path = path.display())]
    File { path: PathBuf, reason: String },
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Address {
    /// A Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Unix(path.into()))
    }

    /// Its socket; `None` when it is reached over TCP.
    pub fn socket(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Unix(path) => Some(path),
            Kind::Tcp { .. } => None,
        }
    }

    /// The same address, spoken to with TLS; the files are read now.
    ///
    /// # Errors
    /// When the address is a Unix socket, or a file cannot be read or does not fit the others.
    pub fn with_tls(self, files: &TlsFiles) -> Result<Self, BadAddress> {
        let Kind::Tcp { host, port, .. } = self.0 else { return Err(BadAddress::NoTls(self.to_string())) };
        let tls = Some(Arc::new(client_config(files)?));
        Ok(Self(Kind::Tcp { host, port, tls }))
    }

    pub(crate) async fn open(&self) -> io::Result<Box<dyn Io>> {
        match &self.0 {
            Kind::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Kind::Tcp { host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let Some(tls) = tls else { return Ok(Box::new(stream)) };
                let name = ServerName::try_from(host.clone())
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
                Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?))
            }
        }
    }

    /// What goes into `Host`. Go's server refuses what a path would make.
    pub(crate) fn authority(&self) -> String {
        match &self.0 {
            Kind::Unix(_) => "docker".to_owned(),
            Kind::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Kind::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

fn client_config(files: &TlsFiles) -> Result<ClientConfig, BadAddress> {
    let bad = |path: &Path, reason: String| BadAddress::File { path: path.to_owned(), reason };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, BadAddress> {
        let read = CertificateDer::pem_file_iter(path).map_err(|e| bad(path, e.to_string()))?;
        let found: Result<Vec<_>, _> = read.collect();
        let found = found.map_err(|e| bad(path, e.to_string()))?;
        if found.is_empty() { Err(bad(path, "it holds no certificate".to_owned())) } else { Ok(found) }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(|e| bad(&files.ca, e.to_string()))?;
    }
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| bad(&files.key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&files.cert, e.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| bad(&files.cert, e.to_string()))
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress::Form(text.chars().take(120).collect());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::unix(path)) } else { Err(bad()) };
        }
        let rest = text.strip_prefix("tcp://").ok_or_else(bad)?;
        let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':').ok_or_else(bad)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(good) {
            return Err(bad());
        }
        let port = port.parse().map_err(|_| bad())?;
        Ok(Self(Kind::Tcp { host: host.to_owned(), port, tls: None }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Unix(path) => write!(f, "unix://{}", path.display()),
            Kind::Tcp { .. } => write!(f, "tcp://{}", self.authority()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, authority) in [
            ("unix:///run/docker.sock", "docker"),
            ("tcp://10.0.0.5:2375", "10.0.0.5:2375"),
            ("tcp://[::1]:2376", "[::1]:2376"),
            ("tcp://engine.example:2376", "engine.example:2376"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.authority(), authority);
        }
        for bad in [
            "",
            "/run/docker.sock",
            "unix://run",
            "tcp://a",
            "tcp://:1",
            "tcp://a:x",
            "tcp://a b:1",
            "ssh://a",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        let files = TlsFiles { ca: "/x".into(), cert: "/x".into(), key: "/x".into() };
        assert!(matches!(Address::unix("/s").with_tls(&files), Err(BadAddress::NoTls(_))));
        let tcp: Address = "tcp://a:1".parse().unwrap();
        assert!(tcp.with_tls(&files).unwrap_err().to_string().starts_with("/x cannot be used"));
    }
}

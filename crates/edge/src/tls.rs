//! TLS: certificates that can be replaced while connections come in.
//!
//! The seam for automatic certificates: whoever obtains them calls [`Certificates::replace`]. ALPN offers HTTP/1.1 only.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::EdgeError;

/// The certificate in use. Clones share it: a replacement is seen by every listener at its next handshake.
#[derive(Clone)]
pub struct Certificates {
    current: Arc<ArcSwap<CertifiedKey>>,
}

impl Certificates {
    /// Reads a certificate chain and its key, both PEM.
    ///
    /// # Errors
    /// When a file cannot be read, holds no certificate or key, or the two do not belong together.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, EdgeError> {
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(read(chain, key)?)) })
    }

    /// Reads the files again. On an error the certificate in use stays.
    ///
    /// # Errors
    /// As [`Certificates::from_files`].
    pub fn reload(&self, chain: &Path, key: &Path) -> Result<(), EdgeError> {
        self.replace(read(chain, key)?);
        Ok(())
    }

    pub fn replace(&self, key: CertifiedKey) {
        self.current.store(Arc::new(key));
    }

    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>, EdgeError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Two tickets are the default; browsers keep using both, others one.
        config.send_tls13_tickets = 2;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(chain: &Path, key: &Path) -> Result<CertifiedKey, EdgeError> {
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| explain(chain, error, "no readable certificate in it (expected PEM)"))?;
    if certificates.is_empty() {
        return Err(explain(chain, pem::Error::NoItemsFound, "no certificate in it (expected PEM)"));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| explain(key, error, "no readable private key in it (expected PEM)"))?;
    let certified = CertifiedKey::from_der(certificates, private, &aws_lc_rs::default_provider());
    certified.map_err(|error| EdgeError::CertificateContent {
        path: key.to_owned(),
        what: format!("the key does not fit the certificate in {}: {error}", chain.display()),
    })
}

fn explain(path: &Path, error: pem::Error, what: &str) -> EdgeError {
    match error {
        pem::Error::Io(source) => EdgeError::CertificateFile { path: path.to_owned(), source },
        _ => EdgeError::CertificateContent { path: path.to_owned(), what: what.to_owned() },
    }
}

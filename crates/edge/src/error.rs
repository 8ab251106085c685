//! What can go wrong when the edge starts or changes.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("no listening socket was given; set `listen` in the config")]
    NoListener,
    #[error("cannot use the listening socket `{name}`: {source}")]
    Listener { name: String, source: io::Error },
    #[error("cannot start an event loop: {0}")]
    Thread(io::Error),
    #[error("cannot read {}: {source}", path.display())]
    CertificateFile { path: PathBuf, source: io::Error },
    #[error("{}: {what}", path.display())]
    CertificateContent { path: PathBuf, what: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the edge is stopped")]
    Stopped,
}

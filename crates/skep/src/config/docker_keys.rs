//! `[docker]`: the engine that runs apps with an `image`.

use std::path::{Path, PathBuf};

use skep_backends::docker::{DialBy, DockerConfig};
use skep_docker::{Address, BadAddress, TlsFiles};

use super::document::Section;

/// Docker's own variable for it, used when the config names no engine.
const HOST_VARIABLE: &str = "DOCKER_HOST";
/// Where an engine listens usually.
const SOCKET: &str = "/var/run/docker.sock";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DockerKeys {
    host: Option<String>,
    tls: Option<TlsFiles>,
    dial: Option<DialBy>,
    network: Option<String>,
}

impl DockerKeys {
    pub(crate) fn read(mut section: Section<'_, '_>, base: &Path) -> Self {
        let host = "write \"unix:///var/run/docker.sock\" or \"tcp://127.0.0.1:2376\"";
        let keys = Self {
            host: section.parsed("host", host, |text| {
                text.parse::<Address>().map(|_| text.to_owned()).map_err(|error| error.to_string())
            }),
            tls: section.section("tls").and_then(|section| tls(section, base)),
            dial: section.parsed("dial", "write \"address\" or \"port\"", |text| match text {
                "address" => Ok(DialBy::Address),
                "port" => Ok(DialBy::Port),
                _ => Err(format!("is \"{text}\"")),
            }),
            network: section.parsed("network", "name a network of the engine, or one to be made", network),
        };
        section.finish();
        keys
    }

    fn host(&self) -> Option<String> {
        let variable = || std::env::var(HOST_VARIABLE).ok().filter(|value| !value.is_empty());
        self.host.clone().or_else(variable)
    }

    /// The engine's socket, when another than the usual one is named.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        let address: Address = self.host()?.parse().ok()?;
        address.socket().map(Path::to_owned)
    }

    /// The engine's address.
    ///
    /// # Errors
    /// When it, or a file for TLS, cannot be used.
    pub(crate) fn address(&self) -> Result<Address, BadAddress> {
        let address = match self.host() {
            Some(host) => host.parse()?,
            None => Address::unix(SOCKET),
        };
        match &self.tls {
            Some(tls) => address.with_tls(tls),
            None => Ok(address),
        }
    }

    /// # Errors
    /// When the engine's address or a file for TLS cannot be used.
    pub(crate) fn config(&self, data_dir: PathBuf) -> Result<DockerConfig, BadAddress> {
        let mut config = DockerConfig { address: self.address()?, ..DockerConfig::new(data_dir) };
        config.dial = self.dial.unwrap_or_default();
        if let Some(network) = &self.network {
            config.network.clone_from(network);
        }
        Ok(config)
    }
}

pub(super) fn tls(mut section: Section<'_, '_>, base: &Path) -> Option<TlsFiles> {
    let mut file = |key: &'static str| {
        let file = section.text(key).map(|text| base.join(text));
        if file.is_none() && !section.is_set(key) {
            section.report("", format!("has no `{key}`"), "name the files `ca`, `cert` and `key`");
        }
        file
    };
    let files = (file("ca"), file("cert"), file("key"));
    section.finish();
    match files {
        (Some(ca), Some(cert), Some(key)) => Some(TlsFiles { ca, cert, key }),
        _ => None,
    }
}

pub(super) fn network(text: &str) -> Result<String, String> {
    let word = text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    match text {
        "host" | "none" | "bridge" => {
            Err(format!("is \"{text}\", in which instances reach each other or nothing"))
        }
        _ if word => Ok(text.to_owned()),
        _ => Err(format!("is \"{text}\", which is no name of a network")),
    }
}

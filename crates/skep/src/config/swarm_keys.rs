//! `[swarm]`: the Docker Swarm that runs apps with an `image`, and the agents on its nodes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use skep_backends::swarm::SwarmConfig;
use skep_docker::{Address, BadAddress, Engine, Managers, TlsFiles};

use super::docker_keys::{DockerKeys, network, tls};
use super::document::Section;

/// Where agents call in when nothing is said.
const AGENT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 7443);
/// Longest name of an installation.
const INSTALL_BYTES: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SwarmKeys {
    managers: Vec<String>,
    tls: Option<TlsFiles>,
    network: Option<String>,
    install: Option<String>,
    pub(crate) agent_listen: SocketAddr,
    pub(crate) join_secret_file: PathBuf,
    pub(crate) host_agents: bool,
}

impl SwarmKeys {
    pub(crate) fn read(mut section: Section<'_, '_>, base: &Path) -> Option<Self> {
        let managers = "write `managers = [\"tcp://10.0.0.1:2376\", \"tcp://10.0.0.2:2376\"]`, or leave it out for this machine's";
        let address = |text: &str| match text.parse::<Address>() {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let managers = section.parsed_list("managers", managers, address);
        let file = section.text("join_secret_file").map(|text| base.join(text));
        if file.is_none() && !section.is_set("join_secret_file") {
            let mend = "make one with `(umask 077; openssl rand -hex 32 > /etc/skep/join-secret)`, give the same file \
                        to every agent, and name it: `join_secret_file = \"/etc/skep/join-secret\"`";
            section.report("", "has no `join_secret_file`, which agents prove themselves with", mend);
        }
        let keys = Self {
            managers: managers.unwrap_or_default(),
            tls: section.section("tls").and_then(|section| tls(section, base)),
            network: section.parsed("network", "name a network of the Swarm, or one to be made", network),
            install: section.parsed(
                "install",
                "write a short name that no other Skep on this Swarm has",
                install,
            ),
            agent_listen: section
                .parsed("agent_listen", "write an address and port like \"0.0.0.0:7443\"", str::parse)
                .unwrap_or(AGENT_LISTEN),
            join_secret_file: file.clone().unwrap_or_default(),
            host_agents: section.flag("host_agents").unwrap_or(false),
        };
        section.finish();
        file.map(|_| keys)
    }

    /// The engines of the managers; the one of `[docker]` when none is named.
    ///
    /// # Errors
    /// When an address or a file for TLS cannot be used.
    pub(crate) fn managers(&self, docker: &DockerKeys) -> Result<Managers, BadAddress> {
        if self.managers.is_empty() {
            return Ok(Managers::new(vec![Engine::new(docker.address()?)]));
        }
        let engine = |text: &String| {
            let address: Address = text.parse()?;
            let remote = address.socket().is_none();
            Ok(Engine::new(match &self.tls {
                Some(tls) if remote => address.with_tls(tls)?,
                _ => address,
            }))
        };
        Ok(Managers::new(self.managers.iter().map(engine).collect::<Result<_, _>>()?))
    }

    pub(crate) fn config(&self, data_dir: PathBuf, managers: Managers) -> SwarmConfig {
        let mut config = SwarmConfig::new(data_dir, managers);
        if let Some(network) = &self.network {
            config.network.clone_from(network);
        }
        if let Some(install) = &self.install {
            config.install.clone_from(install);
        }
        config
    }
}

fn install(text: &str) -> Result<String, String> {
    let word = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= INSTALL_BYTES
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if word { Ok(text.to_owned()) } else { Err(format!("is \"{text}\"")) }
}

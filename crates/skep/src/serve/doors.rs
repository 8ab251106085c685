//! What the edge is to listen at, and whom it is to believe.

use skep_edge::{Certificates, ConsoleHost, EdgeConfig, HostRule, ListenSocket, ListenerConfig};

use super::listen::{self, Listening};
use crate::cli::ServeArgs;
use crate::config::Config;
use crate::config::auth_keys::Provider;

pub(super) fn edge_config(
    config: &Config,
    args: &ServeArgs,
    certificates: Option<Certificates>,
    listening: &Listening,
) -> anyhow::Result<EdgeConfig> {
    let server = &config.server;
    let mut listeners = Vec::new();
    for bound in &listening.public {
        listeners.push(ListenerConfig {
            name: if certificates.is_some() { "https" } else { "http" }.to_owned(),
            socket: ListenSocket::Tcp(bound.listener.try_clone()?),
            tls: certificates.clone(),
            trust_peers: false,
        });
    }
    for relay in &listening.relays {
        listeners.push(ListenerConfig {
            name: "relay".to_owned(),
            socket: ListenSocket::Unix(relay.try_clone()?),
            tls: None,
            trust_peers: true,
        });
    }
    let mut also = server.allowed_hosts.clone();
    also.extend(server.public_url.as_ref().map(|url| url.host().to_owned()));
    also.extend(server.console_host.clone());
    let console = server
        .console_host
        .clone()
        .map(|host| ConsoleHost { host, public_url: server.public_url.as_ref().map(|url| url.0.clone()) });
    let usual = skep_edge::Limits::default();
    Ok(EdgeConfig {
        listeners,
        threads: server.workers.map_or(0, |workers| workers as usize),
        limits: skep_edge::Limits {
            connections: server.limits.max_connections as usize,
            head_timeout: server.limits.header_timeout,
            body_stall: server.limits.body_timeout,
            head_bytes: usize::try_from(server.limits.max_header_bytes).unwrap_or(usual.head_bytes),
            ..usual
        },
        trusted_proxies: server.trusted_proxies.clone(),
        hosts: match server.auth.provider {
            Provider::None if !args.insecure_no_auth => HostRule::Loopback { also },
            _ => HostRule::Any,
        },
        console,
        access_log: listen::access_log(server)?,
    })
}

//! The server's own config file: `[server]`, `[auth]`, `[docker]`, `[swarm]`, `[[sites]]`, `[defaults]`, `[apps.<id>]`, `[routes.<id>]`,
//! `[portal]`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_control::PortalConfig;
use skep_control::services::ServiceAsk;
use skep_edge::Cidr;
use skep_model::{AppId, Mount};

use super::app_keys::{AppKeys, origin};
use super::auth_keys::{AuthKeys, auth};
use super::docker_keys::DockerKeys;
use super::document::{Document, Placed, Section};
use super::portal_keys;
use super::problem::Problems;
use super::route_keys;
use super::swarm_keys::SwarmKeys;

/// Where Skep listens when nothing is said.
pub(crate) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// The file, checked, with its layers still apart.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerFile {
    pub(crate) server: ServerKeys,
    pub(crate) sites: Vec<SiteKeys>,
    pub(crate) defaults: AppKeys,
    pub(crate) apps: Vec<(Placed<AppId>, AppKeys)>,
    pub(crate) routes: Vec<ServiceAsk>,
    pub(crate) portal: PortalConfig,
}

/// `[server]` and `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerKeys {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) public_url: Option<PublicUrl>,
    /// Addresses or networks (`10.0.0.0/8`) whose `X-Forwarded-*` headers are believed.
    pub(crate) trusted_proxies: Vec<Cidr>,
    /// Further host names a server without a login answers to, beside loopback's.
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) console_host: Option<String>,
    pub(crate) cookie_key_file: Option<PathBuf>,
    pub(crate) tls: Option<TlsKeys>,
    pub(crate) access_log: AccessLogFormat,
    pub(crate) access_log_file: Option<PathBuf>,
    /// Event loops; `None`: one per core.
    pub(crate) workers: Option<u32>,
    /// Instances of all apps together.
    pub(crate) max_instances: u32,
    /// Starts at a time; `None`: twice the cores.
    pub(crate) max_starting: Option<u32>,
    /// `sqlite` file or `postgres://` URL; `None`: a file in the data folder.
    pub(crate) database: Option<String>,
    /// How long the journal is kept.
    pub(crate) journal_retention: Duration,
    /// How long a link to somebody's own instance counts; zero: nobody shares.
    pub(crate) share_lifetime: Duration,
    pub(crate) limits: EdgeLimits,
    pub(crate) auth: AuthKeys,
    pub(crate) docker: DockerKeys,
    /// `None`: there is no Swarm.
    pub(crate) swarm: Option<SwarmKeys>,
}

impl Default for ServerKeys {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            admin_listen: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            allowed_hosts: Vec::new(),
            console_host: None,
            cookie_key_file: None,
            tls: None,
            access_log: AccessLogFormat::Off,
            access_log_file: None,
            workers: None,
            max_instances: 200,
            max_starting: None,
            database: None,
            journal_retention: Duration::from_secs(90 * 86_400),
            share_lifetime: Duration::from_secs(86_400),
            limits: EdgeLimits::default(),
            auth: AuthKeys::default(),
            docker: DockerKeys::default(),
            swarm: None,
        }
    }
}

/// `[server.limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EdgeLimits {
    pub(crate) max_connections: u32,
    pub(crate) header_timeout: Duration,
    /// A request body that makes no progress for this long is given up.
    pub(crate) body_timeout: Duration,
    pub(crate) max_header_bytes: u64,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            max_header_bytes: 64 << 10,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsKeys {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AccessLogFormat {
    Json,
    Common,
    #[default]
    Off,
}

/// `https://apps.example.org`, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicUrl(pub(crate) String);

impl PublicUrl {
    /// The host name, without a port.
    pub(crate) fn host(&self) -> &str {
        let authority = self.0.split("://").nth(1).unwrap_or_default();
        match authority.rfind(':') {
            Some(colon) if !authority.ends_with(']') => &authority[..colon],
            _ => authority,
        }
    }
}

/// One `[[sites]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SiteKeys {
    pub(crate) path: PathBuf,
    /// `None`: `/` for an app; `/<folder>/` each for a folder of apps.
    pub(crate) mount: Option<Placed<Mount>>,
}

impl ServerFile {
    /// Reads and checks the file's text. Relative file names count from the file's folder.
    ///
    /// # Errors
    /// Everything wrong with it.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, Problems> {
        let document = Document::parse(file, text)?;
        let base = file.parent().unwrap_or(Path::new("."));
        let mut root = document.root();
        let mut read = Self::default();
        if let Some(section) = root.section("server") {
            read.server = server(section, base);
        }
        if let Some(section) = root.section("auth") {
            read.server.auth = auth(section);
        }
        if let Some(section) = root.section("docker") {
            read.server.docker = DockerKeys::read(section, base);
        }
        if let Some(section) = root.section("swarm") {
            read.server.swarm = SwarmKeys::read(section, base);
        }
        for mut section in root.sections("sites") {
            read.sites.extend(site(&mut section, base));
            section.finish();
        }
        if let Some(mut section) = root.section("defaults") {
            read.defaults = AppKeys::read(&mut section, base);
            for key in ["title", "description", "icon", "command", "framework", "image"] {
                if section.is_set(key) {
                    section.report(
                        key,
                        "belongs to one app and cannot be a default",
                        "set it in `[apps.<id>]`",
                    );
                }
            }
            section.finish();
        }
        for (name, mut section) in root.named_sections("apps") {
            let keys = AppKeys::read(&mut section, base);
            match name.value.parse::<AppId>() {
                Ok(id) => {
                    let placed = Placed { value: id, file: name.file, at: name.at, key: name.key };
                    read.apps.push((placed, keys));
                }
                Err(error) => section.report("", error.to_string(), ""),
            }
            section.finish();
        }
        for (name, mut section) in root.named_sections("routes") {
            match name.value.parse::<AppId>() {
                Ok(id) => read.routes.extend(route_keys::route(&mut section, id)),
                Err(error) => section.report("", error.to_string(), ""),
            }
            section.finish();
        }
        if let Some(section) = root.section("portal") {
            read.portal = portal_keys::portal(section, base);
        }
        root.finish();
        match document.into_problems() {
            problems if problems.is_empty() => Ok(read),
            problems => Err(Problems(problems)),
        }
    }
}

fn server(mut section: Section<'_, '_>, base: &Path) -> ServerKeys {
    let defaults = ServerKeys::default();
    let file = |text: String| base.join(text);
    let address = "write an address and port like \"127.0.0.1:8080\" or \"[::]:443\"";
    let keys = ServerKeys {
        listen: section.parsed_list("listen", address, listen_address).unwrap_or_default(),
        admin_listen: section.parsed("admin_listen", address, listen_address),
        public_url: section.parsed("public_url", "write `https://host` or `https://host:port`", |text| {
            origin(text.strip_suffix('/').unwrap_or(text)).map(PublicUrl)
        }),
        trusted_proxies: section
            .parsed_list("trusted_proxies", "write an address or a network like \"10.0.0.0/8\"", network)
            .unwrap_or_default(),
        allowed_hosts: section
            .parsed_list("allowed_hosts", "write a host name like \"apps.example.org\"", host_name)
            .unwrap_or_default(),
        console_host: section.parsed(
            "console_host",
            "write a host name like \"console.example.org\", without a port",
            |text| match host_name(text) {
                Ok(host) if host.contains(':') => Err(format!("is \"{text}\", which has a port")),
                other => other,
            },
        ),
        cookie_key_file: section.text("cookie_key_file").map(file),
        access_log: section
            .parsed("access_log", "write \"json\", \"common\" or \"off\"", access_log)
            .unwrap_or_default(),
        access_log_file: section.text("access_log_file").map(file),
        workers: section.whole("workers", 1, 1024),
        max_instances: section.whole("max_instances", 1, 1_000_000).unwrap_or(defaults.max_instances),
        max_starting: section.whole("max_starting", 1, 10_000),
        database: section.text("database"),
        journal_retention: section
            .positive_duration("journal_retention")
            .unwrap_or(defaults.journal_retention),
        share_lifetime: section.duration("share_lifetime").unwrap_or(defaults.share_lifetime),
        tls: section.section("tls").and_then(|section| tls(section, base)),
        limits: section.section("limits").map(limits).unwrap_or_default(),
        auth: AuthKeys::default(),
        docker: DockerKeys::default(),
        swarm: None,
    };
    section.finish();
    keys
}

fn tls(mut section: Section<'_, '_>, base: &Path) -> Option<TlsKeys> {
    let cert = section.text("cert").map(|text| base.join(text));
    let key = section.text("key").map(|text| base.join(text));
    let keys = match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsKeys { cert, key }),
        (Some(_), None) => {
            section.report("cert", "has no `tls.key` beside it", "name the file of its private key");
            None
        }
        (None, Some(_)) => {
            section.report("key", "has no `tls.cert` beside it", "name the file of the certificate chain");
            None
        }
        (None, None) => None,
    };
    section.finish();
    keys
}

fn limits(mut section: Section<'_, '_>) -> EdgeLimits {
    let defaults = EdgeLimits::default();
    let limits = EdgeLimits {
        max_connections: section.whole("max_connections", 1, 10_000_000).unwrap_or(defaults.max_connections),
        header_timeout: section.positive_duration("header_timeout").unwrap_or(defaults.header_timeout),
        body_timeout: section.positive_duration("body_timeout").unwrap_or(defaults.body_timeout),
        max_header_bytes: section.size("max_header_bytes").unwrap_or(defaults.max_header_bytes),
    };
    if !(8 << 10..=16 << 20).contains(&limits.max_header_bytes) {
        section.report("max_header_bytes", "is out of bounds", "write a size from \"8KiB\" to \"16MiB\"");
    }
    section.finish();
    limits
}

fn site(section: &mut Section<'_, '_>, base: &Path) -> Option<SiteKeys> {
    let path = section.text("path").map(|text| base.join(text));
    let mount = section.placed("mount", "write \"/\" or \"/name/\"", |value| {
        let text = value.as_str().ok_or("is no text")?;
        mount(text)
    });
    if path.is_none() && !section.is_set("path") {
        section.report("", "has no `path`", "name an app's folder, or a folder of apps");
    }
    Some(SiteKeys { path: path?, mount })
}

/// `/` or `/<id>/`, the slash at the end optional.
pub(crate) fn mount(text: &str) -> Result<Mount, String> {
    let wrong = || format!("is \"{text}\"");
    let inner = text.strip_prefix('/').ok_or_else(wrong)?;
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return Ok(Mount::root());
    }
    inner.parse::<AppId>().map(|id| Mount::of(&id)).map_err(|_| {
        format!("is \"{text}\"; a mount has one part made of a-z, 0-9, `_` and `-`, starting with a letter or a digit")
    })
}

/// An address with a port; `localhost:8080` and a bare port mean loopback.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match text.strip_prefix("localhost:").unwrap_or(text).parse::<u16>() {
        Ok(port) => Ok(SocketAddr::new(DEFAULT_LISTEN.ip(), port)),
        Err(_) => Err(format!("is \"{text}\", which is no address with a port")),
    }
}

fn network(text: &str) -> Result<Cidr, String> {
    text.parse().map_err(|_| format!("is \"{text}\", which is no address or network"))
}

fn host_name(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let good = !lower.is_empty()
        && lower.len() <= 253
        && lower
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':'));
    if good { Ok(lower) } else { Err(format!("is \"{text}\", which is no host name")) }
}

fn access_log(text: &str) -> Result<AccessLogFormat, String> {
    match text {
        "json" => Ok(AccessLogFormat::Json),
        "common" => Ok(AccessLogFormat::Common),
        "off" => Ok(AccessLogFormat::Off),
        _ => Err(format!("is \"{text}\"")),
    }
}

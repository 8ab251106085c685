//! What is published.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{AppId, Choice, Framework, Icon, Image, InstanceName, Parameters, Prefix, Variant, fill_in};

/// One published app, fully checked: defaults applied, paths absolute, nothing left to parse.
///
/// A spec is immutable. When the folder or the config changes, a new spec with a new [`Revision`] takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSpec {
    pub id: AppId,
    /// Where the app's URLs begin.
    pub mount: Mount,
    pub title: String,
    pub description: String,
    pub icon: Option<Icon>,
    /// The part of the portal it is listed in.
    pub section: Option<String>,
    pub framework: Framework,
    pub prefix: Prefix,
    pub source: Source,
    pub backend: BackendKind,
    /// Changes whenever new visitors must get a new instance.
    pub revision: Revision,
    /// Replaces the framework's own launch command. Holds the placeholders `{port}`, `{socket}`, `{base_path}`,
    /// `{user}`, `{groups}`, `{app}`, `{instance}` unexpanded.
    pub command: Option<Vec<String>>,
    /// Plain environment variables, with the same placeholders.
    pub env: BTreeMap<String, String>,
    /// Environment variable → the file its value is read from at launch.
    pub secrets: BTreeMap<String, SecretFile>,
    /// Visitors one instance takes at a time; at least 1.
    pub seats: u32,
    /// Seats kept free and warm, whether or not anybody is there.
    pub min_seats: u32,
    /// Instances at a time, including those starting and draining; at least 1. When all of them are on their way out
    /// (the app has changed, say), one replacement may overlap.
    pub max_instances: u32,
    /// One instance per user: nobody shares.
    pub per_user: bool,
    /// With `per_user`: how many of them one person may have at a time, each under a name of its own; at least 1.
    pub max_instances_per_user: u32,
    /// With `per_user`: a user's instance ends when they log out.
    pub stop_on_logout: bool,
    /// What their owner chooses before an instance starts; with `per_user` only.
    pub parameters: Parameters,
    /// From the order to start until the first good answer. The building of the app's environment does not count.
    pub start_timeout: Duration,
    /// An instance nobody holds a seat on is stopped after this long.
    pub idle_timeout: Duration,
    /// A seat whose open connections carried nothing from the visitor for this long is taken back. `None`: never.
    pub inactivity_timeout: Option<Duration>,
    /// An instance this old is drained. `None`: never.
    pub max_lifetime: Option<Duration>,
    /// Claims that may wait for a seat; the next one is refused.
    pub max_waiting: u32,
    pub health: Health,
    pub access: Access,
    /// Further origins (`https://host[:port]`) whose pages may open WebSockets to this app.
    pub allowed_origins: Vec<String>,
    pub limits: Limits,
    /// The operating-system user instances run as. `None`: the user Skep runs as.
    pub run_as: Option<String>,
    pub hold: Hold,
}

impl AppSpec {
    /// Where the URLs of an instance of this name begin: `/sales~north/` beside `/sales/`.
    pub fn mount_of(&self, name: Option<&InstanceName>) -> Mount {
        name.map_or_else(|| self.mount.clone(), |name| Mount(format!("{}{name}/", self.named_stem())))
    }

    /// What comes before the name: `/sales~`. An app at `/` is called by its id.
    pub fn named_stem(&self) -> String {
        let sign = InstanceName::SIGN;
        match self.mount.base_path() {
            "" => format!("/{}{sign}", self.id),
            base => format!("{base}{sign}"),
        }
    }

    /// What an instance of this variant is made from: an address of its own, and what was chosen for it.
    pub fn of_variant(self: &Arc<Self>, variant: &Variant) -> Arc<Self> {
        if variant.name.is_none() && variant.chosen.is_empty() {
            return Arc::clone(self);
        }
        let mut spec = Self::clone(self);
        spec.choose(&variant.chosen);
        if let Some(name) = &variant.name {
            spec.mount = self.mount_of(Some(name));
            spec.title = format!("{} · {name}", self.title);
            if spec.prefix == Prefix::Keep
                && let Some(rest) = self.health.path.strip_prefix(self.mount.as_str())
            {
                spec.health.path = format!("{}{rest}", spec.mount);
            }
        }
        Arc::new(spec)
    }

    fn choose(&mut self, chosen: &Choice) {
        for text in self.command.iter_mut().flatten().chain(self.env.values_mut()) {
            *text = fill_in(text, chosen);
        }
        if let Source::Image(image) = &mut self.source {
            image.name = fill_in(&image.name, chosen);
        }
    }
}

/// A file a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    pub path: PathBuf,
    /// Set when somebody named it who does not thereby read with Skep's rights.
    pub bound: Option<Bound>,
}

/// What a file must be that is opened for somebody else. It holds for what the path leads to when it is opened: links may
/// have changed since the config was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The folder it lies in, all links followed.
    pub within: PathBuf,
    /// The user it belongs to.
    pub owner: u32,
}

impl<P: Into<PathBuf>> From<P> for SecretFile {
    fn from(path: P) -> Self {
        Self { path: path.into(), bound: None }
    }
}

/// The start timeout when nothing is configured.
pub fn default_start_timeout() -> Duration {
    Duration::from_secs(60)
}

/// Where an app's code comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder on this machine and the entry file in it (`app.py`), when the framework has one.
    Folder { dir: PathBuf, entry: Option<String> },
    /// A container image.
    Image(Box<Image>),
    /// A Swarm's service of this name. Its tasks are not ours to start or stop.
    Service(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    Process,
    Docker,
    Swarm,
}

/// The path something is published under, always with both slashes: `/` or `/<segment>/` for an app, a service of a Swarm may
/// have one of several parts (`/team/shop/`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mount(String);

impl Mount {
    /// The whole site.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// `/<app>/`
    pub fn of(app: &AppId) -> Self {
        Self(format!("/{app}/"))
    }

    /// `/<part>/<part>/…`, each part written as an id is; the slash at its end may be missing. `None`: it is no such path, or
    /// has more than [`Mount::MOST_PARTS`].
    pub fn of_path(path: &str) -> Option<Self> {
        let inner = path.strip_prefix('/')?;
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if inner.is_empty() {
            return (path == "/").then(Self::root);
        }
        let parts = inner.split('/');
        let plain = parts.clone().all(|part| part.parse::<AppId>().is_ok());
        (plain && parts.count() <= Self::MOST_PARTS).then(|| Self(format!("/{inner}/")))
    }

    /// Parts of a path, at most.
    pub const MOST_PARTS: usize = 8;

    /// With the slash at its end: `/` or `/sales/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the slash at its end: `` or `/sales`. What frameworks want as a base path or prefix.
    pub fn base_path(&self) -> &str {
        self.0.strip_suffix('/').unwrap_or_default()
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A fingerprint of everything that makes an instance what it is: entry file, requirements, config, `restart.txt`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{:016x}", self.0)
    }
}

/// How an instance shows that it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The path asked for, as the app sees it (the mount path included when the prefix is kept). Starts with `/`.
    pub path: String,
    /// `false`: any HTTP answer below 500 counts. `true`: only 2xx and 3xx do.
    pub strict: bool,
}

/// Who may open the app.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    pub users: Vec<String>,
    pub groups: Vec<String>,
    /// Everybody, logged in or not.
    pub anyone: bool,
}

/// What one instance may use. `None`: no limit of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// What a page load gets while the app starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// The launch page.
    #[default]
    Page,
    /// Nothing until the app answers.
    Wait,
}

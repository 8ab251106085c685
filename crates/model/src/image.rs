//! What is published from a container image, and how its containers are made.

use std::collections::BTreeMap;

/// An image and what its containers get beyond what every instance has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `registry/path:tag`, checked by whoever fetches it.
    pub name: String,
    /// Where the app listens inside. `None`: the one port the image exposes.
    pub port: Option<u16>,
    pub pull: Pull,
    /// Replaces the image's entry point; `AppSpec::command` replaces its command.
    pub entrypoint: Option<Vec<String>>,
    /// `name`, `uid` or `uid:gid` inside the container. `None`: what the image says.
    pub user: Option<String>,
    pub mounts: Vec<BindMount>,
    /// Of the volumes in `mounts`, those that are not the engine's own kind.
    pub volumes: BTreeMap<String, Volume>,
    /// Put on the container besides Skep's own.
    pub labels: BTreeMap<String, String>,
    /// Of this machine.
    pub gpus: Option<Gpus>,
    /// Configs of the Swarm, as files.
    pub configs: Vec<ConfigFile>,
    /// Networks joined besides Skep's own.
    pub networks: Vec<String>,
    /// Kernel capabilities given back to it; all are taken away.
    pub capabilities: Vec<String>,
    /// Nothing in the container can be written to but `/tmp`, `/run` and what is mounted.
    pub read_only: bool,
    /// A tiny first process that passes on signals and reaps. Off for images that bring their own.
    pub init: bool,
    /// Which nodes of a Swarm run it.
    pub placement: Placement,
    /// What a node of a Swarm must have left for it.
    pub reserve: Reserve,
}

/// Where a Swarm runs an app's instances.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// `node.labels.disk == ssd`: all of them hold.
    pub constraints: Vec<String>,
    /// `node.labels.rack`: spread over its values, the first matters most.
    pub preferences: Vec<String>,
}

/// What is set aside for one instance. `None`: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reserve {
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    /// How many of what nodes were told that they have (`node-generic-resources`): GPUs, licences.
    pub resources: BTreeMap<String, u32>,
}

/// Where a volume's data is, when its engine does not keep it: on a file server for example.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Volume {
    /// `local`, or the name of a plugin.
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

/// The GPUs a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    All,
    Count(u32),
    /// By index or UUID.
    Devices(Vec<String>),
}

/// A config of the Swarm that is a file in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its name in the Swarm.
    pub name: String,
    /// Absolute, inside.
    pub target: String,
}

/// A folder, file or volume shown inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// An absolute path of the host, or a volume's name.
    pub source: String,
    /// Absolute, inside.
    pub target: String,
    pub read_only: bool,
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// When it is not there.
    #[default]
    Missing,
    /// Before every start, so that a moved tag is noticed.
    Always,
    /// Never: it was put there by other means.
    Never,
}

impl Image {
    /// With nothing said but its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            port: None,
            pull: Pull::default(),
            entrypoint: None,
            user: None,
            mounts: Vec::new(),
            volumes: BTreeMap::new(),
            labels: BTreeMap::new(),
            gpus: None,
            configs: Vec::new(),
            networks: Vec::new(),
            capabilities: Vec::new(),
            read_only: false,
            init: true,
            placement: Placement::default(),
            reserve: Reserve::default(),
        }
    }
}

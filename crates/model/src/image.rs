//! What is published from a container image, and how its containers are made.

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
    /// Networks joined besides Skep's own.
    pub networks: Vec<String>,
    /// Kernel capabilities given back to it; all are taken away.
    pub capabilities: Vec<String>,
    /// Nothing in the container can be written to but `/tmp`, `/run` and what is mounted.
    pub read_only: bool,
    /// A tiny first process that passes on signals and reaps. Off for images that bring their own.
    pub init: bool,
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
            networks: Vec::new(),
            capabilities: Vec::new(),
            read_only: false,
            init: true,
        }
    }
}

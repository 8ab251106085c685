//! `container.*`: what the containers of an app with an `image` get beyond what every instance has.

use std::path::{Component, Path};

use skep_model::{BindMount, Image, Pull};

use super::document::{Placed, Section, read_texts};
use super::problem::Problem;

const ENGINE: &str = "whoever has the engine's socket has the whole machine";

/// One layer of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerKeys {
    /// Where the table stands, when there is one.
    pub(crate) at: Option<Placed<()>>,
    port: Option<u32>,
    pull: Option<Pull>,
    entrypoint: Option<Vec<String>>,
    user: Option<String>,
    mounts: Option<Placed<Vec<BindMount>>>,
    networks: Option<Placed<Vec<String>>>,
    capabilities: Option<Placed<Vec<String>>>,
    read_only: Option<bool>,
    init: Option<bool>,
}

impl ContainerKeys {
    /// Reads `container` in a section; relative paths of the host count from `base`.
    pub(crate) fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let at = section.placed("container", "", |_| Ok(()));
        let Some(mut table) = section.section("container") else { return Self::default() };
        let mounts = "write `mounts = [\"/srv/data:/data:ro\", \"volume:/var/lib/app\"]`";
        let keys = Self {
            at,
            port: table.whole("port", 1, 65_535),
            pull: table.parsed("pull", "write \"missing\", \"always\" or \"never\"", pull),
            entrypoint: table.texts("entrypoint"),
            user: table.parsed("user", "write a name, `1000` or `1000:1000`", user),
            mounts: table.placed("mounts", mounts, |value| {
                read_texts(value)?.iter().map(|text| mount(text, base)).collect()
            }),
            networks: table.placed("networks", "name networks the engine has", |value| {
                read_texts(value)?.into_iter().map(network).collect()
            }),
            capabilities: table.placed("capabilities", "write for example `[\"CHOWN\"]`", |value| {
                read_texts(value)?.iter().map(|text| capability(text)).collect()
            }),
            read_only: table.flag("read_only"),
            init: table.flag("init"),
        };
        table.finish();
        keys
    }

    /// Lays this layer over a lower one.
    pub(crate) fn over(self, lower: Self) -> Self {
        Self {
            at: self.at.or(lower.at),
            port: self.port.or(lower.port),
            pull: self.pull.or(lower.pull),
            entrypoint: self.entrypoint.or(lower.entrypoint),
            user: self.user.or(lower.user),
            mounts: self.mounts.or(lower.mounts),
            networks: self.networks.or(lower.networks),
            capabilities: self.capabilities.or(lower.capabilities),
            read_only: self.read_only.or(lower.read_only),
            init: self.init.or(lower.init),
        }
    }

    /// The image with all this said about its containers.
    pub(crate) fn image(self, name: String) -> Image {
        let usual = Image::new(name);
        Image {
            port: self.port.and_then(|port| u16::try_from(port).ok()),
            pull: self.pull.unwrap_or_default(),
            entrypoint: self.entrypoint,
            user: self.user,
            mounts: self.mounts.map(|placed| placed.value).unwrap_or_default(),
            networks: self.networks.map(|placed| placed.value).unwrap_or_default(),
            capabilities: self.capabilities.map(|placed| placed.value).unwrap_or_default(),
            read_only: self.read_only.unwrap_or(usual.read_only),
            init: self.init.unwrap_or(usual.init),
            ..usual
        }
    }

    /// What mounts the engine's socket, when that is another than the usual ones, or a folder that holds it.
    pub(crate) fn showing(&self, socket: Option<&Path>) -> Option<Problem> {
        let (mounts, socket) = (self.mounts.as_ref()?, socket?);
        let shown = mounts.value.iter().find(|mount| shows(&mount.source, socket))?;
        let mend = "mount less of this machine";
        Some(mounts.problem(format!("holds \"{}\": {ENGINE}", shown.source), mend))
    }

    /// What only those may say who may do anything on this machine: it reaches out of the container.
    pub(crate) fn reaching_out(&self, because: &str) -> Option<Problem> {
        let mend = "set it in the server's config instead";
        let wrong = format!("may not be set here: {because}");
        let mounts = self.mounts.as_ref().map(|placed| placed.problem(wrong.clone(), mend));
        let networks = || self.networks.as_ref().map(|placed| placed.problem(wrong.clone(), mend));
        let capabilities = || self.capabilities.as_ref().map(|placed| placed.problem(wrong.clone(), mend));
        mounts.or_else(networks).or_else(capabilities)
    }
}

fn pull(text: &str) -> Result<Pull, String> {
    match text {
        "missing" => Ok(Pull::Missing),
        "always" => Ok(Pull::Always),
        "never" => Ok(Pull::Never),
        _ => Err(format!("is \"{text}\"")),
    }
}

fn user(text: &str) -> Result<String, String> {
    let word = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$'))
    };
    let (name, group) = text.split_once(':').unwrap_or((text, "0"));
    if word(name) && word(group) { Ok(text.to_owned()) } else { Err(format!("is \"{text}\"")) }
}

/// `SOURCE:TARGET[:ro|:rw]`
fn mount(text: &str, base: &Path) -> Result<BindMount, String> {
    let mut parts = text.split(':');
    let (source, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let read_only = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(format!("holds \"{text}\", which ends neither with a path nor with `:ro` or `:rw`")),
    };
    if !target.starts_with('/') || target == "/" || has_parent(target) {
        return Err(format!("holds \"{text}\", whose second part is no absolute path in the container"));
    }
    let volume = source.len() > 1
        && source.starts_with(|c: char| c.is_ascii_alphanumeric())
        && source.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    let source = match source {
        _ if volume => source.to_owned(),
        path if path.starts_with('/') && !has_parent(path) => path.to_owned(),
        path if path.starts_with("./") && !has_parent(path) => {
            std::path::absolute(base.join(path)).unwrap_or_else(|_| base.join(path)).display().to_string()
        }
        _ => return Err(format!("holds \"{text}\", whose first part is neither a path nor a volume's name")),
    };
    let usual = ["/var/run/docker.sock", "/run/docker.sock"];
    if source.ends_with("docker.sock") || usual.iter().any(|socket| shows(&source, Path::new(socket))) {
        return Err(format!("holds \"{text}\": {ENGINE}"));
    }
    Ok(BindMount { source, target: target.to_owned(), read_only })
}

/// Whether a mount of `source` holds `socket`, by their names or by where these lead now.
fn shows(source: &str, socket: &Path) -> bool {
    let source = Path::new(source);
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    source.is_absolute() && (socket.starts_with(source) || real(socket).starts_with(real(source)))
}

fn has_parent(path: &str) -> bool {
    Path::new(path).components().any(|part| part == Component::ParentDir)
}

fn network(name: String) -> Result<String, String> {
    let word = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    match name.as_str() {
        "host" | "none" => Err(format!("holds \"{name}\", which takes the app out of its own network")),
        _ if word => Ok(name),
        _ => Err(format!("holds \"{name}\", which is no name of a network")),
    }
}

fn capability(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if matches!(name, "ALL" | "DAC_READ_SEARCH" | "SYS_ADMIN" | "SYS_MODULE" | "SYS_RAWIO") {
        return Err(format!("holds \"{text}\", with which a container is none any more"));
    }
    let word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    if word { Ok(name.to_owned()) } else { Err(format!("holds \"{text}\", which is no capability")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_paths_or_volumes() {
        let read = |text: &str| mount(text, Path::new("/etc/skep"));
        let made = |source: &str, target: &str, read_only| {
            Ok(BindMount { source: source.to_owned(), target: target.to_owned(), read_only })
        };
        assert_eq!(read("/srv/data:/data:ro"), made("/srv/data", "/data", true));
        assert_eq!(read("kept-1:/var/lib/app"), made("kept-1", "/var/lib/app", false));
        assert_eq!(read("./data:/data:rw"), made("/etc/skep/data", "/data", false));
        for bad in [
            "",
            "/a",
            "/a:b",
            "/a:/",
            "/a:/b:x",
            "/a:/b:ro:z",
            "/a/../b:/c",
            "/a:/b/../..",
            "a b:/c",
            "x:/c",
            "~/a:/b",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for shown in ["/var/run/docker.sock", "/run", "/var/run/", "/", "/srv/other/docker.sock"] {
            let socket = read(&format!("{shown}:/inside")).unwrap_err();
            assert!(socket.contains("the whole machine"), "{shown}: {socket}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let linked = read(&format!("{}:/inside", dir.path().join("link").display())).unwrap_err();
        assert!(linked.contains("the whole machine"), "{linked}");
    }

    #[test]
    fn names_of_users_networks_and_capabilities() {
        assert_eq!(user("1000:1000").as_deref(), Ok("1000:1000"));
        assert!(user("a:").is_err() && user("").is_err() && user("a b").is_err());
        assert!(network("host".to_owned()).is_err() && network("db_net".to_owned()).is_ok());
        assert_eq!(capability("cap_chown").as_deref(), Ok("CHOWN"));
        for bad in ["ALL", "cap_dac_read_search", "cap_sys_admin", "SYS_MODULE", "SYS_RAWIO", "x-y", ""] {
            assert!(capability(bad).is_err(), "{bad}");
        }
    }
}

//! `container.*`: what the containers of an app with an `image` get beyond what every instance has.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use skep_model::{BindMount, ConfigFile, Gpus, Image, Placement, Pull, Reserve, Volume};
use toml::de::DeValue;

use super::app_keys::cpu_millis;
use super::document::{Placed, Section, read_texts};
use super::problem::Problem;

/// Stands for a user's name in what is mounted, where every user has an instance.
const USER: &str = "{user}";
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
    volumes: BTreeMap<String, Placed<Volume>>,
    labels: Option<Placed<BTreeMap<String, String>>>,
    gpus: Option<Placed<Gpus>>,
    configs: Option<Placed<Vec<ConfigFile>>>,
    networks: Option<Placed<Vec<String>>>,
    capabilities: Option<Placed<Vec<String>>>,
    read_only: Option<bool>,
    init: Option<bool>,
    placement_at: Option<Placed<()>>,
    constraints: Option<Vec<String>>,
    preferences: Option<Vec<String>>,
    reserve_at: Option<Placed<()>>,
    reserve_cpu: Option<u32>,
    reserve_memory: Option<u64>,
    reserve_resources: Option<BTreeMap<String, u32>>,
}

impl ContainerKeys {
    /// Reads `container` in a section; relative paths of the host count from `base`.
    pub(crate) fn read(section: &mut Section<'_, '_>, base: &Path) -> Self {
        let at = section.placed("container", "", |_| Ok(()));
        let Some(mut table) = section.section("container") else { return Self::default() };
        let mounts = "write `mounts = [\"/srv/data:/data:ro\", \"volume:/var/lib/app\"]`";
        let mut keys = Self {
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
            gpus: table.placed("gpus", "write \"all\", a number, or a list of UUIDs", gpus),
            configs: table.placed("configs", "write `configs = [\"NAME:/etc/app.toml\"]`", |value| {
                read_texts(value)?.iter().map(|text| config_file(text)).collect()
            }),
            read_only: table.flag("read_only"),
            init: table.flag("init"),
            ..Self::default()
        };
        keys.read_tables(&mut table);
        table.finish();
        keys
    }

    fn read_tables(&mut self, table: &mut Section<'_, '_>) {
        let labels = table.placed("labels", "", |_| Ok(()));
        self.labels = table.text_map("labels", label).zip(labels).map(|(value, at)| Placed {
            value,
            file: at.file,
            at: at.at,
            key: at.key,
        });
        for (name, mut section) in table.named_sections("volumes") {
            let driver =
                section.parsed("driver", "name `local` or a plugin, like \"vieux/sshfs:latest\"", driver);
            let options = section.text_map("options", |_| Ok(())).unwrap_or_default();
            let volume = Volume { driver: driver.unwrap_or_else(|| "local".to_owned()), options };
            if let Err(wrong) = volume_name(&name.value).and_then(|()| local_device(&volume)) {
                section.report(
                    "options",
                    wrong,
                    "name a file server or another device, and mount folders as such",
                );
            }
            section.finish();
            let Placed { value, file, at, key } = name;
            self.volumes.insert(value, Placed { value: volume, file, at, key });
        }
        self.placement_at = table.placed("placement", "", |_| Ok(()));
        if let Some(mut placement) = table.section("placement") {
            let wanted = "write for example `[\"node.labels.disk == ssd\"]`";
            self.constraints = placement.parsed_list("constraints", wanted, constraint);
            let wanted = "name labels like `[\"node.labels.rack\"]`";
            self.preferences = placement.parsed_list("preferences", wanted, preference);
            placement.finish();
        }
        self.reserve_at = table.placed("reserve", "", |_| Ok(()));
        if let Some(mut reserve) = table.section("reserve") {
            self.reserve_cpu = reserve.get("cpu", "write a number of CPUs like `cpu = 0.5`", cpu_millis);
            self.reserve_memory = reserve.size("memory");
            let wanted = "write for example `resources = { gpu = 1 }`";
            self.reserve_resources = reserve.get("resources", wanted, resources);
            reserve.finish();
        }
    }

    /// Where something is said that only a Swarm heeds.
    pub(crate) fn of_swarm(&self) -> Option<&Placed<()>> {
        self.placement_at.as_ref().or(self.reserve_at.as_ref())
    }

    /// The same of Swarm's configs.
    pub(crate) fn configs(&self) -> Option<&Placed<Vec<ConfigFile>>> {
        self.configs.as_ref()
    }

    /// Where something is said that only the engine of one machine heeds.
    pub(crate) fn of_engine(&self) -> Option<&Placed<Gpus>> {
        self.gpus.as_ref()
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
            volumes: lower.volumes.into_iter().chain(self.volumes).collect(),
            labels: match (self.labels, lower.labels) {
                (Some(mut own), Some(lower)) => {
                    own.value = lower.value.into_iter().chain(own.value).collect();
                    Some(own)
                }
                (own, lower) => own.or(lower),
            },
            gpus: self.gpus.or(lower.gpus),
            configs: self.configs.or(lower.configs),
            networks: self.networks.or(lower.networks),
            capabilities: self.capabilities.or(lower.capabilities),
            read_only: self.read_only.or(lower.read_only),
            init: self.init.or(lower.init),
            placement_at: self.placement_at.or(lower.placement_at),
            constraints: self.constraints.or(lower.constraints),
            preferences: self.preferences.or(lower.preferences),
            reserve_at: self.reserve_at.or(lower.reserve_at),
            reserve_cpu: self.reserve_cpu.or(lower.reserve_cpu),
            reserve_memory: self.reserve_memory.or(lower.reserve_memory),
            reserve_resources: self.reserve_resources.or(lower.reserve_resources),
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
            volumes: self.volumes.into_iter().map(|(name, placed)| (name, placed.value)).collect(),
            labels: self.labels.map(|placed| placed.value).unwrap_or_default(),
            gpus: self.gpus.map(|placed| placed.value),
            configs: self.configs.map(|placed| placed.value).unwrap_or_default(),
            networks: self.networks.map(|placed| placed.value).unwrap_or_default(),
            capabilities: self.capabilities.map(|placed| placed.value).unwrap_or_default(),
            read_only: self.read_only.unwrap_or(usual.read_only),
            init: self.init.unwrap_or(usual.init),
            placement: Placement {
                constraints: self.constraints.unwrap_or_default(),
                preferences: self.preferences.unwrap_or_default(),
            },
            reserve: Reserve {
                cpu_millis: self.reserve_cpu,
                memory: self.reserve_memory,
                resources: self.reserve_resources.unwrap_or_default(),
            },
            ..usual
        }
    }

    /// What mounts the engine's socket, when that is another than the usual ones, or a folder that holds it.
    pub(crate) fn showing(&self, socket: Option<&Path>) -> Option<Problem> {
        let (socket, mend) = (socket?, "mount less of this machine");
        let device =
            |volume: &Volume| volume.options.get("device").is_some_and(|device| shows(device, socket));
        if let Some(volume) = self.volumes.values().find(|volume| device(&volume.value)) {
            return Some(volume.problem(format!("shows the engine's socket: {ENGINE}"), mend));
        }
        let mounts = self.mounts.as_ref()?;
        let shown = mounts.value.iter().find(|mount| shows(reach(&mount.source), socket))?;
        Some(mounts.problem(format!("holds \"{}\": {ENGINE}", shown.source), mend))
    }

    /// What each user has of their own in instances that are shared.
    pub(crate) fn personal(&self) -> Option<Problem> {
        let mounts = self.mounts.as_ref()?;
        let personal =
            mounts.value.iter().find(|mount| mount.source.contains(USER) || mount.target.contains(USER))?;
        let wrong = format!("holds \"{}\", and users share the app's instances", personal.source);
        Some(mounts.problem(wrong, "set `per_user = true`, or leave `{user}` out"))
    }

    /// What only those may say who may do anything on this machine: it reaches out of the container.
    pub(crate) fn reaching_out(&self, because: &str) -> Option<Problem> {
        let mend = "set it in the server's config instead";
        let wrong = format!("may not be set here: {because}");
        let mounts = self.mounts.as_ref().map(|placed| placed.problem(wrong.clone(), mend));
        let networks = || self.networks.as_ref().map(|placed| placed.problem(wrong.clone(), mend));
        let capabilities = || self.capabilities.as_ref().map(|placed| placed.problem(wrong.clone(), mend));
        let volumes = || self.volumes.values().next().map(|placed| placed.problem(wrong.clone(), mend));
        // Other programs act on labels, on any container's.
        let labels = || self.labels.as_ref().map(|placed| placed.problem(wrong.clone(), mend));
        let configs = || self.configs.as_ref().map(|placed| placed.problem(wrong.clone(), mend));
        mounts.or_else(networks).or_else(capabilities).or_else(volumes).or_else(labels).or_else(configs)
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

/// `node.labels.disk == ssd`, in one spelling.
fn constraint(text: &str) -> Result<String, String> {
    let wrong = || format!("holds \"{text}\"");
    let (what, operator, value) = ["==", "!="]
        .into_iter()
        .find_map(|operator| text.split_once(operator).map(|(what, value)| (what, operator, value)))
        .ok_or_else(wrong)?;
    let value = value.trim();
    let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let what = attribute(what.trim()).filter(|_| plain).ok_or_else(wrong)?;
    Ok(format!("{what} {operator} {value}"))
}

fn preference(text: &str) -> Result<String, String> {
    attribute(text).filter(|what| what.contains(".labels.")).ok_or_else(|| format!("holds \"{text}\""))
}

/// What a Swarm's scheduler compares.
fn attribute(text: &str) -> Option<String> {
    let fixed =
        ["node.id", "node.hostname", "node.ip", "node.role", "node.platform.os", "node.platform.arch"];
    let label = ["node.labels.", "engine.labels."].into_iter().any(|of| {
        text.strip_prefix(of).is_some_and(|name| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/'))
        })
    });
    (label || fixed.contains(&text)).then(|| text.to_owned())
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
    // Nothing else is filled in: it would be one place for all.
    if text.replace(USER, "user").contains(['{', '}']) {
        return Err(format!("holds \"{text}\", of which only `{USER}` would be filled in"));
    }
    // Stands for a word; where it may lead is judged by what stands before it.
    let named = source.replace(USER, "user");
    let volume = named.len() > 1
        && source.starts_with(|c: char| c.is_ascii_alphanumeric())
        && named.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    let source = match source {
        _ if volume => source.to_owned(),
        path if path.starts_with('/') && !has_parent(path) => path.to_owned(),
        path if path.starts_with("./") && !has_parent(path) => {
            std::path::absolute(base.join(path)).unwrap_or_else(|_| base.join(path)).display().to_string()
        }
        _ => return Err(format!("holds \"{text}\", whose first part is neither a path nor a volume's name")),
    };
    if shows_usual(&source) {
        return Err(format!("holds \"{text}\": {ENGINE}"));
    }
    Ok(BindMount { source, target: target.to_owned(), read_only })
}

/// The folder whatever a user is called stays in: all of a source without a placeholder.
fn reach(source: &str) -> &str {
    let Some(at) = source.find(USER).filter(|_| source.starts_with('/')) else { return source };
    let slash = source[..at].rfind('/').unwrap_or(0);
    if slash == 0 { "/" } else { &source[..slash] }
}

/// Whether a mount of `source` holds the engine's socket, where that usually is.
fn shows_usual(source: &str) -> bool {
    let usual = ["/var/run/docker.sock", "/run/docker.sock"];
    let reach = reach(source);
    source.ends_with("docker.sock") || usual.iter().any(|socket| shows(reach, Path::new(socket)))
}

/// A folder of the machine by another name is held to the same rules as one that is mounted.
fn local_device(volume: &Volume) -> Result<(), String> {
    let bound = volume.options.get("o").is_some_and(|o| o.split(',').any(|o| matches!(o, "bind" | "rbind")));
    match volume.options.get("device") {
        Some(device) if bound && !device.starts_with('/') => {
            Err(format!("has the device \"{device}\", no absolute path"))
        }
        Some(device) if device.starts_with('/') && has_parent(device) => {
            Err(format!("has the device \"{device}\""))
        }
        Some(device) if shows_usual(device) => Err(format!("has the device \"{device}\": {ENGINE}")),
        _ => Ok(()),
    }
}

fn volume_name(name: &str) -> Result<(), String> {
    let name = &name.replace(USER, "user");
    let good = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if good { Ok(()) } else { Err(format!("is of \"{name}\", which is no name of a volume")) }
}

fn driver(text: &str) -> Result<String, String> {
    let word = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/' | b':'));
    if word { Ok(text.to_owned()) } else { Err(format!("is \"{text}\"")) }
}

/// `NAME:/path`
fn config_file(text: &str) -> Result<ConfigFile, String> {
    let (name, target) = text.split_once(':').ok_or_else(|| format!("holds \"{text}\", without a path"))?;
    let named = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if !named || !target.starts_with('/') || target.ends_with('/') || has_parent(target) {
        return Err(format!("holds \"{text}\", which is no name and absolute path"));
    }
    Ok(ConfigFile { name: name.to_owned(), target: target.to_owned() })
}

fn label(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 200 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("is no name of a label".to_owned());
    }
    let taken = ["skep.", "com.docker."].into_iter().find(|taken| name.starts_with(taken));
    taken.map_or(Ok(()), |taken| {
        Err(format!("begins with `{taken}`, as labels with a meaning of their own do"))
    })
}

fn gpus(value: &DeValue<'_>) -> Result<Gpus, String> {
    if let DeValue::Integer(number) = value {
        let count = number.as_str().parse().ok().filter(|count| (1..=64).contains(count));
        return count.map(Gpus::Count).ok_or_else(|| format!("is {}", number.as_str()));
    }
    if value.as_str() == Some("all") {
        return Ok(Gpus::All);
    }
    let devices = read_texts(value)?;
    let word = |name: &String| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':' | b'.'))
    };
    if devices.is_empty() || !devices.iter().all(word) {
        return Err("names no GPU".to_owned());
    }
    Ok(Gpus::Devices(devices))
}

/// `{ gpu = 1 }`
fn resources(value: &DeValue<'_>) -> Result<BTreeMap<String, u32>, String> {
    let table = value.as_table().ok_or_else(|| "is no table".to_owned())?;
    let mut resources = BTreeMap::new();
    for (name, value) in table.iter() {
        let name = name.get_ref();
        let word = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        let count = match value.get_ref() {
            DeValue::Integer(number) => number.as_str().parse().ok().filter(|count| *count > 0),
            _ => None,
        };
        let count =
            count.filter(|_| word).ok_or_else(|| format!("holds `{name}`, not with a number from 1"))?;
        resources.insert(name.to_string(), count);
    }
    Ok(resources)
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
        assert_eq!(read("/home/{user}:/home"), made("/home/{user}", "/home", false));
        assert_eq!(read("of-{user}:/home"), made("of-{user}", "/home", false));
        for bad in [
            "/run/{user}:/x",
            "/run/of-{user}/x:/x",
            "/{user}:/x",
            "/var/{user}/docker:/x",
            "{user}:/x",
            "of-{app}:/x",
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
            "/d/{instance}:/x",
            "of-{app}:/x",
            "/d:/x/{group}",
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

//! What an instance in a container is, whoever runs the container: an engine or a Swarm.
//!
//! Its labels, its command and environment, what is said when its image cannot be had or its program does not start, how it
//! ended, and what is kept of it afterwards. Nothing here speaks to an engine.

pub(crate) mod ending;
pub(crate) mod labels;
pub(crate) mod login;
pub(crate) mod notes;
pub(crate) mod words;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use skep_docker::{Document, Reference};
use skep_launch::{BackendError, LaunchOrder};
use skep_model::{AppSpec, Image, Principal, Source};

use crate::framework::{self, Endpoint, Site};

/// Lines anybody may ask for at once.
pub(crate) const MAX_TAIL: usize = 10_000;
/// Bytes of each of the files an instance's output goes to, and how many there are.
pub(crate) const LOG_BYTES: &str = "5m";
pub(crate) const LOG_FILES: &str = "2";

/// Stands for a user's name in what is mounted.
const USER: &str = "{user}";

pub(crate) fn app_error(summary: impl Into<String>) -> BackendError {
    BackendError::App { summary: summary.into(), last_lines: Vec::new() }
}

/// The image an app is published from, and its name taken apart.
pub(crate) fn image(spec: &AppSpec) -> Result<(&Image, Reference), BackendError> {
    let Source::Image(image) = &spec.source else {
        return Err(app_error("it is a folder, and containers are made from images: set `image`"));
    };
    let reference = image.name.parse::<Reference>().map_err(|e| app_error(e.to_string()))?;
    Ok((image, reference))
}

/// Where the app listens inside: as configured, else the one TCP port its image exposes.
pub(crate) fn port(image: &Image, inspected: &Document) -> Result<u16, BackendError> {
    if let Some(port) = image.port {
        return Ok(port);
    }
    let exposed = inspected.at("/Config/ExposedPorts").and_then(Value::as_object);
    let mut ports: Vec<u16> = exposed
        .into_iter()
        .flat_map(Map::keys)
        .filter_map(|port| port.strip_suffix("/tcp").unwrap_or(port).parse().ok())
        .collect();
    ports.sort_unstable();
    match ports[..] {
        [port] => Ok(port),
        [] => Err(app_error(format!(
            "the image `{}` exposes no port; set `container.port` to the one the app listens on",
            image.name
        ))),
        _ => Err(app_error(format!(
            "the image `{}` exposes several ports ({}); set `container.port` to the app's",
            image.name,
            ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// What is run in the container, when that is not what its image says, and its environment. `secrets` are files in
/// `/run/secrets`.
pub(crate) fn program<'a>(
    order: &LaunchOrder,
    port: u16,
    secrets: impl Iterator<Item = &'a String>,
) -> (Option<Vec<String>>, Vec<String>) {
    let (user, groups) = whose(order);
    let endpoint = Endpoint::Port(port);
    let site =
        Site { spec: &order.spec, entry: None, instance: &order.id, user, groups, endpoint: &endpoint };
    let (command, env) = framework::in_container(site);
    let mut env: Vec<String> = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.extend(secrets.map(|name| format!("{name}_FILE=/run/secrets/{name}")));
    (command, env)
}

/// The user an instance is for, and their groups; empty when it is for everybody, or for somebody who is not logged in.
pub(crate) fn whose(order: &LaunchOrder) -> (&str, &[String]) {
    match &order.owner {
        Some(Principal::User { name, groups }) => (name.as_str(), groups),
        _ => ("", &[]),
    }
}

/// The image with what is each user's own in its mounts: `/srv/{user}` becomes `/srv/ada`, on both sides.
///
/// # Errors
/// Nobody gets what is another's: a name that is more than a word, or none, is refused.
pub(crate) fn for_owner(image: &Image, order: &LaunchOrder) -> Result<Image, BackendError> {
    let mut image = image.clone();
    for mount in &mut image.mounts {
        if !mount.source.contains(USER) && !mount.target.contains(USER) {
            continue;
        }
        let (user, _) = whose(order);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+');
        if user.is_empty() {
            return Err(app_error(format!(
                "it mounts \"{}\", which is for users who are logged in",
                mount.source
            )));
        }
        if user.starts_with('.') || !user.chars().all(plain) {
            return Err(app_error(format!(
                "it mounts \"{}\", and the user's name cannot be part of a path",
                mount.source
            )));
        }
        mount.target = mount.target.replace(USER, user);
        let source = if mount.source.starts_with('/') {
            mount.source.replace(USER, user)
        } else {
            mount.source.replace(USER, &word(user))
        };
        let volume = image.volumes.get(&mount.source).cloned();
        image.volumes.extend(volume.map(|volume| (source.clone(), volume)));
        mount.source = source;
    }
    Ok(image)
}

/// A name as part of a volume's, in which engines allow less: `ada@x` is `ada_40x`. No two become the same.
fn word(user: &str) -> String {
    let mut word = String::new();
    for byte in user.bytes() {
        match byte {
            b'.' | b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => word.push(char::from(byte)),
            other => word.push_str(&format!("_{other:02x}")),
        }
    }
    word
}

/// What is mounted in it by its config.
pub(crate) fn mounts(image: &Image) -> Vec<Value> {
    let mounts = image.mounts.iter().map(|mount| {
        let kind = if mount.source.starts_with('/') { "bind" } else { "volume" };
        let mut made = json!({
            "Type": kind, "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only,
        });
        if let Some(volume) = image.volumes.get(&mount.source) {
            let driver = json!({ "Name": volume.driver, "Options": volume.options });
            made["VolumeOptions"] = json!({ "DriverConfig": driver });
        }
        made
    });
    mounts.collect()
}

/// Skep's labels, and those the config gives it, which are none of Skep's.
pub(crate) fn labels(image: &Image, own: Map<String, Value>) -> Map<String, Value> {
    let mut labels: Map<String, Value> =
        image.labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    labels.extend(own);
    labels
}

/// The content of each of an app's secrets, read from its file.
pub(crate) fn secrets(spec: &AppSpec) -> Result<BTreeMap<String, Vec<u8>>, BackendError> {
    let read = |(name, file): (&String, _)| Ok((name.clone(), crate::secret::read(name, file)?));
    spec.secrets.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_model::{BindMount, Framework, InstanceId, Volume};

    use super::*;

    #[test]
    fn what_is_mounted_is_ones_own_or_nobodys() {
        let order = |user: Option<&str>| {
            let of = |name: &str| Principal::User { name: name.parse().unwrap(), groups: Vec::new() };
            LaunchOrder {
                id: InstanceId::new("boxed".parse().unwrap(), 1),
                spec: Arc::new(framework::test_spec("boxed", Framework::Command)),
                owner: user.map(of),
                variant: skep_model::Variant::default(),
            }
        };
        let mount = |source: &str| BindMount {
            source: source.to_owned(),
            target: "/home".to_owned(),
            read_only: false,
        };
        let mut image = Image::new("app");
        image.mounts = vec![mount("/srv/{user}/data"), mount("of-{user}"), mount("/srv")];
        let sources = |user: &str| {
            let image = for_owner(&image, &order(Some(user)));
            image.map(|image| image.mounts.into_iter().map(|mount| mount.source).collect::<Vec<_>>())
        };
        assert_eq!(sources("ada@x.org").unwrap(), ["/srv/ada@x.org/data", "of-ada_40x.org", "/srv"]);
        for bad in ["..", ".", ".ssh", "../root", "a/b", "a:b", "a b", "é", "{user}"] {
            assert!(sources(bad).is_err(), "{bad}");
        }
        assert!(for_owner(&image, &order(None)).unwrap_err().to_string().contains("who are logged in"));
        image.volumes.insert("of-{user}".to_owned(), Volume::default());
        image.mounts[0].target = "/own/{user}".to_owned();
        let made = for_owner(&image, &order(Some("a_b"))).unwrap();
        assert!(made.volumes.contains_key("of-a_5fb"), "{:?}", made.volumes);
        assert_eq!(made.mounts[0].target, "/own/a_b");
        image.mounts.truncate(0);
        assert!(for_owner(&image, &order(None)).is_ok());
    }

    #[test]
    fn the_port_is_the_images_unless_it_is_configured() {
        let exposing = |ports: Value| Document::new(json!({ "Config": { "ExposedPorts": ports } }));
        let mut image = Image::new("app");
        assert_eq!(port(&image, &exposing(json!({ "8080/tcp": {}, "53/udp": {} }))).unwrap(), 8080);
        let none = port(&image, &exposing(Value::Null)).unwrap_err().to_string();
        assert!(none.contains("exposes no port") && none.contains("container.port"), "{none}");
        let two = port(&image, &exposing(json!({ "443/tcp": {}, "80/tcp": {} }))).unwrap_err().to_string();
        assert!(two.contains("80, 443"), "{two}");
        image.port = Some(3838);
        assert_eq!(port(&image, &exposing(Value::Null)).unwrap(), 3838);
    }
}

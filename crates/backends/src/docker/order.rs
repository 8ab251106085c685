//! Turning the order for an instance into what the engine is told. Pure.
//!
//! Everything is taken away that an app rarely needs: all kernel capabilities, the way to new privileges, swap, traffic with
//! other instances. What an app does need of it is given back by its config.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use skep_docker::{Document, Reference};
use skep_launch::{BackendError, LaunchOrder};
use skep_model::{AppSpec, Image, InstanceId, Principal, Revision, Source};

use super::app_error;
use crate::framework::{self, Endpoint, Site};

pub(super) const INSTALL: &str = "skep.install";
const INSTANCE: &str = "skep.instance";
const APP: &str = "skep.app";
const REVISION: &str = "skep.revision";
const OWNER: &str = "skep.owner";
const STARTED: &str = "skep.started";
const PORT: &str = "skep.port";
const NETWORK: &str = "skep.network";
const MEMORY: &str = "skep.memory";

/// Bytes of each of the files an instance's output goes to, and how many there are.
const LOG_BYTES: &str = "5m";
const LOG_FILES: &str = "2";

/// What an instance's labels say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Labels {
    pub(super) install: String,
    pub(super) id: InstanceId,
    pub(super) revision: Revision,
    pub(super) owner: Option<Principal>,
    pub(super) started_at_ms: i64,
    pub(super) port: u16,
    /// The id of the network it is dialled in.
    pub(super) network: String,
    pub(super) memory_limit: Option<u64>,
}

impl Labels {
    /// `None`: not ours, or of a version that writes them differently.
    pub(super) fn of(container: &Document) -> Option<Self> {
        if !is_named(container) {
            return None;
        }
        let owner = match container.label(OWNER) {
            None | Some("") => None,
            Some(owner) => Some(serde_json::from_str(owner).ok()?),
        };
        Some(Self {
            install: container.label(INSTALL)?.to_owned(),
            id: container.label(INSTANCE)?.parse().ok()?,
            revision: Revision(u64::from_str_radix(container.label(REVISION)?, 16).ok()?),
            owner,
            started_at_ms: container.label(STARTED)?.parse().ok()?,
            port: container.label(PORT)?.parse().ok()?,
            network: container.label(NETWORK)?.to_owned(),
            memory_limit: container.label(MEMORY).and_then(|bytes| bytes.parse().ok()),
        })
    }

    /// All of them, even those that say nothing: what is not written here shows through from the image.
    fn write(&self) -> Value {
        let mut labels = Map::new();
        let mut put = |name: &str, value: String| labels.insert(name.to_owned(), value.into());
        put(INSTALL, self.install.clone());
        put(INSTANCE, self.id.to_string());
        put(APP, self.id.app().to_string());
        put(REVISION, self.revision.to_string());
        put(STARTED, self.started_at_ms.to_string());
        put(PORT, self.port.to_string());
        put(NETWORK, self.network.clone());
        let owner = self.owner.as_ref().and_then(|owner| serde_json::to_string(owner).ok());
        put(OWNER, owner.unwrap_or_default());
        put(MEMORY, self.memory_limit.map(|bytes| bytes.to_string()).unwrap_or_default());
        Value::Object(labels)
    }
}

/// The name of an instance's container.
pub(super) fn name(id: &InstanceId) -> String {
    format!("skep-{id}")
}

/// Whether a container, listed or inspected, is called as the instance its labels name is. Whoever runs an image made of an
/// instance gets its labels, but not its name.
pub(super) fn is_named(container: &Document) -> bool {
    let Some(id) = container.label(INSTANCE) else { return false };
    let expected = format!("/skep-{id}");
    match container.at("/Names").and_then(Value::as_array) {
        Some(names) => names.iter().any(|name| name.as_str() == Some(&expected)),
        None => container.text("/Name") == Some(&expected),
    }
}

/// The image an app is published from, and its name taken apart.
pub(super) fn image(spec: &AppSpec) -> Result<(&Image, Reference), BackendError> {
    let Source::Image(image) = &spec.source else {
        return Err(app_error("it is a folder, and containers are made from images: set `image`"));
    };
    let reference = image.name.parse::<Reference>().map_err(|e| app_error(e.to_string()))?;
    Ok((image, reference))
}

/// Where the app listens inside: as configured, else the one TCP port its image exposes.
pub(super) fn port(image: &Image, inspected: &Document) -> Result<u16, BackendError> {
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

/// What is decided when the container is made.
pub(super) struct Plan<'a> {
    pub(super) order: &'a LaunchOrder,
    pub(super) image: &'a Image,
    pub(super) labels: &'a Labels,
    /// The image's name in full, tag or digest included.
    pub(super) reference: &'a Reference,
    /// Publish the port on loopback.
    pub(super) publish: bool,
    /// Secret → its file on the host.
    pub(super) secrets: &'a BTreeMap<String, PathBuf>,
}

/// The engine's description of the container.
pub(super) fn container(plan: &Plan<'_>) -> Value {
    let Plan { order, image, labels, .. } = plan;
    let spec = &order.spec;
    let port = labels.port;
    let user = match &order.owner {
        Some(Principal::User { name, .. }) => name.as_str(),
        _ => "",
    };
    let endpoint = Endpoint::Port(port);
    let site = Site { spec, entry: None, instance: &order.id, user, endpoint: &endpoint };
    let (command, env) = framework::in_container(site);
    let mut env: Vec<String> = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.extend(plan.secrets.keys().map(|name| format!("{name}_FILE=/run/secrets/{name}")));
    let exposed = format!("{port}/tcp");
    let mut body = json!({
        "Image": plan.reference.to_string(),
        "Env": env,
        "Labels": labels.write(),
        "ExposedPorts": { exposed.as_str(): {} },
        "HostConfig": host(plan, &exposed),
    });
    if let Some(command) = command {
        body["Cmd"] = command.into();
    }
    if let Some(entrypoint) = &image.entrypoint {
        body["Entrypoint"] = entrypoint.clone().into();
    }
    if let Some(user) = &image.user {
        body["User"] = user.clone().into();
    }
    body
}

fn host(plan: &Plan<'_>, exposed: &str) -> Value {
    let Plan { order, image, .. } = plan;
    let limits = order.spec.limits;
    let mut mounts: Vec<Value> = image
        .mounts
        .iter()
        .map(|mount| {
            let kind = if mount.source.starts_with('/') { "bind" } else { "volume" };
            json!({ "Type": kind, "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only })
        })
        .collect();
    mounts.extend(plan.secrets.iter().map(|(name, file)| {
        let target = format!("/run/secrets/{name}");
        json!({ "Type": "bind", "Source": file.to_string_lossy(), "Target": target, "ReadOnly": true })
    }));
    let mut host = json!({
        "Init": image.init,
        "NetworkMode": plan.labels.network,
        "RestartPolicy": { "Name": "no" },
        "CapDrop": ["ALL"],
        "CapAdd": image.capabilities,
        "SecurityOpt": ["no-new-privileges"],
        "Mounts": mounts,
        "LogConfig": { "Type": "json-file", "Config": { "max-size": LOG_BYTES, "max-file": LOG_FILES } },
    });
    if image.read_only {
        host["ReadonlyRootfs"] = true.into();
        host["Tmpfs"] =
            json!({ "/tmp": "rw,nosuid,nodev,mode=1777", "/run": "rw,nosuid,nodev,noexec,mode=1777" });
    }
    if let Some(memory) = limits.memory {
        // The same with swap: an app out of memory is to be seen as such, not to crawl.
        host["Memory"] = memory.into();
        host["MemorySwap"] = memory.into();
    }
    if let Some(millis) = limits.cpu_millis {
        host["NanoCpus"] = (u64::from(millis) * 1_000_000).into();
    }
    if let Some(pids) = limits.pids {
        host["PidsLimit"] = pids.into();
    }
    if plan.publish {
        host["PortBindings"] = json!({ exposed: [{ "HostIp": "127.0.0.1", "HostPort": "" }] });
    }
    host
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::{BindMount, Framework};
    use std::sync::Arc;

    fn order(image: Image) -> LaunchOrder {
        let mut spec = framework::test_spec("sales", Framework::Command);
        spec.source = Source::Image(Box::new(image));
        spec.command = Some(["serve", "{port}", "{user}"].map(str::to_owned).to_vec());
        spec.env.insert("BASE".to_owned(), "{base_path}".to_owned());
        let owner = Principal::User { name: "ada".parse().unwrap(), groups: vec!["g".to_owned()] };
        let id = InstanceId::new(spec.id.clone(), 3);
        LaunchOrder { id, spec: Arc::new(spec), owner: Some(owner) }
    }

    fn labels(order: &LaunchOrder) -> Labels {
        Labels {
            install: "0123456789abcdef".to_owned(),
            id: order.id.clone(),
            revision: Revision(u64::MAX),
            owner: order.owner.clone(),
            started_at_ms: 17,
            port: 3838,
            network: "abc".to_owned(),
            memory_limit: order.spec.limits.memory,
        }
    }

    fn made(order: &LaunchOrder, publish: bool) -> Value {
        let (image, reference) = image(&order.spec).unwrap();
        let secrets = BTreeMap::from([("KEY".to_owned(), PathBuf::from("/data/KEY"))]);
        let labels = labels(order);
        let secrets = &secrets;
        container(&Plan { order, image, labels: &labels, reference: &reference, publish, secrets })
    }

    #[test]
    fn labels_come_back_as_they_were() {
        let order = order(Image::new("team/app:1"));
        let labels = labels(&order);
        let made = made(&order, false);
        let name = format!("/{}", name(&order.id));
        let listed = |made: &Value, names: &[&str]| {
            Labels::of(&Document::new(json!({ "Labels": made["Labels"], "Names": names })))
        };
        assert_eq!(listed(&made, &[&name]), Some(labels.clone()));
        assert_eq!(listed(&made, &["/other/alias", &name]), Some(labels.clone()));
        let inspected = json!({ "Config": made, "Name": name });
        assert_eq!(Labels::of(&Document::new(inspected)), Some(labels));
        for copied in [&["/pensive_hopper"][..], &[]] {
            assert_eq!(listed(&made, copied), None, "run from an image made of an instance");
        }
        let mut foreign = made;
        foreign["Labels"]["skep.revision"] = "newer".into();
        assert_eq!(listed(&foreign, &[&name]), None);
    }

    #[test]
    fn labels_of_an_image_do_not_show_through() {
        let mut order = order(Image::new("team/app"));
        order.owner = None;
        let made = made(&order, false);
        let mut labels = made["Labels"].as_object().unwrap().clone();
        for name in [INSTALL, INSTANCE, APP, REVISION, OWNER, STARTED, PORT, NETWORK, MEMORY] {
            assert!(labels.contains_key(name), "{name}");
        }
        assert_eq!((&labels[OWNER], &labels[MEMORY]), (&json!(""), &json!("")));
        let read = |labels: &Map<String, Value>| {
            let name = format!("/{}", name(&order.id));
            Labels::of(&Document::new(json!({ "Labels": labels, "Name": name }))).unwrap()
        };
        assert_eq!((read(&labels).owner, read(&labels).memory_limit), (None, None));
        labels.remove(OWNER);
        assert_eq!(read(&labels).owner, None, "as earlier versions wrote it");
    }

    #[test]
    fn nothing_is_given_that_was_not_asked_for() {
        let made = made(&order(Image::new("team/app")), false);
        assert_eq!(made["Image"], "team/app:latest");
        assert_eq!(made["Cmd"], json!(["serve", "3838", "ada"]));
        let env = made["Env"].as_array().unwrap();
        for expected in ["PORT=3838", "BASE=/sales", "SKEP_USER=ada", "KEY_FILE=/run/secrets/KEY"] {
            assert!(env.iter().any(|var| var == expected), "{expected}: {env:?}");
        }
        let host = &made["HostConfig"];
        assert_eq!(host["CapDrop"], json!(["ALL"]));
        assert_eq!(host["CapAdd"], json!([]));
        assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
        assert_eq!(host["Init"], true);
        for absent in ["Memory", "NanoCpus", "PidsLimit", "PortBindings", "ReadonlyRootfs", "Privileged"] {
            assert_eq!(host.get(absent), None, "{absent}");
        }
        assert_eq!(made.get("User"), None);
    }

    #[test]
    fn limits_mounts_and_the_rest_are_passed_on() {
        let mut image = Image::new("team/app");
        image.mounts = vec![
            BindMount { source: "/srv/data".to_owned(), target: "/data".to_owned(), read_only: true },
            BindMount { source: "kept".to_owned(), target: "/kept".to_owned(), read_only: false },
        ];
        image.capabilities = vec!["CHOWN".to_owned()];
        image.user = Some("1000:1000".to_owned());
        image.read_only = true;
        let mut order = order(image);
        let spec = Arc::get_mut(&mut order.spec).unwrap();
        spec.limits = skep_model::Limits { cpu_millis: Some(500), memory: Some(64 << 20), pids: Some(9) };
        let made = made(&order, true);
        let host = &made["HostConfig"];
        assert_eq!(host["Mounts"][0]["Type"], "bind");
        assert_eq!(
            (&host["Mounts"][1]["Type"], &host["Mounts"][1]["ReadOnly"]),
            (&json!("volume"), &json!(false))
        );
        assert_eq!(host["Mounts"][2]["Target"], "/run/secrets/KEY");
        assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(64 << 20), &json!(64 << 20)));
        assert_eq!((&host["NanoCpus"], &host["PidsLimit"]), (&json!(500_000_000), &json!(9)));
        assert_eq!(host["PortBindings"]["3838/tcp"][0]["HostIp"], "127.0.0.1");
        assert_eq!(host["Tmpfs"]["/tmp"], "rw,nosuid,nodev,mode=1777");
        assert_eq!(made["User"], "1000:1000");
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

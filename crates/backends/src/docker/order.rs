//! Turning the order for an instance into what the engine is told. Pure.
//!
//! Everything is taken away that an app rarely needs: all kernel capabilities, the way to new privileges, swap, traffic with
//! other instances. What an app does need of it is given back by its config.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use skep_docker::{Document, Reference};
use skep_launch::LaunchOrder;
use skep_model::{Gpus, Image, InstanceId};

use crate::container::labels::{INSTANCE, Labels};
use crate::container::{self, LOG_BYTES, LOG_FILES};

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

/// What a container's labels say; `None`: not ours, or of a version that writes them differently.
pub(super) fn labels_of(container: &Document) -> Option<Labels> {
    is_named(container).then(|| Labels::read(container)).flatten()
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
pub(super) fn spec(plan: &Plan<'_>) -> Value {
    let Plan { order, image, labels, .. } = plan;
    let port = labels.port;
    let (command, env) = container::program(order, port, plan.secrets.keys());
    let exposed = format!("{port}/tcp");
    let mut body = json!({
        "Image": plan.reference.to_string(),
        "Env": env,
        "Labels": container::labels(image, labels.write()),
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
    let mut mounts = container::mounts(image);
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
    if let Some(gpus) = &image.gpus {
        let mut request = json!({ "Driver": "", "Capabilities": [["gpu"]] });
        match gpus {
            Gpus::All => request["Count"] = (-1).into(),
            Gpus::Count(count) => request["Count"] = (*count).into(),
            Gpus::Devices(devices) => request["DeviceIDs"] = devices.clone().into(),
        }
        host["DeviceRequests"] = json!([request]);
    }
    if plan.publish {
        host["PortBindings"] = json!({ exposed: [{ "HostIp": "127.0.0.1", "HostPort": "" }] });
    }
    host
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::image;
    use crate::container::labels::{
        APP, CHOSEN, INSTALL, MEMORY, NAME, NETWORK, OWNER, PORT, REVISION, STARTED,
    };
    use crate::framework;
    use serde_json::Map;
    use skep_model::{BindMount, Framework, Principal, Revision, Source, Variant, Volume};
    use std::sync::Arc;

    fn named() -> Variant {
        let chosen = [("region".to_owned(), "e\"u".to_owned())].into();
        Variant { chosen, ..Variant::named("north".parse().ok()) }
    }

    fn order(image: Image) -> LaunchOrder {
        let mut spec = framework::test_spec("sales", Framework::Command);
        spec.source = Source::Image(Box::new(image));
        spec.command = Some(["serve", "{port}", "{user}"].map(str::to_owned).to_vec());
        spec.env.insert("BASE".to_owned(), "{base_path}".to_owned());
        let owner = Principal::User { name: "ada".parse().unwrap(), groups: vec!["g".to_owned()] };
        let id = InstanceId::new(spec.id.clone(), 3);
        LaunchOrder { id, spec: Arc::new(spec), owner: Some(owner), variant: named() }
    }

    fn labels(order: &LaunchOrder) -> Labels {
        Labels {
            install: "0123456789abcdef".to_owned(),
            id: order.id.clone(),
            revision: Revision(u64::MAX),
            owner: order.owner.clone(),
            variant: order.variant.clone(),
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
        spec(&Plan { order, image, labels: &labels, reference: &reference, publish, secrets })
    }

    #[test]
    fn labels_come_back_as_they_were() {
        let order = order(Image::new("team/app:1"));
        let labels = labels(&order);
        let made = made(&order, false);
        let name = format!("/{}", name(&order.id));
        let listed = |made: &Value, names: &[&str]| {
            labels_of(&Document::new(json!({ "Labels": made["Labels"], "Names": names })))
        };
        assert_eq!(listed(&made, &[&name]), Some(labels.clone()));
        assert_eq!(listed(&made, &["/other/alias", &name]), Some(labels.clone()));
        let inspected = json!({ "Config": made, "Name": name });
        assert_eq!(labels_of(&Document::new(inspected)), Some(labels));
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
        for name in [INSTALL, INSTANCE, APP, REVISION, OWNER, NAME, CHOSEN, STARTED, PORT, NETWORK, MEMORY] {
            assert!(labels.contains_key(name), "{name}");
        }
        assert_eq!((&labels[OWNER], &labels[MEMORY]), (&json!(""), &json!("")));
        let read = |labels: &Map<String, Value>| {
            let name = format!("/{}", name(&order.id));
            labels_of(&Document::new(json!({ "Labels": labels, "Name": name }))).unwrap()
        };
        assert_eq!((read(&labels).owner, read(&labels).memory_limit), (None, None));
        labels.remove(OWNER);
        assert_eq!(read(&labels).owner, None, "as earlier versions wrote it");
        assert_eq!(read(&labels).variant, order.variant);
        labels.remove(NAME);
        labels.remove(CHOSEN);
        assert_eq!(read(&labels).variant, Variant::default());
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
        let options = [("type", "nfs"), ("o", "addr=10.0.0.9"), ("device", ":/srv")];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        image.volumes.insert("kept".to_owned(), Volume { driver: "local".to_owned(), options });
        image.labels.insert("team".to_owned(), "sales".to_owned());
        image.gpus = Some(Gpus::Count(2));
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
        assert_eq!(
            host["Mounts"][1]["VolumeOptions"]["DriverConfig"],
            json!({ "Name": "local", "Options": { "type": "nfs", "o": "addr=10.0.0.9", "device": ":/srv" } })
        );
        assert_eq!(host["Mounts"][0].get("VolumeOptions"), None);
        let gpus = json!([{ "Driver": "", "Capabilities": [["gpu"]], "Count": 2 }]);
        assert_eq!((&made["Labels"]["team"], &host["DeviceRequests"]), (&json!("sales"), &gpus));
        assert_eq!(host["Mounts"][2]["Target"], "/run/secrets/KEY");
        assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(64 << 20), &json!(64 << 20)));
        assert_eq!((&host["NanoCpus"], &host["PidsLimit"]), (&json!(500_000_000), &json!(9)));
        assert_eq!(host["PortBindings"]["3838/tcp"][0]["HostIp"], "127.0.0.1");
        assert_eq!(host["Tmpfs"]["/tmp"], "rw,nosuid,nodev,mode=1777");
        assert_eq!(made["User"], "1000:1000");
    }
}

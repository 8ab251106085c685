//! Turning the order for an instance into a service of the Swarm. Pure.
//!
//! One service with one task that is never started again: an instance that ended is Skep's to replace. Everything is taken
//! away that an app rarely needs, as far as a service can say so.

use std::time::Duration;

use serde_json::{Map, Value, json};
use skep_docker::Document;
use skep_launch::LaunchOrder;
use skep_model::{ConfigFile, Image, InstanceId, SeatId};

use super::nodes::LABEL;
use crate::container::labels::{INSTANCE, Labels};
use crate::container::{self, LOG_BYTES, LOG_FILES};

/// Which file a Swarm's secret of ours is.
pub(super) const SECRET: &str = "skep.secret";
/// The seats taken, as far as noted.
const SEATS: &str = "skep.seats";
/// Order to first good answer, once there was one.
const READY: &str = "skep.ready_ms";
/// Longest name of a service.
const NAME_BYTES: usize = 63;

/// The name of an instance's service: a DNS label, so the app's id may have to be cut.
pub(super) fn name(id: &InstanceId) -> String {
    let short = id.short();
    let room = NAME_BYTES - "skep--".len() - short.len();
    let app: String = id.app().as_str().chars().take(room).collect();
    format!("skep-{app}-{short}")
}

/// How the names of an instance's secrets begin.
pub(super) fn secret_prefix(id: &InstanceId) -> String {
    format!("skep-{}-", id.short())
}

/// The name of one of them.
pub(super) fn secret_name(id: &InstanceId, index: usize) -> String {
    format!("{}{index}", secret_prefix(id))
}

/// What a service's labels say; `None`: not ours, or of a version that writes them differently.
pub(super) fn labels_of(service: &Document) -> Option<Labels> {
    let id: InstanceId = service.label(INSTANCE)?.parse().ok()?;
    // A service made by hand from one of ours has its labels, but not its name.
    (service.text("/Spec/Name") == Some(name(&id).as_str())).then(|| Labels::read(service)).flatten()
}

/// What is noted of an instance while it lives, in the labels of its service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) seats: Vec<SeatId>,
    pub(super) ready_ms: Option<u64>,
}

impl Noted {
    pub(super) fn of(service: &Document) -> Self {
        let seats = service.label(SEATS).and_then(|text| serde_json::from_str(text).ok());
        let ready_ms = service.label(READY).and_then(|text| text.parse().ok());
        Self { seats: seats.unwrap_or_default(), ready_ms }
    }

    /// Writes it into a service's spec, and touches nothing else: its task runs on.
    pub(super) fn write(&self, spec: &mut Value) {
        let Some(labels) = spec.get_mut("Labels").and_then(Value::as_object_mut) else { return };
        let seats = serde_json::to_string(&self.seats).unwrap_or_default();
        labels.insert(SEATS.to_owned(), seats.into());
        if let Some(ready_ms) = self.ready_ms {
            labels.insert(READY.to_owned(), ready_ms.to_string().into());
        }
    }
}

/// A secret of the Swarm, and the file it is in the container.
#[derive(Debug, Clone)]
pub(super) struct Secret {
    pub(super) id: String,
    /// Its name in the Swarm.
    pub(super) name: String,
    /// The file, without its folder.
    pub(super) file: String,
}

/// What is decided when the service is made.
pub(super) struct Plan<'a> {
    pub(super) order: &'a LaunchOrder,
    pub(super) image: &'a Image,
    pub(super) labels: &'a Labels,
    /// The image as nodes fetch it.
    pub(super) reference: &'a str,
    pub(super) secrets: &'a [Secret],
    /// Ids of the Swarm's configs, in the order of the image's.
    pub(super) configs: &'a [String],
    pub(super) stop_grace: Duration,
    /// Keep off the managers, unless the app says itself which nodes it is for.
    pub(super) on_workers: bool,
}

/// The Swarm's description of the service.
pub(super) fn service(plan: &Plan<'_>) -> Value {
    let Plan { order, image, labels, .. } = plan;
    let written = labels.write();
    let mut constraints = vec![format!("node.labels.{LABEL} == true")];
    if plan.on_workers && !names_nodes(&image.placement.constraints) {
        constraints.push("node.role == worker".to_owned());
    }
    constraints.extend(image.placement.constraints.iter().cloned());
    let spread = |by: &String| json!({ "Spread": { "SpreadDescriptor": by } });
    let networks = [&labels.network].into_iter().chain(&image.networks);
    json!({
        "Name": name(&order.id),
        "Labels": written,
        "TaskTemplate": {
            "ContainerSpec": container_spec(plan, container::labels(image, written.clone())),
            "Resources": resources(plan),
            "RestartPolicy": { "Condition": "none" },
            "Placement": {
                "Constraints": constraints,
                "Preferences": image.placement.preferences.iter().map(spread).collect::<Vec<_>>(),
            },
            "Networks": networks.map(|network| json!({ "Target": network })).collect::<Vec<_>>(),
            "LogDriver": { "Name": "json-file", "Options": { "max-size": LOG_BYTES, "max-file": LOG_FILES } },
        },
        "Mode": { "Replicated": { "Replicas": 1 } },
        "EndpointSpec": { "Mode": "dnsrr" },
    })
}

/// Whether constraints say of the nodes themselves which it may be: a role besides might leave none.
fn names_nodes(constraints: &[String]) -> bool {
    let named = |constraint: &String| {
        let what = constraint.split(['=', '!']).next().unwrap_or_default().trim();
        matches!(what, "node.role" | "node.id" | "node.hostname" | "node.ip")
    };
    constraints.iter().any(named)
}

fn container_spec(plan: &Plan<'_>, labels: Map<String, Value>) -> Value {
    let Plan { order, image, .. } = plan;
    let (command, env) =
        container::program(order, plan.labels.port, plan.secrets.iter().map(|secret| &secret.file));
    let secret = |secret: &Secret| {
        json!({
            "SecretID": secret.id, "SecretName": secret.name,
            "File": { "Name": secret.file, "UID": "0", "GID": "0", "Mode": 0o444 },
        })
    };
    let config = |(id, config): (&String, &ConfigFile)| {
        json!({
            "ConfigID": id, "ConfigName": config.name,
            "File": { "Name": config.target, "UID": "0", "GID": "0", "Mode": 0o444 },
        })
    };
    let mut mounts = container::mounts(image);
    if image.read_only {
        let writable =
            |target: &str| json!({ "Type": "tmpfs", "Target": target, "TmpfsOptions": { "Mode": 0o1777 } });
        let mounted = |target: &&str| image.mounts.iter().all(|mount| mount.target != **target);
        mounts.extend(["/tmp", "/run"].into_iter().filter(|target| mounted(target)).map(writable));
    }
    let grace = u64::try_from(plan.stop_grace.as_nanos()).unwrap_or(u64::MAX);
    let mut spec = json!({
        "Image": plan.reference,
        "Labels": labels,
        "Env": env,
        "Init": image.init,
        "StopGracePeriod": grace,
        "CapabilityDrop": ["ALL"],
        "CapabilityAdd": image.capabilities,
        // Heeded from Docker 25 on.
        "Privileges": { "NoNewPrivileges": true },
        // Skep probes; a check of the image's own would only delay the start.
        "Healthcheck": { "Test": ["NONE"] },
        "ReadOnly": image.read_only,
        "Mounts": mounts,
        "Secrets": plan.secrets.iter().map(secret).collect::<Vec<_>>(),
        "Configs": plan.configs.iter().zip(&image.configs).map(config).collect::<Vec<_>>(),
    });
    if let Some(command) = command {
        spec["Args"] = command.into();
    }
    if let Some(entrypoint) = &image.entrypoint {
        spec["Command"] = entrypoint.clone().into();
    }
    if let Some(user) = &image.user {
        spec["User"] = user.clone().into();
    }
    spec
}

fn resources(plan: &Plan<'_>) -> Value {
    let nanos = |millis: u32| u64::from(millis) * 1_000_000;
    let (limits, reserve) = (plan.order.spec.limits, &plan.image.reserve);
    let (mut most, mut least) = (Map::new(), Map::new());
    let put = |map: &mut Map<String, Value>, name: &str, value: Option<u64>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), value.into());
        }
    };
    put(&mut most, "NanoCPUs", limits.cpu_millis.map(nanos));
    put(&mut most, "MemoryBytes", limits.memory);
    put(&mut most, "Pids", limits.pids.map(u64::from));
    put(&mut least, "NanoCPUs", reserve.cpu_millis.map(nanos));
    put(&mut least, "MemoryBytes", reserve.memory);
    if !reserve.resources.is_empty() {
        let some = |(kind, value): (&String, &u32)| json!({ "DiscreteResourceSpec": { "Kind": kind, "Value": value } });
        let all: Vec<Value> = reserve.resources.iter().map(some).collect();
        least.insert("GenericResources".to_owned(), all.into());
    }
    json!({ "Limits": most, "Reservations": least })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::labels::{INSTALL, OWNER};
    use crate::framework;
    use skep_model::{BindMount, Framework, Principal, Revision, Source};
    use std::sync::Arc;

    fn order(image: Image) -> LaunchOrder {
        let mut spec = framework::test_spec("sales", Framework::Command);
        spec.source = Source::Image(Box::new(image));
        spec.command = Some(["serve", "{port}", "{user}"].map(str::to_owned).to_vec());
        let owner = Principal::User { name: "ada".parse().unwrap(), groups: vec!["g".to_owned()] };
        let id = InstanceId::new(spec.id.clone(), 3);
        LaunchOrder { id, spec: Arc::new(spec), owner: Some(owner), variant: skep_model::Variant::default() }
    }

    fn labels(order: &LaunchOrder) -> Labels {
        Labels {
            install: "skep".to_owned(),
            id: order.id.clone(),
            revision: Revision(7),
            owner: order.owner.clone(),
            variant: order.variant.clone(),
            started_at_ms: 17,
            port: 3838,
            network: "net".to_owned(),
            memory_limit: None,
        }
    }

    fn made(order: &LaunchOrder, on_workers: bool) -> Value {
        let (image, _) = container::image(&order.spec).unwrap();
        let secrets =
            [Secret { id: "s1".to_owned(), name: secret_name(&order.id, 0), file: "KEY".to_owned() }];
        let (labels, secrets) = (labels(order), &secrets);
        let (reference, stop_grace) = ("team/app:1", Duration::from_secs(10));
        let configs = &["c1".to_owned()];
        service(&Plan { order, image, labels: &labels, reference, secrets, configs, stop_grace, on_workers })
    }

    #[test]
    fn names_are_dns_labels() {
        let named = |app: &str| name(&InstanceId::new(app.parse().unwrap(), 3));
        assert_eq!(named("sales"), "skep-sales-0000000000000003");
        let long = named(&"a".repeat(63));
        assert_eq!(long.len(), NAME_BYTES);
        assert!(long.ends_with("-0000000000000003"));
    }

    #[test]
    fn labels_and_notes_come_back_as_they_were() {
        let order = order(Image::new("team/app:1"));
        let mut spec = made(&order, false);
        let read = |spec: &Value| Document::new(json!({ "ID": "x", "Spec": spec }));
        assert_eq!(labels_of(&read(&spec)), Some(labels(&order)));
        assert_eq!(Noted::of(&read(&spec)), Noted::default());
        let before = spec["TaskTemplate"].to_string();
        let noted = Noted { seats: vec![SeatId(u128::MAX), SeatId(1)], ready_ms: Some(321) };
        noted.write(&mut spec);
        assert_eq!(Noted::of(&read(&spec)), noted);
        assert_eq!(labels_of(&read(&spec)), Some(labels(&order)));
        assert_eq!(spec["TaskTemplate"].to_string(), before, "what runs is not touched");
        spec["Name"] = "copied".into();
        assert_eq!(labels_of(&read(&spec)), None);
        let of_task = &spec["TaskTemplate"]["ContainerSpec"]["Labels"];
        assert_eq!((&of_task[INSTALL], of_task[OWNER].is_string()), (&json!("skep"), true));
    }

    #[test]
    fn a_service_runs_one_task_once_where_an_agent_is() {
        let made_here = made(&order(Image::new("team/app:1")), false);
        let task = &made_here["TaskTemplate"];
        assert_eq!(made_here["Mode"]["Replicated"]["Replicas"], 1);
        assert_eq!(task["RestartPolicy"]["Condition"], "none");
        assert_eq!(task["Placement"]["Constraints"], json!(["node.labels.skep.agent == true"]));
        assert_eq!(task["Networks"], json!([{ "Target": "net" }]));
        let container = &task["ContainerSpec"];
        assert_eq!(container["Args"], json!(["serve", "3838", "ada"]));
        assert_eq!((&container["CapabilityDrop"], &container["Init"]), (&json!(["ALL"]), &json!(true)));
        assert_eq!(container["StopGracePeriod"], 10_000_000_000_u64);
        let env = container["Env"].as_array().unwrap();
        assert!(env.iter().any(|var| var == "KEY_FILE=/run/secrets/KEY"), "{env:?}");
        let secret = &container["Secrets"][0];
        assert_eq!((&secret["SecretID"], &secret["File"]["Name"]), (&json!("s1"), &json!("KEY")));
        assert_eq!(task["Resources"], json!({ "Limits": {}, "Reservations": {} }));
        for absent in ["Command", "User"] {
            assert_eq!(container.get(absent), None, "{absent}");
        }
        let off_managers = made(&order(Image::new("team/app:1")), true);
        assert_eq!(off_managers["TaskTemplate"]["Placement"]["Constraints"][1], "node.role == worker");
    }

    #[test]
    fn an_app_that_names_its_nodes_is_not_kept_off_the_managers() {
        let constraints = |own: &str| {
            let mut image = Image::new("team/app:1");
            image.placement.constraints = vec![own.to_owned()];
            made(&order(image), true)["TaskTemplate"]["Placement"]["Constraints"].clone()
        };
        let agent = "node.labels.skep.agent == true";
        for own in ["node.role == manager", "node.hostname==sk1", "node.id != x", "node.ip == 10.0.0.1"] {
            assert_eq!(constraints(own), json!([agent, own]));
        }
        for own in ["node.labels.node.role == x", "node.platform.os == linux"] {
            assert_eq!(constraints(own), json!([agent, "node.role == worker", own]));
        }
    }

    #[test]
    fn placement_limits_and_the_rest_are_passed_on() {
        let mut image = Image::new("team/app");
        image.placement.constraints = vec!["node.labels.disk == ssd".to_owned()];
        image.placement.preferences = vec!["node.labels.rack".to_owned()];
        let resources = [("gpu".to_owned(), 1)].into();
        image.reserve = skep_model::Reserve { cpu_millis: Some(250), memory: Some(32 << 20), resources };
        image.configs = vec![ConfigFile { name: "sales".to_owned(), target: "/etc/sales.toml".to_owned() }];
        image.labels.insert("team".to_owned(), "sales".to_owned());
        image.networks = vec!["db".to_owned()];
        image.read_only = true;
        image.user = Some("1000".to_owned());
        image.entrypoint = Some(vec!["/entry".to_owned()]);
        image.mounts =
            vec![BindMount { source: "kept".to_owned(), target: "/tmp".to_owned(), read_only: false }];
        let mut order = order(image);
        let spec = Arc::get_mut(&mut order.spec).unwrap();
        spec.limits = skep_model::Limits { cpu_millis: Some(500), memory: Some(64 << 20), pids: Some(9) };
        let made = made(&order, false);
        let task = &made["TaskTemplate"];
        assert_eq!(task["Placement"]["Constraints"][1], "node.labels.disk == ssd");
        assert_eq!(task["Placement"]["Preferences"][0]["Spread"]["SpreadDescriptor"], "node.labels.rack");
        assert_eq!(task["Networks"][1]["Target"], "db");
        assert_eq!(
            task["Resources"],
            json!({
                "Limits": { "NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 9 },
                "Reservations": {
                    "NanoCPUs": 250_000_000, "MemoryBytes": 32 << 20,
                    "GenericResources": [{ "DiscreteResourceSpec": { "Kind": "gpu", "Value": 1 } }],
                },
            })
        );
        let container = &task["ContainerSpec"];
        let targets: Vec<_> = container["Mounts"].as_array().unwrap().iter().map(|m| &m["Target"]).collect();
        assert_eq!(targets, ["/tmp", "/run"], "what is mounted by the config stays");
        assert_eq!(container["Labels"]["team"], "sales");
        assert_eq!(made["Labels"].get("team"), None, "what runs is labelled, not Skep's own bookkeeping");
        let config = &container["Configs"][0];
        assert_eq!((&config["ConfigID"], &config["ConfigName"]), (&json!("c1"), &json!("sales")));
        assert_eq!(config["File"]["Name"], "/etc/sales.toml");
        assert_eq!((&container["User"], &container["Command"]), (&json!("1000"), &json!(["/entry"])));
    }
}

//! A Swarm of one: services, tasks, nodes, secrets, configs, and updates that lose nothing.

use serde_json::json;
use skep_docker::{Address, Engine, Kind};

use crate::daemon::{Daemon, until};

#[tokio::test]
async fn objects_of_a_swarm_are_made_changed_and_removed() {
    // An engine of its own: being a manager changes what the others see.
    let daemon = Daemon::start(|_| Vec::new());
    daemon.enter();
    let engine = Engine::new(Address::unix(daemon.socket()));
    assert!(engine.inspect_swarm().await.unwrap().is_none());
    let init = json!({ "ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1:2377" });
    let node = engine.init_swarm(&init).await.unwrap();
    assert!(engine.inspect_swarm().await.unwrap().unwrap().at("/JoinTokens/Worker").is_some());

    let nodes = engine.list(Kind::Node, &[]).await.unwrap();
    assert_eq!(nodes.iter().map(skep_docker::Document::id).collect::<Vec<_>>(), [node.as_str()]);
    engine.update(Kind::Node, &node, |spec| spec["Labels"] = json!({ "disk": "fast" })).await.unwrap();
    assert_eq!(engine.inspect(Kind::Node, &node).await.unwrap().unwrap().label("disk"), Some("fast"));

    let secret = json!({ "Name": "key", "Data": "c2VjcmV0", "Labels": {} });
    let secret = engine.create(Kind::Secret, &secret).await.unwrap();
    let config = engine.create(Kind::Config, &json!({ "Name": "conf", "Data": "Yg==" })).await.unwrap();
    let service = engine
        .create(
            Kind::Service,
            &json!({
                "Name": "web", "Labels": { "a": "1" },
                "TaskTemplate": {
                    "ContainerSpec": {
                        "Image": "bb:1", "Env": ["A=b"], "Init": true,
                        "Secrets": [{ "SecretID": secret, "SecretName": "key", "File": { "Name": "key", "UID": "0", "GID": "0", "Mode": 292 } }],
                        "Configs": [{ "ConfigID": config, "ConfigName": "conf", "File": { "Name": "/conf", "UID": "0", "GID": "0", "Mode": 292 } }],
                    },
                    "RestartPolicy": { "Condition": "none" },
                },
                "Mode": { "Replicated": { "Replicas": 1 } },
            }),
        )
        .await
        .unwrap();
    let running = until("a task runs", async || {
        let tasks = engine.list(Kind::Task, &[("service", "web")]).await.unwrap();
        tasks.into_iter().find(|task| task.text("/Status/State") == Some("running"))
    })
    .await;
    assert_eq!(running.text("/NodeID"), Some(node.as_str()));

    // What an update does not touch stays, to the byte.
    let before = engine.inspect(Kind::Service, &service).await.unwrap().unwrap();
    engine.update(Kind::Service, "web", |spec| spec["Labels"]["b"] = "2".into()).await.unwrap();
    let after = engine.inspect(Kind::Service, &service).await.unwrap().unwrap();
    let mut expected = before.at("/Spec").unwrap().clone();
    expected["Labels"]["b"] = "2".into();
    assert_eq!(after.at("/Spec").unwrap().to_string(), expected.to_string());

    every_field_survives(&engine, &node, &secret, &config).await;

    // Many at once: each gets through, none overwrites another.
    let updates = (0..4).map(|index| {
        let engine = engine.clone();
        async move {
            engine.update(Kind::Service, "web", |spec| spec["Labels"][format!("n{index}")] = "x".into()).await
        }
    });
    for outcome in futures_util::future::join_all(updates).await {
        outcome.unwrap();
    }
    let labelled = engine.inspect(Kind::Service, "web").await.unwrap().unwrap();
    assert!((0..4).all(|index| labelled.label(&format!("n{index}")) == Some("x")), "{labelled:?}");

    assert!(engine.remove(Kind::Service, "web").await.unwrap());
    assert!(!engine.remove(Kind::Service, "web").await.unwrap());
    until("the secret is free", async || engine.remove(Kind::Secret, &secret).await.ok()).await;
    until("the config is free", async || engine.remove(Kind::Config, &config).await.ok()).await;
    engine.leave_swarm(true).await.unwrap();
}

/// A service with every field the engine of API 1.41 knows, changed in one place: the rest is the same, to the byte.
async fn every_field_survives(engine: &Engine, node: &str, secret: &str, config: &str) {
    let network = json!({ "Name": "over", "Driver": "overlay", "Attachable": true });
    let network = engine.create(Kind::Network, &network).await.unwrap();
    let policy = json!({
        "Parallelism": 2, "Delay": 1_000_000_000, "FailureAction": "pause", "Monitor": 2_000_000_000, "MaxFailureRatio": 0.15,
        "Order": "start-first",
    });
    let all = json!({
        "Name": "all", "Labels": { "a": "1", "empty": "", "odd": "\u{e9}\"\\\u{1f41d}<&>" },
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "bb:1", "Labels": { "l": "v" }, "Command": ["sleep"], "Args": ["1000"], "Hostname": "{{.Task.ID}}",
                "Env": ["A=b", "A=c", "EMPTY="], "Dir": "/tmp", "User": "1:2", "Groups": ["3"],
                "Privileges": { "CredentialSpec": null, "SELinuxContext": { "Disable": true, "User": "u", "Role": "r", "Type": "t", "Level": "l" } },
                "TTY": true, "OpenStdin": true, "ReadOnly": true, "StopSignal": "SIGINT", "StopGracePeriod": 3_000_000_000_i64,
                "Mounts": [
                    { "Type": "tmpfs", "Target": "/scratch", "TmpfsOptions": { "SizeBytes": 1_048_576, "Mode": 448 } },
                    { "Type": "volume", "Source": "v", "Target": "/v", "ReadOnly": true,
                      "VolumeOptions": { "NoCopy": true, "Labels": { "x": "y" }, "DriverConfig": { "Name": "local", "Options": { "type": "nfs", "o": "addr=10.0.0.1" } } } },
                    { "Type": "bind", "Source": "/", "Target": "/host", "BindOptions": { "Propagation": "rslave", "NonRecursive": true } },
                ],
                "Healthcheck": { "Test": ["CMD", "true"], "Interval": 5_000_000_000_i64, "Timeout": 1_000_000_000, "Retries": 4, "StartPeriod": 1_000_000_000 },
                "Hosts": ["10.0.0.9 ten"], "DNSConfig": { "Nameservers": ["10.0.0.53"], "Search": ["example.org"], "Options": ["ndots:2"] },
                "Secrets": [{ "SecretID": secret, "SecretName": "key", "File": { "Name": "k", "UID": "5", "GID": "6", "Mode": 256 } }],
                "Configs": [{ "ConfigID": config, "ConfigName": "conf", "File": { "Name": "/c", "UID": "0", "GID": "0", "Mode": 292 } }],
                "Isolation": "default", "Init": false, "Sysctls": { "net.core.somaxconn": "128" },
                "CapabilityAdd": ["CAP_NET_ADMIN"], "CapabilityDrop": ["CAP_CHOWN"],
                "Ulimits": [{ "Name": "nofile", "Hard": 2048, "Soft": 1024 }],
            },
            "Resources": {
                "Limits": { "NanoCPUs": 250_000_000, "MemoryBytes": 67_108_864, "Pids": 50 },
                "Reservations": { "NanoCPUs": 1_000_000, "MemoryBytes": 4_194_304,
                    "GenericResources": [{ "DiscreteResourceSpec": { "Kind": "gpu", "Value": 1 } }] },
            },
            "RestartPolicy": { "Condition": "on-failure", "Delay": 7, "MaxAttempts": 3, "Window": 9 },
            "Placement": {
                "Constraints": ["node.labels.nowhere == true"], "Preferences": [{ "Spread": { "SpreadDescriptor": "node.labels.rack" } }],
                "MaxReplicas": 2, "Platforms": [{ "Architecture": "amd64", "OS": "linux" }],
            },
            "Networks": [{ "Target": network, "Aliases": ["other"], "DriverOpts": { "o": "p" } }],
            "LogDriver": { "Name": "json-file", "Options": { "max-size": "1m" } }, "ForceUpdate": 3, "Runtime": "container",
        },
        "Mode": { "Replicated": { "Replicas": 2 } }, "UpdateConfig": policy, "RollbackConfig": policy,
        "EndpointSpec": { "Mode": "dnsrr", "Ports": [{ "Name": "web", "Protocol": "tcp", "TargetPort": 80, "PublishedPort": 18_080, "PublishMode": "host" }] },
    });
    engine.create(Kind::Service, &all).await.unwrap();
    let read = async || engine.inspect(Kind::Service, "all").await.unwrap().unwrap();
    let before = read().await;
    // The engine kept what it was given: otherwise this would prove little.
    for pointer in [
        "/ContainerSpec/Ulimits/0/Hard",
        "/ContainerSpec/Privileges/SELinuxContext/Level",
        "/ContainerSpec/Mounts/1/VolumeOptions/DriverConfig/Options/o",
        "/Resources/Reservations/GenericResources/0",
        "/Placement/Preferences/0",
        "/LogDriver/Options/max-size",
    ] {
        assert!(before.at(&format!("/Spec/TaskTemplate{pointer}")).is_some(), "{pointer} of {before:?}");
    }
    assert_eq!(before.at("/Spec/UpdateConfig/MaxFailureRatio").unwrap().to_string(), "0.15");
    engine
        .update(Kind::Service, "all", |spec| spec["Mode"]["Replicated"]["Replicas"] = 3.into())
        .await
        .unwrap();
    let mut expected = before.at("/Spec").unwrap().clone();
    expected["Mode"]["Replicated"]["Replicas"] = 3.into();
    assert_eq!(read().await.at("/Spec").unwrap().to_string(), expected.to_string());
    // And back: as if nothing had been.
    engine
        .update(Kind::Service, "all", |spec| spec["Mode"]["Replicated"]["Replicas"] = 2.into())
        .await
        .unwrap();
    assert_eq!(read().await.at("/Spec").unwrap().to_string(), before.at("/Spec").unwrap().to_string());
    assert!(engine.remove(Kind::Service, "all").await.unwrap());
    let gone = async || engine.remove(Kind::Network, &network).await.ok();
    until("the network is free", gone).await;
    // Nothing else of the node's was touched.
    assert_eq!(engine.inspect(Kind::Node, node).await.unwrap().unwrap().label("disk"), Some("fast"));
}

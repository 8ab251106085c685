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

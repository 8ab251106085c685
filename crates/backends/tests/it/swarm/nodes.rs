//! What a node does and suffers, on engines of their own.

use super::*;
use crate::registry;

#[tokio::test]
async fn how_far_an_image_is_on_its_node_is_told() {
    let daemon: &'static Daemon = Box::leak(Box::new(swarm_of_one(Daemon::start_asking())));
    let harbour = Harbour::on(daemon).await;
    // Time enough for a busy engine to be asked how far it is.
    let registry = registry::slow(Duration::from_secs(1));
    let name = format!("127.0.0.1:{}/team/app:1", registry.port);
    // Its one file is no program: whether that is noticed before or after it is said to run does not matter here.
    let _ = harbour.launch(spec(Image { port: Some(80), ..Image::new(&name) }, "")).await;
    assert!(harbour.engine.inspect_image(&name).await.unwrap().is_some(), "it was fetched");
    let host = node(&harbour.engine).await.text("/Description/Hostname").unwrap().to_owned();
    let told: Vec<String> = harbour.server.progress.lock().iter().map(|(_, detail)| detail.clone()).collect();
    let between = |detail: &String| {
        let percent =
            detail.strip_prefix("pulling ").and_then(|rest| rest.strip_suffix(&format!(" % on {host}")));
        percent.is_some_and(|percent| (1..100).contains(&percent.parse::<u32>().unwrap()))
    };
    assert!(told.iter().any(between), "{told:?}");
}

#[tokio::test]
async fn what_goes_with_its_node_is_nothing_the_app_did() {
    // An engine of its own: what happens to it happens to all who use it.
    let daemon: &'static Daemon = Box::leak(Box::new(swarm_of_one(Daemon::start(|_| Vec::new()))));
    let mut harbour = Harbour::on(daemon).await;
    let engine = harbour.engine.clone();
    let (id, launched) = harbour.launch(web()).await;
    launched.unwrap();
    let availability = async |what: &str| {
        let change = |spec: &mut serde_json::Value| spec["Availability"] = what.into();
        let node = node(&engine).await;
        engine.update(Kind::Node, node.id(), change).await.unwrap();
    };
    availability("drain").await;
    let (ended, report) = harbour.exited().await;
    assert_eq!((ended, report.reason.as_str()), (id, "its node skep-it was drained"));
    assert_eq!(report.ended_by, EndedBy::Platform);

    availability("active").await;
    let (id, launched) = harbour.launch(web()).await;
    launched.unwrap();
    // Beside what happens here: agent, desk and backend are to notice it.
    let anew = tokio::task::spawn_blocking(move || {
        let namespaces = daemon.crash();
        // So long is it away: the backend looks every two seconds.
        std::thread::sleep(Duration::from_secs(5));
        daemon.restart(&namespaces);
    });
    anew.await.unwrap();
    let (ended, report) = harbour.exited().await;
    assert_eq!((ended, report.ended_by), (id, EndedBy::Platform), "{report:?}");
    assert!(report.reason.contains("skep-it"), "{report:?}");
    until("it has left the network that the engine does not get over", async || {
        let networks = engine.list(Kind::Network, &[("scope", "swarm")]).await.unwrap();
        networks.iter().any(|network| network.text("/Name").unwrap().ends_with("_2")).then_some(())
    })
    .await;
    let (id, launched) = harbour.launch(web()).await;
    assert_eq!(get(&launched.unwrap(), "/").await.0, 200, "it goes on where it was");
    harbour.stop(&id).await;
}

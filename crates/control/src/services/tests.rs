//! What becomes of a published service when what it asks for changes.

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::json;
use skep_docker::Document;
use skep_edge::Spread;
use skep_launch::Stream;

use super::*;

/// A task that takes every connection.
struct Open;

impl Dial for Open {
    fn dial(&self) -> BoxFuture<'static, std::io::Result<Stream>> {
        async { Ok(Stream::Other(Box::new(tokio::io::empty()))) }.boxed()
    }

    fn describe(&self) -> String {
        "a task".to_owned()
    }
}

struct World {
    follower: Follower,
    probed: mpsc::Receiver<(String, String)>,
}

impl World {
    fn new() -> Self {
        let (probed_in, probed) = mpsc::channel(8);
        let follower = Follower {
            managers: Managers::new(Vec::new()),
            dial: Arc::new(|_| Arc::new(Open)),
            probed: probed_in,
            services: BTreeMap::new(),
            replaced: Vec::new(),
            complaints: BTreeSet::new(),
            reserved: BTreeSet::new(),
            seen: Seldom::default(),
            failing: false,
        };
        Self { follower, probed }
    }

    /// The Swarm has one service with these labels and one task. Answers whether the table of routes changes.
    fn look(&mut self, labels: Option<Value>) -> bool {
        let service = json!({"ID": "s1", "CreatedAt": "1", "Spec": {"Name": "shop", "Mode": {"Replicated": {"Replicas": 1}}}});
        let task = json!({
            "ID": "t1", "ServiceID": "s1", "NodeID": "n1", "DesiredState": "running",
            "Status": {"State": "running", "ContainerStatus": {"ContainerID": "c1"}},
        });
        let seen = Seen::of(&Document::new(service)).unwrap();
        let lists = (vec![(seen, labels)], vec![Task::of(&Document::new(task)).unwrap()]);
        self.follower.compare(Ok(lists), &[], &BTreeSet::from(["n1".to_owned()])).0
    }

    async fn admit(&mut self) {
        let (service, task) = timeout(Duration::from_secs(60), self.probed.recv()).await.unwrap().unwrap();
        self.follower.admit(&service, &task);
    }

    fn route(&self) -> Arc<ServiceRoute> {
        Arc::clone(&self.follower.services["s1"].route)
    }
}

fn labels(more: Value) -> Option<Value> {
    let mut labels = json!({"skep.route": "/shop/", "skep.port": "80"});
    labels.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Some(labels)
}

#[tokio::test]
async fn a_changed_label_keeps_the_tasks_and_ends_the_old_route_after_the_table() {
    let mut world = World::new();
    assert!(world.look(labels(json!({}))));
    world.admit().await;
    let old = world.route();
    let target = Arc::clone(&old.targets.borrow()[0]);
    assert!(!world.look(labels(json!({}))), "nothing changed");

    assert!(world.look(labels(json!({"skep.balance": "least-load", "skep.wake": "2"}))));
    let new = world.route();
    assert_eq!((old.spread, new.spread), (Spread::RoundRobin, Spread::LeastLoad));
    assert!(Arc::ptr_eq(&new.targets.borrow()[0], &target), "without a moment in which there is none");
    assert!(old.targets.has_changed().is_ok(), "its requests stay until the table of routes is out");
    world.follower.replaced.clear();
    assert!(old.targets.has_changed().is_err());
    assert!(new.targets.has_changed().is_ok());
    // A task that was told to end before the change is still not well after it.
    world.follower.heed(&Hint { node: "n1".to_owned(), container: "c1".to_owned() });
    assert!(world.look(labels(json!({}))));
    assert!(world.route().targets.borrow().is_empty());
}

#[tokio::test]
async fn at_another_place_or_port_tasks_are_tried_anew() {
    let mut world = World::new();
    world.look(labels(json!({})));
    world.admit().await;
    for change in
        [json!({"skep.port": "81"}), json!({"skep.route": "/team/shop"}), json!({"skep.strip": "true"})]
    {
        assert!(world.look(labels(change.clone())), "{change}");
        assert!(world.route().targets.borrow().is_empty(), "{change}");
        world.admit().await;
        assert_eq!(world.route().targets.borrow().len(), 1, "{change}");
    }
}

#[tokio::test]
async fn a_service_without_its_label_is_withdrawn() {
    let mut world = World::new();
    world.look(labels(json!({})));
    let old = world.route();
    assert!(world.look(Some(json!({}))));
    assert!(world.follower.services.is_empty());
    assert!(old.targets.has_changed().is_ok());
    world.follower.replaced.clear();
    assert!(old.targets.has_changed().is_err());
}

//! Ordinary services: requests spread over tasks that come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use skep_edge::{HostRule, ServiceRoute, ServiceTarget, Spread};
use skep_identity::{Admission, Policy};
use skep_model::{Access, AppSpec, Mount, Prefix};
use tokio::sync::watch;

use crate::app::App;
use crate::world::{Setup, World, eventually, spec};

/// A service with so many tasks, published as `/shop/`, or at `/` of a host.
struct Shop {
    spec: Arc<AppSpec>,
    tasks: Vec<Arc<App>>,
    targets: watch::Sender<Arc<[Arc<ServiceTarget>]>>,
}

impl Shop {
    async fn new(tasks: usize, host: bool) -> Self {
        let mut spec = spec("shop", Prefix::Keep);
        if host {
            spec.mount = Mount::root();
        }
        let mut apps = Vec::new();
        for _ in 0..tasks {
            apps.push(App::tcp().await);
        }
        let shop = Self { spec: Arc::new(spec), tasks: apps, targets: watch::Sender::new(Arc::from([])) };
        shop.set(0..tasks);
        shop
    }

    fn target(&self, task: usize) -> Arc<ServiceTarget> {
        ServiceTarget::new(&self.spec, task as u64, self.tasks[task].dialer(false))
    }

    fn set(&self, tasks: impl IntoIterator<Item = usize>) {
        self.targets.send_replace(tasks.into_iter().map(|task| self.target(task)).collect());
    }

    fn service(&self, host: Option<&str>) -> ServiceRoute {
        ServiceRoute::new(Arc::clone(&self.spec), host.map(str::to_owned), self.targets.subscribe())
    }

    fn seen(&self) -> Vec<usize> {
        self.tasks.iter().map(|task| task.seen().len()).collect()
    }
}

#[tokio::test]
async fn requests_take_turns() {
    let world = World::start().await;
    let shop = Shop::new(3, false).await;
    world.publish_services(vec![Arc::new(shop.service(None))]);
    let mut client = world.client().await;
    for n in 0..30 {
        let answer = client.get(&format!("/shop/{n}?q=1")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("set-cookie"), None, "nobody is tied to a task");
    }
    assert_eq!(shop.seen(), [10, 10, 10]);
    assert_eq!(shop.tasks[0].seen()[0].field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(client.get("/shop").await.field("location"), Some("/shop/"));
    let logged = world.logged("/shop/7", 1).await;
    assert_eq!(logged[0]["app"], "shop");
}

#[tokio::test]
async fn a_task_that_is_gone_costs_nobody_an_answer() {
    let world = World::start().await;
    let shop = Shop::new(3, false).await;
    world.publish_services(vec![Arc::new(shop.service(None))]);
    let mut client = world.client().await;
    client.get("/shop/warm").await;
    shop.tasks[1].requests_per_connection.store(1, SeqCst);
    shop.tasks[1].gone.store(true, SeqCst);
    let begun = Instant::now();
    for n in 0..40 {
        let body = "x".repeat(1000 * n);
        let post = format!(
            "POST /shop/{n} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.send(post).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.len()), (200, body.len()), "{}", answer.head);
    }
    let refused = shop.tasks[1].refused.load(SeqCst);
    assert!(refused >= 1, "it was tried");
    // A try is up to three attempts to connect, and is followed by a second's rest.
    let tries = 2 + begun.elapsed().as_secs() as usize;
    assert!(refused <= 3 * tries, "and then left alone: {refused} attempts");
    // Off the list, it gets nothing at all.
    shop.tasks[1].gone.store(false, SeqCst);
    shop.set([0, 2]);
    let before = shop.seen()[1];
    for _ in 0..10 {
        assert_eq!(client.get("/shop/").await.status, 200);
    }
    assert_eq!(shop.seen()[1], before);
}

#[tokio::test]
async fn what_a_task_is_at_goes_on_when_it_leaves_the_list() {
    let world = World::start().await;
    let shop = Shop::new(1, false).await;
    world.publish_services(vec![Arc::new(shop.service(None))]);
    let mut client = world.client().await;
    client.send("GET /shop/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    shop.set([]);
    for n in 1..=3 {
        assert_eq!(client.chunks(9 * n).await.len(), 9 * n);
        shop.tasks[0].go_on.notify_one();
    }
}

#[tokio::test]
async fn a_request_waits_for_a_first_task() {
    let world = World::start().await;
    let shop = Shop::new(1, false).await;
    shop.set([]);
    let service = Arc::new(shop.service(None));
    world.publish_services(vec![Arc::clone(&service)]);
    let mut client = world.client().await;
    client.send("POST /shop/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello").await;
    tokio::time::timeout(Duration::from_secs(60), service.wanted.notified()).await.expect("somebody is told");
    assert_eq!(shop.seen(), [0]);
    shop.set([0]);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert!(world.logged("/shop/x", 1).await[0]["held_ms"].is_number());
}

#[tokio::test]
async fn without_a_task_that_is_said() {
    let world = World::start().await;
    let shop = Shop::new(1, false).await;
    shop.set([]);
    let mut service = shop.service(None);
    service.patience = Duration::from_millis(50);
    world.publish_services(vec![Arc::new(service)]);
    let mut client = world.client().await;
    let answer = client.get("/shop/").await;
    assert_eq!(
        (answer.status, answer.code().as_str(), answer.field("retry-after")),
        (503, "no-task", Some("5"))
    );
    client.send("GET /shop/ HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("no-task-page shop: GET /shop/"), "{}", answer.text());
}

#[tokio::test]
async fn a_visitor_may_stay_with_a_task() {
    let world = World::start().await;
    let shop = Shop::new(3, false).await;
    let mut service = shop.service(None);
    service.sticky = true;
    world.publish_services(vec![Arc::new(service)]);
    let mut client = world.client().await;
    let answer = client.get("/shop/").await;
    let cookie = answer.field("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("Path=/shop/; HttpOnly; SameSite=Lax"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let get = format!("GET /shop/a HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    for _ in 0..9 {
        client.send(&get).await;
        assert_eq!(client.answer().await.field("set-cookie"), None);
    }
    let mut seen = shop.seen();
    let own = seen.iter().position(|count| *count == 10).expect("all went to one task");
    assert!(
        shop.tasks[own].seen().iter().all(|seen| seen.field("cookie").is_none()),
        "our cookie stays with us"
    );
    // When it goes, the visitor is told of another one.
    shop.set((0..3).filter(|task| *task != own));
    client.send(&get).await;
    assert!(client.answer().await.field("set-cookie").is_some());
    seen = shop.seen();
    assert_eq!(seen.iter().sum::<usize>(), 11);
}

#[tokio::test]
async fn the_least_loaded_task_is_next() {
    let world = World::start().await;
    let shop = Shop::new(2, false).await;
    let mut service = shop.service(None);
    service.spread = Spread::LeastLoad;
    let service = Arc::new(service);
    world.publish_services(vec![Arc::clone(&service)]);
    let mut slow = world.client().await;
    slow.send("GET /shop/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    slow.head().await;
    let busy = shop.seen().iter().position(|count| *count == 1).unwrap();
    let mut client = world.client().await;
    for _ in 0..10 {
        client.get("/shop/").await;
    }
    assert_eq!(shop.seen()[busy], 1);
    drop(slow);
    let idle = || service.targets.borrow().iter().all(|target| target.open() == 0).then_some(());
    eventually("the count goes down with the answer", idle).await;
}

#[tokio::test]
async fn a_host_of_its_own() {
    let world = World::start().await;
    world.warm_up().await;
    let shop = Shop::new(1, true).await;
    world.publish_services(vec![Arc::new(shop.service(Some("Shop.example.org")))]);
    let mut client = world.client().await;
    for (host, path, at_shop) in [
        ("shop.EXAMPLE.org", "/", true),
        ("shop.example.org:8080", "/keep/x", true),
        ("localhost", "/keep/x", false),
        ("shop.example.org", "/_skep/health/live", false),
        ("shop.example.org", "/_skep/assets/style.css", false),
    ] {
        let before = shop.seen()[0];
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, 200, "{host}{path}");
        assert_eq!(shop.seen()[0] - before, usize::from(at_shop), "{host}{path}");
    }
    client.send("GET / HTTP/1.1\r\nHost: other.example.org\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 421, "a name nobody published");
    client.send("GET /_skep/ HTTP/1.1\r\nHost: shop.example.org\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 421, "the rest of Skep is elsewhere");
}

#[tokio::test]
async fn an_app_keeps_its_place() {
    let world = World::start().await;
    world.warm_up().await;
    let mut shop = Shop::new(1, false).await;
    let mut taken = spec("shop", Prefix::Keep);
    taken.mount = Mount::of(&"keep".parse().unwrap());
    shop.spec = Arc::new(taken);
    world.publish_services(vec![Arc::new(shop.service(None))]);
    assert_eq!(world.client().await.get("/keep/x").await.status, 200);
    assert_eq!(shop.seen(), [0]);
}

const POST: &str = "POST /shop/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";

/// A request that waits for a task of the service.
async fn waiting(world: &World, service: &Arc<ServiceRoute>, request: &str) -> crate::client::Client {
    let mut client = world.client().await;
    client.send(request).await;
    tokio::time::timeout(Duration::from_secs(60), service.wanted.notified()).await.expect("somebody is told");
    client
}

#[tokio::test]
async fn a_request_that_waits_outlives_a_change_of_its_route() {
    let world = World::start().await;
    let mut shop = Shop::new(2, false).await;
    shop.set([]);
    let first = Arc::new(shop.service(None));
    world.publish_services(vec![Arc::clone(&first)]);
    let mut client = waiting(&world, &first, POST).await;
    // The same service, balanced otherwise: another route, told of its tasks by another sender.
    let old = std::mem::replace(&mut shop.targets, watch::Sender::new(Arc::from([])));
    let mut second = shop.service(None);
    second.spread = Spread::LeastLoad;
    let second = Arc::new(second);
    world.publish_services(vec![Arc::clone(&second)]);
    drop(old);
    tokio::time::timeout(Duration::from_secs(60), second.wanted.notified())
        .await
        .expect("it asks there, too");
    shop.set([0]);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    // What a task is at is not asked again.
    client.send("GET /shop/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    let old = std::mem::replace(&mut shop.targets, watch::Sender::new(Arc::from([])));
    world.publish_services(vec![Arc::new(shop.service(None))]);
    drop(old);
    for n in 1..=3 {
        assert_eq!(client.chunks(9 * n).await.len(), 9 * n);
        shop.tasks[0].go_on.notify_one();
    }
}

#[tokio::test]
async fn a_request_whose_route_is_withdrawn_is_told_so() {
    let world = World::start().await;
    let shop = Shop::new(1, false).await;
    shop.set([]);
    let service = Arc::new(shop.service(None));
    world.publish_services(vec![Arc::clone(&service)]);
    let mut client = waiting(&world, &service, POST).await;
    let page = "GET /shop/ HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n";
    let mut reader = waiting(&world, &service, page).await;
    world.publish_services(Vec::new());
    drop(shop.targets);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "route-withdrawn"), "{}", answer.head);
    let answer = reader.answer().await;
    assert!(answer.text().starts_with("own"), "{}", answer.text());
}

#[tokio::test]
async fn a_request_that_waits_is_admitted_anew() {
    let admission =
        Admission { policy: Policy::new([]), provider: "local".to_owned(), ..Admission::default() };
    let world = World::with(Setup { admission, hosts: HostRule::Any, ..Setup::default() }).await;
    let mut shop = Shop::new(1, false).await;
    let access = |anyone| Access { anyone, ..Access::default() };
    shop.spec = Arc::new(AppSpec { access: access(true), ..(*shop.spec).clone() });
    shop.set([]);
    let first = Arc::new(shop.service(None));
    world.publish_services(vec![Arc::clone(&first)]);
    let mut client = waiting(&world, &first, POST).await;
    shop.spec = Arc::new(AppSpec { access: access(false), ..(*shop.spec).clone() });
    let old = std::mem::replace(&mut shop.targets, watch::Sender::new(Arc::from([])));
    shop.set([0]);
    world.publish_services(vec![Arc::new(shop.service(None))]);
    drop(old);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "login-required"), "{}", answer.head);
    assert_eq!(shop.seen(), [0]);
    // Nor is anybody cut off without a word where logins can end.
    shop.spec = Arc::new(AppSpec { access: access(true), ..(*shop.spec).clone() });
    shop.set([]);
    let service = Arc::new(shop.service(None));
    world.publish_services(vec![Arc::clone(&service)]);
    let mut client = waiting(&world, &service, POST).await;
    world.publish_services(Vec::new());
    drop(shop.targets);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "route-withdrawn"), "{}", answer.head);
}

#[tokio::test]
async fn the_longest_path_has_a_request() {
    let world = World::start().await;
    world.warm_up().await;
    let host = Some("vote.example.org");
    let mut shops = Vec::new();
    for (id, path, host, prefix) in [
        ("front", "/", host, Prefix::Keep),
        ("results", "/results", host, Prefix::Strip),
        ("team-app", "/team/app/", None, Prefix::Strip),
        ("team", "/team", None, Prefix::Keep),
        ("inside", "/keep/api/v2", None, Prefix::Keep),
    ] {
        let mut shop = Shop::new(1, false).await;
        let mut spec = spec(id, prefix);
        spec.mount = Mount::of_path(path).unwrap();
        shop.spec = Arc::new(spec);
        shop.set([0]);
        shops.push((shop, host));
    }
    world.publish_services(shops.iter().map(|(shop, host)| Arc::new(shop.service(*host))).collect());
    let mut client = world.client().await;
    let cases: [(&str, &str, &str, &str); 12] = [
        ("vote.example.org", "/polls/pets", "front", "/polls/pets"),
        ("vote.example.org", "/resultsx", "front", "/resultsx"),
        ("vote.example.org", "/results/polls/pets/results?a=1", "results", "/polls/pets/results?a=1"),
        ("vote.example.org", "/results", "", "/results/"),
        ("localhost", "/team/app/a/b/c", "team-app", "/a/b/c"),
        ("localhost", "/team/app", "", "/team/app/"),
        ("localhost", "/team/app?x=1", "", "/team/app/?x=1"),
        ("localhost", "/team/apps", "team", "/team/apps"),
        ("localhost", "/team/", "team", "/team/"),
        ("localhost", "/keep/api/v2/x", "inside", "/keep/api/v2/x"),
        ("localhost", "/keep/api/v3/x", "keep", ""),
        ("vote.example.org", "/team/app/", "front", "/team/app/"),
    ];
    for (host, path, who, target) in cases {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let answer = client.answer().await;
        if who.is_empty() {
            assert_eq!((answer.status, answer.field("location")), (308, Some(target)), "{host}{path}");
            continue;
        }
        assert_eq!(answer.status, 200, "{host}{path}");
        let seen = |shop: &Shop| shop.tasks[0].seen().last().map(|seen| seen.line().to_owned());
        for (shop, _) in shops.iter().filter(|(shop, _)| shop.spec.id.as_str() == who) {
            assert_eq!(seen(shop), Some(format!("GET {target} HTTP/1.1")), "{host}{path}");
        }
        assert_eq!(world.logged(path.split('?').next().unwrap(), 1).await[0]["app"], who, "{host}{path}");
    }
}

//! Favourites, what was used last, and ending what belongs to one.

use axum::http::Request;
use skep_control::{ControlConfig, LoginConfig, Newcomer};
use skep_edge::Purpose;
use skep_launch::{Claim, ClaimKind, Outcome};
use skep_model::{Access, AppSpec, Principal, Secret};
use tokio_util::sync::CancellationToken;

use crate::world::{Answer, World, app, spec, until};

const PASSWORD: &str = "plum tree in June";

async fn post(world: &World, path: &str, body: &'static str, cookie: &str) -> Answer {
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "text/html")
        .header("sec-fetch-site", "same-origin")
        .header("cookie", cookie)
        .body(body)
        .unwrap();
    world.answer(Purpose::Own, request).await
}

async fn page(world: &World, path: &str, cookie: &str) -> String {
    let request = Request::get(path).header("accept", "text/html").header("cookie", cookie).body("").unwrap();
    world.answer(Purpose::Own, request).await.text
}

async fn log_in(world: &World, body: &'static str) -> String {
    let answer = post(world, "/_skep/login", body, "").await;
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

/// Everybody may open both apps; `private` runs one instance per user.
async fn people() -> World {
    let anyone = || Access { anyone: true, ..Access::default() };
    let private =
        AppSpec { per_user: true, max_instances: 4, access: anyone(), ..spec("private", "Private") };
    let shared = AppSpec { access: anyone(), ..spec("shared", "Shared") };
    let world = World::with_login(LoginConfig::default(), vec![private, shared]).await;
    for (name, admin) in [("ada", true), ("bob", false), ("eve", false)] {
        let password = Some(Secret::new(PASSWORD.to_owned()));
        let newcomer = Newcomer { name: name.to_owned(), admin, groups: Vec::new(), password };
        world.control.roster().add(newcomer).await.unwrap();
    }
    world.control.read_users().await.unwrap();
    world
}

fn visit(world: &World, id: &str, user: &str) -> Outcome {
    let principal = Principal::User { name: user.parse().unwrap(), groups: Vec::new() };
    world.handle.claim(Claim { app: app(id), key: None, principal, kind: ClaimKind::HeldPage })
}

#[tokio::test]
async fn a_favourite_comes_and_goes() {
    let world =
        World::new(ControlConfig::default(), vec![spec("sales", "Sales"), spec("bees", "Bees")]).await;
    let before = page(&world, "/", "").await;
    assert!(!before.contains(">Favourites</h2>"));
    assert_eq!(before.matches("aria-pressed=\"false\"").count(), 2);
    let answer = post(&world, "/_skep/favourites", "add=sales", "").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/"));
    let marked = page(&world, "/", "").await;
    assert!(marked.contains(">Favourites</h2><ul><li><a href=\"/sales/\">Sales</a>"), "{marked}");
    assert!(marked.contains("name=\"remove\" value=\"sales\" aria-pressed=\"true\""));
    assert!(
        !page(&world, "/?q=bees", "").await.contains(">Favourites</h2>"),
        "a search shows what was searched"
    );
    post(&world, "/_skep/favourites", "remove=sales", "").await;
    assert!(!page(&world, "/", "").await.contains(">Favourites</h2>"));
    assert_eq!(post(&world, "/_skep/favourites", "add=nope", "").await.status, 404);
    assert_eq!(post(&world, "/_skep/favourites", "", "").await.status, 404);
}

#[tokio::test]
async fn favourites_are_each_users_own() {
    let world = people().await;
    let out = post(&world, "/_skep/favourites", "add=shared", "").await;
    assert_eq!(out.header("location"), "/_skep/login?to=/", "who is not logged in has none");
    let bob = log_in(&world, "name=bob&password=plum+tree+in+June").await;
    let eve = log_in(&world, "name=eve&password=plum+tree+in+June").await;
    post(&world, "/_skep/favourites", "add=shared", &bob).await;
    assert!(page(&world, "/", &bob).await.contains(">Favourites</h2>"));
    assert!(!page(&world, "/", &eve).await.contains(">Favourites</h2>"));
    assert!(!page(&world, "/", "").await.contains("class=\"star\""));
}

#[tokio::test]
async fn what_was_used_is_named_and_counted() {
    let world = people().await;
    world.doors.open();
    let bob = log_in(&world, "name=bob&password=plum+tree+in+June").await;
    let Outcome::Waiting(waiting) = visit(&world, "shared", "bob") else { panic!("cold") };
    let lease = waiting.granted().await.unwrap();
    let seen = page(&world, "/", &bob).await;
    assert!(seen.contains(">Recently used</h2>") && seen.contains(">in use</em>"), "{seen}");
    let instance = lease.upstream().instance.clone();
    drop(lease);
    // The seat is kept for a while after its last use; ending the instance ends the visit at once.
    world.handle.stop(skep_launch::StopTarget::Instance(instance)).await;
    let end = CancellationToken::new();
    end.cancel();
    world.control.clone().count_visits(end).await;
    let days = world.store.usage().days(0, i64::MAX, None).await.unwrap();
    let rows: Vec<_> = days.iter().map(|day| (day.app.as_str(), day.user.as_deref(), day.visits)).collect();
    assert_eq!(rows, [("shared", Some("bob"), 1)]);
    let later = page(&world, "/", &bob).await;
    assert!(later.contains(">Recently used</h2>") && !later.contains(">in use</em>"), "{later}");
}

/// A script in an app that an administrator opens has the administrator's cookie there, and no more.
#[tokio::test]
async fn beside_a_console_host_apps_cannot_end_what_is_anothers() {
    let world = people().await;
    world.doors.open();
    let mut leases = Vec::new();
    for user in ["bob", "ada"] {
        let Outcome::Waiting(waiting) = visit(&world, "private", user) else { panic!("cold") };
        leases.push(waiting.granted().await.unwrap());
    }
    let [bobs, adas] = [0, 1].map(|at| leases[at].upstream().instance.to_string());
    let ada = log_in(&world, "name=ada&password=plum+tree+in+June").await;
    let stop = async |id: &str| {
        let body: &'static str = format!("instance={id}").leak();
        assert_eq!(post(&world, "/_skep/apps/stop", body, &ada).await.status, 303);
    };
    *world.at_console.lock() = false;
    assert_eq!(page(&world, "/_skep/apps", &ada).await.matches("name=\"instance\"").count(), 1);
    stop(&bobs).await;
    stop(&adas).await;
    leases.pop();
    until("her own is gone", || world.handle.instances().len() == 1).await;
    assert_eq!(world.handle.instances()[0].id.to_string(), bobs);
    *world.at_console.lock() = true;
    stop(&bobs).await;
    leases.pop();
    until("on the console's host she may", || world.handle.instances().is_empty()).await;
}

#[tokio::test]
async fn only_their_own_instances_end_by_a_users_hand() {
    let world = people().await;
    world.doors.open();
    let mut leases = Vec::new();
    for id in ["private", "shared"] {
        let Outcome::Waiting(waiting) = visit(&world, id, "bob") else { panic!("cold") };
        leases.push(waiting.granted().await.unwrap());
    }
    let ids: Vec<String> = leases.iter().map(|lease| lease.upstream().instance.to_string()).collect();
    let bob = log_in(&world, "name=bob&password=plum+tree+in+June").await;
    let eve = log_in(&world, "name=eve&password=plum+tree+in+June").await;
    let ada = log_in(&world, "name=ada&password=plum+tree+in+June").await;
    let buttons =
        async |cookie: &str| page(&world, "/_skep/apps", cookie).await.matches("name=\"instance\"").count();
    assert_eq!((buttons(&ada).await, buttons(&bob).await, buttons(&eve).await), (2, 1, 0));
    assert_eq!(page(&world, "/_skep/apps", &bob).await.matches("you are here").count(), 2);
    let stop = async |id: &str, cookie: &str| {
        let body: &'static str = format!("instance={id}").leak();
        assert_eq!(post(&world, "/_skep/apps/stop", body, cookie).await.status, 303);
    };
    stop(&ids[0], &eve).await;
    stop(&ids[1], &bob).await;
    stop(&ids[0], "").await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(world.handle.instances().len(), 2, "nobody may end what is not theirs");
    stop(&ids[0], &bob).await;
    drop(leases.remove(0));
    until("bob's own is gone", || world.handle.instances().len() == 1).await;
    stop(&ids[1], &ada).await;
    drop(leases);
    until("an administrator ends any", || world.handle.instances().is_empty()).await;
}

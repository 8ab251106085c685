//! Favourites, what was used last, and ending what belongs to one.

use std::time::{Duration, Instant};

use axum::http::Request;
use skep_control::{ControlConfig, LoginConfig, Newcomer};
use skep_edge::{Misnamed, Purpose};
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

/// A page once it holds this: what the store does not tell at once is left out.
async fn page_with(world: &World, path: &str, cookie: &str, text: &str) -> String {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let page = page(world, path, cookie).await;
        if page.contains(text) {
            return page;
        }
        assert!(Instant::now() < end, "no `{text}` in {page}");
    }
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
    world.handle.claim(Claim {
        app: app(id),
        name: None,
        joins: None,
        chosen: None,
        key: None,
        principal,
        kind: ClaimKind::HeldPage,
    })
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
    let first = ">Favourites</h2><ul><li><a href=\"/sales/\">Sales</a>";
    let marked = page_with(&world, "/", "", first).await;
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
    page_with(&world, "/", &bob, ">Favourites</h2>").await;
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
    until("the instance has ended", || world.handle.instances().is_empty()).await;
    let later = page_with(&world, "/", &bob, ">Recently used</h2>").await;
    assert!(!later.contains(">in use</em>"), "{later}");
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
    assert_eq!(page(&world, "/_skep/apps", &ada).await.matches(">End<").count(), 1);
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
    let buttons = async |cookie: &str| page(&world, "/_skep/apps", cookie).await.matches(">End<").count();
    assert_eq!((buttons(&ada).await, buttons(&bob).await, buttons(&eve).await), (2, 1, 0));
    assert_eq!(page(&world, "/_skep/apps", &bob).await.matches("you are here").count(), 2);
    let stop = async |id: &str, cookie: &str| {
        let body: &'static str = format!("instance={id}").leak();
        assert_eq!(post(&world, "/_skep/apps/stop", body, cookie).await.status, 303);
    };
    stop(&ids[0], &eve).await;
    stop(&ids[1], &bob).await;
    stop(&ids[0], "").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.handle.instances().len(), 2, "nobody may end what is not theirs");
    stop(&ids[0], &bob).await;
    drop(leases.remove(0));
    until("bob's own is gone", || world.handle.instances().len() == 1).await;
    stop(&ids[1], &ada).await;
    drop(leases);
    until("an administrator ends any", || world.handle.instances().is_empty()).await;
}

#[tokio::test]
async fn several_of_ones_own_are_listed_opened_and_ended_by_name() {
    let world = people().await;
    world.doors.open();
    let mut leases = Vec::new();
    for (user, name) in [("bob", None), ("bob", Some("north")), ("eve", Some("south"))] {
        let principal = Principal::User { name: user.parse().unwrap(), groups: Vec::new() };
        let name = name.map(|name| name.parse().unwrap());
        let claim = Claim {
            app: app("private"),
            name,
            joins: None,
            chosen: None,
            key: None,
            principal,
            kind: ClaimKind::HeldPage,
        };
        let Outcome::Waiting(waiting) = world.handle.claim(claim) else { panic!("cold") };
        leases.push(waiting.granted().await.unwrap());
    }
    let bob = log_in(&world, "name=bob&password=plum+tree+in+June").await;
    let ada = log_in(&world, "name=ada&password=plum+tree+in+June").await;
    let his = page(&world, "/_skep/apps", &bob).await;
    let (yours, others) = his.split_once("Everybody else").unwrap();
    assert!(yours.contains("<a href=\"/private/\">Private</a>"), "{his}");
    assert!(yours.contains("<a href=\"/private~north/\">Private · north</a>"), "{his}");
    assert_eq!(his.matches(">End<").count(), 2);
    assert!(!his.contains("south") && !his.contains(">eve<"), "what others call theirs is theirs: {his}");
    assert!(others.contains(">Private<") && !others.contains("href=\"/private/\""), "{his}");
    assert!(yours.contains("<option value=\"private\"") && !yours.contains("<option value=\"shared\""));
    let hers = page(&world, "/_skep/apps", &ada).await;
    assert!(hers.contains("Private · south") && hers.contains(">eve</td>"), "{hers}");
    assert_eq!(hers.matches(">End<").count(), 3);

    let open = async |query: &str, cookie: &str| {
        let request = Request::get(format!("/_skep/apps/open?{query}")).header("accept", "text/html");
        world.answer(Purpose::Own, request.header("cookie", cookie).body("").unwrap()).await
    };
    let led = open("app=private&name=My+West", &bob).await;
    assert_eq!((led.status.as_u16(), led.header("location")), (303, "/private~my-west/"));
    for query in ["app=private&name=%7E", "app=shared&name=west", "app=nope&name=west", ""] {
        let refused = open(query, &bob).await;
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.text.contains("role=\"alert\""), "{query}");
    }
    assert!(open("app=private&name=%3Cb%3E%22~", &bob).await.header("location").ends_with("~b/"));

    let north = leases[1].upstream().instance.to_string();
    let body: &'static str = format!("instance={north}").leak();
    leases.remove(1);
    post(&world, "/_skep/apps/stop", body, &bob).await;
    until("the one with the name is gone", || world.handle.instances().len() == 2).await;
}

#[tokio::test]
async fn whoever_has_enough_is_led_to_what_they_have() {
    let world = people().await;
    for name in [None, Some("north")] {
        let refusal = skep_launch::Refusal::TooManyOfOne(3);
        let name = name.map(|name: &str| name.parse().unwrap());
        let request = Request::get("/private~x/").header("accept", "text/html").body("").unwrap();
        let purpose = Purpose::RefusedPage { app: app("private"), name, refusal };
        let answer = world.answer(purpose, request).await;
        assert_eq!(answer.status, 429);
        assert!(
            answer.text.contains("You have 3 of this app") && answer.text.contains("href=\"/_skep/apps\"")
        );
    }
    for (why, words) in [(Misnamed::Shared, "shared by everybody"), (Misnamed::BadName, "A name has 1 to 32")]
    {
        let request = Request::get("/shared~x/").header("accept", "text/html").body("").unwrap();
        let answer = world.answer(Purpose::MisnamedPage { app: app("shared"), why }, request).await;
        assert_eq!(answer.status, 404);
        assert!(answer.text.contains(words), "{}", answer.text);
    }
}

/// Who leaves takes along what is their own, where the app says so; nobody else's, and nothing shared.
#[tokio::test]
async fn what_is_ones_own_ends_when_one_leaves_where_the_app_says_so() {
    let anyone = || Access { anyone: true, ..Access::default() };
    let private = |id: &str, stop_on_logout| AppSpec {
        per_user: true,
        stop_on_logout,
        max_instances: 9,
        access: anyone(),
        ..spec(id, id)
    };
    let shared = AppSpec { stop_on_logout: true, access: anyone(), ..spec("shared", "Shared") };
    let apps = vec![private("ends", true), private("stays", false), shared];
    let world = World::with_login(LoginConfig::default(), apps).await;
    let names = ["ada", "bob", "cyd", "dan"];
    for name in names {
        let password = Some(Secret::new(PASSWORD.to_owned()));
        let newcomer = Newcomer { name: name.to_owned(), admin: name == "ada", groups: Vec::new(), password };
        world.control.roster().add(newcomer).await.unwrap();
    }
    world.control.read_users().await.unwrap();
    let keeping = tokio::spawn(world.control.clone().keep_users());
    world.doors.open();
    for name in names {
        for id in ["ends", "stays"] {
            let Outcome::Waiting(waiting) = visit(&world, id, name) else { panic!("cold") };
            drop(waiting.granted().await.unwrap());
        }
    }
    let Outcome::Waiting(waiting) = visit(&world, "shared", "bob") else { panic!("cold") };
    drop(waiting.granted().await.unwrap());
    let running = |id: &str| {
        let views = world.handle.instances().into_iter().filter(|view| view.app.as_str() == id);
        let mut owners: Vec<_> =
            views.filter_map(|view| view.owner?.user().map(|name| name.as_str().to_owned())).collect();
        owners.sort_unstable();
        owners
    };
    assert_eq!(
        (running("ends"), running("stays")),
        (names.map(str::to_owned).to_vec(), names.map(str::to_owned).to_vec())
    );

    let first = log_in(&world, "name=bob&password=plum+tree+in+June").await;
    let second = log_in(&world, "name=bob&password=plum+tree+in+June").await;
    post(&world, "/_skep/logout", "", &first).await;
    until("bob's is gone, though he is logged in elsewhere", || running("ends") == ["ada", "cyd", "dan"])
        .await;
    assert_eq!(page(&world, "/_skep/account", &second).await.matches("bob").count().min(1), 1);
    let cyd = log_in(&world, "name=cyd&password=plum+tree+in+June").await;
    post(&world, "/_skep/account/sign-out", "", &cyd).await;
    until("cyd's is gone", || running("ends") == ["ada", "dan"]).await;
    world.control.roster().set_disabled("dan", true).await.unwrap();
    until("dan's is gone", || running("ends") == ["ada"]).await;
    world
        .control
        .roster()
        .set_password("ada", Some(Secret::new("pear tree in July".to_owned())))
        .await
        .unwrap();
    world
        .control
        .roster()
        .add(Newcomer {
            name: "eve".to_owned(),
            admin: false,
            groups: Vec::new(),
            password: Some(Secret::new(PASSWORD.to_owned())),
        })
        .await
        .unwrap();
    log_in(&world, "name=eve&password=plum+tree+in+June").await;
    assert_eq!(running("ends"), ["ada"], "a new password ends no app");
    assert_eq!(running("stays"), names);
    assert!(world.handle.instances().iter().any(|view| view.app.as_str() == "shared"));
    keeping.abort();
}

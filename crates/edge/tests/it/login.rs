//! The login at the edge: who is admitted, what the app learns, and what ends when a login does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_edge::HostRule;
use skep_identity::{
    Admission, Gives, Grant, Grantee, LoginCookie, Permission, Person, Policy, Scope, Session, SessionId,
    SessionRules, SessionSealer,
};
use skep_model::{Access, AppSpec, Prefix};

use crate::client::{Answer, Client};
use crate::world::{Setup, World, eventually, spec};

const HTML: &str = "Accept: text/html\r\n";

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn restricted(id: &str, users: &[&str], groups: &[&str]) -> AppSpec {
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    AppSpec {
        access: Access { users: list(users), groups: list(groups), anyone: false },
        ..spec(id, Prefix::Keep)
    }
}

fn open(id: &str) -> AppSpec {
    AppSpec { access: Access { anyone: true, ..Access::default() }, ..spec(id, Prefix::Keep) }
}

fn people(list: &[(&str, &[&str])]) -> HashMap<skep_model::UserName, Person> {
    let person = |groups: &[&str]| Person {
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        ..Person::default()
    };
    list.iter().map(|(name, groups)| (name.parse().unwrap(), person(groups))).collect()
}

fn admission() -> Admission {
    Admission {
        policy: Policy::new([]),
        provider: "local".to_owned(),
        people: people(&[("ada", &["staff"]), ("bob", &[])]),
        ..Admission::default()
    }
}

async fn world(specs: Vec<AppSpec>) -> World {
    World::with(Setup { specs, admission: admission(), hosts: HostRule::Any, ..Setup::default() }).await
}

fn session(user: &str) -> Session {
    Session::begin(user.parse().unwrap(), SessionId(7), "local", false, &SessionRules::default(), now_ms())
}

fn cookie_of(world: &World, session: &Session) -> String {
    let sealed = SessionSealer::new(&world.keys).seal(LoginCookie::Host, session).unwrap();
    format!("Cookie: __Host-skep={sealed}\r\n")
}

fn cookie(world: &World, user: &str) -> String {
    cookie_of(world, &session(user))
}

async fn ask(world: &World, line: &str, fields: &str) -> Answer {
    let mut client = world.client().await;
    client.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
    client.answer().await
}

/// A warm app, so that page loads reach it at once.
async fn warm(world: &World, app: &str, fields: &str) {
    assert_eq!(ask(world, &format!("GET /{app}/__warm"), fields).await.status, 200);
}

#[tokio::test]
async fn without_a_login_pages_lead_to_it_and_the_rest_is_refused() {
    let world = world(vec![restricted("secret", &[], &[])]).await;
    let page = ask(&world, "GET /secret/deep/?a=1&b=%2F", HTML).await;
    assert_eq!(page.status, 303);
    assert_eq!(page.field("location"), Some("/_skep/login?to=/secret/deep/%3Fa%3D1%26b%3D%252F"));
    assert_eq!(page.field("cache-control"), Some("no-store"));
    for (line, fields) in [
        ("GET /secret/data", ""),
        ("POST /secret/data", "Content-Length: 0\r\n"),
        ("HEAD /secret/", HTML),
        ("GET /secret/", "Accept: text/html\r\nSec-Fetch-Mode: cors\r\n"),
    ] {
        let mut client = world.client().await;
        client.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
        let refused = client.head().await;
        assert_eq!(refused.status, 401, "{line}");
    }
    assert_eq!(ask(&world, "GET /secret/data", "").await.code(), "login-required");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n";
    assert_eq!(ask(&world, "GET /secret/ws", upgrade).await.code(), "login-required");
    assert!(world.seen().is_empty(), "nothing reached the app");
    assert_eq!(world.handle.instances().len(), 0, "and nothing was started");
}

#[tokio::test]
async fn the_app_learns_who_it_is_and_nobody_can_pose() {
    let world = world(vec![restricted("secret", &["ADA"], &[]), open("open")]).await;
    let fields = cookie(&world, "ada");
    warm(&world, "secret", &fields).await;
    let forged = "X-SP-UserId: root\r\nX-SP-UserGroups: wheel\r\nShiny-Server-Credentials: {}\r\n\
                  X_SP_UserId: root\r\nConnection: keep-alive, x-sp-userid\r\n";
    assert_eq!(ask(&world, "GET /secret/x", &format!("{fields}{forged}")).await.status, 200);
    let seen = world.seen().pop().unwrap();
    assert_eq!(seen.field("x-sp-userid"), Some("ada"));
    assert_eq!(seen.field("x-sp-usergroups"), Some("staff"));
    assert_eq!(seen.field("shiny-server-credentials"), Some("{\"user\":\"ada\",\"groups\":[\"staff\"]}"));
    assert!(!seen.head.contains("root") && !seen.head.contains("wheel"), "{}", seen.head);
    assert!(!seen.head.contains("__Host-skep"), "our cookie stays with us");

    assert_eq!(ask(&world, "GET /open/x", forged).await.status, 200);
    let seen = world.seen().pop().unwrap();
    assert_eq!(seen.field("x-sp-userid"), None);
    assert_eq!(seen.field("shiny-server-credentials"), None);
    assert!(!seen.head.contains("root"), "{}", seen.head);
}

#[tokio::test]
async fn only_those_an_app_is_for_may_have_it() {
    let world = world(vec![restricted("users", &["ada"], &[]), restricted("groups", &[], &["staff"])]).await;
    let (ada, bob) = (cookie(&world, "ada"), cookie(&world, "bob"));
    for app in ["users", "groups"] {
        warm(&world, app, &ada).await;
        assert_eq!(ask(&world, &format!("GET /{app}/x"), &bob).await.code(), "not-allowed");
        let page = ask(&world, &format!("GET /{app}/"), &format!("{bob}{HTML}")).await;
        assert_eq!(page.status, 403);
        assert!(world.calls.lock().last().unwrap().starts_with(&format!("denied-page {app}")));
    }
    let grant = Grant {
        to: Grantee::User("bob".to_owned()),
        gives: Gives::Permission(Permission::AppsUse),
        on: Scope::App("users".parse().unwrap()),
    };
    world.admission.send(Arc::new(Admission { policy: Policy::new([grant]), ..admission() })).unwrap();
    assert_eq!(ask(&world, "GET /users/x", &bob).await.status, 200);
    assert_eq!(ask(&world, "GET /groups/x", &bob).await.status, 403);
}

#[tokio::test]
async fn hostile_cookies_are_nobodys() {
    let world = world(vec![restricted("secret", &[], &[])]).await;
    let good = cookie(&world, "ada");
    warm(&world, "secret", &good).await;
    let sealed = good.trim_end().rsplit('=').next().unwrap().to_owned();
    let mut flipped = sealed.clone();
    flipped.replace_range(50..51, if &sealed[50..51] == "A" { "B" } else { "A" });
    let plain = SessionSealer::new(&world.keys).seal(LoginCookie::Plain, &session("ada")).unwrap();
    let stranger = SessionSealer::new(&skep_identity::KeyRing::ephemeral().unwrap());
    let stranger = stranger.seal(LoginCookie::Host, &session("ada")).unwrap();
    let unknown = SessionSealer::new(&world.keys).seal(LoginCookie::Host, &session("eve")).unwrap();
    let mut old = session("ada");
    old.idle_until_ms = now_ms() - 1;
    let old = SessionSealer::new(&world.keys).seal(LoginCookie::Host, &old).unwrap();
    for (what, cookie) in [
        ("flipped", format!("__Host-skep={flipped}")),
        ("under the other name", format!("skep={sealed}")),
        ("sealed for the other name", format!("__Host-skep={plain}")),
        ("another key ring's", format!("__Host-skep={stranger}")),
        ("of an unknown user", format!("__Host-skep={unknown}")),
        ("expired", format!("__Host-skep={old}")),
        ("empty", "__Host-skep=".to_owned()),
        ("the seat's", format!("skep-seat={sealed}")),
        (
            "after four others",
            format!("__Host-skep=a; __Host-skep=b; __Host-skep=c; __Host-skep=d; __Host-skep={sealed}"),
        ),
    ] {
        let answer = ask(&world, "GET /secret/x", &format!("Cookie: {cookie}\r\n")).await;
        assert_eq!(answer.status, 401, "{what}");
    }
    assert_eq!(
        ask(&world, "GET /secret/x", &format!("Cookie: __Host-skep=junk; __Host-skep={sealed}\r\n"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn over_plain_http_elsewhere_a_login_counts_only_when_insisted_upon() {
    let world = world(vec![restricted("secret", &[], &[])]).await;
    let good = cookie(&world, "ada");
    warm(&world, "secret", &good).await;
    let plain = SessionSealer::new(&world.keys).seal(LoginCookie::Plain, &session("ada")).unwrap();
    let get = async |cookie: &str| {
        let mut client = world.client().await;
        let head = format!("GET /secret/x HTTP/1.1\r\nHost: apps.example\r\n{cookie}\r\n");
        client.send(head).await;
        client.answer().await.status
    };
    let plain = format!("Cookie: skep={plain}\r\n");
    assert_eq!((get(&good).await, get(&plain).await), (401, 401));
    world.admission.send(Arc::new(Admission { insecure_http: true, ..admission() })).unwrap();
    assert_eq!((get(&good).await, get(&plain).await), (401, 200));
}

#[tokio::test]
async fn a_login_in_use_is_prolonged() {
    let world = world(vec![restricted("secret", &[], &[])]).await;
    let mut half = session("ada");
    half.sealed_at_ms -= 7 * 3_600_000;
    half.idle_until_ms -= 7 * 3_600_000;
    let fields = cookie_of(&world, &half);
    warm(&world, "secret", &fields).await;
    let answer = ask(&world, "GET /secret/x", &fields).await;
    let renewed = answer.fields("set-cookie").find(|cookie| cookie.starts_with("__Host-skep=")).unwrap();
    assert!(renewed.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{renewed}");
    let value = renewed.split(['=', ';']).nth(1).unwrap();
    let opened = SessionSealer::new(&world.keys).open(LoginCookie::Host, value, now_ms()).unwrap();
    assert!(!opened.renew);
    assert_eq!((opened.session.id, opened.session.until_ms), (half.id, half.until_ms));
    let fresh = ask(&world, "GET /secret/x", &cookie(&world, "ada")).await;
    assert_eq!(fresh.fields("set-cookie").filter(|cookie| cookie.starts_with("__Host")).count(), 0);
}

#[tokio::test]
async fn another_sites_posts_do_not_bear_a_login() {
    let world = world(vec![restricted("secret", &[], &[]), open("open")]).await;
    let ada = cookie(&world, "ada");
    warm(&world, "secret", &ada).await;
    warm(&world, "open", "").await;
    let post = async |path: &str, fields: &str| {
        ask(&world, &format!("POST {path}"), &format!("Content-Length: 0\r\n{fields}")).await.status
    };
    let evil = "Origin: https://evil.example\r\n";
    assert_eq!(post("/secret/x", &format!("{ada}{evil}")).await, 403);
    assert_eq!(post("/secret/x", &format!("{ada}Origin: null\r\n")).await, 403);
    assert_eq!(post("/secret/x", &format!("{ada}Origin: http://localhost\r\n")).await, 200);
    assert_eq!(post("/secret/x", &format!("{ada}Origin: https://friend.example\r\n")).await, 200);
    assert_eq!(post("/secret/x", &ada).await, 200, "no browser");
    assert_eq!(post("/open/x", evil).await, 200, "nobody's login is abused");
    assert_eq!(post("/open/x", &format!("{ada}{evil}")).await, 403);
}

async fn tunnel(world: &World, app: &str, fields: &str) -> Client {
    let mut client = world.client().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n";
    client.send(format!("GET /{app}/ws HTTP/1.1\r\nHost: localhost\r\n{fields}{upgrade}\r\n")).await;
    assert_eq!(client.head().await.status, 101);
    assert_eq!(client.take(5).await, b"hello");
    client
}

/// Whether the server ends the connection, which would otherwise stay open for as long as its client.
async fn ends(client: &mut Client) -> bool {
    tokio::time::timeout(Duration::from_secs(30), client.rest()).await.is_ok()
}

#[tokio::test]
async fn what_a_login_opened_ends_with_it() {
    let no_bob = Admission { people: people(&[("ada", &["staff"])]), ..admission() };
    let mut disabled = admission();
    disabled.people.get_mut(&"bob".parse().unwrap()).unwrap().disabled = true;
    let mut everywhere = admission();
    everywhere.people.get_mut(&"bob".parse().unwrap()).unwrap().not_before_ms = i64::MAX;
    let revoked = Admission { revoked: HashMap::from([(SessionId(99), i64::MAX)]), ..admission() };
    for (what, change) in
        [("removed", no_bob), ("disabled", disabled), ("everywhere", everywhere), ("logout", revoked)]
    {
        let world = world(vec![restricted("secret", &[], &[])]).await;
        let (ada, bob) = (cookie(&world, "ada"), Session { id: SessionId(99), ..session("bob") });
        let bob = cookie_of(&world, &bob);
        warm(&world, "secret", &ada).await;
        let mut hers = tunnel(&world, "secret", &ada).await;
        let mut his = tunnel(&world, "secret", &bob).await;
        let mut stream = world.client().await;
        stream.send(format!("GET /secret/events HTTP/1.1\r\nHost: localhost\r\n{bob}\r\n")).await;
        assert_eq!(stream.head().await.status, 200);
        assert!(stream.chunks(5).await.starts_with(b"data:"));
        world.admission.send(Arc::new(change)).unwrap();
        assert!(ends(&mut his).await, "{what}: the WebSocket");
        assert!(ends(&mut stream).await, "{what}: the stream");
        hers.send("still here").await;
        assert_eq!(hers.take(10).await, b"still here", "{what}: another's goes on");
        eventually("the end of one tunnel", || (world.edge.open_tunnels() == 1).then_some(())).await;
        assert_eq!(ask(&world, "GET /secret/x", &bob).await.status, 401);
    }
}

#[tokio::test]
async fn a_change_of_the_apps_rules_ends_what_they_do_not_allow() {
    let world = world(vec![open("lab"), restricted("secret", &["ada", "bob"], &[])]).await;
    let (ada, bob) = (cookie(&world, "ada"), cookie(&world, "bob"));
    warm(&world, "lab", "").await;
    warm(&world, "secret", &ada).await;
    let mut anybody = tunnel(&world, "lab", "").await;
    let mut his = tunnel(&world, "secret", &bob).await;
    let mut hers = tunnel(&world, "secret", &ada).await;
    world.publish(vec![restricted("lab", &[], &["staff"]), restricted("secret", &["ada"], &[])]);
    assert!(ends(&mut anybody).await && ends(&mut his).await);
    hers.send("still here").await;
    assert_eq!(hers.take(10).await, b"still here");
}

#[tokio::test]
async fn guests_are_told_apart_where_everybody_gets_an_instance() {
    let per_user = AppSpec { per_user: true, ..open("own") };
    for login in [false, true] {
        let admission = if login { admission() } else { Admission::default() };
        let setup = Setup { specs: vec![per_user.clone(), open("shared")], admission, ..Setup::default() };
        let world = World::with(setup).await;
        let visit = async |cookie: &str| {
            let fields = format!("Cookie: {cookie}\r\n");
            let page = ask(&world, "GET /own/", &format!("{HTML}{fields}")).await;
            let guest = page.fields("set-cookie").find(|cookie| cookie.starts_with("skep-guest="));
            guest.map(|cookie| cookie.split(';').next().unwrap().to_owned())
        };
        let one = visit("a=b").await.unwrap();
        let two = visit("a=b").await.unwrap();
        assert_ne!(one, two);
        assert_eq!(visit(&one).await, None, "known already");
        eventually("two instances", || (world.handle.instances().len() == 2).then_some(())).await;
        let answer = ask(&world, "GET /own/x", &format!("Cookie: {one}; own=1\r\n")).await;
        assert_eq!(answer.status, 200);
        let seen = world.seen().pop().unwrap();
        assert_eq!(seen.field("cookie"), Some("own=1"), "the identity stays with us");
        assert_eq!(seen.field("x-sp-userid"), None);
        assert_eq!(world.handle.instances().len(), 2);
        let shared = ask(&world, "GET /shared/", HTML).await;
        assert_eq!(shared.fields("set-cookie").filter(|cookie| cookie.starts_with("skep-guest")).count(), 0);
    }
}

#[tokio::test]
async fn without_a_login_configured_everybody_has_every_app() {
    let world =
        World::with(Setup { specs: vec![restricted("secret", &["ada"], &[])], ..Setup::default() }).await;
    warm(&world, "secret", "").await;
    let ada = cookie(&world, "ada");
    assert_eq!(ask(&world, "GET /secret/x", &ada).await.status, 200);
    assert_eq!(world.seen().pop().unwrap().field("x-sp-userid"), None, "a cookie means nothing here");
}

//! Logging in and out, one-time links, the account, users through the API.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use skep_control::{LoginConfig, Newcomer};
use skep_edge::Purpose;
use skep_identity::ThrottleRules;
use skep_model::{Access, AppSpec, EventKind, Secret};
use skep_store::Filter;
use tower::ServiceExt;

use crate::world::{Answer, World, read, spec, until};

const GOOD: &str = "plum tree in June";
const OTHER: &str = "pear tree in July";

fn form(path: &str, fields: &[(&str, &str)], cookie: &str) -> Request<String> {
    let escape = |text: &str| {
        text.bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect::<String>()
    };
    let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin")
        .header("cookie", cookie)
        .body(body.join("&"))
        .unwrap()
}

async fn post(world: &World, path: &str, fields: &[(&str, &str)], cookie: &str) -> Answer {
    world.answer(Purpose::Own, form(path, fields, cookie)).await
}

async fn get(world: &World, path: &str, cookie: &str) -> Answer {
    let request = Request::get(path).header("accept", "text/html").header("cookie", cookie).body("").unwrap();
    world.answer(Purpose::Own, request).await
}

/// The cookie of an answer as a browser sends it back; empty when it was taken away.
fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie");
    assert!(set.contains("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{set}");
    let pair = set.split(';').next().unwrap();
    if pair.ends_with('=') { String::new() } else { pair.to_owned() }
}

async fn log_in(world: &World, name: &str, password: &str) -> Answer {
    post(world, "/_skep/login", &[("name", name), ("password", password), ("to", "/sales/?a=1")], "").await
}

async fn ada() -> World {
    let open = AppSpec { access: Access { anyone: true, ..Access::default() }, ..spec("open", "Open") };
    let lab = AppSpec {
        access: Access { groups: vec!["lab".into()], ..Access::default() },
        ..spec("lab", "Laboratory")
    };
    // A first wait so long that no machine is slow enough to have it over.
    let throttle = ThrottleRules { first_wait: Duration::from_secs(60), ..ThrottleRules::default() };
    let config = LoginConfig { throttle, ..LoginConfig::default() };
    let world = World::with_login(config, vec![open, lab, spec("sales", "Sales")]).await;
    for (name, admin) in [("Ada", true), ("bob", false)] {
        let password = Some(Secret::new(GOOD.to_owned()));
        let newcomer = Newcomer { name: name.to_owned(), admin, groups: Vec::new(), password };
        assert_eq!(world.control.roster().add(newcomer).await.unwrap().1, None);
    }
    world.control.read_users().await.unwrap();
    world
}

async fn events(world: &World, kind: EventKind) -> Vec<(Option<String>, String)> {
    let filter = Filter { kind: Some(kind), ..Filter::default() };
    let records = world.store.journal().after(0, 100, &filter).await.unwrap();
    records.into_iter().map(|record| (record.event.user, record.event.detail)).collect()
}

async fn eventually(world: &World, kind: EventKind, count: usize) -> Vec<(Option<String>, String)> {
    for _ in 0..6_000 {
        let found = events(world, kind).await;
        if found.len() >= count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no {count} events of {kind:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_opens_what_is_for_the_user_and_a_logout_closes_it() {
    let world = ada().await;
    let page = get(&world, "/_skep/login?to=%2Fsales%2F", "").await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("name=\"to\" value=\"/sales/\""), "{}", page.text);
    let portal = get(&world, "/", "").await;
    assert!(portal.text.contains("Open") && !portal.text.contains("Sales") && portal.text.contains("Log in"));

    let answer = log_in(&world, "  ADA ", GOOD).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/sales/?a=1"));
    assert!(!answer.header("set-cookie").contains("Max-Age"), "ends with the browser");
    let hers = cookie(&answer);
    let portal = get(&world, "/", &hers).await;
    assert!(portal.text.contains("Sales") && portal.text.contains(">ada</a>"), "{}", portal.text);
    assert!(portal.text.contains("Laboratory"), "an administrator may open everything");
    let session = get(&world, "/_skep/api/v1/session", &hers).await.json();
    assert_eq!((session["user"].as_str(), session["login"].as_bool()), (Some("ada"), Some(true)));
    assert_eq!(session["permissions"].as_array().unwrap().len(), 19);
    assert_eq!(get(&world, "/_skep/login?to=/sales/", &hers).await.header("location"), "/sales/");

    let bob = cookie(&log_in(&world, "bob", GOOD).await);
    let portal = get(&world, "/", &bob).await;
    assert!(portal.text.contains("Sales") && !portal.text.contains("Laboratory"));

    assert_eq!(get(&world, "/_skep/logout", &hers).await.status, 200, "a link alone ends nothing");
    assert!(get(&world, "/", &hers).await.text.contains(">ada</a>"));
    let out = post(&world, "/_skep/logout", &[], &hers).await;
    assert_eq!((out.status.as_u16(), out.header("location")), (303, "/_skep/login?out=1"));
    assert_eq!(cookie(&out), "");
    assert!(!get(&world, "/", &hers).await.text.contains(">ada</a>"), "the old cookie is dead at once");
    assert!(get(&world, "/", &bob).await.text.contains(">bob</a>"), "others stay");
    assert_eq!(eventually(&world, EventKind::Login, 2).await.len(), 2);
    assert_eq!(eventually(&world, EventKind::Logout, 1).await, [(Some("ada".to_owned()), String::new())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staying_signed_in_is_a_choice() {
    let world = ada().await;
    let fields = [("name", "ada"), ("password", GOOD), ("stay", "1")];
    let answer = post(&world, "/_skep/login", &fields, "").await;
    assert!(answer.header("set-cookie").ends_with("; Max-Age=2592000"), "{}", answer.header("set-cookie"));
    assert_eq!(answer.header("location"), "/");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_names_and_wrong_passwords_look_alike_and_are_slowed_down() {
    let world = ada().await;
    let nobody = log_in(&world, "nobody", GOOD).await;
    let wrong = log_in(&world, "ada", "wrong").await;
    assert_eq!((nobody.status, wrong.status), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED));
    assert_eq!(nobody.text.replace("nobody", "ada"), wrong.text);
    assert!(!wrong.headers.contains_key("set-cookie"));
    for _ in 0..5 {
        log_in(&world, "ada", "wrong").await;
    }
    let slow = log_in(&world, "ada", GOOD).await;
    assert_eq!(slow.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(slow.text.contains("Too many attempts") && !slow.header("retry-after").is_empty());
    assert_eq!(log_in(&world, "bob", GOOD).await.status, 303, "another account is not slowed down");
    let failed = eventually(&world, EventKind::LoginFailed, 7).await;
    assert_eq!(
        failed[0],
        (None, "unknown user, from 127.0.0.1".to_owned()),
        "typed names are not written down"
    );
    assert_eq!(failed[1], (Some("ada".to_owned()), "from 127.0.0.1".to_owned()));
    let metrics = read(
        world
            .control
            .metrics_router()
            .oneshot(Request::get("/metrics").body(Body::empty()).unwrap())
            .await
            .unwrap(),
    )
    .await;
    for result in ["ok", "wrong", "throttled"] {
        assert!(
            metrics.text.contains(&format!("skep_logins_total{{provider=\"local\",result=\"{result}\"}}")),
            "{result}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabled_users_stay_out_and_go_at_once() {
    let world = ada().await;
    let bob = cookie(&log_in(&world, "bob", GOOD).await);
    world.control.roster().set_disabled("BOB", true).await.unwrap();
    world.control.read_users().await.unwrap();
    assert!(!get(&world, "/", &bob).await.text.contains(">bob</a>"));
    assert_eq!(log_in(&world, "bob", GOOD).await.status, StatusCode::UNAUTHORIZED);
    world.control.roster().set_disabled("bob", false).await.unwrap();
    let again = cookie(&log_in(&world, "bob", GOOD).await);
    assert!(get(&world, "/", &again).await.text.contains(">bob</a>"));
    assert!(!get(&world, "/", &bob).await.text.contains(">bob</a>"), "the old login stays dead");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_made_elsewhere_is_noticed() {
    let world = ada().await;
    let bob = cookie(&log_in(&world, "bob", GOOD).await);
    let keeping = tokio::spawn(world.control.clone().keep_users());
    // As another server does on a shared store.
    world.store.people().remove("bob").await.unwrap();
    let admission = world.control.admission();
    until("the change", || admission.borrow().people.len() == 1).await;
    assert!(!get(&world, "/", &bob).await.text.contains(">bob</a>"));
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_travels_in_the_clear() {
    let world = ada().await;
    *world.host.lock() = "apps.example".to_owned();
    for answer in [
        get(&world, "/_skep/login", "").await,
        log_in(&world, "ada", GOOD).await,
        get(&world, "/_skep/invite?token=x", "").await,
    ] {
        assert_eq!(answer.status, 403);
        assert!(answer.text.contains("not encrypted") && !answer.headers.contains_key("set-cookie"));
    }
    let insecure = LoginConfig { insecure_http: true, ..LoginConfig::default() };
    let world = World::with_login(insecure, vec![]).await;
    *world.host.lock() = "apps.example".to_owned();
    let password = Some(Secret::new(GOOD.to_owned()));
    world
        .control
        .roster()
        .add(Newcomer { name: "ada".into(), password, ..Newcomer::default() })
        .await
        .unwrap();
    let answer = log_in(&world, "ada", GOOD).await;
    assert_eq!(answer.status, 303);
    let set = answer.header("set-cookie");
    assert!(set.starts_with("skep=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_administrator_comes_by_a_link_that_works_once() {
    let world = World::with_login(LoginConfig::default(), vec![spec("sales", "Sales")]).await;
    assert_eq!(get(&world, "/", "").await.header("location"), "/_skep/login");
    let link = world.control.roster().set_up_link().await.unwrap().unwrap();
    let token = link.path.strip_prefix("/_skep/invite?token=").unwrap();
    assert!(get(&world, &link.path, "").await.text.contains("Set up the first administrator"));
    let set_up = async |name: &str, new: &str, again: &str| {
        post(&world, "/_skep/invite", &[("token", token), ("name", name), ("new", new), ("again", again)], "")
            .await
    };
    for (name, new, again, problem) in [
        ("ada", GOOD, OTHER, "differ"),
        ("ada", "short", "short", "at least 10 characters"),
        ("ada", "adaadaadaadb", "adaadaadaadb", "contain the user name"),
        ("", GOOD, GOOD, "1 to 128"),
    ] {
        let answer = set_up(name, new, again).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert!(answer.text.contains(problem), "{problem}: {}", answer.text);
    }
    let done = set_up("Ada", GOOD, GOOD).await;
    assert_eq!((done.status.as_u16(), done.header("location")), (303, "/"));
    let hers = cookie(&done);
    assert!(get(&world, "/_skep/account", &hers).await.text.contains("Administrator"));
    let again = set_up("eve", OTHER, OTHER).await;
    assert_eq!(again.status, StatusCode::GONE);
    assert!(again.text.contains("This link does not work"));
    assert_eq!(get(&world, &link.path, "").await.status, StatusCode::GONE);
    assert_eq!(world.control.roster().set_up_link().await.unwrap(), None);
    assert_eq!(world.control.roster().list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_up_link_is_void_once_there_is_an_administrator() {
    let world = World::with_login(LoginConfig::default(), vec![]).await;
    let link = world.control.roster().set_up_link().await.unwrap().unwrap();
    let token = link.path.rsplit('=').next().unwrap();
    let password = Some(Secret::new(GOOD.to_owned()));
    world
        .control
        .roster()
        .add(Newcomer { name: "ada".into(), admin: true, password, ..Newcomer::default() })
        .await
        .unwrap();
    let fields = [("token", token), ("name", "eve"), ("new", OTHER), ("again", OTHER)];
    assert_eq!(post(&world, "/_skep/invite", &fields, "").await.status, StatusCode::GONE);
    assert_eq!(world.control.roster().list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_change_their_password_and_sign_out_everywhere() {
    let world = ada().await;
    assert_eq!(get(&world, "/_skep/account", "").await.header("location"), "/_skep/login?to=/_skep/account");
    let (one, two) = (cookie(&log_in(&world, "ada", GOOD).await), cookie(&log_in(&world, "ada", GOOD).await));
    let change = async |current: &str, new: &str, cookie: &str| {
        post(&world, "/_skep/account/password", &[("current", current), ("new", new), ("again", new)], cookie)
            .await
    };
    assert_eq!(change("wrong", OTHER, &one).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(change(GOOD, "short", &one).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let changed = change(GOOD, OTHER, &one).await;
    assert_eq!((changed.status.as_u16(), changed.header("location")), (303, "/_skep/account"));
    let three = cookie(&changed);
    let inside = async |cookie: &str| get(&world, "/_skep/account", cookie).await.status == 200;
    assert!(!inside(&one).await && !inside(&two).await && inside(&three).await);
    assert_eq!(log_in(&world, "ada", GOOD).await.status, StatusCode::UNAUTHORIZED);
    let four = cookie(&log_in(&world, "ada", OTHER).await);
    let out = post(&world, "/_skep/account/sign-out", &[], &three).await;
    assert_eq!((out.header("location"), cookie(&out).as_str()), ("/_skep/login?out=everywhere", ""));
    assert!(!inside(&three).await && !inside(&four).await);
    assert!(inside(&cookie(&log_in(&world, "ada", OTHER).await)).await, "and in again");
}

async fn api(world: &World, method: &str, path: &str, body: &str, cookie: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(format!("/_skep/api/v1/{path}"))
        .header("sec-fetch-site", "same-origin");
    let request =
        request.header("content-type", "application/json").header("cookie", cookie).body(body.to_owned());
    world.answer(Purpose::Own, request.unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_keep_users_through_the_api_with_their_password() {
    let world = ada().await;
    let hers = cookie(&log_in(&world, "ada", GOOD).await);
    let bob = cookie(&log_in(&world, "bob", GOOD).await);
    let confirm = format!("\"confirm\":\"{GOOD}\"");
    for (method, path) in [
        ("GET", "users"),
        ("POST", "users"),
        ("DELETE", "users/ada"),
        ("GET", "grants"),
        ("GET", "events"),
        ("GET", "instances"),
        ("POST", "stop"),
    ] {
        assert_eq!(api(&world, method, path, "{}", "").await.code(), "login-required", "{method} {path}");
        assert_eq!(api(&world, method, path, "{}", &bob).await.code(), "not-allowed", "{method} {path}");
    }
    assert_eq!(api(&world, "GET", "events", "", &hers).await.status, 200);
    let new = |rest: &str| format!("{{\"name\":\"Eve\",\"groups\":[\"lab\"]{rest}}}");
    assert_eq!(api(&world, "POST", "users", &new(""), &hers).await.code(), "password-needed");
    assert_eq!(
        api(&world, "POST", "users", &new(",\"confirm\":\"wrong\""), &hers).await.code(),
        "password-needed"
    );
    let added = api(&world, "POST", "users", &new(&format!(",{confirm}")), &hers).await;
    assert_eq!(added.status, 201);
    let link = added.json()["invitation"]["path"].as_str().unwrap().to_owned();
    assert_eq!(api(&world, "POST", "users", &new(&format!(",{confirm}")), &hers).await.code(), "name-taken");
    let list = api(&world, "GET", "users", "", &hers).await.json();
    let eve = &list.as_array().unwrap()[2];
    assert_eq!((eve["name"].as_str(), eve["has_password"].as_bool()), (Some("eve"), Some(false)));
    assert_eq!(log_in(&world, "eve", "").await.status, StatusCode::UNAUTHORIZED, "no password, no login");

    let token = link.rsplit('=').next().unwrap();
    assert!(get(&world, &link, "").await.text.contains("Welcome, <b>eve</b>"));
    let chosen =
        post(&world, "/_skep/invite", &[("token", token), ("new", OTHER), ("again", OTHER)], "").await;
    let eve = cookie(&chosen);
    assert!(get(&world, "/", &eve).await.text.contains("Laboratory"), "her group's app");

    let patch = |rest: &str| format!("{{{rest},{confirm}}}");
    assert_eq!(api(&world, "PATCH", "users/eve", &patch("\"groups\":[]"), &hers).await.status, 204);
    assert!(!get(&world, "/", &eve).await.text.contains("Laboratory"), "at once, in the same login");
    let grant = "\"grantee\":\"user:eve\",\"gives\":\"apps.use\",\"scope\":\"app:lab\"";
    assert_eq!(api(&world, "POST", "grants", &patch(grant), &hers).await.status, 204);
    assert!(get(&world, "/", &eve).await.text.contains("Laboratory"));
    assert_eq!(api(&world, "DELETE", "grants", &patch(grant), &hers).await.status, 204);
    assert_eq!(api(&world, "DELETE", "grants", &patch(grant), &hers).await.code(), "unknown-grant");
    let bad = "\"grantee\":\"everybody\",\"gives\":\"apps.use\",\"scope\":\"app:lab\"";
    assert_eq!(api(&world, "POST", "grants", &patch(bad), &hers).await.code(), "bad-grant");

    assert_eq!(
        api(&world, "DELETE", "users/ada", &format!("{{{confirm}}}"), &hers).await.code(),
        "last-administrator"
    );
    assert_eq!(
        api(&world, "PATCH", "users/ada", &patch("\"disabled\":true"), &hers).await.code(),
        "last-administrator"
    );
    assert_eq!(api(&world, "PATCH", "users/eve", &patch("\"admin\":true"), &hers).await.status, 204);
    assert_eq!(api(&world, "GET", "users", "", &eve).await.status, 200);
    assert_eq!(api(&world, "DELETE", "users/bob", &format!("{{{confirm}}}"), &hers).await.status, 204);
    assert!(!get(&world, "/", &bob).await.text.contains(">bob</a>"));
    assert_eq!(
        api(&world, "DELETE", "users/bob", &format!("{{{confirm}}}"), &hers).await.code(),
        "unknown-user"
    );
    assert_eq!(api(&world, "PATCH", "users/x", "{\"grups\":[]}", &hers).await.code(), "bad-body");

    // Who did what is in the journal; what was refused is not.
    let by = |user: &str, detail: &str| (Some(user.to_owned()), detail.to_owned());
    let added = eventually(&world, EventKind::UserAdded, 1).await;
    assert_eq!(added, [by("ada", "eve: a user, groups: lab")]);
    assert_eq!(
        eventually(&world, EventKind::UserChanged, 3).await,
        [
            by("eve", "eve: new password, by a link"),
            by("ada", "eve: in no group"),
            by("ada", "eve: is an administrator"),
        ]
    );
    assert_eq!(eventually(&world, EventKind::UserRemoved, 1).await, [by("ada", "bob")]);
    let sentence = "user:eve apps.use on app:lab";
    assert_eq!(eventually(&world, EventKind::GrantAdded, 1).await, [by("ada", sentence)]);
    assert_eq!(eventually(&world, EventKind::GrantRemoved, 1).await, [by("ada", sentence)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_the_confirmation_is_slowed_down() {
    let config = LoginConfig {
        throttle: ThrottleRules {
            free_per_account: 2,
            first_wait: Duration::from_secs(60),
            ..ThrottleRules::default()
        },
        ..LoginConfig::default()
    };
    let world = World::with_login(config, vec![]).await;
    let password = Some(Secret::new(GOOD.to_owned()));
    world
        .control
        .roster()
        .add(Newcomer { name: "ada".into(), admin: true, password, ..Newcomer::default() })
        .await
        .unwrap();
    let hers = cookie(&log_in(&world, "ada", GOOD).await);
    for _ in 0..3 {
        assert_eq!(
            api(&world, "DELETE", "users/x", "{\"confirm\":\"guess\"}", &hers).await.code(),
            "password-needed"
        );
    }
    assert_eq!(api(&world, "DELETE", "users/x", "{\"confirm\":\"guess\"}", &hers).await.code(), "slow-down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_of_other_sites_are_refused() {
    let world = ada().await;
    let hers = cookie(&log_in(&world, "ada", GOOD).await);
    for path in [
        "/_skep/login",
        "/_skep/logout",
        "/_skep/invite",
        "/_skep/account/password",
        "/_skep/account/sign-out",
    ] {
        let mut request = form(path, &[("name", "ada"), ("password", GOOD)], &hers);
        request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
        assert_eq!(world.answer(Purpose::Own, request).await.code(), "cross-site", "{path}");
    }
    assert!(get(&world, "/", &hers).await.text.contains(">ada</a>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_forms_are_answered() {
    let world = ada().await;
    for body in ["", "name", "name=%ff&password=%ff", "name=a&name=b", "%%%", "password=\0"] {
        let request =
            Request::post("/_skep/login").header("content-type", "application/x-www-form-urlencoded");
        let request = request.header("sec-fetch-site", "same-origin").body(body).unwrap();
        let status = world.answer(Purpose::Own, request).await.status.as_u16();
        assert!(matches!(status, 400 | 401), "{body:?} {status}");
    }
    let long = "x".repeat(25_000);
    let answer = post(&world, "/_skep/login", &[("name", &long), ("password", &long)], "").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.text.len() < 8_000, "what was typed is not sent back in full");
    let answer =
        post(&world, "/_skep/login", &[("name", "ada"), ("password", GOOD), ("to", "//evil.example/")], "")
            .await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/"));
    for token in ["", "x", "%00", "..%2F..", &"a".repeat(10_000)] {
        assert_eq!(get(&world, &format!("/_skep/invite?token={token}"), "").await.status, StatusCode::GONE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_login_there_is_nothing_to_log_in_to() {
    let world = World::new(skep_control::ControlConfig::default(), vec![spec("sales", "Sales")]).await;
    assert_eq!(get(&world, "/_skep/login?to=/sales/", "").await.header("location"), "/sales/");
    assert_eq!(get(&world, "/_skep/account", "").await.header("location"), "/_skep/login?to=/_skep/account");
    assert!(!get(&world, "/", "").await.text.contains("Log in"));
    assert_eq!(api(&world, "GET", "users", "", "").await.code(), "operators-only");
    let session = get(&world, "/_skep/api/v1/session", "").await.json();
    assert_eq!(
        (session["login"].as_bool(), session["permissions"].as_array().unwrap().len()),
        (Some(false), 0)
    );
}

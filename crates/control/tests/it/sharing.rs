//! Letting others onto one's own instance.

use axum::http::Request;
use skep_control::{ControlConfig, LoginConfig, Newcomer};
use skep_edge::Purpose;
use skep_identity::{KeyRing, Share, ShareIn, ShareSealer};
use skep_launch::{Claim, ClaimKind, Lease, Outcome};
use skep_model::{Access, AppSpec, Principal, Secret};

use crate::world::{Answer, World, app, spec, until};

const PASSWORD: &str = "plum tree in June";

async fn send(world: &World, method: &str, path: &str, body: &str, cookie: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "text/html")
        .header("sec-fetch-site", "same-origin")
        .header("cookie", cookie);
    world.answer(Purpose::Own, request.body(body.to_owned()).unwrap()).await
}

async fn log_in(world: &World, name: &str) -> String {
    let body = format!("name={name}&password=plum+tree+in+June");
    let answer = send(world, "POST", "/_skep/login", &body, "").await;
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

/// `private` is for ada (an administrator), bob and eve, mallory may not open it.
async fn people() -> World {
    let users = ["ada", "bob", "eve"].map(str::to_owned).to_vec();
    let access = Access { users, ..Access::default() };
    let world = World::with_login(
        LoginConfig::default(),
        vec![AppSpec { per_user: true, seats: 4, access, ..spec("private", "Private") }],
    )
    .await;
    for name in ["ada", "bob", "eve", "mallory"] {
        let password = Some(Secret::new(PASSWORD.to_owned()));
        let newcomer = Newcomer { name: name.to_owned(), admin: name == "ada", groups: Vec::new(), password };
        world.control.roster().add(newcomer).await.unwrap();
    }
    world.control.read_users().await.unwrap();
    world
}

async fn start(world: &World, user: &str) -> Lease {
    world.doors.open();
    let principal = Principal::User { name: user.parse().unwrap(), groups: Vec::new() };
    let name = "north".parse().ok();
    let kind = ClaimKind::HeldPage;
    let claim = Claim { app: app("private"), name, joins: None, chosen: None, key: None, principal, kind };
    let Outcome::Waiting(waiting) = world.handle.claim(claim) else { panic!("cold") };
    waiting.granted().await.unwrap()
}

/// The link on the owner's page.
fn link_in(page: &str) -> Option<String> {
    let after = page.split("http://localhost:8080").nth(1)?;
    Some(after.split('"').next()?.to_owned())
}

#[tokio::test]
async fn an_owner_shares_and_stops_and_nobody_else_does() {
    let world = people().await;
    let lease = start(&world, "bob").await;
    let id = lease.upstream().instance.to_string();
    let (bob, eve, mallory) =
        (log_in(&world, "bob").await, log_in(&world, "eve").await, log_in(&world, "mallory").await);
    let body = format!("instance={id}");
    for stranger in [eve.as_str(), ""] {
        send(&world, "POST", "/_skep/apps/share", &body, stranger).await;
    }
    assert!(world.control.admission().borrow().shares.is_empty(), "only its owner shares it");
    send(&world, "POST", "/_skep/apps/share", &body, &bob).await;
    let his = send(&world, "GET", "/_skep/apps", "", &bob).await.text;
    let link = link_in(&his).unwrap_or_else(|| panic!("{his}"));
    assert!(his.contains(">Stop sharing<"), "{his}");
    assert!(link_in(&send(&world, "GET", "/_skep/apps", "", &eve).await.text).is_none());

    // Opening the link asks; joining sets the cookie and leads to the address.
    let asked = send(&world, "GET", &link, "", &eve).await;
    assert_eq!(asked.status, 200);
    assert!(
        asked.text.contains("bob lets you into") && asked.text.contains("Private · north"),
        "{}",
        asked.text
    );
    assert_eq!(asked.header("set-cookie"), "", "looking is not joining");
    let token = link.split("token=").nth(1).unwrap().to_owned();
    let joined = send(&world, "POST", "/_skep/share", &format!("token={token}"), &eve).await;
    assert_eq!((joined.status.as_u16(), joined.header("location")), (303, "/private~north/"));
    assert_eq!(joined.header("referrer-policy"), "no-referrer");
    let cookie = joined.header("set-cookie").to_owned();
    assert!(cookie.starts_with("skep-share=") && cookie.contains("HttpOnly"), "{cookie}");
    assert!(!cookie.contains(&token), "the cookie is sealed apart from the link");
    let guest = format!("{eve}; {}", cookie.split(';').next().unwrap());
    // Left behind at the browser, it is worth nothing to whoever logs in there next.
    let ada = log_in(&world, "ada").await;
    assert!(!ada.is_empty());
    let taken = format!("{ada}; {}", cookie.split(';').next().unwrap());
    assert!(!send(&world, "GET", "/_skep/apps", "", &taken).await.text.contains("You are a guest"));
    let hers = send(&world, "GET", "/_skep/apps", "", &guest).await.text;
    assert!(hers.contains("You are a guest") && hers.contains("bob shares Private · north"), "{hers}");
    let left = send(&world, "POST", "/_skep/share/leave", "", &guest).await;
    assert!(
        left.header("set-cookie").starts_with("skep-share=; ")
            && left.header("set-cookie").ends_with("Max-Age=0")
    );

    // The owner is led to the address itself; who may not open the app learns nothing; who is not logged in logs in first.
    let own = send(&world, "GET", &link, "", &bob).await;
    assert_eq!((own.status.as_u16(), own.header("location")), (303, "/private~north/"));
    assert_eq!(send(&world, "GET", &link, "", &mallory).await.status, 404);
    assert_eq!(send(&world, "POST", "/_skep/share", &format!("token={token}"), &mallory).await.status, 404);
    let out = send(&world, "GET", &link, "", "").await;
    assert!(
        out.header("location").starts_with("/_skep/login?to=/_skep/share%3Ftoken%3D"),
        "{}",
        out.header("location")
    );
    assert_eq!(send(&world, "POST", "/_skep/share", &format!("token={token}"), "").await.status, 401);

    send(&world, "POST", "/_skep/apps/unshare", &body, &eve).await;
    assert_eq!(send(&world, "GET", &link, "", &eve).await.status, 200, "only its owner stops it");
    send(&world, "POST", "/_skep/apps/unshare", &body, &bob).await;
    assert!(world.control.admission().borrow().shares.is_empty());
    assert_eq!(send(&world, "GET", &link, "", &eve).await.status, 404);
    assert!(!send(&world, "GET", "/_skep/apps", "", &guest).await.text.contains("You are a guest"));
    // A new sharing does not revive the old link.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    send(&world, "POST", "/_skep/apps/share", &body, &bob).await;
    assert_eq!(send(&world, "GET", &link, "", &eve).await.status, 404);
    let anew = link_in(&send(&world, "GET", "/_skep/apps", "", &bob).await.text).unwrap();
    assert_eq!(send(&world, "GET", &anew, "", &eve).await.status, 200);
    let instance = lease.upstream().instance.clone();
    drop(lease);
    world.handle.stop(skep_launch::StopTarget::Instance(instance)).await;
    assert_eq!(send(&world, "GET", &anew, "", &eve).await.status, 404, "it ends with the instance");
}

#[tokio::test]
async fn what_somebody_shares_ends_with_their_rights_and_a_guest_with_the_login() {
    let world = people().await;
    tokio::spawn(world.control.clone().keep_users());
    let lease = start(&world, "bob").await;
    let (bob, eve) = (log_in(&world, "bob").await, log_in(&world, "eve").await);
    let body = format!("instance={}", lease.upstream().instance);
    send(&world, "POST", "/_skep/apps/share", &body, &bob).await;
    let link = link_in(&send(&world, "GET", "/_skep/apps", "", &bob).await.text).unwrap();
    assert_eq!(send(&world, "GET", &link, "", &eve).await.status, 200);
    world.control.roster().set_disabled("bob", true).await.unwrap();
    let shared = || !world.control.admission().borrow().shares.is_empty();
    tokio::time::timeout(std::time::Duration::from_secs(60), async {
        while shared() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(send(&world, "GET", &link, "", &eve).await.status, 404);
    let out = send(&world, "POST", "/_skep/logout", "", &eve).await;
    let dropped = out.headers.get_all("set-cookie").iter().any(|cookie| {
        cookie
            .to_str()
            .is_ok_and(|cookie| cookie.starts_with("skep-share=; ") && cookie.ends_with("Max-Age=0"))
    });
    assert!(dropped, "{:?}", out.headers);
}

#[tokio::test]
async fn forged_and_foreign_tokens_lead_nowhere() {
    let world = people().await;
    let lease = start(&world, "bob").await;
    let bob = log_in(&world, "bob").await;
    let eve = log_in(&world, "eve").await;
    send(&world, "POST", "/_skep/apps/share", &format!("instance={}", lease.upstream().instance), &bob).await;
    let since_ms = world.control.admission().borrow().shares[&lease.upstream().instance].since_ms;
    let share = Share { instance: lease.upstream().instance.clone(), name: "north".parse().ok(), since_ms };
    let own = ShareSealer::new(&world.keys);
    let good = own.seal(ShareIn::Link, &share).unwrap();
    assert_eq!(send(&world, "GET", &format!("/_skep/share?token={good}"), "", &eve).await.status, 200);
    let mut forged = good.clone();
    forged.replace_range(30..31, if &good[30..31] == "A" { "B" } else { "A" });
    let strangers = ShareSealer::new(&KeyRing::ephemeral().unwrap());
    for (what, token) in [
        ("none", String::new()),
        ("forged", forged),
        ("of other keys", strangers.seal(ShareIn::Link, &share).unwrap()),
        ("a cookie", own.seal(ShareIn::Cookie(&Principal::Anonymous), &share).unwrap()),
        ("of an earlier sharing", own.seal(ShareIn::Link, &Share { since_ms: 1, ..share.clone() }).unwrap()),
    ] {
        let answer = send(&world, "GET", &format!("/_skep/share?token={token}"), "", &eve).await;
        assert_eq!(answer.status, 404, "{what}");
        assert_eq!(
            send(&world, "POST", "/_skep/share", &format!("token={token}"), &eve).await.status,
            404,
            "{what}"
        );
    }
}

#[tokio::test]
async fn where_sharing_is_turned_off_there_is_no_button() {
    let config = ControlConfig { share_lifetime: std::time::Duration::ZERO, ..ControlConfig::default() };
    let world = World::new(config, vec![AppSpec { per_user: true, ..spec("private", "Private") }]).await;
    let page = world.get("/_skep/apps").await.text;
    assert!(!page.contains("/_skep/apps/share"), "{page}");
    assert!(world.control.admission().borrow().shares.is_empty());
}

#[tokio::test]
async fn what_is_shared_ends_when_its_owner_loses_the_right_to_the_app() {
    let access = Access { groups: vec!["lab".to_owned()], ..Access::default() };
    let private =
        || AppSpec { per_user: true, seats: 4, access: access.clone(), ..spec("private", "Private") };
    let world = World::with_login(LoginConfig::default(), vec![private()]).await;
    for name in ["bob", "eve"] {
        let password = Some(Secret::new(PASSWORD.to_owned()));
        let groups = vec!["lab".to_owned()];
        let newcomer = Newcomer { name: name.to_owned(), admin: false, groups, password };
        world.control.roster().add(newcomer).await.unwrap();
    }
    world.control.read_users().await.unwrap();
    tokio::spawn(world.control.clone().keep_users());
    let lease = start(&world, "bob").await;
    let (bob, eve) = (log_in(&world, "bob").await, log_in(&world, "eve").await);
    let body = format!("instance={}", lease.upstream().instance);
    let shared = || !world.control.admission().borrow().shares.is_empty();
    let share = async || {
        send(&world, "POST", "/_skep/apps/share", &body, &bob).await;
        assert!(shared());
        link_in(&send(&world, "GET", "/_skep/apps", "", &bob).await.text).unwrap()
    };
    // By the users: he leaves the group.
    let link = share().await;
    assert_eq!(send(&world, "GET", &link, "", &eve).await.status, 200);
    world.control.roster().set_groups("bob", Vec::new()).await.unwrap();
    until("it is not shared any more", || !shared()).await;
    assert_eq!(send(&world, "GET", &link, "", &eve).await.status, 404);
    world.control.roster().set_groups("bob", vec!["lab".to_owned()]).await.unwrap();
    world.control.read_users().await.unwrap();
    // By the configuration: the app is for eve alone.
    share().await;
    let access = Access { users: vec!["eve".to_owned()], ..Access::default() };
    world.handle.set_apps(vec![std::sync::Arc::new(AppSpec { access, ..private() })]);
    until("it is not shared any more", || !shared()).await;
}

#[tokio::test]
async fn who_manages_an_app_sees_what_is_shared_of_it_and_ends_that() {
    let world = people().await;
    let lease = start(&world, "bob").await;
    let (bob, eve, ada) =
        (log_in(&world, "bob").await, log_in(&world, "eve").await, log_in(&world, "ada").await);
    let id = lease.upstream().instance.to_string();
    let body = format!("instance={id}");
    let row = async || world.operate("GET", &format!("/_skep/api/v1/instances/{id}")).await.json();
    assert!(row().await["shared_until"].is_null());
    send(&world, "POST", "/_skep/apps/share", &body, &bob).await;
    assert!(row().await["shared_until"].as_str().unwrap().ends_with('Z'));
    let page = send(&world, "GET", "/_skep/apps", "", &ada).await.text;
    assert!(page.contains("Shared by its owner for another") && page.contains(">Stop sharing<"), "{page}");
    assert!(link_in(&page).is_none(), "the link is its owner's");
    let page = send(&world, "GET", "/_skep/apps", "", &eve).await.text;
    assert!(!page.contains("Shared by its owner") && !page.contains(">Stop sharing<"), "{page}");
    send(&world, "POST", "/_skep/apps/unshare", &body, &ada).await;
    assert!(world.control.admission().borrow().shares.is_empty());
    send(&world, "POST", "/_skep/apps/share", &body, &bob).await;
    let ended = world.operate("POST", &format!("/_skep/api/v1/instances/{id}/unshare")).await;
    assert_eq!(ended.status, 200);
    assert!(ended.json()["shared_until"].is_null());
    assert!(world.control.admission().borrow().shares.is_empty());
    let unknown = world.operate("POST", "/_skep/api/v1/instances/private.0000000000000001/unshare").await;
    assert_eq!(unknown.code(), "unknown-instance");
}

#[tokio::test]
async fn where_there_is_one_seat_nobody_can_join() {
    let world = people().await;
    let private = (*world.handle.apps()[0]).clone();
    world.handle.set_apps(vec![std::sync::Arc::new(AppSpec { seats: 1, ..private })]);
    let lease = start(&world, "bob").await;
    let bob = log_in(&world, "bob").await;
    let page = send(&world, "GET", "/_skep/apps", "", &bob).await.text;
    assert!(page.contains(">End<") && !page.contains("/_skep/apps/share"), "{page}");
    let body = format!("instance={}", lease.upstream().instance);
    send(&world, "POST", "/_skep/apps/share", &body, &bob).await;
    assert!(world.control.admission().borrow().shares.is_empty());
}

#[tokio::test]
async fn from_the_consoles_host_one_is_led_to_where_apps_are() {
    let elsewhere = Some("https://apps.example.org".to_owned());
    let config = ControlConfig { apps_elsewhere: elsewhere, ..ControlConfig::default() };
    let world = World::new(config, vec![AppSpec { per_user: true, ..spec("private", "Private") }]).await;
    let page = world.get("/_skep/apps").await;
    let policy = page.header("content-security-policy");
    assert!(policy.contains("form-action 'self' https://apps.example.org;"), "{policy}");
    let open = world.get("/_skep/apps/open?app=private&name=north").await;
    assert_eq!(open.header("location"), "https://apps.example.org/private~north/");
    let link = world.get("/_skep/share?token=a%26b").await;
    assert_eq!(link.header("location"), "https://apps.example.org/_skep/share?token=a%26b");
    // On the apps' own host nothing leads elsewhere.
    *world.at_console.lock() = false;
    let page = world.get("/_skep/apps").await;
    assert!(page.header("content-security-policy").contains("form-action 'self';"));
    let open = world.get("/_skep/apps/open?app=private&name=north").await;
    assert_eq!(open.header("location"), "/private~north/");
    assert_eq!(world.get("/_skep/share?token=a").await.status, 404);
}

#[tokio::test]
async fn a_guest_without_a_login_is_known_by_the_browser() {
    let open = AppSpec { per_user: true, ..spec("private", "Private") };
    let world = World::new(ControlConfig::default(), vec![open]).await;
    let lease = start(&world, "bob").await;
    let instance = lease.upstream().instance.clone();
    let row = skep_store::ShareRow { instance: instance.to_string(), since_ms: 1, until_ms: i64::MAX };
    world.store.people().share(&row).await.unwrap();
    world.control.read_users().await.unwrap();
    let share = Share { instance, name: "north".parse().ok(), since_ms: 1 };
    let sealer = ShareSealer::new(&world.keys);
    let token = sealer.seal(ShareIn::Link, &share).unwrap();
    let joined = send(&world, "POST", "/_skep/share", &format!("token={token}"), "").await;
    assert_eq!(joined.status, 303);
    let cookies: Vec<&str> =
        joined.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect();
    let value = |name: &str| {
        let found = cookies.iter().find_map(|cookie| cookie.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("{name} in {cookies:?}")).split(';').next().unwrap()
    };
    let id = skep_identity::GuestSealer::new(&world.keys).open(value("skep-guest")).unwrap();
    let sealed = value("skep-share");
    assert_eq!(sealer.open(ShareIn::Cookie(&Principal::Guest(id)), sealed), Some(share));
    assert_eq!(sealer.open(ShareIn::Cookie(&Principal::Anonymous), sealed), None);
}

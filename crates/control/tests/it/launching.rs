//! A visitor waits for an app: the page, its stream, a failure, another try.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use skep_control::{ControlConfig, LoginConfig, Newcomer};
use skep_edge::Purpose;
use skep_launch::{BackendError, Refusal};
use skep_model::Secret;

use crate::world::{Lines, World, app, spec, until};

fn shows_logs() -> ControlConfig {
    ControlConfig { show_logs: true, ..ControlConfig::default() }
}

fn request(path: &str) -> Request<&'static str> {
    Request::get(path).header("accept", "text/html").body("").unwrap()
}

fn request_of(cookie: &str) -> Request<&'static str> {
    Request::get("/sales/").header("accept", "text/html").header("cookie", cookie).body("").unwrap()
}

/// The cookies of an administrator and of a user. Both may open every app.
async fn ada_and_bob(world: &World) -> [String; 2] {
    let mut cookies = [String::new(), String::new()];
    for (name, cookie) in ["ada", "bob"].into_iter().zip(&mut cookies) {
        let password = Some(Secret::new("plum tree in June".to_owned()));
        let newcomer = Newcomer { name: name.to_owned(), admin: name == "ada", groups: Vec::new(), password };
        world.control.roster().add(newcomer).await.unwrap();
        world.control.read_users().await.unwrap();
        let form = Request::post("/_skep/login")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", "same-origin")
            .body(format!("name={name}&password=plum+tree+in+June"));
        let answer = world.answer(Purpose::Own, form.unwrap()).await;
        answer.header("set-cookie").split(';').next().unwrap().clone_into(cookie);
    }
    cookies
}

#[tokio::test]
async fn the_page_shows_the_stage_and_the_log() {
    let world = World::new(shows_logs(), vec![spec("sales", "Sales <report>")]).await;
    let seat = world.claim("sales").unwrap();
    let id = world.instance("sales", false).await;
    until("the boot stage", || world.handle.status(&app("sales"), None).stage == skep_launch::Stage::Boot)
        .await;
    world.doors.write(&id, "\u{1b}[31mloading <data>\u{1b}[0m");
    let purpose = Purpose::LaunchPage { app: app("sales"), name: None, seat };
    let page = world.answer(purpose, request("/sales/deep?x=1")).await;
    assert_eq!(page.status, 503);
    assert_eq!((page.header("cache-control"), page.header("retry-after")), ("no-store", "2"));
    assert!(page.text.contains("<h1>Sales &lt;report&gt;</h1>"));
    assert!(page.text.contains("the first line\nloading &lt;data&gt;\n"), "{}", page.text);
    assert!(page.text.contains("<li class=\"now\" aria-current=\"step\">"));
    assert!(page.text.contains("Request 0000000000005eed"));
    assert!(page.text.len() <= 15 * 1024);
}

#[tokio::test]
async fn the_stream_tells_every_change_until_the_app_is_ready() {
    let world = World::new(shows_logs(), vec![spec("sales", "Sales")]).await;
    let seat = world.claim("sales").unwrap();
    let id = world.instance("sales", false).await;
    until("the boot stage", || world.handle.status(&app("sales"), None).stage == skep_launch::Stage::Boot)
        .await;
    let purpose = Purpose::LaunchFollow { app: app("sales"), seat };
    let response = world.call(purpose, request("/sales/")).await;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut lines = Lines::of(Body::new(response.into_body()));
    let first = lines.json().await;
    assert!(["start", "boot"].contains(&first["stage"].as_str().unwrap()), "{first}");
    assert_eq!((&first["place"], &first["waiting"]), (&1.into(), &1.into()));
    world.doors.write(&id, "halfway");
    let mut logged = Vec::new();
    while logged.last().is_none_or(|line| line != "halfway") {
        let line = lines.json().await;
        if let Some(more) = line["log"].as_array() {
            logged.extend(more.iter().map(|line| line.as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(logged, ["the first line", "halfway"]);
    let opened = std::time::Instant::now();
    world.doors.open();
    let mut last = first;
    while let Some(line) = lines.next().await {
        last = serde_json::from_str(&line).unwrap();
    }
    assert_eq!(last["stage"], "ready");
    assert_eq!(last["says"], "The app is ready and opens now.");
    // Not only with the next sign of life, which is sent every ten seconds.
    assert!(opened.elapsed().as_secs() < 8, "{:?}", opened.elapsed());
}

#[tokio::test]
async fn visitors_who_may_not_see_logs_get_none() {
    let world = World::with_login(LoginConfig::default(), vec![spec("sales", "Sales")]).await;
    let [ada, bob] = ada_and_bob(&world).await;
    let seat = world.claim("sales").unwrap();
    world.instance("sales", false).await;
    until("the boot stage", || world.handle.status(&app("sales"), None).stage == skep_launch::Stage::Boot)
        .await;
    for (cookie, sees) in [(ada.as_str(), true), (bob.as_str(), false), ("", false)] {
        let purpose = Purpose::LaunchPage { app: app("sales"), name: None, seat: seat.clone() };
        let page = world.answer(purpose, request_of(cookie)).await;
        assert_eq!(page.text.contains("the first line"), sees, "{}", page.text);
    }
    let purpose = Purpose::LaunchFollow { app: app("sales"), seat };
    let response = world.call(purpose, request_of(&bob)).await;
    world.doors.open();
    let mut lines = Lines::of(Body::new(response.into_body()));
    while let Some(line) = lines.next().await {
        assert!(!line.contains("\"log\""), "{line}");
    }
}

#[tokio::test]
async fn a_failed_start_shows_what_the_app_wrote_only_to_who_may_see_its_log() {
    let world = World::with_login(LoginConfig::default(), vec![spec("sales", "Sales")]).await;
    let [ada, bob] = ada_and_bob(&world).await;
    let summary = "exited with status 1: no vault for hunter2".to_owned();
    let last_lines = vec!["hunter2 it is".to_owned(), "skep: no vault for hunter2".to_owned()];
    let error = BackendError::App { summary: summary.clone(), last_lines: last_lines.clone() };
    *world.doors.broken.lock() = Some(error);
    let refusal = Refusal::StartFailed { summary, last_lines, retry_after: Duration::from_secs(1) };
    // On a host of apps, what asks may be a script of another app.
    let visitors = [
        (ada.as_str(), true, true),
        (ada.as_str(), false, false),
        (bob.as_str(), true, false),
        ("", true, false),
    ];
    for (cookie, at_console, sees) in visitors {
        *world.at_console.lock() = at_console;
        world.handle.retry(&app("sales"));
        let seat = world.claim("sales").unwrap();
        let purpose = Purpose::LaunchFollow { app: app("sales"), seat };
        let mut lines = Lines::of(Body::new(world.call(purpose, request_of(cookie)).await.into_body()));
        let mut last = String::new();
        while let Some(line) = lines.next().await {
            assert!(sees || !line.contains("hunter2"), "{line}");
            last = line;
        }
        let last: serde_json::Value = serde_json::from_str(&last).unwrap();
        let failure = &last["failure"];
        assert_eq!(failure["last_lines"].as_array().unwrap().len(), if sees { 2 } else { 0 }, "{last}");
        assert!(failure["summary"].as_str().unwrap().starts_with("exited with status 1"), "{last}");

        let purpose = Purpose::RefusedPage { app: app("sales"), name: None, refusal: refusal.clone() };
        let page = world.answer(purpose, request_of(cookie)).await;
        assert!(page.text.contains("exited with status 1"), "{}", page.text);
        assert_eq!(page.text.contains("hunter2"), sees, "{}", page.text);
    }
}

#[tokio::test]
async fn a_place_in_the_line_is_told_and_moves_up() {
    let world = World::new(ControlConfig::default(), vec![spec("sales", "Sales")]).await;
    let seats: Vec<_> = (0..3).map(|_| world.claim("sales").unwrap()).collect();
    world.instance("sales", false).await;
    let purpose = Purpose::LaunchPage { app: app("sales"), name: None, seat: seats[2].clone() };
    let page = world.answer(purpose, request("/sales/")).await;
    assert_eq!(page.status, 503);
    let purpose = Purpose::LaunchFollow { app: app("sales"), seat: seats[2].clone() };
    let mut lines = Lines::of(Body::new(world.call(purpose, request("/sales/")).await.into_body()));
    let first = lines.json().await;
    assert_eq!((&first["place"], &first["waiting"]), (&3.into(), &3.into()));
    // The first in the line gets the only seat, and there is but one instance.
    world.doors.open();
    let mut last = first;
    while last["place"] != 2 {
        last = lines.json().await;
    }
    assert_eq!(last["stage"], "queue");
    assert_eq!(last["says"], "Every place is taken; you are number 2 of 2 in line.");
}

#[tokio::test]
async fn a_failed_start_is_told_and_may_be_tried_again() {
    let world = World::new(shows_logs(), vec![spec("sales", "Sales")]).await;
    *world.doors.broken.lock() = Some(BackendError::App {
        summary: "there is no interpreter `pyhton3`".into(),
        last_lines: vec!["sh: pyhton3: not <found>".into()],
    });
    let seat = world.claim("sales").unwrap();
    let purpose = Purpose::LaunchFollow { app: app("sales"), seat };
    let mut lines = Lines::of(Body::new(world.call(purpose, request("/sales/")).await.into_body()));
    let mut last = serde_json::Value::Null;
    while let Some(line) = lines.next().await {
        last = serde_json::from_str(&line).unwrap();
    }
    assert_eq!(last["failure"]["code"], "start-failed", "{last}");

    let refusal = world.claim("sales").unwrap_err();
    let purpose = Purpose::RefusedPage { app: app("sales"), name: None, refusal };
    let page = world.answer(purpose, request("/sales/?tab=2")).await;
    assert_eq!(page.status, 503);
    assert!(page.text.contains("there is no interpreter `pyhton3`"), "{}", page.text);
    assert!(page.text.contains("sh: pyhton3: not &lt;found&gt;"));
    assert!(page.text.contains("name=\"to\" value=\"/sales/?tab=2\""));

    *world.doors.broken.lock() = None;
    world.doors.open();
    let retry = Request::post("/sales/?tab=2").body("").unwrap();
    let answer = world.answer(Purpose::LaunchRetry { app: app("sales") }, retry).await;
    assert_eq!(answer.status, 204);
    until("another try", || world.claim("sales").is_ok()).await;
    world.instance("sales", true).await;
}

#[tokio::test]
async fn the_retry_button_works_without_scripts_and_only_from_our_pages() {
    let world = World::new(ControlConfig::default(), vec![spec("sales", "Sales")]).await;
    let form = |site: &'static str, body: &'static str| {
        let request = Request::post("/_skep/apps/sales/retry").header("sec-fetch-site", site);
        request.header("content-type", "application/x-www-form-urlencoded").body(body).unwrap()
    };
    let answer = world.answer(Purpose::Own, form("same-origin", "to=%2Fsales%2F%3Ftab%3D2")).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/sales/?tab=2"));
    let answer = world.answer(Purpose::Own, form("same-origin", "to=%2F%2Fevil.example")).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/sales/"));
    let answer = world.answer(Purpose::Own, form("cross-site", "to=%2Fsales%2F")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "cross-site"));
    let elsewhere = Request::post("/_skep/apps/nobody/retry").header("sec-fetch-site", "none").body("");
    let answer = world.answer(Purpose::Own, elsewhere.unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "unknown-app"));
}

#[tokio::test]
async fn a_visitor_who_lost_the_place_is_told_to_ask_again() {
    let world = World::new(ControlConfig::default(), vec![spec("sales", "Sales")]).await;
    let seat = skep_launch::SeatKey { seat: skep_model::SeatId(42), instance: None };
    let purpose = Purpose::LaunchFollow { app: app("sales"), seat };
    let mut lines = Lines::of(Body::new(world.call(purpose, request("/sales/")).await.into_body()));
    let mut last = serde_json::Value::Null;
    while let Some(line) = lines.next().await {
        last = serde_json::from_str(&line).unwrap();
    }
    assert_eq!(last["again"], true);
}

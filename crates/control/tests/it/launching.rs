//! A visitor waits for an app: the page, its stream, a failure, another try.

use axum::body::Body;
use axum::http::Request;
use skep_control::ControlConfig;
use skep_edge::Purpose;
use skep_launch::BackendError;

use crate::world::{Lines, World, app, spec, until};

fn shows_logs() -> ControlConfig {
    ControlConfig { show_logs: true, ..ControlConfig::default() }
}

fn request(path: &str) -> Request<&'static str> {
    Request::get(path).header("accept", "text/html").body("").unwrap()
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
    let world = World::new(ControlConfig::default(), vec![spec("sales", "Sales")]).await;
    let seat = world.claim("sales").unwrap();
    world.instance("sales", false).await;
    let purpose = Purpose::LaunchPage { app: app("sales"), name: None, seat: seat.clone() };
    let page = world.answer(purpose, request("/sales/")).await;
    assert!(!page.text.contains("the first line"));
    let purpose = Purpose::LaunchFollow { app: app("sales"), seat };
    let response = world.call(purpose, request("/sales/")).await;
    world.doors.open();
    let mut lines = Lines::of(Body::new(response.into_body()));
    while let Some(line) = lines.next().await {
        assert!(!line.contains("\"log\""), "{line}");
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

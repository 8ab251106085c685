//! Page loads of a cold app, and the seat cookie.

use std::sync::atomic::Ordering::SeqCst;

use skep_model::{Hold, Prefix};

use crate::client::{Answer, Client};
use crate::world::{Setup, World, eventually, spec};

async fn page(client: &mut Client, path: &str, fields: &str) -> Answer {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n{fields}\r\n")).await;
    client.answer().await
}

fn seat_of(answer: &Answer) -> String {
    let cookie = answer.fields("set-cookie").find(|cookie| cookie.starts_with("skep-seat=")).unwrap();
    let mut parts = cookie.split("; ");
    let value = parts.next().unwrap().to_owned();
    assert_eq!(parts.collect::<Vec<_>>(), ["Path=/keep/", "HttpOnly", "SameSite=Lax"]);
    value
}

#[tokio::test]
async fn a_page_load_gets_the_launch_page_and_comes_back_to_its_seat() {
    let world = World::start().await;
    world.app.awake.store(false, SeqCst);
    let mut client = world.client().await;
    let first = page(&mut client, "/keep/deep/link?a=b", "Sec-Fetch-Mode: navigate\r\n").await;
    assert_eq!(first.status, 503);
    assert_eq!(first.text(), "launch-page keep: GET /keep/deep/link?a=b []");
    assert_eq!(first.field("cache-control"), Some("no-store"));
    assert!(first.field("retry-after").is_some());
    let seat = seat_of(&first);

    // The page follows, reloads, and asks again: the same place in the line each time.
    let app = "keep".parse().unwrap();
    eventually("the start", || (!world.handle.instances().is_empty()).then_some(())).await;
    let follow =
        page(&mut client, "/keep/deep/link?a=b", &format!("Cookie: {seat}\r\nSkep-Launch: follow\r\n")).await;
    assert_eq!(follow.text(), "launch-follow keep: GET /keep/deep/link?a=b []");
    page(&mut client, "/keep/deep/link?a=b", &format!("Cookie: other=1; {seat}\r\n")).await;
    assert_eq!(world.handle.status(&app, None).waiting, 1);

    world.app.awake.store(true, SeqCst);
    let cookie = format!("Cookie: {seat}\r\n");
    let there = loop {
        let answer = page(&mut client, "/keep/deep/link?a=b", &cookie).await;
        if answer.status != 503 {
            break answer;
        }
    };
    assert_eq!(there.status, 200);
    let settled = seat_of(&there);
    assert_ne!(settled, seat, "the cookie now names the instance");
    let again = page(&mut client, "/keep/again", &format!("Cookie: {settled}\r\n")).await;
    assert_eq!(again.fields("set-cookie").count(), 0, "a good cookie stays");
    assert_eq!(world.handle.instances()[0].taken, 1, "one visitor, one seat");
    let lines: Vec<_> = world.seen().iter().map(|seen| seen.line().to_owned()).collect();
    assert_eq!(lines, ["GET /keep/deep/link?a=b HTTP/1.1", "GET /keep/again HTTP/1.1"]);
    assert!(world.seen().iter().all(|seen| seen.field("cookie").is_none()));
}

#[tokio::test]
async fn a_forged_or_foreign_seat_is_nobodys() {
    let world = World::start().await;
    world.warm_up().await;
    let mut client = world.client().await;
    let seat = seat_of(&page(&mut client, "/keep/a", "").await);
    for cookie in ["skep-seat=AAAA", "skep-seat=", &format!("{seat}x")] {
        let answer = page(&mut client, "/keep/b", &format!("Cookie: {cookie}\r\n")).await;
        assert_eq!(answer.status, 200);
        assert_ne!(seat_of(&answer), seat, "a new one");
    }
    let answer = page(&mut client, "/strip/b", &format!("Cookie: {seat}\r\n")).await;
    let mine = answer.field("set-cookie").unwrap();
    assert!(mine.contains("Path=/strip/"), "{mine}");
}

#[tokio::test]
async fn retry_and_follow_are_for_our_own_page() {
    let world = World::start().await;
    world.app.awake.store(false, SeqCst);
    let mut client = world.client().await;
    let retry = |fields: &str| {
        format!(
            "POST /keep/ HTTP/1.1\r\nHost: localhost\r\nSkep-Launch: retry\r\nContent-Length: 0\r\n{fields}\r\n"
        )
    };
    client.send(retry("Sec-Fetch-Site: same-origin\r\n")).await;
    assert_eq!(client.answer().await.text(), "launch-retry keep: POST /keep/ []");
    client.send(retry("Sec-Fetch-Site: cross-site\r\n")).await;
    assert_eq!(client.answer().await.code(), "cross-site");
    client.send(retry("Origin: http://evil.example\r\n")).await;
    assert_eq!(client.answer().await.code(), "foreign-origin");
    let answer = page(&mut client, "/keep/", "Skep-Launch: nonsense\r\n").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad-launch-header"));
}

#[tokio::test]
async fn an_app_may_ask_for_waiting_instead_of_a_page() {
    let mut waits = spec("keep", Prefix::Keep);
    waits.hold = Hold::Wait;
    let world = World::with(Setup { specs: vec![waits], ..Setup::default() }).await;
    world.app.awake.store(false, SeqCst);
    let mut client = world.client().await;
    client.send("GET /keep/x HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n").await;
    eventually("the line", || {
        (world.handle.status(&"keep".parse().unwrap(), None).waiting == 1).then_some(())
    })
    .await;
    world.app.awake.store(true, SeqCst);
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    seat_of(&answer);
    assert!(world.calls.lock().is_empty());
}

#[tokio::test]
async fn scripts_and_images_are_held_not_shown_a_page() {
    let world = World::start().await;
    world.app.awake.store(false, SeqCst);
    let mut client = world.client().await;
    client
        .send(
            "GET /keep/data HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nSec-Fetch-Mode: cors\r\n\r\n",
        )
        .await;
    eventually("the line", || {
        (world.handle.status(&"keep".parse().unwrap(), None).waiting == 1).then_some(())
    })
    .await;
    world.app.awake.store(true, SeqCst);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.fields("set-cookie").count()), (200, 0), "no cookie without a page");
}

#[tokio::test]
async fn refusals_are_pages_or_problems() {
    let mut spec = spec("keep", Prefix::Keep);
    spec.start_timeout = std::time::Duration::from_millis(200);
    let world = World::with(Setup { specs: vec![spec], ..Setup::default() }).await;
    world.app.awake.store(false, SeqCst);
    let mut client = world.client().await;
    let answer = client.get("/keep/x").await;
    assert!(answer.status >= 503, "{answer:?}");
    let answer = page(&mut client, "/keep/x", "").await;
    assert!(answer.text().starts_with("refused-page keep start-") || answer.status == 503, "{answer:?}");
}

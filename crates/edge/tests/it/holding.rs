//! A cold app: who waits, and who left meanwhile.
//!
//! Each departure happens while the app boots and somebody else waits for it. The app must never see the request of who
//! left; who stayed is answered.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::world::{Setup, World, eventually};

/// A world whose app boots, and a client that waits for it.
async fn booting() -> (World, Client) {
    let world = World::start().await;
    world.app.awake.store(false, SeqCst);
    let mut stays = world.client().await;
    stays.send("GET /keep/stays HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    eventually("the start", || (!world.handle.instances().is_empty()).then_some(())).await;
    (world, stays)
}

/// Lets the app wake up: who stayed is answered, and nobody else's request got through.
async fn only_who_stayed_is_served(world: World, mut stays: Client) {
    assert!(world.seen().is_empty());
    world.app.awake.store(true, SeqCst);
    let answer = stays.answer().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Whatever was let go together with it has reached the app by now.
    assert_eq!(stays.get("/keep/after").await.status, 200);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(stays.get("/keep/later").await.status, 200);
    let seen = world.seen();
    let lines: Vec<_> = seen.iter().map(|seen| seen.line().to_owned()).collect();
    assert_eq!(
        lines,
        ["GET /keep/stays HTTP/1.1", "GET /keep/after HTTP/1.1", "GET /keep/later HTTP/1.1"],
        "only who stayed was served"
    );
}

/// A client sends these bytes and leaves: noticed while the app boots, and never sent to it.
async fn leaves_after(bytes: &[u8], leave: impl AsyncFnOnce(TcpStream)) {
    let (world, stays) = booting().await;
    let mut client = world.client().await;
    client.send(bytes).await;
    let waiting = || world.handle.status(&"keep".parse().unwrap(), None).waiting;
    eventually("two in the line", || (waiting() == 2).then_some(())).await;
    leave(client.stream).await;
    eventually("one in the line", || (waiting() == 1).then_some(())).await;
    let line = &world.logged("/keep/leaves", 1).await[0];
    assert_eq!(line["status"], 499, "{line}");
    only_who_stayed_is_served(world, stays).await;
}

async fn close(stream: TcpStream) {
    drop(stream);
}

async fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

const GET: &[u8] = b"GET /keep/leaves HTTP/1.1\r\nHost: localhost\r\n\r\n";
const POST: &[u8] = b"POST /keep/leaves HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
const PART: &[u8] = b"POST /keep/leaves HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nhello";
const CHUNKED: &[u8] =
    b"POST /keep/leaves HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
const PIPELINED: &[u8] =
    b"GET /keep/leaves HTTP/1.1\r\nHost: localhost\r\n\r\nGET /keep/second HTTP/1.1\r\nHost: localhost\r\n\r\n";
const PATIENT: &[u8] =
    b"POST /keep/leaves HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
const UPGRADE: &[u8] =
    b"GET /keep/leaves HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn a_small_get_whose_client_left() {
    leaves_after(GET, close).await;
}

#[tokio::test]
async fn a_small_post_whose_client_left() {
    leaves_after(POST, close).await;
}

#[tokio::test]
async fn a_partial_body_whose_client_left() {
    leaves_after(PART, close).await;
}

#[tokio::test]
async fn a_chunked_body_whose_client_left() {
    leaves_after(CHUNKED, close).await;
}

#[tokio::test]
async fn pipelined_requests_whose_client_left() {
    leaves_after(PIPELINED, close).await;
}

#[tokio::test]
async fn a_patient_post_whose_client_left() {
    leaves_after(PATIENT, close).await;
}

#[tokio::test]
async fn an_upgrade_whose_client_left() {
    leaves_after(UPGRADE, close).await;
}

#[tokio::test]
async fn resets() {
    for bytes in [GET, POST, PART, PIPELINED, UPGRADE] {
        leaves_after(bytes, reset).await;
    }
}

#[tokio::test]
async fn half_closing_counts_as_leaving() {
    for bytes in [GET, POST, PART, PIPELINED] {
        leaves_after(bytes, async |mut stream: TcpStream| {
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            // Held requests of a departed client are not answered; the connection ends.
            let _ = stream.read_to_end(&mut rest).await;
            assert_eq!(rest, b"", "{}", String::from_utf8_lossy(&rest));
        })
        .await;
    }
}

/// More than is read ahead: the news of the departure lies behind bytes that are not read while the request is held.
async fn a_large_body(leave: impl AsyncFnOnce(TcpStream)) {
    let (world, stays) = booting().await;
    let mut client = world.client().await;
    client.send("POST /keep/leaves HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n").await;
    let mut stream = client.stream;
    let body = vec![b'x'; 1_000_000];
    // All of it, or as much as the kernels take.
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&body)).await;
    let waiting = || world.handle.status(&"keep".parse().unwrap(), None).waiting;
    eventually("two in the line", || (waiting() == 2).then_some(())).await;
    leave(stream).await;
    only_who_stayed_is_served(world, stays).await;
}

#[tokio::test]
async fn a_large_body_whose_client_left() {
    a_large_body(close).await;
}

#[tokio::test]
async fn a_large_body_whose_client_reset() {
    a_large_body(reset).await;
}

#[tokio::test]
async fn held_requests_are_answered_once_the_app_is_there() {
    let (world, mut stays) = booting().await;
    let body = vec![b'y'; 300_000];
    let mut large = world.client().await;
    large
        .send(format!(
            "POST /keep/large HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
    large.send(&body).await;
    let mut small = world.client().await;
    small.send("POST /keep/small HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello").await;
    let waiting = || world.handle.status(&"keep".parse().unwrap(), None).waiting;
    eventually("three in the line", || (waiting() == 3).then_some(())).await;
    world.app.awake.store(true, SeqCst);
    assert_eq!(stays.answer().await.status, 200);
    assert_eq!(small.answer().await.text(), "hello");
    assert!(large.answer().await.body == body);
    let line = &world.logged("/keep/small", 1).await[0];
    assert!(line["held_ms"].as_f64().unwrap() > 0.0, "{line}");
}

#[tokio::test]
async fn permission_to_send_a_body_is_withheld() {
    let (world, mut stays) = booting().await;
    let mut client = world.client().await;
    client.send(PATIENT).await;
    let waiting = || world.handle.status(&"keep".parse().unwrap(), None).waiting;
    eventually("two in the line", || (waiting() == 2).then_some(())).await;
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(300), client.stream.peek(&mut byte)).await;
    assert!(early.is_err(), "nothing comes while the request is held");
    world.app.awake.store(true, SeqCst);
    assert_eq!(client.head().await.status, 100);
    client.send("hello").await;
    assert_eq!(client.answer().await.text(), "hello");
    assert_eq!(stays.answer().await.status, 200);
}

#[tokio::test]
async fn a_held_body_is_not_swallowed_whole() {
    let (world, mut stays) = booting().await;
    let client = world.client().await;
    let (_, mut writer) = client.stream.into_split();
    let head = "PUT /keep/endless HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n";
    writer.write_all(head.as_bytes()).await.unwrap();
    let sender = tokio::spawn(async move { writer.write_all(&vec![b'z'; 100_000_000]).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!sender.is_finished(), "somebody buffers without a bound");
    sender.abort();
    world.app.awake.store(true, SeqCst);
    assert_eq!(stays.answer().await.status, 200);
    assert!(!world.seen().iter().any(|seen| seen.line().contains("endless")));
}

#[tokio::test]
async fn an_app_that_does_not_wake_in_time_is_a_504() {
    let mut setup = Setup::default();
    for spec in &mut setup.specs {
        spec.start_timeout = Duration::from_millis(300);
    }
    let world = World::with(setup).await;
    world.app.awake.store(false, SeqCst);
    let mut client = world.client().await;
    let answer = client.get("/keep/x").await;
    assert!(
        matches!((answer.status, answer.code().as_str()), (504, "start-timeout") | (503, "start-failed")),
        "{answer:?}"
    );
    assert!(world.seen().is_empty());
}

#[tokio::test]
async fn bots_do_not_wake_apps() {
    let world = World::start().await;
    let mut client = world.client().await;
    client
        .send("GET /keep/x HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nUser-Agent: Examplebot/1.0\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "app-cold"));
    assert!(answer.field("retry-after").is_some());
    assert!(world.handle.instances().is_empty());
    world.warm_up().await;
    client.send("GET /keep/x HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Examplebot/1.0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200, "a warm app is there for everybody");
}

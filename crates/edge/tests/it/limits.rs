//! Clients that take too much, or too long.

use std::time::Duration;

use skep_edge::Limits;

use crate::client::Client;
use crate::world::{Setup, World, eventually};

async fn limited(limits: Limits) -> World {
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    world.warm_up().await;
    world
}

fn short() -> Limits {
    let short = Duration::from_secs(3);
    Limits {
        head_timeout: short,
        keep_alive: short,
        body_stall: short,
        write_stall: short,
        ..Limits::default()
    }
}

/// The connection ends after at most these bytes.
async fn dropped(client: &mut Client, most: usize) {
    let rest =
        tokio::time::timeout(Duration::from_secs(60), client.rest()).await.expect("the connection's end");
    assert!(rest.len() <= most, "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_dropped() {
    let world = limited(short()).await;
    let mut silent = world.client().await;
    let mut slow = world.client().await;
    slow.send("GET /keep/x HTTP/1.1\r\nHost: local").await;
    let mut idle = world.client().await;
    assert_eq!(idle.get("/keep/x").await.status, 200);
    let mut second = world.client().await;
    assert_eq!(second.get("/keep/x").await.status, 200);
    second.send("GET /keep/y HTTP").await;
    let mut busy = world.client().await;
    busy.send("GET /keep/wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    for client in [&mut silent, &mut slow, &mut idle, &mut second] {
        dropped(client, 0).await;
    }
    world.app.go_on.notify_one();
    assert_eq!(busy.answer().await.status, 200, "a slow app is nobody's fault");
}

#[tokio::test]
async fn a_body_that_stands_still_ends_the_connection() {
    let world = limited(short()).await;
    let mut client = world.client().await;
    client.send("POST /keep/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhello").await;
    dropped(&mut client, 0).await;
    let mut chunked = world.client().await;
    chunked
        .send("POST /keep/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")
        .await;
    dropped(&mut chunked, 0).await;
    let line = &world.logged("/keep/x", 2).await[0];
    assert_eq!(line["status"], 499);
}

#[tokio::test]
async fn a_trickling_body_ends_the_connection() {
    let world = limited(Limits { body_rate: 1000, ..short() }).await;
    let mut client = world.client().await;
    client.send("POST /keep/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n").await;
    let trickle = async {
        for _ in 0..600 {
            if tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"x").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the connection stays");
    };
    trickle.await;
}

#[tokio::test]
async fn a_chunked_request_may_wait_for_its_answer() {
    let world = limited(short()).await;
    let mut client = world.client().await;
    client.send("POST /keep/wait HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    eventually("the request at the app", || (world.seen().len() == 1).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(7000)).await;
    world.app.go_on.notify_one();
    assert_eq!(client.answer().await.text(), "hi");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_dropped() {
    let world = limited(short()).await;
    let mut clients = Vec::new();
    for n in 0..4 {
        let mut client = world.client().await;
        // In one go: the first answers are not taken while the others are asked for.
        client.send(format!("GET /keep/big{n} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(20)).await;
        clients.push(client);
    }
    // Each of them got as far as the app; that it is there still may be over by the time it is asked.
    let asked = |n: u32| world.seen().iter().any(|seen| seen.line().contains(&format!("/big{n} ")));
    eventually("a request of each", || (0..4).all(asked).then_some(())).await;
    eventually("the connections' end", || (world.edge.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn heads_have_a_size() {
    let world = limited(Limits { head_bytes: 16 * 1024, head_fields: 20, ..Limits::default() }).await;
    let mut client = world.client().await;
    client
        .send(format!("GET /keep/x HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "y".repeat(40_000)))
        .await;
    assert!(String::from_utf8(client.rest().await).unwrap().starts_with("HTTP/1.1 431 "));
    let mut client = world.client().await;
    let many: String = (0..30).map(|n| format!("X-{n}: y\r\n")).collect();
    client.send(format!("GET /keep/x HTTP/1.1\r\nHost: localhost\r\n{many}\r\n")).await;
    assert!(String::from_utf8(client.rest().await).unwrap().starts_with("HTTP/1.1 431 "));
    let mut client = world.client().await;
    client.send(format!("GET /keep/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "y".repeat(70_000))).await;
    let text = String::from_utf8(client.rest().await).unwrap();
    assert!(text.starts_with("HTTP/1.1 414 ") || text.starts_with("HTTP/1.1 431 "), "{text}");
    assert!(world.seen().is_empty());
}

#[tokio::test]
async fn framing_of_chunks_has_a_size() {
    let world = limited(short()).await;
    let head = "POST /keep/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extensions = format!("1;{}\r\na\r\n", "e".repeat(1_000_000));
    let many = "1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\na\r\n".repeat(20_000);
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(200_000));
    let zeros = format!("{}1\r\na\r\n", "0".repeat(1_000_000));
    for (name, body) in
        [("extension", extensions), ("extensions", many), ("trailers", trailers), ("zeros", zeros)]
    {
        let mut client = world.client().await;
        client.send(head).await;
        // The server may hang up in the middle: that is the point.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, body.as_bytes()).await;
        let text = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(!text.contains(" 200 "), "{name}: {text}");
    }
    eventually("the connections' end", || (world.edge.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_connection_has_so_many_requests() {
    let world = limited(Limits { requests_per_connection: 3, ..Limits::default() }).await;
    let mut client = world.client().await;
    assert_eq!(client.get("/keep/1").await.field("connection"), None);
    assert_eq!(client.get("/keep/2").await.field("connection"), None);
    assert_eq!(client.get("/keep/3").await.field("connection"), Some("close"));
    dropped(&mut client, 0).await;
}

#[tokio::test]
async fn the_edge_has_so_many_connections() {
    let world = limited(Limits { connections: 5, ..Limits::default() }).await;
    eventually("the warm-up's end", || (world.edge.open_connections() == 0).then_some(())).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = world.client().await;
        assert_eq!(client.get("/keep/x").await.status, 200);
        clients.push(client);
    }
    let mut sixth = world.client().await;
    sixth.send("GET /keep/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut byte = [0; 1];
    assert!(tokio::time::timeout(Duration::from_millis(200), sixth.stream.peek(&mut byte)).await.is_err());
    clients.pop();
    assert_eq!(sixth.answer().await.status, 200, "its turn came");
}

#[tokio::test]
async fn an_app_has_so_many_connections() {
    // The connection of the warm-up is used again, however long ago that was.
    let upstream_idle = Duration::from_secs(600);
    let world = limited(Limits { upstream_connections: 2, upstream_idle, ..Limits::default() }).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = world.client().await;
        client.send("GET /keep/wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        waiting.push(client);
    }
    eventually("both at the app", || (world.seen().len() == 2).then_some(())).await;
    let mut third = world.client().await;
    let answer = third.get("/keep/x").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "app-connections"));
    assert!(answer.field("retry-after").is_some());
    for client in &mut waiting {
        world.app.go_on.notify_one();
        world.app.go_on.notify_waiters();
        let _ = client;
    }
}

//! WebSockets.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::client::Client;
use crate::world::{Setup, World, eventually};

pub(crate) const UPGRADE: &str = "GET /keep/ws HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

pub(crate) async fn open(world: &World) -> Client {
    let mut client = world.client().await;
    client.send(UPGRADE).await;
    let head = client.head().await;
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!((head.field("upgrade"), head.field("connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!(client.take(5).await, b"hello");
    client
}

#[tokio::test]
async fn bytes_pass_both_ways_whatever_the_stream() {
    for (unix, opaque) in [(false, false), (true, false), (false, true)] {
        let world = World::with(Setup { unix, opaque, ..Setup::default() }).await;
        world.warm_up().await;
        let mut client = open(&world).await;
        for n in 0..50 {
            let message = format!("message {n}");
            client.send(&message).await;
            assert_eq!(client.take(message.len()).await, message.as_bytes());
        }
        assert_eq!(world.edge.open_tunnels(), 1);
        drop(client);
        eventually("the tunnel's end", || (world.edge.open_tunnels() == 0).then_some(())).await;
        let line = &world.logged("/keep/ws", 1).await[0];
        assert_eq!(line["status"], 101);
        assert!(line["bytes"].as_u64().unwrap() > 490, "{line}");
    }
}

#[tokio::test]
async fn bytes_sent_with_the_upgrade_are_not_lost() {
    let world = World::start().await;
    world.warm_up().await;
    let mut client = world.client().await;
    client.send(format!("{UPGRADE}early")).await;
    assert_eq!(client.head().await.status, 101);
    assert_eq!(client.take(10).await, b"helloearly");
}

#[tokio::test]
async fn a_slow_reader_costs_a_buffer_not_bytes() {
    let world = World::start().await;
    world.warm_up().await;
    let mut client = open(&world).await;
    let data: Vec<u8> = (0..64_000_000_u32).map(|n| (n % 253) as u8).collect();
    let (reader, mut writer) = tokio::io::split(client.stream);
    let sending = data.clone();
    let sender = tokio::spawn(async move { writer.write_all(&sending).await.map(|()| writer) });
    // Long enough for every buffer on the way to fill up.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!sender.is_finished(), "somebody buffers without a bound");
    client = {
        let mut client = Client::over(tokio::io::join(reader, tokio::io::sink()));
        assert!(client.take(data.len()).await == data);
        let writer = sender.await.unwrap().unwrap();
        Client::over(client.stream.into_inner().0.unsplit(writer))
    };
    client.send("still here").await;
    assert_eq!(client.take(10).await, b"still here");
}

#[tokio::test]
async fn half_a_goodbye_is_passed_on() {
    let world = World::start().await;
    world.warm_up().await;
    let mut client = open(&world).await;
    client.send("last words").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"last wordsbye", "the app answers after the client's end");
    eventually("the tunnel's end", || (world.edge.open_tunnels() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_stopped_app_closes_its_tunnels() {
    let world = World::start().await;
    world.warm_up().await;
    let mut client = open(&world).await;
    let handle = world.handle.clone();
    tokio::spawn(async move { handle.stop(skep_launch::StopTarget::All).await });
    assert_eq!(client.rest().await, b"");
    eventually("the tunnel's end", || (world.edge.open_tunnels() == 0).then_some(())).await;
}

#[tokio::test]
async fn foreign_pages_open_no_sockets() {
    let world = World::start().await;
    world.warm_up().await;
    for (origin, status) in [
        ("http://localhost", 101),
        ("https://localhost", 101),
        ("https://friend.example", 101),
        ("http://evil.example", 403),
        ("null", 403),
    ] {
        let mut client = world.client().await;
        client.send(UPGRADE.replace("Sec-", &format!("Origin: {origin}\r\nSec-"))).await;
        assert_eq!(client.head().await.status, status, "{origin}");
    }
    assert_eq!(world.seen().len(), 3);
}

#[tokio::test]
async fn a_cold_apps_socket_is_held() {
    let world = World::start().await;
    let mut client = open(&world).await;
    client.send("x").await;
    assert_eq!(client.take(1).await, b"x");
}

/// A masked frame from a client.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    bytes.extend(payload);
    bytes
}

#[tokio::test]
async fn only_a_visitors_doing_keeps_a_seat() {
    let mut setup = Setup::default();
    for spec in &mut setup.specs {
        spec.inactivity_timeout = Some(Duration::from_secs(10));
    }
    let world = World::with(setup).await;
    world.warm_up().await;
    let mut idle = open(&world).await;
    let mut active = open(&world).await;
    let heartbeats = async {
        loop {
            for beat in [frame(10, b""), frame(9, b"x"), frame(1, b"3")] {
                if idle.stream.write_all(&beat).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            if world.edge.open_tunnels() < 2 {
                return;
            }
        }
    };
    let doing = async {
        loop {
            active.send(frame(2, b"click")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = doing => {}
        ended = tokio::time::timeout(Duration::from_secs(60), heartbeats) => {
            ended.expect("heartbeats alone do not keep a seat");
        }
    }
    eventually("the count goes down with the tunnel", || (world.edge.open_tunnels() < 2).then_some(())).await;
    assert_eq!(world.edge.open_tunnels(), 1, "who does something stays");
    active.send(frame(2, b"more")).await;
}

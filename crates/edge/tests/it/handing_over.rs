//! Handing over to a new process, and draining.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use skep_edge::ListenSocket;

use crate::client::Client;
use crate::tunnels;
use crate::world::{Inherited, Setup, World, eventually};

/// A new process's half: the same listening socket, the same keys, and the relay.
fn inherit(old: &World, relay: UnixListener) -> Inherited {
    let ListenSocket::Tcp(listener) = &old.edge.listeners()[0].socket else { panic!("a TCP listener") };
    Inherited {
        listener: listener.try_clone().unwrap(),
        relay,
        app: Arc::clone(&old.app),
        keys: Arc::clone(&old.keys),
    }
}

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answered: AtomicUsize,
    reconnects: AtomicUsize,
}

/// Asks again and again; every request must be answered well. Connects anew only when told to.
async fn keep_asking(address: std::net::SocketAddr, n: usize, tally: Arc<Tally>) {
    let mut client = Client::connect(address).await;
    while !tally.stop.load(SeqCst) {
        let answer = if n.is_multiple_of(3) {
            client
                .send("POST /keep/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
                .await;
            client.try_answer().await
        } else {
            client.send("GET /keep/load HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            client.try_answer().await
        };
        let answer = answer.expect("no connection ends without an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        tally.answered.fetch_add(1, SeqCst);
        if answer.field("connection") == Some("close") || n.is_multiple_of(4) {
            tally.reconnects.fetch_add(1, SeqCst);
            client = Client::connect(address).await;
        }
        if n.is_multiple_of(5) {
            // An idle connection meets the hand-over between two requests.
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }
}

#[tokio::test]
async fn a_hand_over_under_load_fails_no_request() {
    let old = World::start().await;
    old.warm_up().await;
    let mut tunnel = tunnels::open(&old).await;
    let mut idle = old.client().await;
    assert_eq!(idle.get("/keep/load").await.status, 200);
    let mut asking = old.client().await;
    asking.send("GET /keep/wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    eventually("the question", || old.seen().iter().any(|seen| seen.line().contains("wait")).then_some(()))
        .await;

    let tally = Arc::new(Tally::default());
    let load: Vec<_> =
        (0..12).map(|n| tokio::spawn(keep_asking(old.address, n, Arc::clone(&tally)))).collect();
    eventually("some load", || (tally.answered.load(SeqCst) > 300).then_some(())).await;

    let dir = tempfile::tempdir().unwrap();
    let relay = dir.path().join("relay.sock");
    let inherited = inherit(&old, UnixListener::bind(&relay).unwrap());
    old.edge.hand_over(relay);
    // The new process takes a moment; whoever asks meanwhile waits.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let new = World::with(Setup { inherited: Some(inherited), ..Setup::default() }).await;
    let after = tally.answered.load(SeqCst);
    eventually("load on the new one", || (tally.answered.load(SeqCst) > after + 500).then_some(())).await;
    tally.stop.store(true, SeqCst);
    for client in load {
        client.await.unwrap();
    }
    assert!(tally.reconnects.load(SeqCst) >= 12, "everybody was told to move");

    // What was open stays open: a tunnel, an answer under way, an idle connection with one more request.
    tunnel.send("still here").await;
    assert_eq!(tunnel.take(10).await, b"still here");
    old.app.go_on.notify_one();
    let answer = asking.answer().await;
    assert_eq!(answer.status, 200);
    let answer = idle.get("/_skep/anything?x=y").await;
    assert_eq!(
        (answer.text(), answer.field("connection")),
        ("own: GET /_skep/anything?x=y []", Some("close"))
    );
    assert_eq!(new.calls.lock().len(), 1, "the new process answered");
    assert!(old.calls.lock().is_empty());

    let drained = Instant::now();
    let tunnels_end = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop((tunnel, idle, asking));
    });
    assert_eq!(old.edge.drain(Duration::from_secs(60)).await, 0, "nothing had to be cut");
    assert!(drained.elapsed() >= Duration::from_millis(250), "the tunnel was waited for");
    tunnels_end.await.unwrap();
    assert_eq!(new.client().await.get("/keep/x").await.status, 200);
}

#[tokio::test]
async fn seats_forwarded_facts_and_tunnels_survive_the_relay() {
    let old = World::start().await;
    old.warm_up().await;
    let mut first = old.client().await;
    let mut second = old.client().await;
    let mut third = old.client().await;
    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(client.get("/keep/load").await.status, 200);
    }
    let dir = tempfile::tempdir().unwrap();
    let relay = dir.path().join("relay.sock");
    let inherited = inherit(&old, UnixListener::bind(&relay).unwrap());
    old.edge.hand_over(relay);
    let new = World::with(Setup { inherited: Some(inherited), ..Setup::default() }).await;
    new.warm_up().await;

    first
        .send("GET /keep/page HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nX-SP-UserId: root\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
        .await;
    let answer = first.answer().await;
    assert_eq!(answer.status, 200);
    assert!(answer.field("set-cookie").unwrap().starts_with("skep-seat="), "the new process's cookie passes");
    let seen = new.seen();
    let page = seen.iter().find(|seen| seen.line().contains("/page")).unwrap();
    assert_eq!(page.field("x-sp-userid"), None);
    assert_eq!(page.field("host"), Some("localhost"));
    assert!(!page.field("x-forwarded-for").unwrap().contains("6.6.6.6"));

    // An upgrade on an old connection becomes a tunnel through both.
    second.send(tunnels::UPGRADE).await;
    let head = second.head().await;
    assert_eq!((head.status, head.field("connection")), (101, Some("upgrade")));
    assert_eq!(second.take(5).await, b"hello");
    second.send("through").await;
    assert_eq!(second.take(7).await, b"through");
    assert_eq!((old.edge.open_tunnels(), new.edge.open_tunnels()), (1, 1));

    // A request that the new process holds, and whose client leaves, is not served there either.
    new.app.awake.store(false, SeqCst);
    new.handle.stop(skep_launch::StopTarget::All).await;
    third.send("GET /keep/leaves HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let waiting = || new.handle.status(&"keep".parse().unwrap(), None).waiting;
    eventually("the line", || (waiting() == 1).then_some(())).await;
    drop(third);
    eventually("an empty line", || (waiting() == 0).then_some(())).await;
    assert!(!new.seen().iter().any(|seen| seen.line().contains("leaves")));
}

#[tokio::test]
async fn requests_that_wait_when_the_launcher_freezes_are_passed_on() {
    let old = World::start().await;
    old.app.awake.store(false, SeqCst);
    let mut waits = old.client().await;
    waits.send("POST /keep/held HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello").await;
    let waiting = || old.handle.status(&"keep".parse().unwrap(), None).waiting;
    eventually("the line", || (waiting() == 1).then_some(())).await;
    let dir = tempfile::tempdir().unwrap();
    let relay = dir.path().join("relay.sock");
    let inherited = inherit(&old, UnixListener::bind(&relay).unwrap());
    old.edge.hand_over(relay);
    old.handle.drain_for_handover(Duration::from_millis(50)).await;
    let new = World::with(Setup { inherited: Some(inherited), ..Setup::default() }).await;
    new.app.awake.store(true, SeqCst);
    let answer = waits.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!(new.seen().len(), 1);
}

#[tokio::test]
async fn draining_lets_answers_end_and_cuts_the_rest() {
    let world = World::start().await;
    world.warm_up().await;
    let mut asking = world.client().await;
    asking.send("GET /keep/wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut idle = world.client().await;
    assert_eq!(idle.get("/keep/x").await.status, 200);
    let mut tunnel = tunnels::open(&world).await;
    eventually("the question", || world.seen().iter().any(|seen| seen.line().contains("wait")).then_some(()))
        .await;
    let (app, address) = (Arc::clone(&world.app), world.address);
    // Long enough for all that is to happen before it is over.
    let drain = tokio::spawn(world.edge.drain(Duration::from_secs(10)));
    assert_eq!(idle.rest().await, b"", "idle connections are closed at once");
    app.go_on.notify_one();
    let answer = asking.answer().await;
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    tunnel.send("x").await;
    assert_eq!(tunnel.take(1).await, b"x");
    assert_eq!(drain.await.unwrap(), 1, "the tunnel had to be cut");
    assert_eq!(tunnel.rest().await, b"");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

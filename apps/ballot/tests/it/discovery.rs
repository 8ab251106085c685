//! Workers find fronts by name; what does not answer holds nobody up.

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;

use ballot::client::Client;
use ballot::keys::Keys;
use ballot::polls;
use ballot::serve::{self, Common, Running};
use ballot::store::Database;
use ballot::worker::{Place, WorkerOptions, discover};
use http::StatusCode;
use tokio::sync::watch;

use crate::app::{Browser, code, get, limits, options, until};
use crate::postgres::free_port;

/// The addresses of the name `localhost`, one or two.
fn localhost() -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> =
        ("localhost", 0).to_socket_addrs().expect("resolves").map(|a| a.ip()).collect();
    all.sort();
    all.dedup();
    assert!(!all.is_empty());
    all
}

async fn front(dir: &std::path::Path, listen: SocketAddr, keys: &Arc<Keys>) -> Running {
    let data_dir = dir.join(format!("front-{}", u8::from(listen.is_ipv6())));
    let common = Common { listen, data_dir, keys: Arc::clone(keys), limits: limits() };
    serve::front(common, options(), vec![]).await.expect("serves")
}

#[tokio::test]
async fn a_name_stands_for_all_its_addresses() {
    let places = ["dns:localhost:4711", "10.0.0.1:80", "dns:no-such-name.invalid:80"]
        .map(|p| p.parse().expect("a place"));
    let mut expected: Vec<String> =
        localhost().iter().map(|ip| SocketAddr::new(*ip, 4711).to_string()).collect();
    expected.push("10.0.0.1:80".to_owned());
    expected.sort();
    assert_eq!(discover(&places).await, expected);
}

#[tokio::test]
async fn a_front_that_no_worker_has_met_says_so() {
    let dir = tempfile::tempdir().expect("dir");
    let keys = Arc::new(Keys::load_or_create(&dir.path().join("key")).expect("keys"));
    let running = front(dir.path(), "127.0.0.1:0".parse().expect("address"), &keys).await;
    let client = Client::new(running.address.to_string(), 1 << 20);
    assert_eq!(code(&get(&client, "/api/v1/polls/pets").await), (503, "not_ready".into()));
    let health = get(&client, "/health").await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(health.text().contains("no worker has enrolled it"), "{}", health.text());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fronts_are_found_by_name_and_dead_ones_hold_up_nobody() {
    let dir = tempfile::tempdir().expect("dir");
    let keys = Arc::new(Keys::load_or_create(&dir.path().join("key")).expect("keys"));
    let store = format!("sqlite:{}", dir.path().join("ballot.db").display());
    let port = free_port();
    // One that accepts and never answers, one that nobody listens at, one name that means nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let places: Vec<Place> = [
        silent.local_addr().expect("address").to_string(),
        "127.0.0.1:1".to_owned(),
        "dns:no-such-name.invalid:80".to_owned(),
        format!("dns:localhost:{port}"),
    ]
    .iter()
    .map(|p| p.parse().expect("a place"))
    .collect();
    // The worker is there before any front is.
    let (stop, stopping) = watch::channel(false);
    let worker = {
        let (store, keys) = (store.clone(), Arc::clone(&keys));
        tokio::spawn(async move {
            let options = WorkerOptions::new("finder");
            serve::worker(options, &store, &[polls::demo()], places, &keys, stopping).await
        })
    };
    let mut fronts = Vec::new();
    // A machine may know an address by name that it does not have.
    let usable = localhost().into_iter().filter(|ip| TcpListener::bind((*ip, 0)).is_ok());
    for (i, ip) in usable.enumerate() {
        let address = SocketAddr::new(ip, port);
        fronts.push(front(dir.path(), address, &keys).await);
        let client = || Client::new(address.to_string(), 1 << 20);
        until(&format!("{address} is found"), async || {
            get(&client(), "/health").await.status == StatusCode::OK
        })
        .await;
        until("it knows the polls", async || get(&client(), "/polls/pets").await.status == StatusCode::OK)
            .await;
        Browser::open(client(), "pets").await.voted("pets", "cats").await;
        let database = Database::open(&store).await.expect("opens");
        until("its ballot is counted", async || {
            database
                .counts()
                .await
                .expect("counts")
                .get("pets")
                .is_some_and(|c| c.by_option["cats"] == i as u64 + 1)
        })
        .await;
    }
    let _ = stop.send(true);
    worker.await.expect("ends").expect("worked");
    for front in fronts {
        front.stop().await;
    }
}

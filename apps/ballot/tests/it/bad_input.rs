//! Input that is wrong, forged, too much or too slow: clear answers, nothing counted, honest voters served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ballot::client::Client;
use ballot::front::FrontOptions;
use ballot::front::limits::Rate;
use ballot::http::Trust;
use ballot::keys::Keys;
use ballot::polls;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, StatusCode};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{App, Browser, code, get, limits, options, poll, until};

const JSON: &str = "application/json";
const BALLOTS: &str = "/api/v1/polls/pets/ballots";

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_get_clear_answers_and_count_nothing() {
    let polls = vec![
        polls::demo(),
        poll("past", "closes = 2020-01-01T00:00:00Z"),
        poll("future", "opens = 2100-01-01T00:00:00Z"),
        poll("cars", ""),
    ];
    let app = App::with(polls, options()).await;
    let mut ada = Browser::open(app.client(), "pets").await;
    assert_eq!(code(&ada.vote("nope", "cats").await), (404, "no_such_poll".into()));
    assert_eq!(code(&ada.vote("../admin", "cats").await), (404, "not_found".into()));
    assert_eq!(code(&ada.vote("pets", "fish").await), (422, "no_such_option".into()));
    assert_eq!(code(&ada.post(BALLOTS, JSON, "{", &[]).await), (400, "bad_ballot".into()));
    assert_eq!(
        code(&ada.post(BALLOTS, JSON, r#"{"option":"cats","extra":1}"#, &[]).await),
        (400, "bad_ballot".into())
    );
    assert_eq!(
        code(&ada.post(BALLOTS, JSON, r#"{"option":"cats","attempt":-1}"#, &[]).await),
        (400, "bad_ballot".into())
    );
    assert_eq!(
        code(&ada.post(BALLOTS, "text/plain", r#"{"option":"cats"}"#, &[]).await),
        (415, "not_json".into())
    );
    let large = format!("{{\"option\":\"cats\",\"ticket\":\"{}\"}}", "x".repeat(10_000));
    assert_eq!(code(&ada.post(BALLOTS, JSON, &large, &[]).await), (413, "too_large".into()));
    // A refused body ends the connection; the browser opens another.
    let mut ada = Browser { cookie: ada.cookie.clone(), ..Browser::new(app.client()) };
    let answer = app.client().send(Method::DELETE, BALLOTS, &[], Bytes::new()).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    let mut early = Browser::open(app.client(), "future").await;
    assert_eq!(code(&early.vote("future", "cats").await), (403, "not_open".into()));
    let mut late = Browser::open(app.client(), "past").await;
    assert_eq!(code(&late.vote("past", "cats").await), (410, "closed".into()));

    let mut stranger = Browser::new(app.client());
    assert_eq!(code(&stranger.vote("pets", "cats").await), (403, "no_cookie".into()));
    stranger.cookie = "ballot-pets=forged".to_owned();
    assert_eq!(code(&stranger.vote("pets", "cats").await), (403, "no_cookie".into()));
    // A good cookie of another poll, under this poll's name.
    let cars = Browser::open(app.client(), "cars").await;
    stranger.cookie = cars.cookie.replace("ballot-cars", "ballot-pets");
    assert_eq!(code(&stranger.vote("pets", "cats").await), (403, "no_cookie".into()));
    // One flipped letter.
    let mut text = ada.cookie.clone().into_bytes();
    let last = text.len() - 5;
    text[last] = if text[last] == b'A' { b'B' } else { b'A' };
    stranger.cookie = String::from_utf8(text).expect("text");
    assert_eq!(code(&stranger.vote("pets", "cats").await), (403, "no_cookie".into()));
    assert_eq!(get(&app.client(), "/log/v1/logs").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&app.client(), "/api/v1/nothing").await.status, StatusCode::NOT_FOUND);

    ada.voted("pets", "cats").await;
    app.counts("pets", 1, 0).await;
    app.counts("cars", 0, 0).await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_believed_from_where_it_may_come_only() {
    let identity = Keys::from_bytes(&[77; 32]).expect("keys");
    let mut front = FrontOptions { trust: Trust { proxies: vec![] }, ..options() };
    front.login.header = Some("x-user".to_owned());
    front.login.public_key = Some(identity.public_key());
    let app = App::with(vec![poll("staff", "identity = \"login\"")], front.clone()).await;
    let path = "/api/v1/polls/staff/ballots";
    let (cats, dogs) = (r#"{"option":"cats"}"#, r#"{"option":"dogs"}"#);
    let mut ada = Browser::new(app.client());
    assert_eq!(code(&ada.post(path, JSON, cats, &[("x-user", "ada")]).await), (403, "no_login".into()));
    let signed = |claims: &str| {
        let text =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#), URL_SAFE_NO_PAD.encode(claims));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(identity.sign(text.as_bytes())))
    };
    let (old, good) = (signed(r#"{"sub":"ada","exp":1000}"#), signed(r#"{"sub":"ada","exp":99999999999}"#));
    assert_eq!(
        code(&ada.post(path, JSON, cats, &[("x-skep-identity", &old)]).await),
        (403, "no_login".into())
    );
    assert_eq!(ada.post(path, JSON, cats, &[("x-skep-identity", &good)]).await.status, StatusCode::CREATED);
    // Another browser, the same person: still one voter.
    let mut other = Browser::new(app.client());
    assert_eq!(other.post(path, JSON, dogs, &[("x-skep-identity", &good)]).await.status, StatusCode::CREATED);
    app.counts("staff", 0, 1).await;
    app.running.stop().await;

    front.trust.proxies = vec!["127.0.0.0/8".parse().expect("block")];
    let app = App::with(vec![poll("staff", "identity = \"login\"")], front).await;
    let mut bob = Browser::new(app.client());
    assert_eq!(bob.post(path, JSON, cats, &[("x-user", "bob")]).await.status, StatusCode::CREATED);
    app.counts("staff", 1, 0).await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_prefix_is_cut_down_and_honest_voters_are_served() {
    // Nothing to speak of comes back while this goes on, however slow the machine is.
    let limited = FrontOptions {
        prefix_rate: Rate { per_second: 0.001, burst: 50.0 },
        voter_rate: Rate { per_second: 0.001, burst: 5.0 },
        trust: Trust { proxies: vec!["127.0.0.0/8".parse().expect("block")] },
        ..options()
    };
    let app = App::with(vec![polls::demo()], limited).await;
    let from = |address: &'static str| [("accept", "text/html"), ("x-forwarded-for", address)];
    let mut honest = Browser::open(app.client(), "pets").await;
    let client = app.client();
    let mut refused = 0;
    for _ in 0..300 {
        let page = client.send(Method::GET, "/polls/pets", &from("203.0.113.7"), Bytes::new()).await;
        refused += u32::from(page.expect("an answer").status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused > 200, "{refused} of 300 refused");
    let blind = client.send(
        Method::POST,
        BALLOTS,
        &[("content-type", JSON), ("x-forwarded-for", "203.0.113.9")],
        r#"{"option":"cats"}"#.into(),
    );
    assert_eq!(code(&blind.await.expect("an answer")).0, 429, "a neighbour of the flood, without a cookie");
    // Who has the page votes on, from the flooded prefix too; others are not touched.
    let headers = [("x-forwarded-for", "203.0.113.8")];
    assert_eq!(
        honest.post(BALLOTS, JSON, r#"{"option":"cats"}"#, &headers).await.status,
        StatusCode::CREATED
    );
    let page = client.send(Method::GET, "/polls/pets", &from("198.51.100.1"), Bytes::new()).await;
    assert_eq!(page.expect("an answer").status, StatusCode::OK);
    // One voter cannot flood either.
    let mut too_often = 0;
    for _ in 0..30 {
        too_often += u32::from(code(&honest.vote("pets", "dogs").await).1 == "too_often");
    }
    assert!(too_often >= 20, "{too_often}");
    app.counts("pets", 0, 1).await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_voters_behind_one_address_all_get_through() {
    // As docs/ballot.md says for a hall of this size. The limit on each voter is the usual one.
    let prefix_rate: Rate = "2000/100000".parse().expect("a rate");
    let hall = FrontOptions { prefix_rate, ..FrontOptions::new("hall") };
    let app = App::with(vec![polls::demo()], hall).await;
    let plan = ballot::load::Plan {
        dialect: ballot::load::Dialect::Ballot,
        fronts: vec![app.running.address.to_string().parse().expect("a place")],
        poll: polls::demo().id,
        options: vec!["cats".into(), "dogs".into()],
        voters: 100_000,
        votes: 100_000,
        connections: 32,
        fresh_connections: false,
        patience: Duration::from_secs(60),
        deadline: Duration::from_secs(3600),
        pause: Duration::ZERO,
    };
    let report = ballot::load::run(plan, None).await;
    assert_eq!((report.acknowledged, report.failures.len()), (100_000, 0), "{:?}", report.failures);
    app.counts("pets", report_of(&report, "cats"), report_of(&report, "dogs")).await;
    app.running.stop().await;
}

fn report_of(report: &ballot::load::Report, option: &str) -> u64 {
    report.histories.values().flatten().filter(|s| s.acknowledged && s.option == option).count() as u64
}

/// What becomes of a flood.
#[derive(Default)]
struct Flood {
    stop: AtomicBool,
    refused: AtomicU64,
    served: AtomicU64,
}

/// Asks for pages and votes blindly, as one neighbourhood, until told to stop.
fn flood(app: &App, flood: Arc<Flood>) -> tokio::task::JoinHandle<()> {
    let address = app.running.address.to_string();
    tokio::spawn(async move {
        let client = Client::new(address, 1 << 20);
        for i in 0u64.. {
            if flood.stop.load(Ordering::Acquire) {
                break;
            }
            let from = format!("203.0.113.{}", i % 250);
            let asked = if i % 2 == 0 {
                let headers = [("accept", "text/html"), ("x-forwarded-for", from.as_str())];
                client.send(Method::GET, "/polls/pets", &headers, Bytes::new()).await
            } else {
                let headers = [("content-type", JSON), ("x-forwarded-for", from.as_str())];
                client.send(Method::POST, BALLOTS, &headers, r#"{"option":"dogs"}"#.into()).await
            };
            match asked.expect("an answer").status {
                StatusCode::TOO_MANY_REQUESTS => &flood.refused,
                _ => &flood.served,
            }
            .fetch_add(1, Ordering::AcqRel);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_slow_clients_and_a_flood_do_not_keep_voters_waiting() {
    let limited = FrontOptions {
        prefix_rate: Rate { per_second: 5.0, burst: 50.0 },
        trust: Trust { proxies: vec!["127.0.0.0/8".parse().expect("block")] },
        ..options()
    };
    // Both ends of every connection are in this process.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let _ = setrlimit(Resource::Nofile, files);
    let app = App::with(vec![polls::demo()], limited).await;
    let mut slow = Vec::new();
    for i in 0..1_000 {
        let mut stream = TcpStream::connect(app.running.address).await.expect("connects");
        let part: &[u8] = if i % 2 == 0 {
            b"GET /polls/pets HTTP/1.1\r\nHost: x\r\nX-Slow: "
        } else {
            b"POST /api/v1/polls/pets/ballots HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        };
        stream.write_all(part).await.expect("writes");
        slow.push(stream);
    }
    let flooding = Arc::new(Flood::default());
    let floods: Vec<_> = (0..8).map(|_| flood(&app, Arc::clone(&flooding))).collect();
    let mut longest = Duration::ZERO;
    for i in 0..100 {
        let from = format!("198.51.{i}.1");
        let headers = [("accept", "text/html"), ("x-forwarded-for", from.as_str())];
        let started = Instant::now();
        let mut voter = Browser::new(app.client());
        let page =
            voter.client.send(Method::GET, "/polls/pets", &headers, Bytes::new()).await.expect("a page");
        assert_eq!(page.status, StatusCode::OK);
        voter.keep(&page);
        let answer = voter.post(BALLOTS, JSON, r#"{"option":"cats"}"#, &headers[1..]).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        longest = longest.max(started.elapsed());
    }
    assert!(longest < limits().head, "they waited until the slow ones were gone: {longest:?}");
    until("most of the flood is refused", async || {
        let (refused, served) = (&flooding.refused, &flooding.served);
        refused.load(Ordering::Acquire) > 10 * served.load(Ordering::Acquire).max(1)
    })
    .await;
    flooding.stop.store(true, Ordering::Release);
    for flood in floods {
        flood.await.expect("ends");
    }
    // Slow heads are cut off, slow bodies are told so.
    for (i, mut stream) in slow.into_iter().enumerate() {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "connection {i} is still open");
        let text = String::from_utf8_lossy(&answer);
        assert!(i % 2 == 0 || text.starts_with("HTTP/1.1 408"), "{i}: {text}");
    }
    app.counts("pets", 100, 0).await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_see_votes_as_they_come() {
    let app = App::start().await;
    let mut stream = TcpStream::connect(app.running.address).await.expect("connects");
    stream.write_all(b"GET /api/v1/polls/pets/events HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("asks");
    let mut ada = Browser::open(app.client(), "pets").await;
    ada.voted("pets", "dogs").await;
    let mut seen = String::new();
    until("the viewer sees the vote", async || {
        let mut buffer = [0; 4096];
        if let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut buffer)).await {
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        seen.contains("\"dogs\":1")
    })
    .await;
    assert!(seen.contains("text/event-stream"), "{seen}");
    app.running.stop().await;
}

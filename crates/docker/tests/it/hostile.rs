//! Engines that are too old, too new, slow, broken or malicious.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use skep_docker::{Engine, Error, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers each request by its path; every connection carries one.
async fn fake(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Engine {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move { serve(stream, &*answer).await });
        }
    });
    Engine::new(address.parse().unwrap())
}

async fn serve(mut stream: TcpStream, answer: &(impl Fn(&str) -> Vec<u8> + Sync)) {
    let mut head = Vec::new();
    while !head.windows(4).any(|part| part == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let _ = stream.write_all(&answer(path)).await;
    let _ = stream.shutdown().await;
}

fn http(status: u16, body: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body.as_bytes()].concat()
}

const VERSION: &str = r#"{"ApiVersion":"1.45","MinAPIVersion":"1.24"}"#;

/// An engine that answers one path its own way.
async fn with(path: &'static str, answer: Vec<u8>) -> Engine {
    fake(move |asked| match asked {
        "/version" => http(200, VERSION),
        asked if asked == path => answer.clone(),
        other => http(404, &format!(r#"{{"message":"what is {other}?"}}"#)),
    })
    .await
}

#[tokio::test]
async fn every_path_carries_the_version_both_sides_know() {
    let engine = with("/v1.45/info", http(200, r#"{"NCPU":2,"Surprise":{}}"#)).await;
    let info = engine.info().await.unwrap();
    assert_eq!(info.number("/NCPU"), Some(2));
    assert!(info.at("/Surprise").is_some());
    let new = fake(|_| http(200, r#"{"ApiVersion":"1.99","MinAPIVersion":"1.47"}"#)).await;
    assert_eq!(new.api_version().await.unwrap().to_string(), "1.47");
}

#[tokio::test]
async fn without_a_common_version_the_mend_is_named() {
    let old = fake(|_| http(200, r#"{"ApiVersion":"1.40","MinAPIVersion":"1.12"}"#)).await;
    let error = old.info().await.unwrap_err();
    assert!(matches!(error, Error::TooOld { .. }) && error.to_string().contains("1.41 or later"), "{error}");
    let new = fake(|_| http(200, r#"{"ApiVersion":"1.99","MinAPIVersion":"1.60"}"#)).await;
    assert!(new.info().await.unwrap_err().to_string().contains("upgrade Skep"));
    let other = fake(|_| http(200, "{}")).await;
    assert!(other.info().await.unwrap_err().to_string().contains("is this a Docker Engine?"));
}

#[tokio::test]
async fn an_engine_that_was_upgraded_is_agreed_with_anew() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let engine = fake(move |path| match path {
        "/version" if count.fetch_add(1, Ordering::Relaxed) == 0 => {
            http(200, r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12"}"#)
        }
        "/version" => http(200, r#"{"ApiVersion":"1.45","MinAPIVersion":"1.44"}"#),
        "/v1.45/info" => http(200, "{}"),
        _ => http(
            400,
            r#"{"message":"client version 1.41 is too old. Minimum supported API version is 1.44"}"#,
        ),
    })
    .await;
    assert!(engine.info().await.unwrap_err().to_string().contains("too old"));
    engine.info().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn nonsense_is_an_error_and_never_a_panic() {
    for answer in [
        http(200, "{\"half\":"),
        http(200, ""),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![0; 4096],
        Vec::new(),
    ] {
        let engine = with("/v1.45/info", answer.clone()).await;
        let error = engine.info().await.unwrap_err();
        assert!(matches!(error, Error::Garbled { .. } | Error::Broken { .. }), "{error} {answer:?}");
        assert!(error.to_string().contains("GET /info"), "{error}");
    }
    // A refusal that is no JSON, and one without a word.
    let engine = with("/v1.45/info", http(500, "<html>no</html>")).await;
    assert!(engine.info().await.unwrap_err().to_string().starts_with("<html>no</html>"));
    let engine = with("/v1.45/info", http(503, "")).await;
    assert!(
        engine.info().await.unwrap_err().to_string().contains("gives no reason (the engine's answer 503")
    );
    // Not what was asked for, but JSON: empty rather than wrong.
    let engine = with("/v1.45/containers/json?all=1", http(200, "{\"message\":1}")).await;
    assert!(engine.list_containers(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_unknown_event_does_not_end_the_stream() {
    let lines = concat!(
        "{\"Type\":\"holodeck\",\"Action\":\"beam\",\"Actor\":{\"ID\":7}}\n",
        "this is no JSON\n[1]\n",
        "{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"ID\":\"c\",\"Attributes\":{\"exitCode\":\"1\"}},\"timeNano\":5}\n",
    );
    let engine = with("/v1.45/events?since=0", http(200, lines)).await;
    let mut events = engine.events(&[], Some(0)).await.unwrap();
    let first = events.next().await.unwrap().unwrap();
    assert_eq!((first.kind(), first.actor()), ("holodeck", ""));
    let second = events.next().await.unwrap().unwrap();
    assert_eq!((second.action(), second.attribute("exitCode"), second.time_nano()), ("die", Some("1"), 5));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn nobody_there_is_said_with_what_to_do() {
    let engine = Engine::new(skep_docker::Address::unix("/nonexistent/docker.sock"));
    let error = engine.info().await.unwrap_err();
    assert!(error.is_transport());
    assert!(error.to_string().contains("unix:///nonexistent/docker.sock cannot be reached"), "{error}");
    assert!(error.to_string().contains("is Docker installed and running"), "{error}");
}

#[tokio::test]
async fn an_engine_that_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let engine = Engine::new(format!("tcp://{}", listener.local_addr().unwrap()).parse().unwrap());
    let begun = Instant::now();
    let error = engine.info().await.unwrap_err();
    assert!(matches!(error, Error::Late { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    drop(listener);
}

#[tokio::test]
async fn an_update_gives_up_when_others_are_always_faster() {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let engine = fake(move |path| match path {
        "/version" => http(200, VERSION),
        "/v1.45/services/s" => {
            http(200, r#"{"ID":"s","Version":{"Index":7},"Spec":{"Name":"s","New":{"x":[1]}}}"#)
        }
        "/v1.45/services/s/update?version=7" => {
            count.fetch_add(1, Ordering::Relaxed);
            http(500, r#"{"message":"rpc error: code = Unknown desc = update out of sequence"}"#)
        }
        _ => http(404, "{}"),
    })
    .await;
    let error = engine.update(Kind::Service, "s", |_| {}).await.unwrap_err();
    assert!(error.is_stale());
    assert_eq!(tries.load(Ordering::Relaxed), 5);
}

/// What an engine of tomorrow sends comes back as it was: unknown fields, their order, numbers of every kind, odd texts.
#[tokio::test]
async fn an_update_sends_unknown_fields_back_byte_for_byte() {
    const SPEC: &str = r#"{"Zeta":{"b":1,"a":[null,true,{"x":{}},[]]},"Name":"s","Big":18446744073709551615,"Small":-9223372036854775808,"Ratio":0.15,"Mode":{"Replicated":{"Replicas":1,"Later":"x"}},"Text":"tab\tquote\"é<🐝>","":"","TaskTemplate":null}"#;
    let posted = Arc::new(std::sync::Mutex::new(None));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let engine = Engine::new(format!("tcp://{}", listener.local_addr().unwrap()).parse().unwrap());
    let keep = Arc::clone(&posted);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut read, mut ends) = (Vec::new(), None);
            while ends.is_none_or(|end| read.len() < end) {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    break;
                }
                let text = String::from_utf8_lossy(&read);
                ends = text.find("\r\n\r\n").map(|at| {
                    let length = text[..at]
                        .to_ascii_lowercase()
                        .split("content-length: ")
                        .nth(1)
                        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
                    at + 4 + length
                });
            }
            let text = String::from_utf8(read).unwrap();
            let answer = match text.split(' ').nth(1).unwrap_or_default() {
                "/version" => http(200, VERSION),
                "/v1.45/services/s" => {
                    http(200, &format!(r#"{{"ID":"s","Version":{{"Index":7}},"Spec":{SPEC}}}"#))
                }
                path => {
                    assert_eq!(path, "/v1.45/services/s/update?version=7");
                    *keep.lock().unwrap() = text.split("\r\n\r\n").nth(1).map(str::to_owned);
                    http(200, "{}")
                }
            };
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    let scale = |spec: &mut serde_json::Value| spec["Mode"]["Replicated"]["Replicas"] = 5.into();
    engine.update(Kind::Service, "s", scale).await.unwrap();
    let expected = SPEC.replace(r#""Replicas":1"#, r#""Replicas":5"#);
    assert_eq!(posted.lock().unwrap().as_deref(), Some(expected.as_str()));
}

//! The API: rows, orders, logs, events, rights, and its own description.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use skep_control::ControlConfig;
use skep_edge::Purpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Lines, World, spec, until};

async fn one_app() -> World {
    let world =
        World::new(ControlConfig::default(), vec![spec("sales", "Sales"), spec("bees", "Bees")]).await;
    world.doors.open();
    world
}

#[tokio::test]
async fn instances_are_the_rows_of_the_contract() {
    let world = one_app().await;
    assert_eq!(world.operate("GET", "/_skep/api/v1/instances").await.json(), serde_json::json!([]));
    world.claim("sales").unwrap();
    let id = world.instance("sales", true).await.to_string();
    let rows = world.operate("GET", "/_skep/api/v1/instances").await.json();
    let row = rows[0].as_object().unwrap();
    let keys: Vec<&str> = row.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "id",
            "app",
            "backend",
            "node",
            "pid",
            "state",
            "seats",
            "taken",
            "user",
            "started_at",
            "ready_ms",
            "cpu",
            "memory"
        ]
    );
    assert_eq!((row["id"].as_str(), row["app"].as_str()), (Some(id.as_str()), Some("sales")));
    assert_eq!((row["backend"].as_str(), row["state"].as_str()), (Some("process"), Some("ready")));
    assert_eq!(
        (row["pid"].as_u64(), row["seats"].as_u64(), row["taken"].as_u64()),
        (Some(4711), Some(1), Some(1))
    );
    assert_eq!((row["cpu"].as_f64(), row["memory"].as_u64()), (Some(1.5), Some(4096)));
    let started = row["started_at"].as_str().unwrap();
    assert!(started.starts_with("20") && started.ends_with('Z'), "{started}");
    let one = world.operate("GET", &format!("/_skep/api/v1/instances/{id}")).await.json();
    assert_eq!(one["id"], row["id"]);
    for unknown in ["nobody", "sales.0000000000000000", "../etc"] {
        let answer = world.operate("GET", &format!("/_skep/api/v1/instances/{unknown}")).await;
        assert_eq!(answer.status, 404, "{unknown}");
    }
}

#[tokio::test]
async fn apps_tell_their_state() {
    let world = one_app().await;
    let app = async || world.operate("GET", "/_skep/api/v1/apps/sales").await.json();
    let cold = app().await;
    assert_eq!(
        (&cold["state"], &cold["url"], &cold["instances"]),
        (&"cold".into(), &"/sales/".into(), &0.into())
    );
    world.claim("sales").unwrap();
    world.instance("sales", true).await;
    let running = app().await;
    assert_eq!(
        (&running["state"], &running["taken"], &running["seats"]),
        (&"running".into(), &1.into(), &1.into())
    );
    let all = world.operate("GET", "/_skep/api/v1/apps").await.json();
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(world.operate("GET", "/_skep/api/v1/apps/nobody").await.code(), "unknown-app");
}

#[tokio::test]
async fn stop_and_restart_answer_what_they_concerned() {
    let world = one_app().await;
    world.claim("sales").unwrap();
    let id = world.instance("sales", true).await;
    let restarted = world.operate("POST", "/_skep/api/v1/apps/sales/restart").await;
    assert_eq!((restarted.status.as_u16(), restarted.json()["instances"].as_u64()), (200, Some(1)));
    let stopped = world.operate("POST", &format!("/_skep/api/v1/instances/{id}/stop")).await;
    assert_eq!(stopped.status, 200, "{}", stopped.text);
    until("the instance to go", || !world.handle.instances().iter().any(|view| view.id == id)).await;
    let all = world.operate("POST", "/_skep/api/v1/stop").await;
    assert_eq!(all.status, 200);
    assert!(world.handle.instances().is_empty());
    assert_eq!(world.operate("POST", "/_skep/api/v1/apps/sales/retry").await.status, 204);
    let wrong = world.operate("GET", "/_skep/api/v1/apps/sales/stop").await;
    assert_eq!((wrong.status.as_u16(), wrong.code().as_str()), (405, "method-not-allowed"));
}

#[tokio::test]
async fn logs_are_read_and_followed_also_of_the_dead() {
    let world = one_app().await;
    assert_eq!(world.operate("GET", "/_skep/api/v1/apps/sales/logs").await.code(), "no-log");
    world.claim("sales").unwrap();
    let id = world.instance("sales", true).await;
    world.doors.write(&id, "second");
    let logs = world.operate("GET", &format!("/_skep/api/v1/instances/{id}/logs")).await;
    assert_eq!(
        (logs.header("content-type"), logs.text.as_str()),
        ("text/plain; charset=utf-8", "the first line\nsecond\n")
    );
    let tail = world.operate("GET", "/_skep/api/v1/apps/sales/logs?tail=1").await;
    assert_eq!(tail.text, "second\n");
    let follow = world.operator("GET", "/_skep/api/v1/apps/sales/logs?tail=1&follow=true").await;
    let mut lines = Lines::of(follow.into_body());
    assert_eq!(lines.next().await.as_deref(), Some("second"));
    world.doors.write(&id, "third");
    assert_eq!(lines.next().await.as_deref(), Some("third"));
    world.recorded(1).await;
    world.operate("POST", "/_skep/api/v1/apps/sales/stop").await;
    // The journal knows which instance was the last.
    let dead = world.operate("GET", "/_skep/api/v1/apps/sales/logs?tail=2").await;
    assert_eq!(dead.text, "second\nthird\n");
    assert_eq!(world.operate("GET", "/_skep/api/v1/apps/sales/logs?tail=x").await.code(), "bad-query");
    let unknown = world.operate("GET", "/_skep/api/v1/instances/sales.0000000000000000/logs").await;
    assert_eq!(unknown.code(), "unknown-instance");
}

#[tokio::test]
async fn events_replay_and_go_on_without_gap_or_double() {
    let world = one_app().await;
    world.claim("sales").unwrap();
    world.instance("sales", true).await;
    let follow = world.operator("GET", "/_skep/api/v1/events?follow=true").await;
    assert_eq!(follow.headers()["content-type"], "application/x-ndjson");
    let mut lines = Lines::of(follow.into_body());
    let first = lines.json().await;
    assert_eq!(
        (&first["seq"], &first["kind"], &first["app"]),
        (&1.into(), &"instance-start".into(), &"sales".into())
    );
    assert!(first["at"].as_str().unwrap().ends_with('Z'));
    let second = lines.json().await;
    assert_eq!((&second["seq"], &second["kind"]), (&2.into(), &"instance-ready".into()));
    world.operate("POST", "/_skep/api/v1/apps/sales/stop").await;
    let mut seqs = vec![1, 2];
    loop {
        let record = lines.json().await;
        seqs.push(record["seq"].as_i64().unwrap());
        if record["kind"] == "instance-stop" {
            break;
        }
    }
    assert!(seqs.iter().copied().eq(1..=i64::try_from(seqs.len()).unwrap()), "{seqs:?}");

    let page = world.operate("GET", "/_skep/api/v1/events?after=1&limit=1").await;
    assert_eq!(page.text.lines().count(), 1);
    assert!(page.text.contains("\"seq\":2"));
    let kind = world.operate("GET", "/_skep/api/v1/events?kind=instance-stop").await;
    assert_eq!(kind.text.lines().count(), 1);
    let tail = world.operate("GET", "/_skep/api/v1/events?tail=1").await;
    assert_eq!(tail.text.lines().count(), 1);
    assert!(tail.text.contains("instance-stop"));
    assert_eq!(world.operate("GET", "/_skep/api/v1/events?kind=nonsense").await.code(), "bad-query");
    assert_eq!(world.operate("GET", "/_skep/api/v1/events?nonsense=1").await.code(), "bad-query");
}

#[tokio::test]
async fn browsers_follow_events_as_server_sent_ones() {
    let world = one_app().await;
    world.claim("sales").unwrap();
    world.instance("sales", true).await;
    until("two records", || world.handle.instances().iter().any(|view| view.ready_ms.is_some())).await;
    let request = Request::get("/_skep/api/v1/events?follow=true")
        .header("accept", "text/event-stream")
        .header("last-event-id", "1")
        .body(Body::empty())
        .unwrap();
    let router = world.control.admin_router();
    let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut lines = Lines::of(response.into_body());
    let mut line = lines.next().await.unwrap();
    while line == ":" {
        line = lines.next().await.unwrap();
    }
    assert_eq!(line, "id: 2");
    assert!(lines.next().await.unwrap().starts_with("data: {\"seq\":2,"));
}

#[tokio::test]
async fn visitors_use_apps_and_nothing_else() {
    let world = one_app().await;
    assert_eq!(world.get("/_skep/api/v1/apps").await.json().as_array().unwrap().len(), 2);
    assert_eq!(world.get("/_skep/api/v1/openapi.json").await.status, 200);
    assert_eq!(world.get("/_skep/health/live").await.status, 200);
    for path in [
        "instances",
        "instances/sales.0000000000000000",
        "instances/x/logs",
        "apps/sales/logs",
        "events",
        "seats",
    ] {
        let answer = world.get(&format!("/_skep/api/v1/{path}")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "operators-only"), "{path}");
    }
    let orders = [
        "apps/sales/stop",
        "apps/sales/restart",
        "instances/x/stop",
        "instances/x/restart",
        "instances/x/exec",
        "stop",
        "server/upgrade",
        "server/reload",
    ];
    for path in orders {
        let request = Request::post(format!("/_skep/api/v1/{path}")).header("sec-fetch-site", "same-origin");
        let answer = world.answer(Purpose::Own, request.body("").unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "operators-only"), "{path}");
    }
    let retry = Request::post("/_skep/api/v1/apps/sales/retry").header("sec-fetch-site", "same-origin");
    assert_eq!(world.answer(Purpose::Own, retry.body("").unwrap()).await.status, 204);
    let foreign = Request::post("/_skep/api/v1/apps/sales/retry").body("").unwrap();
    assert_eq!(world.answer(Purpose::Own, foreign).await.code(), "cross-site");
    assert_eq!(world.get("/metrics").await.status, 404, "metrics are not for visitors");
}

/// The description and the routes are the same list.
#[tokio::test]
async fn the_description_matches_what_is_there() {
    let world = one_app().await;
    let described = world.operate("GET", "/_skep/api/v1/openapi.json").await.json();
    let paths = described["paths"].as_object().unwrap();
    let mut operations = 0;
    for (path, methods) in paths {
        let real =
            path.replace("{app}", "nobody").replace("{instance}", "nobody").replace("{user}", "nobody");
        let known: Vec<String> = methods.as_object().unwrap().keys().map(|m| m.to_uppercase()).collect();
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let response = world.operator(method, &format!("/_skep/api/v1{real}")).await;
            let status = response.status().as_u16();
            if known.iter().any(|known| known == method) {
                operations += 1;
                assert_ne!(status, 405, "{method} {path} is described and does not exist");
                let described = methods[method.to_lowercase()]["responses"].as_object().unwrap();
                assert!(described.contains_key(&status.to_string()), "{method} {path} answers {status}");
                if status == 404 {
                    let text = response.into_body().collect().await.unwrap().to_bytes();
                    assert!(!text.windows(12).any(|w| w == b"unknown-path"), "{path} is not routed");
                }
            } else {
                assert_eq!(status, 405, "{method} {path} exists and is not described");
            }
        }
    }
    // The other direction: a new route must raise this number, and with it the description.
    assert_eq!((paths.len(), operations), (24, 28));
    let references = described.to_string();
    for part in references.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(described["components"]["schemas"].get(name).is_some(), "{name} is referred to and missing");
    }
}

#[tokio::test]
async fn metrics_and_health_are_on_both_admin_ways_in() {
    // The figures are the process's: an app of this test's own, or another test's driver would write over them.
    let world = World::new(ControlConfig::default(), vec![spec("measured", "Measured")]).await;
    world.doors.open();
    world.claim("measured").unwrap();
    world.instance("measured", true).await;
    let ready = "skep_app_instances{app=\"measured\",phase=\"ready\"} 1\n";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let metrics = loop {
        let metrics = world.operate("GET", "/metrics").await;
        if metrics.text.contains(ready) || std::time::Instant::now() > deadline {
            break metrics;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(metrics.text.contains(ready), "{}", metrics.text);
    assert!(metrics.text.contains("# TYPE process_cpu_seconds_total counter\n"));
    let ready = world.operate("GET", "/_skep/health/ready").await;
    assert_eq!(ready.json(), serde_json::json!({ "state": "ready", "journal": "ok" }));
    let router = world.control.metrics_router();
    let request = Request::get("/_skep/api/v1/instances").body(Body::empty()).unwrap();
    let answer = tower::ServiceExt::oneshot(router, request).await.unwrap();
    assert_eq!(answer.status(), 404, "the admin listener has no API");
}

#[tokio::test]
async fn the_control_socket_speaks_http() {
    let world = one_app().await;
    let path = world.folder.path().join("control.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(world.control.clone().serve_admin(listener));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let request = "GET /_skep/api/v1/apps HTTP/1.1\r\nHost: skep\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"id\":\"sales\""), "{answer}");
    serving.abort();
}

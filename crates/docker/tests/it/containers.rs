//! The life of containers on a real engine.

use std::collections::BTreeSet;
use std::time::Duration;

use std::sync::OnceLock;

use futures_util::StreamExt;
use serde_json::{Value, json};
use skep_docker::{Address, Engine, Error, ExecOrder, Kind, LogOptions, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::daemon::{daemon, until};

pub(crate) fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    // One for all: a new one asks for the engine's version first.
    ENGINE.get_or_init(|| Engine::new(Address::unix(daemon().socket()))).clone()
}

fn shell(script: &str) -> Value {
    json!({ "Image": "bb:1", "Cmd": ["sh", "-c", script], "HostConfig": { "Init": true } })
}

async fn started(engine: &Engine, name: &str, spec: &Value) -> String {
    let id = engine.create_container(name, spec).await.unwrap();
    assert!(engine.start_container(&id).await.unwrap());
    assert!(!engine.start_container(&id).await.unwrap(), "a second start changes nothing");
    id
}

#[tokio::test]
async fn a_container_lives_and_ends() {
    let engine = engine();
    assert_eq!(engine.api_version().await.unwrap().to_string(), "1.41");
    assert!(engine.version().await.unwrap().text("/Version").is_some());
    assert!(engine.info().await.unwrap().number("/NCPU").unwrap() > 0);

    let mut events = engine.events(&[("container", "life"), ("type", "container")], None).await.unwrap();
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let id = started(&engine, "life", &shell(script)).await;
    until("it knows what to do when it is told to end", async || {
        let log = engine.container_logs(&id, LogOptions::default()).await.unwrap();
        log.any(|line| std::future::ready(line.unwrap().text == "ready")).await.then_some(())
    })
    .await;
    let taken = engine.create_container("life", &shell("true")).await.unwrap_err();
    assert!(taken.is_conflict(), "{taken}");
    let running = engine.inspect_container("life").await.unwrap().unwrap();
    assert_eq!(running.id(), id);
    assert!(running.state().running && running.state().pid.is_some());
    assert!(running.address_in("bridge").is_some());
    let listed = engine.list_containers(&[("name", "^/life$")]).await.unwrap();
    assert_eq!(listed.iter().map(skep_docker::Document::id).collect::<Vec<_>>(), [id.as_str()]);

    assert!(engine.stop_container(&id, Duration::from_secs(10)).await.unwrap());
    assert!(!engine.stop_container(&id, Duration::from_secs(10)).await.unwrap());
    assert_eq!(engine.wait_container(&id, Duration::from_secs(60)).await.unwrap(), 3);
    let ended = engine.inspect_container(&id).await.unwrap().unwrap().state();
    assert_eq!((ended.running, ended.exit_code, ended.status.as_str()), (false, Some(3), "exited"));
    assert!(engine.remove_container(&id).await.unwrap());
    assert!(!engine.remove_container(&id).await.unwrap());
    assert!(engine.inspect_container(&id).await.unwrap().is_none());

    let mut seen = BTreeSet::new();
    while !seen.contains("destroy") {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next()).await.unwrap();
        let event = event.unwrap().unwrap();
        assert_eq!((event.kind(), event.actor()), ("container", id.as_str()));
        assert!(event.time_nano() > 0);
        seen.insert(event.action().to_owned());
    }
    assert!(["create", "start", "die", "stop"].iter().all(|action| seen.contains(*action)), "{seen:?}");
}

#[tokio::test]
async fn what_it_wrote_comes_back_line_by_line() {
    let engine = engine();
    let script = "echo one; echo two >&2; printf 'caf\\303\\251\\001'; sleep 3; echo ' late'; printf end";
    let id = started(&engine, "wrote", &shell(script)).await;
    let read = async |options| -> Vec<_> {
        engine.container_logs(&id, options).await.unwrap().map(|line| line.unwrap()).collect().await
    };
    let out = |lines: &[skep_docker::LogLine], source| -> Vec<String> {
        lines.iter().filter(|line| line.source == source).map(|line| line.text.clone()).collect()
    };
    // An engine may end the stream of a container that has just ended before what it wrote last.
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let to_its_end = async {
        let log = engine.container_log_to_its_end(&id, follow).await.unwrap();
        log.map(|line| line.unwrap()).collect::<Vec<_>>().await
    };
    let (followed, told) = futures_util::future::join(read(follow), to_its_end).await;
    let words = |source| -> Vec<&str> {
        told.iter().filter(|line| line.source == source).map(|line| line.text.as_str()).collect()
    };
    assert_eq!(words(Source::Stdout), ["one", "café late", "end"]);
    assert_eq!(words(Source::Stderr), ["two"]);
    assert!(told.iter().all(|line| line.time.starts_with("20")), "{told:?}");
    let stdout = out(&followed, Source::Stdout);
    let all = ["one", "café late", "end"];
    assert!((1..=3).any(|count| stdout == all[..count]), "{stdout:?}");
    engine.wait_container(&id, Duration::from_secs(60)).await.unwrap();
    let whole = read(LogOptions::default()).await;
    assert_eq!(out(&whole, Source::Stdout), ["one", "café late", "end"]);
    assert_eq!(out(&whole, Source::Stderr), ["two"]);
    let tail = LogOptions { tail: Some(1), ..LogOptions::default() };
    let last: Vec<_> = engine.container_logs(&id, tail).await.unwrap().collect().await;
    assert_eq!(last.len(), 1);
    let missing = engine.container_logs("nobody", tail).await.map(drop).unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    engine.remove_container(&id).await.unwrap();
}

#[tokio::test]
async fn use_is_measured_and_the_end_of_the_stream_is_seen() {
    let engine = engine();
    let id = started(&engine, "used", &shell("while :; do :; done")).await;
    {
        let mut samples = Box::pin(engine.container_stats(&id).await.unwrap());
        let sample = tokio::time::timeout(Duration::from_secs(60), samples.next()).await.unwrap();
        let sample = sample.unwrap().unwrap();
        assert!(sample.cpu_seconds > 0.0 && sample.memory_bytes > 0 && sample.processes >= 1, "{sample:?}");
        engine.kill_container(&id, "SIGKILL").await.unwrap();
        assert_eq!(engine.wait_container(&id, Duration::from_secs(60)).await.unwrap(), 137);
        engine.remove_container(&id).await.unwrap();
        let rest = async { while samples.next().await.is_some_and(|sample| sample.is_ok()) {} };
        tokio::time::timeout(Duration::from_secs(60), rest).await.unwrap();
    }
}

#[tokio::test]
async fn a_program_runs_in_it_with_a_terminal_byte_for_byte() {
    let engine = engine();
    let id = started(&engine, "exec", &shell("sleep 1000")).await;
    let command = ["sh", "-c", "printf '\\001\\002'; stty size; read line; echo \"got $line\"; exit 5"];
    let order = ExecOrder {
        command: command.map(str::to_owned).to_vec(),
        env: vec!["A=b".to_owned()],
        terminal: true,
        ..ExecOrder::default()
    };
    let mut exec = engine.exec(&id, &order).await.unwrap();
    let mut two = [0; 2];
    exec.read_exact(&mut two).await.unwrap();
    assert_eq!(two, [1, 2], "raw, although they look like a frame's header");
    exec.resize(132, 43).await.unwrap();
    assert_eq!(exec.exit_code().await.unwrap(), None);
    exec.write_all(b"hello\n").await.unwrap();
    let mut rest = String::new();
    exec.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("got hello"), "{rest:?}");
    assert_eq!(until("its status", async || exec.exit_code().await.unwrap()).await, 5);

    // Without a terminal both outputs are told apart.
    let order = ExecOrder {
        command: ["sh", "-c", "echo $0 out; echo err >&2", "said"].map(str::to_owned).to_vec(),
        ..ExecOrder::default()
    };
    let mut exec = engine.exec(&id, &order).await.unwrap();
    let mut bytes = Vec::new();
    exec.read_to_end(&mut bytes).await.unwrap();
    let frames = skep_docker::Demux::default().push(bytes.into()).unwrap();
    let of = |source| {
        frames.iter().filter(|f| f.source == source).flat_map(|f| f.bytes.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(of(Source::Stdout), b"said out\n");
    assert_eq!(of(Source::Stderr), b"err\n");
    engine.remove_container(&id).await.unwrap();
}

#[tokio::test]
async fn files_are_put_into_it_and_it_joins_a_second_network() {
    let engine = engine();
    let spec = json!({ "Name": "beside", "Options": { "com.docker.network.bridge.enable_icc": "false" } });
    let network = engine.create(Kind::Network, &spec).await.unwrap();
    let id = engine.create_container("joined", &shell("cat /etc/note; sleep 1000")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("note"), "well\n").unwrap();
    let tar = std::process::Command::new("tar").arg("-C").arg(dir.path()).args(["-c", "note"]).output();
    engine.put_archive(&id, "/etc", skep_docker::Upload::bytes(tar.unwrap().stdout)).await.unwrap();
    engine.connect_network("beside", &id).await.unwrap();
    engine.start_container(&id).await.unwrap();
    let container = engine.inspect_container(&id).await.unwrap().unwrap();
    assert_ne!(container.address_in("beside"), container.address_in("bridge"));
    until("its note", async || {
        let log = engine.container_logs(&id, LogOptions::default()).await.unwrap();
        let lines: Vec<_> = log.map(|line| line.unwrap().text).collect().await;
        (lines == ["well"]).then_some(())
    })
    .await;
    let in_use = engine.remove(Kind::Network, &network).await.unwrap_err();
    assert!(in_use.message().unwrap().contains("active endpoints"), "{in_use}");
    engine.remove_container(&id).await.unwrap();
    assert!(engine.remove(Kind::Network, &network).await.unwrap());
    assert!(!engine.remove(Kind::Network, &network).await.unwrap());
    assert!(engine.inspect(Kind::Network, &network).await.unwrap().is_none());

    let volume = engine.create(Kind::Volume, &json!({ "Name": "kept" })).await.unwrap();
    assert_eq!(volume, "kept");
    let volumes = engine.list(Kind::Volume, &[("name", "kept")]).await.unwrap();
    assert_eq!(volumes.len(), 1);
    assert!(engine.remove(Kind::Volume, "kept").await.unwrap());
}

#[tokio::test]
async fn what_the_engine_refuses_is_told_in_its_words() {
    let engine = engine();
    let spec = json!({ "Image": "nowhere/nothing:1" });
    let missing = engine.create_container("none", &spec).await.unwrap_err();
    assert!(missing.is_not_found() && missing.to_string().contains("nowhere/nothing:1"), "{missing}");
    let id = engine.create_container("bad", &json!({ "Image": "bb:1", "Cmd": ["nosuch"] })).await.unwrap();
    let bad = engine.start_container(&id).await.unwrap_err();
    assert!(bad.message().unwrap().contains("executable file not found"), "{bad}");
    let state = engine.inspect_container(&id).await.unwrap().unwrap().state();
    assert_eq!((state.exit_code, state.error.contains("nosuch")), (Some(127), true), "{state:?}");
    engine.remove_container(&id).await.unwrap();
    // A name cannot lead to another path: the engine would redirect, and that is no answer.
    let elsewhere = engine.start_container("x/../../images/bb:1").await.unwrap_err();
    assert!(matches!(elsewhere, Error::Refused { status: 301 | 404, .. }), "{elsewhere}");
}

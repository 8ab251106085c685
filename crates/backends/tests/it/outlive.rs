//! Instances outlive the server: killed, restarted, adopted.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use rustix::process::Signal;
use skep_launch::{Backend, BackendEvent, LogQuery, Stream};
use skep_model::{InstanceId, SeatId};

use crate::stage::{DEADLINE, HARNESS, Stage, config, get, open, runs, signal, until};

/// A server of its own process with that many instances. Answers their ids and process ids.
fn serve(stage: &Stage, count: usize, command: &[&str]) -> (Child, Vec<(InstanceId, u32)>) {
    let mut child = Command::new(HARNESS)
        .arg("serve")
        .arg(stage.data())
        .arg(stage.app())
        .arg(count.to_string())
        .args(command)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = lines
        .take(count)
        .map(|line| {
            let line = line.unwrap();
            let (id, pid) = line.split_once(' ').unwrap();
            (id.parse().unwrap(), pid.parse().unwrap())
        })
        .collect();
    (child, started)
}

#[tokio::test]
async fn after_kill_9_the_same_processes_are_adopted() {
    let stage = Stage::new();
    let (mut server, started) = serve(&stage, 3, &["python3", "serve.py", "{socket}"]);
    server.kill().unwrap();
    server.wait().unwrap();
    for (_, pid) in &started {
        assert!(runs(*pid), "{pid} ended with its server");
    }
    let mut adopted = stage.backend.adopt().await.unwrap();
    adopted.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(adopted.len(), 3);
    for (found, (id, pid)) in adopted.iter().zip(&started) {
        assert_eq!((&found.id, found.launched.pid), (id, Some(*pid)));
        assert!(!found.was_ready);
        assert_eq!(get(&found.launched, "/").await.1, format!("pid {pid}"));
    }
    assert!(stage.backend.adopt().await.unwrap().is_empty(), "nothing is adopted twice");

    // What they write is still there to read, and so is how they end.
    let id = &started[0].0;
    let written = async || {
        let lines = stage.backend.logs(id, LogQuery { tail: 100, follow: false }).await.unwrap();
        let lines: Vec<String> = lines.collect().await;
        lines.contains(&"request /".to_owned()).then_some(lines)
    };
    let lines = crate::daemon::until("what it wrote is in its log", written).await;
    assert!(lines[0].starts_with("hello from"), "{lines:?}");
    let report = stage.stop(id).await;
    assert_eq!((report.reason.as_str(), report.signal), ("stopped", Some(15)));
    for (id, pid) in &started[1..] {
        stage.stop(id).await;
        assert!(!runs(*pid));
    }
}

#[tokio::test]
async fn what_was_noted_is_handed_to_the_next_server() {
    let stage = Stage::new();
    let (id, launched) = stage.launch(stage.server()).await;
    let pid = launched.unwrap().pid;
    let seats = vec![SeatId(7), SeatId(u128::MAX)];
    stage.backend.note_ready(&id, 321).await;
    stage.backend.note_seats(&id, seats.clone()).await;
    let (next, _events) = open(config(&stage.data()));
    let adopted = next.adopt().await.unwrap();
    assert_eq!(adopted.len(), 1);
    assert_eq!((adopted[0].launched.pid, adopted[0].ready_ms), (pid, Some(321)));
    assert!(adopted[0].was_ready && adopted[0].seats == seats);
    next.stop(&id, Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_exit_while_nobody_watched_is_reported_once() {
    let stage = Stage::new();
    std::fs::write(
        stage.app().join("brief.py"),
        "import os, sys, time\nwhile not os.path.exists(os.path.join(os.path.dirname(__file__), 'go')): time.sleep(0.05)\n\
         print('bye')\nsys.exit(3)\n",
    )
    .unwrap();
    let (mut server, started) = serve(&stage, 1, &["python3", "brief.py"]);
    server.kill().unwrap();
    server.wait().unwrap();
    std::fs::write(stage.app().join("go"), "").unwrap();
    let exit = stage.folder(&started[0].0).join("exit.json");
    until("the exit is recorded", || exit.exists()).await;
    let (next, mut events) = open(config(&stage.data()));
    assert!(next.adopt().await.unwrap().is_empty());
    let event = tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
    let BackendEvent::Exited { id, report } = event;
    assert_eq!((&id, report.code), (&started[0].0, Some(3)));
    assert_eq!(report.last_lines, ["bye"]);
    let (third, mut events) = open(config(&stage.data()));
    assert!(third.adopt().await.unwrap().is_empty());
    let more = tokio::time::timeout(Duration::from_millis(200), events.recv()).await;
    assert!(more.is_err(), "reported already: {more:?}");
    let report = third.stop(&id, Duration::from_secs(1)).await.unwrap();
    assert_eq!(report.code, Some(3), "still known to whoever asks");
}

#[tokio::test]
async fn what_a_killed_shim_left_is_swept_at_adoption() {
    let stage = Stage::new();
    let code = "import os, subprocess, time\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\n\
                print('ready', flush=True)\ntime.sleep(600)\n";
    std::fs::write(stage.app().join("own.py"), code).unwrap();
    let (mut server, started) = serve(&stage, 1, &["python3", "own.py"]);
    let (id, pid) = &started[0];
    until("it is up", || stage.log(id).contains("ready")).await;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child: u32 = children.trim().parse().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    signal(stage.shim_pid(id), Signal::KILL);
    until("the kernel ends the app", || !runs(*pid)).await;
    assert!(runs(child), "in a session of its own, the child is left");
    let (next, mut events) = open(config(&stage.data()));
    assert!(next.adopt().await.unwrap().is_empty());
    assert!(!runs(child));
    let event = tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
    let BackendEvent::Exited { report, .. } = event;
    assert_eq!(report.reason, "its shim was killed, and the app with it");
}

#[tokio::test]
async fn folders_that_make_no_sense_are_cleared_and_a_late_shim_does_not_start() {
    let stage = Stage::new();
    let half = stage.data().join("instances/demo.00000000000000cc");
    std::fs::create_dir(&half).unwrap();
    std::fs::create_dir(stage.data().join("instances/lost+found")).unwrap();
    assert!(stage.backend.adopt().await.unwrap().is_empty());
    assert!(!half.exists());
    assert!(stage.data().join("instances/lost+found").exists());

    // An order whose folder was given up: the shim says so and starts nothing.
    let order = serde_json::json!({
        "v": 1, "folder": half, "control": stage.dir.path().join("c"), "argv": ["/bin/touch", stage.dir.path().join("ran")],
        "env": [], "cwd": "/", "user": null, "stop_signal": "SIGTERM", "groups": [], "log_bytes": 1000,
    });
    let mut shim =
        Command::new(HARNESS).arg("shim").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    serde_json::to_writer(shim.stdin.take().unwrap(), &order).unwrap();
    let out = shim.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("given up"), "{said}");
    assert!(!stage.dir.path().join("ran").exists());
}

#[tokio::test]
async fn a_dialled_instance_that_is_gone_is_refused_not_awaited() {
    let stage = Stage::new();
    let (id, launched) = stage.launch(stage.server()).await;
    let launched = launched.unwrap();
    get(&launched, "/").await;
    stage.stop(&id).await;
    let dialled = tokio::time::timeout(DEADLINE, launched.dial.dial()).await.unwrap();
    assert!(!matches!(dialled, Ok(Stream::Unix(_) | Stream::Tcp(_))));
}

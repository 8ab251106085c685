//! The server ends, by force or by order; its apps go on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::test_app::{TestApp, is_alive, text, until};

#[test]
fn apps_outlive_a_killed_server_and_are_adopted() {
    let mut test = TestApp::new();
    for id in ["one", "two", "three"] {
        test.add(id, "hold = \"wait\"\nidle_timeout = \"10m\"");
    }
    test.start(&[]);
    let mut visitors: Vec<_> = (0..3).map(|_| test.visitor()).collect();
    let apps = ["/one/", "/two/", "/three/"];
    let before: Vec<u64> =
        visitors.iter_mut().zip(apps).map(|(visitor, app)| visitor.open(app).pid()).collect();
    let rows = test.ps();

    test.kill();
    assert!(before.iter().all(|pid| is_alive(*pid)));
    test.start(&[]);
    let after: Vec<u64> =
        visitors.iter_mut().zip(apps).map(|(visitor, app)| visitor.open(app).pid()).collect();
    assert_eq!(after, before, "the same processes serve");
    let ids = |rows: &[serde_json::Value]| -> BTreeSet<String> {
        rows.iter().map(|row| format!("{} {}", row["id"], row["pid"])).collect()
    };
    assert_eq!(ids(&test.ps()), ids(&rows), "`skep ps` tells the truth");
    assert_eq!(test.processes().len(), 3 + 1, "an app each, and the server: {:?}", test.processes());
    let adopted = || test.events().iter().filter(|event| event["kind"] == "instance-adopted").count();
    until("the journal has their adoption", || (adopted() == 3).then_some(()));
    until("the log came along", || test.ok(&["logs", "one"]).contains("starting 1").then_some(()));

    test.ok(&["stop", "--all"]);
    until("every app is gone", || before.iter().all(|pid| !is_alive(*pid)).then_some(()));
    assert_eq!(test.processes().len(), 1);
    assert!(test.ps().is_empty());
}

#[test]
fn an_app_that_ended_meanwhile_is_started_anew_and_its_exit_is_known() {
    let mut test = TestApp::with_one("hold = \"wait\"");
    let mut visitor = test.visitor();
    let first = visitor.open("/one/").pid();
    test.kill();
    let port = std::fs::read(format!("/proc/{first}/cmdline")).unwrap();
    let port = text(&port).split('\0').rfind(|part| !part.is_empty()).unwrap().parse::<u16>().unwrap();
    let mut to_app = crate::web::Visitor::new(([127, 0, 0, 1], port).into());
    let _ = to_app.try_ask("GET", "/?exit", &[], b"");
    until("the app ends", || (!is_alive(first)).then_some(()));
    test.start(&[]);
    let second = visitor.open("/one/");
    assert_eq!(second.status, 200, "{}", second.body);
    assert_ne!(second.pid(), first);
    test.event("instance-crash", "status 7");
}

#[test]
fn whoever_meets_an_app_that_was_just_killed_gets_the_next_instance() {
    let mut test = TestApp::new();
    for n in 0..6 {
        test.add(&format!("app{n}"), "hold = \"wait\"\nidle_timeout = \"10m\"");
    }
    test.start(&[]);
    for n in 0..6 {
        let mut visitor = test.visitor();
        let path = format!("/app{n}/");
        let mut tries = 0;
        let (first, answer) = loop {
            tries += 1;
            let first = visitor.open(&path).pid();
            let pid = rustix::process::Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            // Its last thread keeps the port open for a moment. Skep learns of the end about now.
            let proc = format!("/proc/{first}");
            while std::path::Path::new(&proc).exists() {
                std::hint::spin_loop();
            }
            let asked = Instant::now();
            let answer = match n % 3 {
                0 => visitor.open(&path),
                1 => visitor.fetch(&path),
                _ => visitor.ask("POST", &path, &[("Accept", "application/json")], b"kept"),
            };
            // Skep waits for the news so long; what comes later was held up by the machine.
            if answer.status == 200 || asked.elapsed() < Duration::from_secs(2) || tries == 3 {
                break (first, answer);
            }
        };
        assert_eq!(answer.status, 200, "{n}: {}", answer.body);
        assert_ne!(answer.pid(), first);
    }
}

#[test]
fn an_ordered_stop_leaves_apps_running_unless_told_otherwise() {
    let mut test = TestApp::with_one("hold = \"wait\"");
    let pid = test.visitor().open("/one/").pid();
    test.stop();
    assert!(is_alive(pid));
    test.start(&["--stop-apps-on-exit"]);
    assert_eq!(test.visitor().open("/one/").pid(), pid);
    test.stop();
    assert!(!is_alive(pid));
    assert_eq!(test.processes(), Vec::<u64>::new());
}

#[test]
fn a_second_server_is_refused_by_name() {
    let test = TestApp::with_one("");
    let second = test.run(&["serve", test.path("apps").to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert!(said.contains(&format!("process {}", test.server_pid())), "{said}");
    assert!(said.contains(test.data().to_str().unwrap()), "{said}");
}

#[test]
fn if_a_shim_dies_its_app_dies_entirely() {
    let test = TestApp::with_one("hold = \"wait\"\nenv = { CHILDREN = \"2\" }");
    let mut visitor = test.visitor();
    let pid = visitor.open("/one/").pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent: i32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(test.processes().len(), 1 + 3);
    let parent = rustix::process::Pid::from_raw(parent).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    until("nothing of the app is left", || (test.processes().len() == 1).then_some(()));
    let again =
        until("it is started anew", || Some(visitor.open("/one/")).filter(|answer| answer.status == 200));
    assert_ne!(again.pid(), pid);
}

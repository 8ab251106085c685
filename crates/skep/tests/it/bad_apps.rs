//! Apps that misbehave: each with what the visitor is told and what the administrator finds.

use std::time::{Duration, Instant};

use crate::test_app::{TestApp, is_alive, text, until};

/// One app with these keys beside nothing else.
fn with(keys: &str) -> TestApp {
    let mut test = TestApp::new();
    test.write("apps/bad/server.py", crate::test_app::SERVER_PY);
    test.write("apps/bad/skep.toml", keys);
    test.start(&[]);
    test
}

/// The visitor's page says it in words and the program's answer by code.
fn fails(test: &TestApp, status: u16, code: &str, says: &str) {
    let held = test.visitor().fetch("/bad/");
    assert_eq!(held.status, status, "{}", held.body);
    assert_eq!(held.header("content-type"), Some("application/problem+json"));
    let problem = held.json();
    assert_eq!(problem["code"], code, "{problem}");
    let says = says.to_lowercase();
    let told = |text: &str| text.to_lowercase().contains(&says);
    until(&format!("a page that says `{says}`, as {problem} does"), || {
        let page = test.visitor().open("/bad/");
        (page.body.contains("<html") && (told(&page.body) || told(&problem.to_string()))).then_some(())
    });
}

#[test]
fn a_missing_interpreter() {
    let test = with("command = [\"no-such-interpreter\", \"server.py\"]");
    fails(&test, 503, "start-failed", "no-such-interpreter");
    test.event("instance-failed", "no-such-interpreter");
}

#[test]
fn never_listens() {
    let test = with("command = [\"sleep\", \"600\"]\nstart_timeout = \"1s\"");
    fails(&test, 504, "start-timeout", "did not answer within 1s");
    test.event("instance-failed", "1s");
    until("nothing is left of it", || (test.processes().len() == 1).then_some(()));
}

#[test]
fn exits_at_once() {
    let test =
        with("command = [\"python3\", \"-S\", \"-c\", \"import sys; sys.exit('cannot find the data')\"]");
    fails(&test, 503, "start-failed", "status 1");
    // Between two tries; a page that comes while it is tried again tells of that.
    until("the last lines are shown, on loopback", || {
        test.visitor().open("/bad/").body.contains("cannot find the data").then_some(())
    });
    test.event("instance-failed", "status 1");
    // The newest instance's, which may be tried just now and have written nothing yet.
    until("it is in the log", || {
        text(&test.run(&["logs", "bad"]).stdout).contains("cannot find the data").then_some(())
    });
    // It is not started again for every visitor.
    let starts = || test.events().iter().filter(|event| event["kind"] == "instance-start").count();
    let before = starts();
    for _ in 0..20 {
        assert_eq!(test.visitor().fetch("/bad/").status, 503);
    }
    assert!(starts() <= before + 5, "{} starts, then {}", before, starts());
}

#[test]
fn listens_late() {
    let test = with("command = [\"python3\", \"-S\", \"server.py\", \"{port}\"]\nenv = { SLOW = \"2\" }");
    let start = Instant::now();
    let held = test.visitor().fetch("/bad/");
    assert_eq!(held.status, 200, "{}", held.body);
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[test]
fn floods_its_log() {
    let test =
        with("command = [\"python3\", \"-S\", \"server.py\", \"{port}\"]\nenv = { FLOOD = \"150000\" }");
    assert_eq!(test.visitor().fetch("/bad/").status, 200);
    // The shim may be at it still when the app answers.
    let tail = until("the last line is in the log", || {
        Some(test.ok(&["logs", "bad", "-n", "3"])).filter(|tail| tail.contains("line 149999"))
    });
    assert_eq!(tail.lines().count(), 3, "{tail}");
    let bytes = folder_size(&test.data().join("instances"));
    assert!(bytes < 20 << 20, "logs are rotated, but {bytes} bytes are kept");
}

fn folder_size(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                folder_size(&entry.path())
            } else {
                // What is written beside it is gone again at once.
                entry.metadata().map_or(0, |meta| meta.len())
            }
        })
        .sum()
}

#[test]
fn forks_children_and_ignores_sigterm() {
    let keys = "command = [\"python3\", \"-S\", \"server.py\", \"{port}\"]\nenv = { CHILDREN = \"3\", STUBBORN = \"1\" }";
    let test = with(keys);
    let pid = test.visitor().fetch("/bad/").pid();
    assert_eq!(test.processes().len(), 1 + 4);
    test.ok(&["stop", "bad"]);
    assert!(!is_alive(pid));
    assert_eq!(test.processes().len(), 1, "children are gone, too");
    test.event("instance-stop", "");
}

#[test]
fn fills_its_memory() {
    let eat = "import sys; print('eating', flush=True); x = []\nwhile True: x.append(bytearray(8 << 20))";
    let mut test = TestApp::new();
    test.write("apps/bad/eat.py", eat);
    test.write(
        "apps/bad/skep.toml",
        "command = [\"python3\", \"-S\", \"eat.py\"]\nlimits.memory = \"64MiB\"\nstart_timeout = \"20s\"",
    );
    test.start(&[]);
    let limited = test.run(&["doctor", "--json"]);
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&limited.stdout).unwrap();
    let cgroups = findings.iter().find(|finding| finding["what"] == "cgroups").unwrap();
    if cgroups["state"] == "good" {
        fails(&test, 503, "start-failed", "memory");
        test.event("instance-failed", "memory");
    } else {
        // Where limits are not permitted, that is said; the machine's memory is not put to the test.
        assert!(cgroups["found"].as_str().unwrap().contains("no effect"), "{cgroups}");
    }
}

#[test]
fn requirements_that_do_not_resolve() {
    let mut test = TestApp::new();
    test.write("apps/bad/app.py", "import flask\napp = flask.Flask(__name__)\n");
    // No such file: fails without asking any registry.
    test.write("apps/bad/requirements.txt", "./no-such-package-1.0.tar.gz\n");
    test.start(&[]);
    fails(&test, 503, "start-failed", "requirements");
    let event = test.event("instance-failed", "");
    assert!(event["detail"].to_string().contains("requirements"), "{event}");
}

#[test]
fn a_malformed_config() {
    let mut test = TestApp::new();
    test.write("apps/bad/skep.toml", "command = [\"x\"\n");
    test.add("good", "hold = \"wait\"");
    test.start(&[]);
    assert_eq!(test.visitor().open("/bad/").status, 404);
    assert_eq!(test.visitor().open("/good/").status, 200, "the others are published");
    assert!(test.log().contains("apps/bad/skep.toml:"), "{}", test.log());
    let check = test.run(&["config", "check", test.path("apps").to_str().unwrap()]);
    assert_eq!(check.status.code(), Some(1));
}

#[test]
fn crashes_while_somebody_asks() {
    let test = with("command = [\"python3\", \"-S\", \"server.py\", \"{port}\"]");
    let mut visitor = test.visitor();
    assert_eq!(visitor.wait_for("/bad/").status, 200);
    let broken = visitor.open("/bad/?exit");
    assert_eq!(broken.status, 502, "{}", broken.body);
    assert!(broken.body.contains("<html"), "{}", broken.body);
    test.event("instance-crash", "7");
    assert_eq!(visitor.wait_for("/bad/").status, 200, "and comes back");
}

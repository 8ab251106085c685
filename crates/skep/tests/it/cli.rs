//! Commands, their output and their exit status.

use std::io::{BufRead, BufReader};

use crate::test_app::{TestApp, is_alive, text, until};

#[test]
fn usage_is_two_failure_is_one() {
    let test = TestApp::new();
    for wrong in [&["--no-such-option"][..], &["frobnicate"], &["stop"], &["stop", "a", "--all"], &["logs"]] {
        assert_eq!(test.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    for fails in [&["ps"][..], &["stop", "--all"], &["logs", "one"], &["upgrade"]] {
        let output = test.run(fails);
        assert_eq!(output.status.code(), Some(1), "{fails:?}");
        let said = text(&output.stderr);
        assert!(said.contains("no skep server answers in") && said.contains("--data-dir"), "{said}");
        assert!(output.stdout.is_empty());
    }
    assert!(text(&test.run(&["--help"]).stdout).contains("serve"));
    assert!(!text(&test.run(&["--help"]).stdout).contains("shim"), "hidden");
    assert!(test.ok(&["--version"]).starts_with("skep "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(test.ok(&["completion", shell]).contains("skep"), "{shell}");
    }
}

#[test]
fn ps_logs_stop_and_restart() {
    let test = TestApp::with_one("hold = \"wait\"");
    assert_eq!(test.ps(), Vec::<serde_json::Value>::new());
    let pid = test.visitor().open("/one/").pid();
    // What it uses is left out where it cannot be told at once.
    let rows = until("a row with its memory", || {
        Some(test.ps()).filter(|rows| rows.first().is_some_and(|row| row["memory"].is_u64()))
    });
    let row = &rows[0];
    for key in [
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
        "memory",
    ] {
        assert!(row.get(key).is_some(), "no `{key}` in {row}");
    }
    assert_eq!(
        (&row["app"], &row["state"], row["pid"].as_u64()),
        (&"one".into(), &"ready".into(), Some(pid))
    );
    assert!(row["memory"].as_u64().unwrap() > 1 << 20, "{row}");
    let table = test.ok(&["ps"]);
    assert!(
        table.lines().next().unwrap().starts_with("INSTANCE") && table.contains(&pid.to_string()),
        "{table}"
    );
    assert!(!table.contains('\x1b'), "no colour without a terminal");

    let id = row["id"].as_str().unwrap();
    // The shim may be at it still when the app answers.
    until("the log has it", || test.ok(&["logs", id]).contains("starting 1").then_some(()));
    assert!(test.ok(&["logs", "one", "-n", "1"]).lines().count() == 1);
    let unknown = test.run(&["logs", "two"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("There is no app `two`"), "{}", text(&unknown.stderr));

    test.ok(&["restart", "one"]);
    let next = until("a new instance serves new visitors", || {
        let next = test.visitor().open("/one/").pid();
        (next != pid).then_some(next)
    });
    let stopped = test.run(&["stop", "one"]);
    assert!(stopped.status.success() && stopped.stdout.is_empty());
    assert!(text(&stopped.stderr).contains("stopped"), "{}", text(&stopped.stderr));
    assert!(!is_alive(next));
    assert!(test.ps().is_empty());
}

#[test]
fn following_a_log_ends_with_the_instance() {
    let test = TestApp::with_one("hold = \"wait\"");
    test.visitor().open("/one/");
    let mut follow =
        test.skep().args(["logs", "one", "-f"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let first = lines.by_ref().find(|line| line.as_ref().is_ok_and(|line| line.contains("starting 1")));
    assert!(first.is_some(), "what was there comes at once");
    test.ok(&["stop", "one"]);
    lines.for_each(drop);
    assert!(follow.wait().unwrap().success());
}

#[test]
fn doctor_says_what_to_mend() {
    let test = TestApp::new();
    let output = test.run(&["doctor", "--json"]);
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    for what in ["data folder", "socket paths", "open files", "inotify", "cgroups", "python3", "pandoc"] {
        assert!(findings.iter().any(|finding| finding["what"] == what), "{what}: {findings:?}");
    }
    let python = findings.iter().find(|finding| finding["what"] == "python3").unwrap();
    assert!(python["found"].as_str().unwrap().starts_with("Python 3"), "{python}");
    let table = text(&test.run(&["doctor"]).stdout);
    assert!(table.lines().any(|line| line.starts_with('✓')), "{table}");
}

#[test]
fn a_shiny_server_config_is_imported() {
    let test = TestApp::new();
    test.write(
        "shiny-server.conf",
        "run_as shiny;\nserver {\n  listen 3838 127.0.0.1;\n  location / {\n    site_dir /srv/s;\n  }\n}\n",
    );
    let file = test.path("shiny-server.conf");
    let output = test.run(&["import", "shiny-server", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("listen = [\"127.0.0.1:3838\"]"), "{}", text(&output.stdout));
    test.write("shiny-server.conf", "server {\n  lisen 1;\n}\n");
    let output = test.run(&["import", "shiny-server", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).starts_with(&format!("{}:2:3: ", file.display())),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn metrics_and_health_are_on_the_admin_address() {
    let mut test = TestApp::new();
    test.add("one", "hold = \"wait\"");
    test.start(&["--admin-listen", "127.0.0.1:0"]);
    assert_eq!(test.visitor().open("/one/").status, 200);
    let log = test.log();
    let line = log.lines().find(|line| line.contains("/metrics")).unwrap();
    let address = line.trim().trim_start_matches("http://").split('/').next().unwrap();
    let mut monitor = crate::web::Visitor::new(address.parse().unwrap());
    until("the start is counted", || {
        monitor.fetch("/metrics").body.contains("skep_app_starts_total{").then_some(())
    });
    assert_eq!(monitor.fetch("/_skep/health/ready").status, 200);
    assert_eq!(test.visitor().fetch("/_skep/health/live").status, 200);
    assert_eq!(test.visitor().fetch("/metrics").status, 404, "not on the public address");
}

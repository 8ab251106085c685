//! `skep upgrade` under load: nothing fails, nothing restarts.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::scaled;
use crate::test_app::{TestApp, is_alive, text, until};
use crate::web::Kept;

#[test]
fn upgrades_under_load_lose_no_request() {
    let upgrades = scaled(5, 100);
    let mut test = TestApp::new();
    // Every generation keeps the seats it adopts for 30 seconds, also those of visitors without a cookie: a hundred
    // upgrades in half a minute need room for that.
    test.add("one", "hold = \"wait\"\nidle_timeout = \"10m\"\nseats = 10000");
    test.write("apps/site/index.html", "<title>Static</title>");
    test.start(&[]);
    let pid = test.visitor().open("/one/").pid();
    let (asked, failed, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (test, asked, failed, over) = (&test, &asked, &failed, &over);
            scope.spawn(move || {
                let mut visitor = test.visitor();
                let paths = ["/one/", "/site/", "/one/?sleep=0.05", "/"];
                while !over.load(Ordering::Relaxed) {
                    let path = paths[worker % paths.len()];
                    let answer = visitor.try_ask("GET", path, &[("Accept", "*/*")], b"");
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !matches!(&answer, Ok(answer) if answer.status == 200) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("{path}: {answer:?}");
                    }
                }
            });
        }
        for path in ["/one/", "/site/"] {
            let (asked, failed, over) = (&asked, &failed, &over);
            let mut kept = Kept::new(test.address);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let status = kept.get(path);
                    asked.fetch_add(1, Ordering::Relaxed);
                    if !matches!(status, Ok(200)) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("{path} on a kept connection: {status:?}");
                    }
                }
            });
        }
        let mut servers = vec![test.server_pid()];
        for _ in 0..upgrades {
            test.ok(&["upgrade"]);
            let server = test.server_pid();
            assert!(!servers.contains(&server), "a new process serves");
            servers.push(server);
            std::thread::sleep(Duration::from_millis(100));
        }
        over.store(true, Ordering::Relaxed);
        let last = servers.pop().unwrap();
        until("the old servers go", || servers.iter().all(|server| !is_alive(*server)).then_some(()));
        assert!(is_alive(last));
    });
    let (asked, failed) = (asked.into_inner(), failed.into_inner());
    println!("{upgrades} upgrades under load: {asked} requests, {failed} failed");
    assert_eq!(failed, 0);
    assert!(asked > upgrades);
    // Answered once the last server has found what runs.
    assert_eq!(test.visitor().open("/one/").pid(), pid);
    assert_eq!(test.pids("one"), [pid], "the app was not restarted");
    let handed_over = || test.events().iter().filter(|event| event["kind"] == "server-handover").count();
    until("every hand-over is in the journal", || (handed_over() >= upgrades).then_some(()));
    assert_eq!(handed_over(), upgrades);
}

#[test]
fn a_tunnel_lives_on_and_its_seat_stays_taken() {
    use std::io::{Read, Write};
    let test = TestApp::with_one("hold = \"wait\"\nidle_timeout = \"500ms\"");
    let mut tunnel = std::net::TcpStream::connect(test.address).unwrap();
    tunnel.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    let head = "GET /one/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    tunnel.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tunnel.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", text(&answer));
    let mut echoes = |said: &[u8; 5]| {
        // One masked text frame; the app sends it back as it is.
        let frame = [&[0x81, 0x85, 0, 0, 0, 0], said.as_slice()].concat();
        tunnel.write_all(&frame).unwrap();
        let mut heard = vec![0; frame.len()];
        tunnel.read_exact(&mut heard).unwrap();
        assert_eq!(heard, frame);
    };
    echoes(b"first");
    let first = test.server_pid();
    // Only now: what nobody uses is gone within half a second.
    let pid = test.pids("one")[0];
    // Two generations later, with the idle timeout over each time.
    test.ok(&["upgrade"]);
    echoes(b"again");
    std::thread::sleep(Duration::from_millis(1200));
    test.ok(&["upgrade"]);
    std::thread::sleep(Duration::from_millis(1200));
    echoes(b"still");
    assert!(is_alive(first), "the first server holds the tunnel");
    // It looks for what runs only once it serves.
    let rows = until("the last server has its instance", || Some(test.ps()).filter(|rows| !rows.is_empty()));
    assert_eq!(
        (rows.len(), rows[0]["pid"].as_u64(), rows[0]["taken"].as_u64()),
        (1, Some(pid), Some(1)),
        "{rows:?}"
    );
    drop(tunnel);
    until("the first server goes with its last tunnel", || (!is_alive(first)).then_some(()));
    until("and then the idle app, too", || (!is_alive(pid)).then_some(()));
}

#[test]
fn a_new_version_that_fails_changes_nothing() {
    let mut test = TestApp::new();
    test.add("one", "hold = \"wait\"");
    test.write("skep.toml", "[[sites]]\npath = \"apps\"\n");
    test.start_with(&["serve", "--config", test.path("skep.toml").to_str().unwrap()]);
    let (server, pid) = (test.server_pid(), test.visitor().open("/one/").pid());
    // The config the new server would read is broken.
    test.write("skep.toml", "[[sites]]\npat = \"apps\"\n");
    let output = test.run(&["upgrade"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("skep.toml:2:1: `sites[0].pat`: is not a key Skep knows; did you mean `path`?"),
        "{said}"
    );
    assert_eq!(test.server_pid(), server);
    assert_eq!(test.visitor().open("/one/").pid(), pid);
    // Mended, it works.
    test.write("skep.toml", "[[sites]]\npath = \"apps\"\n");
    test.ok(&["upgrade"]);
    assert_ne!(test.server_pid(), server);
    assert_eq!(test.visitor().open("/one/").pid(), pid);
}

#[test]
fn requests_that_wait_for_a_cold_app_survive_an_upgrade() {
    let mut test = TestApp::new();
    test.add("slow", "env = { SLOW = \"1.5\" }");
    test.start(&[]);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let mut visitor = test.visitor();
                scope.spawn(move || visitor.fetch("/slow/"))
            })
            .collect();
        until("the app starts", || (!test.ps().is_empty()).then_some(()));
        test.ok(&["upgrade"]);
        for thread in waiting {
            let answer = thread.join().unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    });
}

#[test]
fn a_program_that_cannot_run_is_told_and_changes_nothing() {
    let mut test = TestApp::new();
    test.add("one", "hold = \"wait\"");
    // A server started from a copy of the program, which is then replaced by something else.
    let copy = test.path("skep-copy");
    std::fs::copy(env!("CARGO_BIN_EXE_skep"), &copy).unwrap();
    test.start_program(&copy);
    let server = test.server_pid();
    for (content, says) in [("#!/bin/sh\nexit 3\n", "exit status: 3"), ("not a program", "cannot be started")]
    {
        std::fs::remove_file(&copy).unwrap();
        std::fs::write(&copy, content).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        // A test that starts a program at this moment may hold the file open that was just written: another reason then.
        until(says, || {
            let output = test.run(&["upgrade"]);
            assert_eq!(output.status.code(), Some(1));
            text(&output.stderr).contains(says).then_some(())
        });
        assert_eq!(test.server_pid(), server);
        assert_eq!(test.visitor().fetch("/_skep/health/live").status, 200);
    }
}

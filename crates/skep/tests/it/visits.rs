//! What a visitor sees: the launch page, held requests, stickiness, the idle timeout.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::scaled;
use crate::test_app::{TestApp, until};

#[test]
fn a_page_gets_the_launch_page_and_then_the_app() {
    let test = TestApp::with_one("env = { SLOW = \"0.5\", GREETING = \"hello from {app} at {base_path}\" }");
    let mut visitor = test.visitor();
    let first = visitor.open("/one/deep/link?question=1");
    assert_eq!(first.status, 503, "{}", first.body);
    assert!(first.header("retry-after").is_some());
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert!(first.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    assert!(
        first
            .header("set-cookie")
            .is_some_and(|cookie| cookie.starts_with("skep-seat=") && cookie.contains("Path=/one/"))
    );
    let page = visitor.wait_for("/one/deep/link?question=1");
    assert_eq!(page.status, 200, "{}", page.body);
    assert_eq!(page.json()["path"], "/deep/link?question=1");
    assert_eq!(page.json()["prefix"], "/one");
    assert_eq!(page.json()["env"], "hello from one at /one");
    assert_eq!(page.json()["cookie"], "", "our cookies do not reach the app");
    let redirected = visitor.open("/one?a=b");
    assert_eq!((redirected.status, redirected.header("location")), (308, Some("/one/?a=b")));
}

#[test]
fn everything_else_is_held_and_two_visitors_start_one_instance() {
    let test = TestApp::with_one("");
    let pids: Vec<u64> = std::thread::scope(|scope| {
        let ask = || {
            let mut visitor = test.visitor();
            scope.spawn(move || {
                let answer =
                    visitor.ask("POST", "/one/data", &[("Content-Type", "text/plain")], b"some words");
                assert_eq!(answer.status, 200, "{}", answer.body);
                answer.pid()
            })
        };
        let asked: Vec<_> = (0..8).map(|_| ask()).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert_eq!(test.ps().len(), 1);
}

#[test]
fn visitors_stick_to_their_instance_and_share_by_least_load() {
    let test = TestApp::with_one("seats = 1\nmax_instances = 2\nhold = \"wait\"");
    let (mut ada, mut ben) = (test.visitor(), test.visitor());
    let at_first = (ada.open("/one/").pid(), ben.open("/one/").pid());
    assert_ne!(at_first.0, at_first.1);
    for _ in 0..5 {
        assert_eq!((ada.open("/one/x").pid(), ben.fetch("/one/y").pid()), at_first);
    }
    assert_eq!(test.ps().len(), 2);
    let sessions = test.ok(&["ps", "--sessions"]);
    assert!(sessions.starts_with("APP"), "{sessions}");
}

#[test]
fn a_seat_for_nobody_is_refused_in_words() {
    let test = TestApp::with_one("seats = 1\nmax_instances = 1\nmax_waiting = 0");
    let mut ada = test.visitor();
    assert_eq!(ada.wait_for("/one/").status, 200);
    let mut ben = test.visitor();
    let page = ben.open("/one/");
    assert_eq!(page.status, 503);
    assert!(page.body.contains("<html"), "{}", page.body);
    let problem = test.visitor().fetch("/one/");
    assert_eq!(problem.status, 503);
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    let code = problem.json()["code"].as_str().unwrap_or_default().to_owned();
    assert!(matches!(code.as_str(), "no-room" | "line-full"), "{code}");
}

#[test]
fn a_held_request_is_answered_as_soon_as_the_app_answers() {
    let test = TestApp::with_one("idle_timeout = \"1h\"");
    let mut waited: Vec<f64> = (0..20)
        .map(|_| {
            let answer = test.visitor().fetch("/one/");
            assert_eq!(answer.status, 200, "{}", answer.body);
            let first_answer = answer.json()["first_answer"].as_f64().expect("the probe came first");
            test.ok(&["stop", "one"]);
            (answer.first_byte_at - first_answer) * 1000.0
        })
        .collect();
    waited.sort_by(f64::total_cmp);
    let median = (waited[9] + waited[10]) / 2.0;
    println!("held requests: first good answer of the app → first byte at the visitor, 20 cold starts:");
    println!("  median {median:.2} ms, least {:.2} ms, most {:.2} ms", waited[0], waited[19]);
    assert!(median < 500.0, "{waited:?}");
}

/// Shiny Server answers 500 to a visit that meets an app on its way out. Here visits are timed to do just that.
#[test]
fn visits_around_the_idle_timeout_never_fail() {
    const APPS: usize = 10;
    let visits = scaled(100, 1000);
    let mut test = TestApp::new();
    for app in 0..APPS {
        // Slow enough in going that a visit can meet it.
        test.add(&format!("app{app}"), "idle_timeout = \"300ms\"\nseats = 1\nhold = \"wait\"");
    }
    test.start(&[]);
    let (errors, starts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for app in 0..APPS {
            let (test, errors, starts) = (&test, &errors, &starts);
            scope.spawn(move || {
                let mut last = 0;
                for visit in 0..visits / APPS {
                    // No cookie: a seat is free as soon as its request is over.
                    let answer =
                        test.visitor().try_ask("GET", &format!("/app{app}/"), &[("Accept", "*/*")], b"");
                    match answer {
                        Ok(answer) if answer.status == 200 => {
                            starts.fetch_add(usize::from(answer.pid() != last), Ordering::Relaxed);
                            last = answer.pid();
                        }
                        other => {
                            errors.fetch_add(1, Ordering::Relaxed);
                            println!("visit {visit} of app{app}: {other:?}");
                        }
                    }
                    // From well before to well after the timeout and the tick that follows it.
                    let step = u64::try_from(visit * 7 + app * 3).unwrap();
                    std::thread::sleep(Duration::from_millis(250 + step * 13 % 700));
                }
            });
        }
    });
    let (errors, starts) = (errors.into_inner(), starts.into_inner());
    println!("{visits} visits around the idle timeout: {starts} starts, {errors} errors");
    assert_eq!(errors, 0);
    assert!(starts > APPS, "no visit met an app on its way out");
    until("idle instances go", || test.ps().is_empty().then_some(()));
}

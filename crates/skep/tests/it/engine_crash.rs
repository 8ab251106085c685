//! The Docker Engine crashes and comes back under a running server.

use std::time::Instant;

use crate::daemon::Daemon;
use crate::test_app::{TestApp, until};

fn containers(daemon: &Daemon, of: &str) -> Vec<String> {
    let (status, body) = daemon.ask("GET", "/containers/json?all=1", &[], Vec::new());
    assert_eq!(status, 200, "{body}");
    let all: Vec<serde_json::Value> = serde_json::from_str(&body).unwrap();
    let named = all.into_iter().filter(|container| container["Names"][0].as_str().unwrap().contains(of));
    named.map(|container| container["Id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn visitors_are_told_and_get_an_app_again_and_nothing_is_left_over() {
    // One of its own: the others must not notice.
    let daemon = Daemon::start(|_| Vec::new());
    daemon.enter();
    let mut test = TestApp::new();
    test.write(
        "skep.toml",
        &format!(
            "[docker]\nhost = \"unix://{}\"\n[defaults]\nidle_timeout = \"10m\"\ncontainer.pull = \"never\"\n\
             [apps.used]\nimage = \"bb:1\"\nper_user = true\n[apps.later]\nimage = \"bb:1\"\n",
            daemon.socket().display()
        ),
    );
    let config = test.path("skep.toml");
    test.start_with(&["serve", "--config", config.to_str().unwrap()]);
    let (mut ada, mut bob) = (test.visitor(), test.visitor());
    for visitor in [&mut ada, &mut bob] {
        assert_eq!(visitor.wait_for("/used/").status, 200);
    }
    let before = containers(&daemon, "skep-used");
    assert_eq!(before.len(), 2);

    let namespaces = daemon.crash();
    // Its containers run on, and who has one notices nothing.
    for visitor in [&mut ada, &mut bob] {
        assert_eq!(visitor.open("/used/").status, 200);
    }
    // Who needs a new one is told why there is none.
    let page = until("the page that says why", || {
        let page = ada.open("/later/");
        page.body.contains("Could not start").then_some(page)
    });
    assert!(page.body.contains("is Docker installed and running"), "{}", page.body);
    assert_eq!(page.status, 503);

    let begin = Instant::now();
    daemon.restart(&namespaces);
    let answering = begin.elapsed();
    // Without live-restore an engine that comes back ends what it finds; each visitor gets a new instance, once.
    for visitor in [&mut ada, &mut bob] {
        until("an app again", || (visitor.open("/used/").status == 200).then_some(()));
    }
    let now = until("two containers, none of them from before", || {
        let now = containers(&daemon, "skep-used");
        (now.len() == 2 && now.iter().all(|id| !before.contains(id))).then_some(now)
    });
    println!("engine answers after {answering:?}, both have an app after {:?}", begin.elapsed());
    test.ok(&["restart", "later"]);
    until("the other app starts, too", || (ada.open("/later/").status == 200).then_some(()));
    for visitor in [&mut ada, &mut bob] {
        assert_eq!(visitor.open("/used/").status, 200);
    }
    assert_eq!(containers(&daemon, "skep-used"), now, "and stays");
    until("three rows, none of an instance from before", || (test.ps().len() == 3).then_some(()));
    assert_eq!(containers(&daemon, "skep-").len(), 3, "no orphan, no duplicate");
    test.ok(&["stop", "--all"]);
    until("every container is gone", || containers(&daemon, "skep-").is_empty().then_some(()));
}

//! Apps published from an image: a real Docker Engine behind the real server.

use crate::daemon::daemon;
use crate::test_app::{TestApp, is_alive, text, until};

/// A server on a config of its own, in the engine's network.
fn serving(apps: &str) -> TestApp {
    daemon().enter();
    let mut test = TestApp::new();
    let socket = daemon().socket();
    test.write("skep.toml", &format!("[docker]\nhost = \"unix://{}\"\n\n{apps}", socket.display()));
    start(&mut test);
    test
}

fn start(test: &mut TestApp) {
    let config = test.path("skep.toml");
    test.start_with(&["serve", "--config", config.to_str().unwrap()]);
}

/// Containers whose name holds this, as the engine lists them.
pub(crate) fn containers(of: &str) -> Vec<serde_json::Value> {
    let (status, body) = daemon().ask("GET", "/containers/json?all=1", &[], Vec::new());
    assert_eq!(status, 200, "{body}");
    let all: Vec<serde_json::Value> = serde_json::from_str(&body).unwrap();
    all.into_iter().filter(|container| container["Names"][0].as_str().unwrap().contains(of)).collect()
}

#[test]
fn an_image_is_opened_by_its_url_and_stopped_when_nobody_is_left() {
    let test = serving(
        "[apps.web]\nimage = \"bb:1\"\ntitle = \"From an image\"\nidle_timeout = \"300ms\"\ncontainer.pull = \"never\"\n",
    );
    let mut visitor = test.visitor();
    let first = visitor.open("/web/");
    assert_eq!(first.status, 503, "{}", first.body);
    assert!(first.body.contains("From an image"), "{}", first.body);
    let page = visitor.wait_for("/web/");
    assert_eq!((page.status, page.body.as_str()), (200, "hello from a container\n"));
    let env = visitor.fetch("/web/cgi-bin/env?a=b").body;
    for line in ["SKEP_BASE_PATH=/web", "QUERY_STRING=a=b", "HTTP_X_FORWARDED_PREFIX=/web"] {
        assert!(env.lines().any(|l| l == line), "{line}: {env}");
    }
    let rows = test.ps();
    assert_eq!((rows.len(), &rows[0]["backend"], &rows[0]["state"]), (1, &"docker".into(), &"ready".into()));
    assert!(is_alive(rows[0]["pid"].as_u64().unwrap()));
    assert_eq!(containers("skep-web").len(), 1);
    test.ok(&["stop", "web"]);
    until("its container is gone", || containers("skep-web").is_empty().then_some(()));

    // Without a cookie the seat is free with the end of the request, and the app idle.
    let answer = test.visitor().fetch("/web/");
    assert_eq!(answer.status, 200, "{}", answer.body);
    until("it is reaped", || (test.ps().is_empty() && containers("skep-web").is_empty()).then_some(()));
    test.event("instance-stop", "idle");
}

#[test]
fn containers_outlive_a_killed_server_and_are_adopted() {
    let mut test = serving(
        "[defaults]\ncontainer.pull = \"never\"\nhold = \"wait\"\nidle_timeout = \"10m\"\n\
         [apps.kept]\nimage = \"bb:1\"\n[apps.mine]\nimage = \"bb:1\"\nper_user = true\n",
    );
    let mut visitor = test.visitor();
    assert_eq!(visitor.open("/kept/").status, 200);
    assert_eq!(visitor.open("/mine/").status, 200);
    let ids = |of: &str| -> Vec<_> { containers(of).into_iter().map(|c| c["Id"].clone()).collect() };
    let before = (ids("skep-kept"), ids("skep-mine"), test.pids("kept"));
    assert_eq!((before.0.len(), before.1.len()), (1, 1));

    test.kill();
    start(&mut test);
    assert_eq!(visitor.open("/kept/").status, 200);
    assert_eq!(visitor.open("/mine/").status, 200);
    assert_eq!(
        (ids("skep-kept"), ids("skep-mine"), test.pids("kept")),
        before,
        "the same containers, not restarted"
    );
    let adopted = || test.events().iter().filter(|event| event["kind"] == "instance-adopted").count();
    until("the journal has their adoption", || (adopted() == 2).then_some(()));

    // One that ends by itself is started anew for the next visitor, and the end is on record.
    let (status, _) =
        daemon().ask("POST", &format!("/containers/{}/kill", before.0[0].as_str().unwrap()), &[], Vec::new());
    assert_eq!(status, 204);
    test.event("instance-crash", "SIGKILL");
    assert_eq!(visitor.wait_for("/kept/").status, 200);
    assert_ne!(ids("skep-kept"), before.0);
    test.ok(&["stop", "--all"]);
    until("every container is gone", || {
        (ids("skep-kept").is_empty() && ids("skep-mine").is_empty()).then_some(())
    });
}

#[test]
fn what_is_wrong_with_an_image_reaches_visitor_and_admin() {
    let test = serving(
        "[apps.absent]\nimage = \"nowhere.invalid/team/absent:7\"\ncontainer.pull = \"never\"\n\
         [apps.hungry]\nimage = \"bb:1\"\ncommand = \"sh -c 'sleep 1; tail /dev/zero; sleep 3; exit 9'\"\nlimits.memory = \"16MiB\"\n",
    );
    let mut visitor = test.visitor();
    let page = until("the page that says why", || {
        let page = visitor.open("/absent/");
        page.body.contains("Could not start").then_some(page)
    });
    assert!(page.body.contains("nowhere.invalid/team/absent:7"), "{}", page.body);
    test.event("instance-failed", "is not on this machine");
    let _ = visitor.open("/hungry/");
    test.event("instance-failed", "ran out of memory (limit 16 MiB)");
}

#[test]
fn the_config_says_what_does_not_go_together() {
    let test = TestApp::new();
    let refused = |apps: &str| {
        test.write("skep.toml", apps);
        let output = test.run(&["config", "check", test.path("skep.toml").to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{apps}: {}", text(&output.stdout));
        text(&output.stderr)
    };
    for (apps, said) in [
        ("[apps.a]\nimage = \"no image\"", "2:9: `apps.a.image`: `no image` is not an image name"),
        (
            "[apps.a]\nimage = \"a\"\nbackend = \"swarm\"",
            "3:11: `apps.a.backend`: names a Swarm, and none is configured",
        ),
        ("[apps.a]\nimage = \"a\"\nbackend = \"process\"", "runs processes, and this app has an `image`"),
        ("[apps.a]\nimage = \"a\"\nrun_as = \"ada\"", "set `container.user`"),
        ("[apps.a]\nimage = \"a\"\ncommand = \"x {socket}\"", "use `{port}`"),
        ("[apps.a]\nimage = \"a\"\ncontainer.prot = 80", "did you mean `port`?"),
        ("[apps.a]\nimage = \"a\"\ncontainer.mounts = [\"/run/docker.sock:/s\"]", "the whole machine"),
        ("[docker]\nhost = \"ssh://a\"", "is no address of a Docker Engine"),
        ("[docker]\ntls.ca = \"ca.pem\"", "has no `cert`"),
    ] {
        let all = refused(apps);
        assert!(all.contains(said), "{apps}: {all}");
    }
    test.write("skep.toml", "[apps.a]\nimage = \"team/a:1\"\nframework = \"streamlit\"\n");
    let file = test.path("skep.toml");
    let listed = test.ok(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(listed, "/a/  image         A\n");
}

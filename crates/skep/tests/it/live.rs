//! Changes take effect while the server runs; what is broken changes nothing.

use std::time::Duration;

use crate::test_app::{SERVER_PY, TestApp, is_alive, until};

#[test]
fn a_new_version_serves_new_visitors_and_old_ones_finish_on_the_old() {
    let test = TestApp::with_one("hold = \"wait\"");
    let mut old = test.visitor();
    let first = old.open("/one/");
    assert_eq!(first.json()["version"], "1");
    // The entry of a `command` is not known by name; requirements, config and restart.txt are what counts.
    test.write("apps/one/restart.txt", "");
    test.event("config-changed", "one has a new version");
    let second = until("a new visitor gets a new instance", || {
        let answer = test.visitor().open("/one/");
        assert_eq!(answer.status, 200, "{}", answer.body);
        (answer.pid() != first.pid()).then_some(answer)
    });
    assert_eq!(old.open("/one/").pid(), first.pid(), "the old visitor stays");
    assert!(is_alive(first.pid()));

    let keys = "command = [\"python3\", \"-S\", \"server.py\", \"{port}\"]\nhold = \"wait\"\nenv = { GREETING = \"third\" }\n";
    test.write("apps/one/skep.toml", keys);
    let third = until("the new environment is there", || {
        let answer = test.visitor().open("/one/");
        (answer.json()["env"] == "third").then_some(answer)
    });
    assert_ne!(third.pid(), second.pid());
}

#[test]
fn the_entry_file_and_requirements_count() {
    let mut test = TestApp::new();
    test.write("apps/site/index.html", "<title>First</title>");
    test.write("apps/py/app.py", "import flask\n");
    test.start(&[]);
    test.write("apps/py/notes.txt", "not a file that counts");
    test.write("apps/py/app.py", "import flask  # changed\n");
    test.event("config-changed", "py has a new version");
    let before = test.events().len();
    test.write("apps/py/requirements.txt", "flask\n");
    until("the requirements are seen", || {
        let seen = test.events().iter().skip(before).any(|event| event["detail"] == "py has a new version");
        seen.then_some(())
    });
    assert!(
        !test.events().iter().any(|event| event["detail"].to_string().contains("site has a new version"))
    );
}

#[test]
fn an_app_that_writes_beside_its_code_causes_no_loop() {
    let test = TestApp::with_one("hold = \"wait\"");
    let pid = test.visitor().open("/one/").pid();
    // Written down behind the first answer, and the last things there are to tell.
    test.event("server-start", "skep");
    test.event("instance-ready", "");
    let before = test.events().len();
    for round in 0..50 {
        std::fs::write(test.path("apps/one/data.csv"), format!("{round}")).unwrap();
        std::fs::write(test.path("apps/one/server.pyc"), format!("{round}")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    // Touched, not changed.
    let keys = std::fs::read(test.path("apps/one/skep.toml")).unwrap();
    std::fs::write(test.path("apps/one/skep.toml"), keys).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(test.visitor().open("/one/").pid(), pid);
    assert_eq!(test.events().len(), before, "{:?}", test.events());
}

#[test]
fn apps_come_and_go_with_their_folders() {
    let mut test = TestApp::new();
    test.add("one", "hold = \"wait\"");
    test.write("apps/plain/readme.md", "no app yet");
    test.start(&[]);
    let mut visitor = test.visitor();
    let pid = visitor.open("/one/").pid();
    assert_eq!(visitor.open("/two/").status, 404);

    test.add("two", "hold = \"wait\"");
    until("the new app serves", || (visitor.open("/two/").status == 200).then_some(()));
    test.write("apps/plain/index.html", "<title>Now it is a site</title>");
    until("a folder becomes an app", || (visitor.open("/plain/").status == 200).then_some(()));

    std::fs::rename(test.path("apps/one"), test.path("gone")).unwrap();
    until("the old app is gone", || (visitor.open("/one/").status == 404).then_some(()));
    until("its instance, too", || (!is_alive(pid)).then_some(()));
    for told in ["two is new", "one is gone"] {
        until(told, || {
            test.events().iter().any(|event| event["detail"].to_string().contains(told)).then_some(())
        });
    }
}

#[test]
fn a_broken_config_keeps_the_old_one_and_says_so() {
    let mut test = TestApp::new();
    test.add("one", "hold = \"wait\"");
    let config = |more: &str| format!("[server]\naccess_log = \"off\"\n[[sites]]\npath = \"apps\"\n{more}");
    test.write("skep.toml", &config(""));
    let file = test.path("skep.toml");
    test.start_with(&["serve", "--config", file.to_str().unwrap()]);
    let pid = test.visitor().open("/one/").pid();

    test.write("skep.toml", &config("[apps.one]\nseat = 3\n"));
    let told = test.event("config-refused", "skep.toml:6:1: `apps.one.seat`");
    assert!(told["detail"].as_str().unwrap().contains("did you mean `seats`?"), "{told}");
    assert!(test.log().contains("the last good state stays in effect"), "{}", test.log());
    assert_eq!(test.run(&["config", "check", file.to_str().unwrap()]).status.code(), Some(1));
    assert_eq!(test.visitor().open("/one/").pid(), pid);

    test.write("apps/one/skep.toml", "command = \n");
    test.event("config-refused", "apps/one/skep.toml:1:");
    assert_eq!(test.visitor().open("/one/").pid(), pid);

    test.add("one", "hold = \"wait\"");
    test.write("skep.toml", &config("[apps.one]\nenv = { GREETING = \"mended\" }\n"));
    until("the mended config is in effect", || {
        (test.visitor().open("/one/").json()["env"] == "mended").then_some(())
    });
}

#[test]
fn sighup_looks_again() {
    let mut test = TestApp::new();
    test.write("elsewhere/one/server.py", SERVER_PY);
    test.write("elsewhere/one/skep.toml", "command = [\"python3\", \"-S\", \"server.py\", \"{port}\"]\n");
    test.start(&[]);
    // A link's target changes where nothing is watched.
    std::os::unix::fs::symlink(test.path("elsewhere/one"), test.path("apps/one")).unwrap();
    until("the link is an app", || (test.visitor().fetch("/one/").status == 200).then_some(()));
    let server = i32::try_from(test.server_pid()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    std::fs::write(test.path("elsewhere/one/restart.txt"), "").unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::HUP).unwrap();
    test.event("config-changed", "one has a new version");
}

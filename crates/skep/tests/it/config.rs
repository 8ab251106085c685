//! Config as the command line tells it.

use crate::test_app::{TestApp, text};

#[test]
fn check_lists_apps_on_stdout_and_mistakes_on_stderr() {
    let test = TestApp::new();
    test.add("one", "title = \"The first\"");
    test.write("apps/two/index.html", "<title>The second</title>");
    test.write("apps/notes/readme.txt", "");
    let apps = test.path("apps");
    let output = test.run(&["config", "check", apps.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "/one/  command       The first\n/two/  static        The second\n");
    assert!(text(&output.stderr).contains("✓ 2 apps, 0 mistakes"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("/notes: "), "{}", text(&output.stderr));

    let json: Vec<serde_json::Value> =
        serde_json::from_str(&test.ok(&["config", "check", apps.to_str().unwrap(), "--json"])).unwrap();
    assert_eq!(json[1]["id"], "two");
    assert_eq!(json[1]["mount"], "/two/");

    test.write("skep.toml", "[server]\nlisten = 80\n[[sites]]\npath = \"apps\"\n");
    let file = test.path("skep.toml");
    let output = test.run(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("{}:2:10: `server.listen`: is 80, expected a text", file.display());
    assert!(text(&output.stderr).contains(&expected), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    let serve = test.run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(serve.status.code(), Some(1));
    assert!(text(&serve.stderr).contains(&expected), "{}", text(&serve.stderr));
}

#[test]
fn an_open_address_needs_a_login_or_insistence() {
    let mut test = TestApp::new();
    test.add("one", "hold = \"wait\"");
    let apps = test.path("apps");
    let refused = test.run(&["serve", apps.to_str().unwrap(), "--listen", "0.0.0.0:0"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(
        said.contains("0.0.0.0:0 can be reached from other machines") && said.contains("--insecure-no-auth"),
        "{said}"
    );

    test.write("skep.toml", "[server]\nlisten = \"127.0.0.1:0\"\n[auth]\nprovider = \"ldap\"\n");
    let refused = test.run(&["serve", "--config", test.path("skep.toml").to_str().unwrap()]);
    assert!(
        text(&refused.stderr)
            .contains("`auth.provider`: is \"ldap\", which this version of Skep does not have")
    );

    // With insistence it is served, whatever name it is called by.
    test.start(&["--insecure-no-auth"]);
    let answer = test.visitor().ask("GET", "/one/", &[("X-Forwarded-For", "9.9.9.9")], b"");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn an_app_alone_is_served_at_the_root_and_secrets_come_from_files() {
    let mut test = TestApp::new();
    test.write("secret.txt", "hunter2\n");
    let secret = test.path("secret.txt");
    test.add("one", &format!("hold = \"wait\"\nsecrets = {{ SECRET = \"{}\" }}", secret.display()));
    let app = test.path("apps/one");
    test.start_with(&["serve", app.to_str().unwrap()]);
    let answer = test.visitor().open("/any/path");
    assert_eq!(answer.json()["path"], "/any/path");
    assert_eq!(answer.json()["secret"], "hunter2");
    for pid in test.processes() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!text(&line).contains("hunter2"), "a secret in a process list");
    }
}

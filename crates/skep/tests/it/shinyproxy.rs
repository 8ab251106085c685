//! Moving over from ShinyProxy: the importer's command line, and a server that runs on an application.yml itself.

use crate::containers::containers;
use crate::daemon::daemon;
use crate::test_app::{TestApp, text, until};

#[test]
fn an_application_yml_is_printed_as_skeps_with_a_report() {
    let test = TestApp::new();
    test.write(
        "application.yml",
        "proxy:\n  authentication: simple\n  title: x\n  specs:\n  - id: a\n    container-image: lab/a:1\n    \
         container-env:\n      TOKEN: ${SKEP_DATA_DIR}\n",
    );
    let file = test.path("application.yml");
    let output = test.run(&["import", "shinyproxy", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report = text(&output.stderr);
    assert!(report.contains("application.yml:3:3: `title`: kept: "), "{report}");
    assert!(
        report.contains("application.yml:8:7: `TOKEN`: not yet: `${SKEP_DATA_DIR}` is not known here"),
        "{report}"
    );
    test.write("skep.toml", &text(&output.stdout));
    let listed = test.ok(&["config", "check", test.path("skep.toml").to_str().unwrap()]);
    assert_eq!(listed, "/a/  image         A\n");

    test.write("application.yml", "proxy:\n  port: \"\\e[31m\"\n  \"\\e[31m\": x\n");
    let output = test.run(&["import", "shinyproxy", file.to_str().unwrap()]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    let report = text(&output.stderr);
    assert!(report.contains("application.yml:2:3: `port`: is no port"), "{report}");
    assert!(!report.contains('\u{1b}'), "{report:?}");
    let missing = test.run(&["import", "shinyproxy", "/nowhere.yml"]);
    assert!(text(&missing.stderr).contains("/nowhere.yml cannot be read"));
}

#[test]
fn a_server_runs_on_an_application_yml_and_follows_it() {
    daemon().enter();
    let mut test = TestApp::new();
    let write = |test: &TestApp, spec: &str| {
        let socket = daemon().socket().display().to_string();
        test.write(
            "application.yml",
            &format!(
                "proxy:\n  docker:\n    url: unix://{socket}\n    image-pull-policy: Never\n  specs:\n  - id: 01_Web\n    \
                 container-image: bb:1\n    port: 8080\n{spec}"
            ),
        );
    };
    write(&test, "    container-env: {FOR: \"#{proxy.userId}\", KEY: \"${SHELL_IS_NOT_SET:none}\"}\n");
    let file = test.path("application.yml");
    test.start_with(&["serve", "--shinyproxy-config", file.to_str().unwrap()]);
    let mut visitor = test.visitor();
    assert_eq!(visitor.wait_for("/01_web/").body, "hello from a container\n");
    let env = visitor.fetch("/01_web/cgi-bin/env").body;
    for line in ["SHINYPROXY_PUBLIC_PATH=/01_web/", "KEY=none", "FOR="] {
        assert!(env.lines().any(|l| l == line), "{line}: {env}");
    }
    for old in ["/app/01_Web", "/app_direct/01_Web/", "/app_i/01_Web/second/"] {
        let answer = visitor.open(&format!("{old}?a=b"));
        assert_eq!((answer.status, answer.header("location")), (307, Some("/01_web/?a=b")), "{old}");
    }
    assert_eq!(visitor.open("/app/nowhere").status, 404);
    // A container per visitor.
    let mut other = test.visitor();
    assert_eq!(other.wait_for("/01_web/").status, 200);
    assert_eq!(containers("skep-01_web").len(), 2);

    // A mistake changes nothing; what is right again does.
    write(&test, "    port: x\n");
    test.event("config-refused", "is set twice");
    assert_eq!(visitor.open("/01_web/").status, 200);
    write(&test, "  - id: second\n    container-image: bb:1\n    port: 8080\n");
    until("the new app is there", || (visitor.wait_for("/second/").status == 200).then_some(()));
    test.ok(&["stop", "--all"]);
    until("every container is gone", || {
        (containers("skep-01_web").is_empty() && containers("skep-second").is_empty()).then_some(())
    });
}

//! The login as its administrators and users meet it: set-up link, commands, several servers, what ends with it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::test_app::{TestApp, text, until};
use crate::web::{Answer, Visitor};

const GOOD: &str = "plum tree in June";
/// Usually a second or two, on a machine that has nothing else to do.
const ENDS_WITHIN: Duration = Duration::from_secs(45);

/// A server with the apps `one` (for everybody who is logged in) and `lab` (for a group), not started yet.
fn prepared(server: &str) -> TestApp {
    let test = TestApp::new();
    test.add("one", "hold = \"wait\"");
    test.add("lab", "hold = \"wait\"\naccess.groups = [\"lab\"]");
    let config = format!("[server]\n{server}\n[auth]\nprovider = \"local\"\n[[sites]]\npath = \"apps\"\n");
    test.write("skep.toml", &config);
    test
}

fn start(test: &mut TestApp, more: &[&str]) {
    let config = test.path("skep.toml");
    test.start_with(&[&["serve", "--config", config.to_str().unwrap()], more].concat());
}

/// `skep` with a password on its standard input.
fn with_password(test: &TestApp, args: &[&str], password: &str) {
    let mut child = test
        .skep()
        .args(args)
        .arg("--password-stdin")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
}

fn post(visitor: &mut Visitor, path: &str, fields: &[(&str, &str)]) -> Answer {
    let body: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name}={}", value.replace(' ', "+"))).collect();
    let headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Accept", "text/html"),
    ];
    visitor.ask("POST", path, &headers, body.join("&").as_bytes())
}

fn logged_in(test: &TestApp, name: &str, password: &str) -> Visitor {
    let mut visitor = test.visitor();
    let answer = post(&mut visitor, "/_skep/login", &[("name", name), ("password", password)]);
    assert_eq!(answer.status, 303, "{}", answer.body);
    visitor
}

/// The path of the link a text holds.
fn link(text: &str) -> Option<String> {
    let at = text.find("/_skep/invite?token=")?;
    text[at..].split_whitespace().next().map(str::to_owned)
}

fn token(path: &str) -> &str {
    path.rsplit('=').next().unwrap()
}

#[test]
fn the_first_administrator_comes_by_the_link_on_the_terminal() {
    let mut test = prepared("");
    start(&mut test, &[]);
    let first = until("the link", || link(&test.log()));
    let whole = format!("http://{}{first}", test.address);
    until("the link is whole", || test.log().contains(&whole).then_some(()));
    test.stop();
    start(&mut test, &[]);
    let link_now = until("another link", || link(&test.log()));
    assert_eq!(test.visitor().open(&first).status, 410, "the earlier one is void");

    let mut ada = test.visitor();
    let fields = [("token", token(&link_now)), ("name", "ada"), ("new", GOOD), ("again", GOOD)];
    let done = post(&mut ada, "/_skep/invite", &fields);
    assert_eq!((done.status, done.header("location")), (303, Some("/")), "{}", done.body);
    assert_eq!(ada.fetch("/one/").json()["user"], "ada");
    assert_eq!(ada.fetch("/lab/").status, 200, "an administrator may open everything");
    let began = Instant::now();
    test.stop();
    assert!(began.elapsed() < Duration::from_secs(9), "nothing keeps the server from ending");
    start(&mut test, &[]);
    assert_eq!(ada.fetch("/one/").json()["user"], "ada", "the login outlives the server");
    assert_eq!(link(&test.log()), None, "nobody needs a link any more");
}

#[test]
fn users_are_kept_by_command_with_and_without_a_server() {
    let mut test = prepared("");
    with_password(&test, &["user", "add", "Ada", "--admin"], GOOD);
    let weak = test.run(&["user", "add", "ada"]);
    assert!(text(&weak.stderr).contains("there is a user `ada` already"), "{}", text(&weak.stderr));
    start(&mut test, &[]);
    let mut ada = logged_in(&test, "ADA", GOOD);
    assert_eq!(ada.fetch("/one/").json()["user"], "ada");
    assert_eq!(link(&test.log()), None);

    let invited = test.ok(&["user", "add", "bob", "--groups", "lab,staff"]);
    let path = link(&invited).unwrap();
    assert_eq!(invited.trim(), format!("http://{}{path}", test.address), "the link alone is on stdout");
    let mut bob = test.visitor();
    let fields = [("token", token(&path)), ("new", GOOD), ("again", GOOD)];
    assert_eq!(post(&mut bob, "/_skep/invite", &fields).status, 303);
    let seen = bob.fetch("/lab/").json();
    assert_eq!((seen["user"].as_str(), seen["groups"].as_str()), (Some("bob"), Some("lab,staff")));
    let users: serde_json::Value = serde_json::from_str(&test.ok(&["user", "list", "--json"])).unwrap();
    assert_eq!(
        (users[0]["name"].as_str(), users[0]["admin"].as_bool(), users[1]["groups"].to_string()),
        (Some("ada"), Some(true), "[\"lab\",\"staff\"]".to_owned())
    );
    let table = test.ok(&["user", "list"]);
    assert!(
        table.starts_with("NAME") && table.contains("administrator") && !table.contains("argon2"),
        "{table}"
    );

    with_password(&test, &["user", "passwd", "bob"], "pear tree in July");
    assert_eq!(bob.fetch("/one/").status, 401, "a new password ends logins");
    let mut bob = logged_in(&test, "bob", "pear tree in July");
    assert_eq!(bob.fetch("/one/").status, 200);
    test.ok(&["user", "rm", "bob"]);
    assert_eq!(bob.fetch("/one/").status, 401);
    let gone = test.run(&["user", "rm", "bob"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).to_lowercase().contains("no user `bob`"), "{}", text(&gone.stderr));
    test.stop();
    test.ok(&["user", "rm", "ada"]);
    assert_eq!(test.ok(&["user", "list", "--json"]).trim(), "[]");
}

/// A user's own instance knows their groups, and ends with their login where the app says so.
#[test]
fn an_instance_of_ones_own_knows_ones_groups_and_ends_with_the_login() {
    let mut test = prepared("");
    let own = |more: &str| {
        format!(
            "hold = \"wait\"\nper_user = true\nenv = {{ GREETING = \"{{user}} of {{groups}} {{groups:upper}}\" }}\n{more}"
        )
    };
    test.add("ends", &own("stop_on_logout = true"));
    test.add("stays", &own(""));
    for (name, groups) in [("ada", "lab,staff"), ("bob", "lab")] {
        with_password(&test, &["user", "add", name, "--groups", groups], GOOD);
    }
    start(&mut test, &[]);
    let (mut ada, mut bob) = (logged_in(&test, "ada", GOOD), logged_in(&test, "bob", GOOD));
    for path in ["/ends/", "/stays/"] {
        assert_eq!(ada.fetch(path).json()["env"], "ada of lab,staff LAB,STAFF");
        assert_eq!(bob.fetch(path).json()["env"], "bob of lab LAB");
    }
    let mut live = tunnel(&test, "/ends/", &ada.cookie_header());
    echoes(&mut live);
    let since = Instant::now();
    assert_eq!(post(&mut ada, "/_skep/logout", &[]).status, 303);
    until("what was ada's is gone", || (test.pids("ends").len() == 1).then_some(()));
    assert_eq!((test.pids("stays").len(), bob.fetch("/ends/").status), (2, 200));
    let took = closes(live, since);
    assert!(took < ENDS_WITHIN, "{took:?}");
    // Removed by a command beside the server.
    test.ok(&["user", "rm", "bob"]);
    until("what was bob's is gone", || test.pids("ends").is_empty().then_some(()));
    assert_eq!(test.pids("stays").len(), 2);
}

/// An open WebSocket of a visitor, as far as the server cares.
fn tunnel(test: &TestApp, app: &str, cookie: &str) -> TcpStream {
    let mut stream = TcpStream::connect(test.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    let head = format!(
        "GET {app}live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nCookie: {cookie}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", text(&answer));
    stream
}

fn echoes(stream: &mut TcpStream) {
    let frame = [&[0x81, 0x85, 0, 0, 0, 0], b"hello".as_slice()].concat();
    stream.write_all(&frame).unwrap();
    let mut heard = vec![0; frame.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, frame);
}

/// How long until the other end closes.
fn closes(mut stream: TcpStream, since: Instant) -> Duration {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut rest);
    since.elapsed()
}

#[test]
fn what_a_login_opened_ends_with_it_even_in_a_server_that_was_replaced() {
    let mut test = prepared("");
    with_password(&test, &["user", "add", "ada"], GOOD);
    with_password(&test, &["user", "add", "bob"], GOOD);
    start(&mut test, &[]);
    let (mut ada, bob) = (logged_in(&test, "ada", GOOD), logged_in(&test, "bob", GOOD));
    assert_eq!(ada.fetch("/one/").status, 200);
    let (mut of_ada, mut of_bob) =
        (tunnel(&test, "/one/", &ada.cookie_header()), tunnel(&test, "/one/", &bob.cookie_header()));
    // Its tunnels stay with the old server.
    test.ok(&["upgrade"]);
    echoes(&mut of_ada);
    let mut late = tunnel(&test, "/one/", &ada.cookie_header());
    echoes(&mut late);
    let since = Instant::now();
    with_password(&test, &["user", "passwd", "ada"], "pear tree in July");
    for stream in [of_ada, late] {
        let took = closes(stream, since);
        assert!(took < ENDS_WITHIN, "{took:?}");
    }
    echoes(&mut of_bob);
    until("ada's login is in the journal", || {
        let is_hers = |event: &serde_json::Value| event["kind"] == "login" && event["user"] == "ada";
        test.events().iter().any(is_hers).then_some(())
    });
}

#[test]
fn two_servers_share_logins_and_their_ends_and_rotate_their_keys() {
    let shared = TestApp::new();
    let (store, keys) = (shared.path("shared.db"), shared.path("cookie.keys"));
    let server = format!("cookie_key_file = \"{}\"\ndatabase = \"{}\"", keys.display(), store.display());
    let (mut one, mut two) = (prepared(&server), prepared(&server));
    let config = one.path("skep.toml");
    let config = config.to_str().unwrap();
    with_password(&one, &["user", "add", "ada", "--admin", "--config", config], GOOD);
    start(&mut one, &[]);
    start(&mut two, &[]);
    let ada = logged_in(&one, "ada", GOOD);
    assert_eq!(ada.at(two.address).fetch("/one/").json()["user"], "ada");
    assert_eq!(two.visitor().fetch("/one/").status, 401);

    // A new key: both go on accepting what the earlier one sealed.
    let said = text(&one.run(&["key", "rotate", "--config", config]).stderr);
    assert!(said.contains("seals from now on") && said.contains("1 earlier key still opens"), "{said}");
    for test in [&one, &two] {
        until("the new key is noticed", || test.log().contains("was read again").then_some(()));
        assert_eq!(ada.at(test.address).fetch("/one/").status, 200);
    }
    let ids = one.ok(&["key", "list", "--config", config]);
    assert_eq!(ids.lines().count(), 2, "{ids}");
    let fresh = logged_in(&two, "ada", GOOD);
    assert_eq!(fresh.at(one.address).fetch("/one/").status, 200);

    // A logout counts on the other server, too, and ends that login only.
    let since = Instant::now();
    assert_eq!(post(&mut ada.at(one.address), "/_skep/logout", &[]).status, 303);
    assert_eq!(ada.at(one.address).fetch("/one/").status, 401);
    until("the other server knows", || (status(&ada, &two) == Some(401)).then_some(()));
    assert!(since.elapsed() < ENDS_WITHIN, "{:?}", since.elapsed());
    assert_eq!(fresh.at(two.address).fetch("/one/").status, 200);

    // Without the earlier keys nobody is logged in, and nothing stays open that was opened by them.
    let mut open = tunnel(&one, "/one/", &fresh.cookie_header());
    echoes(&mut open);
    let since = Instant::now();
    one.ok(&["key", "rotate", "--keep", "0", "--file", keys.to_str().unwrap()]);
    for test in [&one, &two] {
        until("everybody is out", || (status(&fresh, test) == Some(401)).then_some(()));
    }
    let took = closes(open, since);
    assert!(took < ENDS_WITHIN, "{took:?}");
    let again = logged_in(&one, "ada", GOOD);
    until("both have the key", || (status(&again, &two) == Some(200)).then_some(()));
}

/// What a visitor gets. A request under way when the login ends is cut off, which is no answer.
fn status(visitor: &Visitor, test: &TestApp) -> Option<u16> {
    let headers = [("Accept", "application/json")];
    visitor.at(test.address).try_ask("GET", "/one/", &headers, b"").ok().map(|answer| answer.status)
}

#[test]
fn on_open_addresses_a_login_is_enough_and_passwords_want_https() {
    let mut test = prepared("");
    with_password(&test, &["user", "add", "ada"], GOOD);
    test.address = "0.0.0.0:0".parse().unwrap();
    start(&mut test, &[]);
    until("it is said", || test.log().contains("nobody can log in over plain HTTP").then_some(()));
    let visitor = Visitor::new(([127, 0, 0, 1], test.address.port()).into());
    let page = visitor.named("apps.example.org").open("/one/");
    assert_eq!((page.status, page.header("location")), (303, Some("/_skep/login?to=/one/")));
    let page = visitor.named("apps.example.org").open("/_skep/login?to=/one/");
    assert_eq!(page.status, 403);
    assert!(page.body.contains("not encrypted") && !page.body.contains("<form"), "{}", page.body);
    let mut named = visitor.named("apps.example.org");
    let refused = post(&mut named, "/_skep/login", &[("name", "ada"), ("password", GOOD)]);
    assert_eq!((refused.status, refused.header("set-cookie")), (403, None));
    test.stop();

    test.address = "0.0.0.0:0".parse().unwrap();
    start(&mut test, &["--insecure-http-login"]);
    let mut visitor = Visitor::new(([127, 0, 0, 1], test.address.port()).into()).named("apps.example.org");
    let answer = post(&mut visitor, "/_skep/login", &[("name", "ada"), ("password", GOOD), ("stay", "1")]);
    let cookie = answer.header("set-cookie").unwrap_or_default();
    assert!(cookie.starts_with("skep=") && cookie.contains("; Max-Age=2592000"), "{cookie}");
    assert_eq!(visitor.fetch("/one/").json()["user"], "ada");
    assert!(!test.log().contains("nobody can log in over plain HTTP"), "{}", test.log());
}

#[test]
fn limits_of_the_login_come_from_the_config() {
    let mut test = prepared("");
    with_password(&test, &["user", "add", "ada"], GOOD);
    let limits = "[auth.session]\nidle = \"8s\"\n[auth.throttle]\nfree_per_account = 2\nfirst_wait = \"5m\"\nlongest_wait_account = \"10m\"\n";
    let config = std::fs::read_to_string(test.path("skep.toml")).unwrap();
    test.write("skep.toml", &(config + limits));
    start(&mut test, &[]);
    let mut ada = logged_in(&test, "ada", GOOD);
    assert_eq!(ada.fetch("/one/").status, 200);
    let mut stranger = test.visitor();
    let mut guess =
        |password| post(&mut stranger, "/_skep/login", &[("name", "nobody"), ("password", password)]);
    assert_eq!((guess("x").status, guess("x").status, guess("x").status), (401, 401, 401));
    let waits = guess("x");
    assert_eq!(waits.status, 429);
    assert!(
        waits.header("retry-after").and_then(|s| s.parse::<u32>().ok()).is_some_and(|s| s > 290),
        "{waits:?}"
    );
    // No request comes in between: each would prolong it.
    std::thread::sleep(Duration::from_millis(8_200));
    assert_eq!(ada.fetch("/one/").status, 401, "unused for longer than `idle`");
}

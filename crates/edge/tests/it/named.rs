//! Several instances of one app for one visitor, each under a name.

use skep_model::{AppSpec, Mount, Prefix};

use crate::client::Answer;
use crate::world::{Setup, World, eventually, spec};

const HTML: &str = "Accept: text/html\r\n";

fn own(id: &str, prefix: Prefix) -> AppSpec {
    AppSpec { per_user: true, ..spec(id, prefix) }
}

async fn ask(world: &World, line: &str, fields: &str) -> Answer {
    let mut client = world.client().await;
    client.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
    client.answer().await
}

/// The cookies of an answer, as a browser sends them back: name, value and path.
fn cookies(answer: &Answer) -> Vec<(String, String)> {
    let parts = |cookie: &str| {
        let pair = cookie.split(';').next().unwrap().to_owned();
        let path = cookie.split("Path=").nth(1).unwrap().split(';').next().unwrap().to_owned();
        (pair, path)
    };
    answer.fields("set-cookie").map(parts).collect()
}

/// A visitor who keeps cookies and waits at the launch page.
async fn open(world: &World, path: &str, jar: &mut Vec<(String, String)>) -> Answer {
    for _ in 0..3_000 {
        let sent: Vec<_> =
            jar.iter().filter(|(_, at)| path.starts_with(at.as_str())).map(|(c, _)| c.as_str()).collect();
        let answer =
            ask(world, &format!("GET {path}"), &format!("{HTML}Cookie: {}\r\n", sent.join("; "))).await;
        for (pair, at) in cookies(&answer) {
            let name = pair.split('=').next().unwrap().to_owned();
            jar.retain(|(old, old_at)| !(old.starts_with(&format!("{name}=")) && *old_at == at));
            jar.push((pair, at));
        }
        if answer.status != 503 {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{path} never answered")
}

#[tokio::test]
async fn each_name_is_an_instance_with_an_address_and_a_cookie_of_its_own() {
    for prefix in [Prefix::Keep, Prefix::Strip] {
        let world = World::with(Setup { specs: vec![own("own", prefix)], ..Setup::default() }).await;
        let mut jar = Vec::new();
        for path in ["/own/", "/own~north/", "/own~south/deep?q=1"] {
            assert_eq!(open(&world, path, &mut jar).await.status, 200, "{path}");
            let arrived = world.seen().pop().unwrap();
            let expected =
                if prefix == Prefix::Keep { path } else { &path[path[1..].find('/').unwrap() + 1..] };
            assert_eq!(arrived.line(), format!("GET {expected} HTTP/1.1"));
            assert!(arrived.field("cookie").is_none(), "none of ours reaches it");
        }
        let names = || {
            let mut names: Vec<_> = world
                .handle
                .instances()
                .iter()
                .map(|view| view.variant.name.clone().map(String::from))
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(), [None, Some("north".to_owned()), Some("south".to_owned())]);
        let paths: Vec<_> = jar
            .iter()
            .filter(|(pair, _)| pair.starts_with("skep-seat="))
            .map(|(_, at)| at.as_str())
            .collect();
        assert_eq!(paths, ["/own/", "/own~north/", "/own~south/"]);
        // The same, however the sign is written; and nothing more is started.
        assert_eq!(open(&world, "/own%7Enorth/again", &mut jar).await.status, 200);
        assert_eq!(names().len(), 3);
        let moved = ask(&world, "GET /own~north?a=b", HTML).await;
        assert_eq!((moved.status, moved.field("location")), (308, Some("/own~north/?a=b")));
    }
}

#[tokio::test]
async fn a_seat_under_one_name_is_none_under_another() {
    let world = World::with(Setup { specs: vec![own("own", Prefix::Keep)], ..Setup::default() }).await;
    let mut jar = Vec::new();
    open(&world, "/own~north/", &mut jar).await;
    let seat = jar.iter().find(|(pair, _)| pair.starts_with("skep-seat=")).unwrap().0.clone();
    let guest = jar.iter().find(|(pair, _)| pair.starts_with("skep-guest=")).unwrap().0.clone();
    // Carried over to the other address by hand, it does not open there.
    let mut other = vec![(guest, "/".to_owned()), (seat, "/".to_owned())];
    assert_eq!(open(&world, "/own~south/", &mut other).await.status, 200);
    assert_eq!(world.handle.instances().len(), 2);
    // Nor does it help anybody else to sit on what is not theirs.
    other.remove(0);
    assert_eq!(open(&world, "/own~north/", &mut other).await.status, 200);
    eventually("an instance of their own", || (world.handle.instances().len() == 3).then_some(())).await;
}

#[tokio::test]
async fn what_can_be_no_instance_is_refused_by_name() {
    let mut at_root = own("home", Prefix::Keep);
    at_root.mount = Mount::root();
    let specs = vec![own("own", Prefix::Keep), spec("shared", Prefix::Keep), at_root];
    let world = World::with(Setup { specs, ..Setup::default() }).await;
    for (path, code) in [
        ("/shared~north/", "not-per-user"),
        ("/shared~north", "not-per-user"),
        ("/own~North/", "bad-instance-name"),
        ("/own~/", "bad-instance-name"),
        ("/own~a~b/", "bad-instance-name"),
        ("/own~a.b/x", "bad-instance-name"),
        ("/own~%41/", "bad-instance-name"),
    ] {
        let problem = ask(&world, &format!("GET {path}"), "").await;
        assert_eq!((problem.status, problem.code().as_str()), (404, code), "{path}");
        ask(&world, &format!("GET {path}"), HTML).await;
        let app = &path[1..path.find('~').unwrap()];
        let call = world.calls.lock().pop().unwrap();
        assert!(call.starts_with(&format!("misnamed-page {app} {code}:")), "{call}");
    }
    assert!(world.handle.instances().is_empty());
    // The app at `/` has what no other does, and its own named instances by its id.
    let mut jar = Vec::new();
    assert_eq!(open(&world, "/nothing~north/", &mut jar).await.status, 200);
    assert_eq!(world.seen().pop().unwrap().line(), "GET /nothing~north/ HTTP/1.1");
    assert_eq!(open(&world, "/home~north/", &mut jar).await.status, 200);
    assert_eq!(world.handle.instances().len(), 2);
}

#[tokio::test]
async fn nobody_has_more_than_they_may() {
    let world = World::with(Setup { specs: vec![own("own", Prefix::Keep)], ..Setup::default() }).await;
    let mut jar = Vec::new();
    for path in ["/own/", "/own~a/", "/own~b/"] {
        assert_eq!(open(&world, path, &mut jar).await.status, 200);
    }
    let guest = jar.iter().find(|(pair, _)| pair.starts_with("skep-guest=")).unwrap().0.clone();
    let refused = ask(&world, "GET /own~c/", &format!("Cookie: {guest}\r\n")).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "too-many-of-one"));
    ask(&world, "GET /own~c/", &format!("{HTML}Cookie: {guest}\r\n")).await;
    assert_eq!(world.calls.lock().pop().unwrap(), "refused-page own too-many-of-one: GET /own~c/");
    assert_eq!(open(&world, "/own~b/", &mut jar).await.status, 200, "those there are go on");
    assert_eq!(open(&world, "/own~c/", &mut Vec::new()).await.status, 200, "others have their own");
}

//! Guests on an instance that its owner shares.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use skep_identity::{Admission, GuestSealer, KeyRing, Share, ShareIn, ShareSealer, Sharing};
use skep_model::{AppSpec, InstanceId, Prefix, Principal};

use crate::client::{Answer, Client};
use crate::world::{Setup, World, spec};

const HTML: &str = "Accept: text/html\r\n";
const SINCE: i64 = 5;

async fn ask(world: &World, path: &str, fields: &str) -> Answer {
    let mut client = world.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
    client.answer().await
}

/// Somebody's instance of `own`, and its owner's `Cookie` field.
async fn owners(world: &World) -> (InstanceId, String) {
    let page = ask(world, "/own/", HTML).await;
    let cookie = page.fields("set-cookie").find(|cookie| cookie.starts_with("skep-guest=")).unwrap();
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(ask(world, "/own/x", &cookie).await.status, 200);
    (world.handle.instances()[0].id.clone(), cookie)
}

fn shared(instance: &InstanceId, until_ms: i64) -> Arc<Admission> {
    let shares = HashMap::from([(instance.clone(), Sharing { since_ms: SINCE, until_ms })]);
    Arc::new(Admission { shares, ..Admission::default() })
}

/// A browser, and what tells it from others.
struct Browser {
    who: Principal,
    cookie: String,
}

impl Browser {
    fn new(keys: &KeyRing) -> Self {
        let (id, cookie) = GuestSealer::new(keys).welcome(false).unwrap();
        Self { who: Principal::Guest(id), cookie: cookie.split(';').next().unwrap().to_owned() }
    }

    /// The field it sends with this share.
    fn field(&self, sealed: &str) -> String {
        format!("Cookie: {}; skep-share={sealed}\r\n", self.cookie)
    }

    fn guest(&self, keys: &KeyRing, share: &Share) -> String {
        self.field(&ShareSealer::new(keys).seal(ShareIn::Cookie(&self.who), share).unwrap())
    }
}

async fn world() -> World {
    let own = AppSpec { per_user: true, ..spec("own", Prefix::Keep) };
    World::with(Setup { specs: vec![own], ..Setup::default() }).await
}

async fn tunnel(world: &World, fields: &str) -> Client {
    let mut client = world.client().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n";
    client.send(format!("GET /own/ws HTTP/1.1\r\nHost: localhost\r\n{fields}{upgrade}\r\n")).await;
    assert_eq!(client.head().await.status, 101);
    assert_eq!(client.take(5).await, b"hello");
    client
}

#[tokio::test]
async fn a_guest_joins_and_is_gone_as_soon_as_the_owner_says_so() {
    let world = world().await;
    let (instance, owner) = owners(&world).await;
    let share = Share { instance: instance.clone(), name: None, since_ms: SINCE };
    let guest = Browser::new(&world.keys).guest(&world.keys, &share);
    world.admission.send_replace(shared(&instance, i64::MAX));
    let page = ask(&world, "/own/", &format!("{HTML}{guest}")).await;
    assert_eq!(page.status, 200);
    assert_eq!(world.handle.instances().len(), 1, "nothing was started for the guest");
    assert!(world.seen().pop().unwrap().field("cookie").is_none(), "the share stays with us");
    let mut hers = tunnel(&world, &owner).await;
    let mut his = tunnel(&world, &guest).await;
    world.admission.send_replace(Arc::new(Admission::default()));
    assert!(tokio::time::timeout(Duration::from_secs(30), his.rest()).await.is_ok(), "the guest's is closed");
    hers.send("still here").await;
    assert_eq!(hers.take(10).await, b"still here");
    let refused = ask(&world, "/own/x", &guest).await;
    assert_eq!((refused.status, refused.code().as_str()), (410, "share-ended"));
    let page = ask(&world, "/own/", &format!("{HTML}{guest}")).await;
    assert!(world.calls.lock().pop().unwrap().starts_with("refused-page own share-ended"));
    let forgotten = page.fields("set-cookie").find(|cookie| cookie.starts_with("skep-share=;")).unwrap();
    assert!(forgotten.contains("Max-Age=0"), "{forgotten}");
}

#[tokio::test]
async fn only_what_was_sealed_for_this_very_sharing_lets_anybody_in() {
    let world = world().await;
    let (instance, _) = owners(&world).await;
    world.admission.send_replace(shared(&instance, i64::MAX));
    let share = |since_ms| Share { instance: instance.clone(), name: None, since_ms };
    let strangers = KeyRing::ephemeral().unwrap();
    let (browser, another) = (Browser::new(&world.keys), Browser::new(&world.keys));
    let sealer = ShareSealer::new(&world.keys);
    let link = sealer.seal(ShareIn::Link, &share(SINCE)).unwrap();
    let hers = sealer.seal(ShareIn::Cookie(&another.who), &share(SINCE)).unwrap();
    let north = Share { name: "north".parse().ok(), ..share(SINCE) };
    for (what, fields, status) in [
        ("of another key", browser.guest(&strangers, &share(SINCE)), 200),
        ("the link itself", browser.field(&link), 200),
        ("of another browser", browser.field(&hers), 200),
        ("without its browser's identity", format!("Cookie: skep-share={hers}\r\n"), 200),
        ("of another address", browser.guest(&world.keys, &north), 200),
        ("of an earlier sharing", browser.guest(&world.keys, &share(SINCE - 1)), 410),
    ] {
        let answer = ask(&world, "/own/x", &fields).await;
        assert_eq!(answer.status, status, "{what}");
        let taken = world.handle.instances().into_iter().find(|view| view.id == instance).unwrap().taken;
        assert_eq!(taken, 1, "{what}: only its owner is there");
    }
    let good = browser.guest(&world.keys, &share(SINCE));
    world.admission.send_replace(shared(&instance, 1));
    assert_eq!(ask(&world, "/own/x", &good).await.code(), "share-ended", "its time is over");
    world.admission.send_replace(shared(&instance, i64::MAX));
    assert_eq!(ask(&world, "/own/x", &good).await.status, 200);
    world.handle.stop(skep_launch::StopTarget::Instance(instance)).await;
    assert_eq!(ask(&world, "/own/x", &good).await.code(), "share-ended", "the instance is gone");
}

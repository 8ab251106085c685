//! What one person has of an app of which everybody has their own: how many, started with what, and who may join.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use skep_launch::driver::DriverConfig;
use skep_launch::{Claim, ClaimKind, Lease, Outcome, StopTarget};
use skep_model::{AppSpec, Choice, EventKind, InstanceId, Parameter, ParameterValue, Parameters, Principal};

use crate::fake::{Manner, World, app, claim, spec, until, user};

fn own() -> AppSpec {
    AppSpec { per_user: true, seats: 20, ..spec("a") }
}

/// Asks for a version; these are offered.
fn asking(versions: &[&str]) -> AppSpec {
    let value = |text: &&str| ParameterValue { value: (*text).to_owned(), title: (*text).to_owned() };
    let (name, title) = ("v".to_owned(), "Version".to_owned());
    let values = versions.iter().map(value).collect();
    let list = vec![Parameter { name, title, description: String::new(), values, default: None }];
    AppSpec { parameters: Parameters { list, sets: Vec::new() }, ..own() }
}

fn version(v: &str) -> Option<Choice> {
    Some(Choice::from([("v".to_owned(), v.to_owned())]))
}

fn page(who: &str, name: &str) -> Claim {
    Claim { name: name.parse().ok(), principal: user(who), kind: ClaimKind::HeldPage, ..claim("a") }
}

fn code(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Granted(_) => "granted",
        Outcome::Waiting(_) => "waiting",
        Outcome::Refused(refusal) => refusal.code(),
    }
}

async fn seat(world: &World, claim: Claim) -> Lease {
    match world.handle.claim(claim) {
        Outcome::Granted(lease) => lease,
        Outcome::Waiting(waiting) => waiting.granted().await.unwrap(),
        Outcome::Refused(refusal) => panic!("{refusal}"),
    }
}

#[tokio::test]
async fn each_start_says_how_long_its_own_visitor_had_queued() {
    let mut world = World::new(DriverConfig::default(), vec![own()]);
    world.backend.manner("a", Manner { warm_up: Duration::from_secs(2), ..Manner::default() });
    let Outcome::Waiting(ada) = world.handle.claim(page("ada", "")) else { panic!("it is cold") };
    let ada_came = Instant::now();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before_bob = ada_came.elapsed();
    let Outcome::Waiting(bob) = world.handle.claim(page("bob", "")) else { panic!("it is cold") };
    until("bob's is started", || world.handle.instances().len() == 2).await;
    let bobs_took = ada_came.elapsed() - before_bob;
    ada.granted().await.unwrap();
    bob.granted().await.unwrap();
    until("the journal has both", || world.journal.len() >= 4).await;
    let events = std::iter::from_fn(|| world.journal.try_recv().ok());
    let ready: Vec<String> =
        events.filter(|event| event.kind == EventKind::InstanceReady).map(|event| event.detail).collect();
    let [_, bobs] = ready.as_slice() else { panic!("{ready:?}") };
    let queued: u128 = bobs.split_once("queue ").unwrap().1.split_once(" ms").unwrap().0.parse().unwrap();
    assert!(queued <= bobs_took.as_millis(), "{queued} ms, and he had waited {bobs_took:?}: {ready:?}");
}

#[tokio::test]
async fn who_sends_no_cookie_has_no_instance_with_a_name() {
    let world = World::new(DriverConfig::default(), vec![AppSpec { max_instances_per_user: 1, ..own() }]);
    let nobody = |name: &str| Claim { principal: Principal::Anonymous, ..page("x", name) };
    // All who send none look like one person: with names, one could use up what all of them may have.
    assert_eq!(code(&world.handle.claim(nobody("north"))), "no-identity");
    assert_eq!(code(&world.handle.claim(nobody(""))), "waiting");
    assert_eq!(code(&world.handle.claim(page("ada", "north"))), "waiting");
}

#[tokio::test]
async fn what_was_alive_before_counts_for_who_came_before_it_was_known() {
    let one = || AppSpec { max_instances_per_user: 1, ..own() };
    let world = World::new(DriverConfig::default(), vec![one()]);
    drop(seat(&world, page("ada", "north")).await);
    let World { backend, handle, task, .. } = world;
    handle.shutdown(false).await;
    task.ended().await;

    // It cannot be asked at first what is alive.
    backend.adopt_fails.store(2, Ordering::Relaxed);
    let events = backend.reconnect();
    let world = World::over(backend, events, DriverConfig::default(), vec![one()]);
    let Outcome::Waiting(hers) = world.handle.claim(page("ada", "south")) else { panic!("nothing is known") };
    let Outcome::Waiting(his) = world.handle.claim(page("bob", "south")) else { panic!("nothing is known") };
    let refusal = hers.granted().await.err().map(|refusal| refusal.code());
    assert_eq!(refusal, Some("too-many-of-one"));
    his.granted().await.unwrap();
    assert_eq!(world.handle.instances().len(), 2);
    assert_eq!(code(&world.handle.claim(page("ada", "south"))), "too-many-of-one");
    assert_eq!(code(&world.handle.claim(page("ada", "north"))), "granted");
}

#[tokio::test]
async fn whoever_ends_one_may_open_another_at_once() {
    let world = World::new(DriverConfig::default(), vec![AppSpec { max_instances_per_user: 1, ..own() }]);
    world.backend.manner("a", Manner { stop_takes: Duration::from_secs(60), ..Manner::default() });
    // Its WebSocket is open still: it drains before it is stopped, and that takes its time.
    let open = seat(&world, Claim { kind: ClaimKind::Tunnel, ..page("ada", "north") }).await;
    assert_eq!(code(&world.handle.claim(page("ada", "south"))), "too-many-of-one");
    let (handle, id) = (world.handle.clone(), open.upstream().instance.clone());
    let ending = tokio::spawn(async move { handle.stop(StopTarget::Instance(id)).await });
    until("it is told to end", || world.handle.instances()[0].phase != skep_launch::InstancePhase::Ready)
        .await;
    let south = seat(&world, page("ada", "south")).await;
    assert_ne!(south.upstream().instance, open.upstream().instance);
    assert_eq!(world.handle.instances().len(), 2, "the first one is not gone yet");
    assert_eq!(code(&world.handle.claim(page("ada", "west"))), "too-many-of-one");
    ending.abort();
}

#[tokio::test]
async fn a_lower_limit_counts_for_who_waits() {
    let world = World::new(DriverConfig::default(), vec![own()]);
    world.backend.manner("a", Manner { boot: Duration::from_millis(300), ..Manner::default() });
    let Outcome::Waiting(first) = world.handle.claim(page("ada", "north")) else { panic!("it is cold") };
    let Outcome::Waiting(second) = world.handle.claim(page("ada", "south")) else { panic!("it is cold") };
    until("both start", || world.handle.instances().len() == 2).await;
    let Outcome::Waiting(third) = world.handle.claim(page("ada", "west")) else { panic!("it is cold") };
    world.handle.set_apps(vec![Arc::new(AppSpec { max_instances_per_user: 2, ..own() })]);
    let refusal = third.granted().await.err().map(|refusal| refusal.code());
    assert_eq!(refusal, Some("too-many-of-one"));
    first.granted().await.unwrap();
    second.granted().await.unwrap();
}

#[tokio::test]
async fn nothing_is_started_with_what_was_withdrawn_meanwhile() {
    let mut config = DriverConfig::default();
    config.pool.max_starts = 1;
    let world = World::new(config, vec![asking(&["1", "2"])]);
    world.backend.manner("a", Manner { boot: Duration::from_millis(300), ..Manner::default() });
    let form = |who: &str, v: &str| Claim { chosen: version(v), ..page(who, "") };
    let Outcome::Waiting(ada) = world.handle.claim(form("ada", "1")) else { panic!("it is cold") };
    until("hers is started", || world.handle.instances().len() == 1).await;
    let Outcome::Waiting(bob) = world.handle.claim(form("bob", "1")) else { panic!("it is cold") };
    let Outcome::Waiting(eve) = world.handle.claim(form("eve", "2")) else { panic!("it is cold") };
    world.handle.set_apps(vec![Arc::new(asking(&["2", "3"]))]);
    let refusal = bob.granted().await.err().map(|refusal| refusal.code());
    assert_eq!(refusal, Some("choice-withdrawn"));
    // What was started before goes on; what is still offered is started.
    ada.granted().await.unwrap();
    eve.granted().await.unwrap();
    let chosen = |who: &str| {
        let all = world.handle.instances();
        let own = all.into_iter().find(|view| view.owner == Some(user(who)));
        own.map(|view| view.variant.chosen)
    };
    assert_eq!((chosen("ada"), chosen("bob"), chosen("eve")), (version("1"), None, version("2")));
    // And not from a form that was read before the change either.
    assert_eq!(code(&world.handle.claim(form("bob", "1"))), "choice-needed");
}

#[tokio::test]
async fn an_app_that_begins_to_ask_asks_who_waits() {
    let mut config = DriverConfig::default();
    config.pool.max_starts = 1;
    let world = World::new(config, vec![own()]);
    world.backend.manner("a", Manner { boot: Duration::from_millis(300), ..Manner::default() });
    let Outcome::Waiting(_ada) = world.handle.claim(page("ada", "")) else { panic!("it is cold") };
    let Outcome::Waiting(bob) = world.handle.claim(page("bob", "")) else { panic!("it is cold") };
    world.handle.set_apps(vec![Arc::new(asking(&["1"]))]);
    let refusal = bob.granted().await.err().map(|refusal| refusal.code());
    assert_eq!(refusal, Some("choice-needed"));
}

#[tokio::test]
async fn a_choice_is_kept_or_refused_but_never_ignored() {
    let world = World::new(DriverConfig::default(), vec![asking(&["1", "2"])]);
    let form = |name: &str, v: &str| Claim { chosen: version(v), ..page("ada", name) };
    let Outcome::Waiting(waiting) = world.handle.claim(form("", "1")) else { panic!("it is cold") };
    assert_eq!(code(&world.handle.claim(form("", "2"))), "choice-differs", "while it starts");
    assert_eq!(code(&world.handle.claim(form("", "1"))), "waiting", "the same again is no contradiction");
    let lease = waiting.granted().await.unwrap();
    assert_eq!(code(&world.handle.claim(form("", "2"))), "choice-differs", "while it runs");
    assert_eq!(code(&world.handle.claim(form("", "1"))), "granted");
    assert_eq!(code(&world.handle.claim(page("ada", ""))), "granted", "without a wish, what there is");
    assert_eq!(code(&world.handle.claim(form("north", "2"))), "waiting", "another name, another instance");
    let target = StopTarget::Instance(lease.upstream().instance.clone());
    drop(lease);
    world.handle.stop(target).await;
    assert_eq!(code(&world.handle.claim(form("", "2"))), "waiting", "once it has ended");
}

#[tokio::test]
async fn guests_leave_the_owner_a_seat() {
    let world = World::new(DriverConfig::default(), vec![AppSpec { seats: 2, ..own() }]);
    let joins = |who: &str, id: &InstanceId| Claim { joins: Some(id.clone()), ..page(who, "") };
    let ada = seat(&world, Claim { kind: ClaimKind::Held, ..page("ada", "") }).await;
    let id = ada.upstream().instance.clone();
    // Her request is over, and with it her seat.
    drop(ada);
    assert_eq!(world.handle.instances()[0].taken, 0);
    let bob = seat(&world, joins("bob", &id)).await;
    assert_eq!(code(&world.handle.claim(joins("eve", &id))), "no-room", "the last seat is hers");
    let ada = seat(&world, page("ada", "")).await;
    assert_eq!(ada.upstream().instance, id);
    drop(bob);
    assert_eq!(world.handle.status(&app("a"), None).waiting, 0);
}

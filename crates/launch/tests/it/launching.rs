//! Cold starts, held claims, failures and how they are told.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use skep_launch::driver::DriverConfig;
use skep_launch::{BackendError, Claim, ClaimKind, InstancePhase, Outcome, Refusal, Stage, StopTarget};
use skep_model::{AppSpec, EventKind};

use crate::fake::{Manner, World, app, claim, get, spec, until, user};

#[tokio::test]
async fn a_cold_claim_is_held_and_granted_when_the_app_answers() {
    let mut world = World::new(DriverConfig::default(), vec![spec("a")]);
    // Who comes before it is known what is alive queues for that long.
    let nobodys = Claim { joins: Some("a.00000000000000ff".parse().unwrap()), ..claim("a") };
    until("it is known what is alive", || {
        matches!(world.handle.claim(&nobodys), Outcome::Refused(Refusal::ShareEnded))
    })
    .await;
    let waiting = world.wait(ClaimKind::Held);
    let status = world.handle.status(&app("a"), Some(waiting.key().seat));
    assert_eq!((status.place, status.waiting), (Some(1), 1));
    let lease = waiting.granted().await.unwrap();
    assert!(lease.key_is_new());
    assert_eq!(get(&lease).await.unwrap(), lease.upstream().instance.to_string());
    assert_eq!(world.handle.instances()[0].phase, InstancePhase::Ready);
    assert_eq!(world.handle.status(&app("a"), Some(lease.key().seat)).stage, Stage::Ready);
    until("the journal has the start", || world.journal.len() >= 2).await;
    let events: Vec<_> = std::iter::from_fn(|| world.journal.try_recv().ok()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::InstanceStart, EventKind::InstanceReady]);
    let said = &events[1].detail;
    for stage in ["answered after ", "(queue 0 ms", "start ", "boot "] {
        assert!(said.contains(stage), "{said}");
    }
}

#[tokio::test]
async fn unix_sockets_are_probed_like_ports() {
    let world = World::new(DriverConfig::default(), vec![spec("a")]);
    let warm_up = Duration::from_millis(50);
    world.backend.manner("a", Manner { unix: true, warm_up, ..Manner::default() });
    let lease = world.seat(ClaimKind::Held, None).await.unwrap();
    assert_eq!(get(&lease).await.unwrap(), lease.upstream().instance.to_string());
}

#[tokio::test]
async fn a_dropped_claim_leaves_the_line_but_the_boot_goes_on() {
    let world = World::new(DriverConfig::default(), vec![spec("a")]);
    let waiting = world.wait(ClaimKind::Held);
    until("the start is ordered", || world.backend.launches.load(Ordering::Relaxed) == 1).await;
    drop(waiting);
    assert_eq!(world.handle.status(&app("a"), None).waiting, 0);
    until("the instance is ready", || {
        world.handle.instances().first().is_some_and(|i| i.phase == InstancePhase::Ready)
    })
    .await;
    let row = &world.handle.instances()[0];
    assert_eq!((row.taken, row.open), (0, 0), "nobody sits on it");
    let outcome = world.ask(ClaimKind::Held, None);
    assert!(matches!(outcome, Outcome::Granted(_)));
    assert_eq!(world.backend.launches.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_page_keeps_its_place_and_finds_its_seat() {
    let world = World::new(DriverConfig::default(), vec![spec("a")]);
    let key = world.wait(ClaimKind::Page).key();
    assert_eq!(world.handle.status(&app("a"), Some(key.seat)).place, Some(1));
    until("the seat is granted", || world.handle.instances().first().is_some_and(|i| i.taken == 1)).await;
    let Outcome::Granted(lease) = world.ask(ClaimKind::Page, Some(key.clone())) else {
        panic!("the seat was reserved")
    };
    assert_eq!(lease.key().seat, key.seat);
    assert!(lease.key_is_new(), "the cookie learns the instance");
    let Outcome::Granted(again) = world.ask(ClaimKind::Held, Some(lease.key())) else { panic!() };
    assert!(!again.key_is_new());
    let row = &world.handle.instances()[0];
    assert_eq!((row.taken, row.open), (1, 2), "one visitor, two requests");
}

#[tokio::test]
async fn a_failed_start_is_told_once_and_backs_off() {
    let mut config = DriverConfig::default();
    // Not over before it was looked at, on any machine.
    config.pool.backoff_base = Duration::from_secs(60);
    let world = World::new(config, vec![spec("a")]);
    let error =
        BackendError::App { summary: "Rscript is not installed".into(), last_lines: vec!["x".into()] };
    world.backend.manner("a", Manner { launch_error: Some(error), ..Manner::default() });
    let (one, two) = (world.wait(ClaimKind::Held), world.wait(ClaimKind::Held));
    for waiting in [one, two] {
        let Err(Refusal::StartFailed { summary, last_lines, .. }) = waiting.granted().await else {
            panic!("not told")
        };
        assert_eq!(summary, "Rscript is not installed");
        assert_eq!(last_lines, ["x"]);
    }
    let failure = world.handle.status(&app("a"), None).failure.unwrap();
    assert_eq!(failure.code, "start-failed");
    assert!(failure.retry_after_ms <= 60_000);
    let Outcome::Refused(refusal) = world.ask(ClaimKind::Held, None) else { panic!("not backed off") };
    assert_eq!(refusal.code(), "start-failed");
    assert_eq!(world.backend.launches.load(Ordering::Relaxed), 1);
    world.backend.manner("a", Manner::default());
    world.handle.retry(&app("a"));
    let lease = world.seat(ClaimKind::Held, None).await.unwrap();
    assert!(get(&lease).await.is_ok());
}

#[tokio::test]
async fn one_instance_is_started_for_those_who_fit_on_it() {
    let world = World::new(DriverConfig::default(), vec![AppSpec { seats: 20, ..spec("a") }]);
    let waiting: Vec<_> = (0..5).map(|_| world.wait(ClaimKind::Held)).collect();
    let places: Vec<_> =
        waiting.iter().map(|w| world.handle.status(&app("a"), Some(w.key().seat)).place).collect();
    assert_eq!(places, [1, 2, 3, 4, 5].map(Some));
    for waiting in waiting {
        waiting.granted().await.unwrap();
    }
    assert_eq!(world.backend.launches.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_app_of_ones_own_is_shared_with_nobody() {
    let world = World::new(DriverConfig::default(), vec![AppSpec { per_user: true, ..spec("a") }]);
    let claim =
        |name: &str, key| Claim { key, principal: user(name), kind: ClaimKind::HeldPage, ..claim("a") };
    let seat = async |claim: Claim| match world.handle.claim(claim) {
        Outcome::Granted(lease) => lease,
        Outcome::Waiting(waiting) => waiting.granted().await.unwrap(),
        Outcome::Refused(refusal) => panic!("{refusal}"),
    };
    let ada = seat(claim("ada", None)).await;
    let again = seat(claim("ada", None)).await;
    assert_eq!(ada.upstream().instance, again.upstream().instance);
    // Somebody else at the same browser: the cookie is void.
    let bob = seat(claim("bob", Some(ada.key()))).await;
    assert_ne!(ada.upstream().instance, bob.upstream().instance);
    assert_ne!(ada.key().seat, bob.key().seat);
    assert!(bob.key_is_new());
}

#[tokio::test]
async fn a_guest_joins_at_once_or_not_at_all() {
    let own = AppSpec { per_user: true, seats: 2, ..spec("a") };
    let world = World::new(DriverConfig::default(), vec![own]);
    let ask = |who: &str, joins: Option<&skep_model::InstanceId>| {
        let (principal, joins) = (user(who), joins.cloned());
        world.handle.claim(Claim { joins, principal, kind: ClaimKind::HeldPage, ..claim("a") })
    };
    let refused = |outcome| match outcome {
        Outcome::Refused(refusal) => refusal.code(),
        _ => "granted",
    };
    let Outcome::Waiting(waiting) = ask("ada", None) else { panic!("it is cold") };
    until("it is started", || !world.handle.instances().is_empty()).await;
    let starting = world.handle.instances()[0].id.clone();
    assert_eq!(refused(ask("bob", Some(&starting))), "not-up", "nobody waits for what is another's");
    let ada = waiting.granted().await.unwrap();
    let Outcome::Granted(bob) = ask("bob", Some(&starting)) else { panic!("there is a seat") };
    assert_eq!(bob.upstream().instance, ada.upstream().instance);
    assert_eq!(refused(ask("eve", Some(&starting))), "no-room");
    assert_eq!(world.handle.instances().len(), 1);
    drop((ada, bob));
    world.handle.stop(StopTarget::Instance(starting.clone())).await;
    assert_eq!(refused(ask("bob", Some(&starting))), "share-ended");
    assert!(world.handle.instances().is_empty(), "and nothing is started");
}

/// From the app's first answer to the grant, over twenty cold starts. No assertion on time: the figures are for people.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_follows_the_first_answer_at_once() {
    let names: Vec<String> = (0..20).map(|n| format!("a{n}")).collect();
    let world = World::new(DriverConfig::default(), names.iter().map(|name| spec(name)).collect());
    let mut gaps = Vec::new();
    for name in &names {
        let unix = gaps.len() % 2 == 0;
        let manner = Manner { boot: Duration::from_millis(23), unix, ..Manner::default() };
        world.backend.manner(name, manner);
        let Outcome::Waiting(waiting) = world.handle.claim(claim(name)) else { panic!("it is cold") };
        let lease = waiting.granted().await.unwrap();
        gaps.push(world.backend.first_answer(&lease.upstream().instance).elapsed());
    }
    gaps.sort_unstable();
    println!("from the first answer to the grant: median {:?}, worst {:?}", gaps[10], gaps[19]);
}

/// No assertion on time: the figures are for people.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_claims_take_microseconds() {
    let world = World::new(DriverConfig::default(), vec![spec("a")]);
    let first = world.seat(ClaimKind::HeldPage, None).await.unwrap();
    let key = first.key();
    let mut times: Vec<Duration> = (0..20_000)
        .map(|_| {
            let begun = Instant::now();
            let outcome = world.ask(ClaimKind::Held, Some(key.clone()));
            assert!(matches!(outcome, Outcome::Granted(_)));
            drop(outcome);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("warm claim and release: median {:?}, p99 {:?}", times[10_000], times[19_800]);
    println!("a lease is {} bytes", size_of::<skep_launch::Lease>());
    assert!(size_of::<skep_launch::Lease>() <= 100);
}

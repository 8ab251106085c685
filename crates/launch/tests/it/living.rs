//! What happens to instances and seats once they are there: idleness, crashes, restarts of Skep, changes, orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use skep_launch::driver::DriverConfig;
use skep_launch::pool::PoolConfig;
use skep_launch::{
    BackendError, Claim, ClaimKind, InstancePhase, Lease, Outcome, Refusal, SeatKey, StopTarget,
};
use skep_model::{AppSpec, EventKind, Revision};

use crate::fake::{FakeBackend, Manner, World, app, claim, get, spec, until, user};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Everything that takes seconds in earnest, quickly. Not how long a probe may take: what is well must not miss it because
/// the machine had other things to do.
fn quick() -> DriverConfig {
    DriverConfig {
        pool: PoolConfig {
            tick: ms(5),
            note_every: ms(5),
            probe_every: ms(20),
            probe_misses: 2,
            backoff_base: ms(50),
            command_deadline: ms(50),
            wedged_deadline: ms(300),
            ..PoolConfig::default()
        },
        ..DriverConfig::default()
    }
}

/// Notices soon what does not answer.
fn watchful() -> DriverConfig {
    DriverConfig { probe_timeout: ms(500), ..quick() }
}

fn instance(lease: &Lease) -> String {
    lease.upstream().instance.to_string()
}

async fn within<T>(what: &str, task: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), task).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Visitors who come just when an instance is about to be stopped for idleness are served all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_visits_around_the_idle_timeout_meet_no_error() {
    const APPS: u64 = 20;
    const VISITS: u64 = 50;
    let idle = ms(30);
    let mut config = quick();
    config.pool.max_starts = 20;
    let specs: Vec<AppSpec> =
        (0..APPS).map(|n| AppSpec { idle_timeout: idle, ..spec(&format!("a{n}")) }).collect();
    let world = World::new(config, specs);
    let served = Arc::new(AtomicU32::new(0));
    let mut visitors = Vec::new();
    for n in 0..APPS {
        let name = format!("a{n}");
        world.backend.manner(&name, Manner { boot: ms(3), stop_takes: ms(20), ..Manner::default() });
        let (handle, served) = (world.handle.clone(), served.clone());
        visitors.push(tokio::spawn(async move {
            for visit in 0..VISITS {
                let lease = match handle.claim(claim(&name)) {
                    Outcome::Granted(lease) => lease,
                    Outcome::Waiting(waiting) => waiting.granted().await.unwrap(),
                    Outcome::Refused(refusal) => panic!("visit {visit} of {name}: {refusal}"),
                };
                assert_eq!(get(&lease).await.unwrap(), instance(&lease));
                served.fetch_add(1, Ordering::Relaxed);
                drop(lease);
                // From a little before to a little after the stop.
                tokio::time::sleep(idle - ms(5) + ms((visit * 7 + n) % 20)).await;
            }
        }));
    }
    for visitor in visitors {
        visitor.await.unwrap();
    }
    assert_eq!(served.load(Ordering::Relaxed), 1000);
    let stops = world.backend.stops.load(Ordering::Relaxed);
    println!("1000 visits, 0 errors, {stops} stops for idleness in between");
    assert!(stops > 100, "the visits were not timed around the stop: {stops} stops");
}

#[tokio::test]
async fn a_visitor_comes_back_to_the_same_instance() {
    let world = World::new(quick(), vec![AppSpec { seats: 1, ..spec("a") }]);
    let one = world.seat(ClaimKind::HeldPage, None).await.unwrap();
    let two = world.seat(ClaimKind::HeldPage, None).await.unwrap();
    assert_ne!(instance(&one), instance(&two));
    let key = one.key();
    let first = instance(&one);
    drop((one, two));
    for _ in 0..3 {
        let again = world.seat(ClaimKind::Held, Some(key.clone())).await.unwrap();
        assert_eq!(instance(&again), first);
        assert!(!again.key_is_new());
    }
}

#[tokio::test]
async fn a_change_sends_new_visitors_to_a_new_instance_and_lets_old_ones_finish() {
    let only_one = || AppSpec { max_instances: 1, ..spec("a") };
    let mut world = World::new(quick(), vec![only_one()]);
    let old = world.seat(ClaimKind::HeldPage, None).await.unwrap();
    world.handle.set_apps(vec![Arc::new(AppSpec { revision: Revision(2), ..only_one() })]);
    let new = world.seat(ClaimKind::HeldPage, None).await.unwrap();
    assert_ne!(instance(&old), instance(&new), "one may overlap");
    let same = world.seat(ClaimKind::Held, Some(old.key())).await.unwrap();
    assert_eq!(instance(&same), instance(&old));
    assert!(get(&same).await.is_ok());
    let phases: Vec<InstancePhase> = world.handle.instances().iter().map(|i| i.phase).collect();
    assert_eq!(phases, [InstancePhase::Draining, InstancePhase::Ready]);
    until("the drain is in the journal", || world.kinds().contains(&EventKind::InstanceDraining)).await;
}

#[tokio::test]
async fn a_crash_ends_its_leases_and_the_next_visitor_gets_another_instance() {
    let mut config = quick();
    // After the second crash twice as long: enough for a look at it before it is over, on any machine.
    config.pool.backoff_base = ms(2_500);
    let mut world = World::new(config, vec![spec("a")]);
    let lease = world.seat(ClaimKind::Tunnel, None).await.unwrap();
    world.backend.crash(&lease.upstream().instance).await;
    within("the lease is revoked", lease.revoked()).await;
    let first = world.seat(ClaimKind::Tunnel, None).await.unwrap();
    assert_ne!(instance(&first), instance(&lease), "at once: the first may have been bad luck");
    world.backend.crash(&first.upstream().instance).await;
    within("the lease is revoked", first.revoked()).await;
    let Outcome::Refused(Refusal::StartFailed { summary, last_lines, .. }) = world.ask(ClaimKind::Held, None)
    else {
        panic!("a second crash right after the start backs off")
    };
    assert_eq!(
        (summary.as_str(), last_lines.as_slice()),
        ("killed by signal 11 (SIGSEGV)", &["segfault".to_owned()][..])
    );
    let claim = || world.ask(ClaimKind::Held, None);
    until("the back-off is over", || !matches!(claim(), Outcome::Refused(_))).await;
    let next = world.seat(ClaimKind::Held, None).await.unwrap();
    assert_ne!(instance(&next), instance(&first));
    until("the crash is in the journal", || world.kinds().contains(&EventKind::InstanceCrash)).await;
}

#[tokio::test]
async fn an_instance_lost_with_its_node_is_nothing_to_hold_against_its_app() {
    let mut world = World::new(quick(), vec![spec("a")]);
    // However often its nodes go, right after the start or not.
    for _ in 0..4 {
        let lease = world.seat(ClaimKind::Tunnel, None).await.unwrap();
        world.backend.lose(&lease.upstream().instance).await;
        within("the lease is revoked", lease.revoked()).await;
        assert!(
            !matches!(world.ask(ClaimKind::Held, None), Outcome::Refused(_)),
            "another one is started at once"
        );
    }
    until("the loss is in the journal", || world.kinds().contains(&EventKind::InstanceStop)).await;
    assert!(!world.kinds().contains(&EventKind::InstanceCrash));
}

#[tokio::test]
async fn whoever_lost_an_instance_is_told_why_while_the_next_one_starts() {
    let world = World::new(quick(), vec![AppSpec { per_user: true, ..spec("a") }]);
    let ask = |name: &str| {
        let claim = Claim { principal: user(name), kind: ClaimKind::Page, ..claim("a") };
        let Outcome::Waiting(waiting) = world.handle.claim(claim) else { panic!("it cannot be ready") };
        waiting
    };
    let before = |seat| world.handle.status(&app("a"), Some(seat)).before;
    let first = ask("ada");
    assert_eq!(before(first.key().seat), None);
    let lease = within("a seat", first.granted()).await.unwrap();
    let lost = lease.upstream().instance.clone();
    world.backend.manner("a", Manner { boot: ms(500), ..Manner::default() });
    world.backend.lose(&lost).await;
    within("the lease is revoked", lease.revoked()).await;
    assert_eq!(world.handle.why_ended(&lost).as_deref(), Some("its node sk2 is down"));
    let (next, other) = (ask("ada"), ask("bob"));
    assert_eq!(before(next.key().seat).as_deref(), Some("its node sk2 is down"));
    assert_eq!(before(other.key().seat), None, "it was not his");
    let next = within("the next one", next.granted()).await.unwrap();
    assert_eq!((before(next.key().seat), world.handle.why_ended(&lost)), (None, None));
    // What was asked for needs no explanation.
    world.handle.stop(StopTarget::App(app("a"))).await;
    assert_eq!(before(ask("ada").key().seat), None);
}

#[test]
fn what_an_app_wrote_is_no_part_of_a_cause_for_everybody() {
    let failed = |summary: &str, lines: &[&str]| Refusal::StartFailed {
        summary: summary.to_owned(),
        last_lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        retry_after: ms(1_000),
    };
    let told = |summary: &str, lines: &[&str]| failed(summary, lines).without_log();
    let quoted = told("exited with status 1: no key: hunter2", &["a", "skep: no key: hunter2", "b"]);
    assert_eq!(quoted, failed("exited with status 1", &[]));
    let lines: &[&str] = &["out of things", ""];
    assert_eq!(told("ran out of memory: really", lines), failed("ran out of memory: really", &[]));
    assert_eq!(told("nothing after it: ", lines), failed("nothing after it: ", &[]));
    assert_eq!(Refusal::NoRoom.without_log(), Refusal::NoRoom);
}

#[tokio::test]
async fn a_start_that_is_lost_with_its_node_is_begun_anew_while_visitors_wait() {
    let mut world = World::new(quick(), vec![spec("a")]);
    let lost = BackendError::Lost("its node is down".to_owned());
    world.backend.manner("a", Manner { launch_error: Some(lost), ..Manner::default() });
    let (seat, ()) = tokio::join!(world.seat(ClaimKind::HeldPage, None), async {
        until("it is started again", || world.backend.launches.load(Ordering::Relaxed) >= 3).await;
        world.backend.manner("a", Manner::default());
    });
    let lease = seat.expect("nobody is sent away");
    assert!(get(&lease).await.is_ok());
    until("the losses are in the journal", || world.kinds().contains(&EventKind::InstanceFailed)).await;
    assert!(world.handle.status(&spec("a").id, None).failure.is_none(), "nothing is held against the app");
}

#[tokio::test]
async fn an_exit_while_starting_is_told_with_its_last_lines() {
    let world = World::new(quick(), vec![spec("a")]);
    let manner = Manner { boot: Duration::from_secs(60), exit_after: Some(ms(10)), ..Manner::default() };
    world.backend.manner("a", manner);
    let Err(Refusal::StartFailed { summary, last_lines, .. }) = world.seat(ClaimKind::Held, None).await
    else {
        panic!("not told")
    };
    assert_eq!(summary, "killed by signal 11 (SIGSEGV)");
    assert_eq!(last_lines, ["segfault"]);
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_given_up_and_explained() {
    // Whoever waits may wait for twice as long: a machine that stands still must not get there in one step.
    let start_timeout = ms(3_000);
    let world = World::new(quick(), vec![AppSpec { start_timeout, ..spec("a") }]);
    world.backend.manner("a", Manner { warm_up: Duration::from_secs(60), ..Manner::default() });
    world.backend.lines(&["loading the model", "still loading"]);
    let Err(refusal) = world.seat(ClaimKind::Held, None).await else { panic!("it never answers") };
    assert_eq!(refusal, Refusal::StartTimeout(start_timeout));
    assert_eq!(refusal.status(), 504);
    until("what it wrote is told", || {
        let failure = world.handle.status(&app("a"), None).failure;
        failure.is_none_or(|failure| failure.last_lines.len() == 2)
    })
    .await;
    until("it is stopped", || world.backend.alive().is_empty()).await;
}

#[tokio::test]
async fn repeated_failures_back_off_longer_and_longer() {
    let world = World::new(quick(), vec![spec("a")]);
    let error = BackendError::Platform("no space left on device".into());
    world.backend.manner("a", Manner { launch_error: Some(error), ..Manner::default() });
    let end = tokio::time::Instant::now() + ms(700);
    while tokio::time::Instant::now() < end || world.backend.launches.load(Ordering::Relaxed) < 2 {
        drop(world.seat(ClaimKind::Held, None).await);
        tokio::time::sleep(ms(2)).await;
    }
    // After 50, 150, 350 and 750 ms; a server that starts at every claim would be at hundreds.
    let launches = world.backend.launches.load(Ordering::Relaxed);
    assert!((2..=5).contains(&launches), "{launches} launches");
}

#[tokio::test]
async fn a_wedged_instance_is_replaced_while_its_visitors_are_given_time() {
    let mut config = watchful();
    // Long enough for another one to start meanwhile, on any machine.
    config.pool.wedged_deadline = Duration::from_secs(60);
    let mut world = World::new(config, vec![AppSpec { max_instances: 1, ..spec("a") }]);
    let stuck = world.seat(ClaimKind::HeldPage, None).await.unwrap();
    let id = stuck.upstream().instance.clone();
    world.backend.wedge(&id, true);
    until("another instance is ready", || {
        world.handle.instances().iter().any(|i| i.id != id && i.phase == InstancePhase::Ready)
    })
    .await;
    assert!(world.backend.is_alive(&id), "its visitors are given time");
    let key = stuck.key();
    let reloaded = world.seat(ClaimKind::HeldPage, Some(key.clone())).await.unwrap();
    assert_ne!(reloaded.upstream().instance, id, "who loads the page anew is not sent back");
    assert_eq!(reloaded.key().seat, key.seat);
    within("the old use ends", stuck.revoked()).await;
    until("the wedged one is stopped", || !world.backend.is_alive(&id)).await;
    assert!(world.kinds().contains(&EventKind::InstanceWedged));
}

#[tokio::test]
async fn an_instance_that_was_only_busy_is_taken_back() {
    let mut config = watchful();
    config.pool.wedged_deadline = Duration::from_secs(60);
    let world = World::new(config, vec![AppSpec { max_instances: 1, ..spec("a") }]);
    let lease = world.seat(ClaimKind::HeldPage, None).await.unwrap();
    let id = lease.upstream().instance.clone();
    world.backend.wedge(&id, true);
    let phase = || world.handle.instances().iter().find(|i| i.id == id).map(|i| i.phase);
    until("it is drained", || phase() == Some(InstancePhase::Draining)).await;
    world.backend.wedge(&id, false);
    until("it is ready again", || phase() == Some(InstancePhase::Ready)).await;
    assert!(!lease.is_revoked());
}

#[tokio::test]
async fn what_is_ended_while_it_starts_is_not_started_again_for_a_page_that_waited() {
    let world = World::new(quick(), vec![AppSpec { per_user: true, ..spec("a") }]);
    world.backend.manner("a", Manner { boot: Duration::from_secs(60), ..Manner::default() });
    let claim = Claim { principal: user("ada"), kind: ClaimKind::Page, ..claim("a") };
    let Outcome::Waiting(waiting) = world.handle.claim(claim) else { panic!("it cannot be ready") };
    // The page is loaded; what it waits for goes on without a request.
    drop(waiting);
    let launches = || world.backend.launches.load(Ordering::Relaxed);
    until("it is launched", || launches() == 1).await;
    world.handle.stop(StopTarget::App(app("a"))).await;
    until("it is gone", || world.handle.instances().is_empty()).await;
    tokio::time::sleep(ms(200)).await;
    assert_eq!(launches(), 1);
}

#[tokio::test]
async fn an_instance_nobody_can_ask_is_not_taken_for_dead() {
    let world = World::new(watchful(), vec![AppSpec { max_instances: 1, ..spec("a") }]);
    let lease = world.seat(ClaimKind::HeldPage, None).await.unwrap();
    let id = lease.upstream().instance.clone();
    let before = world.backend.lose_way(&id, true);
    until("it was asked in vain more often than it may miss", || {
        world.backend.lose_way(&id, true) > before + 3
    })
    .await;
    let phase = || world.handle.instances().iter().find(|i| i.id == id).map(|i| i.phase);
    assert_eq!(phase(), Some(InstancePhase::Ready));
    world.backend.wedge(&id, true);
    world.backend.lose_way(&id, false);
    until("what does not answer is noticed again", || phase() == Some(InstancePhase::Draining)).await;
}

#[tokio::test]
async fn a_silent_visitor_loses_the_seat_and_a_lively_one_keeps_it() {
    let patient = AppSpec { inactivity_timeout: Some(ms(10_000)), ..spec("a") };
    let world = World::new(quick(), vec![patient]);
    let silent = world.seat(ClaimKind::Tunnel, None).await.unwrap();
    let lively = world.seat(ClaimKind::Tunnel, None).await.unwrap();
    let stir = async {
        loop {
            lively.touch();
            tokio::time::sleep(ms(20)).await;
        }
    };
    tokio::select! {
        () = within("the silent one is revoked", silent.revoked()) => {}
        () = stir => {}
    }
    assert!(!lively.is_revoked());
    assert_eq!(world.handle.instances()[0].taken, 1);
}

#[tokio::test]
async fn a_restart_of_skep_adopts_instances_and_keeps_their_seats() {
    let one_seat = || vec![AppSpec { seats: 1, max_instances: 1, ..spec("a") }];
    let world = World::new(quick(), one_seat());
    let lease = world.seat(ClaimKind::HeldPage, None).await.unwrap();
    let (key, id) = (lease.key(), lease.upstream().instance.clone());
    let World { backend, handle, task, .. } = world;
    handle.shutdown(false).await;
    within("the driver ends", task.ended()).await;
    assert!(backend.is_alive(&id));
    assert_eq!(backend.noted(&id), [key.seat], "the seat is noted for the successor");
    assert!(matches!(handle.claim(claim("a")), Outcome::Refused(Refusal::ShuttingDown)));

    let mut config = quick();
    // Over only after who has the cookie came back, on any machine.
    config.pool.reservation = ms(3_000);
    let events = backend.reconnect();
    let mut world = World::over(backend, events, config, one_seat());
    // Whoever comes without the cookie waits until the reservation ends.
    let stranger = world.wait(ClaimKind::Held);
    let back = world.seat(ClaimKind::Held, Some(key.clone())).await.unwrap();
    assert_eq!(back.upstream().instance, id);
    assert!(!back.key_is_new());
    assert_eq!(get(&back).await.unwrap(), id.to_string());
    drop(back);
    let lease = within("the stranger gets the seat", stranger.granted()).await.unwrap();
    assert_eq!(lease.upstream().instance, id);
    assert_eq!(world.backend.launches.load(Ordering::Relaxed), 1, "nothing was started twice");
    assert!(world.kinds().contains(&EventKind::InstanceAdopted));
}

#[tokio::test]
async fn a_hand_over_keeps_open_uses_alive_in_both_processes() {
    let old = World::new(quick(), vec![spec("a")]);
    let lease = old.seat(ClaimKind::Tunnel, None).await.unwrap();
    let waiting = old.wait_for_third().await;
    old.handle.drain_for_handover(Duration::from_secs(20)).await;
    let held = within("who waited is served before", waiting.granted()).await.unwrap();
    assert!(matches!(old.handle.claim(claim("a")), Outcome::Refused(Refusal::ShuttingDown)));
    let report = old.handle.open_seats();
    assert_eq!(report.len(), 3);
    let World { backend, handle, task, .. } = old;
    within("the driver ends", task.ended()).await;
    assert_eq!(backend.stops.load(Ordering::Relaxed), 0);

    let events = backend.reconnect();
    let successor = World::over(backend, events, quick(), vec![spec("a")]);
    until("the instances are adopted", || successor.handle.instances().len() == 2).await;
    let foreign: Vec<Lease> = report
        .iter()
        .map(|(key, app, _)| successor.handle.open_foreign(app, key).expect("its instance is alive"))
        .collect();
    let open: u32 = successor.handle.instances().iter().map(|i| i.open).sum();
    assert_eq!(open, 3);
    drop((lease, held));
    assert_eq!(handle.open_seats().len(), 1, "the report shrinks as uses end");
    drop(foreign);
    assert!(successor.handle.open_seats().is_empty());
    let gone = SeatKey { seat: report[0].0.seat, instance: Some("a.00000000000000ff".parse().unwrap()) };
    assert!(successor.handle.open_foreign(&app("a"), &gone).is_none());
}

#[tokio::test]
async fn a_shutdown_may_take_the_apps_along() {
    let world = World::new(quick(), vec![spec("a")]);
    let lease = world.seat(ClaimKind::Tunnel, None).await.unwrap();
    within("everything is stopped", world.handle.shutdown(true)).await;
    assert!(lease.is_revoked());
    assert!(world.backend.alive().is_empty());
    within("the driver ends", world.task.ended()).await;
}

#[tokio::test]
async fn orders_to_stop_and_restart_concern_what_they_name() {
    let world = World::new(quick(), vec![AppSpec { seats: 1, ..spec("a") }, spec("b")]);
    let one = world.seat(ClaimKind::Tunnel, None).await.unwrap();
    let two = world.seat(ClaimKind::Tunnel, None).await.unwrap();
    let target = StopTarget::Instance(one.upstream().instance.clone());
    assert_eq!(within("one is stopped", world.handle.stop(target)).await, 1);
    assert!(one.is_revoked());
    assert!(!two.is_revoked());
    assert_eq!(world.handle.instances().len(), 1);
    assert_eq!(within("b has none", world.handle.stop(StopTarget::App(app("b")))).await, 0);
    let id = two.upstream().instance.clone();
    assert_eq!(world.handle.restart(StopTarget::All).await, 1);
    until("a replacement is ready", || {
        world.handle.instances().iter().any(|i| i.id != id && i.phase == InstancePhase::Ready)
    })
    .await;
    assert!(!two.is_revoked(), "who was there may finish");
    drop(two);
    until("the old one goes with its last visitor", || !world.backend.is_alive(&id)).await;
}

#[tokio::test]
async fn seats_are_kept_warm_and_bots_wake_nothing() {
    let world = World::new(quick(), vec![spec("a")]);
    let cold = world.ask(ClaimKind::WarmOnly, None);
    assert!(matches!(cold, Outcome::Refused(Refusal::Cold)));
    tokio::time::sleep(ms(50)).await;
    assert_eq!(world.backend.launches.load(Ordering::Relaxed), 0);
    world.handle.set_apps(vec![Arc::new(AppSpec { min_seats: 3, ..spec("a") })]);
    let warm = || world.handle.instances().iter().filter(|i| i.phase == InstancePhase::Ready).count();
    until("two instances are warm", || warm() == 2).await;
    let Outcome::Granted(_lease) = world.ask(ClaimKind::WarmOnly, None) else { panic!("a seat is free") };
    let outcome = world.handle.claim(claim("nowhere"));
    assert!(matches!(outcome, Outcome::Refused(Refusal::UnknownApp)));
}

#[tokio::test]
async fn whoever_follows_a_start_is_told_of_changes() {
    let world = World::new(quick(), vec![spec("a")]);
    let manner = Manner { boot: ms(300), ..Manner::default() };
    world.backend.manner("a", manner);
    let waiting = world.wait(ClaimKind::Page);
    let seat = Some(waiting.key().seat);
    let mut seen = Vec::new();
    within("it becomes ready", async {
        loop {
            let status = world.handle.status(&app("a"), seat);
            if seen.last() != Some(&status.stage) {
                seen.push(status.stage);
            }
            if status.stage == skep_launch::Stage::Ready {
                break;
            }
            world.handle.changed(&app("a")).await;
        }
    })
    .await;
    assert!(seen.len() >= 2 && seen.is_sorted(), "{seen:?}");
}

/// A backend that does not answer at first is asked again, and nothing is started meanwhile.
#[tokio::test]
async fn nothing_is_started_before_it_is_known_what_is_alive() {
    let (backend, events) = FakeBackend::new();
    backend.adopt_fails.store(2, Ordering::Relaxed);
    let world = World::over(backend, events, quick(), vec![spec("a")]);
    let waiting = world.wait(ClaimKind::Held);
    tokio::time::sleep(ms(50)).await;
    assert_eq!(world.backend.launches.load(Ordering::Relaxed), 0);
    within("it is served in the end", waiting.granted()).await.unwrap();
}

/// Many visitors on several threads who come, wait, lose patience, stay and return, while instances crash: nobody is
/// left waiting and no seat is left taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_leaves_nothing_behind() {
    const VISITORS: u64 = 48;
    let mut config = quick();
    config.pool.reservation = ms(20);
    config.pool.backoff_base = ms(2);
    config.pool.backoff_cap = ms(10);
    let crowded = AppSpec { max_instances: 3, max_waiting: 30, idle_timeout: ms(40), ..spec("a") };
    let world = World::new(config, vec![crowded]);
    world.backend.manner("a", Manner { boot: ms(2), stop_takes: ms(3), ..Manner::default() });
    let granted = Arc::new(AtomicU32::new(0));
    let crowd: Vec<_> = (0..VISITORS)
        .map(|n| {
            let (handle, granted) = (world.handle.clone(), granted.clone());
            tokio::spawn(async move {
                let mut key = None;
                for visit in 0..60 {
                    let lot = (n * 31 + visit * 17) % 100;
                    let kinds = [ClaimKind::Page, ClaimKind::HeldPage, ClaimKind::Held, ClaimKind::Tunnel];
                    let kind = kinds[usize::try_from(lot % 4).unwrap()];
                    let claim = Claim { key: key.clone(), kind, ..claim("a") };
                    let lease = match handle.claim(claim) {
                        Outcome::Granted(lease) => Some(lease),
                        Outcome::Waiting(waiting) => {
                            let patience = ms(if lot < 30 { lot / 10 } else { 5_000 });
                            let answer = tokio::time::timeout(patience, waiting.granted()).await;
                            answer.ok().and_then(Result::ok)
                        }
                        Outcome::Refused(_) => None,
                    };
                    if let Some(lease) = lease {
                        granted.fetch_add(1, Ordering::Relaxed);
                        key = Some(lease.key()).filter(|_| lot < 80);
                        tokio::time::sleep(ms(lot % 7)).await;
                    }
                    tokio::time::sleep(ms(lot % 3)).await;
                }
            })
        })
        .collect();
    for _ in 0..20 {
        tokio::time::sleep(ms(15)).await;
        if let Some(id) = world.backend.alive().first() {
            world.backend.crash(id).await;
        }
    }
    for visitor in crowd {
        within("a visitor goes home", visitor).await.unwrap();
    }
    until("nobody waits, sits or runs", || {
        let nobody = world.handle.status(&app("a"), None).waiting == 0;
        nobody && world.handle.instances().is_empty() && world.handle.open_seats().is_empty()
    })
    .await;
    let granted = granted.load(Ordering::Relaxed);
    println!("{granted} of {} visits got a seat", VISITORS * 60);
    assert!(granted > 50, "hardly anybody was served: {granted}");
}

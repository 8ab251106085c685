//! The journal while the store fails and recovers.

use std::process::Command;
use std::time::Duration;

use skep_control::ControlConfig;
use skep_model::{Event, EventKind};
use skep_store::Filter;
use tokio::sync::mpsc;

use crate::world::{World, until};

fn event(detail: String) -> Event {
    // A time that retention leaves alone.
    let at_ms = 4_000_000_000_000;
    Event { at_ms, kind: EventKind::InstanceStart, app: None, instance: None, user: None, detail }
}

/// Runs SQL from another process, as whoever damages a store would.
fn sql(world: &World, statement: &str) {
    let program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=60); \
                   c.execute(sys.argv[2]); c.commit(); c.close()";
    let path = world.folder.path().join("skep.db");
    let status = Command::new("python3").args(["-c", program]).arg(path).arg(statement).status().unwrap();
    assert!(status.success(), "{statement}");
}

/// A world with a second recorder of our own; the launcher's is idle.
async fn recording() -> (World, mpsc::Sender<Event>, tokio::task::JoinHandle<()>) {
    let world = World::new(ControlConfig::default(), Vec::new()).await;
    let (events, events_in) = mpsc::channel(1024);
    let task = tokio::spawn(world.control.clone().record(events_in));
    (world, events, task)
}

async fn degraded(world: &World) -> bool {
    world.operate("GET", "/_skep/health/ready").await.json()["state"] == "degraded"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_for_a_store_that_fails_and_nothing_is_lost() {
    let (world, events, task) = recording().await;
    events.send(event("before".into())).await.unwrap();
    let journal = world.store.journal();
    while journal.last_seq().await.unwrap() < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sql(&world, "ALTER TABLE journal RENAME TO hidden");
    for n in 0..2_000 {
        events.send(event(n.to_string())).await.unwrap();
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while !degraded(&world).await {
        assert!(tokio::time::Instant::now() < end, "the failure is not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sql(&world, "ALTER TABLE hidden RENAME TO journal");
    drop(events);
    tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
    let records = journal.after(0, 5_000, &Filter::default()).await.unwrap();
    assert_eq!(records.len(), 2_001);
    assert!(records[1..].iter().map(|r| r.event.detail.clone()).eq((0..2_000).map(|n| n.to_string())));
    assert!(!degraded(&world).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failing_store_costs_is_written_down() {
    let (world, events, task) = recording().await;
    sql(&world, "ALTER TABLE journal RENAME TO hidden");
    for n in 0..12_000 {
        events.send(event(n.to_string())).await.unwrap();
    }
    let lost = || {
        let text = skep_telemetry::install().unwrap().prometheus();
        text.lines().any(|line| line.starts_with("skep_journal_lost_total "))
    };
    until("the buffer to overflow", lost).await;
    until("every event to be taken", || events.capacity() == events.max_capacity()).await;
    sql(&world, "ALTER TABLE hidden RENAME TO journal");
    drop(events);
    tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
    let records = world.store.journal().after(0, 20_000, &Filter::default()).await.unwrap();
    let gap = records.iter().position(|record| record.event.kind == EventKind::Gap).unwrap();
    assert_eq!(gap + 1, records.len(), "the newest were lost");
    assert!(records[..gap].iter().map(|r| r.event.detail.clone()).eq((0..gap).map(|n| n.to_string())));
    assert!(records[gap].event.detail.starts_with(&format!("{} events were lost", 12_000 - gap)));
}

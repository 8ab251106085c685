//! The journal's promises, each checked on both engines.

use std::collections::BTreeSet;

use skep_model::{Event, EventKind};
use skep_store::{Filter, Location, Retention, Store};

use crate::postgres;

pub(crate) fn event(at_ms: i64, detail: &str) -> Event {
    let app = "sales".parse().unwrap();
    let kind = EventKind::InstanceStart;
    Event { at_ms, kind, app: Some(app), instance: None, user: None, detail: detail.to_owned() }
}

/// Runs one test on a fresh store of each engine.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let folder = tempfile::tempdir().unwrap();
                let location = super::Location::Sqlite(folder.path().join("skep.db"));
                let store = super::Store::open(&location).await.unwrap();
                super::$name(store.clone()).await;
                store.close().await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let store = super::Store::open(&super::postgres::database().await).await.unwrap();
                super::$name(store.clone()).await;
                store.close().await;
            })+
        }
    };
}

on_both!(
    what_is_written_is_read,
    filters_select,
    batches_keep_their_order,
    parallel_writers_leave_no_hole_behind_a_reader,
    old_and_surplus_records_go,
    every_kind_survives,
    every_statement_prepares,
);

async fn what_is_written_is_read(store: Store) {
    let journal = store.journal();
    assert_eq!(journal.last_seq().await.unwrap(), 0);
    assert_eq!(journal.append(&[]).await.unwrap(), 0);
    let hostile = "'; DROP TABLE journal; -- \"\\ é \u{1f41d} \n \0 end";
    let written = Event {
        at_ms: 1_790_000_000_123,
        kind: EventKind::InstanceCrash,
        app: Some("sales".parse().unwrap()),
        instance: Some("sales.00000000000000ff".parse().unwrap()),
        user: Some("Ada \"the\" Countess".to_owned()),
        detail: hostile.to_owned(),
    };
    let bare = Event {
        at_ms: -1,
        kind: EventKind::ServerStart,
        app: None,
        instance: None,
        user: None,
        detail: String::new(),
    };
    assert_eq!(journal.append(&[written.clone(), bare.clone()]).await.unwrap(), 2);
    let records = journal.after(0, 10, &Filter::default()).await.unwrap();
    let expected = Event { detail: hostile.replace('\0', "\u{fffd}"), ..written };
    assert_eq!(records.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(records[0].event, expected);
    assert_eq!(records[1].event, bare);
}

async fn filters_select(store: Store) {
    let journal = store.journal();
    let mut events: Vec<Event> = (0..10).map(|n| event(n, "start")).collect();
    events[3].app = Some("stocks".parse().unwrap());
    events[4].kind = EventKind::InstanceReady;
    events[5].user = Some("ada".to_owned());
    journal.append(&events).await.unwrap();
    let seqs = async |filter: Filter| -> Vec<i64> {
        journal.after(2, 100, &filter).await.unwrap().iter().map(|r| r.seq).collect()
    };
    assert_eq!(seqs(Filter::default()).await, [3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(seqs(Filter { app: Some("stocks".to_owned()), ..Filter::default() }).await, [4]);
    assert_eq!(seqs(Filter { kind: Some(EventKind::InstanceReady), ..Filter::default() }).await, [5]);
    assert_eq!(seqs(Filter { user: Some("ada".to_owned()), ..Filter::default() }).await, [6]);
    let both = Filter { app: Some("stocks".to_owned()), user: Some("ada".to_owned()), kind: None };
    assert_eq!(seqs(both).await, [0_i64; 0]);
    let newest = journal.newest(3, &Filter::default()).await.unwrap();
    assert_eq!(newest.iter().map(|r| r.seq).collect::<Vec<_>>(), [8, 9, 10]);
    assert_eq!(journal.after(0, 4, &Filter::default()).await.unwrap().len(), 4);
}

async fn batches_keep_their_order(store: Store) {
    let journal = store.journal();
    for round in 0..3 {
        let events: Vec<Event> = (0..1_000).map(|n| event(n, &format!("{round}/{n}"))).collect();
        assert_eq!(journal.append(&events).await.unwrap(), (round + 1) * 1_000);
    }
    let records = journal.after(0, 10_000, &Filter::default()).await.unwrap();
    let expected = (0..3).flat_map(|round| (0..1_000).map(move |n| format!("{round}/{n}")));
    assert!(records.iter().map(|r| r.event.detail.clone()).eq(expected));
    assert!(records.iter().map(|r| r.seq).eq(1..=3_000));
}

/// Four writers, one reader that resumes after the last number it saw: it must meet every record exactly once.
async fn parallel_writers_leave_no_hole_behind_a_reader(store: Store) {
    const WRITERS: i64 = 4;
    const BATCHES: i64 = 25;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let journal = store.journal();
            tokio::spawn(async move {
                for batch in 0..BATCHES {
                    let name = |n| event(0, &format!("{writer}/{batch}/{n}"));
                    journal.append(&[name(0), name(1), name(2)]).await.unwrap();
                }
            })
        })
        .collect();
    let (mut seen, mut last) = (BTreeSet::new(), 0);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
    while seen.len() < usize::try_from(WRITERS * BATCHES * 3).unwrap() {
        assert!(std::time::Instant::now() < deadline, "only {} records seen", seen.len());
        for record in store.journal().after(last, 7, &Filter::default()).await.unwrap() {
            assert!(record.seq > last);
            last = record.seq;
            assert!(seen.insert(record.event.detail.clone()), "twice: {}", record.event.detail);
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(last, WRITERS * BATCHES * 3, "numbers without a hole");
}

async fn old_and_surplus_records_go(store: Store) {
    let journal = store.journal();
    let events: Vec<Event> = (0..12_000).map(|n| event(n, "x")).collect();
    for chunk in events.chunks(2_000) {
        journal.append(chunk).await.unwrap();
    }
    let keep_all = Retention { not_before_ms: 0, at_most: 1_000_000 };
    assert_eq!(journal.expire(keep_all).await.unwrap(), 0);
    let by_age = Retention { not_before_ms: 11_000, at_most: 1_000_000 };
    assert_eq!(journal.expire(by_age).await.unwrap(), 11_000);
    let by_count = Retention { not_before_ms: 0, at_most: 10 };
    assert_eq!(journal.expire(by_count).await.unwrap(), 990);
    let left = journal.after(0, 100, &Filter::default()).await.unwrap();
    assert!(left.iter().map(|r| r.seq).eq(11_991..=12_000));
    let nothing = Retention { not_before_ms: i64::MAX, at_most: 0 };
    assert_eq!(journal.expire(nothing).await.unwrap(), 10);
    assert_eq!(journal.append(&[event(1, "next")]).await.unwrap(), 12_001, "numbers are never reused");
}

async fn every_statement_prepares(store: Store) {
    store.check().await.unwrap();
}

async fn every_kind_survives(store: Store) {
    use EventKind as K;
    let kinds = [
        K::ServerStart,
        K::ServerStop,
        K::ServerHandover,
        K::ConfigChanged,
        K::ConfigRefused,
        K::Login,
        K::LoginFailed,
        K::Logout,
        K::UserAdded,
        K::UserChanged,
        K::UserRemoved,
        K::GrantAdded,
        K::GrantRemoved,
        K::InstanceStart,
        K::InstanceReady,
        K::InstanceFailed,
        K::InstanceAdopted,
        K::InstanceDraining,
        K::InstanceStop,
        K::InstanceCrash,
        K::InstanceWedged,
        K::Refusal,
        K::Gap,
    ];
    let events: Vec<Event> = kinds.iter().map(|kind| Event { kind: *kind, ..event(0, "") }).collect();
    store.journal().append(&events).await.unwrap();
    let records = store.journal().after(0, 100, &Filter::default()).await.unwrap();
    assert!(records.iter().map(|r| r.event.kind).eq(kinds));
}

//! Leases: one at a time, whoever asks, on both engines.

use std::time::{Duration, Instant};

use skep_store::{Asked, Lease, Location, Store, Tenant};

use crate::postgres;

const LONG: Duration = Duration::from_secs(60);

on_both!(
    one_has_it_until_it_lets_go,
    the_same_owner_takes_over_at_once,
    one_that_ran_out_is_anybodys,
    of_many_that_ask_one_gets_it,
    names_do_not_meet,
);

fn lease(store: &Store, owner: &str, process: &str) -> Lease {
    let text = |text: &str| text.to_owned();
    let tenant = Tenant { owner: text(owner), process: text(process), host: format!("host-of-{owner}") };
    store.lease("launch:skep".to_owned(), tenant)
}

async fn one_has_it_until_it_lets_go(store: Store) {
    let (a, b) = (lease(&store, "a", "1"), lease(&store, "b", "2"));
    assert!(!a.renew(LONG).await.unwrap(), "nobody has it yet");
    assert_eq!(a.take(LONG).await.unwrap(), Asked::Ours);
    let Asked::Held(holder) = b.take(LONG).await.unwrap() else { panic!("two have it") };
    assert_eq!(holder.host, "host-of-a");
    assert!(holder.left <= LONG && holder.left > LONG / 2, "{:?}", holder.left);
    assert!(a.renew(LONG).await.unwrap());
    assert!(!b.renew(LONG).await.unwrap());
    // Nobody lets go of what is another's.
    b.release().await.unwrap();
    assert!(a.renew(LONG).await.unwrap());
    a.release().await.unwrap();
    assert_eq!(b.take(LONG).await.unwrap(), Asked::Ours);
    assert!(!a.renew(LONG).await.unwrap());
}

async fn the_same_owner_takes_over_at_once(store: Store) {
    let (old, new) = (lease(&store, "a", "1"), lease(&store, "a", "2"));
    assert_eq!(old.take(LONG).await.unwrap(), Asked::Ours);
    assert_eq!(new.take(LONG).await.unwrap(), Asked::Ours);
    assert!(!old.renew(LONG).await.unwrap(), "the process of before learns of it");
    old.release().await.unwrap();
    assert!(new.renew(LONG).await.unwrap());
}

async fn one_that_ran_out_is_anybodys(store: Store) {
    let (a, b) = (lease(&store, "a", "1"), lease(&store, "b", "2"));
    let short = Duration::from_millis(300);
    assert_eq!(a.take(short).await.unwrap(), Asked::Ours);
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(60);
    while b.take(LONG).await.unwrap() != Asked::Ours {
        assert!(Instant::now() < deadline, "it never runs out");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!a.renew(LONG).await.unwrap());
    b.release().await.unwrap();
    // Run out, and nobody took it: still the holder's.
    assert_eq!(a.take(Duration::ZERO).await.unwrap(), Asked::Ours);
    assert!(a.renew(LONG).await.unwrap());
    assert!(matches!(b.take(LONG).await.unwrap(), Asked::Held(_)));
}

async fn of_many_that_ask_one_gets_it(store: Store) {
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let lease = lease(&store, &format!("o{n}"), &format!("p{n}"));
            tokio::spawn(async move { lease.take(LONG).await.unwrap() == Asked::Ours })
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        winners += u32::from(task.await.unwrap());
    }
    assert_eq!(winners, 1);
}

async fn names_do_not_meet(store: Store) {
    let tenant = |owner: &str| Tenant { owner: owner.into(), process: owner.into(), host: owner.into() };
    for name in ["launch:a", "launch:b"] {
        assert_eq!(store.lease(name.to_owned(), tenant(name)).take(LONG).await.unwrap(), Asked::Ours);
    }
}

//! What only concerns the file.

use std::time::Duration;

use skep_store::{Engine, Filter, Location, Store};

use crate::journal::event;

#[tokio::test]
async fn a_store_opens_again_with_what_it_held() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Sqlite(folder.path().join("deep/er/skep.db"));
    let store = Store::open(&location).await.unwrap();
    assert_eq!(store.engine(), Engine::Sqlite);
    store.journal().append(&[event(1, "one"), event(2, "two")]).await.unwrap();
    store.close().await;
    let store = Store::open(&location).await.unwrap();
    let records = store.journal().after(0, 10, &Filter::default()).await.unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(store.journal().append(&[event(3, "three")]).await.unwrap(), 3);
    store.close().await;
}

#[tokio::test]
async fn reading_goes_on_while_another_process_writes() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Sqlite(folder.path().join("skep.db"));
    let (one, two) = (Store::open(&location).await.unwrap(), Store::open(&location).await.unwrap());
    let write = async {
        for n in 0..50 {
            one.journal().append(&[event(n, "one")]).await.unwrap();
            two.journal().append(&[event(n, "two")]).await.unwrap();
        }
    };
    let read = async {
        let mut seen = 0;
        while seen < 100 {
            let last = one.journal().last_seq().await.unwrap();
            assert!(last >= seen);
            seen = last;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), async { tokio::join!(write, read) }).await.unwrap();
}

#[tokio::test]
async fn what_is_no_database_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "this is a text, not a database, and it is long enough to be looked at").unwrap();
    let problem = Store::open(&Location::Sqlite(path.clone())).await.unwrap_err();
    assert!(problem.to_string().contains("notes.txt"), "{problem}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is a text"));
}

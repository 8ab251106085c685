//! The way to PostgreSQL is encrypted, and the server proves who it is where that is asked for.

use skep_store::{Location, Store};
use sqlx::{Connection, Row};

use crate::postgres;

async fn open(url: &str) -> Result<Store, skep_store::StoreError> {
    Store::open(&url.parse::<Location>().unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_over_tls_knows_its_server() {
    let (url, authority) = postgres::tls_database().await;
    let authority = authority.display();
    let verified = format!("{url}?sslmode=verify-full&sslrootcert={authority}");
    let mut plain = postgres::connect(&verified).await;
    let row = sqlx::query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    assert!(row.fetch_one(&mut plain).await.unwrap().get::<bool, _>("ssl"));
    plain.close().await.unwrap();

    for mode in [format!("verify-full&sslrootcert={authority}"), "require".to_owned(), "disable".to_owned()] {
        let store = open(&format!("{url}?sslmode={mode}")).await.unwrap_or_else(|e| panic!("{mode}: {e}"));
        store.check().await.unwrap();
        store.close().await;
    }
    // Nobody vouches for it.
    let stranger = open(&format!("{url}?sslmode=verify-full")).await.unwrap_err();
    assert!(stranger.to_string().to_lowercase().contains("certificate"), "{stranger}");
    // Somebody does, under another name.
    let elsewhere = verified.replace("@localhost:", "@127.0.0.1:");
    let misnamed = open(&elsewhere).await.unwrap_err();
    assert!(misnamed.to_string().to_lowercase().contains("certificate"), "{misnamed}");
}

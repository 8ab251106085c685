//! A front whose disk is full or broken: clear refusals, nothing acknowledged that is lost. The shipped program runs
//! with a small library before the C library (`bad_disk.c`) that makes writes and syncs fail as such a disk would.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ballot::client::Client;
use ballot::load;
use ballot::store::Database;
use http::StatusCode;

use crate::app::{Browser, code, get, until};
use crate::deployment::{Deployment, poll};

fn library(dir: &Path) -> PathBuf {
    let (source, built) =
        (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/bad_disk.c"), dir.join("bad_disk.so"));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let done = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", source, "-ldl", "-o"])
        .arg(&built)
        .status();
    assert!(done.is_ok_and(|s| s.success()), "{compiler} builds {source}");
    built
}

/// Starts the front again, on a bad disk.
fn spoil(deployment: &mut Deployment, more: &[(&'static str, String)]) {
    let library = library(deployment.dir.path()).display().to_string();
    let disk = deployment.path("front-0");
    let front = &mut deployment.fronts[0];
    front.kill();
    front.settings = [&[("LD_PRELOAD", library), ("BAD_DISK", disk)], more].concat();
    front.revive();
}

async fn health(client: &Client) -> (StatusCode, String) {
    match client.send(http::Method::GET, "/health", &[], bytes::Bytes::new()).await {
        Ok(answer) => (answer.status, answer.text()),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()),
    }
}

async fn probe(deployment: &Deployment) -> (u16, String) {
    let mut browser = Browser::open(deployment.client(0), "probe").await;
    code(&browser.vote("probe", "cats").await)
}

/// Near the end there may be room for one ballot and not for several at once: who asks then may still be served.
async fn is_full(deployment: &Deployment) -> bool {
    let (status, why) = health(&deployment.client(0)).await;
    status == StatusCode::SERVICE_UNAVAILABLE
        && why.contains("no room left for ballots")
        && probe(deployment).await == (503, "disk_full".into())
}

fn voting(deployment: &Deployment, voters: u64, pause: Duration) -> tokio::task::JoinHandle<load::Report> {
    let plan = load::Plan {
        pause,
        connections: 16,
        deadline: Duration::from_secs(600),
        ..deployment.plan(voters, voters)
    };
    tokio::spawn(load::run(plan, Some(deployment.keys())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_clear_refusal_before_anything_is_lost() {
    const SEGMENT: u64 = 64 << 10;
    let mut deployment = Deployment::with_segments(1, 1, SEGMENT).await;
    spoil(&mut deployment, &[("BAD_DISK_BYTES", (4 * SEGMENT + 2_000).to_string())]);
    deployment.ready(&deployment.addresses[0].clone()).await;
    // Nobody takes ballots away.
    deployment.workers[0].kill();
    let voters = 8_000;
    let voting = voting(&deployment, voters, Duration::ZERO);
    let client = deployment.client(0);
    until("the disk is full", async || is_full(&deployment).await).await;
    // The power goes, the disk is still full: the front comes back, keeps what it has, and says the same.
    deployment.fronts[0].kill();
    deployment.fronts[0].revive();
    until("the disk is full after a restart", async || is_full(&deployment).await).await;

    // New polls have no room either, and must not keep a worker from making some.
    let polls: Vec<String> = (0..30).map(|i| poll(&format!("more-{i}"))).collect();
    let file = deployment.path("polls.toml");
    let old = std::fs::read_to_string(&file).expect("polls");
    std::fs::write(&file, old + &polls.concat()).expect("polls");
    deployment.workers[0].revive();
    let report = voting.await.expect("voting");
    assert_eq!(report.acknowledged, voters, "all got through in the end: {:?}", report.failures);
    assert!(report.failures.get("503").is_some_and(|n| *n > 0), "{:?}", report.failures);
    let verdict = deployment.judge(&report).await;
    assert!(verdict.is_sound() && verdict.voters == voters, "{verdict:?}");
    until("there is room again", async || health(&client).await.0 == StatusCode::OK).await;
    until("the polls have arrived", async || get(&client, "/polls/more-29").await.status == StatusCode::OK)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_acknowledging_for_good() {
    let mut deployment = Deployment::start(1, 1).await;
    let sign = PathBuf::from(deployment.path("broken"));
    spoil(&mut deployment, &[("BAD_DISK_ERROR", sign.display().to_string())]);
    deployment.ready(&deployment.addresses[0].clone()).await;
    let voters = 4_000;
    // They must not be through before the disk breaks.
    let voting = voting(&deployment, voters, Duration::from_millis(60));
    let database = Database::open(&deployment.url).await.expect("opens");
    until("some are counted", async || {
        database.logs().await.expect("logs").iter().map(|l| l.position).sum::<u64>() > 300
    })
    .await;
    assert_eq!(probe(&deployment).await.0, 201);
    std::fs::write(&sign, "").expect("breaks the disk");
    assert_eq!(probe(&deployment).await, (503, "log_failed".into()));
    // The disk works again. What it did with the writes before is unknown, so the front does not trust it.
    std::fs::remove_file(&sign).expect("mends the disk");
    for _ in 0..20 {
        assert_eq!(probe(&deployment).await, (503, "log_failed".into()));
    }
    let (status, why) = health(&deployment.client(0)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(why.contains("cannot sync") && why.contains("until it is restarted"), "{why}");
    deployment.fronts[0].kill();
    deployment.fronts[0].revive();
    deployment.ready(&deployment.addresses[0].clone()).await;
    assert_eq!(probe(&deployment).await.0, 201);
    let report = voting.await.expect("voting");
    assert_eq!(report.acknowledged, voters, "{:?}", report.failures);
    assert!(report.failures.get("503").is_some_and(|n| *n > 0), "{:?}", report.failures);
    let verdict = deployment.judge(&report).await;
    assert!(verdict.is_sound() && verdict.voters == voters, "{verdict:?}");
}

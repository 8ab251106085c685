//! Real processes, a real PostgreSQL, and `kill -9`: three fronts and two workers are killed at random while voters vote;
//! so is the database. The checker then compares every answer with the count.
//!
//! 100,000 votes by default; `BALLOT_VOTES=1000000` for a million.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ballot::load;
use ballot::store::Database;

use crate::app::until;
use crate::deployment::{Deployment, Process};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_while_everything_is_killed() {
    let votes: u64 = std::env::var("BALLOT_VOTES").ok().and_then(|v| v.parse().ok()).unwrap_or(100_000);
    let mut deployment = Deployment::start(3, 2).await;
    let plan = deployment.plan(votes * 9 / 10, votes);
    let keys = deployment.keys();
    let over = Arc::new(AtomicBool::new(false));
    let voting = {
        let over = Arc::clone(&over);
        tokio::spawn(async move {
            let report = load::run(plan, Some(keys)).await;
            over.store(true, Ordering::Release);
            report
        })
    };
    let (mut kills, mut turn) = ([0u32; 3], 0u64);
    while !over.load(Ordering::Acquire) {
        // Not random numbers but an uneven rhythm: what a kill hits is random enough.
        turn += 1;
        tokio::time::sleep(Duration::from_millis(300 + turn * 137 % 700)).await;
        let pick = usize::try_from(turn * 7 / 3).expect("small");
        match turn % 5 {
            0 => {
                deployment.postgres.kill();
                tokio::time::sleep(Duration::from_millis(200)).await;
                deployment.postgres.revive().await;
                kills[2] += 1;
            }
            1 | 3 => {
                let front = &mut deployment.fronts[pick % 3];
                front.kill();
                tokio::time::sleep(Duration::from_millis(100)).await;
                front.revive();
                kills[0] += 1;
            }
            _ => {
                let worker = &mut deployment.workers[pick % 2];
                worker.kill();
                worker.revive();
                kills[1] += 1;
            }
        }
    }
    let report = voting.await.expect("voting");
    deployment.fronts.iter_mut().chain(&mut deployment.workers).for_each(Process::keep_up);
    assert_eq!(report.acknowledged, votes, "every voter got through: {:?}", report.failures);
    let verdict = deployment.judge(&report).await;
    println!(
        "{votes} votes in {:.1} s, killed {} fronts, {} workers, the database {} times; failures {:?}; {verdict:?}",
        report.seconds, kills[0], kills[1], kills[2], report.failures
    );
    assert!(verdict.is_sound(), "{verdict:?}");
    assert_eq!(verdict.voters, votes * 9 / 10);
    if votes >= 100_000 {
        assert!(kills.iter().all(|k| *k > 0), "something of each kind was killed: {kills:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_is_drained_before_it_goes_and_a_stranded_log_is_adopted() {
    let mut deployment = Deployment::start(2, 1).await;
    let report = load::run(deployment.plan(400, 500), Some(deployment.keys())).await;
    assert_eq!(report.acknowledged, 500);
    assert!(deployment.fronts[1].ask_to_end(), "a front that is asked to end drains and succeeds");
    let database = Database::open(&deployment.url).await.expect("opens");
    let logs = database.logs().await.expect("logs");
    let gone = logs.iter().find(|l| l.front == "front-1").expect("its log");
    assert_eq!((gone.position, gone.settled), (gone.seen_end, ballot::source::SEALED), "{gone:?}");

    // Workers are away when front-0 dies with ballots on its disk.
    deployment.workers[0].kill();
    let before = report;
    deployment.addresses.truncate(1);
    let mut more = load::run(deployment.plan(200, 200), Some(deployment.keys())).await;
    assert_eq!(more.acknowledged, 200);
    deployment.fronts[0].kill();
    // Another front is started on the same volume. It finds the first slot free, takes it as its own, and serves it; to
    // see adoption, the slot is sealed first, as a third front on the volume would have done.
    let slot = deployment.dir.path().join("front-0/logs/slot-0000");
    std::fs::write(slot.join("sealed"), "").expect("seals");
    deployment.fronts[0].revive();
    deployment.workers[0].revive();
    let address = deployment.addresses[0].clone();
    deployment.ready(&address).await;
    more.histories.extend(before.histories);
    more.acknowledged += before.acknowledged;
    let verdict = deployment.judge(&more).await;
    assert!(verdict.is_sound(), "{verdict:?}");
    until("the adopted slot is finished and removed", async || !slot.exists()).await;
    assert!(deployment.dir.path().join("front-0/logs/slot-0001").exists());
}

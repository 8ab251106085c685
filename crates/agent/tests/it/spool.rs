//! Spools that are full, by their bound or because the disk is.

use serde_json::json;
use skep_agent::NodeEvent;
use tempfile::TempDir;

use crate::outage::{collect, is_name, rename};
use crate::stage::{Process, Server, container, desk_config, engine, install, many_events, swarm};

/// Lets so many events happen while there is no server, and answers what one hears that comes then.
async fn after_an_outage(
    start: impl Fn(std::net::SocketAddr, &TempDir) -> Process,
    happen: usize,
) -> Vec<NodeEvent> {
    let _alone = many_events().await;
    let (_, node) = swarm();
    let install = install();
    let server = Server::start(desk_config(&install)).await;
    let (address, spool) = (server.address, TempDir::new().unwrap());
    let _agent = start(address, &spool);
    server.sees(node).await;
    let id = container(&engine(), Some(&install), "sleep 600", &json!({})).await;
    let mut events = server.desk.events();
    let mut seen = Vec::new();
    collect(&mut events, &mut seen, |event| event.container == id && event.action == "start").await;
    let renaming = |name: String| {
        let begun = std::time::Instant::now();
        rename(&id, &name);
        begun.elapsed()
    };
    let mut usual: Vec<_> = (0..15).map(|number| renaming(format!("{install}-before-{number}"))).collect();
    usual.sort_unstable();
    server.stop().await;

    // A reader that were held up would hold the engine up in turn: each of these calls would take 100 ms more. A slow disk
    // makes some of them slow, too.
    let most = usual[7] + std::time::Duration::from_millis(90);
    let quick = (0..happen).filter(|number| renaming(format!("{install}-{number}")) < most);
    let quick = quick.count();
    assert!(quick > happen / 20, "{quick} of {happen}");

    let server = Server::start_at(desk_config(&install), address).await;
    let mut events = server.desk.events();
    let last = format!("{install}-{}", happen - 1);
    collect(&mut events, &mut seen, |event| is_name(event, &last)).await;
    seen.sort_by_key(|event| event.seq);
    seen.dedup();
    seen
}

/// Every number is accounted for: an event, or part of a gap that says how many.
fn lost(seen: &[NodeEvent]) -> u64 {
    let mut lost = 0;
    for pair in seen.windows(2) {
        let told = if pair[1].is_gap() { pair[1].attributes["lost"].parse::<u64>().unwrap() } else { 1 };
        assert_eq!(pair[0].seq + told, pair[1].seq, "{pair:?}");
        lost += if pair[1].is_gap() { told } else { 0 };
    }
    lost
}

#[tokio::test]
async fn beyond_its_bound_the_oldest_events_go_and_a_gap_says_how_many() {
    let bytes = 40_000;
    let seen = after_an_outage(|server, spool| Process::start(server, spool.path(), bytes), 400).await;
    let lost = lost(&seen);
    assert!((100..400).contains(&lost), "{lost} of {}", seen.len());
}

#[tokio::test]
async fn a_full_disk_costs_the_oldest_events_and_holds_nobody_up() {
    let disk = 64 * 1024;
    let seen =
        after_an_outage(|server, spool| Process::start_on_small_disk(server, spool.path(), disk), 600).await;
    let lost = lost(&seen);
    assert!(lost < 600, "{lost}");
    assert!(seen.iter().filter(|event| event.action == "rename").count() > 50, "{}", seen.len());
}

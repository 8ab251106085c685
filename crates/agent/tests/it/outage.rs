//! Servers and agents that go away and come back.

use std::time::{Duration, Instant};

use serde_json::json;
use skep_agent::{Agent, DeskConfig, NodeEvent};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::daemon::{daemon, until};
use crate::stage::{
    Process, Server, Stage, agent_config, container, desk_config, engine, install, many_events, swarm,
};

/// Longer than any test.
const PATIENCE: Duration = Duration::from_secs(600);

/// Gives a container another name; the engine makes an event of it. Cheaper than to start one.
pub(crate) fn rename(id: &str, name: &str) {
    let (status, said) =
        daemon().ask("POST", &format!("/containers/{id}/rename?name={name}"), &[], Vec::new());
    assert_eq!(status, 204, "{said}");
}

/// Takes events until one says this.
pub(crate) async fn collect(
    events: &mut mpsc::Receiver<NodeEvent>,
    seen: &mut Vec<NodeEvent>,
    mut enough: impl FnMut(&NodeEvent) -> bool,
) {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(90), events.recv()).await;
        let event = next.unwrap_or_else(|_| panic!("no more events after {:?}", seen.last())).unwrap();
        let last = enough(&event);
        seen.push(event);
        if last {
            return;
        }
    }
}

pub(crate) fn is_name(event: &NodeEvent, name: &str) -> bool {
    event.action == "rename"
        && event.attributes.get("name").is_some_and(|now| now.trim_start_matches('/') == name)
}

/// Numbers without a hole, none twice.
fn assert_whole(seen: &[NodeEvent]) {
    for pair in seen.windows(2) {
        assert_eq!(pair[0].seq + 1, pair[1].seq, "{pair:?}");
        assert_eq!(pair[0].spool, pair[1].spool);
    }
    assert!(!seen.iter().any(NodeEvent::is_gap), "{seen:?}");
}

#[tokio::test]
async fn events_come_in_order_with_what_is_worth_knowing() {
    // Whoever subscribes late is told what the engine remembers.
    let _alone = many_events().await;
    let stage = Stage::new().await;
    let mut events = stage.desk().events();
    let id = stage.container("exit 4").await;
    let foreign = container(&stage.engine, Some("another-installation"), "exit 5", &json!({})).await;
    until("it has ended", async || {
        let found = stage.engine.inspect_container(&id).await.unwrap().unwrap();
        (!found.state().running).then_some(())
    })
    .await;
    stage.engine.remove_container(&foreign).await.unwrap();
    stage.engine.remove_container(&id).await.unwrap();
    let mut seen = Vec::new();
    collect(&mut events, &mut seen, |event| event.container == id && event.action == "destroy").await;
    assert_whole(&seen);
    let actions: Vec<&str> =
        seen.iter().filter(|event| event.container == id).map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["create", "start", "die", "destroy"]);
    let die = seen.iter().find(|event| event.container == id && event.action == "die").unwrap();
    assert_eq!(die.attributes.get("exitCode").map(String::as_str), Some("4"));
    assert_eq!(die.node, stage.node);
    assert!(die.time_ns > 0);
    assert!(!seen.iter().any(|event| event.container == foreign), "another installation's");
}

#[tokio::test]
async fn a_server_that_is_started_anew_is_found_again() {
    let (_, node) = swarm();
    let install = install();
    let server = Server::start(desk_config(&install)).await;
    let address = server.address;
    let spool = TempDir::new().unwrap();
    let _agent = Process::start(address, spool.path(), 1 << 20);
    server.sees(node).await;
    let id = container(&engine(), Some(&install), "nc -ll -p 9000 -e cat", &json!({})).await;
    let mut open = until("the port is open", async || server.desk.dial(node, &id, 9000).await.ok()).await;
    server.stop().await;

    // What was open lives on: only the server's end of new lines is gone.
    open.write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    open.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"still");

    let begun = Instant::now();
    let server = Server::start_at(desk_config(&install), address).await;
    let again = until("the port is reached again", async || server.desk.dial(node, &id, 9000).await.ok());
    let mut stream = again.await;
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    stream.write_all(b"again").await.unwrap();
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"again");
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_is_noticed_and_its_successor_welcome() {
    let (_, node) = swarm();
    let server = Server::start(desk_config(&install())).await;
    let spool = TempDir::new().unwrap();
    let agent = Process::start(server.address, spool.path(), 1 << 20);
    server.sees(node).await;
    agent.kill();
    let noticed = server.loses(node).await;
    // By its end, not by its silence.
    assert!(noticed < Duration::from_secs(10), "{noticed:?}");
    let error = server.desk.inspect(node, &"0".repeat(64)).await.unwrap_err();
    assert!(matches!(error, skep_agent::AgentError::NoAgent { .. }), "{error}");
    let _agent = Process::start(server.address, spool.path(), 1 << 20);
    server.sees(node).await;
    assert_eq!(server.desk.inspect(node, &"0".repeat(64)).await.unwrap(), None);
}

#[tokio::test]
async fn calls_to_a_node_that_is_given_up_end_at_once_and_it_may_come_back() {
    let (_, node) = swarm();
    let install = install();
    let server = Server::start(DeskConfig { line_within: PATIENCE, ..desk_config(&install) }).await;
    let spool = TempDir::new().unwrap();
    let agent = Process::start(server.address, spool.path(), 1 << 20);
    server.sees(node).await;
    let id = container(&engine(), Some(&install), "nc -ll -p 9000 -e cat", &json!({})).await;
    until("the port is open", async || server.desk.dial(node, &id, 9000).await.ok()).await;
    agent.pause(true);
    // More than there are lines: some are asked, the others wait for a line.
    let dials: Vec<_> = (0..200)
        .map(|_| {
            let (desk, id) = (server.desk.clone(), id.clone());
            tokio::spawn(async move { desk.dial(node, &id, 9000).await.map(drop) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(dials.iter().all(|dial| !dial.is_finished()));
    // As the server does at each look, so that none is missed that was slow to begin. Counted, not timed: while the test
    // itself is held up nothing can end.
    let mut looks = 0;
    while !dials.iter().all(|dial| dial.is_finished()) {
        server.desk.give_up(node);
        tokio::time::sleep(Duration::from_millis(20)).await;
        looks += 1;
    }
    for dial in dials {
        let error = dial.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), format!("node {node} fell silent and was given up"));
    }
    assert!(looks < 200, "before the limit of a dial, four seconds' worth: {looks}");
    agent.pause(false);
    until("its port is reached again", async || server.desk.dial(node, &id, 9000).await.ok()).await;
}

#[tokio::test]
async fn an_agent_that_is_told_to_stop_takes_nothing_new_and_ends_what_it_has() {
    let (_, node) = swarm();
    let install = install();
    let server = Server::start(desk_config(&install)).await;
    let mut config = agent_config(server.address);
    config.grace = Duration::from_secs(300);
    let stopping = CancellationToken::new();
    let cancelled = stopping.clone();
    let mut agent = tokio::spawn(async move { Agent::new(config).run(cancelled).await });
    server.sees(node).await;
    let _events = server.desk.events();
    let id = container(&engine(), Some(&install), "nc -ll -p 9000 -e cat", &json!({})).await;
    let mut open = until("the port is open", async || server.desk.dial(node, &id, 9000).await.ok()).await;
    stopping.cancel();
    server.loses(node).await;
    open.write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    open.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"still");
    assert!(!agent.is_finished());
    drop(open);
    let ended = tokio::time::timeout(Duration::from_secs(90), &mut agent).await;
    ended.expect("it ends with its last call").unwrap().unwrap();
}

#[tokio::test]
async fn no_event_is_lost_or_told_twice_while_servers_and_agents_go_and_come() {
    let _alone = many_events().await;
    let (_, node) = swarm();
    let install = install();
    let server = Server::start(desk_config(&install)).await;
    let (address, spool) = (server.address, TempDir::new().unwrap());
    let agent = Process::start(address, spool.path(), 1 << 20);
    server.sees(node).await;
    let mut events = server.desk.events();
    let id = container(&engine(), Some(&install), "sleep 600", &json!({})).await;
    let name = |number: usize| format!("{install}-{number}");
    let mut seen = Vec::new();
    (0..20).for_each(|number| rename(&id, &name(number)));
    collect(&mut events, &mut seen, |event| is_name(event, &name(19))).await;

    // No server.
    server.stop().await;
    (20..60).for_each(|number| rename(&id, &name(number)));
    // Nor an agent; the engine remembers what happens meanwhile.
    agent.kill();
    (60..80).for_each(|number| rename(&id, &name(number)));
    let agent = Process::start(address, spool.path(), 1 << 20);
    let server = Server::start_at(desk_config(&install), address).await;
    let mut events = server.desk.events();
    (80..100).for_each(|number| rename(&id, &name(number)));
    collect(&mut events, &mut seen, |event| is_name(event, &name(99))).await;

    // The agent is killed in the midst of it, the server stays.
    (100..110).for_each(|number| rename(&id, &name(number)));
    agent.kill();
    (110..120).for_each(|number| rename(&id, &name(number)));
    let _agent = Process::start(address, spool.path(), 1 << 20);
    collect(&mut events, &mut seen, |event| is_name(event, &name(119))).await;

    // A server started anew may hear again what the other one had not acknowledged yet; by number it is once each.
    seen.sort_by_key(|event| event.seq);
    seen.dedup();
    assert_whole(&seen);
    let mut names: Vec<usize> = seen
        .iter()
        .filter(|event| event.container == id && event.action == "rename")
        .map(|event| event.attributes["name"].rsplit('-').next().unwrap().parse().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, (0..120).collect::<Vec<_>>());
}

//! Is an agent who it says it is? Asked of the Swarm's managers.

use std::time::Duration;

use skep_docker::{Document, Kind};
use tokio::time::timeout;

use super::DeskConfig;
use crate::wire::{Refusal, RefusalCode};

/// For all that is asked about one agent.
const CHECKED_WITHIN: Duration = Duration::from_secs(8);
/// The label of the service whose tasks are agents.
pub(super) const AGENT_LABEL: &str = "skep.agent";

pub(super) async fn check(config: &DeskConfig, node: &str, task: Option<&str>) -> Result<(), Refusal> {
    let late = || {
        let why = format!("no manager of the Swarm has told all about the agent within {CHECKED_WITHIN:?}");
        Err(Refusal::new(RefusalCode::Unchecked, why))
    };
    timeout(CHECKED_WITHIN, look(config, node, task)).await.unwrap_or_else(|_| late())
}

async fn look(config: &DeskConfig, node: &str, task: Option<&str>) -> Result<(), Refusal> {
    let refuse = |code, why: String| Err(Refusal::new(code, why));
    let plain = |id: &str| (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if !plain(node) || task.is_some_and(|task| !plain(task)) {
        return refuse(RefusalCode::BadRequest, "that is no id of a node or task".to_owned());
    }
    let Some(found) = find(config, Kind::Node, node).await? else {
        return refuse(RefusalCode::UnknownNode, format!("the Swarm has no node {node}"));
    };
    // By its id, not by a name that could be another one's.
    if found.id() != node {
        return refuse(RefusalCode::UnknownNode, format!("the Swarm has no node of id {node}"));
    }
    if found.text("/Status/State") == Some("down") {
        return refuse(RefusalCode::NodeDown, format!("the Swarm takes node {node} for down"));
    }
    let Some(task) = task else {
        if config.host_agents {
            return Ok(());
        }
        let why = "the agent runs as no Swarm task; run it as the global service of docs/swarm.md, or allow agents on \
                   the host (`[swarm] host_agents = true`)";
        return refuse(RefusalCode::NoTask, why.to_owned());
    };
    let Some(found) = find(config, Kind::Task, task).await?.filter(|found| found.id() == task) else {
        return refuse(RefusalCode::UnknownTask, format!("the Swarm has no task {task}"));
    };
    if found.text("/NodeID") != Some(node) {
        return refuse(RefusalCode::TaskElsewhere, format!("task {task} is not on node {node}"));
    }
    let ended = ["complete", "failed", "rejected", "shutdown", "orphaned", "remove"];
    let over = found.text("/Status/State").is_some_and(|state| ended.contains(&state));
    if found.text("/DesiredState") != Some("running") || over {
        return refuse(RefusalCode::TaskEnded, format!("task {task} is to run no more"));
    }
    let service = found.text("/ServiceID").unwrap_or_default();
    let service = if service.is_empty() { None } else { find(config, Kind::Service, service).await? };
    if service.as_ref().and_then(|service| service.label(AGENT_LABEL)) != Some("true") {
        let why = format!("the service of task {task} has no label {AGENT_LABEL}=true: it is no agent's");
        return refuse(RefusalCode::NotAnAgent, why);
    }
    Ok(())
}

async fn find(config: &DeskConfig, kind: Kind, id: &str) -> Result<Option<Document>, Refusal> {
    let found = config.managers.ask(|engine| async move { engine.inspect(kind, id).await }).await;
    found.map_err(|error| {
        Refusal::new(RefusalCode::Unchecked, format!("no manager of the Swarm can be asked: {error}"))
    })
}

//! What the managers say of a task, and what that means for a visitor who waits for it. Pure.

use std::cmp::Reverse;

use jiff::Timestamp;
use skep_docker::Document;
use skep_launch::{BackendError, Stage};
use skep_model::Image;

use crate::container::app_error;
use crate::container::words::{does_not_start, full_disk};

/// One task, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) service: String,
    pub(super) node: Option<String>,
    /// `new`, `pending`, …, `running`, `failed`, or something newer.
    pub(super) state: String,
    pub(super) desired: String,
    /// What went wrong, or what it waits for.
    pub(super) error: Option<String>,
    pub(super) container: Option<String>,
    pub(super) exit_code: Option<i64>,
    created: Option<Timestamp>,
}

impl Task {
    pub(super) fn of(task: &Document) -> Self {
        let text = |pointer: &str| task.text(pointer).filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            id: task.id().to_owned(),
            service: text("/ServiceID").unwrap_or_default(),
            node: text("/NodeID"),
            state: text("/Status/State").unwrap_or_default(),
            desired: text("/DesiredState").unwrap_or_default(),
            error: text("/Status/Err"),
            container: text("/Status/ContainerStatus/ContainerID"),
            exit_code: task.number("/Status/ContainerStatus/ExitCode"),
            created: task.text("/CreatedAt").and_then(|time| time.parse().ok()),
        }
    }

    /// The newest of the tasks of a service.
    pub(super) fn newest<'a>(tasks: &'a [Self], service: &str) -> Option<&'a Self> {
        let of_it = tasks.iter().filter(|task| task.service == service);
        of_it.min_by_key(|task| Reverse((task.created, task.id.clone())))
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// Nothing more becomes of it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "complete" | "failed" | "rejected" | "shutdown" | "orphaned" | "remove")
    }

    /// Rather than because the Swarm wanted it to.
    pub(super) fn ended_by_itself(&self) -> bool {
        matches!(self.state.as_str(), "complete" | "failed" | "rejected")
    }

    /// The Swarm wants it to end, which it does of its own when the task's program did not end before.
    pub(super) fn is_unwanted(&self) -> bool {
        matches!(self.desired.as_str(), "shutdown" | "remove")
            && !matches!(self.state.as_str(), "failed" | "complete")
    }

    /// The scheduler has not even looked at it.
    pub(super) fn is_unseen(&self) -> bool {
        matches!(self.state.as_str(), "" | "new" | "allocated")
    }

    /// Its node's engine has the network from before it was restarted, and refuses to make it again.
    pub(super) fn meets_left_over(&self, network: &str) -> bool {
        let said = format!("network {network} exists");
        self.state == "rejected" && self.error.as_ref().is_some_and(|error| error.contains(&said))
    }

    /// What a visitor is told while it comes up. `host` is its node's name; `long`: it has been in this state for a while.
    pub(super) fn progress(&self, host: &str, long: bool) -> Option<(Stage, String)> {
        Some(match self.state.as_str() {
            "" | "new" | "allocated" => (Stage::Start, "ordering it from the Swarm".to_owned()),
            "pending" => match &self.error {
                Some(error) => (Stage::Start, format!("pending: {error}")),
                None => (Stage::Start, "looking for a node".to_owned()),
            },
            "assigned" | "accepted" => (Stage::Start, format!("the node {host} takes it")),
            // Making a container takes this state for a moment, fetching its image for long.
            "preparing" if long => (Stage::Environment, format!("the node {host} fetches the image")),
            "preparing" | "ready" => (Stage::Start, format!("the node {host} prepares it")),
            "starting" => (Stage::Start, format!("starting on {host}")),
            _ => return None,
        })
    }

    /// Why a task came to nothing before it ran. `host` is its node's name.
    pub(super) fn failure(&self, image: &Image, host: &str) -> BackendError {
        let said = self.error.as_deref().unwrap_or_default();
        let lower = said.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let name = &image.name;
        if has(&["no space left"]) {
            return full_disk(said);
        }
        if has(&["no such image", "pull access denied", "manifest unknown", "not found: manifest"]) {
            return app_error(format!(
                "the node {host} could not get the image `{name}` ({said}); check its name and tag, and that the node reaches \
                 its registry"
            ));
        }
        if has(&["could not find the corresponding predefined swarm network", "network"])
            && has(&["not found", "no such", "could not find"])
        {
            return BackendError::Platform(format!(
                "the node {host} has no network for apps ({said}); is the agent running there? It makes the network"
            ));
        }
        if has(&["invalid mount config", "bind source path"]) {
            return app_error(format!("its container cannot be made on {host}: {said}"));
        }
        if said.is_empty() {
            return BackendError::Platform(format!("the Swarm ended it ({}) on {host}", self.state));
        }
        does_not_start(image, said.strip_prefix("starting container failed: ").unwrap_or(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task(state: &str, error: &str) -> Task {
        Task::of(&Document::new(json!({
            "ID": "t1", "ServiceID": "s1", "NodeID": "n1", "DesiredState": "running",
            "CreatedAt": "2026-01-01T00:00:00.5Z", "Status": { "State": state, "Err": error },
        })))
    }

    #[test]
    fn the_newest_task_counts() {
        let at = |id: &str, created: &str, service: &str| {
            let created = format!("2026-01-01T00:00:0{created}Z");
            Task::of(&Document::new(json!({ "ID": id, "ServiceID": service, "CreatedAt": created })))
        };
        let tasks = [at("a", "1.9", "s"), at("b", "1.11", "s"), at("c", "5", "other")];
        assert_eq!(Task::newest(&tasks, "s").unwrap().id, "a", "fractions are numbers, not texts");
        assert!(Task::newest(&tasks, "none").is_none());
    }

    #[test]
    fn stages_are_told_in_words() {
        let told = |state: &str, error: &str, long| task(state, error).progress("sk2", long);
        let pending = "no suitable node (insufficient resources on 3 nodes)";
        assert_eq!(told("pending", pending, false).unwrap().1, format!("pending: {pending}"));
        assert_eq!(
            told("preparing", "", true).unwrap(),
            (Stage::Environment, "the node sk2 fetches the image".to_owned())
        );
        assert_eq!(told("preparing", "", false).unwrap().0, Stage::Start);
        assert_eq!(told("starting", "", false).unwrap().1, "starting on sk2");
        assert_eq!(told("running", "", false), None);
    }

    #[test]
    fn who_is_at_fault_is_told() {
        let image = Image::new("team/app:3");
        let said = |error: &str| task("rejected", error).failure(&image, "sk2");
        let missing = said("No such image: team/app:3");
        assert!(
            matches!(&missing, BackendError::App { summary, .. } if summary.contains("the node sk2 could not get the image `team/app:3`"))
        );
        let network = said("network skep_node not found");
        assert!(
            matches!(&network, BackendError::Platform(said) if said.contains("no network for apps")),
            "{network}"
        );
        let full = said("write /x: no space left on device");
        assert!(matches!(&full, BackendError::Platform(said) if said.contains("full")), "{full}");
        let program = said(
            "starting container failed: failed to create shim task: OCI runtime create failed: runc create failed: \
             unable to start container process: exec: \"nosuch\": executable file not found in $PATH: unknown",
        );
        assert!(program.to_string().contains("is not in the image `team/app:3`"), "{program}");
        assert!(matches!(said(""), BackendError::Platform(_)));
    }

    #[test]
    fn a_network_left_over_is_told_from_other_trouble() {
        assert!(task("rejected", "network abc exists").meets_left_over("abc"));
        assert!(!task("rejected", "network abc exists").meets_left_over("ab"));
        assert!(!task("rejected", "network abc not found").meets_left_over("abc"));
    }

    #[test]
    fn an_end_the_swarm_wants_is_told_from_a_crash() {
        let with = |state: &str, desired: &str| Task { desired: desired.to_owned(), ..task(state, "") };
        assert!(with("running", "shutdown").is_unwanted(), "a drained node");
        assert!(with("shutdown", "shutdown").is_unwanted());
        assert!(!with("failed", "shutdown").is_unwanted(), "it had failed before");
        assert!(!with("running", "running").is_unwanted());
    }
}

//! What a Swarm says of a service and its tasks, read into what matters here. Pure.

use skep_docker::Document;

/// A service as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) name: String,
    /// `None`: one task per node.
    pub(super) replicas: Option<u64>,
    /// An update or a rollback is under way.
    pub(super) updating: bool,
    pub(super) created: String,
}

impl Seen {
    pub(super) fn of(service: &Document) -> Option<Self> {
        // A paused one moves nothing.
        let updating = matches!(service.text("/UpdateStatus/State"), Some("updating" | "rollback_started"));
        Some(Self {
            id: Some(service.id()).filter(|id| !id.is_empty())?.to_owned(),
            name: service.text("/Spec/Name")?.to_owned(),
            replicas: service.number("/Spec/Mode/Replicated/Replicas").and_then(|n| u64::try_from(n).ok()),
            updating,
            created: service.text("/CreatedAt").unwrap_or_default().to_owned(),
        })
    }
}

/// A task that is meant to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) service: String,
    /// Set once it runs: where. A task with a health check runs when that says so.
    pub(super) running: Option<Running>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) node: String,
    pub(super) container: String,
}

impl Task {
    /// `None` for a task that is on its way out, or gone.
    pub(super) fn of(task: &Document) -> Option<Self> {
        if task.text("/DesiredState") != Some("running") {
            return None;
        }
        let running = (task.text("/Status/State") == Some("running")).then(|| {
            let container = task.text("/Status/ContainerStatus/ContainerID").filter(|id| !id.is_empty())?;
            Some(Running { node: task.text("/NodeID")?.to_owned(), container: container.to_owned() })
        });
        let state = task.text("/Status/State").unwrap_or_default();
        if matches!(state, "complete" | "shutdown" | "failed" | "rejected" | "orphaned" | "remove") {
            return None;
        }
        Some(Self {
            id: Some(task.id()).filter(|id| !id.is_empty())?.to_owned(),
            service: task.text("/ServiceID")?.to_owned(),
            running: running.flatten(),
        })
    }

    /// The same for the same task, whoever asks: a sticky visitor comes back to it.
    pub(super) fn nonce(&self) -> u64 {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(self.id.as_bytes());
        digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(desired: &str, state: &str) -> Option<Task> {
        Task::of(&Document::new(json!({
            "ID": "t1", "ServiceID": "s1", "NodeID": "n1", "DesiredState": desired,
            "Status": {"State": state, "ContainerStatus": {"ContainerID": "c1", "PID": "what"}},
        })))
    }

    #[test]
    fn only_what_is_meant_to_run_counts() {
        let running = Running { node: "n1".to_owned(), container: "c1".to_owned() };
        assert_eq!(task("running", "running").unwrap().running, Some(running));
        // With a health check it is starting until that is good.
        assert_eq!(task("running", "starting").unwrap().running, None);
        assert_eq!(task("shutdown", "running"), None);
        assert_eq!(task("running", "failed"), None);
        assert_eq!(Task::of(&Document::new(json!({"DesiredState": "running"}))), None);
        assert_ne!(task("running", "running").unwrap().nonce(), 0);
    }

    #[test]
    fn services_are_read_with_or_without_replicas() {
        let seen = |spec| Seen::of(&Document::new(spec));
        let one = seen(json!({"ID": "s", "Spec": {"Name": "web", "Mode": {"Replicated": {"Replicas": 3}}}}))
            .unwrap();
        assert_eq!((one.replicas, one.updating), (Some(3), false));
        let two = json!({"ID": "s", "Spec": {"Name": "web", "Mode": {"Global": {}}}, "UpdateStatus": {"State": "updating"}});
        let two = seen(two).unwrap();
        assert_eq!((two.replicas, two.updating), (None, true));
        assert_eq!(seen(json!({"ID": "s"})), None);
    }
}

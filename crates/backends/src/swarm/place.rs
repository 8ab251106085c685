//! Where an instance runs, and how it is reached there.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use skep_agent::Desk;
use skep_launch::{Dial, Launched, Stream};

use super::Inner;
use super::task::Task;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) task: String,
    /// The node's id.
    pub(super) node: String,
    /// The container's id.
    pub(super) container: String,
}

impl Place {
    /// `None`: the task is nowhere yet.
    pub(super) fn of(task: &Task) -> Option<Self> {
        let (node, container) = (task.node.clone()?, task.container.clone()?);
        Some(Self { task: task.id.clone(), node, container })
    }
}

impl Inner {
    pub(super) fn launched(&self, place: &Place, port: u16) -> Launched {
        let host = self.nodes.hostname(&place.node);
        let dial =
            Arc::new(Dialer { desk: self.desk.clone(), place: place.clone(), port, host: host.clone() });
        Launched { dial, pid: None, node: host }
    }
}

/// Connects through the node's agent.
struct Dialer {
    desk: Desk,
    place: Place,
    port: u16,
    host: String,
}

impl Dial for Dialer {
    fn dial(&self) -> BoxFuture<'static, std::io::Result<Stream>> {
        let (desk, place, port) = (self.desk.clone(), self.place.clone(), self.port);
        Box::pin(async move {
            let line = desk.dial(&place.node, &place.container, port).await?;
            Ok(Stream::Other(Box::new(line)))
        })
    }

    fn describe(&self) -> String {
        let short: String = self.place.container.chars().take(12).collect();
        format!("{short}:{} on {}", self.port, self.host)
    }
}

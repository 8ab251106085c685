//! The nodes of the Swarm: what they are called, whether they are there, and which of them have an agent.
//!
//! Apps run only where an agent is, because nobody else reaches them there. The scheduler knows by a node label that is set
//! when a node's agent calls in, and removed when it has been away for a minute.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use skep_docker::{Document, Error, Kind, Managers};

use super::Inner;
use super::watch::living;

/// The label of nodes with an agent.
pub(super) const LABEL: &str = "skep.agent";
/// A node without an agent for this long gets no new instances.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);
/// Between two looks at the labels, without any sign that one is needed.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// An end so soon after its node's agent left or came back has the node's engine for its cause.
const UNSTEADY_FOR: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) hostname: String,
    pub(super) ready: bool,
    pub(super) down: bool,
    /// `active`, `pause` or `drain`.
    pub(super) availability: String,
    pub(super) worker: bool,
    labels: HashMap<String, String>,
    labelled: bool,
}

impl Node {
    /// Whether its labels are as constraints ask, by the scheduler's rules: values in any case, and a label it lacks is empty.
    /// What is no label is not judged here.
    fn has_labels(&self, constraints: &[String]) -> bool {
        constraints.iter().filter_map(|constraint| on_label(constraint)).all(|(label, equal, value)| {
            self.labels.get(label).map_or("", String::as_str).eq_ignore_ascii_case(value) == equal
        })
    }
}

/// The label of nodes that a constraint is about, whether it must be this value or must not, and the value.
fn on_label(constraint: &str) -> Option<(&str, bool, &str)> {
    let rest = constraint.strip_prefix("node.labels.")?;
    let (equal, (label, value)) = match rest.split_once("==") {
        Some(parts) => (true, parts),
        None => (false, rest.split_once("!=")?),
    };
    Some((label.trim(), equal, value.trim()))
}

#[derive(Default)]
pub(super) struct Nodes {
    known: Mutex<HashMap<String, Node>>,
    agents: Mutex<Agents>,
}

#[derive(Default)]
struct Agents {
    present: BTreeSet<String>,
    /// Since when a node has had none.
    absent: HashMap<String, Instant>,
    /// When one came back that had been here before.
    back: HashMap<String, Instant>,
    /// When a node was last seen that was not ready.
    trouble: HashMap<String, Instant>,
    /// Nodes whose instances ended with their engine, and the networks these were in.
    doubted: BTreeSet<(String, String)>,
}

impl Nodes {
    pub(super) async fn refresh(&self, managers: &Managers) -> Result<(), Error> {
        let listed = managers.ask(|engine| async move { engine.list(Kind::Node, &[]).await }).await?;
        self.learn(listed.iter().map(|node| (node.id().to_owned(), read(node))).collect(), Instant::now());
        Ok(())
    }

    fn learn(&self, nodes: HashMap<String, Node>, now: Instant) {
        let troubled = nodes.iter().filter(|(_, node)| !node.ready).map(|(id, _)| (id.clone(), now));
        self.agents.lock().trouble.extend(troubled);
        *self.known.lock() = nodes;
    }

    /// The managers are away, and with them whichever of the nodes is one.
    pub(super) fn managers_are_away(&self, now: Instant) {
        let mut agents = self.agents.lock();
        let known = self.known.lock();
        let managers = known.iter().filter(|(_, node)| !node.worker).map(|(id, _)| (id.clone(), now));
        agents.trouble.extend(managers);
    }

    pub(super) fn get(&self, id: &str) -> Option<Node> {
        self.known.lock().get(id).cloned()
    }

    /// What a node is called by people.
    pub(super) fn hostname(&self, id: &str) -> String {
        let known = self.get(id).map(|node| node.hostname).filter(|name| !name.is_empty());
        known.unwrap_or_else(|| id.to_owned())
    }

    /// `its node sk2 is down`, when it is.
    pub(super) fn loss(&self, id: &str) -> Option<String> {
        let known = self.known.lock();
        // Before the first look there is nothing to conclude from a node that is not known.
        if known.is_empty() {
            return None;
        }
        match known.get(id) {
            Some(node) if node.down => Some(format!("its node {} is down", node.hostname)),
            Some(_) => None,
            None => Some(format!("its node {id} was removed from the Swarm")),
        }
    }

    /// Whether instances of an app with these constraints are kept off the managers: there are workers for them.
    pub(super) fn has_workers(&self, constraints: &[String]) -> bool {
        let agents = self.agents.lock();
        let fit = |(id, node): (&String, &Node)| {
            let there = node.ready && node.availability == "active" && agents.present.contains(id);
            node.worker && there && node.has_labels(constraints)
        };
        self.known.lock().iter().any(fit)
    }

    pub(super) fn has_agents(&self) -> bool {
        !self.agents.lock().present.is_empty()
    }

    /// Whether the node or its agent is away or has just come back: so was its engine, most likely.
    pub(super) fn is_unsteady(&self, id: &str, now: Instant) -> bool {
        self.unsteady_since(id, now).is_some()
    }

    /// When that was noticed last.
    pub(super) fn unsteady_since(&self, id: &str, now: Instant) -> Option<Instant> {
        let agents = self.agents.lock();
        let lately = |of: &HashMap<String, Instant>| {
            of.get(id).copied().filter(|at| now.saturating_duration_since(*at) < UNSTEADY_FOR)
        };
        let signs = [agents.absent.get(id).copied(), lately(&agents.back), lately(&agents.trouble)];
        signs.into_iter().flatten().max()
    }

    /// Instances in this network ended with the node or its engine, which may not get over what it has left of it.
    pub(super) fn doubt(&self, node: &str, network: &str) {
        self.agents.lock().doubted.insert((node.to_owned(), network.to_owned()));
    }

    /// The nodes that are back, and the networks doubted there.
    pub(super) fn take_doubts(&self) -> BTreeSet<(String, String)> {
        let mut agents = self.agents.lock();
        let Agents { present, doubted, .. } = &mut *agents;
        let (back, away) = std::mem::take(doubted).into_iter().partition(|(node, _)| present.contains(node));
        *doubted = away;
        back
    }

    /// Notes who is there now.
    fn take(&self, present: BTreeSet<String>, now: Instant) {
        let mut agents = self.agents.lock();
        let left: Vec<String> = agents.present.difference(&present).cloned().collect();
        agents.absent.extend(left.into_iter().map(|id| (id, now)));
        for id in &present {
            if agents.absent.remove(id).is_some() {
                agents.back.insert(id.clone(), now);
            }
        }
        agents.back.retain(|_, at| now.duration_since(*at) < UNSTEADY_FOR);
        agents.trouble.retain(|_, at| now.saturating_duration_since(*at) < UNSTEADY_FOR);
        agents.present = present;
    }

    /// Labels to set (`true`) or to remove.
    fn due(&self, begun: Instant, now: Instant) -> Vec<(String, bool)> {
        let agents = self.agents.lock();
        let known = self.known.lock();
        let mut due = Vec::new();
        for (id, node) in known.iter() {
            // What an earlier server labelled and this one has not seen counts from its start.
            let absent = now.duration_since(*agents.absent.get(id).unwrap_or(&begun));
            match (agents.present.contains(id), node.labelled) {
                (true, false) => due.push((id.clone(), true)),
                (false, true) if absent >= GIVEN_UP_AFTER => due.push((id.clone(), false)),
                _ => {}
            }
        }
        due
    }

    async fn label(&self, managers: &Managers, id: &str, set: bool) -> Result<(), Error> {
        let change = |engine: skep_docker::Engine| async move {
            let change = |spec: &mut Value| {
                let Some(spec) = spec.as_object_mut() else { return };
                let labels = spec.entry("Labels").or_insert_with(|| json!({}));
                if labels.is_null() {
                    *labels = json!({});
                }
                let Some(labels) = labels.as_object_mut() else { return };
                if set {
                    labels.insert(LABEL.to_owned(), "true".into());
                } else {
                    labels.remove(LABEL);
                }
            };
            engine.update(Kind::Node, id, change).await
        };
        managers.ask(change).await?;
        if let Some(node) = self.known.lock().get_mut(id) {
            node.labelled = set;
        }
        let hostname = self.hostname(id);
        if set {
            tracing::info!(node = hostname, "has an agent: instances may run there");
        } else {
            tracing::warn!(node = hostname, "has had no agent for a minute: no new instances run there");
        }
        Ok(())
    }
}

fn read(node: &Document) -> Node {
    let text = |pointer: &str| node.text(pointer).unwrap_or_default().to_owned();
    let state = text("/Status/State");
    let labels = node.at("/Spec/Labels").and_then(Value::as_object);
    let label = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    Node {
        hostname: text("/Description/Hostname"),
        ready: state == "ready",
        down: state == "down",
        availability: text("/Spec/Availability"),
        worker: text("/Spec/Role") == "worker",
        labels: labels.into_iter().flatten().filter_map(label).collect(),
        labelled: node.label(LABEL) == Some("true"),
    }
}

/// Keeps the labels as they should be, for as long as anybody launches here.
pub(super) async fn keep_labels(inner: Weak<Inner>) {
    let Some(mut agents) = living(&inner).map(|inner| inner.desk.nodes()) else { return };
    let begun = Instant::now();
    loop {
        let Some(inner) = living(&inner) else { return };
        inner.nodes.take(agents.borrow_and_update().clone(), Instant::now());
        if let Err(error) = inner.keep_labels_once(begun).await {
            tracing::warn!(%error, "the labels of the nodes with agents cannot be kept");
        }
        drop(inner);
        if let Ok(Err(_)) = tokio::time::timeout(LOOK_EVERY, agents.changed()).await {
            return;
        }
    }
}

impl Inner {
    async fn keep_labels_once(self: &Arc<Self>, begun: Instant) -> Result<(), Error> {
        self.nodes.refresh(&self.managers).await?;
        for (id, set) in self.nodes.due(begun, Instant::now()) {
            self.nodes.label(&self.managers, &id, set).await?;
        }
        self.renew_networks().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labelled: bool, down: bool, role: &str) -> Node {
        let state = if down { "down" } else { "ready" };
        let labels = if labelled { json!({ LABEL: "true" }) } else { json!({}) };
        read(&Document::new(json!({
            "ID": "n", "Description": { "Hostname": "sk2" }, "Status": { "State": state },
            "Spec": { "Availability": "active", "Role": role, "Labels": labels },
        })))
    }

    fn present(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn labels_follow_the_agents() {
        let nodes = Nodes::default();
        *nodes.known.lock() = HashMap::from([
            ("a".to_owned(), node(false, false, "worker")),
            ("b".to_owned(), node(true, false, "manager")),
            ("c".to_owned(), node(true, false, "manager")),
        ]);
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        nodes.take(present(&["a", "b"]), begun);
        assert_eq!(nodes.due(begun, at(1)), [("a".to_owned(), true)], "c may yet call in");
        assert_eq!(nodes.due(begun, at(60)).len(), 2);
        assert!(nodes.has_workers(&[]));
        nodes.take(present(&["a"]), at(100));
        assert!(nodes.due(begun, at(159)).iter().all(|(id, _)| id != "b"));
        assert!(nodes.is_unsteady("b", at(159)) && !nodes.is_unsteady("a", at(159)));
        assert!(nodes.due(begun, at(160)).contains(&("b".to_owned(), false)));
        nodes.take(present(&["b"]), at(200));
        assert!(nodes.is_unsteady("b", at(201)) && !nodes.has_workers(&[]));
        assert!(!nodes.is_unsteady("b", at(221)));
        nodes.doubt("a", "n1");
        nodes.doubt("b", "n1");
        assert_eq!(nodes.take_doubts(), BTreeSet::from([("b".to_owned(), "n1".to_owned())]), "b is back");
        assert!(nodes.take_doubts().is_empty(), "a is not");
        nodes.learn(HashMap::from([("c".to_owned(), node(true, true, "worker"))]), at(300));
        nodes.managers_are_away(at(300));
        assert!(nodes.is_unsteady("c", at(301)) && !nodes.is_unsteady("b", at(301)));
    }

    #[test]
    fn only_workers_with_the_labels_an_app_asks_for_keep_it_off_the_managers() {
        let nodes = Nodes::default();
        let labels = json!({ LABEL: "true", "disk": "SSD", "rack": "" });
        let worker = read(&Document::new(json!({
            "ID": "w", "Status": { "State": "ready" },
            "Spec": { "Availability": "active", "Role": "worker", "Labels": labels },
        })));
        let manager = node(true, false, "manager");
        *nodes.known.lock() = HashMap::from([("w".to_owned(), worker), ("m".to_owned(), manager)]);
        nodes.take(present(&["m", "w"]), Instant::now());
        let kept_off = |constraints: &[&str]| {
            let constraints: Vec<String> = constraints.iter().map(|one| (*one).to_owned()).collect();
            nodes.has_workers(&constraints)
        };
        assert!(kept_off(&[]) && kept_off(&["node.labels.disk == ssd"]), "values are compared in any case");
        assert!(
            kept_off(&["node.labels.gpu != a", "node.platform.os == linux"]),
            "a label it lacks is empty"
        );
        for absent in ["node.labels.gpu == a", "node.labels.disk!=ssd", "node.labels.Disk == ssd"] {
            assert!(!kept_off(&["node.labels.disk == ssd", absent]), "{absent}");
        }
    }

    #[test]
    fn a_lost_node_is_named() {
        let nodes = Nodes::default();
        assert_eq!(nodes.loss("b"), None, "nothing is known yet");
        *nodes.known.lock() = HashMap::from([
            ("a".to_owned(), node(true, true, "worker")),
            ("b".to_owned(), node(true, false, "worker")),
        ]);
        assert_eq!(nodes.loss("a").unwrap(), "its node sk2 is down");
        assert_eq!(nodes.loss("b"), None);
        assert!(nodes.loss("c").unwrap().contains("removed from the Swarm"));
        assert_eq!((nodes.hostname("a"), nodes.hostname("c")), ("sk2".to_owned(), "c".to_owned()));
    }
}

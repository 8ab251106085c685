//! What the agent allows, whatever the server says. Pure.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;
use skep_docker::Document;

use crate::wire::{Ask, Refusal, RefusalCode};

/// The label Swarm puts on its tasks' containers.
const TASK: &str = "com.docker.swarm.task.id";
/// The label of an installation's containers.
const INSTALL: &str = "skep.install";

const CALLS: [&str; 7] = ["dial", "logs", "stats", "exec", "inspect", "pull", "events"];

/// The kinds of calls an agent serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allow([bool; CALLS.len()]);

/// A list that names something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of call; there are dial, logs, stats, exec, inspect, pull and events")]
pub struct UnknownCall(String);

impl Allow {
    pub fn all() -> Self {
        Self([true; CALLS.len()])
    }

    pub(super) fn check(&self, ask: &Ask) -> Result<(), Refusal> {
        let allowed = CALLS.iter().zip(self.0).any(|(name, allowed)| *name == ask.name() && allowed);
        if !allowed {
            let why = format!("the node's agent was started without `{}` in its --allow", ask.name());
            return Err(Refusal::new(RefusalCode::NotAllowed, why));
        }
        match ask {
            Ask::Exec(order) if order.who.trim().is_empty() => {
                Err(Refusal::new(RefusalCode::NotAllowed, "an exec must say who asks for it"))
            }
            Ask::Exec(order) if order.cmd.is_empty() => {
                Err(Refusal::new(RefusalCode::BadRequest, "an exec must say what to run"))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for Allow {
    type Err = UnknownCall;

    fn from_str(list: &str) -> Result<Self, UnknownCall> {
        let mut allow = Self([false; CALLS.len()]);
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let index = CALLS.iter().position(|call| *call == name);
            allow.0[index.ok_or_else(|| UnknownCall(name.to_owned()))?] = true;
        }
        Ok(allow)
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allowed: Vec<&str> =
            CALLS.iter().zip(self.0).filter(|(_, allowed)| *allowed).map(|(name, _)| *name).collect();
        f.write_str(&allowed.join(","))
    }
}

/// A full id: nothing that could be a name or mean another container tomorrow.
pub(super) fn full_id(id: &str) -> Result<(), Refusal> {
    let full = id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if full {
        Ok(())
    } else {
        Err(Refusal::new(RefusalCode::BadRequest, "that is no full id of a container"))
    }
}

/// A Swarm task's container, or one of this installation's: nothing else on the node.
pub(super) fn ours(container: &Document, install: &str) -> Result<(), Refusal> {
    if is_ours(|name| container.label(name), install) {
        return Ok(());
    }
    let why = "the container is neither a Swarm task's nor one of this installation's";
    Err(Refusal::new(RefusalCode::NotOurs, why))
}

/// No program is run where an engine's socket is: it would have the node, and on a manager the Swarm, whoever gave the order.
pub(super) fn harmless(container: &Document) -> Result<(), Refusal> {
    let mounts = container.at("/Mounts").and_then(Value::as_array);
    let sources = mounts.into_iter().flatten().filter_map(|mount| mount.get("Source")?.as_str());
    let reaches = |source: &str| {
        let source = source.trim_end_matches('/');
        source.ends_with(".sock")
            || ["", "/run", "/var", "/var/run", "/run/containerd", "/var/lib/docker"].contains(&source)
    };
    match sources.into_iter().find(|source| reaches(source)) {
        None => Ok(()),
        Some(source) => {
            let why = format!("the container has `{source}` of its node; no program is run in it");
            Err(Refusal::new(RefusalCode::NotAllowed, why))
        }
    }
}

/// The same of anything with labels.
pub(super) fn is_ours<'a>(label: impl Fn(&str) -> Option<&'a str>, install: &str) -> bool {
    label(TASK).is_some_and(|task| !task.is_empty())
        || (!install.is_empty() && label(INSTALL) == Some(install))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::ExecOrder;

    #[test]
    fn only_what_is_listed_is_allowed() {
        let allow: Allow = "dial, logs,inspect".parse().unwrap();
        assert_eq!(allow.to_string(), "dial,logs,inspect");
        assert!(allow.check(&Ask::Dial { port: 1 }).is_ok());
        assert_eq!(allow.check(&Ask::Stats).unwrap_err().code, RefusalCode::NotAllowed);
        assert_eq!(Allow::all().to_string(), CALLS.join(","));
        assert_eq!("".parse::<Allow>().unwrap().to_string(), "");
        assert_eq!("dail".parse::<Allow>(), Err(UnknownCall("dail".to_owned())));
    }

    #[test]
    fn an_exec_names_who_asks_and_what() {
        let order = |who: &str, cmd: &[&str]| {
            let cmd = cmd.iter().map(|&part| part.to_owned()).collect();
            Ask::Exec(ExecOrder { who: who.to_owned(), cmd, ..ExecOrder::default() })
        };
        assert!(Allow::all().check(&order("ada", &["sh"])).is_ok());
        assert_eq!(Allow::all().check(&order(" ", &["sh"])).unwrap_err().code, RefusalCode::NotAllowed);
        assert_eq!(Allow::all().check(&order("ada", &[])).unwrap_err().code, RefusalCode::BadRequest);
    }

    #[test]
    fn no_program_is_run_where_the_engine_can_be_reached() {
        let with = |sources: &[&str]| {
            let mounts: Vec<_> =
                sources.iter().map(|source| json!({"Type": "bind", "Source": source})).collect();
            harmless(&Document::new(json!({"Mounts": mounts})))
        };
        assert!(with(&["/srv/data", "/var/lib/docker/volumes/x/_data", "v"]).is_ok());
        assert!(harmless(&Document::new(json!({}))).is_ok());
        for bad in [
            "/var/run/docker.sock",
            "/run/user/1000/docker.sock",
            "/",
            "/run/",
            "/var/run",
            "/var/lib/docker",
        ] {
            assert_eq!(with(&["/srv", bad]).unwrap_err().code, RefusalCode::NotAllowed, "{bad}");
        }
    }

    #[test]
    fn foreign_containers_are_left_alone() {
        let with = |labels| Document::new(json!({ "Config": { "Labels": labels } }));
        assert!(ours(&with(json!({ "com.docker.swarm.task.id": "t" })), "i").is_ok());
        assert!(ours(&with(json!({ "skep.install": "i" })), "i").is_ok());
        for foreign in [json!({}), json!({ "skep.install": "j" }), json!({ "com.docker.swarm.task.id": "" })]
        {
            assert_eq!(ours(&with(foreign), "i").unwrap_err().code, RefusalCode::NotOurs);
        }
        assert!(ours(&with(json!({ "skep.install": "" })), "").is_err());
    }

    #[test]
    fn only_a_full_id_is_an_id() {
        assert!(full_id(&"0a".repeat(32)).is_ok());
        for bad in ["", "web", &"0a".repeat(31), &"0A".repeat(32), &"zz".repeat(32), &"é".repeat(32)] {
            assert!(full_id(bad).is_err(), "{bad}");
        }
    }
}

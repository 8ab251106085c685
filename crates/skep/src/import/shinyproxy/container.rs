//! What the container of an app gets beside its image: labels and GPUs.

use std::collections::BTreeMap;

use super::values::{self, Expanded, canonical, expand, list, text};
use super::{App, Draft, takes};
use crate::import::yaml::{Key, Node};

impl Draft {
    /// `labels`: a map of names and values.
    pub(super) fn labels(&mut self, app: &mut App, key: &Key, value: &Node) {
        if value.entries().is_empty() {
            match value.is_empty() {
                true => self.without_meaning(key, "it is empty"),
                false => self.wrong(key, "is no map of names and values"),
            }
        }
        let mut labels = BTreeMap::new();
        for (name, node) in value.entries() {
            let Some(said) = node.text() else {
                self.not_yet(name, "its value is no text");
                continue;
            };
            // Skep replaces nothing in labels.
            let Expanded::Plain(said) = expand(said, &app.of) else {
                self.not_yet(name, "what differs from instance to instance is no label here");
                continue;
            };
            // Spring's way to write a name with dots in it.
            let plain = name.text.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
            let plain = plain.unwrap_or(&name.text).to_owned();
            let one = BTreeMap::from([(plain.clone(), said.clone())]);
            match takes("apps.a", "container.labels", &values::map(&one)) {
                Ok(()) => {
                    labels.insert(plain, said);
                    self.kept(name, "one of `container.labels`");
                }
                Err(why) => self.not_yet(name, &why),
            }
        }
        if !labels.is_empty() {
            app.keys.insert("container.labels", values::map(&labels));
        }
    }

    /// `docker-device-requests`, as far as they ask for GPUs.
    pub(super) fn device_requests(&mut self, app: &mut App, key: &Key, value: &Node) {
        if value.is_empty() {
            self.without_meaning(key, "it is empty");
        } else if !self.swarm.is_empty() {
            self.not_yet(key, "a Swarm knows no devices; see `container.reserve.resources`");
        } else {
            let gpus = match value.items() {
                [one] => gpus(one),
                _ => None,
            };
            match gpus {
                Some(gpus) => self.set(app, "container.gpus", gpus, key),
                None => self.not_yet(key, "it asks for more than GPUs; see `container.gpus`"),
            }
        }
    }
}

/// `None`: it is about something else than GPUs, or about some of their abilities only.
fn gpus(request: &Node) -> Option<String> {
    let (mut count, mut ids, mut gpu) = (None, Vec::new(), false);
    for (key, value) in request.entries() {
        match canonical(&key.text).as_str() {
            "driver" if value.is_empty() || matches!(value.text(), Some("" | "nvidia")) => {}
            "options" if value.is_empty() => {}
            "count" => count = Some(value.text()?.trim().parse::<i64>().ok()?),
            "deviceids" => ids = value.texts().into_iter().map(str::to_owned).collect(),
            // Lists of which one must be met, each of abilities all of which must be.
            "capabilities" => gpu = matches!(value.items(), [one] if one.texts() == ["gpu"]),
            _ => return None,
        }
    }
    match (gpu, count, &ids[..]) {
        (true, Some(-1), []) => Some(text("all")),
        (true, Some(count @ 1..), []) => Some(count.to_string()),
        (true, None, [_, ..]) => Some(list(&ids)),
        _ => None,
    }
}

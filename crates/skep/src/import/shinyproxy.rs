//! What ShinyProxy's application.yml becomes in Skep's config.
//!
//! Its `proxy.specs` become `[apps.<id>]` with an `image`; what stands above them becomes `[server]`, `[auth]`, `[docker]`, `[swarm]`,
//! `[portal]` and `[defaults]`. Every setting gets a line in the report: kept, changed, without meaning here, not yet possible, or unknown.
//! Keys count however they are written: `container-image`, `containerImage`, `proxy.docker.url` in one word.
//!
//! Invariants: nothing is written that Skep's own config parser does not take; where a rule about who may open an app
//! cannot be carried over, nobody but administrators may: only where the file says nothing at all, or an empty list, is an
//! app open to all. Whatever is said about logging in that is no plain `none` makes a login. Only numbers that were read as
//! such, and texts in quotes, are written.
//!
//! Absent on purpose: passwords, which Skep keeps as hashes in its store.

mod app;
mod container;
mod fates;
mod look;
mod parameters;
mod server;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::path::Path;

use skep_model::AppId;

use super::yaml::{Key, Node, Value};
use super::{Imported, Kind, Note, Place};
use crate::config::ServerFile;
use fates::Fate;
use values::{canonical, list, text};

/// Where a container finds the secret that agents prove themselves with, and the variable that names another file.
const JOIN_SECRET: &str = "/run/secrets/skep_join";
const JOIN_SECRET_FILE: &str = "SKEP_JOIN_SECRET_FILE";

/// Keys of one table, in the order they are written in.
type Table = BTreeMap<&'static str, String>;

/// What is being written, and what is said about it.
struct Draft {
    server: Table,
    auth: Table,
    docker: Table,
    /// Empty where apps run on one engine.
    swarm: Table,
    join_secret: String,
    portal: Table,
    look: look::Look,
    defaults: Table,
    env: BTreeMap<String, String>,
    /// Networks every app joins that names none of its own.
    networks: Vec<String>,
    /// Looked at last: what is said beside them counts for them, wherever it stands.
    specs: Vec<(Key, Node)>,
    apps: Vec<App>,
    notes: Vec<Note>,
    host: Option<(Key, String)>,
    /// Where to listen is said in a way that cannot be read: nowhere but on this machine.
    only_here: bool,
    port: Option<(Key, u16)>,
    users: Vec<server::User>,
    admins: server::Admins,
}

/// One `[apps.<id>]`.
struct App {
    id: AppId,
    /// What its expressions can say of it.
    of: values::Facts,
    keys: Table,
    env: BTreeMap<String, String>,
}

/// `variable`: what `${NAME}` stands for, where that is known.
pub(super) fn import(root: &Node, variable: &dyn Fn(&str) -> Option<String>) -> Imported {
    let mut root = root.clone();
    root.replace(&|value| values::filled(value, variable));
    let mut draft = Draft::new();
    if let Some(file) = variable(JOIN_SECRET_FILE) {
        draft.join_secret = file;
    }
    draft.settings("", &root);
    draft.images();
    for (key, value) in std::mem::take(&mut draft.specs) {
        draft.in_specs(&key, &value);
    }
    draft.finish(root.place);
    draft.notes.sort_by_key(|note| note.place);
    // What is merged into several apps is told of once.
    draft.notes.dedup();
    Imported { toml: draft.write(), notes: draft.notes }
}

impl Draft {
    /// What ShinyProxy does without being told.
    fn new() -> Self {
        let defaults = Table::from([
            ("per_user", "true".to_owned()),
            ("container.port", "3838".to_owned()),
            ("idle_timeout", text("60s")),
            // ShinyProxy has no limit of its own.
            ("max_instances", "1000".to_owned()),
            ("max_instances_per_user", "1".to_owned()),
            ("stop_on_logout", "true".to_owned()),
        ]);
        // Groups in capitals, as it writes them.
        let told = [
            ("SHINYPROXY_USERNAME", "{user}"),
            ("SHINYPROXY_USERGROUPS", "{groups:upper}"),
            ("SHINYPROXY_PUBLIC_PATH", "{base_path}/"),
        ]
        .into_iter();
        Self {
            server: Table::new(),
            auth: Table::from([("provider", text("none"))]),
            docker: Table::new(),
            swarm: Table::new(),
            join_secret: JOIN_SECRET.to_owned(),
            portal: Table::new(),
            look: look::Look::default(),
            defaults,
            env: told.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            networks: Vec::new(),
            specs: Vec::new(),
            apps: Vec::new(),
            notes: Vec::new(),
            host: None,
            only_here: false,
            port: None,
            users: Vec::new(),
            admins: server::Admins::default(),
        }
    }

    /// Every setting below a path, which is in canonical writing.
    fn settings(&mut self, path: &str, node: &Node) {
        for (key, value) in node.entries() {
            let name = canonical(&key.text);
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            match &value.value {
                Value::Map(entries) if !entries.is_empty() => self.settings(&path, value),
                _ => self.setting(&path, key, value),
            }
        }
    }

    fn in_specs(&mut self, key: &Key, value: &Node) {
        let Value::List(specs) = &value.value else {
            self.wrong(key, "is no list of apps");
            return;
        };
        for spec in specs {
            let id = spec.entries().iter().find(|(key, _)| canonical(&key.text) == "id");
            let Some((key, name)) = id.and_then(|(key, node)| Some((key, node.text()?))) else {
                self.say(spec.place, Kind::Wrong, "`specs`: one has no `id`".to_owned());
                continue;
            };
            let Some(id) = AppId::of_name(name) else {
                self.wrong(key, "holds no letter or digit that can stand in a URL");
                continue;
            };
            if self.apps.iter().any(|app| app.id == id) {
                self.wrong(key, &format!("makes the app id `{id}`, which another app has already"));
                continue;
            }
            let of = values::Facts::read(name, spec);
            let app = App { id: id.clone(), of, keys: Table::new(), env: BTreeMap::new() };
            let Some(app) = self.app(app, spec) else { continue };
            if id.as_str() == name {
                self.kept(
                    key,
                    &format!("`[apps.{id}]`; its address is `/{id}/`, to which `/app/{name}` leads"),
                );
            } else {
                self.changed(
                    key,
                    &format!("became `[apps.{id}]`, at `/{id}/`, to which `/app/{name}` leads"),
                );
            }
            self.apps.push(app);
        }
    }

    /// What can be said only once everything was read.
    fn finish(&mut self, root: Place) {
        if self.apps.is_empty() && self.notes.iter().all(|note| note.kind != Kind::Wrong) {
            let text = "there is no app in `proxy.specs` that can be carried over".to_owned();
            self.say(root, Kind::Wrong, text);
        }
        self.listen();
        self.tell_users();
        if !self.has_login() {
            self.defaults.remove("stop_on_logout");
        }
        if !self.networks.is_empty() {
            self.defaults.insert("container.networks", list(&self.networks));
        }
        // Each value was tried alone; this holds for all of them together.
        if let Err(problems) = ServerFile::parse(Path::new("skep.toml"), &self.write()) {
            let problems = problems.0.iter().map(|problem| format!("`{}` {}", problem.key, problem.wrong));
            let text = format!(
                "what it becomes does not hold together: {}",
                problems.collect::<Vec<_>>().join("; ")
            );
            self.say(root, Kind::Wrong, text);
        }
    }

    fn kept(&mut self, key: &Key, became: &str) {
        self.note(key, Kind::Done, &format!("kept: {became}"));
    }

    fn changed(&mut self, key: &Key, how: &str) {
        self.note(key, Kind::Differs, &format!("changed: {how}"));
    }

    fn without_meaning(&mut self, key: &Key, why: &str) {
        self.note(key, Kind::Differs, &format!("without meaning here: {why}"));
    }

    fn not_yet(&mut self, key: &Key, why: &str) {
        self.note(key, Kind::Differs, &format!("not yet: {why}"));
    }

    fn fate(&mut self, key: &Key, (fate, why): (Fate, &str)) {
        match fate {
            Fate::Meaningless => self.without_meaning(key, why),
            Fate::NotYet => self.not_yet(key, why),
            Fate::Unknown => self.note(key, Kind::Differs, &format!("unknown: {why}")),
        }
    }

    /// The same of a key with more than a text below it.
    fn fate_of_all(&mut self, key: &Key, value: &Node, (fate, why): (Fate, &str)) {
        let has_more = value.items().iter().any(|item| item.text().is_none()) || !value.entries().is_empty();
        self.fate(
            key,
            (fate, &if has_more { format!("{why} (this goes for all below it)") } else { why.to_owned() }),
        );
    }

    fn wrong(&mut self, key: &Key, what: &str) {
        self.note(key, Kind::Wrong, what);
    }

    fn note(&mut self, key: &Key, kind: Kind, what: &str) {
        self.say(key.place, kind, format!("`{}`: {what}", key.text));
    }

    fn say(&mut self, place: Place, kind: Kind, text: String) {
        self.notes.push(Note { place, kind, text });
    }

    fn write(&self) -> String {
        let mut out = String::new();
        let mut section = |name: &str, table: &Table, env: &BTreeMap<String, String>| {
            if table.is_empty() && env.is_empty() {
                return;
            }
            out.push_str(&format!("[{name}]\n"));
            for (key, value) in table {
                out.push_str(&format!("{key} = {value}\n"));
            }
            if !env.is_empty() {
                out.push_str(&format!("env = {}\n", values::map(env)));
            }
            out.push('\n');
        };
        let none = BTreeMap::new();
        section("server", &self.server, &none);
        section("auth", &self.auth, &none);
        section("docker", &self.docker, &none);
        section("swarm", &self.swarm, &none);
        section("portal", &self.portal, &none);
        for (id, title) in &self.look.groups {
            let title = Table::from([("title", title.clone())]);
            section(&format!("portal.sections.{}", values::key(id)), &title, &none);
        }
        section("defaults", &self.defaults, &self.env);
        for app in &self.apps {
            section(&format!("apps.{}", app.id), &app.keys, &app.env);
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }
}

/// Asks Skep's own config parser whether it takes a value.
fn takes(section: &str, key: &str, value: &str) -> Result<(), String> {
    let text = format!("[{section}]\n{key} = {value}\n");
    match ServerFile::parse(Path::new("/skep.toml"), &text) {
        Ok(_) => Ok(()),
        Err(problems) => Err(match problems.0.first() {
            Some(problem) => format!("`{}` {}", problem.key, problem.wrong),
            None => "Skep's config does not take it".to_owned(),
        }),
    }
}

/// ShinyProxy counts from the last heartbeat of an open page; Skep from the moment nobody has a seat.
fn idle_timeout(ms: &str) -> Option<(String, &'static str)> {
    if ms.trim() == "-1" {
        return Some((text("365d"), "became an `idle_timeout` of a year: Skep has no endless one"));
    }
    Some((
        text(&values::milliseconds(ms)?),
        "became `idle_timeout`, which counts from the moment nobody is there",
    ))
}

//! What ShinyProxy asks before an app starts: `parameters` with their `definitions` and `value-sets`. Pure.
//!
//! A set of values that only some people may choose from is never written for more: one whose rule cannot be carried over is
//! left out, and without any set there is nothing to choose, so that the app stays shut.

use std::collections::BTreeMap;

use super::values::{canonical, expression_in, key as quoted, list, text};
use crate::import::yaml::Node;

/// As many as Skep's config takes.
const MOST: usize = 20;
const MOST_VALUES: usize = 500;

/// What of them can be carried over.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) definitions: Vec<Definition>,
    sets: Vec<Set>,
    /// What cannot be, for the report.
    pub(super) left_out: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Definition {
    pub(super) id: String,
    title: Option<String>,
    description: Option<String>,
    default: Option<String>,
    titles: BTreeMap<String, String>,
    /// Of all sets, in the order written.
    pub(super) values: Vec<String>,
}

#[derive(Debug, Default)]
struct Set {
    values: BTreeMap<String, Vec<String>>,
    users: Vec<String>,
    groups: Vec<String>,
}

fn entry<'a>(node: &'a Node, wanted: &str) -> Option<&'a Node> {
    node.entries().iter().find(|(key, _)| canonical(&key.text) == wanted).map(|(_, value)| value)
}

fn line(node: &Node, wanted: &str) -> Option<String> {
    let said = entry(node, wanted).and_then(Node::text).map(|text| text.trim().to_owned());
    said.filter(|text| !text.is_empty())
}

/// # Errors
/// Why nothing of it can be carried over.
pub(super) fn read(node: &Node) -> Result<Asked, String> {
    let mut asked = Asked::default();
    for key in node.entries().iter().map(|(key, _)| key) {
        match canonical(&key.text).as_str() {
            "definitions" | "valuesets" => {}
            "template" => asked.left_out.push("its `template`, as Skep's form has one look".to_owned()),
            _ => asked.left_out.push(format!("its `{}`, which ShinyProxy has none of", key.text)),
        }
    }
    for own in entry(node, "definitions").map(Node::items).unwrap_or_default() {
        let id = line(own, "id").ok_or("a definition has no `id`")?;
        if asked.definitions.iter().any(|before| before.id == id) {
            return Err(format!("`{id}` is defined twice"));
        }
        crate::config::good_parameter_name(&id)?;
        let mut titles = BTreeMap::new();
        for one in entry(own, "valuenames").map(Node::items).unwrap_or_default() {
            titles.extend(line(one, "value").zip(line(one, "name")));
        }
        asked.definitions.push(Definition {
            title: line(own, "displayname"),
            description: line(own, "description"),
            default: line(own, "defaultvalue"),
            titles,
            values: Vec::new(),
            id,
        });
    }
    if asked.definitions.is_empty() || asked.definitions.len() > MOST {
        return Err(format!("it defines {} parameters; Skep takes 1 to {MOST}", asked.definitions.len()));
    }
    for (index, own) in entry(node, "valuesets").map(Node::items).unwrap_or_default().iter().enumerate() {
        match set(own, &asked.definitions) {
            Ok(set) => asked.sets.push(set),
            Err(why) => asked.left_out.push(format!("value set {}, as {why}", index + 1)),
        }
    }
    if asked.sets.is_empty() {
        return Err("no value set of it can be carried over".to_owned());
    }
    for own in &mut asked.definitions {
        for value in asked.sets.iter().filter_map(|set| set.values.get(&own.id)).flatten() {
            if !own.values.contains(value) {
                own.values.push(value.clone());
            }
        }
        if own.values.len() > MOST_VALUES {
            return Err(format!("`{}` has more than {MOST_VALUES} values", own.id));
        }
        if own.default.take_if(|default| !own.values.contains(default)).is_some() {
            asked.left_out.push(format!("the default of `{}`, which no value set has", own.id));
        }
    }
    Ok(asked)
}

fn set(node: &Node, definitions: &[Definition]) -> Result<Set, String> {
    let mut set = Set::default();
    for (key, value) in node.entries() {
        match canonical(&key.text).as_str() {
            "name" => {}
            "values" => {
                for (id, values) in value.entries() {
                    if !definitions.iter().any(|own| own.id == id.text) {
                        return Err(format!("nothing defines `{}`", id.text));
                    }
                    set.values.insert(id.text.clone(), words(values)?);
                }
            }
            "accesscontrol" => {
                for (who, names) in value.entries() {
                    match canonical(&who.text).as_str() {
                        "users" => set.users = words(names)?,
                        "groups" => set.groups = words(names)?,
                        _ => return Err(format!("`{}` says who may choose from it", who.text)),
                    }
                }
                if set.users.is_empty() && set.groups.is_empty() {
                    return Err("who may choose from it cannot be read".to_owned());
                }
            }
            _ => return Err(format!("`{}` in it is not known here", key.text)),
        }
    }
    match definitions.iter().find(|own| !set.values.contains_key(&own.id)) {
        Some(missing) => Err(format!("it has no values of `{}`", missing.id)),
        None => Ok(set),
    }
}

/// One or several texts.
fn words(node: &Node) -> Result<Vec<String>, String> {
    let said: Vec<String> = node.texts().into_iter().map(|text| text.trim().to_owned()).collect();
    if said.is_empty() || node.items().iter().any(|item| item.text().is_none()) {
        return Err("something in it is no text".to_owned());
    }
    for value in &said {
        let odd = value.is_empty() || value.chars().count() > 200 || value.chars().any(char::is_control);
        if odd || value.contains(['{', '}']) || expression_in(value).is_some() {
            return Err(format!("\"{value}\" in it is nothing Skep takes"));
        }
    }
    Ok(said)
}

impl Asked {
    /// `parameters` and `parameter_sets`, in TOML on one line each.
    pub(super) fn write(&self) -> (String, String) {
        let parameters: Vec<String> = self.definitions.iter().map(Definition::write).collect();
        let sets: Vec<String> = self.sets.iter().map(Set::write).collect();
        (format!("{{ {} }}", parameters.join(", ")), format!("[{}]", sets.join(", ")))
    }

    /// Every text that a text with `{param.…}` in it may become, one parameter at a time.
    pub(super) fn filled(&self, said: &str) -> Vec<String> {
        let first = |own: &Definition| Some((own.id.clone(), own.values.first()?.clone()));
        let first: skep_model::Choice = self.definitions.iter().filter_map(first).collect();
        let mut all = Vec::new();
        for own in &self.definitions {
            for value in &own.values {
                let mut choice = first.clone();
                choice.insert(own.id.clone(), value.clone());
                all.push(skep_model::fill_in(said, &choice));
            }
        }
        all
    }
}

impl Definition {
    fn write(&self) -> String {
        let value = |value: &String| match self.titles.get(value) {
            Some(title) => format!("{{ value = {}, title = {} }}", text(value), text(title)),
            None => text(value),
        };
        let values: Vec<String> = self.values.iter().map(value).collect();
        let mut parts = Vec::new();
        let mut put = |name: &str, said: &Option<String>| {
            parts.extend(said.as_ref().map(|said| format!("{name} = {}", text(&one_line(said)))));
        };
        put("title", &self.title);
        put("description", &self.description);
        put("default", &self.default);
        parts.push(format!("values = [{}]", values.join(", ")));
        format!("{} = {{ {} }}", quoted(&self.id), parts.join(", "))
    }
}

impl Set {
    fn write(&self) -> String {
        let values: Vec<String> =
            self.values.iter().map(|(id, values)| format!("{} = {}", quoted(id), list(values))).collect();
        let mut parts = vec![format!("values = {{ {} }}", values.join(", "))];
        let mut who = Vec::new();
        for (name, names) in [("users", &self.users), ("groups", &self.groups)] {
            if !names.is_empty() {
                who.push(format!("{name} = {}", list(names)));
            }
        }
        if !who.is_empty() {
            parts.push(format!("access = {{ {} }}", who.join(", ")));
        }
        format!("{{ {} }}", parts.join(", "))
    }
}

/// ShinyProxy's texts may have markup and lines; what a form shows here has neither.
fn one_line(said: &str) -> String {
    let mut plain = String::new();
    let mut inside = false;
    for c in said.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => inside = false,
            _ if inside => {}
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain.trim().chars().take(200).collect()
}

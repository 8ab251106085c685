//! YAML with places: a tree in which every key and value knows where it stands.
//!
//! Values stay texts: `01_hello` is no number and `1g` is a size only where a size is meant. Aliases and merge keys (`<<`) are
//! followed; what a file holds, they included, is bounded in depth and in size, because a short file of aliases can stand
//! for a tree that fills the memory.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::{Kind, Note, Place};

/// Nested deeper than any config.
const MAX_DEPTH: usize = 64;
/// Bytes of text, and so many more for each key and value; what aliases stand for is counted each time.
const MAX_SIZE: usize = 8 << 20;
const NODE_SIZE: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing, said plainly: `~`, `null`, or no word at all. In quotes they are texts.
    Null,
    Text(String),
    List(Vec<Node>),
    /// In the order of the file, no key twice.
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: String,
}

impl Node {
    /// A text that says something: an empty one is `None`, as is what is no text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The texts of a list, or the texts with commas between them that stand for one.
    pub(super) fn texts(&self) -> Vec<&str> {
        match &self.value {
            Value::List(items) => items.iter().filter_map(Self::text).collect(),
            _ => self.text().into_iter().flat_map(|text| text.split(',')).map(str::trim).collect(),
        }
    }

    /// Nothing, or a list of nothing. What only holds no text (`[[a]]`, `{0: a}`, `""`) is something.
    pub(super) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::List(items) => items.is_empty(),
            Value::Text(_) | Value::Map(_) => false,
        }
    }

    pub(super) fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Replaces every value that is a text.
    pub(super) fn replace(&mut self, with: &dyn Fn(&str) -> String) {
        match &mut self.value {
            Value::Null => {}
            Value::Text(text) => *text = with(text),
            Value::List(items) => items.iter_mut().for_each(|item| item.replace(with)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| value.replace(with)),
        }
    }
}

/// A node that is complete, and what it weighs.
#[derive(Clone)]
struct Weighed {
    node: Node,
    size: usize,
    depth: usize,
}

/// A list or map that is not complete yet.
struct Open {
    place: Place,
    anchor: usize,
    kind: OpenKind,
    size: usize,
    depth: usize,
}

enum OpenKind {
    List(Vec<Node>),
    Map(OpenMap),
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<(Key, Node)>,
    /// What `<<` brought in; what the map says itself goes before.
    merged: Vec<(Key, Node)>,
    seen: BTreeSet<String>,
    key: Option<Key>,
}

/// Reads the one document of a file.
///
/// # Errors
/// The first mistake, with its place.
pub(super) fn parse(text: &str) -> Result<Node, Note> {
    let mut open: Vec<Open> = Vec::new();
    let mut anchors: HashMap<usize, Weighed> = HashMap::new();
    let (mut root, mut weight) = (None, 0);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| broken(&error))?;
        let place = place_of(span);
        let (done, anchor, fresh) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let size = NODE_SIZE + text.len();
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value = match text.as_ref() {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    _ => Value::Text(Cow::into_owned(text)),
                };
                let node = Node { place, value };
                (Weighed { node, size, depth: 0 }, anchor, size)
            }
            Event::SequenceStart(anchor, _) => {
                open_one(&mut open, Open::new(place, anchor, OpenKind::List(Vec::new())))?;
                continue;
            }
            Event::MappingStart(anchor, _) => {
                open_one(&mut open, Open::new(place, anchor, OpenKind::Map(OpenMap::default())))?;
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(complete) = open.pop() else { continue };
                let anchor = complete.anchor;
                (complete.close(), anchor, NODE_SIZE)
            }
            Event::Alias(anchor) => {
                let known = anchors.get(&anchor);
                let known =
                    known.ok_or_else(|| wrong(place, "stands for something it is itself a part of"))?;
                // Weighed before it is copied.
                add(&mut weight, known.size, place)?;
                (known.clone(), 0, 0)
            }
            Event::DocumentStart(_) if root.is_some() => {
                return Err(wrong(place, "holds a second document; one config is one document"));
            }
            _ => continue,
        };
        if open.len() + done.depth > MAX_DEPTH {
            return Err(wrong(place, "is nested too deeply once its aliases are followed"));
        }
        add(&mut weight, fresh, place)?;
        if anchor != 0 {
            add(&mut weight, done.size, place)?;
            anchors.insert(anchor, done.clone());
        }
        match open.last_mut() {
            None => root = Some(done.node),
            Some(open) => open.put(done)?,
        }
    }
    root.ok_or_else(|| wrong(Place { line: 1, column: 1 }, "is empty"))
}

fn add(weight: &mut usize, size: usize, place: Place) -> Result<(), Note> {
    *weight = weight.saturating_add(size);
    if *weight > MAX_SIZE { Err(wrong(place, "holds too much for a config")) } else { Ok(()) }
}

fn open_one(open: &mut Vec<Open>, one: Open) -> Result<(), Note> {
    if open.len() >= MAX_DEPTH {
        return Err(wrong(one.place, "is nested too deeply"));
    }
    open.push(one);
    Ok(())
}

impl Open {
    fn new(place: Place, anchor: usize, kind: OpenKind) -> Self {
        Self { place, anchor, kind, size: NODE_SIZE, depth: 1 }
    }

    fn put(&mut self, done: Weighed) -> Result<(), Note> {
        self.size = self.size.saturating_add(done.size);
        self.depth = self.depth.max(done.depth + 1);
        match &mut self.kind {
            OpenKind::List(items) => items.push(done.node),
            OpenKind::Map(map) => map.put(done.node)?,
        }
        Ok(())
    }

    fn close(self) -> Weighed {
        let value = match self.kind {
            OpenKind::List(items) => Value::List(items),
            OpenKind::Map(OpenMap { mut entries, merged, mut seen, .. }) => {
                entries.extend(merged.into_iter().filter(|(key, _)| seen.insert(key.text.clone())));
                Value::Map(entries)
            }
        };
        Weighed { node: Node { place: self.place, value }, size: self.size, depth: self.depth }
    }
}

impl OpenMap {
    /// A key, or the value of the key before.
    fn put(&mut self, node: Node) -> Result<(), Note> {
        let Some(key) = self.key.take() else {
            let text = match node.value {
                Value::Text(text) => text,
                Value::Null => "null".to_owned(),
                _ => return Err(wrong(node.place, "a key must be a text")),
            };
            if text != "<<" && !self.seen.insert(text.clone()) {
                return Err(wrong(node.place, &format!("`{text}` is set twice")));
            }
            self.key = Some(Key { place: node.place, text });
            return Ok(());
        };
        match (key.text.as_str(), node.value) {
            ("<<", Value::Map(entries)) => self.merged.extend(entries),
            ("<<", Value::List(maps)) if maps.iter().all(|map| matches!(map.value, Value::Map(_))) => {
                self.merged.extend(maps.into_iter().flat_map(|map| match map.value {
                    Value::Map(entries) => entries,
                    _ => Vec::new(),
                }));
            }
            ("<<", _) => return Err(wrong(key.place, "`<<` merges maps, and this is none")),
            (_, value) => self.entries.push((key, Node { place: node.place, value })),
        }
        Ok(())
    }
}

fn place_of(span: Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn broken(error: &ScanError) -> Note {
    let place = Place { line: error.marker().line(), column: error.marker().col() + 1 };
    wrong(place, &format!("is no YAML: {}", error.info()))
}

fn wrong(place: Place, text: &str) -> Note {
    Note { place, kind: Kind::Wrong, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_know_their_places() {
        let node = parse(
            "proxy:\n  specs:\n  - id: 01_hello\n    container-cmd: [\"R\", '-e']\n  port: 8080 # usual\n",
        )
        .unwrap();
        let (proxy, inner) = &node.entries()[0];
        assert_eq!((proxy.text.as_str(), proxy.place), ("proxy", Place { line: 1, column: 1 }));
        let (specs, list) = &inner.entries()[0];
        assert_eq!(specs.place, Place { line: 2, column: 3 });
        let specs = list.items();
        assert_eq!(specs[0].entries()[0].1.text(), Some("01_hello"));
        assert_eq!(specs[0].entries()[1].1.texts(), ["R", "-e"]);
        assert_eq!(inner.entries()[1].1.text(), Some("8080"));
        assert_eq!(parse("a: x, y").unwrap().entries()[0].1.texts(), ["x", "y"]);
    }

    #[test]
    fn nothing_is_told_from_a_text_that_looks_like_it() {
        let value = |text: &str| parse(&format!("a: {text}\n")).unwrap().entries()[0].1.clone();
        for nothing in ["", "~", "null", "Null", "NULL", "[]"] {
            assert!(value(nothing).is_empty() && value(nothing).text().is_none(), "{nothing}");
        }
        for something in ["'~'", "\"null\"", "!!str null", "''", "[~]", "[[]]", "{}", "{0: a}"] {
            assert!(!value(something).is_empty(), "{something}");
        }
        assert_eq!(value("'null'").text(), Some("null"));
        assert_eq!(value("['~', ~, x]").texts(), ["~", "x"]);
        assert_eq!(parse("null: x\n").unwrap().entries()[0].0.text, "null");
    }

    #[test]
    fn aliases_and_merged_maps_are_followed() {
        let text = "base: &base\n  image: a\n  port: 1\napps:\n- <<: *base\n  port: 2\n- *base\n- <<: [*base, {more: 3}]\n";
        let node = parse(text).unwrap();
        let apps: Vec<Vec<(&str, Option<&str>)>> = node.entries()[1]
            .1
            .items()
            .iter()
            .map(|app| app.entries().iter().map(|(key, value)| (key.text.as_str(), value.text())).collect())
            .collect();
        assert_eq!(apps[0], [("port", Some("2")), ("image", Some("a"))]);
        assert_eq!(apps[1], [("image", Some("a")), ("port", Some("1"))]);
        assert_eq!(apps[2], [("image", Some("a")), ("port", Some("1")), ("more", Some("3"))]);
    }

    #[test]
    fn what_cannot_be_read_has_a_place() {
        let at = |text: &str| {
            let note = parse(text).unwrap_err();
            assert_eq!(note.kind, Kind::Wrong);
            (note.place.line, note.text)
        };
        assert_eq!(at("").0, 1);
        assert_eq!(at("a: 1\nb: [1, 2\n").0, 3);
        assert_eq!(at("a: 1\nb: *nowhere\n").0, 2);
        assert!(at("a: 1\n---\nb: 2\n").1.contains("second document"));
        assert!(at("? [a]\n: b\n").1.contains("key must be a text"));
        assert_eq!(at("a: 1\nb: 2\na: 3\n"), (3, "`a` is set twice".to_owned()));
        assert!(at("a: {<<: b}\n").1.contains("merges maps"));
    }

    #[test]
    fn what_a_file_stands_for_is_bounded() {
        let said = |text: &str| parse(text).unwrap_err().text;
        for opening in ["[", "{", "- ", "? ", "[{a: "] {
            let text = said(&opening.repeat(100_000));
            assert!(text.contains("deeply") || text.contains("no YAML"), "{opening}: {text}");
        }
        assert!(said(&format!("{}x{}", "[".repeat(65), "]".repeat(65))).contains("deeply"));
        // Nine lines that stand for ten to the ninth texts.
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let ten = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{ten}]\n"));
        }
        assert!(said(&bomb).contains("too much"), "{}", said(&bomb));
        // Each level is shallow, all of them together are not.
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for n in 1..200 {
            deep.push_str(&format!("a{n}: &a{n} [*a{}]\n", n - 1));
        }
        assert!(said(&deep).contains("deeply"), "{}", said(&deep));
        assert!(said("a: &a [*a]\n").contains("part of"), "{}", said("a: &a [*a]\n"));
        assert!(said(&format!("a: {}\n", "x".repeat(9 << 20))).contains("too much"));
    }
}

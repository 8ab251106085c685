//! One TOML file being read: every value knows its place, every mistake is collected, no key is left unread.
//!
//! [`Section`] is asked for the keys somebody wants; [`Section::finish`] then reports every key nobody asked for, and
//! names the nearest of those that were.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems};
use super::units;

/// A parsed file and what was found wrong with it so far.
pub(crate) struct Document<'t> {
    file: PathBuf,
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    problems: RefCell<Vec<(usize, Problem)>>,
}

/// A value and where it stands, for checks that come after reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    pub(crate) file: PathBuf,
    pub(crate) at: (usize, usize),
    pub(crate) key: String,
}

impl<T> Placed<T> {
    /// A mistake in this value.
    pub(crate) fn problem(&self, wrong: impl Into<String>, mend: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            at: Some(self.at),
            key: self.key.clone(),
            wrong: wrong.into(),
            mend: mend.into(),
        }
    }
}

impl<'t> Document<'t> {
    /// # Errors
    /// When the text is no TOML: each mistake of the syntax with its place.
    pub(crate) fn parse(file: &Path, text: &'t str) -> Result<Self, Problems> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self { file: file.to_owned(), text, root, problems: RefCell::default() };
        if errors.is_empty() {
            return Ok(document);
        }
        for error in errors {
            let message = error.message().trim().replace('\n', ", ");
            document.report(error.span().unwrap_or(0..0), "", format!("is not valid TOML: {message}"), "");
        }
        Err(Problems(document.into_problems()))
    }

    pub(crate) fn root(&self) -> Section<'_, 't> {
        Section {
            document: self,
            path: String::new(),
            table: self.root.get_ref(),
            start: 0,
            known: Vec::new(),
        }
    }

    /// Everything reported, in the order of the file.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|(offset, _)| *offset);
        problems.into_iter().map(|(_, problem)| problem).collect()
    }

    fn report(&self, span: Range<usize>, key: &str, wrong: impl Into<String>, mend: impl Into<String>) {
        self.problems.borrow_mut().push((
            span.start,
            Problem {
                file: self.file.clone(),
                at: Some(self.place(span.start)),
                key: key.to_owned(),
                wrong: wrong.into(),
                mend: mend.into(),
            },
        ));
    }

    /// Line and column of a byte, both from 1; columns count characters.
    fn place(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[start..].chars().count() + 1)
    }
}

/// A table being read.
pub(crate) struct Section<'d, 't> {
    document: &'d Document<'t>,
    /// Dotted, without a dot at its end.
    path: String,
    table: &'d DeTable<'t>,
    /// Where it begins.
    start: usize,
    known: Vec<&'static str>,
}

type Value<'d, 't> = &'d Spanned<DeValue<'t>>;

impl<'d, 't> Section<'d, 't> {
    /// A value read by `read`, which says what is wrong with it, if anything.
    pub(crate) fn get<T>(
        &mut self,
        key: &'static str,
        mend: &str,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.find(key)?;
        match read(value.get_ref()) {
            Ok(read) => Some(read),
            Err(wrong) => {
                self.document.report(value.span(), &self.full(key), wrong, mend);
                None
            }
        }
    }

    /// As [`Section::get`], with the place of the value.
    pub(crate) fn placed<T>(
        &mut self,
        key: &'static str,
        mend: &str,
        read: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<Placed<T>> {
        let value = self.get(key, mend, read)?;
        let start = self.table.get(key).map_or(0, |v| v.span().start);
        Some(Placed {
            value,
            file: self.document.file.clone(),
            at: self.document.place(start),
            key: self.full(key),
        })
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        self.get(key, "write a text in quotes", read_text)
    }

    /// A text that `parse` understands.
    pub(crate) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        key: &'static str,
        mend: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.get(key, mend, |value| {
            let text = read_text(value)?;
            parse(&text).map_err(|error| error.to_string())
        })
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.get(key, "write true or false", |value| {
            value.as_bool().ok_or_else(|| unexpected(value, "true or false"))
        })
    }

    pub(crate) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let mend = format!("write a duration like `{key} = \"5m\"` or \"1h30m\"");
        self.parsed(key, &mend, units::duration)
    }

    /// A duration above zero.
    pub(crate) fn positive_duration(&mut self, key: &'static str) -> Option<Duration> {
        let mend = format!("write a duration like `{key} = \"5m\"` or \"1h30m\"");
        self.parsed(key, &mend, |text| match units::duration(text) {
            Ok(Duration::ZERO) => Err(format!("is \"{text}\", which is no time at all")),
            other => other,
        })
    }

    /// A duration, or `"never"`, which is `Some(None)`.
    pub(crate) fn duration_or_never(&mut self, key: &'static str) -> Option<Option<Duration>> {
        let mend = format!("write a duration like `{key} = \"8h\"`, or \"never\"");
        self.parsed(key, &mend, |text| match text {
            "never" => Ok(None),
            _ => match units::duration(text)? {
                Duration::ZERO => Err(format!("is \"{text}\", which is no time at all")),
                other => Ok(Some(other)),
            },
        })
    }

    pub(crate) fn size(&mut self, key: &'static str) -> Option<u64> {
        let mend = format!("write a size like `{key} = \"512MiB\"`");
        self.get(key, &mend, |value| match value {
            DeValue::Integer(_) => whole_number(value, 0, u64::MAX),
            _ => units::size(&read_text(value)?),
        })
    }

    pub(crate) fn whole(&mut self, key: &'static str, least: u32, most: u32) -> Option<u32> {
        let mend = format!("write a whole number from {least} to {most}");
        self.get(key, &mend, |value| whole_u32(value, least, most))
    }

    pub(crate) fn whole_placed(&mut self, key: &'static str, least: u32, most: u32) -> Option<Placed<u32>> {
        let mend = format!("write a whole number from {least} to {most}");
        self.placed(key, &mend, |value| whole_u32(value, least, most))
    }

    /// A text or a list of texts.
    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let mend = format!("write `{key} = [\"…\", \"…\"]`");
        self.get(key, &mend, read_texts)
    }

    /// A list in which each text is understood by `parse`; each mistake has its own place.
    pub(crate) fn parsed_list<T, E: std::fmt::Display>(
        &mut self,
        key: &'static str,
        mend: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let value = self.find(key)?;
        let one = std::slice::from_ref(value);
        let items = value.get_ref().as_array().map_or(one, |array| &array[..]);
        let mut parsed = Vec::with_capacity(items.len());
        for item in items {
            let read = read_text(item.get_ref());
            match read.and_then(|text| parse(&text).map_err(|error| error.to_string())) {
                Ok(value) => parsed.push(value),
                Err(wrong) => self.document.report(item.span(), &self.full(key), wrong, mend),
            }
        }
        Some(parsed)
    }

    /// A table of free keys with a text each.
    pub(crate) fn text_map(
        &mut self,
        key: &'static str,
        good_key: impl Fn(&str) -> Result<(), String>,
    ) -> Option<BTreeMap<String, String>> {
        let value = self.find(key)?;
        let Some(table) = value.get_ref().as_table() else {
            let wrong = unexpected(value.get_ref(), "a table");
            self.document.report(
                value.span(),
                &self.full(key),
                wrong,
                format!("write `{key} = {{ NAME = \"value\" }}`"),
            );
            return None;
        };
        let mut map = BTreeMap::new();
        for (name, value) in table.iter() {
            let full = format!("{}.{}", self.full(key), name.get_ref());
            if let Err(wrong) = good_key(name.get_ref()) {
                self.document.report(name.span(), &full, wrong, "give it another name");
                continue;
            }
            let text = match value.get_ref() {
                DeValue::Integer(number) => Ok(number.as_str().to_owned()),
                DeValue::Boolean(flag) => Ok(flag.to_string()),
                other => read_text(other),
            };
            match text {
                Ok(text) if text.contains('\0') => {
                    self.document.report(value.span(), &full, "holds a NUL character", "leave it out");
                }
                Ok(text) => {
                    map.insert(name.get_ref().to_string(), text);
                }
                Err(wrong) => self.document.report(value.span(), &full, wrong, "write a text in quotes"),
            }
        }
        Some(map)
    }

    /// A table in this one.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Section<'d, 't>> {
        let value = self.find(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section {
                document: self.document,
                path: self.full(key),
                table,
                start: value.span().start,
                known: Vec::new(),
            }),
            None => {
                let wrong = unexpected(value.get_ref(), "a table");
                self.document.report(
                    value.span(),
                    &self.full(key),
                    wrong,
                    format!("write `[{}]`", self.full(key)),
                );
                None
            }
        }
    }

    /// The tables of a list of tables, `[[key]]`.
    pub(crate) fn sections(&mut self, key: &'static str) -> Vec<Section<'d, 't>> {
        let Some(value) = self.find(key) else { return Vec::new() };
        let mend = format!("write `[[{}]]` above each", self.full(key));
        let Some(items) = value.get_ref().as_array() else {
            let wrong = unexpected(value.get_ref(), "a list of tables");
            self.document.report(value.span(), &self.full(key), wrong, mend);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.full(key));
            match item.get_ref().as_table() {
                Some(table) => {
                    let start = item.span().start;
                    sections.push(Section { document: self.document, path, table, start, known: Vec::new() });
                }
                None => {
                    let wrong = unexpected(item.get_ref(), "a table");
                    self.document.report(item.span(), &path, wrong, mend.as_str());
                }
            }
        }
        sections
    }

    /// The tables in a table of free keys, `[key.<name>]`, each with its name and the name's place.
    pub(crate) fn named_sections(&mut self, key: &'static str) -> Vec<(Placed<String>, Section<'d, 't>)> {
        let Some(section) = self.section(key) else { return Vec::new() };
        let mut found = Vec::new();
        for (name, value) in section.table.iter() {
            let path = format!("{}.{}", section.path, name.get_ref());
            let Some(table) = value.get_ref().as_table() else {
                let wrong = unexpected(value.get_ref(), "a table");
                self.document.report(value.span(), &path, wrong, format!("write `[{path}]`"));
                continue;
            };
            let placed = Placed {
                value: name.get_ref().to_string(),
                file: self.document.file.clone(),
                at: self.document.place(name.span().start),
                key: path.clone(),
            };
            let start = name.span().start;
            found.push((placed, Section { document: self.document, path, table, start, known: Vec::new() }));
        }
        found
    }

    /// Whether a key is there at all.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reports a mistake of a key that is there, or of the section when it is not.
    pub(crate) fn report(&self, key: &str, wrong: impl Into<String>, mend: impl Into<String>) {
        let span = self.table.get(key).map_or(self.start..self.start, Spanned::span);
        self.document.report(span, &self.full(key), wrong, mend);
    }

    /// Reports every key nobody asked for.
    pub(crate) fn finish(self) {
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let mend = match units::nearest(name, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            self.document.report(key.span(), &self.full(name), "is not a key Skep knows", mend);
        }
    }

    fn find(&mut self, key: &'static str) -> Option<Value<'d, 't>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    fn full(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }
}

/// `is 5, expected a text`
pub(crate) fn unexpected(value: &DeValue<'_>, wanted: &str) -> String {
    let shown = match value {
        DeValue::String(text) => format!("\"{}\"", text.chars().take(60).collect::<String>()),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    format!("is {shown}, expected {wanted}")
}

pub(crate) fn read_text(value: &DeValue<'_>) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| unexpected(value, "a text"))
}

pub(crate) fn read_texts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value.as_array() {
        Some(array) => array.iter().map(|item| read_text(item.get_ref())).collect(),
        None => read_text(value).map(|text| vec![text]).map_err(|_| unexpected(value, "a list of texts")),
    }
}

fn whole_number(value: &DeValue<'_>, least: u64, most: u64) -> Result<u64, String> {
    let wrong = || unexpected(value, &format!("a whole number from {least} to {most}"));
    let number = value.as_integer().ok_or_else(wrong)?;
    let digits = number.as_str().replace('_', "");
    let parsed = u64::from_str_radix(&digits, number.radix()).map_err(|_| wrong())?;
    if (least..=most).contains(&parsed) { Ok(parsed) } else { Err(wrong()) }
}

fn whole_u32(value: &DeValue<'_>, least: u32, most: u32) -> Result<u32, String> {
    let number = whole_number(value, least.into(), most.into())?;
    u32::try_from(number).map_err(|_| unexpected(value, "a smaller number"))
}

//! Names that say nothing: drawers like `util`, and types that merely *manage*.

use super::Finding;
use crate::tree::Tree;

/// A module, folder or crate of such a name collects whatever has no home.
const DRAWERS: &[&str] =
    &["common", "util", "utils", "core", "shared", "helper", "helpers", "manager", "misc"];

const SUFFIXES: &[&str] = &["Manager", "Service", "Handler"];

/// Types whose suffix a foreign trait or format forces on us.
const FORCED: &[&str] = &[];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts().filter(|(path, _)| is_code(path)) {
        if let Some(part) = path.split('/').map(stem).find(|part| DRAWERS.contains(part)) {
            findings
                .push(Finding::of_file(path, format!("`{part}` says nothing; name it after its subject")));
        }
        for (index, line) in text.lines().enumerate() {
            let says = drawer_module(line)
                .map(|name| format!("`{name}` says nothing; name the module after its subject"))
                .or_else(|| {
                    suffixed_type(line).map(|name| format!("`{name}`: say what it is, not that it manages"))
                });
            findings.extend(says.map(|says| Finding::at(path, index, says)));
        }
    }
    findings
}

fn is_code(path: &str) -> bool {
    [".rs", ".ts", ".tsx", ".toml"].iter().any(|end| path.ends_with(end))
}

fn stem(part: &str) -> &str {
    part.split('.').next().unwrap_or(part)
}

/// The name in `mod <name>` when it is a drawer.
fn drawer_module(line: &str) -> Option<&str> {
    let name = after_keyword(line, &["mod"])?;
    DRAWERS.contains(&name).then_some(name)
}

/// The name in `struct <Name>` and its like when it ends in a suffix we do not use.
fn suffixed_type(line: &str) -> Option<&str> {
    let name = after_keyword(line, &["struct", "enum", "trait", "type", "class", "interface"])?;
    let suffixed = SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    (suffixed && !FORCED.contains(&name)).then_some(name)
}

/// The identifier that follows one of the keywords, when the line declares something.
fn after_keyword<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let mut words = line.split_whitespace().skip_while(|word| {
        word.starts_with("pub") || ["export", "default", "abstract", "declare"].contains(word)
    });
    keywords.contains(&words.next()?).then_some(())?;
    words.next()?.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of([(path, text)])).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_drawer_is_found_as_file_folder_and_module() {
        assert_eq!(says("crates/edge/src/util.rs", "").len(), 1);
        assert_eq!(says("crates/common/src/lib.rs", "").len(), 1);
        assert_eq!(
            says("crates/edge/src/lib.rs", "pub(crate) mod helpers {"),
            ["crates/edge/src/lib.rs:1: `helpers` says nothing; name the module after its subject"]
        );
        assert_eq!(says("crates/edge/src/utility_poles.rs", "mod commonwealth;"), [""; 0]);
    }

    #[test]
    fn types_that_merely_manage_are_found() {
        assert_eq!(says("a.rs", "pub struct SeatManager<T> {").len(), 1);
        assert_eq!(says("a.ts", "export default class LoginHandler {").len(), 1);
        assert_eq!(says("a.rs", "impl tower::Service<Request> for Edge {"), [""; 0]);
        assert_eq!(says("a.rs", "use hyper::service::Service;"), [""; 0]);
    }

    #[test]
    fn prose_is_left_alone() {
        assert_eq!(says("docs/util.md", "struct FooManager"), [""; 0]);
    }
}

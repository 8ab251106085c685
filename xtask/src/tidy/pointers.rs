//! Documents point at things that are there: the paths ARCHITECTURE.md names, and every relative link in Markdown.

use super::Finding;
use crate::tree::Tree;

/// A code span in ARCHITECTURE.md that starts so is a path.
const ROOTS: &[&str] =
    &["crates/", "apps/", "xtask/", "tests/", "examples/", "docs/", "deploy/", "web/", "bench/", ".ci/"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts().filter(|(path, _)| path.ends_with(".md")) {
        let mut in_block = false;
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
                continue;
            }
            if path == "ARCHITECTURE.md" {
                let words: Vec<&str> = if in_block { line.split_whitespace().collect() } else { spans(line) };
                for word in words.into_iter().filter(|word| names_path(word)) {
                    if !tree.has(word) {
                        findings.push(Finding::at(path, index, format!("`{word}` is not there")));
                    }
                }
            }
            if !in_block {
                for link in links(line).filter(|link| !tree.has(&resolve(path, link))) {
                    findings.push(Finding::at(path, index, format!("the link to `{link}` leads nowhere")));
                }
            }
        }
    }
    findings
}

fn names_path(word: &str) -> bool {
    ROOTS.iter().any(|root| word.starts_with(root)) && !word.contains(['<', '*', '{', '…'])
}

/// What stands between backticks.
fn spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// The targets of `[text](target)` that lie in the repository, without their `#fragment`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| {
            !target.contains("://") && !target.starts_with(['#', '/']) && !target.starts_with("mailto:")
        })
        .filter_map(|target| target.split(['#', ' ']).next())
        .filter(|target| !target.is_empty())
}

/// A link's target as a path from the root.
fn resolve(document: &str, link: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_the_architecture_names_must_be_there() {
        let text = "`crates/edge/src/lib.rs`, `crates/edge/`, `crates/gone.rs`, `crates/<noun>`\n```\ncrates/lost  x\n```\n";
        let tree = Tree::of([("ARCHITECTURE.md", text), ("crates/edge/src/lib.rs", "")]);
        let found: Vec<_> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md:1: `crates/gone.rs` is not there",
                "ARCHITECTURE.md:3: `crates/lost` is not there"
            ]
        );
    }

    #[test]
    fn a_relative_link_must_lead_somewhere() {
        let text =
            "[a](../README.md#top) [b](apps.md) [c](https://example.com) [d](#here) [e](../LICENSE \"t\")";
        let tree = Tree::of([("docs/README.md", text), ("README.md", ""), ("LICENSE", "")]);
        let found: Vec<_> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["docs/README.md:1: the link to `apps.md` leads nowhere"]);
    }

    #[test]
    fn links_in_code_blocks_are_examples() {
        let tree = Tree::of([("docs/a.md", "```\n[x](nowhere.md)\n```\n")]);
        assert_eq!(check(&tree), []);
    }
}

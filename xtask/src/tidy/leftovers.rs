//! What was meant to be temporary, or belongs to one machine only.

use super::Finding;
use crate::tree::Tree;

/// In these endings, a line holding the text is a leftover. The texts are split so that this file passes its own check.
const LEFTOVERS: &[(&[&str], &str, &str)] = &[
    (&[".rs"], concat!("#[", "ignore"), "a test that is skipped tests nothing; mend it or take it out"),
    (&[".rs"], concat!("todo", "!("), "finish it"),
    (&[".rs"], concat!("unimplemented", "!("), "finish it"),
    (&[".ts", ".tsx"], concat!(".", "only("), "runs alone and hides the rest"),
    (&[".ts", ".tsx"], concat!("test", ".fixme("), "a test that is skipped tests nothing"),
    (&[".ts", ".tsx"], concat!("@ts-", "ignore"), "say what is wrong with `@ts-expect-error` and a reason"),
    (
        &["package-lock.json"],
        concat!("\"resolved\": \"", "http"),
        "a lock file names versions, not addresses",
    ),
];

/// Folders of one person's machine. The project must not know them.
const MACHINE_FOLDERS: &[&str] =
    &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];

const TEXT_ENDINGS: &[&str] =
    &[".rs", ".ts", ".tsx", ".md", ".toml", ".sh", ".py", ".R", ".json", ".service", "Makefile", ".ci/run"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts() {
        for (index, line) in text.lines().enumerate() {
            let leftover = LEFTOVERS.iter().find(|(endings, word, _)| {
                endings.iter().any(|end| path.ends_with(end)) && line.contains(word)
            });
            findings.extend(
                leftover.map(|(_, word, mend)| Finding::at(path, index, format!("`{word}`: {mend}"))),
            );
            if path.ends_with(".rs")
                && !path.contains("/tests/")
                && line.starts_with(concat!("#![", "allow("))
                && !line.contains("reason")
            {
                findings.push(Finding::at(path, index, "allow where it is needed, or say the `reason`"));
            }
            if TEXT_ENDINGS.iter().any(|end| path.ends_with(end))
                && let Some(folder) = machine_folder(line)
            {
                let says = format!("`{folder}` is a folder of one machine; take it from the environment");
                findings.push(Finding::at(path, index, says));
            }
        }
    }
    findings
}

/// A path that *starts* with a machine's folder; a URL path such as `/apps/home/` does not.
fn machine_folder(line: &str) -> Option<&'static str> {
    MACHINE_FOLDERS.iter().copied().find(|folder| {
        line.match_indices(folder).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + folder.len()..].chars().next();
            before.is_none_or(|c| !c.is_alphanumeric() && !"_-.}/".contains(c))
                && after.is_some_and(|c| c.is_alphanumeric())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Tree::of([(path, text)])).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn each_leftover_is_found_where_it_matters_only() {
        for (endings, word, _) in LEFTOVERS {
            let path = format!("folder/x{}", endings[0].trim_start_matches("package-lock"));
            let path = if endings[0] == "package-lock.json" { "web/package-lock.json" } else { &path };
            assert_eq!(lines(path, &format!("first\n  {word} …")), [2], "{word}");
            assert_eq!(lines("notes.txt", word), [0; 0], "{word}");
        }
    }

    #[test]
    fn a_whole_file_is_exempted_with_a_reason_only() {
        let bare = concat!("#![", "allow(dead_code)]");
        assert_eq!(lines("crates/edge/src/lib.rs", bare), [1]);
        assert_eq!(lines("crates/edge/tests/it/main.rs", bare), [0; 0]);
        assert_eq!(lines("a.rs", concat!("#![", "allow(dead_code, reason = \"generated\")]")), [0; 0]);
    }

    #[test]
    fn a_machine_s_own_folder_is_found_a_url_is_not() {
        for folder in MACHINE_FOLDERS {
            assert_eq!(lines("a.rs", &format!("open(\"{folder}x\")")), [1], "{folder}");
            assert_eq!(lines("a.rs", &format!("get(\"/apps{folder}x\")")), [0; 0], "{folder}");
        }
    }
}

//! The repository as a map from path to text: what git tracks plus what it would track.
//!
//! Checks take a [`Tree`], never the file system, so that their tests can plant faults in a tree of three lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Paths are relative to the repository's root, with `/` between their parts.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    texts: BTreeMap<String, String>,
    /// Files that are not UTF-8 text: they exist, that is all we say of them.
    binaries: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn of_repository() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no folder")?;
        let listing = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("cannot run git")?;
        ensure!(
            listing.status.success(),
            "git ls-files: {}",
            String::from_utf8_lossy(&listing.stderr).trim()
        );
        let mut tree = Self::default();
        for path in String::from_utf8(listing.stdout)?.split_terminator('\0') {
            // A file deleted but not yet committed is still listed.
            let Ok(bytes) = fs::read(root.join(path)) else { continue };
            match String::from_utf8(bytes) {
                Ok(text) => drop(tree.texts.insert(path.to_owned(), text)),
                Err(_) => drop(tree.binaries.insert(path.to_owned())),
            }
        }
        Ok(tree)
    }

    #[cfg(test)]
    pub(crate) fn of<const N: usize>(files: [(&str, &str); N]) -> Self {
        let texts = files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
        Self { texts, binaries: BTreeSet::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len() + self.binaries.len()
    }

    /// Every text file.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.texts.keys().chain(&self.binaries).map(String::as_str)
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// Whether a file or a folder is there.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        self.paths().any(|known| known == path || known.starts_with(&folder))
    }
}

//! The house rules. Each check takes the tree and answers with what is to mend; a rule that cannot say how to mend what
//! it found is not a rule.

mod arrows;
mod leftovers;
mod lengths;
mod names;
mod pointers;

use std::fmt;

use crate::tree::Tree;

/// One thing to mend, printed in the form editors can jump to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// 1 for the first line; 0 when the whole file is meant.
    pub(crate) line: usize,
    pub(crate) says: String,
}

impl Finding {
    fn of_file(path: &str, says: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: 0, says: says.into() }
    }

    fn at(path: &str, index: usize, says: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: index + 1, says: says.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.says),
            line => write!(f, "{}:{line}: {}", self.path, self.says),
        }
    }
}

/// All findings, by path and line.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = [
        arrows::check(tree),
        lengths::check(tree),
        names::check(tree),
        leftovers::check(tree),
        pointers::check(tree),
    ]
    .concat();
    findings.sort();
    findings
}

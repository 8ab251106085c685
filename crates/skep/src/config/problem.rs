//! What is wrong with a config file, told so that it can be mended without a manual.

use std::fmt;
use std::path::PathBuf;

/// One mistake: where, which key, what is wrong, how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) file: PathBuf,
    /// Line and column, both from 1. `None` when the file as a whole is meant.
    pub(crate) at: Option<(usize, usize)>,
    /// The full dotted key; empty when no key is meant.
    pub(crate) key: String,
    pub(crate) wrong: String,
    /// What to do about it; may be empty when `wrong` says it all.
    pub(crate) mend: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.wrong)?;
        if !self.mend.is_empty() {
            write!(f, "; {}", self.mend)?;
        }
        Ok(())
    }
}

/// Everything wrong that was found in one go, in reading order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    pub(crate) fn one(file: impl Into<PathBuf>, wrong: impl Into<String>, mend: impl Into<String>) -> Self {
        Self(vec![Problem {
            file: file.into(),
            at: None,
            key: String::new(),
            wrong: wrong.into(),
            mend: mend.into(),
        }])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

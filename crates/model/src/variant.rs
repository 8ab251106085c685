//! Which of a person's instances of an app.

use serde::{Deserialize, Serialize};

use crate::{Choice, InstanceName};

/// What tells one person's instances of an app apart. The one without a name is the one everybody has first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Variant {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<InstanceName>,
    /// What its owner chose before it started.
    #[serde(default, skip_serializing_if = "Choice::is_empty")]
    pub chosen: Choice,
}

impl Variant {
    pub fn named(name: Option<InstanceName>) -> Self {
        Self { name, chosen: Choice::new() }
    }
}

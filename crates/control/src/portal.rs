//! What the list of apps looks like, as the config says it. It may change while the server runs.

use skep_model::Icon;

/// The look of the portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortalConfig {
    /// Its heading.
    pub title: String,
    /// In the place of Skep's mark.
    pub logo: Option<Icon>,
    /// What everybody is told above the list. Plain text.
    pub message: Option<String>,
    /// The mail address of whoever helps.
    pub support: Option<String>,
    /// Sections in the order they are shown in. Others that apps name follow, by name.
    pub sections: Vec<PortalSection>,
}

/// One part of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortalSection {
    /// What apps call it.
    pub name: String,
    /// What visitors read.
    pub title: String,
}

impl Default for PortalConfig {
    fn default() -> Self {
        Self { title: "Apps".to_owned(), logo: None, message: None, support: None, sections: Vec::new() }
    }
}

//! Which app a path belongs to.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use skep_model::{AppSpec, Framework, Source};

/// One published app, as the edge needs it.
#[derive(Debug, Clone)]
pub struct Route {
    pub spec: Arc<AppSpec>,
    /// The folder to serve, for a static site. Everything else claims a seat.
    pub static_dir: Option<PathBuf>,
}

/// An immutable snapshot of everything published. Built off the event loops, swapped in whole.
#[derive(Debug, Default)]
pub struct RouteTable {
    root: Option<Route>,
    by_segment: HashMap<String, Route>,
}

impl RouteTable {
    pub fn new(apps: &[Arc<AppSpec>]) -> Self {
        let mut table = Self::default();
        for spec in apps {
            let static_dir = match (&spec.source, spec.framework) {
                (Source::Folder { dir, .. }, Framework::Static) => Some(dir.clone()),
                _ => None,
            };
            let route = Route { spec: Arc::clone(spec), static_dir };
            match spec.mount.as_str().trim_matches('/') {
                "" => table.root = Some(route),
                segment => {
                    table.by_segment.insert(segment.to_owned(), route);
                }
            }
        }
        table
    }
}

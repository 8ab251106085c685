//! Which app a path belongs to.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use skep_model::{AppId, AppSpec, Framework, Source};

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
    mounts: HashMap<AppId, String>,
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    App(&'a Route),
    /// An app's mount path without its last slash.
    Slash,
}

impl RouteTable {
    pub fn new(apps: &[Arc<AppSpec>]) -> Self {
        let mut table = Self::default();
        for spec in apps {
            let static_dir = match (&spec.source, spec.framework) {
                (Source::Folder { dir, .. }, Framework::Static) => Some(dir.clone()),
                _ => None,
            };
            table.mounts.insert(spec.id.clone(), spec.mount.as_str().to_owned());
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

    /// `path` is normalised. The app at `/` takes what no other app does.
    pub(crate) fn find(&self, path: &str) -> Option<Found<'_>> {
        let rest = path.strip_prefix('/')?;
        let (segment, slash) = match rest.split_once('/') {
            Some((segment, _)) => (segment, true),
            None => (rest, false),
        };
        match self.by_segment.get(segment) {
            Some(route) if slash => Some(Found::App(route)),
            Some(_) => Some(Found::Slash),
            None => self.root.as_ref().map(Found::App),
        }
    }

    /// Where an app's URLs begin, with the slash at its end.
    pub(crate) fn mount_of(&self, app: &AppId) -> Option<&str> {
        self.mounts.get(app).map(String::as_str)
    }
}

//! Which app, or which ordinary service, a request belongs to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use skep_model::{AppId, AppSpec, Framework, InstanceName, Mount, Source};

use crate::services::ServiceRoute;

/// One published app, as the edge needs it.
#[derive(Debug, Clone)]
pub struct Route {
    pub spec: Arc<AppSpec>,
    /// The folder to serve, for a static site. Everything else claims a seat.
    pub static_dir: Option<PathBuf>,
    /// Set for an ordinary service: its tasks are not ours to start, so there is no seat to claim.
    pub service: Option<Arc<ServiceRoute>>,
    /// Which of the visitor's own instances is asked for.
    pub name: Option<InstanceName>,
}

impl Route {
    fn of_app(spec: &Arc<AppSpec>, static_dir: Option<PathBuf>) -> Self {
        Self { spec: Arc::clone(spec), static_dir, service: None, name: None }
    }
}

/// An immutable snapshot of everything published. Built off the event loops, swapped in whole.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Whatever name the visitor used.
    anywhere: Mounts,
    /// Services that are published under a host name of their own, in lower case.
    by_host: HashMap<String, Mounts>,
    published: HashMap<AppId, Arc<AppSpec>>,
}

/// What is published under one name.
#[derive(Debug, Default)]
struct Mounts {
    root: Option<Route>,
    /// By the path without its outer slashes.
    by_path: HashMap<String, Route>,
    /// Slashes in the longest of these paths.
    deepest: usize,
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    App(&'a Route),
    /// One of the visitor's own instances of an app.
    Named(Route),
    /// An address that looks like a named instance's of this app, but can be none.
    Misnamed(Route, Misnamed),
    /// A mount path without its last slash.
    Slash,
}

/// Why nothing can be at the address of a named instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misnamed {
    #[error("this app is shared by everybody who uses it, so nobody has instances of their own with a name")]
    Shared,
    #[error(
        "a name has 1 to 32 of a-z, 0-9, `_` and `-`, and starts with a letter or a digit (for example `north`)"
    )]
    BadName,
}

impl Misnamed {
    pub fn code(self) -> &'static str {
        match self {
            Self::Shared => "not-per-user",
            Self::BadName => "bad-instance-name",
        }
    }
}

impl RouteTable {
    pub fn new(apps: &[Arc<AppSpec>]) -> Self {
        Self::with_services(apps, &[])
    }

    /// Apps come first: a service whose place or id is taken is left out.
    pub fn with_services(apps: &[Arc<AppSpec>], services: &[Arc<ServiceRoute>]) -> Self {
        let mut table = Self::default();
        for spec in apps {
            let static_dir = match (&spec.source, spec.framework) {
                (Source::Folder { dir, .. }, Framework::Static) => Some(dir.clone()),
                _ => None,
            };
            table.published.insert(spec.id.clone(), Arc::clone(spec));
            table.anywhere.put(Route::of_app(spec, static_dir));
        }
        for service in services {
            let spec = Arc::clone(&service.spec);
            let mounts = match &service.host {
                None => &mut table.anywhere,
                Some(host) => table.by_host.entry(host.to_ascii_lowercase()).or_default(),
            };
            let Entry::Vacant(published) = table.published.entry(spec.id.clone()) else { continue };
            let route = Route { service: Some(Arc::clone(service)), ..Route::of_app(&spec, None) };
            if mounts.put(route) {
                published.insert(spec);
            }
        }
        table
    }

    /// `path` is normalised. A name's own services come first, then what is published under every name; in both, the longest
    /// path that fits has it, and the app at `/` takes what no other does.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Found<'_>> {
        self.under(host)
            .and_then(|mounts| mounts.find(path))
            .or_else(|| self.find_named(path))
            .or_else(|| self.anywhere.find(path))
    }

    /// `/<app>~<name>/…`.
    fn find_named(&self, path: &str) -> Option<Found<'_>> {
        let rest = path.strip_prefix('/')?;
        let (segment, slash) = match rest.split_once('/') {
            Some((segment, _)) => (segment, true),
            None => (rest, false),
        };
        let (stem, name) = segment.split_once(InstanceName::SIGN)?;
        // No mount holds this sign.
        let at_root = || self.anywhere.root.as_ref().filter(|route| route.spec.id.as_str() == stem);
        let spec = &self.anywhere.by_path.get(stem).or_else(at_root)?.spec;
        if matches!(spec.source, Source::Service(_)) {
            return None;
        }
        let route = Route::of_app(spec, None);
        Some(match name.parse() {
            _ if !spec.per_user || spec.framework == Framework::Static => {
                Found::Misnamed(route, Misnamed::Shared)
            }
            Err(_) => Found::Misnamed(route, Misnamed::BadName),
            Ok(_) if !slash => Found::Slash,
            Ok(name) => Found::Named(Route { name: Some(name), ..route }),
        })
    }

    /// Whether a service is published under this name, which is one of ours then.
    pub(crate) fn serves_host(&self, host: &str) -> bool {
        self.under(host).is_some()
    }

    fn under(&self, host: &str) -> Option<&Mounts> {
        // Most servers have no such names, and look nothing up.
        if self.by_host.is_empty() {
            return None;
        }
        self.by_host.get(&host.to_ascii_lowercase())
    }

    /// What is published as `app` now.
    pub(crate) fn published(&self, app: &AppId) -> Option<&Arc<AppSpec>> {
        self.published.get(app)
    }

    /// Where an app's URLs begin, or those of a named instance of it.
    pub(crate) fn mount_of(&self, app: &AppId, name: Option<&InstanceName>) -> Option<Mount> {
        Some(self.published.get(app)?.mount_of(name))
    }
}

impl Mounts {
    /// Whether the place was free.
    fn put(&mut self, route: Route) -> bool {
        match route.spec.mount.as_str().trim_matches('/') {
            "" if self.root.is_some() => return false,
            "" => self.root = Some(route),
            path => match self.by_path.entry(path.to_owned()) {
                Entry::Vacant(free) => {
                    self.deepest = self.deepest.max(path.matches('/').count());
                    free.insert(route);
                }
                Entry::Occupied(_) => return false,
            },
        }
        true
    }

    fn find(&self, path: &str) -> Option<Found<'_>> {
        let rest = path.strip_prefix('/')?;
        // The longest path first; most servers have none of more than one part, and look once.
        for depth in (0..=self.deepest).rev() {
            let (stem, slash) = match rest.match_indices('/').nth(depth) {
                Some((end, _)) => (&rest[..end], true),
                None if rest.matches('/').count() == depth => (rest, false),
                None => continue,
            };
            match self.by_path.get(stem) {
                Some(route) if slash => return Some(Found::App(route)),
                Some(_) => return Some(Found::Slash),
                None => {}
            }
        }
        self.root.as_ref().map(Found::App)
    }
}

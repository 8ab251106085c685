//! Config: files and folders in, [`AppSpec`]s and server settings out.
//!
//! Three steps, each in its own files: *raw* text becomes a tree whose values know their place ([`document`]); *checked*
//! keys are read from it, mistakes collected and unknown keys refused ([`server_keys`], [`app_keys`]); folders are looked
//! at ([`discover`]) and the layers laid over each other into *typed* specs ([`settle`]). A mistake in the server's file
//! refuses the file; a mistake in one app's folder refuses that app and no other.

mod app_keys;
pub(crate) mod auth_keys;
mod container_keys;
pub(crate) mod discover;
mod docker_keys;
mod document;
mod parameter_keys;
mod portal_keys;
pub(crate) mod problem;
mod revision;
mod route_keys;
pub(crate) mod server_keys;
mod settle;
mod swarm_keys;
#[cfg(test)]
mod tests;
pub(crate) mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_backends::framework::{NotRecognised, Wanted};
use skep_control::PortalConfig;
use skep_control::services::ServiceAsk;
use skep_model::{AppId, AppSpec};

use crate::import::shinyproxy_yml;

pub(crate) use app_keys::AppKeys;
pub(crate) use discover::Dirty;
use discover::{Found, Overrides, Scanner, sites_of};
pub(crate) use parameter_keys::good_name as good_parameter_name;
use problem::{Problem, Problems};
pub(crate) use server_keys::{ServerFile, ServerKeys};

/// Used when no `--config` and no PATH is given.
pub(crate) const SYSTEM_CONFIG: &str = "/etc/skep/skep.toml";

/// Everything that is published, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    pub(crate) server: ServerKeys,
    /// By id.
    pub(crate) apps: Vec<Arc<AppSpec>>,
    /// Ordinary services, beside those that say by their labels that they want to be published.
    pub(crate) routes: Vec<ServiceAsk>,
    pub(crate) portal: Arc<PortalConfig>,
    /// Folders in which nothing was recognised, and why.
    pub(crate) unrecognised: Vec<(PathBuf, NotRecognised)>,
    /// Mistakes that keep single apps from being published, or from changing. Also the server's file, when it was good
    /// before and is broken now.
    pub(crate) refused: Vec<Problem>,
    /// Worth telling; nothing is kept from working.
    pub(crate) warnings: Vec<String>,
    /// What to watch.
    pub(crate) watched: Watched,
}

/// The places whose changes matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) config: Option<PathBuf>,
    /// Folders of apps: entries that come and go.
    pub(crate) parents: BTreeSet<PathBuf>,
    /// App folders and the names of files that count in each.
    pub(crate) apps: BTreeMap<PathBuf, BTreeSet<String>>,
    /// Folders that are no apps yet: any new file may make them one.
    pub(crate) others: BTreeSet<PathBuf>,
}

/// Reads config and folders, again and again, each time only what may have changed.
pub(crate) struct Loader {
    file: Option<PathBuf>,
    dialect: Dialect,
    paths: Vec<PathBuf>,
    scanner: Scanner,
    last_file: Option<ServerFile>,
    last_apps: BTreeMap<AppId, Arc<AppSpec>>,
    euid: u32,
}

/// How the server's file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Skep,
    /// Carried over each time it is read, with this process's environment.
    ShinyProxy,
}

impl Loader {
    /// As [`Loader::new`], with a ShinyProxy application.yml for the server's config.
    pub(crate) fn shinyproxy(file: PathBuf, paths: Vec<PathBuf>) -> Self {
        Self { dialect: Dialect::ShinyProxy, ..Self::new(Some(file), paths) }
    }

    /// `file`: the server's config. `paths`: sites named on the command line, published besides the file's.
    pub(crate) fn new(file: Option<PathBuf>, paths: Vec<PathBuf>) -> Self {
        let file = file.or_else(|| {
            let system = PathBuf::from(SYSTEM_CONFIG);
            (paths.is_empty() && system.exists()).then_some(system)
        });
        Self {
            file,
            dialect: Dialect::Skep,
            paths,
            scanner: Scanner::default(),
            last_file: None,
            last_apps: BTreeMap::new(),
            euid: rustix::process::geteuid().as_raw(),
        }
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads the server's file and whatever is dirty of the folders.
    ///
    /// # Errors
    /// When there is no good server config, now or before, or a site cannot be read. Whoever has a config already goes on
    /// with that.
    pub(crate) fn load(&mut self, dirty: &Dirty) -> Result<Config, Problems> {
        let (file, mut refused, differences) = self.server_file()?;
        let mut sites = sites_of(&self.paths);
        sites.extend(file.sites.iter().cloned());
        let overrides: Overrides = file
            .apps
            .iter()
            .map(|(id, keys)| {
                let command = keys.command.is_some();
                (id.value.clone(), Wanted { framework: keys.framework, command })
            })
            .collect();
        let mut found = self.scanner.scan(&sites, &overrides, dirty)?;
        let images = || file.apps.iter().filter(|(_, keys)| keys.image.is_some()).map(|(id, _)| &id.value);
        found.refuse_strangers(images(), self.euid);
        found.add_images(images());
        refused.extend(found.refused.iter().cloned());
        let apps = self.settle_all(&file, &found, &mut refused);
        let config = Config {
            warnings: differences.into_iter().chain(warnings(&file, &apps)).collect(),
            watched: self.watched(&found),
            server: file.server.clone(),
            routes: file.routes.clone(),
            portal: Arc::new(file.portal.clone()),
            unrecognised: found.unrecognised,
            apps,
            refused,
        };
        self.last_file = Some(file);
        Ok(config)
    }

    /// The server's file, or the last good state of it with what is wrong now; and what is to be known of its dialect.
    fn server_file(&self) -> Result<(ServerFile, Vec<Problem>, Option<String>), Problems> {
        let Some(path) = &self.file else { return Ok((ServerFile::default(), Vec::new(), None)) };
        let read = discover::read_config(path).and_then(|text| match (text, self.dialect) {
            (Some(text), Dialect::Skep) => Ok((ServerFile::parse(path, &text)?, None)),
            (Some(text), Dialect::ShinyProxy) => {
                let imported = shinyproxy_yml(&text, &|name| std::env::var(name).ok());
                let differences = imported.differences(path)?;
                Ok((ServerFile::parse(path, &imported.toml)?, differences))
            }
            (None, _) => Err(Problems::one(path, "does not exist", "name a config file that does")),
        });
        match (read, &self.last_file) {
            (Ok((file, differences)), _) => Ok((file, Vec::new(), differences)),
            (Err(problems), Some(last)) => Ok((last.clone(), problems.0, None)),
            (Err(problems), None) => Err(problems),
        }
    }

    fn settle_all(
        &mut self,
        file: &ServerFile,
        found: &Found,
        refused: &mut Vec<Problem>,
    ) -> Vec<Arc<AppSpec>> {
        let overrides: BTreeMap<&AppId, &AppKeys> =
            file.apps.iter().map(|(id, keys)| (&id.value, keys)).collect();
        let socket = file.server.docker.socket();
        let swarm = file.server.swarm.is_some();
        let surroundings = settle::Surroundings { euid: self.euid, socket: socket.as_deref(), swarm };
        let mut apps = BTreeMap::new();
        for app in &found.apps {
            if let Some(broken) = &app.folder.broken {
                refused.extend(broken.0.iter().cloned());
                if !app.folder.usable {
                    continue;
                }
            }
            let before = self.last_apps.get(&app.id);
            let above = overrides.get(&app.id).copied();
            match settle::settle(app, &file.defaults, above, &surroundings) {
                Ok(spec) => {
                    let kept = before.filter(|before| ***before == spec).cloned();
                    apps.insert(app.id.clone(), kept.unwrap_or_else(|| Arc::new(spec)));
                }
                Err(problem) => {
                    refused.push(problem);
                    if let Some(before) = before {
                        apps.insert(app.id.clone(), Arc::clone(before));
                    }
                }
            }
        }
        self.last_apps = apps;
        self.last_apps.values().cloned().collect()
    }

    fn watched(&self, found: &Found) -> Watched {
        let mut watched = Watched {
            config: self.file.clone(),
            parents: found.parents.iter().cloned().collect(),
            others: found.unrecognised.iter().map(|(dir, _)| dir.clone()).collect(),
            apps: BTreeMap::new(),
        };
        for app in found.apps.iter().filter(|app| app.folder.is_real()) {
            let mut names: BTreeSet<String> =
                [discover::CONFIG_FILE, revision::RESTART_FILE].map(str::to_owned).into();
            if let Ok(detected) = &app.folder.detected {
                names.extend(detected.watch.iter().cloned());
            }
            watched.apps.insert(app.folder.dir.clone(), names);
        }
        watched
    }
}

fn warnings(file: &ServerFile, apps: &[Arc<AppSpec>]) -> Vec<String> {
    let mut warnings = Vec::new();
    let known: BTreeSet<&str> = apps.iter().map(|app| app.id.as_str()).collect();
    for (id, _) in &file.apps {
        if !known.contains(id.value.as_str()) {
            let mend = match units::nearest(id.value.as_str(), known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`skep config check` lists the apps there are".to_owned(),
            };
            warnings.push(id.problem("describes an app that is not there", mend).to_string());
        }
    }
    if file.server.console_host.is_some() && file.server.public_url.is_none() {
        let text = "`server.console_host` without `server.public_url`: links to apps on the console's host are refused \
                    instead of leading to where apps are";
        warnings.push(text.to_owned());
    }
    for app in apps {
        let rules = !app.access.users.is_empty() || !app.access.groups.is_empty();
        if rules && file.server.auth.provider == auth_keys::Provider::None {
            warnings
                .push(format!("`{}` has access rules, which mean nothing without a login provider", app.id));
        }
    }
    warnings
}

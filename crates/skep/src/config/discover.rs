//! Which folders are apps, and what each is called.
//!
//! Reads are bounded: per folder one look by [`framework::detect`], its own `skep.toml` if there is one, and the small files
//! the revision covers. What was learned is kept, so that a change in one folder reads that folder only. Nothing here
//! decides what an app's keys mean; that is [`super::settle`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_backends::framework::{self, Detection, NotRecognised, Wanted};
use skep_model::{AppId, Mount};

use super::app_keys::AppKeys;
use super::document::{Document, Placed};
use super::problem::{Problem, Problems};
use super::revision;
use super::server_keys::SiteKeys;

/// An app folder's own config, and the server's.
pub(crate) const CONFIG_FILE: &str = "skep.toml";

/// No config file of ours is larger; a larger one is a mistake, not a config.
pub(crate) const CONFIG_AT_MOST: u64 = 1 << 20;

/// What is known of one folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) dir: PathBuf,
    /// The folder's own `skep.toml`; when that is broken, what it said while it was not.
    pub(crate) keys: AppKeys,
    pub(crate) detected: Result<Detection, NotRecognised>,
    /// What was known beforehand when the folder was looked at.
    wanted: Wanted,
    /// [`revision::of_files`]
    pub(crate) files: u64,
    /// The users that own the folder's `skep.toml`: the file that was read, and a link that stands for it.
    owners: Vec<u32>,
    /// What is wrong with `skep.toml` now.
    pub(crate) broken: Option<Problems>,
    /// Whether there ever was a good state to fall back to.
    pub(crate) usable: bool,
}

/// Which folders to look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dirty {
    All,
    Folders(BTreeSet<PathBuf>),
}

/// An app with its id and place; its keys are not settled yet.
#[derive(Debug, Clone)]
pub(crate) struct FoundApp {
    pub(crate) id: AppId,
    pub(crate) mount: Mount,
    pub(crate) folder: Arc<Folder>,
}

#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) apps: Vec<FoundApp>,
    /// Folders in which nothing was recognised, and why.
    pub(crate) unrecognised: Vec<(PathBuf, NotRecognised)>,
    /// Folders that cannot be published, and why; the rest can.
    pub(crate) refused: Vec<Problem>,
    /// Folders of apps, in which a new app may appear.
    pub(crate) parents: Vec<PathBuf>,
}

impl Folder {
    /// No folder at all: the server's config says everything about the app.
    fn none() -> Self {
        Self {
            dir: PathBuf::new(),
            keys: AppKeys::default(),
            detected: Err(NotRecognised("it is published from an image".to_owned())),
            wanted: Wanted::default(),
            files: 0,
            owners: Vec::new(),
            broken: None,
            usable: true,
        }
    }

    pub(crate) fn is_real(&self) -> bool {
        !self.dir.as_os_str().is_empty()
    }

    /// The user its `skep.toml` belongs to, when that is neither root nor Skep's own.
    pub(crate) fn stranger(&self, euid: u32) -> Option<u32> {
        self.owners.iter().copied().find(|owner| *owner != 0 && *owner != euid)
    }

    /// The same folder with nothing said in it.
    fn unheard(&self) -> Self {
        let nothing = Self::none();
        Self { dir: self.dir.clone(), wanted: self.wanted, ..nothing }
    }

    /// Whether it holds an app, or its `skep.toml` names the image of one.
    fn is_app(&self) -> bool {
        self.detected.is_ok() || self.keys.image.is_some()
    }
}

impl Found {
    /// Of the apps the server's config publishes from an image, leaves out what a stranger's folder says that has the id of
    /// one: it would say with what rights the administrator's image runs, and what in it.
    pub(crate) fn refuse_strangers<'a>(&mut self, images: impl Iterator<Item = &'a AppId>, euid: u32) {
        let images: BTreeSet<&AppId> = images.collect();
        for app in self.apps.iter_mut().filter(|app| images.contains(&app.id)) {
            let Some(owner) = app.folder.stranger(euid) else { continue };
            let wrong = format!(
                "is not heeded: it belongs to user {owner}, and the server's config publishes `{}` from an image",
                app.id
            );
            let file = app.folder.dir.join(CONFIG_FILE);
            self.refused.extend(Problems::one(file, wrong, "rename the folder, or remove the file").0);
            app.folder = Arc::new(app.folder.unheard());
        }
    }

    /// Adds the apps the server's config publishes from an image, where no folder has their id.
    pub(crate) fn add_images<'a>(&mut self, ids: impl Iterator<Item = &'a AppId>) {
        for id in ids {
            if !self.apps.iter().any(|app| app.id == *id) {
                let folder = Arc::new(Folder::none());
                self.apps.push(FoundApp { id: id.clone(), mount: Mount::of(id), folder });
            }
        }
    }
}

/// What the server's config says beforehand about the kind of its apps.
pub(crate) type Overrides = BTreeMap<AppId, Wanted>;

/// Looks at folders, remembering what it saw.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    folders: HashMap<PathBuf, Arc<Folder>>,
}

impl Scanner {
    /// Looks at every site. `overrides` is what `[apps.<id>]` says about the kind of each app.
    ///
    /// # Errors
    /// When a site's folder cannot be read at all.
    pub(crate) fn scan(
        &mut self,
        sites: &[SiteKeys],
        overrides: &Overrides,
        dirty: &Dirty,
    ) -> Result<Found, Problems> {
        let mut found = Found::default();
        let mut seen = HashMap::new();
        for site in sites {
            self.scan_site(site, overrides, dirty, &mut found, &mut seen)?;
        }
        self.folders = seen;
        refuse_collisions(&mut found);
        Ok(found)
    }

    fn scan_site(
        &self,
        site: &SiteKeys,
        overrides: &Overrides,
        dirty: &Dirty,
        found: &mut Found,
        seen: &mut HashMap<PathBuf, Arc<Folder>>,
    ) -> Result<(), Problems> {
        let dir = std::path::absolute(&site.path).unwrap_or_else(|_| site.path.clone());
        let entries = subfolders(&dir).map_err(|error| {
            Problems::one(&dir, format!("cannot be read: {error}"), "name a folder that exists")
        })?;
        let top = self.look(&dir, overrides, dirty);
        if top.is_app() || (top.broken.is_some() && entries.is_empty()) {
            if let Some(id) = app_id(&dir) {
                let mount = site.mount.as_ref().map_or_else(Mount::root, |mount| mount.value.clone());
                found.apps.push(FoundApp { id, mount, folder: Arc::clone(&top) });
            }
            seen.insert(dir, top);
            return Ok(());
        }
        if let Some(broken) = &top.broken {
            found.refused.extend(broken.0.iter().cloned());
        }
        if let Some(mount) = site.mount.as_ref().filter(|mount| mount.value != Mount::root()) {
            return Err(Problems(vec![mount.problem(
                format!("is given for {}, which holds apps and is none itself", dir.display()),
                "leave `mount` out: each app is mounted at its folder's name",
            )]));
        }
        for entry in entries {
            let folder = self.look(&entry, overrides, dirty);
            match (app_id(&entry), &folder.detected) {
                (None, _) => {
                    let why = "no letter or digit in its name can stand in a URL; rename it";
                    found.unrecognised.push((entry.clone(), NotRecognised(why.to_owned())));
                }
                (Some(_), Err(why)) if folder.broken.is_none() && !folder.is_app() => {
                    found.unrecognised.push((entry.clone(), why.clone()));
                }
                (Some(id), _) => {
                    let mount = Mount::of(&id);
                    found.apps.push(FoundApp { id, mount, folder: Arc::clone(&folder) });
                }
            }
            seen.insert(entry, folder);
        }
        seen.insert(dir.clone(), top);
        found.parents.push(dir);
        Ok(())
    }

    fn look(&self, dir: &Path, overrides: &Overrides, dirty: &Dirty) -> Arc<Folder> {
        let known = self.folders.get(dir);
        let from_above = app_id(dir).and_then(|id| overrides.get(&id)).copied().unwrap_or_default();
        let clean = matches!(dirty, Dirty::Folders(dirs) if !dirs.contains(dir));
        match known {
            Some(folder) if clean && same(folder.wanted, from_above) => Arc::clone(folder),
            _ => Arc::new(look(dir, from_above, known.map(Arc::as_ref))),
        }
    }
}

fn same(one: Wanted, other: Wanted) -> bool {
    (one.framework, one.command) == (other.framework, other.command)
}

/// Looks at one folder; `before` is what it was when its `skep.toml` was last good.
fn look(dir: &Path, wanted: Wanted, before: Option<&Folder>) -> Folder {
    let file = dir.join(CONFIG_FILE);
    let mut owners: Vec<u32> = std::fs::symlink_metadata(&file).map(|meta| meta.uid()).into_iter().collect();
    let (keys, broken) = match read_owned(&file) {
        Ok(None) => (AppKeys::default(), None),
        Ok(Some((text, owner))) => {
            owners.push(owner);
            match own_keys(&file, &text) {
                Ok(keys) => (keys, None),
                Err(problems) => (AppKeys::default(), Some(problems)),
            }
        }
        Err(problems) => (AppKeys::default(), Some(problems)),
    };
    if let (Some(problems), Some(before)) = (&broken, before.filter(|before| before.usable)) {
        return Folder { broken: Some(problems.clone()), ..before.clone() };
    }
    let detected = framework::detect(
        dir,
        Wanted {
            framework: wanted.framework.or(keys.framework),
            command: wanted.command || keys.command.is_some(),
        },
    );
    let names = detected.as_ref().map(|detection| detection.watch.as_slice()).unwrap_or_default();
    Folder {
        dir: dir.to_owned(),
        files: revision::of_files(dir, names),
        owners,
        usable: broken.is_none(),
        keys,
        detected,
        wanted,
        broken,
    }
}

/// The text of a config file; `None` when there is none.
pub(crate) fn read_config(file: &Path) -> Result<Option<String>, Problems> {
    Ok(read_owned(file)?.map(|(text, _)| text))
}

/// The same, and the user whose file was read.
fn read_owned(file: &Path) -> Result<Option<(String, u32)>, Problems> {
    let unreadable = |error: std::io::Error| {
        Problems::one(file, format!("cannot be read: {error}"), "check its permissions")
    };
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let owner = opened.metadata().map_err(unreadable)?.uid();
    let mut text = String::new();
    match opened.take(CONFIG_AT_MOST + 1).read_to_string(&mut text) {
        Ok(length) if length as u64 > CONFIG_AT_MOST => {
            Err(Problems::one(file, "is larger than 1 MiB", "a config file is not that long"))
        }
        Ok(_) => Ok(Some((text, owner))),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(Problems::one(file, "is not UTF-8 text", "save it as UTF-8"))
        }
        Err(error) => Err(unreadable(error)),
    }
}

/// The keys of an app's own `skep.toml`.
pub(crate) fn own_keys(file: &Path, text: &str) -> Result<AppKeys, Problems> {
    let document = Document::parse(file, text)?;
    let mut root = document.root();
    let keys = AppKeys::read(&mut root, file.parent().unwrap_or(Path::new("/")));
    if ["server", "sites", "apps", "defaults", "auth", "docker", "swarm"]
        .into_iter()
        .any(|key| root.is_set(key))
    {
        let mend = format!("start the server with `skep serve --config {}`", file.display());
        return Err(Problems::one(
            file,
            "is a server's config, found where an app's own is looked for",
            mend,
        ));
    }
    root.finish();
    match document.into_problems() {
        problems if problems.is_empty() => Ok(keys),
        problems => Err(Problems(problems)),
    }
}

/// Visible subfolders, sorted. Links to folders count.
fn subfolders(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let hidden = name.as_encoded_bytes().first().is_some_and(|first| matches!(first, b'.' | b'_'));
        let kind = entry.file_type()?;
        if !hidden && (kind.is_dir() || (kind.is_symlink() && entry.path().is_dir())) {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}

/// The id a folder's name makes: lower case, anything that may not stand in an id becomes `-`.
pub(crate) fn app_id(dir: &Path) -> Option<AppId> {
    let name = match dir.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => dir.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned(),
    };
    AppId::of_name(&name)
}

/// One id, one app; one mount, one app. A folder that is called exactly like its id goes first; the others are refused.
fn refuse_collisions(found: &mut Found) {
    let exact = |app: &FoundApp| app.folder.dir.file_name().is_some_and(|name| name == app.id.as_str());
    let mut winners: BTreeMap<AppId, usize> = BTreeMap::new();
    for (index, app) in found.apps.iter().enumerate() {
        let winner = winners.entry(app.id.clone()).or_insert(index);
        if exact(app) && !exact(&found.apps[*winner]) {
            *winner = index;
        }
    }
    let dirs: BTreeMap<AppId, PathBuf> =
        winners.iter().map(|(id, index)| (id.clone(), found.apps[*index].folder.dir.clone())).collect();
    let mut mounts: BTreeMap<Mount, PathBuf> = BTreeMap::new();
    for (index, app) in std::mem::take(&mut found.apps).into_iter().enumerate() {
        if winners.get(&app.id) != Some(&index) {
            let other = dirs.get(&app.id).map(|dir| dir.display().to_string()).unwrap_or_default();
            let wrong =
                format!("makes the app id `{}`, which {other} has already; it is not published", app.id);
            found.refused.extend(Problems::one(&app.folder.dir, wrong, "rename one of the folders").0);
        } else if let Some(other) = mounts.get(&app.mount) {
            let wrong = format!(
                "would be mounted at `{}`, where {} is already; it is not published",
                app.mount,
                other.display()
            );
            found.refused.extend(Problems::one(&app.folder.dir, wrong, "give it another `mount`").0);
        } else {
            mounts.insert(app.mount.clone(), app.folder.dir.clone());
            found.apps.push(app);
        }
    }
}

/// Sites named on the command line.
pub(crate) fn sites_of(paths: &[PathBuf]) -> Vec<SiteKeys> {
    paths.iter().map(|path| SiteKeys { path: path.clone(), mount: None::<Placed<Mount>> }).collect()
}

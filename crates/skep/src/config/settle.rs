//! From layers of keys to an [`AppSpec`] in which nothing is left to decide.

use std::path::Path;
use std::time::Duration;

use skep_backends::framework::{self, NotRecognised};
use skep_docker::Reference;
use skep_model::{
    Access, AppId, AppSpec, BackendKind, Bound, Framework, Health, Hold, Icon, Limits, Mount, Prefix,
    Revision, Source, default_start_timeout,
};

use super::app_keys::AppKeys;
use super::discover::{Folder, FoundApp};
use super::document::Placed;
use super::problem::Problem;
use super::revision;

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const DEFAULT_MAX_INSTANCES: u32 = 10;
/// One instance per user needs room for users, not for load.
const DEFAULT_MAX_INSTANCES_PER_USER: u32 = 100;
/// Of one app; the one without a name among them.
const DEFAULT_INSTANCES_OF_ONE_USER: u32 = 5;
const DEFAULT_MAX_WAITING: u32 = 500;

/// Lays the layers over each other and fills the gaps: framework traits < `[defaults]` < the folder's `skep.toml` <
/// `[apps.<id>]`.
///
/// # Errors
/// What makes the app impossible to publish.
pub(crate) fn settle(
    found: &FoundApp,
    defaults: &AppKeys,
    overrides: Option<&AppKeys>,
    around: &Surroundings<'_>,
) -> Result<AppSpec, Problem> {
    let folder = &*found.folder;
    let own = own_keys(folder, around.euid)?;
    let keys = overrides.cloned().unwrap_or_default().over(own).over(defaults.clone());
    if let Some(problem) = keys.container.showing(around.socket) {
        return Err(problem);
    }
    let parameters = keys.parameters.settle(&keys)?;
    let Origin { framework, source, backend, title } = match &keys.image {
        Some(image) => {
            let own = overrides.into_iter().chain([&folder.keys]);
            let backend = check_image(image, &keys, own, around.swarm)?;
            of_image(image, &keys, backend)
        }
        None => of_folder(folder, &keys, overrides)?,
    };
    let traits = framework::traits(framework);
    let in_container = backend != BackendKind::Process;
    // What stands before a container cannot tell it its base path: it is stripped unless the app is said to know it.
    let prefix = keys.prefix.unwrap_or(if in_container { Prefix::Strip } else { traits.prefix });
    let seats = keys.seats.unwrap_or_else(|| framework.default_seats());
    let per_user = keys.per_user.unwrap_or(false);
    if let Some(problem) = keys.container.personal().filter(|_| !per_user && keys.image.is_some()) {
        return Err(problem);
    }
    let max_instances =
        keys.max_instances.as_ref().map_or(
            if per_user { DEFAULT_MAX_INSTANCES_PER_USER } else { DEFAULT_MAX_INSTANCES },
            |placed| placed.value,
        );
    if let Some(min) = keys.min_seats.as_ref().filter(|min| min.value > seats.saturating_mul(max_instances)) {
        let room = seats.saturating_mul(max_instances);
        return Err(min.problem(
            format!("is {}, but {max_instances} instances of {seats} seats make only {room}", min.value),
            "lower it, or raise `max_instances` or `seats`",
        ));
    }
    let seen = if in_container && prefix == Prefix::Strip { Mount::root() } else { found.mount.clone() };
    let usual = traits.health(&seen);
    let mut spec = AppSpec {
        id: found.id.clone(),
        mount: found.mount.clone(),
        title: keys.title.or(title).unwrap_or_else(|| title_of(&found.id)),
        description: keys.description.unwrap_or_default(),
        icon: keys.icon.map(|placed| icon_of(placed.value, folder)),
        section: keys.section,
        framework,
        prefix,
        source,
        backend,
        revision: Revision(0),
        command: keys.command,
        env: keys.env,
        secrets: keys.secrets,
        seats,
        min_seats: keys.min_seats.map_or(0, |placed| placed.value),
        max_instances,
        per_user,
        max_instances_per_user: keys.max_instances_per_user.unwrap_or(DEFAULT_INSTANCES_OF_ONE_USER),
        stop_on_logout: keys.stop_on_logout.unwrap_or(false),
        parameters,
        start_timeout: keys.start_timeout.unwrap_or_else(default_start_timeout),
        idle_timeout: keys.idle_timeout.unwrap_or(DEFAULT_IDLE_TIMEOUT),
        inactivity_timeout: keys.inactivity_timeout.flatten(),
        max_lifetime: keys.max_lifetime.flatten(),
        max_waiting: keys.max_waiting.unwrap_or(DEFAULT_MAX_WAITING),
        health: Health {
            strict: keys.health_strict.unwrap_or(keys.health_path.is_none() && usual.strict),
            path: keys.health_path.unwrap_or(usual.path),
        },
        access: Access {
            users: keys.users.unwrap_or_default(),
            groups: keys.groups.unwrap_or_default(),
            anyone: keys.anyone.unwrap_or(false),
        },
        allowed_origins: keys.allowed_origins.unwrap_or_default(),
        limits: Limits { cpu_millis: keys.cpu_millis, memory: keys.memory, pids: keys.pids },
        run_as: keys.run_as.map(|placed| placed.value).filter(|_| !in_container),
        hold: keys.hold.unwrap_or(Hold::Page),
    };
    spec.revision = revision::of_spec(&spec, folder.files);
    Ok(spec)
}

/// What an app is settled in.
pub(crate) struct Surroundings<'a> {
    pub(crate) euid: u32,
    /// The engine's, as configured.
    pub(crate) socket: Option<&'a Path>,
    /// Whether there is a Swarm.
    pub(crate) swarm: bool,
}

/// What an app is made of.
struct Origin {
    framework: Framework,
    source: Source,
    backend: BackendKind,
    title: Option<String>,
}

fn of_folder(folder: &Folder, keys: &AppKeys, overrides: Option<&AppKeys>) -> Result<Origin, Problem> {
    if let Some(backend) = keys.backend.as_ref().filter(|backend| backend.value != BackendKind::Process) {
        return Err(backend
            .problem("runs containers, and this app has no `image`", "set `image`, or leave `backend` out"));
    }
    // Defaults are for whoever they fit.
    let own = overrides.into_iter().chain([&folder.keys]).find_map(|keys| keys.container.at.as_ref());
    if let Some(container) = own {
        return Err(container.problem("means nothing without an `image`", "set `image`, or leave it out"));
    }
    let detected = folder.detected.as_ref().map_err(|why| folder_problem(folder, why))?;
    Ok(Origin {
        framework: detected.framework,
        source: Source::Folder { dir: folder.dir.clone(), entry: detected.entry.clone() },
        backend: BackendKind::Process,
        title: detected.title.clone(),
    })
}

fn of_image(image: &Placed<String>, keys: &AppKeys, backend: BackendKind) -> Origin {
    Origin {
        framework: keys.framework.unwrap_or(Framework::Command),
        source: Source::Image(Box::new(keys.container.clone().image(image.value.clone()))),
        backend,
        title: None,
    }
}

/// Answers where its containers run: on the Swarm when there is one, unless it is said otherwise.
fn check_image<'a>(
    image: &Placed<String>,
    keys: &AppKeys,
    own: impl Iterator<Item = &'a AppKeys> + Clone,
    swarm: bool,
) -> Result<BackendKind, Problem> {
    // What is chosen for it is checked with the parameters.
    let whole = !image.value.contains("{param.");
    if let Err(error) = image.value.parse::<Reference>()
        && whole
    {
        return Err(image.problem(error.to_string(), ""));
    }
    if let Some(backend) = &keys.backend {
        match backend.value {
            BackendKind::Docker => {}
            BackendKind::Swarm if swarm => {}
            BackendKind::Process => {
                let mend = "leave it out, or write \"docker\"";
                return Err(backend.problem("runs processes, and this app has an `image`", mend));
            }
            BackendKind::Swarm => {
                let mend =
                    "add `[swarm]` to the server's config, or write \"docker\" for this machine's engine";
                return Err(backend.problem("names a Swarm, and none is configured", mend));
            }
        }
    }
    let usual = if swarm { BackendKind::Swarm } else { BackendKind::Docker };
    let backend = keys.backend.as_ref().map_or(usual, |backend| backend.value);
    if backend == BackendKind::Docker
        && let Some(placed) = own.clone().find_map(|keys| keys.container.of_swarm())
    {
        return Err(placed.problem("means something on a Swarm only", "leave it out"));
    }
    if backend == BackendKind::Docker
        && let Some(placed) = own.clone().find_map(|keys| keys.container.configs())
    {
        return Err(placed.problem("names configs of a Swarm", "mount a file (`container.mounts`)"));
    }
    if backend == BackendKind::Swarm
        && let Some(placed) = own.clone().find_map(|keys| keys.container.of_engine())
    {
        let mend = "reserve what the nodes are said to have: `container.reserve.resources = { gpu = 1 }`";
        return Err(placed.problem("is heeded by an engine alone, not by a Swarm", mend));
    }
    if let Some(run_as) = own.clone().find_map(|keys| keys.run_as.as_ref()) {
        let mend = "set `container.user` to a user of the image";
        return Err(run_as.problem("names a user of this machine, and the app runs in a container", mend));
    }
    if keys.framework == Some(Framework::Static) {
        let mend = "leave `framework` out; the container serves its files";
        return Err(image.problem("goes with an app that answers, not with a static site", mend));
    }
    let words = keys.command.iter().flatten().chain(keys.env.values());
    if words.into_iter().any(|word| word.contains("{socket}")) {
        let mend = "use `{port}` in `command` and `env`";
        return Err(
            image.problem("is run as a container, which is reached at a port, not at a `{socket}`", mend)
        );
    }
    Ok(backend)
}

/// A relative name counts from the app's folder, wherever it is written; without a folder, from the file's own.
fn icon_of(icon: Icon, folder: &Folder) -> Icon {
    match icon {
        Icon::Within { name, .. } if folder.is_real() => Icon::Within { dir: folder.dir.clone(), name },
        other => other,
    }
}

/// The folder's keys, as far as they may be heeded. Whoever may write into an app's folder does not thereby become another
/// user, nor read files with Skep's rights: in a `skep.toml` of somebody else than root and Skep's own user, `run_as` is
/// refused and `secrets` may name only that user's files in the folder, then as at each launch; nor may its containers be
/// given folders, networks or capabilities.
fn own_keys(folder: &Folder, euid: u32) -> Result<AppKeys, Problem> {
    let mut keys = folder.keys.clone();
    let Some(owner) = folder.stranger(euid) else { return Ok(keys) };
    if let Some(run_as) = &keys.run_as {
        return Err(run_as.problem(
            format!("may not be set here: the file belongs to user {owner}, not to root or Skep's own user"),
            "set it in the server's config instead",
        ));
    }
    let because = format!("the file belongs to user {owner}, not to root or Skep's own user");
    if let Some(icon) =
        keys.icon.as_ref().filter(|icon| matches!(icon.value, Icon::File(_) | Icon::Remote(_)))
    {
        return Err(icon.problem(
            format!("may only name a file in the app's folder here: {because}"),
            "set it in the server's config instead",
        ));
    }
    if let Some(problem) = keys.container.reaching_out(&because) {
        return Err(problem);
    }
    let within = folder.dir.canonicalize().unwrap_or_else(|_| folder.dir.clone());
    // What is not there yet is judged when it is.
    let inside = |file: &Path| match file.canonicalize() {
        Ok(file) => file.starts_with(&within),
        Err(_) => file.starts_with(&folder.dir) && !file.components().any(|part| part.as_os_str() == ".."),
    };
    for (name, file) in &mut keys.secrets {
        if !inside(&file.path) {
            let path = file.path.display();
            let wrong = format!(
                "reads `{name}` from {path}, outside the folder, but the file belongs to user {owner}"
            );
            let mend = "set it in the server's config instead";
            return Err(keys.secrets_at.as_ref().map_or_else(
                || Problem {
                    file: folder.dir.clone(),
                    at: None,
                    key: String::new(),
                    wrong: wrong.clone(),
                    mend: mend.to_owned(),
                },
                |placed| placed.problem(wrong.clone(), mend),
            ));
        }
        file.bound = Some(Bound { within: within.clone(), owner });
    }
    Ok(keys)
}

fn folder_problem(folder: &Folder, why: &NotRecognised) -> Problem {
    Problem {
        file: folder.dir.clone(),
        at: None,
        key: String::new(),
        wrong: why.to_string(),
        mend: String::new(),
    }
}

/// `sales-report` → `Sales report`
fn title_of(id: &AppId) -> String {
    let spaced = id.as_str().replace(['-', '_'], " ");
    let mut chars = spaced.trim().chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => id.to_string(),
    }
}

//! From layers of keys to an [`AppSpec`] in which nothing is left to decide.

use std::path::Path;
use std::time::Duration;

use skep_backends::framework::{self, NotRecognised};
use skep_model::{
    Access, AppId, AppSpec, BackendKind, Health, Hold, Limits, Revision, Source, default_start_timeout,
};

use super::app_keys::AppKeys;
use super::discover::{Folder, FoundApp};
use super::problem::Problem;
use super::revision;

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
const DEFAULT_MAX_INSTANCES: u32 = 10;
/// One instance per user needs room for users, not for load.
const DEFAULT_MAX_INSTANCES_PER_USER: u32 = 100;
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
    euid: u32,
) -> Result<AppSpec, Problem> {
    let folder = &*found.folder;
    check_owner(folder, euid)?;
    let keys = overrides.cloned().unwrap_or_default().over(folder.keys.clone()).over(defaults.clone());
    refuse_containers(&keys)?;
    let detected = folder.detected.as_ref().map_err(|why| folder_problem(folder, why))?;
    let framework = detected.framework;
    let traits = framework::traits(framework);
    let seats = keys.seats.unwrap_or_else(|| framework.default_seats());
    let per_user = keys.per_user.unwrap_or(false);
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
    let usual = traits.health(&found.mount);
    let mut spec = AppSpec {
        id: found.id.clone(),
        mount: found.mount.clone(),
        title: keys.title.or_else(|| detected.title.clone()).unwrap_or_else(|| title_of(&found.id)),
        description: keys.description.unwrap_or_default(),
        icon: keys.icon,
        framework,
        prefix: keys.prefix.unwrap_or(traits.prefix),
        source: Source::Folder { dir: folder.dir.clone(), entry: detected.entry.clone() },
        backend: BackendKind::Process,
        revision: Revision(0),
        command: keys.command,
        env: keys.env,
        secrets: keys.secrets,
        seats,
        min_seats: keys.min_seats.map_or(0, |placed| placed.value),
        max_instances,
        per_user,
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
        run_as: keys.run_as.map(|placed| placed.value),
        hold: keys.hold.unwrap_or(Hold::Page),
    };
    spec.revision = revision::of_spec(&spec, folder.files);
    Ok(spec)
}

fn refuse_containers(keys: &AppKeys) -> Result<(), Problem> {
    let mend = "this version of Skep runs local processes only; leave it out";
    if let Some(image) = &keys.image {
        return Err(image.problem("needs a container engine", mend));
    }
    match &keys.backend {
        Some(backend) if backend.value != BackendKind::Process => {
            Err(backend.problem("names a backend this version of Skep does not have", mend))
        }
        _ => Ok(()),
    }
}

/// Whoever may write into an app's folder does not thereby become another user, nor read files with Skep's rights: in a
/// `skep.toml` of somebody else than root and Skep's own user, `run_as` is refused and `secrets` may name only files in
/// the folder.
fn check_owner(folder: &Folder, euid: u32) -> Result<(), Problem> {
    let Some(owner) = folder.owner.filter(|owner| *owner != 0 && *owner != euid) else { return Ok(()) };
    if let Some(run_as) = &folder.keys.run_as {
        return Err(run_as.problem(
            format!("may not be set here: the file belongs to user {owner}, not to root or Skep's own user"),
            "set it in the server's config instead",
        ));
    }
    let inside = |file: &Path| match (file.canonicalize(), folder.dir.canonicalize()) {
        (Ok(file), Ok(dir)) => file.starts_with(dir),
        _ => file.starts_with(&folder.dir) && !file.components().any(|part| part.as_os_str() == ".."),
    };
    match (&folder.keys.secrets_at, folder.keys.secrets.iter().find(|(_, file)| !inside(file))) {
        (Some(placed), Some((name, file))) => Err(placed.problem(
            format!(
                "reads `{name}` from {}, outside the folder, but the file belongs to user {owner}",
                file.display()
            ),
            "set it in the server's config instead",
        )),
        _ => Ok(()),
    }
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

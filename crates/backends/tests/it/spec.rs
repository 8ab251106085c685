//! App specs for tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use skep_backends::framework::traits;
use skep_model::{Access, AppId, AppSpec, BackendKind, Framework, Hold, Limits, Mount, Revision, Source};

pub(crate) fn spec(dir: &Path, framework: Framework, entry: Option<&str>) -> AppSpec {
    let id: AppId = "demo".parse().unwrap();
    let mount = Mount::of(&id);
    let traits = traits(framework);
    AppSpec {
        title: id.to_string(),
        health: traits.health(&mount),
        id,
        mount,
        description: String::new(),
        icon: None,
        section: None,
        framework,
        prefix: traits.prefix,
        source: Source::Folder { dir: dir.to_path_buf(), entry: entry.map(str::to_owned) },
        backend: BackendKind::Process,
        revision: Revision(1),
        command: None,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        seats: 20,
        min_seats: 0,
        max_instances: 9,
        max_instances_per_user: 5,
        parameters: Default::default(),
        per_user: false,
        stop_on_logout: false,
        start_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        inactivity_timeout: None,
        max_lifetime: None,
        max_waiting: 10,
        access: Access::default(),
        allowed_origins: Vec::new(),
        limits: Limits::default(),
        run_as: None,
        hold: Hold::Page,
    }
}

pub(crate) fn command_spec(dir: &Path, command: &[&str]) -> AppSpec {
    let mut spec = spec(dir, Framework::Command, None);
    spec.command = Some(command.iter().map(|&word| word.to_owned()).collect());
    spec
}

//! Which crate may depend on which, read from the manifests; and what each manifest owes the workspace.

use toml::{Table, Value};

use super::Finding;
use crate::tree::Tree;

/// Crate folder → the platform crates it may depend on. A crate absent here may depend on none.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("docker", &[]),
    ("agent", &["docker"]),
    ("launch", &["model"]),
    ("identity", &["model"]),
    ("store", &["model"]),
    ("edge", &["launch", "identity", "model"]),
    ("backends", &["launch", "model", "docker", "agent"]),
    ("telemetry", &["store", "model"]),
    ("control", &["backends", "launch", "edge", "identity", "store", "telemetry", "docker", "model"]),
    (
        "skep",
        &[
            "control",
            "backends",
            "edge",
            "launch",
            "identity",
            "store",
            "telemetry",
            "docker",
            "agent",
            "model",
        ],
    ),
];

/// An outside crate and the only folders whose manifests may name it: each is a boundary somebody would otherwise cross
/// by accident.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("sqlx", &["crates/store", "apps/ballot"]),
    ("axum", &["crates/control", "crates/skep", "apps/ballot"]),
    ("anyhow", &["crates/skep", "xtask", "apps/ballot"]),
];

/// What the nouns must stay free of.
const MODEL_WITHOUT: &[&str] = &["tokio", "hyper", "sqlx", "axum", "futures-util"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(Ok(root)) = tree.text("Cargo.toml").map(str::parse::<Table>) else {
        return vec![Finding::of_file("Cargo.toml", "is missing or no TOML")];
    };
    let mut findings = Vec::new();
    for (path, text) in tree.texts() {
        let Some(folder) = path.strip_suffix("/Cargo.toml") else { continue };
        match text.parse::<Table>() {
            // A workspace of its own, for a tool that needs another compiler (a fuzzer): none of ours builds it.
            Ok(manifest) if manifest.contains_key("workspace") => {}
            Ok(manifest) => findings.extend(check_manifest(path, folder, &manifest, &root)),
            Err(error) => findings.push(Finding::of_file(path, format!("is no TOML: {}", error.message()))),
        }
    }
    findings
}

fn check_manifest(path: &str, folder: &str, manifest: &Table, root: &Table) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |says: String| findings.push(Finding::of_file(path, says));

    let name = lookup(manifest, &["package", "name"]).and_then(Value::as_str).unwrap_or_default();
    let noun = folder.strip_prefix("crates/");
    let wanted = match noun {
        Some("skep") => "skep".to_owned(),
        Some(noun) => format!("skep-{noun}"),
        None => folder.rsplit('/').next().unwrap_or(folder).to_owned(),
    };
    if name != wanted {
        find(format!("the package is called `{name}`; name it after its folder: `{wanted}`"));
    }
    let inherits = lookup(manifest, &["package", "publish", "workspace"]) == Some(&Value::Boolean(true));
    let refuses = lookup(manifest, &["package", "publish"]) == Some(&Value::Boolean(false));
    let all_refuse = lookup(root, &["workspace", "package", "publish"]) == Some(&Value::Boolean(false));
    let kept_back = refuses || (inherits && all_refuse);
    if !kept_back {
        find("could be published by accident; write `publish.workspace = true`".to_owned());
    }
    for lint in lints_missed(manifest, root) {
        find(format!("does without the lint `{lint}`; add `[lints] workspace = true`, or repeat it"));
    }

    for (dependency, value) in dependencies(manifest) {
        // A crate's tests may ask for the crate itself with a feature more.
        if dependency == name {
            continue;
        }
        if value.get("workspace") != Some(&Value::Boolean(true)) {
            find(format!("`{dependency}`: versions stand in the root Cargo.toml; write `workspace = true`"));
        }
        if let Some(target) = dependency.strip_prefix("skep-") {
            let allowed = noun
                .and_then(|noun| ARROWS.iter().find(|(from, _)| *from == noun))
                .is_some_and(|(_, targets)| targets.contains(&target));
            if !allowed {
                find(format!("no arrow may lead from `{folder}` to `{dependency}` (ARCHITECTURE.md)"));
            }
        }
        if OUTSIDE.iter().any(|(name, homes)| *name == dependency && !homes.contains(&folder)) {
            find(format!(
                "`{dependency}` does not belong here (xtask/src/tidy/arrows.rs says where it does)"
            ));
        }
        if noun == Some("model") && MODEL_WITHOUT.contains(&dependency.as_str()) {
            find(format!("the nouns stay free of `{dependency}`"));
        }
    }
    findings
}

/// The workspace's lints that a manifest neither inherits nor repeats. A crate that needs `unsafe` repeats them all, with
/// `unsafe_code = "deny"` in place of `"forbid"`, so that each use must be allowed by name.
fn lints_missed(manifest: &Table, root: &Table) -> Vec<String> {
    if lookup(manifest, &["lints", "workspace"]) == Some(&Value::Boolean(true)) {
        return Vec::new();
    }
    let groups = lookup(root, &["workspace", "lints"]).and_then(Value::as_table);
    let wanted = groups.into_iter().flatten().flat_map(|(group, lints)| {
        lints.as_table().into_iter().flatten().map(move |(lint, level)| (group, lint, level))
    });
    wanted
        .filter(|(group, lint, level)| {
            let own = lookup(manifest, &["lints", group, lint]);
            let weakened = *lint == "unsafe_code" && own.and_then(Value::as_str) == Some("deny");
            own != Some(level) && !weakened
        })
        .map(|(group, lint, _)| format!("{group}::{lint}"))
        .collect()
}

/// Every dependency, whatever its kind and target.
fn dependencies(manifest: &Table) -> Vec<(String, Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let tables = std::iter::once(manifest)
        .chain(targets.into_iter().flat_map(Table::values).filter_map(Value::as_table));
    tables
        .flat_map(|table| {
            ["dependencies", "dev-dependencies", "build-dependencies"].map(|kind| table.get(kind))
        })
        .flatten()
        .filter_map(Value::as_table)
        .flat_map(|table| table.iter().map(|(name, value)| (name.clone(), value.clone())))
        .collect()
}

fn lookup<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace.package]\npublish = false\n\
        [workspace.lints.rust]\nunsafe_code = \"forbid\"\n[workspace.lints.clippy]\ntodo = \"warn\"\n";

    fn says(folder: &str, package: &str, dependencies: &str) -> Vec<String> {
        let manifest = format!(
            "[package]\nname = \"{package}\"\npublish.workspace = true\n[lints]\nworkspace = true\n\
             [dependencies]\n{dependencies}\n"
        );
        let tree = Tree::of([("Cargo.toml", ROOT), (&format!("{folder}/Cargo.toml"), &manifest)]);
        check(&tree).into_iter().map(|finding| finding.says).collect()
    }

    #[test]
    fn an_arrow_that_is_drawn_passes() {
        assert_eq!(says("crates/edge", "skep-edge", "skep-launch.workspace = true"), [""; 0]);
        assert_eq!(says("crates/skep", "skep", "skep-control.workspace = true"), [""; 0]);
    }

    #[test]
    fn an_arrow_that_is_not_drawn_is_named() {
        let found = says("crates/edge", "skep-edge", "skep-store.workspace = true");
        assert_eq!(found, ["no arrow may lead from `crates/edge` to `skep-store` (ARCHITECTURE.md)"]);
    }

    #[test]
    fn the_reference_app_knows_nothing_of_the_platform() {
        let found = says("apps/ballot", "ballot", "skep-model.workspace = true");
        assert_eq!(found, ["no arrow may lead from `apps/ballot` to `skep-model` (ARCHITECTURE.md)"]);
    }

    #[test]
    fn sql_stays_in_the_store_and_tokio_out_of_the_model() {
        assert_eq!(says("crates/edge", "skep-edge", "sqlx.workspace = true").len(), 1);
        assert_eq!(says("crates/store", "skep-store", "sqlx.workspace = true"), [""; 0]);
        assert_eq!(
            says("crates/model", "skep-model", "tokio.workspace = true"),
            ["the nouns stay free of `tokio`"]
        );
    }

    #[test]
    fn a_version_outside_the_root_manifest_is_found() {
        assert_eq!(says("crates/model", "skep-model", "serde = \"1\"").len(), 1);
        assert_eq!(
            says("crates/model", "skep-model", "serde = { workspace = true, features = [\"rc\"] }"),
            [""; 0]
        );
    }

    #[test]
    fn a_package_is_called_after_its_folder() {
        assert_eq!(
            says("crates/edge", "skep-router", ""),
            ["the package is called `skep-router`; name it after its folder: `skep-edge`"]
        );
    }

    #[test]
    fn a_manifest_that_could_be_published_or_escapes_the_lints_is_found() {
        let tree = Tree::of([("Cargo.toml", ROOT), ("xtask/Cargo.toml", "[package]\nname = \"xtask\"\n")]);
        let found = check(&tree);
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn a_crate_with_unsafe_code_repeats_the_lints() {
        let manifest = "[package]\nname = \"skep-backends\"\npublish = false\n\
            [lints.rust]\nunsafe_code = \"deny\"\n[lints.clippy]\ntodo = \"warn\"\n";
        let tree = Tree::of([("Cargo.toml", ROOT), ("crates/backends/Cargo.toml", manifest)]);
        assert_eq!(check(&tree), []);
        let lax = manifest.replace("todo = \"warn\"", "todo = \"allow\"");
        let tree = Tree::of([("Cargo.toml", ROOT), ("crates/backends/Cargo.toml", &lax)]);
        assert_eq!(check(&tree).len(), 1);
    }

    #[test]
    fn a_workspace_of_its_own_is_left_alone() {
        let fuzz = "[package]\nname = \"x\"\n[workspace]\n[dependencies]\nlibfuzzer-sys = \"0.4\"\n";
        assert_eq!(check(&Tree::of([("Cargo.toml", ROOT), ("apps/ballot/fuzz/Cargo.toml", fuzz)])), []);
    }

    #[test]
    fn target_specific_and_dev_dependencies_count() {
        let manifest = "[package]\nname = \"skep-edge\"\npublish.workspace = true\n[lints]\nworkspace = true\n\
            [target.'cfg(unix)'.dev-dependencies]\nskep-control.workspace = true\n";
        let tree = Tree::of([("Cargo.toml", ROOT), ("crates/edge/Cargo.toml", manifest)]);
        assert_eq!(check(&tree).len(), 1);
    }
}

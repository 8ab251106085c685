//! What the crates record and what the catalog documents are the same names.

use std::path::{Path, PathBuf};

use skep_telemetry::catalog::{self, Kind};

#[test]
fn every_recorded_name_is_documented() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = 0;
    for file in sources(crates) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (kind, name) in recorded(&text) {
            found += 1;
            let described = catalog::find(name);
            assert!(
                described.is_some_and(|described| described.kind == kind),
                "{}: {kind:?} `{name}` is not in crates/telemetry/src/catalog.rs",
                file.display()
            );
        }
    }
    assert!(found >= 15, "only {found} found; has the way of recording changed?");
}

/// Every Rust file below the `src` folders of the crates.
fn sources(crates: &Path) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> =
        std::fs::read_dir(crates).unwrap().map(|entry| entry.unwrap().path().join("src")).collect();
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// The names recorded through the facade's macros with a literal name of ours.
fn recorded(text: &str) -> Vec<(Kind, &str)> {
    let macros = [("counter!(", Kind::Counter), ("gauge!(", Kind::Gauge), ("histogram!(", Kind::Histogram)];
    let mut names = Vec::new();
    for (start, kind) in macros {
        for (at, _) in text.match_indices(start) {
            let described = text[..at].ends_with("describe_");
            let name = text[at + start.len()..].trim_start().strip_prefix('"');
            let ours = name.and_then(|name| name.split('"').next()).filter(|name| name.starts_with("skep_"));
            names.extend(ours.filter(|_| !described).map(|name| (kind, name)));
        }
    }
    names
}

//! Two frameworks for real: recognised, launched by their recipe, answering under their prefix.

use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_backends::framework::{Wanted, detect};
use skep_launch::Backend;
use skep_model::{AppSpec, Framework};

use crate::spec::spec;
use crate::stage::{Stage, get};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/apps").join(name).canonicalize().unwrap()
}

fn recognised(dir: &Path, framework: Framework) -> AppSpec {
    let found = detect(dir, Wanted::default()).unwrap();
    assert_eq!(found.framework, framework);
    spec(dir, framework, found.entry.as_deref())
}

#[tokio::test]
async fn shiny_for_r_answers_on_its_socket_and_leaves_when_asked() {
    let stage = Stage::new();
    let spec = recognised(&example("shiny-r"), Framework::ShinyR);
    let health = spec.health.path.clone();
    let (id, launched) = stage.launch(spec).await;
    let launched = launched.unwrap();
    assert!(launched.dial.describe().starts_with("unix:"));
    assert_eq!(get(&launched, &health).await.0, 200);
    let (status, page) = get(&launched, "/").await;
    assert_eq!(status, 200);
    assert!(page.contains("shiny.min.js"), "{page}");
    let report = stage.backend.stop(&id, Duration::from_secs(60)).await.unwrap();
    assert_eq!(report.reason, "stopped", "{:?}", report.last_lines);
}

#[tokio::test]
async fn a_flask_app_gets_its_environment_and_its_prefix() {
    let stage = Stage::new();
    let spec = recognised(&example("flask"), Framework::Wsgi);
    let health = spec.health.path.clone();
    assert_eq!(health, "/demo/");
    let (id, launched) = stage.launch(spec).await;
    let launched = launched.unwrap();
    let (status, page) = get(&launched, &health).await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("/demo/"), "its links carry the prefix: {page}");
    let report = stage.backend.stop(&id, Duration::from_secs(60)).await.unwrap();
    assert_eq!(report.reason, "stopped", "{:?}", report.last_lines);
}

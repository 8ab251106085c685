//! Images on a real engine: imported, built, and pulled from a registry of the tests' own.

use std::process::Command;
use std::time::Duration;

use skep_docker::{BuildOptions, Credentials, Error, Reference, Upload};

use crate::containers::engine;
use crate::daemon::daemon;
use crate::registry::{self, Registry};

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    Command::new("tar").arg("-C").arg(dir.path()).args(["-c", "."]).output().unwrap().stdout
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

#[tokio::test]
async fn an_image_is_imported_tagged_listed_and_removed() {
    let engine = engine();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), tar(&[("hello", "world")])).unwrap();
    let reader = tokio::fs::File::open(file.path()).await.unwrap();
    let changes = ["CMD [\"/hello\"]", "LABEL a=b"];
    let id = engine.import_image(&reference("made:1"), &changes, Upload::reader(reader)).await.unwrap();
    let image = engine.inspect_image("made:1").await.unwrap().unwrap();
    assert_eq!((image.id(), image.label("a")), (id.as_str(), Some("b")));
    engine.tag_image("made:1", &reference("made:2")).await.unwrap();
    assert_eq!(engine.list_images(&[("reference", "made:*")]).await.unwrap().len(), 1);
    assert!(engine.remove_image(&id).await.unwrap());
    assert!(!engine.remove_image("made:1").await.unwrap());
    assert!(engine.inspect_image("made:1").await.unwrap().is_none());
}

#[tokio::test]
async fn an_image_is_built_and_a_failing_step_is_named() {
    let engine = engine();
    let options = BuildOptions { tag: "built:1", network: Some("none"), ..BuildOptions::default() };
    let dockerfile = "FROM bb:1\nCOPY note /note\nRUN cat /note\n";
    let mut said = Vec::new();
    let context = Upload::bytes(tar(&[("Dockerfile", dockerfile), ("note", "from within\n")]));
    let id = engine.build_image(&options, context, |line| said.push(line.to_owned())).await.unwrap();
    assert!(said.iter().any(|line| line == "from within"), "{said:?}");
    assert_eq!(engine.inspect_image("built:1").await.unwrap().unwrap().id(), id);
    engine.remove_image("built:1").await.unwrap();

    let context = Upload::bytes(tar(&[("Dockerfile", "FROM bb:1\nRUN exit 7\n")]));
    let failed = engine.build_image(&options, context, |_| {}).await.unwrap_err();
    assert!(
        matches!(&failed, Error::Failed { message, .. } if message.contains("non-zero code: 7")),
        "{failed}"
    );
}

#[tokio::test]
async fn a_pull_tells_how_far_it_is() {
    daemon().enter();
    let engine = engine();
    let registry = registry::slow(Duration::from_millis(250));
    let image = reference(&format!("127.0.0.1:{}/team/app:1", registry.port));
    let mut percents = Vec::new();
    engine.pull(&image, None, |progress| percents.push(progress.percent())).await.unwrap();
    assert!(percents.is_sorted() && percents.last() == Some(&100), "{percents:?}");
    assert!(percents.iter().any(|percent| (5..95).contains(percent)), "{percents:?}");
    assert!(engine.inspect_image(&image.to_string()).await.unwrap().is_some());
    engine.remove_image(&image.to_string()).await.unwrap();

    let missing = reference(&format!("127.0.0.1:{}/team/app:2", registry.port));
    let error = engine.pull(&missing, None, |_| {}).await.unwrap_err();
    assert!(error.message().is_some_and(|said| said.contains("manifest unknown")), "{error}");
    let nobody = engine.pull(&reference("127.0.0.1:1/team/app:1"), None, |_| {}).await.unwrap_err();
    assert!(nobody.message().unwrap().contains("connection refused"), "{nobody}");
}

#[tokio::test]
async fn a_registry_that_asks_for_a_login_gets_it() {
    daemon().enter();
    let engine = engine();
    // ada:secret
    let registry = Registry::start(Some("Basic YWRhOnNlY3JldA=="));
    let image = reference(&format!("127.0.0.1:{}/team/app:1", registry.port));
    let refused = engine.pull(&image, None, |_| {}).await.unwrap_err();
    assert!(refused.message().is_some_and(|said| said.contains("no basic auth credentials")), "{refused}");
    let ada = Credentials { user: "ada".to_owned(), password: "secret".to_owned() };
    engine.pull(&image, Some(&ada), |_| {}).await.unwrap();
    engine.remove_image(&image.to_string()).await.unwrap();
}

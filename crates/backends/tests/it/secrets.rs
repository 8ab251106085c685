//! Secrets reach the app and nobody else; apps run as who they should.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use skep_model::AppSpec;

use crate::stage::{Stage, get};

const SECRET: &str = "correct-horse-battery-staple";

fn with_secret(stage: &Stage) -> AppSpec {
    let file = stage.dir.path().join("token");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let mut spec = stage.server();
    spec.secrets.insert("TOKEN".to_owned(), file.into());
    spec
}

fn files_below(dir: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().filter_map(Result::ok) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files_below(&entry.path(), into);
        } else if kind.is_file() {
            into.push(entry.path());
        }
    }
}

#[tokio::test]
async fn a_secret_is_in_no_process_list_and_no_file() {
    let stage = Stage::new();
    let (id, launched) = stage.launch(with_secret(&stage)).await;
    let launched = launched.unwrap();
    assert_eq!(get(&launched, "/env/TOKEN").await.1, SECRET);
    let contains = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
    let shim = stage.shim_pid(&id);
    for file in ["cmdline", "environ"] {
        assert!(!contains(&std::fs::read(format!("/proc/{shim}/{file}")).unwrap()), "{file} of the shim");
    }
    let app = launched.pid.unwrap();
    assert!(!contains(&std::fs::read(format!("/proc/{app}/cmdline")).unwrap()));
    let mut files = Vec::new();
    files_below(&stage.data(), &mut files);
    assert!(files.iter().any(|file| file.ends_with("state.json")), "{files:?}");
    for file in files {
        assert!(!contains(&std::fs::read(&file).unwrap()), "{}", file.display());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o007 & !0o004, 0);
    }
    let instances = std::fs::metadata(stage.data().join("instances")).unwrap();
    assert_eq!(instances.permissions().mode() & 0o077, 0);
    stage.stop(&id).await;
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_is_said() {
    let stage = Stage::new();
    let mut spec = stage.server();
    spec.secrets.insert("TOKEN".to_owned(), "/no/such/file".into());
    let (id, launched) = stage.launch(spec).await;
    let said = launched.unwrap_err().to_string();
    assert!(said.contains("`TOKEN` cannot be read from /no/such/file"), "{said}");
    assert!(!stage.folder(&id).exists());
}

#[tokio::test]
async fn an_app_runs_as_the_user_it_should() {
    let stage = Stage::new();
    let mut spec = with_secret(&stage);
    spec.run_as = Some("nobody".to_owned());
    if !rustix::process::geteuid().is_root() {
        spec.run_as = Some("root".to_owned());
        let (_, launched) = stage.launch(spec).await;
        let said = launched.unwrap_err().to_string();
        assert!(said.contains("only root may"), "{said}");
        return;
    }
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(stage.dir.path(), 0o700);
    let (_, launched) = stage.launch(spec.clone()).await;
    let said = launched.unwrap_err().to_string();
    assert!(said.contains("cannot enter") && said.contains("chmod o+x"), "{said}");

    // The app's folder is open, the data folder is not: the socket moves to where the user gets to.
    open(stage.dir.path(), 0o755);
    open(&stage.app(), 0o755);
    open(&stage.data(), 0o700);
    let (id, launched) = stage.launch(spec).await;
    let launched = launched.unwrap();
    let who = get(&launched, "/who").await.1;
    let nobody = who.split(' ').next().unwrap();
    assert_ne!(nobody, "0", "{who}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", launched.pid.unwrap())).unwrap();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    assert!(uids.split_whitespace().all(|uid| uid == nobody), "real, effective, saved and file: {uids}");
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
    assert!(!groups.split_whitespace().any(|group| group == "0"), "{groups}");
    assert_eq!(get(&launched, "/env/TOKEN").await.1, SECRET);
    stage.stop(&id).await;
    let place = launched.dial.describe();
    let place = Path::new(place.strip_prefix("unix:").unwrap());
    // The instance's folder is gone; the one above, made for this test's data folder, is ours to remove.
    assert!(!place.parent().unwrap().exists());
    std::fs::remove_dir(place.parent().unwrap().parent().unwrap()).unwrap();
}

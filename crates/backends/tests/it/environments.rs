//! Environments: built once, shared, and their failures said. No network: the packages come from a folder.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use skep_launch::{BackendError, Stage as Step};

use crate::stage::{Stage, config, get, until};

/// Makes a package `greeting` in a folder of wheels.
fn wheels(stage: &Stage) -> PathBuf {
    let dir = stage.dir.path().join("wheels");
    std::fs::create_dir(&dir).unwrap();
    let code = "import sys, zipfile\n\
                z = zipfile.ZipFile(sys.argv[1] + '/greeting-1.0-py3-none-any.whl', 'w')\n\
                z.writestr('greeting.py', 'TEXT = \"hello from the environment\"\\n')\n\
                i = 'greeting-1.0.dist-info/'\n\
                z.writestr(i + 'METADATA', 'Metadata-Version: 2.1\\nName: greeting\\nVersion: 1.0\\n')\n\
                z.writestr(i + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
                z.writestr(i + 'RECORD', 'greeting.py,,\\n' + i + 'METADATA,,\\n' + i + 'WHEEL,,\\n' + i + 'RECORD,,\\n')\n\
                z.close()\n";
    let made = Command::new("python3").args(["-c", code]).arg(&dir).status().unwrap();
    assert!(made.success());
    dir
}

fn environments(data: &Path) -> Vec<PathBuf> {
    let places = std::fs::read_dir(data.join("envs")).unwrap().filter_map(Result::ok);
    let built = places.flat_map(|place| std::fs::read_dir(place.path()).unwrap().filter_map(Result::ok));
    built.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[tokio::test]
async fn two_visitors_never_build_twice() {
    let stage = Stage::new();
    let wheels = wheels(&stage);
    std::fs::write(
        stage.app().join("requirements.txt"),
        format!("--no-index\n--find-links {}\ngreeting==1.0\n", wheels.display()),
    )
    .unwrap();
    let code = format!("import greeting\nprint(greeting.TEXT, flush=True)\n{}", crate::stage::SERVER);
    let spec = stage.python(&code);
    let launches = futures_util::future::join_all((0..4).map(|_| stage.launch(spec.clone()))).await;
    for (id, launched) in &launches {
        get(launched.as_ref().unwrap(), "/").await;
        until("it greets", || stage.log(id).starts_with("hello from the environment\n")).await;
    }
    assert_eq!(environments(&stage.data()).len(), 1);
    let made = |p: &skep_launch::Progress| p.detail.starts_with("making an environment on Python 3");
    assert!(stage.progress.lock().iter().any(|p| p.stage == Step::Environment && made(p)));

    // A later launch finds it ready: nothing is made, nothing is waited for.
    stage.progress.lock().clear();
    let (id, launched) = stage.launch(spec).await;
    let launched = launched.unwrap();
    assert!(!stage.progress.lock().iter().any(made));
    let venv = get(&launched, "/env/VIRTUAL_ENV").await.1;
    assert_eq!(Path::new(&venv), environments(&stage.data())[0]);
    assert!(get(&launched, "/env/PATH").await.1.starts_with(&format!("{venv}/bin:")));
    stage.stop(&id).await;
    for (id, _) in launches {
        stage.stop(&id).await;
    }
}

#[tokio::test]
async fn without_uv_the_environment_is_made_all_the_same_and_by_the_apps_user() {
    let mut stage = Stage::new();
    let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    open(stage.dir.path());
    open(&stage.app());
    let wheels = wheels(&stage);
    open(&wheels);
    let text = format!("--no-index\n--find-links {}\ngreeting\n", wheels.display());
    std::fs::write(stage.app().join("requirements.txt"), text).unwrap();
    // Python only: `uv` is not beside it. Another user gets to the system's Python, where that can make environments.
    let system = Path::new("/usr/bin/python3");
    let mut python = Command::new(system);
    let complete =
        python.args(["-c", "import ensurepip, venv"]).status().is_ok_and(|status| status.success());
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    let own = PathBuf::from(String::from_utf8(asked.stdout).unwrap().trim());
    let bin = stage.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(if complete { system } else { &own }, bin.join("python3")).unwrap();
    let mut config = config(&stage.data());
    config.path = format!("{}:/bin", bin.display());
    stage.backend = crate::stage::open(config).0;
    open(&stage.data());
    let mut spec = stage.python("import greeting, time\nprint(greeting.TEXT, flush=True)\ntime.sleep(60)\n");
    if complete && rustix::process::geteuid().is_root() {
        spec.run_as = Some("nobody".to_owned());
    }
    let (id, launched) = stage.launch(spec).await;
    let pid = launched.unwrap().pid.unwrap();
    assert!(!stage.progress.lock().iter().any(|p| p.detail.contains("uv")));
    until("it greets", || stage.log(&id).starts_with("hello from the environment\n")).await;
    let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
    let built = environments(&stage.data());
    assert_eq!(owner(&built[0].join("pyvenv.cfg")), owner(Path::new(&format!("/proc/{pid}"))));
    stage.stop(&id).await;
}

#[tokio::test]
async fn requirements_that_do_not_resolve_are_shown_with_their_last_lines() {
    let stage = Stage::new();
    std::fs::write(stage.app().join("requirements.txt"), "--no-index\nno-such-package-anywhere==9\n")
        .unwrap();
    for _ in 0..2 {
        let (id, launched) = stage.launch(stage.server()).await;
        match launched.unwrap_err() {
            BackendError::App { summary, last_lines } => {
                assert!(summary.contains("requirements.txt"), "{summary}");
                assert!(
                    last_lines.iter().any(|line| line.contains("no-such-package-anywhere")),
                    "{last_lines:?}"
                );
            }
            other => panic!("{other}"),
        }
        assert!(!stage.folder(&id).exists());
        assert_eq!(environments(&stage.data()), Vec::<PathBuf>::new(), "nothing half-built is kept");
    }
    // Mended, it works at once.
    std::fs::write(stage.app().join("requirements.txt"), "--no-index\n").unwrap();
    let (id, launched) = stage.launch(stage.server()).await;
    get(&launched.unwrap(), "/").await;
    stage.stop(&id).await;
}

#[tokio::test]
async fn a_stop_during_a_build_is_obeyed() {
    use skep_launch::{Backend, LaunchOrder, ProgressSink};
    let stage = Stage::new();
    let wheels = wheels(&stage);
    let text = format!("--no-index\n--find-links {}\ngreeting\n", wheels.display());
    std::fs::write(stage.app().join("requirements.txt"), text).unwrap();
    let id: skep_model::InstanceId = "demo.00000000000000dd".parse().unwrap();
    let order = LaunchOrder {
        id: id.clone(),
        spec: std::sync::Arc::new(stage.server()),
        owner: None,
        variant: skep_model::Variant::default(),
    };
    let seen = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = std::sync::Arc::clone(&seen);
    let launch = stage.backend.launch(order, ProgressSink::new(move |_| told.notify_one()));
    let stop = async {
        seen.notified().await;
        stage.backend.stop(&id, std::time::Duration::from_secs(5)).await.unwrap()
    };
    let (launched, report) = tokio::join!(launch, stop);
    assert!(launched.is_err());
    assert_eq!(report.reason, "stopped before it was started");
    assert!(!stage.folder(&id).exists());
}

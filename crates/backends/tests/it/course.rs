//! The ordinary course: launch, serve, log, stop, exit.

use std::time::Duration;

use futures_util::StreamExt;
use skep_launch::{Backend, BackendError, LogQuery, Stage as Step};
use skep_model::Limits;

use crate::spec::command_spec;
use crate::stage::{DEADLINE, Stage, get, runs, until};

#[tokio::test]
async fn an_app_is_launched_on_a_socket_and_stopped() {
    let stage = Stage::new();
    let (id, launched) = stage.launch(stage.server()).await;
    let launched = launched.unwrap();
    assert!(launched.dial.describe().starts_with("unix:/"), "{}", launched.dial.describe());
    let pid = launched.pid.unwrap();
    assert_eq!(get(&launched, "/").await, (200, format!("pid {pid}")));
    let steps: Vec<Step> = stage.progress.lock().iter().map(|p| p.stage).collect();
    assert_eq!(steps, [Step::Start, Step::Boot]);

    let shim = stage.shim_pid(&id);
    let report = stage.stop(&id).await;
    assert_eq!((report.reason.as_str(), report.signal), ("stopped", Some(15)));
    assert!(!runs(pid));
    until("the shim ends", || !runs(shim)).await;
    assert!(report.last_lines.contains(&format!("hello from {pid}")), "{:?}", report.last_lines);
    assert_eq!(stage.stop(&id).await, report, "stopping again answers the same");
    let left: Vec<_> = std::fs::read_dir(stage.data().join("run")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_app_is_launched_on_a_port_of_the_range() {
    let stage = Stage::new();
    let mut spec = command_spec(&stage.app(), &["python3", "serve.py", "{port}"]);
    spec.env.insert("AT".to_owned(), "{base_path} {app} {port}".to_owned());
    let (id, launched) = stage.launch(spec.clone()).await;
    let launched = launched.unwrap();
    let port: u16 = launched.dial.describe().strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
    assert!(skep_backends::process::PORTS.contains(&port));
    assert_eq!(get(&launched, "/env/AT").await.1, format!("/demo demo {port}"));
    let (other, second) = stage.launch(spec).await;
    assert_ne!(second.unwrap().dial.describe(), launched.dial.describe());
    stage.stop(&id).await;
    stage.stop(&other).await;
}

#[tokio::test]
async fn a_second_launch_of_an_id_joins_the_first() {
    let stage = Stage::new();
    let (id, first) = stage.launch(stage.server()).await;
    let order = skep_launch::LaunchOrder {
        id: id.clone(),
        spec: std::sync::Arc::new(stage.server()),
        owner: None,
        variant: skep_model::Variant::default(),
    };
    let again = stage.backend.launch(order, skep_launch::ProgressSink::new(|_| {})).await.unwrap();
    assert_eq!(again.pid, first.unwrap().pid);
    stage.stop(&id).await;
}

#[tokio::test]
async fn an_exit_is_reported_with_its_status_and_last_lines() {
    let mut stage = Stage::new();
    let spec = stage.python("import sys\nfor n in range(80): print('line', n)\nsys.exit(7)\n");
    let (id, _) = stage.launch(spec).await;
    let (of, report) = stage.exited().await;
    assert_eq!(of, id);
    assert_eq!((report.code, report.signal), (Some(7), None));
    assert_eq!(report.reason, "exited with status 7");
    assert_eq!(report.last_lines.len(), 50);
    assert_eq!(report.last_lines.last().unwrap(), "line 79");
}

#[tokio::test]
async fn causes_are_named_where_they_are_sure() {
    let mut stage = Stage::new();
    let (_, _) = stage.launch(stage.python("import no_such_module_here\n")).await;
    let (_, report) = stage.exited().await;
    assert!(report.reason.starts_with("exited with status 1: `no_such_module_here` is not installed in /"));
    assert!(report.reason.contains("add a requirements.txt"), "{}", report.reason);
    let (_, _) = stage.launch(stage.python("print('done')\n")).await;
    let (_, report) = stage.exited().await;
    assert!(report.reason.contains("must go on listening"), "{}", report.reason);
}

#[tokio::test]
async fn a_missing_program_is_said_before_anything_starts() {
    let stage = Stage::new();
    let (id, launched) = stage.launch(command_spec(&stage.app(), &["no-such-interpreter"])).await;
    match launched.unwrap_err() {
        BackendError::App { summary, .. } => assert!(summary.contains("`no-such-interpreter`"), "{summary}"),
        other => panic!("{other}"),
    }
    assert!(!stage.folder(&id).exists());
    std::fs::write(stage.app().join("x.sh"), "#!/no/such/shell\n").unwrap();
    let (_, launched) = stage.launch(command_spec(&stage.app(), &["./x.sh"])).await;
    let said = launched.unwrap_err().to_string();
    assert!(said.contains("x.sh cannot be started"), "{said}");
}

#[tokio::test]
async fn logs_are_read_and_followed_to_the_end() {
    let stage = Stage::new();
    let (id, launched) = stage.launch(stage.server()).await;
    let launched = launched.unwrap();
    get(&launched, "/one").await;
    let query = LogQuery { tail: 10, follow: true };
    let mut lines = stage.backend.logs(&id, query).await.unwrap();
    assert!(lines.next().await.unwrap().starts_with("hello from"));
    get(&launched, "/two").await;
    let seen = async {
        while let Some(line) = lines.next().await {
            if line == "request /two" {
                return;
            }
        }
        panic!("the log ended early");
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap();
    stage.stop(&id).await;
    let rest = tokio::time::timeout(DEADLINE, lines.collect::<Vec<_>>()).await.unwrap();
    assert!(rest.iter().all(|line| !line.contains("/one")), "{rest:?}");
    let after = stage.backend.logs(&id, LogQuery { tail: 1, follow: false }).await.unwrap();
    assert_eq!(after.collect::<Vec<_>>().await.len(), 1, "the log of an ended instance can be read");
    let unknown = "demo.00000000000000aa".parse().unwrap();
    let none = stage.backend.logs(&unknown, query).await;
    assert!(matches!(none.map(drop), Err(BackendError::Unknown)));
}

#[tokio::test]
async fn use_is_measured_over_all_processes() {
    let stage = Stage::new();
    let code = "import os, time\n\
                block = b'x' * (40 << 20)\n\
                if os.fork() == 0:\n    block = block + b'y'\n\
                sum(range(3_000_000))\nprint('ready', flush=True)\ntime.sleep(60)\n";
    let (id, launched) = stage.launch(stage.python(code)).await;
    launched.unwrap();
    until("both are ready", || stage.log(&id).matches("ready").count() == 2).await;
    let stats = stage.backend.stats(&id).await.unwrap();
    assert_eq!(stats.processes, 2);
    assert!(stats.memory_bytes > 80 << 20, "{stats:?}");
    assert!(stats.cpu_seconds > 0.0, "{stats:?}");
    stage.stop(&id).await;
    assert_eq!(stage.backend.stats(&id).await, None);
}

#[tokio::test]
async fn the_environment_is_clean_and_holds_what_was_configured() {
    let stage = Stage::new();
    let mut spec = stage.server();
    spec.env.insert("GREETING".to_owned(), "hi {app}".to_owned());
    spec.limits = Limits::default();
    let (id, launched) = stage.launch(spec).await;
    let launched = launched.unwrap();
    assert_eq!(get(&launched, "/env/GREETING").await.1, "hi demo");
    assert_eq!(get(&launched, "/env/SKEP_INSTANCE").await.1, id.to_string());
    let names = get(&launched, "/env").await.1;
    for name in ["HOME", "PATH", "LANG", "USER"] {
        assert!(names.lines().any(|n| n == name), "{name} in {names}");
    }
    assert!(!names.contains("CARGO"), "{names}");
    // Standard streams, the listening socket, the connection and the listing itself; the connection before may not be
    // closed yet.
    let clean = async || (get(&launched, "/fds").await.1 == "0 1 2 3 4 5").then_some(());
    crate::daemon::until("nothing else is open", clean).await;
    let who = get(&launched, "/who").await.1;
    assert!(who.ends_with(stage.app().to_str().unwrap()), "{who}");
    stage.stop(&id).await;
}

#[tokio::test]
async fn stopping_an_unknown_instance_says_so() {
    let stage = Stage::new();
    let id = "demo.00000000000000bb".parse().unwrap();
    let answer = stage.backend.stop(&id, Duration::from_secs(1)).await;
    assert!(matches!(answer, Err(BackendError::Unknown)));
}

#[tokio::test]
async fn thirty_at_once_come_and_go_without_a_trace() {
    let stage = Stage::new();
    let spec = command_spec(&stage.app(), &["sleep", "600"]);
    let launches = futures_util::future::join_all((0..30).map(|_| stage.launch(spec.clone()))).await;
    let pids: Vec<u32> = launches.iter().map(|(_, l)| l.as_ref().unwrap().pid.unwrap()).collect();
    assert!(pids.iter().all(|&pid| runs(pid)));
    let reports = futures_util::future::join_all(launches.iter().map(|(id, _)| stage.stop(id))).await;
    assert!(reports.iter().all(|report| report.reason == "stopped"), "{reports:?}");
    assert!(!pids.iter().any(|&pid| runs(pid)));
    let left: Vec<_> = std::fs::read_dir(stage.data().join("run")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let kept = std::fs::read_dir(stage.data().join("instances")).unwrap().count();
    assert!(kept <= 6, "{kept} folders of ended instances");
}

//! Apps that misbehave, and what becomes of their processes.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use skep_launch::Backend;

use crate::stage::{Stage, get, runs, signal, until};

/// Starts children every way there is: in the group, in a group and a session of their own, as daemons without an
/// environment. Prints the id of each.
const FAMILY: &str = r#"
import os, subprocess, sys, time
def say(what): os.write(1, (what + "\n").encode())
subprocess.Popen(["sleep", "600"])
subprocess.Popen(["sleep", "601"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        # What has no mark is found by its control group, which needs root.
        os.execve("/bin/sleep", ["sleep", "602"], {} if os.getuid() == 0 else os.environ)
    os._exit(0)
os.wait()
say("ready")
time.sleep(600)
"#;

/// The processes an instance consists of, without its shim.
fn family(shim: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut next = vec![shim];
    while let Some(pid) = next.pop() {
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children: Vec<u32> = list.split_whitespace().map(|p| p.parse().unwrap()).collect();
        found.extend(&children);
        next.extend(children);
    }
    found
}

#[tokio::test]
async fn a_killed_shim_takes_the_whole_app_with_it() {
    let mut stage = Stage::new();
    let (id, launched) = stage.launch(stage.python(FAMILY)).await;
    launched.unwrap();
    until("the family is complete", || stage.log(&id).contains("ready")).await;
    let shim = stage.shim_pid(&id);
    let members = family(shim);
    assert_eq!(members.len(), 4, "{members:?}");
    signal(shim, Signal::KILL);
    let (of, report) = stage.exited().await;
    assert_eq!(of, id);
    assert_eq!(report.reason, "its shim was killed, and the app with it");
    for pid in members {
        assert!(!runs(pid), "{pid} was left");
    }
    assert!(report.last_lines.contains(&"ready".to_owned()));
}

#[tokio::test]
async fn stopping_leaves_nothing_behind() {
    let stage = Stage::new();
    let (id, launched) = stage.launch(stage.python(FAMILY)).await;
    launched.unwrap();
    until("the family is complete", || stage.log(&id).contains("ready")).await;
    let members = family(stage.shim_pid(&id));
    assert_eq!(members.len(), 4, "{members:?}");
    stage.stop(&id).await;
    for pid in members {
        assert!(!runs(pid), "{pid} was left");
    }
}

#[tokio::test]
async fn an_app_that_ignores_the_request_is_killed_after_its_grace() {
    let stage = Stage::new();
    let code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n\
                time.sleep(600)\n";
    let (id, launched) = stage.launch(stage.python(code)).await;
    launched.unwrap();
    until("it is deaf", || stage.log(&id).contains("deaf")).await;
    let begun = Instant::now();
    let report = stage.backend.stop(&id, Duration::from_millis(300)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(report.signal, Some(9));
    assert!(report.reason.starts_with("stopped, by force"), "{}", report.reason);
}

/// Kilobytes of a field of `smaps_rollup`.
fn memory(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_flood_of_output_neither_blocks_the_app_nor_grows_anything() {
    let stage = Stage::new();
    let code = "import os, sys, time\n\
                line = b'x' * 99 + b'\\n'\n\
                block = line * 10_000\n\
                for n in range(100):\n\
                \x20   view = memoryview(block)\n\
                \x20   while view: view = view[os.write(1, view):]\n\
                os.write(2, b'y' * 5_000_000 + b'\\n')\n\
                print('all written', flush=True)\ntime.sleep(600)\n";
    let (id, launched) = stage.launch(stage.python(code)).await;
    launched.unwrap();
    let shim = stage.shim_pid(&id);
    let before = memory(shim, "Anonymous:");
    let end = || stage.end_of_log(&id, 20);
    until("100 MB are written", || end().ends_with("all written\n")).await;
    let after = memory(shim, "Anonymous:");
    assert!(after < before + 256, "the shim grew from {before} to {after} kB");
    assert!(after < 1024, "{after} kB");
    let size = |name: &str| std::fs::metadata(stage.folder(&id).join(name)).map_or(0, |m| m.len());
    assert!(size("log") + size("log.1") <= 10 << 20, "{} + {}", size("log"), size("log.1"));
    let report = stage.stop(&id).await;
    assert_eq!(report.last_lines.last().unwrap(), "all written");
    assert!(report.last_lines.iter().all(|line| line.len() <= 1000));
}

/// Whether this machine lets the limit be set; says so where it does not.
fn enforced(stage: &Stage, limit: &str) -> bool {
    let told = stage.progress.lock().iter().any(|p| p.detail.contains(&format!("{limit} is not enforced")));
    let root = rustix::process::geteuid().is_root();
    assert!(told || root, "without root, somebody must be told that {limit} is not enforced");
    !told
}

#[tokio::test]
async fn an_app_that_fills_its_memory_is_ended_and_the_cause_named() {
    let mut stage = Stage::new();
    let mut spec = stage.python("import time\nkept = []\nwhile True:\n    kept.append(b'x' * (1 << 20))\n");
    spec.limits.memory = Some(48 << 20);
    let (id, launched) = stage.launch(spec).await;
    launched.unwrap();
    if !enforced(&stage, "limits.memory") {
        assert!(stage.log(&id).contains("[skep] limits.memory is not enforced"));
        stage.stop(&id).await;
        return;
    }
    let (_, report) = stage.exited().await;
    assert!(report.out_of_memory, "{report:?}");
    assert_eq!(report.reason, "ran out of memory (limit 48 MiB)");
    assert_eq!(groups_of(&id.short()), Vec::<String>::new());
}

/// Control groups left of an instance.
fn groups_of(short: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = next.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if entry.file_name().to_str() == Some(short) {
                    found.push(entry.path().display().to_string());
                }
                next.push(entry.path());
            }
        }
    }
    found
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_limit_and_is_cleared_away() {
    let stage = Stage::new();
    let code = "import os, time\n\
                def bomb():\n\
                \x20   while True:\n\
                \x20       try: os.fork()\n\
                \x20       except OSError: os.write(1, b'refused\\n'); time.sleep(0.05)\n\
                import sys; sys.stdout.flush(); bomb()\n";
    let mut spec = stage.python(code);
    spec.limits.pids = Some(40);
    // Where the limit cannot be set, this test must not take the machine down.
    spec.command = Some(["python3", "own.py"].map(str::to_owned).to_vec());
    if !rustix::process::geteuid().is_root() {
        spec.command = Some(vec!["true".to_owned()]);
    }
    let (id, launched) = stage.launch(spec).await;
    launched.unwrap();
    if !enforced(&stage, "limits.pids") {
        return;
    }
    until("the limit is reached", || stage.log(&id).contains("refused")).await;
    let stats = stage.backend.stats(&id).await.unwrap();
    assert!(stats.processes <= 40, "{stats:?}");
    let members = family(stage.shim_pid(&id));
    assert!(members.len() > 10);
    stage.stop(&id).await;
    for pid in members {
        assert!(!runs(pid), "{pid} was left");
    }
    assert_eq!(groups_of(&id.short()), Vec::<String>::new());
}

#[tokio::test]
async fn a_processor_limit_holds() {
    let stage = Stage::new();
    let mut spec = stage.python("print('go', flush=True)\nwhile True: pass\n");
    spec.limits.cpu_millis = Some(100);
    let (id, launched) = stage.launch(spec).await;
    launched.unwrap();
    if enforced(&stage, "limits.cpu") {
        until("it works", || stage.log(&id).contains("go")).await;
        let (begun, before) = (Instant::now(), stage.backend.stats(&id).await.unwrap().cpu_seconds);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let used = stage.backend.stats(&id).await.unwrap().cpu_seconds - before;
        let of = begun.elapsed().as_secs_f64();
        assert!(used < 0.3 * of, "{used} s of {of} s at a limit of a tenth");
    }
    stage.stop(&id).await;
}

#[tokio::test]
async fn hostile_words_on_the_control_socket_change_nothing() {
    let stage = Stage::new();
    let (id, launched) = stage.launch(stage.server()).await;
    let launched = launched.unwrap();
    let control = stage.data().join("run").join(format!("{}.shim", id.short()));
    for words in
        [&b"\n"[..], b"{\"v\":2,\"op\":\"stop\"}\n", b"{\"v\":1,\"op\":\"explode\"}\n", &[b'x'; 100_000]]
    {
        let mut stream = std::os::unix::net::UnixStream::connect(&control).unwrap();
        let _ = stream.write_all(words);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{:?}", &words[..words.len().min(30)]);
    }
    let idle: Vec<_> = (0..50).map(|_| std::os::unix::net::UnixStream::connect(&control).unwrap()).collect();
    let pid = launched.pid.unwrap();
    assert_eq!(get(&launched, "/").await.1, format!("pid {pid}"));
    drop(idle);
    stage.stop(&id).await;
}

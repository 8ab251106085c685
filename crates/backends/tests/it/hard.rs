//! Apps that misbehave, and what becomes of their processes.

use rustix::process::Signal;

use crate::stage::{Stage, runs, signal, until};

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
        os.execve("/bin/sleep", ["sleep", "602"], {})
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

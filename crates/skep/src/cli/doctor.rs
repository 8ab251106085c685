//! `skep doctor`: what this machine offers, and what to mend.
//!
//! It looks and never changes anything; a finding is good, a warning (some apps or features will not work) or bad (the
//! server will not start).

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Resource;
use serde::Serialize;

use super::paint::Paint;
use super::{DoctorArgs, Everywhere};
use crate::config::server_keys::DEFAULT_LISTEN;
use crate::config::{Dirty, Loader};
use crate::data_dir::{DataDir, SOCKET_PATH_MAX};

/// No version query takes longer.
const ASK_AT_MOST: Duration = Duration::from_secs(10);
/// An instance's socket: `/run/<16 digits>.sock` below the data folder.
const INSTANCE_SOCKET: usize = "/run/0123456789abcdef.sock".len();

#[derive(Debug, Serialize)]
struct Finding {
    state: State,
    what: &'static str,
    found: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    mend: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Warning,
    Bad,
}

pub(crate) fn run(everywhere: &Everywhere, args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let dir = everywhere.data_dir()?;
    let mut findings = vec![data_folder(&dir), user(), socket_paths(&dir)];
    findings.extend(config(args));
    findings.extend([files(), watches(), cgroups()]);
    findings.extend(programs());
    let worst = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Good);
    if args.json {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, &findings)?;
        writeln!(stdout)?;
    } else {
        print(&findings)?;
    }
    Ok(if worst == State::Bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(findings: &[Finding]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let paint = Paint::of(stdout.is_terminal());
    for finding in findings {
        let mark = match finding.state {
            State::Good => paint.good("✓"),
            State::Warning => paint.warn("!"),
            State::Bad => paint.bad("✗"),
        };
        writeln!(stdout, "{mark} {:16} {}", finding.what, finding.found)?;
        if !finding.mend.is_empty() {
            writeln!(stdout, "  {:16} → {}", "", finding.mend)?;
        }
    }
    Ok(())
}

fn finding(state: State, what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { state, what, found: found.into(), mend: mend.into() }
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    finding(State::Good, what, found, "")
}

fn data_folder(dir: &Path) -> Finding {
    let what = "data folder";
    let mut exists = dir;
    while !exists.exists() {
        match exists.parent() {
            Some(parent) => exists = parent,
            None => break,
        }
    }
    if let Err(error) = rustix::fs::access(exists, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
    {
        let found = format!("{}: {} cannot be written to ({error})", dir.display(), exists.display());
        return finding(
            State::Bad,
            what,
            found,
            "make it and give it to Skep's user, or name another with --data-dir",
        );
    }
    if exists != dir {
        return good(what, format!("{} will be made", dir.display()));
    }
    match DataDir::connect(dir) {
        Ok(_) => good(what, format!("{}, in use by a running server", dir.display())),
        Err(_) => good(what, dir.display().to_string()),
    }
}

fn user() -> Finding {
    if rustix::process::geteuid().is_root() {
        finding(
            State::Warning,
            "user",
            "root: apps run as root too unless told otherwise",
            "set `run_as` in [defaults], or run Skep as a user of its own",
        )
    } else {
        good("user", format!("user id {}; apps run as the same user", rustix::process::geteuid().as_raw()))
    }
}

fn socket_paths(dir: &Path) -> Finding {
    let length = dir.as_os_str().len() + INSTANCE_SOCKET;
    if length <= SOCKET_PATH_MAX {
        good("socket paths", format!("{length} of {SOCKET_PATH_MAX} bytes"))
    } else {
        finding(
            State::Warning,
            "socket paths",
            format!(
                "{length} bytes, but the kernel takes {SOCKET_PATH_MAX}; instances get sockets elsewhere or ports"
            ),
            "choose a data folder with a shorter path",
        )
    }
}

fn config(args: &DoctorArgs) -> Vec<Finding> {
    let mut loader = Loader::new(args.config.clone(), Vec::new());
    let file = loader.file().map(|file| file.display().to_string());
    let mut findings = Vec::new();
    let mut listen = vec![DEFAULT_LISTEN];
    match (loader.load(&Dirty::All), file) {
        (Err(problems), _) => {
            let found = problems.to_string().replace('\n', "\n                   ");
            findings.push(finding(State::Bad, "config", found, "see `skep config check`"));
        }
        (Ok(_), None) => {}
        (Ok(config), Some(file)) => {
            if !config.server.listen.is_empty() {
                listen.clone_from(&config.server.listen);
            }
            listen.extend(config.server.admin_listen);
            findings.push(match config.refused.len() {
                0 => good("config", format!("{file}, {} apps", config.apps.len())),
                number => {
                    let found = format!("{file}, {} apps, {number} mistakes", config.apps.len());
                    finding(State::Warning, "config", found, "see `skep config check`")
                }
            });
        }
    }
    findings.extend(listen.into_iter().map(port));
    findings
}

fn port(address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => good("port", format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => finding(
            State::Bad,
            "port",
            format!("{address} may not be used by this user"),
            "use a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
        ),
        Err(error) => finding(
            State::Warning,
            "port",
            format!("{address}: {error}"),
            "fine if that is Skep itself; otherwise stop the other program or listen elsewhere",
        ),
    }
}

fn files() -> Finding {
    let limit = rustix::process::getrlimit(Resource::Nofile).maximum;
    let found = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("at most {limit}"));
    if limit.is_none_or(|limit| limit >= 65_536) {
        good("open files", found)
    } else {
        finding(
            State::Warning,
            "open files",
            format!("{found}: enough for about {} visitors at a time", limit.unwrap_or(0) / 3),
            "raise it: `LimitNOFILE=1048576` in the unit, or `ulimit -Hn`",
        )
    }
}

fn watches() -> Finding {
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?.trim().parse().ok()
    };
    match (read("max_user_watches"), read("max_user_instances")) {
        (Some(watches), Some(instances)) if watches >= 8_192 && instances >= 16 => {
            good("inotify", format!("{watches} watches, {instances} instances"))
        }
        (Some(watches), Some(instances)) => finding(
            State::Warning,
            "inotify",
            format!("{watches} watches, {instances} instances: little for many apps"),
            "sysctl fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=256",
        ),
        _ => finding(State::Warning, "inotify", "not there: changes are looked for at intervals", ""),
    }
}

/// Limits of CPU, memory and processes need a cgroup this user may write to.
fn cgroups() -> Finding {
    let what = "cgroups";
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let v2 = own.lines().find_map(|line| line.strip_prefix("0::"));
    let root = Path::new("/sys/fs/cgroup");
    let writable = |dir: &Path| rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
    if let Some(path) = v2.filter(|_| root.join("cgroup.controllers").exists()) {
        let dir = root.join(path.trim_start_matches('/'));
        let controllers = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        if writable(&dir) {
            return good(what, format!("v2, {}: {}", dir.display(), controllers.trim()));
        }
        return no_cgroups(&format!("v2, but {} may not be written to", dir.display()));
    }
    let v1: Vec<PathBuf> = ["memory", "cpu", "pids"].iter().map(|name| root.join(name)).collect();
    match v1.iter().find(|dir| !writable(dir)) {
        None => good(what, "v1: memory, cpu, pids"),
        Some(dir) => no_cgroups(&format!("v1, but {} may not be written to", dir.display())),
    }
}

fn no_cgroups(found: &str) -> Finding {
    finding(
        State::Warning,
        "cgroups",
        format!("{found}: `limits` of apps have no effect"),
        "run Skep as a systemd unit with `Delegate=yes`, or as root",
    )
}

fn programs() -> Vec<Finding> {
    let wanted: [(&str, &[&str], &str); 6] = [
        ("python3", &["--version"], "needed by every Python app"),
        ("uv", &["--version"], "builds Python environments much faster; `pip install uv`"),
        ("R", &["--version"], "needed by Shiny for R and R Markdown; Debian: r-base-core r-cran-shiny"),
        (
            "Rscript",
            &["-e", "cat(as.character(packageVersion('shiny')))"],
            "Shiny for R; Debian: r-cran-shiny",
        ),
        ("pandoc", &["--version"], "needed by R Markdown; Debian: pandoc"),
        ("quarto", &["--version"], "needed by Quarto documents only"),
    ];
    // Side by side: R alone takes a second.
    let asked: Vec<_> = wanted
        .into_iter()
        .map(|(program, args, why)| {
            let (sender, answer) = mpsc::channel();
            std::thread::spawn(move || {
                let _ = sender.send(version(program, args));
            });
            (program, why, answer)
        })
        .collect();
    asked
        .into_iter()
        .map(|(program, why, answer)| {
            let what = if program == "Rscript" { "R package shiny" } else { program };
            match answer.recv_timeout(ASK_AT_MOST) {
                Ok(Some(version)) => good(what, version),
                Ok(None) => finding(State::Warning, what, "not found", why),
                Err(_) => finding(State::Warning, what, "does not answer", why),
            }
        })
        .collect()
}

/// The first line a program says about itself.
fn version(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

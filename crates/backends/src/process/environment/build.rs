//! Building one environment.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Gid, Uid};
use rustix::process::{Pid, Signal, kill_process_group};
use skep_launch::BackendError;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;
use tokio::sync::watch;

use super::super::user::User;
use super::need::{From, Need};
use super::python::{Interpreter, find_uv};
use super::{complete, record};
use crate::table::blocking;

/// A build that takes longer is ended.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
const LAST_LINES: usize = 50;
const LINE_CHARS: usize = 500;

/// Variables of the server that a build may need to reach its packages.
const PASSED_ON: [&str; 13] = [
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
];

pub(super) struct Job {
    pub(super) place: PathBuf,
    pub(super) need: Need,
    pub(super) interpreter: Interpreter,
    pub(super) user: User,
    pub(super) path: String,
    /// Below it, package caches of users other than our own.
    pub(super) cache: PathBuf,
}

/// What a step printed last.
type Lines = VecDeque<String>;

impl Job {
    pub(super) async fn run(self, progress: &watch::Sender<String>) -> Result<PathBuf, BackendError> {
        let held = self.hold(progress).await?;
        if let Some(ready) = complete(&self.place) {
            // Another server built it while this one waited.
            return Ok(ready);
        }
        let name = fresh_name();
        let folder = self.place.join(&name);
        let built = tokio::time::timeout(DEADLINE, self.build(&folder, progress)).await;
        let built = built.unwrap_or_else(|_| {
            Err(BackendError::App {
                summary: format!("installing {} took longer than 30 minutes", self.need.file_name()),
                last_lines: Vec::new(),
            })
        });
        let place = self.place.clone();
        let done = match built {
            Ok(()) => blocking(move || {
                record(&place, &name).map_err(|e| platform("record the environment", &e))?;
                remove_others(&place, &name);
                Ok(folder)
            })
            .await
            .and_then(|done| done),
            Err(e) => {
                let _ = blocking(move || fs::remove_dir_all(folder)).await;
                Err(e)
            }
        };
        drop(held);
        done
    }

    /// Makes the place and waits for the lock that keeps other servers out.
    async fn hold(&self, progress: &watch::Sender<String>) -> Result<File, BackendError> {
        fs::create_dir_all(&self.place).map_err(|e| platform("make a folder for the environment", &e))?;
        let lock = File::create(self.place.join("lock")).map_err(|e| platform("lock the environment", &e))?;
        let mut waited = Duration::ZERO;
        while lock.try_lock().is_err() {
            progress.send_replace("another server is building this environment".to_owned());
            if waited > DEADLINE {
                return Err(BackendError::Platform(format!(
                    "{} has been locked by another process for too long",
                    self.place.display()
                )));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            waited += Duration::from_millis(200);
        }
        Ok(lock)
    }

    async fn build(&self, folder: &Path, progress: &watch::Sender<String>) -> Result<(), BackendError> {
        DirBuilder::new().mode(0o755).create(folder).map_err(|e| platform("make the environment", &e))?;
        let foreign = rustix::process::geteuid().as_raw() != self.user.ids.uid;
        if foreign {
            self.own(folder)?;
        }
        let requirements = self.requirements()?;
        let (path, user) = (self.path.clone(), self.user.clone());
        let uv = blocking(move || find_uv(&path, &user)).await?;
        let python = folder.join("bin/python");
        progress.send_replace(format!("making an environment on Python {}", self.interpreter.version));
        let mut lines = Lines::new();
        match &uv {
            Some(uv) => {
                let mut command = self.command(uv);
                command.args(["venv", "--no-project", "--allow-existing", "--python"]);
                command.arg(&self.interpreter.path).arg(folder);
                self.step(command, "the environment cannot be made", progress, &mut lines).await?;
            }
            None => {
                let mut command = self.command(&self.interpreter.path);
                command.args(["-m", "venv"]).arg(folder);
                let failed =
                    "the environment cannot be made (where `venv` is missing, install `uv` or python3-venv)";
                self.step(command, failed, progress, &mut lines).await?;
            }
        }
        let failed = format!("the packages {} asks for cannot be installed", self.need.file_name());
        let mut install = self.install(uv.as_deref(), &python);
        install.arg("-r").arg(&requirements);
        self.step(install, &failed, progress, &mut lines).await?;
        let missing = self.missing(&python).await;
        if !missing.is_empty() {
            let mut install = self.install(uv.as_deref(), &python);
            install.args(&missing);
            let failed = format!("{} cannot be installed", missing.join(" and "));
            self.step(install, &failed, progress, &mut lines).await?;
        }
        Ok(())
    }

    fn own(&self, folder: &Path) -> Result<(), BackendError> {
        let (uid, gid) = (Uid::from_raw(self.user.ids.uid), Gid::from_raw(self.user.ids.gid));
        let cache = self.cache_folder();
        fs::create_dir_all(&cache).map_err(|e| platform("make a folder for packages", &e))?;
        for path in [folder, &cache] {
            rustix::fs::chown(path, Some(uid), Some(gid))
                .map_err(|e| platform("hand the environment to its user", &e.into()))?;
        }
        Ok(())
    }

    fn cache_folder(&self) -> PathBuf {
        self.cache.join(format!("cache-{}", self.user.ids.uid))
    }

    /// The file to install from.
    fn requirements(&self) -> Result<PathBuf, BackendError> {
        match &self.need.from {
            From::Requirements => Ok(self.need.dir.join("requirements.txt")),
            From::Project(names) => {
                let file = self.place.join("requirements.txt");
                fs::write(&file, names.join("\n")).map_err(|e| platform("write the requirements", &e))?;
                Ok(file)
            }
        }
    }

    fn install(&self, uv: Option<&Path>, python: &Path) -> Command {
        match uv {
            Some(uv) => {
                let mut command = self.command(uv);
                command.args(["pip", "install", "--python"]).arg(python);
                command
            }
            None => {
                let mut command = self.command(python);
                command.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check"]);
                command
            }
        }
    }

    /// Servers the requirements brought nothing of.
    async fn missing(&self, python: &Path) -> Vec<&'static str> {
        let mut missing = Vec::new();
        for (module, package) in self.need.servers {
            let ask =
                format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)");
            let found = self.command(python).args(["-I", "-c", &ask]).status().await;
            if !found.is_ok_and(|status| status.success()) {
                missing.push(*package);
            }
        }
        missing
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", &self.path).env("HOME", &self.user.home).env("USER", &self.user.name);
        for (name, value) in std::env::vars_os() {
            let passed = name.to_str().is_some_and(|name| {
                PASSED_ON.contains(&name) || name.starts_with("PIP_") || name.starts_with("UV_")
            });
            if passed {
                command.env(name, value);
            }
        }
        command.env("PYTHONUNBUFFERED", "1").env("UV_NO_PROGRESS", "1").env("UV_NO_COLOR", "1");
        if rustix::process::geteuid().as_raw() != self.user.ids.uid {
            let cache = self.cache_folder();
            command.env("UV_CACHE_DIR", cache.join("uv")).env("PIP_CACHE_DIR", cache.join("pip"));
            command.uid(self.user.ids.uid).gid(self.user.ids.gid);
        }
        command.current_dir(&self.need.dir).stdin(Stdio::null());
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Runs one step, passing on what it prints. A failure carries its last lines.
    async fn step(
        &self,
        mut command: Command,
        failed: &str,
        progress: &watch::Sender<String>,
        lines: &mut Lines,
    ) -> Result<(), BackendError> {
        let plumbing = |e: std::io::Error| platform("read what the installation says", &e);
        let (reader, writer) = std::io::pipe().map_err(plumbing)?;
        command.stdout(writer.try_clone().map_err(plumbing)?).stderr(writer);
        let mut child = command.spawn().map_err(|e| platform("start the installation", &e))?;
        let group = Group(child.id());
        // The command holds the writing end too; without it the stream ends with the installation.
        drop(command);
        let mut output = BufReader::new(Receiver::from_owned_fd(reader.into()).map_err(plumbing)?);
        while let Some(line) = next_line(&mut output).await {
            hear(line, lines, progress);
        }
        let status = child.wait().await.map_err(|e| platform("wait for the installation", &e))?;
        group.over();
        if status.success() {
            return Ok(());
        }
        Err(BackendError::App {
            summary: format!("{failed}: {}", cause(lines)),
            last_lines: lines.iter().cloned().collect(),
        })
    }
}

/// A process group that is killed when given up on.
struct Group(Option<u32>);

impl Group {
    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The next line, of bounded length; `None` at the end.
async fn next_line(stream: &mut BufReader<Receiver>) -> Option<String> {
    let mut bytes = Vec::new();
    match stream.take(64 * 1024).read_until(b'\n', &mut bytes).await {
        Ok(n) if n > 0 => Some(String::from_utf8_lossy(&bytes).trim_end().chars().take(LINE_CHARS).collect()),
        _ => None,
    }
}

fn hear(line: String, lines: &mut Lines, progress: &watch::Sender<String>) {
    if line.trim().is_empty() {
        return;
    }
    progress.send_replace(line.trim().to_owned());
    if lines.len() == LAST_LINES {
        lines.pop_front();
    }
    lines.push_back(line);
}

/// The line that says most about a failure.
fn cause(lines: &Lines) -> String {
    let telling = lines.iter().rev().find(|line| {
        let lower = line.to_lowercase();
        lower.contains("error") || lower.contains("no solution") || lower.contains("because")
    });
    telling.or(lines.back()).map_or_else(|| "no output".to_owned(), |line| line.trim().to_owned())
}

fn platform(what: &str, e: &std::io::Error) -> BackendError {
    BackendError::Platform(format!("Skep cannot {what}: {e}"))
}

fn fresh_name() -> String {
    format!("env-{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id()))
}

/// Removes what builds that were cut short left behind.
fn remove_others(place: &Path, keep: &str) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("env-") && name != keep) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_telling_line_is_found() {
        let lines = |all: &[&str]| all.iter().map(|l| (*l).to_owned()).collect::<Lines>();
        assert_eq!(cause(&lines(&["a", "ERROR: no matching x", "hint: b"])), "ERROR: no matching x");
        assert_eq!(cause(&lines(&["a", "b "])), "b");
        assert_eq!(cause(&lines(&[])), "no output");
    }
}

//! A server with its apps and data in a folder of its own, started and stopped by a test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::ports::free_port;
use crate::web::Visitor;

pub(crate) const SERVER_PY: &str = include_str!("server.py");

/// Waits until something holds; the text says what is waited for.
pub(crate) fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process lives; a zombie does not.
pub(crate) fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| state != 'Z')
}

pub(crate) struct TestApp {
    dir: TempDir,
    server: Option<Child>,
    pub(crate) address: SocketAddr,
    started: u32,
}

impl TestApp {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("skep-it-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("apps")).unwrap();
        Self { dir, server: None, address: SocketAddr::from(([127, 0, 0, 1], free_port())), started: 0 }
    }

    /// A server with one small app `one`, started.
    pub(crate) fn with_one(keys: &str) -> Self {
        let mut test = Self::new();
        test.add("one", keys);
        test.start(&[]);
        test
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As editors do: never a half-written file.
        let new = path.with_extension("new~");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }

    /// Adds an app that runs the small server.
    pub(crate) fn add(&self, id: &str, keys: &str) {
        self.write(&format!("apps/{id}/server.py"), SERVER_PY);
        let command = "command = [\"python3\", \"-S\", \"server.py\", \"{port}\"]\n";
        self.write(&format!("apps/{id}/skep.toml"), &format!("{command}{keys}\n"));
    }

    /// `skep` with this test's data folder.
    pub(crate) fn skep(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skep"));
        command.env_remove("SKEP_DATA_DIR").env_remove("NOTIFY_SOCKET").env("RUST_LOG", "info");
        command.arg("--data-dir").arg(self.data()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.skep().args(args).output().unwrap()
    }

    /// Runs a command that must succeed; answers its stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "skep {args:?}: {}\n{stdout}\n{stderr}\n{}",
            output.status,
            self.log()
        );
        stdout
    }

    /// Starts the server on the folder of apps and waits until it serves.
    pub(crate) fn start(&mut self, more: &[&str]) {
        let apps = self.path("apps");
        self.start_with(&[&["serve", apps.to_str().unwrap()], more].concat());
    }

    pub(crate) fn start_with(&mut self, args: &[&str]) {
        self.spawn(self.skep(), args);
    }

    /// As [`TestApp::start`], with another program file.
    pub(crate) fn start_program(&mut self, program: &Path) {
        let mut command = Command::new(program);
        command.env_remove("SKEP_DATA_DIR").env_remove("NOTIFY_SOCKET").env("RUST_LOG", "info");
        command.arg("--data-dir").arg(self.data()).stdin(Stdio::null());
        let apps = self.path("apps");
        self.spawn(command, &["serve", apps.to_str().unwrap()]);
    }

    fn spawn(&mut self, mut command: Command, args: &[&str]) {
        assert!(self.server.is_none());
        self.started += 1;
        let log = std::fs::File::create(self.log_file()).unwrap();
        command.args(args).stderr(log).stdout(Stdio::null());
        if !args.contains(&"--listen") {
            command.args(["--listen", &self.address.to_string()]);
        }
        // Another test that starts a program at this moment may hold a file open that was just written.
        let child = until("the program is not being written", || match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
            spawned => Some(spawned.unwrap()),
        });
        self.server = Some(child);
        let deadline = Instant::now() + Duration::from_secs(120);
        self.address = loop {
            let log = self.log();
            let url = log.lines().find_map(|line| line.trim().strip_prefix("http://")?.strip_suffix('/'));
            if let Some(address) = url.and_then(|url| url.parse().ok()) {
                break address;
            }
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the server did not start ({ended:?}):\n{log}"
            );
            std::thread::sleep(Duration::from_millis(5));
        };
    }

    fn log_file(&self) -> PathBuf {
        self.path(&format!("server-{}.log", self.started))
    }

    /// What the server said on stderr since its last start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The server process, as the data folder's lock names it.
    pub(crate) fn server_pid(&self) -> u64 {
        std::fs::read_to_string(self.data().join("lock")).unwrap().trim().parse().unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        let pid = Pid::from_child(&server);
        kill_process(pid, Signal::TERM).unwrap();
        let status = until("the server ends", || server.try_wait().unwrap());
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Waits for the server to end by itself.
    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        let mut server = self.server.take().unwrap();
        until("the server ends by itself", || server.try_wait().unwrap())
    }

    pub(crate) fn visitor(&self) -> Visitor {
        Visitor::new(self.address)
    }

    pub(crate) fn ps(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.ok(&["ps", "--json"])).unwrap()
    }

    /// PIDs of an app's instances that are not on their way out.
    pub(crate) fn pids(&self, app: &str) -> Vec<u64> {
        let up = |row: &&serde_json::Value| {
            row["app"] == app && matches!(row["state"].as_str(), Some("ready" | "starting"))
        };
        self.ps().iter().filter(up).filter_map(|row| row["pid"].as_u64()).collect()
    }

    /// The journal, oldest first.
    pub(crate) fn events(&self) -> Vec<serde_json::Value> {
        let body = self.control("/_skep/api/v1/events?limit=10000");
        let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        body.lines().filter(|line| !line.is_empty()).map(read).collect()
    }

    /// Waits for a journal record of this kind whose detail holds the text.
    pub(crate) fn event(&self, kind: &str, text: &str) -> serde_json::Value {
        until(&format!("event {kind} with `{text}`\n{}", self.log()), || {
            let fits = |event: &serde_json::Value| {
                event["kind"] == kind && event["detail"].as_str().is_some_and(|detail| detail.contains(text))
            };
            self.events().into_iter().find(fits)
        })
    }

    /// GET on the control socket.
    pub(crate) fn control(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let mut socket = std::os::unix::net::UnixStream::connect(self.data().join("control.sock")).unwrap();
        write!(socket, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    /// Every server and app process of this test: started in its folder or named after it. Shims are neither.
    pub(crate) fn processes(&self) -> Vec<u64> {
        processes_of(self.dir.path())
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        // Successors, shims and apps: only those of this test's own folder, until none is left.
        for _ in 0..2_000 {
            let left = processes_of(self.dir.path());
            if left.is_empty() {
                break;
            }
            for pid in left {
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn processes_of(dir: &Path) -> Vec<u64> {
    let own = u64::from(std::process::id());
    let needle = dir.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let named = line.windows(needle.len()).any(|part| part == needle);
        let inside = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        if pid != own && (named || inside) && is_alive(pid) {
            found.push(pid);
        }
    }
    found
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

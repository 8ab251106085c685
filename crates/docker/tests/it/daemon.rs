//! A Docker Engine of the tests' own: one per test binary, in its own network and mount namespaces, its files in a folder
//! of its own. Nothing is pulled: images are made from the machine's busybox.
//!
//! A small shell stands beside it and waits for the end of the test process, however that comes; then it stops the engine
//! by its process id and removes folder, control groups and whatever is left of containers.

#![allow(dead_code, reason = "several test binaries use this file, each its part of it")]

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

const START_WITHIN: Duration = Duration::from_secs(120);

/// Starts the engine, says its process id, waits for the end of its input, and clears up.
const KEEPER: &str = r#"
dir=$1 group=$2; shift 2
unshare --net --mount --uts --propagation private sh -c '
    ip link set lo up && mount -t tmpfs tmpfs /run && hostname skep-it && exec "$@"' sh \
    dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" --cgroup-parent "/$group" \
    --exec-opt native.cgroupdriver=cgroupfs --host "unix://$dir/docker.sock" "$@" \
    >"$dir/log" 2>&1 </dev/null &
pid=$!
echo $pid
cat >/dev/null
members() { find /sys/fs/cgroup -path "*/$group/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u; }
for left in $(members); do kill -9 "$left" 2>/dev/null; done
# A test may have started it anew.
again=$(cat "$dir/pid" 2>/dev/null)
[ -z "$again" ] || [ "$again" = "$pid" ] || kill "$again" 2>/dev/null
kill "$pid" 2>/dev/null
( sleep 20; kill -9 "$pid" ) 2>/dev/null & timer=$!
wait "$pid"
for i in $(seq 100); do [ -n "$again" ] && [ -d "/proc/$again" ] || break; sleep 0.1; done
kill "$timer" 2>/dev/null
for left in $(pgrep -f "$dir/exec/containerd") $(members); do kill -9 "$left" 2>/dev/null; done
sleep 0.2
find /sys/fs/cgroup -depth -type d -path "*/$group*" -exec rmdir {} \; 2>/dev/null
rm -rf "$dir"
"#;

/// The running engine.
pub(crate) struct Daemon {
    dir: PathBuf,
    pid: AtomicU32,
    /// Ends with this process, and with it the engine.
    _keeper: Child,
    /// Engines started anew.
    again: Mutex<Vec<Child>>,
}

/// Where an engine lived.
pub(crate) struct Namespaces([std::fs::File; 3]);

/// The engine of this test binary, started by whoever asks first.
pub(crate) fn daemon() -> &'static Daemon {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(|| Daemon::start(|_| Vec::new()))
}

impl Daemon {
    /// Starts an engine with more flags, made from its folder. As a node of a Swarm it asks no registry for what it has.
    pub(crate) fn start(flags: impl Fn(&Path) -> Vec<String>) -> Self {
        Self::start_with(flags, "1")
    }

    /// One that asks registries, as engines do.
    #[allow(dead_code)] // Not each of the crates that share this file has such a test.
    pub(crate) fn start_asking() -> Self {
        Self::start_with(|_| Vec::new(), "")
    }

    fn start_with(flags: impl Fn(&Path) -> Vec<String>, offline: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests start a Docker Engine of their own, which needs root: run `sudo make test`"
        );
        let dir = tempfile::Builder::new().prefix("skep-docker-").tempdir().unwrap().keep();
        let group = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&dir)
            .arg(group)
            .args(flags(&dir))
            .env("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", offline)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What a terminal sends to the tests does not reach it: it ends in its own order.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let daemon = Self {
            pid: AtomicU32::new(line.trim().parse().unwrap()),
            dir,
            _keeper: keeper,
            again: Mutex::default(),
        };
        daemon.await_answer();
        daemon.make_image();
        daemon
    }

    fn await_answer(&self) {
        let deadline = Instant::now() + START_WITHIN;
        while !self.dir.join("docker.sock").exists() || self.ask("GET", "/_ping", &[], Vec::new()).0 != 200 {
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(
                Instant::now() < deadline && Path::new(&format!("/proc/{}", self.pid())).exists(),
                "dockerd does not start (Debian: apt-get install docker.io):\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `bb:1`: busybox with a small web server on port 8080, whose `/cgi-bin/env` tells its environment.
    fn make_image(&self) {
        let root = self.dir.join("image");
        for folder in ["bin", "tmp", "etc", "proc", "sys", "dev", "run", "www/cgi-bin"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("busybox is missing (Debian: apt-get install busybox-static)");
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        let list = Command::new(busybox).arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("www/index.html"), "hello from a container\n").unwrap();
        let env = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nenv\n";
        std::fs::write(root.join("www/cgi-bin/env"), env).unwrap();
        let anybodys = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(root.join("tmp"), anybodys).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(root.join("www/cgi-bin/env"), executable).unwrap();
        let tar = Command::new("tar").arg("-C").arg(&root).args(["-c", "."]).output().unwrap();
        assert!(tar.status.success());
        std::fs::remove_dir_all(&root).unwrap();
        let path = "/images/create?fromSrc=-&repo=bb&tag=1&changes=ENV%20PATH%3D%2Fbin\
                    &changes=EXPOSE%208080&changes=CMD%20%5B%22httpd%22%2C%22-f%22%2C%22-p%22%2C%228080%22%2C%22-h%22%2C%22%2Fwww%22%5D";
        let (status, said) = self.ask("POST", path, &["Content-Type: application/x-tar"], tar.stdout);
        assert_eq!(status, 200, "{said}");
    }

    /// One plain request over the engine's socket, without the client under test.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[&str], body: Vec<u8>) -> (u16, String) {
        use std::io::{Read, Write};
        let Ok(mut socket) = std::os::unix::net::UnixStream::connect(self.socket()) else {
            return (0, String::new());
        };
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.0\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n");
        if socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(&body)).is_err() {
            return (0, String::new());
        }
        let mut answer = Vec::new();
        if socket.read_to_end(&mut answer).is_err() {
            // It was killed meanwhile.
            return (0, String::new());
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        (status, body)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Acquire)
    }

    /// Ends the engine as a crash does; its containers run on. Answers what it needs to be started anew.
    pub(crate) fn crash(&self) -> Namespaces {
        let pid = self.pid();
        let open = |kind: &str| std::fs::File::open(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let namespaces = Namespaces(["net", "mnt", "uts"].map(open));
        let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        let deadline = Instant::now() + START_WITHIN;
        while self.ask("GET", "/_ping", &[], Vec::new()).0 != 0 {
            assert!(Instant::now() < deadline, "it answers although it was killed");
            std::thread::sleep(Duration::from_millis(10));
        }
        namespaces
    }

    /// Starts the engine anew where it was.
    pub(crate) fn restart(&self, namespaces: &Namespaces) {
        // They name processes that are gone, whose numbers others may have by now.
        for stale in ["pid", "exec/containerd/containerd.pid"] {
            let _ = std::fs::remove_file(self.dir.join(stale));
        }
        let log = std::fs::File::options().append(true).open(self.dir.join("log")).unwrap();
        let fd =
            |index: usize| format!("/proc/{}/fd/{}", std::process::id(), namespaces.0[index].as_raw_fd());
        let under = |name: &str| self.dir.join(name).display().to_string();
        let group = self.dir.file_name().unwrap().to_str().unwrap();
        let child = Command::new("nsenter")
            .args([format!("--net={}", fd(0)), format!("--mount={}", fd(1)), format!("--uts={}", fd(2))])
            .args([
                "dockerd",
                "--data-root",
                &under("data"),
                "--exec-root",
                &under("exec"),
                "--pidfile",
                &under("pid"),
            ])
            .args(["--cgroup-parent", &format!("/{group}"), "--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--host", &format!("unix://{}", under("docker.sock"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.pid.store(child.id(), Ordering::Release);
        self.again.lock().unwrap().push(child);
        self.await_answer();
    }

    /// Moves this thread, and the threads and processes it starts from now on, into the engine's network.
    pub(crate) fn enter(&self) {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).unwrap();
    }
}

/// Waits for a condition.
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

//! What every test needs: a backend on a folder of its own, an app to launch, and conditions to wait for.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use skep_backends::process::{ProcessBackend, ProcessConfig};
use skep_launch::{
    Backend, BackendError, BackendEvent, ExitReport, LaunchOrder, Launched, Progress, ProgressSink, Stream,
};
use skep_model::{AppSpec, InstanceId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
pub(crate) const HARNESS: &str = env!("CARGO_BIN_EXE_skep-process-harness");

/// What a script in a container does until it is told to go on.
pub(crate) const TOLD: &str = "until [ -e /tmp/told ]; do sleep 0.1; done";

/// Tells the script of the container whose first process this is.
pub(crate) fn tell(pid: u32) {
    std::fs::write(format!("/proc/{pid}/root/tmp/told"), "").unwrap();
}

/// A script that, once told to, takes more memory than its container has, and ends a little later: an engine may hear of
/// the end before it hears of its cause, and a busy one of both late.
pub(crate) fn hungry() -> String {
    format!("{TOLD}; tail /dev/zero; sleep 8; exit 9")
}

/// A server that answers with what it is asked for. `{socket}` or `{port}` decide where it listens.
pub(crate) const SERVER: &str = r#"
import http.server, os, signal, socket, socketserver, subprocess, sys
where = sys.argv[1]
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/env/"):
            body = os.environ.get(self.path[5:], "(unset)")
        elif self.path == "/env":
            body = "\n".join(sorted(os.environ))
        elif self.path == "/fds":
            body = " ".join(sorted(os.listdir("/proc/self/fd"), key=int))
        elif self.path == "/who":
            body = "%d %d %s" % (os.getuid(), os.getgid(), os.getcwd())
        else:
            body = "pid %d" % os.getpid()
        body = body.encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def address_string(self): return "-"
    def log_message(self, *a): print("request", self.path, flush=True)
class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
if where.startswith("/"):
    Server.address_family = socket.AF_UNIX
    address = where
else:
    address = ("127.0.0.1", int(where))
print("hello from", os.getpid(), flush=True)
Server(address, Page).serve_forever()
"#;

pub(crate) struct Stage {
    pub(crate) dir: TempDir,
    pub(crate) backend: Arc<ProcessBackend>,
    pub(crate) events: mpsc::Receiver<BackendEvent>,
    pub(crate) progress: Arc<Mutex<Vec<Progress>>>,
}

pub(crate) fn config(data: &Path) -> ProcessConfig {
    ProcessConfig::new(data.to_path_buf(), PathBuf::from(HARNESS))
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        std::fs::write(dir.path().join("app/serve.py"), SERVER).unwrap();
        let (backend, events) = open(config(&dir.path().join("data")));
        Self { dir, backend, events, progress: Arc::default() }
    }

    pub(crate) fn app(&self) -> PathBuf {
        self.dir.path().join("app")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn folder(&self, id: &InstanceId) -> PathBuf {
        self.data().join("instances").join(id.to_string())
    }

    /// A command app of its own file, run by Python.
    pub(crate) fn python(&self, code: &str) -> AppSpec {
        std::fs::write(self.app().join("own.py"), code).unwrap();
        crate::spec::command_spec(&self.app(), &["python3", "own.py", "{socket}"])
    }

    pub(crate) fn server(&self) -> AppSpec {
        crate::spec::command_spec(&self.app(), &["python3", "serve.py", "{socket}"])
    }

    pub(crate) async fn launch(&self, spec: AppSpec) -> (InstanceId, Result<Launched, BackendError>) {
        static NONCE: AtomicU64 = AtomicU64::new(1);
        // Control groups are named after the nonce; those of another run of the tests must not be met.
        let nonce = u64::from(std::process::id()) << 32 | NONCE.fetch_add(1, Ordering::Relaxed);
        let id = InstanceId::new(spec.id.clone(), nonce);
        let seen = Arc::clone(&self.progress);
        let sink = ProgressSink::new(move |progress| seen.lock().push(progress));
        let order = LaunchOrder {
            id: id.clone(),
            spec: Arc::new(spec),
            owner: None,
            variant: skep_model::Variant::default(),
        };
        let launched = self.backend.launch(order, sink).await;
        (id, launched)
    }

    /// The next report of an end that was not asked for.
    pub(crate) async fn exited(&mut self) -> (InstanceId, ExitReport) {
        match tokio::time::timeout(DEADLINE, self.events.recv()).await.unwrap().unwrap() {
            BackendEvent::Exited { id, report } => (id, report),
        }
    }

    pub(crate) async fn stop(&self, id: &InstanceId) -> ExitReport {
        self.backend.stop(id, Duration::from_secs(10)).await.unwrap()
    }

    pub(crate) fn log(&self, id: &InstanceId) -> String {
        std::fs::read_to_string(self.folder(id).join("log")).unwrap_or_default()
    }

    /// The last bytes of the log, for logs too big to be read all the time.
    pub(crate) fn end_of_log(&self, id: &InstanceId, bytes: u64) -> String {
        let Ok(mut file) = std::fs::File::open(self.folder(id).join("log")) else { return String::new() };
        let size = file.metadata().unwrap().len();
        let mut text = String::new();
        file.seek(SeekFrom::Start(size.saturating_sub(bytes))).unwrap();
        file.read_to_string(&mut text).map(|_| text).unwrap_or_default()
    }

    pub(crate) fn shim_pid(&self, id: &InstanceId) -> u32 {
        let text = std::fs::read_to_string(self.folder(id).join("shim.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["shim"]["pid"].as_u64().unwrap().try_into().unwrap()
    }
}

pub(crate) fn open(config: ProcessConfig) -> (Arc<ProcessBackend>, mpsc::Receiver<BackendEvent>) {
    let (sender, events) = mpsc::channel(64);
    (ProcessBackend::open(config, sender).unwrap(), events)
}

/// Asks until an answer comes. Answers the body, and the status before it.
pub(crate) async fn get(launched: &Launched, path: &str) -> (u16, String) {
    let begun = Instant::now();
    loop {
        match try_get(launched, path).await {
            Ok(answer) => return answer,
            Err(e) => {
                assert!(begun.elapsed() < Duration::from_secs(90), "{path}: {e}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

pub(crate) async fn try_get(launched: &Launched, path: &str) -> std::io::Result<(u16, String)> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: apps.example\r\nX-Forwarded-Prefix: /demo\r\nX-Forwarded-Proto: http\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    let mut answer = Vec::new();
    let exchange = async {
        match launched.dial.dial().await? {
            Stream::Tcp(mut stream) => {
                stream.write_all(request.as_bytes()).await?;
                stream.read_to_end(&mut answer).await
            }
            Stream::Unix(mut stream) => {
                stream.write_all(request.as_bytes()).await?;
                stream.read_to_end(&mut answer).await
            }
            Stream::Other(mut stream) => {
                stream.write_all(request.as_bytes()).await?;
                stream.read_to_end(&mut answer).await
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), exchange)
        .await
        .map_err(|_| std::io::ErrorKind::TimedOut)??;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status =
        head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(), signal)
        .unwrap();
}

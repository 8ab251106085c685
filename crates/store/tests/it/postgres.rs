//! A private PostgreSQL server from the Debian package, on a Unix socket in a temporary folder.
//!
//! One server serves the whole test binary, each test in a database of its own. It ends with this process: a watching
//! shell holds the read end of a pipe whose write end only this process has, so it ends even when the tests are killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use skep_store::Location;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::ports::free_port;

struct Server {
    folder: PathBuf,
    /// Where it speaks TLS, on loopback.
    port: u16,
    /// Kept so that its standard input stays open as long as this process lives.
    _watcher: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// A fresh, empty database.
pub(crate) async fn database() -> Location {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let server = SERVER.get_or_init(start);
    let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut admin = connect(&server.url("postgres")).await;
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    admin.close().await.unwrap();
    server.url(&name).parse().unwrap()
}

/// A fresh, empty database over TCP, without the question how the connection is protected; and the file of the
/// certificate authority that vouches for the server as `localhost`.
pub(crate) async fn tls_database() -> (String, PathBuf) {
    let location = database().await;
    let name = location.to_string().rsplit('/').next().unwrap().to_owned();
    let server = SERVER.get_or_init(start);
    (format!("postgres://postgres@localhost:{}/{name}", server.port), server.folder.join("ca.pem"))
}

pub(crate) async fn connect(url: &str) -> sqlx::PgConnection {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match sqlx::PgConnection::connect(url).await {
            Ok(connection) => return connection,
            Err(problem) if Instant::now() > deadline => panic!("PostgreSQL does not answer: {problem}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
}

impl Server {
    fn url(&self, database: &str) -> String {
        let socket = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{socket}:{}/{database}", self.port)
    }
}

fn start() -> Server {
    let bin = programs();
    let folder = tempfile::Builder::new().prefix("skep-pg").tempdir().unwrap().keep();
    let data = folder.join("data");
    let root = runs_as_root();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    if root {
        run(Command::new("chown").arg("postgres").arg(&folder));
    }
    let mut initdb = as_postgres(root, &bin.join("initdb"));
    run(initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D"]).arg(&data));
    let quote = |path: &Path| format!("'{}'", path.display());
    let port = free_port();
    write_certificates(&folder, root);
    let settings = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = {}\nmax_connections = 100\n\
         ssl = on\nssl_cert_file = {}\nssl_key_file = {}\n",
        quote(&folder),
        quote(&folder.join("server.pem")),
        quote(&folder.join("server.key")),
    );
    let config = data.join("postgresql.conf");
    let text = fs::read_to_string(&config).unwrap() + &settings;
    fs::write(&config, text).unwrap();
    // The shell starts the server and waits for the end of its input: the end of the test process.
    let script = format!(
        "\"$@\" >{log} 2>&1 & server=$!; cat >/dev/null; kill -QUIT $server; wait $server; rm -rf {folder}",
        log = quote(&folder.join("log")),
        folder = quote(&folder),
    );
    let server = as_postgres(root, &bin.join("postgres"));
    let mut watcher = Command::new("sh");
    watcher.args(["-c", &script, "sh"]).arg(server.get_program()).args(server.get_args());
    watcher.arg("-D").arg(&data).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Server { folder, port, _watcher: watcher.spawn().unwrap() }
}

/// A certificate authority, and what it vouches for: the server, as `localhost`.
fn write_certificates(folder: &Path, root: bool) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    fs::write(folder.join("ca.pem"), authority_pem).unwrap();
    fs::write(folder.join("server.pem"), server.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    let key_file = folder.join("server.key");
    fs::write(&key_file, key.serialize_pem()).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    if root {
        run(Command::new("chown").arg("postgres").arg(&key_file));
    }
}

/// PostgreSQL refuses to run as root.
fn as_postgres(root: bool, program: &Path) -> Command {
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

fn runs_as_root() -> bool {
    let me = fs::metadata("/proc/self").unwrap();
    std::os::unix::fs::MetadataExt::uid(&me) == 0
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The newest installed version.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .max()
        .expect("PostgreSQL is not installed: `make setup` (or `apt-get install postgresql`) does that")
}

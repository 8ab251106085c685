//! A private PostgreSQL server on a free port of the loopback address, which tests may kill and start again.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor};

pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed (make setup)");
    let mut found: Vec<PathBuf> = versions.map(|v| v.expect("entry").path().join("bin")).collect();
    found.sort();
    found.pop().expect("a version of PostgreSQL")
}

/// Below the ports that the kernel hands out to connections: nobody takes it until the server has it, or while it is killed
/// and started again, and who tries to connect meanwhile does not meet itself.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_mul(97).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(11_000 + next % 9_000).expect("small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Runs a program as `postgres` when we are root, which PostgreSQL refuses; it dies with the test.
fn as_postgres(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        // Only the folder: what is in it was made by PostgreSQL, which may be changing it at this moment.
        let owned = Command::new("chown").arg("postgres:postgres").arg(dir).status().expect("chown");
        assert!(owned.success());
    }
    command.arg(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(dir);
    command
}

impl Postgres {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("ballot-pg").tempdir().expect("dir");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("mode");
        let mut this = Self { folder, port: 0, server: None };
        let data = this.folder.path().join("data");
        let mut initdb = as_postgres(&programs().join("initdb"), this.folder.path());
        let made = initdb
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "-D"])
            .arg(&data)
            .status();
        assert!(made.expect("initdb").success());
        // Not before: while the files are made, somebody else would get it.
        this.port = free_port();
        this.revive().await;
        this
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A new, empty database.
    pub(crate) async fn database(&self, name: &'static str) -> String {
        let mut admin = sqlx::PgConnection::connect(&self.url("postgres")).await.expect("connects");
        admin.execute(sqlx::AssertSqlSafe(format!("create database {name}"))).await.expect("creates");
        self.url(name)
    }

    /// Kills the server and all its processes, as a crash would.
    pub(crate) fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // The postmaster's children notice that it is gone and end by themselves.
        server.kill().expect("kill");
        server.wait().expect("wait");
    }

    /// Starts the server (again) and waits until it answers.
    pub(crate) async fn revive(&mut self) {
        let data = self.folder.path().join("data");
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            if self.server.as_mut().is_none_or(|s| s.try_wait().expect("wait").is_some()) {
                // Children of a killed server may hold its memory for a moment; then it refuses to start.
                let mut server = as_postgres(&programs().join("postgres"), self.folder.path());
                server.arg("-D").arg(&data).args(["-p", &self.port.to_string(), "-k", ""]);
                server.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=60"]);
                self.server = Some(server.spawn().expect("starts"));
            }
            if sqlx::PgConnection::connect(&self.url("postgres")).await.is_ok() {
                return;
            }
            assert!(Instant::now() < deadline, "PostgreSQL does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

//! Two servers, one Swarm and one PostgreSQL: who launches.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::ports::free_port;
use crate::test_app::{TestApp, text, until};

/// A PostgreSQL of this test's own, and a manager of a Swarm that has nothing in it.
struct Surroundings {
    dir: TempDir,
    postgres: Child,
    port: u16,
}

impl Surroundings {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("skep-lease-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let manager = UnixListener::bind(dir.path().join("manager.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in manager.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || answer(stream));
            }
        });
        let (bin, home) = (postgres_programs(), dir.path().join("postgres"));
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
        let data = home.join("data");
        let made = nobody(&bin.join("initdb"))
            .args(["-A", "trust", "-U", "skep", "-E", "UTF8", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = free_port();
        let postgres = nobody(&bin.join("postgres"))
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-p", &port.to_string(), "-k"])
            .arg(&home)
            .arg("-D")
            .arg(&data)
            .stderr(fs::File::create(dir.path().join("postgres.log")).unwrap())
            .spawn()
            .unwrap();
        until("PostgreSQL answers", || {
            let asked = Command::new(bin.join("createdb"))
                .args(["-h", "127.0.0.1", "-U", "skep", "-p", &port.to_string(), "votes_and_seats"])
                .stderr(Stdio::null())
                .status();
            asked.unwrap().success().then_some(())
        });
        fs::write(dir.path().join("join"), "0123456789abcdef0123\n").unwrap();
        Self { dir, postgres, port }
    }

    fn start(&self, server: &mut TestApp) {
        let words = self.words(server);
        server.start_with(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// What the server is started with.
    fn words(&self, server: &TestApp) -> Vec<String> {
        let (dir, ports) = (self.dir.path().display(), [free_port(), free_port()]);
        server.write(
            "skep.toml",
            &format!(
                "[server]\nlisten = [\"127.0.0.1:{}\"]\n[docker]\nhost = \"unix://{dir}/manager.sock\"\n\
                 [swarm]\njoin_secret_file = \"{dir}/join\"\nagent_listen = \"127.0.0.1:{}\"\n",
                ports[0], ports[1]
            ),
        );
        let config = server.path("skep.toml").display().to_string();
        let store = format!("postgres://skep@127.0.0.1:{}/votes_and_seats?sslmode=disable", self.port);
        let listen = format!("127.0.0.1:{}", ports[0]);
        ["serve", "--config", &config, "--store", &store, "--listen", &listen].map(str::to_owned).to_vec()
    }

    /// How long the lease lives from now on, unless it is renewed.
    fn lease_left(&self) -> Duration {
        let left =
            "SELECT until_ms - CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) FROM leases";
        let told = Command::new(postgres_programs().join("psql"))
            .args(["-h", "127.0.0.1", "-U", "skep", "-p", &self.port.to_string(), "-AtXc", left])
            .arg("votes_and_seats")
            .output()
            .unwrap();
        assert!(told.status.success(), "{told:?}");
        Duration::from_millis(text(&told.stdout).trim().parse().unwrap_or(0))
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.postgres), Signal::QUIT);
        let _ = self.postgres.wait();
    }
}

fn postgres_programs() -> PathBuf {
    let installed =
        fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is missing: apt-get install postgresql");
    let mut versions: Vec<PathBuf> = installed.map(|entry| entry.unwrap().path().join("bin")).collect();
    versions.sort();
    versions.pop().unwrap()
}

/// A program that does not run as root, and ends with the test.
fn nobody(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.arg(program).env("LC_ALL", "C").stdout(Stdio::null());
    command
}

/// What a manager says of a Swarm without anything in it.
fn answer(mut stream: UnixStream) {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        head.extend_from_slice(&chunk[..read]);
        let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let line = String::from_utf8_lossy(&head[..end]).lines().next().unwrap_or_default().to_owned();
        head.clear();
        let path =
            line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
        let body = match path.rsplit('/').next() {
            Some("events") => return std::thread::sleep(Duration::from_secs(120)),
            Some("version") => r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12"}"#,
            Some("swarm") => r#"{"ID":"the-swarm"}"#,
            _ => "[]",
        };
        let length = body.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        if stream.write_all((head + body).as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn of_two_servers_one_launches_and_the_other_takes_over_when_it_is_silent() {
    let around = Surroundings::new();
    let (mut one, mut two) = (TestApp::new(), TestApp::new());
    around.start(&mut one);
    let hung = Pid::from_raw(i32::try_from(one.server_pid()).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| {
            around.start(&mut two);
            Instant::now()
        });
        std::thread::sleep(Duration::from_secs(2));
        assert!(!starting.is_finished(), "it waits for as long as the other one lives");
        // A beat that the machine held up would shorten the silence that is measured.
        until("the lease was renewed just now", || {
            (around.lease_left() > Duration::from_secs(5)).then_some(())
        });
        kill_process(hung, Signal::STOP).unwrap();
        let began = Instant::now();
        let took = starting.join().unwrap().duration_since(began);
        println!("the second server serves {took:?} after the first fell silent");
        assert!(took > Duration::from_secs(3) && took < Duration::from_secs(15), "{took:?}");
    });
    // What comes back learns it, and leaves.
    kill_process(hung, Signal::CONT).unwrap();
    let status = one.ended();
    assert_eq!(status.code(), Some(1));
    assert!(
        one.log().contains("has taken over the lease") && one.log().contains("leaves all instances"),
        "{}",
        one.log()
    );
    assert!(two.log().contains("another server has the lease"), "{}", two.log());

    // Neither a clean stop, nor a crash and a start on the same folder, makes anybody wait.
    let quickly = |server: &mut TestApp, what: &str| {
        let began = Instant::now();
        around.start(server);
        assert!(began.elapsed() < Duration::from_secs(6), "{what}: {:?}", began.elapsed());
        assert!(!server.log().contains("another server has the lease"), "{what}: {}", server.log());
    };
    two.stop();
    quickly(&mut one, "after a clean stop");
    one.kill();
    quickly(&mut one, "after a crash");
    one.ok(&["upgrade"]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!one.log().contains("has taken over the lease"), "an upgrade takes nothing away: {}", one.log());

    // Who waits can be told to stop, and has not failed then.
    let three = TestApp::new();
    let log = three.path("log");
    let mut waiting = three.skep();
    waiting.args(around.words(&three)).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let mut waiting = waiting.spawn().unwrap();
    let said = || fs::read_to_string(&log).unwrap();
    until("it waits", || said().contains("another server has the lease").then_some(()));
    kill_process(Pid::from_child(&waiting), Signal::TERM).unwrap();
    let status = until("it ends", || waiting.try_wait().unwrap());
    assert!(status.success(), "{status}: {}", said());
}

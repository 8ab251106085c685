//! Real processes of ballot and a real PostgreSQL: started, killed, asked to end, started again, and judged.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballot::checker::{self, Kept};
use ballot::client::Client;
use ballot::ids::PollId;
use ballot::keys::Keys;
use ballot::load::{self, Dialect, Plan};
use ballot::proof::hex;
use ballot::source::{LogState, Source};
use ballot::store::{Database, LogRow};
use ballot::worker::remote::Remote;

use crate::app::until;
use crate::postgres::{Postgres, free_port};

/// A process of ours that is killed and started again.
pub(crate) struct Process {
    name: String,
    args: Vec<String>,
    /// Variables of its environment.
    pub(crate) settings: Vec<(&'static str, String)>,
    dir: PathBuf,
    child: Option<Child>,
}

impl Process {
    fn start(name: &str, dir: &Path, args: Vec<String>) -> Self {
        let settings = Vec::new();
        let mut this = Self { name: name.to_owned(), args, settings, dir: dir.to_owned(), child: None };
        this.revive();
        this
    }

    pub(crate) fn revive(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("{}.log", self.name)));
        let mut command = Command::new("setpriv");
        // BALLOT_BIN: another build, such as the optimised one.
        let program = std::env::var("BALLOT_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ballot").to_owned());
        command.args(["--pdeathsig", "KILL", &program]).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log file"));
        for name in ["PORT", "BALLOT_LISTEN", "BALLOT_STORE", "BALLOT_DATA_DIR", "BALLOT_POLLS", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        self.child = Some(command.spawn().expect("starts"));
    }

    /// Starts it anew if it ended by itself, as whoever runs it in earnest would: a worker does when it finds no database.
    pub(crate) fn keep_up(&mut self) {
        if self.child.as_mut().is_some_and(|child| child.try_wait().expect("wait").is_some()) {
            self.revive();
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// Asks the process to end, and waits for it.
    pub(crate) fn ask_to_end(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        let asked = Command::new("kill").arg(child.id().to_string()).status().expect("kill");
        asked.success() && child.wait().expect("wait").success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) struct Deployment {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) postgres: Postgres,
    pub(crate) url: String,
    pub(crate) fronts: Vec<Process>,
    pub(crate) workers: Vec<Process>,
    pub(crate) addresses: Vec<String>,
    segment_bytes: u64,
}

/// A poll of two options, as the file has it.
pub(crate) fn poll(id: &str) -> String {
    format!("[[polls]]\nid = \"{id}\"\nquestion = \"Which?\"\noptions = [\"cats\", \"dogs\"]\n")
}

fn args(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|p| (*p).to_owned()).collect()
}

impl Deployment {
    pub(crate) async fn start(fronts: usize, workers: usize) -> Self {
        Self::with_segments(fronts, workers, 1 << 20).await
    }

    pub(crate) async fn with_segments(fronts: usize, workers: usize, segment_bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let postgres = Postgres::start().await;
        let url = postgres.database("ballot").await;
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("polls.toml"), ["pets", "probe"].map(poll).concat()).expect("polls");
        let key = path("key");
        Keys::load_or_create(Path::new(&key)).expect("keys");
        let addresses: Vec<String> = (0..fronts).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let mut this =
            Self { postgres, url, fronts: Vec::new(), workers: Vec::new(), addresses, dir, segment_bytes };
        for i in 0..fronts {
            this.add_front(i);
        }
        let list = this.addresses.join(",");
        for i in 0..workers {
            let args =
                args(&["worker", "--key-file", &key, "--store", &this.url, "--fronts", &list, "--polls"]);
            let args = [args, vec![this.path("polls.toml")]].concat();
            this.workers.push(Process::start(&format!("worker-{i}"), this.dir.path(), args));
        }
        for address in this.addresses.clone() {
            this.ready(&address).await;
        }
        this
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn add_front(&mut self, i: usize) {
        let name = format!("front-{i}");
        let (data, key, address) = (self.path(&name), self.path("key"), self.addresses[i].clone());
        let args = args(&[
            "front",
            "--data-dir",
            &data,
            "--key-file",
            &key,
            "--listen",
            &address,
            "--name",
            &name,
            "--prefix-rate",
            "0",
            "--voter-rate",
            "0",
            "--segment-bytes",
            &self.segment_bytes.to_string(),
        ]);
        self.fronts.push(Process::start(&name, self.dir.path(), args));
    }

    pub(crate) async fn ready(&self, address: &str) {
        until(&format!("{address} is ready"), async || {
            let client = Client::new(address, 1 << 16);
            let asked = client.send(http::Method::GET, "/health", &[], bytes::Bytes::new());
            matches!(asked.await, Ok(answer) if answer.status == http::StatusCode::OK)
        })
        .await;
    }

    pub(crate) fn client(&self, front: usize) -> Client {
        Client::new(self.addresses[front].clone(), 1 << 20)
    }

    pub(crate) fn plan(&self, voters: u64, votes: u64) -> Plan {
        Plan {
            dialect: Dialect::Ballot,
            fronts: self.addresses.iter().map(|a| a.parse().expect("a place")).collect(),
            poll: PollId::try_from("pets").expect("id"),
            options: vec!["cats".to_owned(), "dogs".to_owned()],
            voters,
            votes,
            connections: 48,
            fresh_connections: false,
            patience: Duration::from_secs(5),
            deadline: Duration::from_secs(1_500),
            pause: Duration::ZERO,
        }
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::new(Keys::load_or_create(Path::new(&self.path("key"))).expect("keys"))
    }

    /// Whether the database has all that the fronts hold. What workers last saw of a front may be from before it was killed,
    /// and ballots that nobody was told of make up the number for others.
    async fn is_merged(&self, logs: &[LogRow]) -> bool {
        for address in &self.addresses {
            let front = Remote::new(address.clone(), self.keys().internal_token());
            let Ok(survey) = front.survey().await else { return false };
            let merged = |held: &LogState| {
                logs.iter().any(|l| l.log.to_string() == held.log && l.position >= held.end)
            };
            if !survey.logs.iter().all(merged) {
                return false;
            }
        }
        logs.iter().all(|l| l.position >= l.seen_end)
    }

    /// Waits until everything that was acknowledged is merged, then judges.
    pub(crate) async fn judge(&mut self, report: &load::Report) -> checker::Verdict {
        let database = Database::open(&self.url).await.expect("opens");
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let logs = database.logs().await.expect("logs");
            let merged: u64 = logs.iter().map(|l| l.position).sum();
            if merged >= report.acknowledged && self.is_merged(&logs).await {
                break;
            }
            assert!(Instant::now() < deadline, "not drained: {merged} of {}: {logs:?}", report.acknowledged);
            // One that met with a killed database may end only now.
            self.workers.iter_mut().for_each(Process::keep_up);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let poll = PollId::try_from("pets").expect("id");
        let votes = database.votes(&poll).await.expect("votes");
        let kept =
            votes.into_iter().map(|(v, o, t)| Kept { voter: hex(&v), option: o.to_string(), mark: hex(&t) });
        let tally = database.counts().await.expect("counts").remove("pets").unwrap_or_default().by_option;
        let recount = database.recount(&poll).await.expect("recount");
        assert!(recount.values().all(|(tallied, counted)| tallied == counted), "{recount:?}");
        checker::check(&report.histories, kept, &tally)
    }
}

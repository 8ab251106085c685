//! Real processes, a real PostgreSQL, and `kill -9`: three fronts and two workers are killed at random while voters vote;
//! so is the database. The checker then compares every answer with the count.
//!
//! 100,000 votes by default; `BALLOT_VOTES=1000000` for a million.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ballot::checker::{self, Kept};
use ballot::ids::PollId;
use ballot::keys::Keys;
use ballot::load::{self, Dialect, Plan};
use ballot::proof::hex;
use ballot::store::Database;

use crate::app::until;
use crate::postgres::{Postgres, free_port};

/// A process of ours that is killed and started again.
struct Process {
    name: String,
    args: Vec<String>,
    dir: PathBuf,
    child: Option<Child>,
}

impl Process {
    fn start(name: &str, dir: &Path, args: Vec<String>) -> Self {
        let mut this = Self { name: name.to_owned(), args, dir: dir.to_owned(), child: None };
        this.revive();
        this
    }

    fn revive(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("{}.log", self.name)));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_ballot")]).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log file"));
        for name in ["PORT", "BALLOT_LISTEN", "BALLOT_STORE", "BALLOT_DATA_DIR", "BALLOT_POLLS", "RUST_LOG"] {
            command.env_remove(name);
        }
        self.child = Some(command.spawn().expect("starts"));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// Asks the process to end, and waits for it.
    fn ask_to_end(&mut self) -> bool {
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

struct Deployment {
    dir: tempfile::TempDir,
    postgres: Postgres,
    url: String,
    fronts: Vec<Process>,
    workers: Vec<Process>,
    addresses: Vec<String>,
}

fn args(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|p| (*p).to_owned()).collect()
}

impl Deployment {
    async fn start(fronts: usize, workers: usize) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let postgres = Postgres::start().await;
        let url = postgres.database("ballot").await;
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(
            path("polls.toml"),
            "[[polls]]\nid = \"pets\"\nquestion = \"Which?\"\noptions = [\"cats\", \"dogs\"]\n",
        )
        .expect("polls");
        let key = path("key");
        Keys::load_or_create(Path::new(&key)).expect("keys");
        let addresses: Vec<String> = (0..fronts).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let mut this = Self { postgres, url, fronts: Vec::new(), workers: Vec::new(), addresses, dir };
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

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn add_front(&mut self, i: usize) {
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
            "1048576",
        ]);
        self.fronts.push(Process::start(&name, self.dir.path(), args));
    }

    async fn ready(&self, address: &str) {
        until(&format!("{address} is ready"), async || {
            let client = ballot::client::Client::new(address, 1 << 16);
            let asked = client.send(http::Method::GET, "/health", &[], bytes::Bytes::new());
            matches!(asked.await, Ok(answer) if answer.status == http::StatusCode::OK)
        })
        .await;
    }

    fn plan(&self, voters: u64, votes: u64) -> Plan {
        Plan {
            dialect: Dialect::Ballot,
            fronts: self.addresses.clone(),
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

    fn keys(&self) -> Arc<Keys> {
        Arc::new(Keys::load_or_create(Path::new(&self.path("key"))).expect("keys"))
    }

    /// Waits until everything that was acknowledged is merged, then judges.
    async fn judge(&self, report: &load::Report) -> checker::Verdict {
        let database = Database::open(&self.url).await.expect("opens");
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let logs = database.logs().await.expect("logs");
            let merged: u64 = logs.iter().map(|l| l.position).sum();
            if merged >= report.acknowledged && logs.iter().all(|l| l.position >= l.seen_end) {
                break;
            }
            assert!(Instant::now() < deadline, "not drained: {merged} of {}: {logs:?}", report.acknowledged);
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

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_while_everything_is_killed() {
    let votes: u64 = std::env::var("BALLOT_VOTES").ok().and_then(|v| v.parse().ok()).unwrap_or(100_000);
    let mut deployment = Deployment::start(3, 2).await;
    let plan = deployment.plan(votes * 9 / 10, votes);
    let keys = deployment.keys();
    let over = Arc::new(AtomicBool::new(false));
    let voting = {
        let over = Arc::clone(&over);
        tokio::spawn(async move {
            let report = load::run(plan, Some(keys)).await;
            over.store(true, Ordering::Release);
            report
        })
    };
    let (mut kills, mut turn) = ([0u32; 3], 0u64);
    while !over.load(Ordering::Acquire) {
        // Not random numbers but an uneven rhythm: what a kill hits is random enough.
        turn += 1;
        tokio::time::sleep(Duration::from_millis(300 + turn * 137 % 700)).await;
        let pick = usize::try_from(turn * 7 / 3).expect("small");
        match turn % 5 {
            0 => {
                deployment.postgres.kill();
                tokio::time::sleep(Duration::from_millis(200)).await;
                deployment.postgres.revive().await;
                kills[2] += 1;
            }
            1 | 3 => {
                let front = &mut deployment.fronts[pick % 3];
                front.kill();
                tokio::time::sleep(Duration::from_millis(100)).await;
                front.revive();
                kills[0] += 1;
            }
            _ => {
                let worker = &mut deployment.workers[pick % 2];
                worker.kill();
                worker.revive();
                kills[1] += 1;
            }
        }
    }
    let report = voting.await.expect("voting");
    assert_eq!(report.acknowledged, votes, "every voter got through: {:?}", report.failures);
    let verdict = deployment.judge(&report).await;
    println!(
        "{votes} votes in {:.1} s, killed {} fronts, {} workers, the database {} times; failures {:?}; {verdict:?}",
        report.seconds, kills[0], kills[1], kills[2], report.failures
    );
    assert!(verdict.is_sound(), "{verdict:?}");
    assert_eq!(verdict.voters, votes * 9 / 10);
    if votes >= 100_000 {
        assert!(kills.iter().all(|k| *k > 0), "something of each kind was killed: {kills:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_is_drained_before_it_goes_and_a_stranded_log_is_adopted() {
    let mut deployment = Deployment::start(2, 1).await;
    let report = load::run(deployment.plan(400, 500), Some(deployment.keys())).await;
    assert_eq!(report.acknowledged, 500);
    assert!(deployment.fronts[1].ask_to_end(), "a front that is asked to end drains and succeeds");
    let database = Database::open(&deployment.url).await.expect("opens");
    let logs = database.logs().await.expect("logs");
    let gone = logs.iter().find(|l| l.front == "front-1").expect("its log");
    assert_eq!((gone.position, gone.settled), (gone.seen_end, ballot::source::SEALED), "{gone:?}");

    // Workers are away when front-0 dies with ballots on its disk.
    deployment.workers[0].kill();
    let before = report;
    deployment.addresses.truncate(1);
    let mut more = load::run(deployment.plan(200, 200), Some(deployment.keys())).await;
    assert_eq!(more.acknowledged, 200);
    deployment.fronts[0].kill();
    // Another front is started on the same volume. It finds the first slot free, takes it as its own, and serves it; to
    // see adoption, the slot is sealed first, as a third front on the volume would have done.
    let slot = deployment.dir.path().join("front-0/logs/slot-0000");
    std::fs::write(slot.join("sealed"), "").expect("seals");
    deployment.fronts[0].revive();
    deployment.workers[0].revive();
    let address = deployment.addresses[0].clone();
    deployment.ready(&address).await;
    more.histories.extend(before.histories);
    more.acknowledged += before.acknowledged;
    let verdict = deployment.judge(&more).await;
    assert!(verdict.is_sound(), "{verdict:?}");
    until("the adopted slot is finished and removed", async || !slot.exists()).await;
    assert!(deployment.dir.path().join("front-0/logs/slot-0001").exists());
}

//! The command line. Data on stdout, reports on stderr; exit 0 done, 1 failed, 2 wrong usage.

mod check;
mod load;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::sync::watch;

use crate::front::limits::Rate;
use crate::front::{FrontOptions, Login};
use crate::http::{HttpLimits, Trust};
use crate::ids::PollId;
use crate::keys::Keys;
use crate::net::Block;
use crate::results::ResultsOptions;
use crate::serve::{self, Common, Running};
use crate::ticket::Ticket;
use crate::worker::{Place, WorkerOptions};

#[derive(Parser)]
#[command(
    name = "ballot",
    version,
    about = "Votes by the million, each counted exactly once, and anyone can check it"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything in one process, on SQLite unless --store says otherwise
    All {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        polls: PollsArgs,
        #[command(flatten)]
        front: FrontArgs,
        /// The database: sqlite:FILE or postgres://… [default: ballot.db in the data folder]
        #[arg(long, env = "BALLOT_STORE")]
        store: Option<String>,
    },
    /// Takes votes; needs no database, only its disk
    Front {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        polls: PollsArgs,
        #[command(flatten)]
        front: FrontArgs,
    },
    /// Takes ballots from fronts into the database; any number may run
    Worker {
        #[command(flatten)]
        keys: KeyArgs,
        #[command(flatten)]
        polls: PollsArgs,
        #[arg(long, env = "BALLOT_STORE")]
        store: String,
        /// Where fronts are: HOST:PORT, or dns:NAME:PORT for a name with one address per front
        #[arg(long, env = "BALLOT_FRONTS", value_delimiter = ',', required = true)]
        fronts: Vec<Place>,
    },
    /// Shows the count live, publishes it when it is final, checks receipts
    Results {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        polls: PollsArgs,
        #[arg(long, env = "BALLOT_STORE")]
        store: String,
        /// Addresses that may speak for others in X-Forwarded-For
        #[arg(long, env = "BALLOT_TRUSTED_PROXIES", value_delimiter = ',')]
        trusted_proxy: Vec<Block>,
        /// Where the fronts are, for links, when results stand alone
        #[arg(long, env = "BALLOT_FRONTS_URL", default_value = "")]
        fronts: String,
    },
    /// Verifies a receipt, or recounts a published list
    Check(check::CheckArgs),
    /// Votes as many, keeps a record of every answer, and compares it with the count
    Load(load::LoadArgs),
    /// Makes tickets for a poll, as CSV with links
    Tickets {
        #[command(flatten)]
        keys: KeyArgs,
        poll: PollId,
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// What links start with, such as https://vote.example/polls/board
        #[arg(long, default_value = "")]
        link: String,
    },
    /// Prints the token that an administrator or a worker shows
    Token {
        #[command(flatten)]
        keys: KeyArgs,
        #[arg(value_parser = ["admin", "internal"])]
        which: String,
    },
}

#[derive(Args)]
struct KeyArgs {
    /// Where the logs, the database and the key file are, unless said otherwise
    #[arg(long, env = "BALLOT_DATA_DIR", default_value = "ballot-data")]
    data_dir: PathBuf,
    /// The secret that fronts, workers and results share [default: key in the data folder, made when missing]
    #[arg(long, env = "BALLOT_KEY_FILE")]
    key_file: Option<PathBuf>,
}

impl KeyArgs {
    fn load(&self) -> Result<Arc<Keys>, String> {
        let file = self.key_file.clone().unwrap_or_else(|| self.data_dir.join("key"));
        Keys::load_or_create(&file).map(Arc::new).map_err(|e| e.to_string())
    }
}

#[derive(Args)]
struct CommonArgs {
    #[command(flatten)]
    keys: KeyArgs,
    /// [default: 127.0.0.1:8090, or port $PORT there]
    #[arg(long, env = "BALLOT_LISTEN")]
    listen: Option<SocketAddr>,
    /// Connections at a time
    #[arg(long, default_value_t = HttpLimits::default().connections)]
    max_connections: usize,
}

impl CommonArgs {
    fn common(&self) -> Result<Common, String> {
        let port = || match std::env::var("PORT") {
            Ok(text) => text.parse().map_err(|_| format!("PORT={text:?} is not a port")),
            Err(_) => Ok(8090),
        };
        let listen = match self.listen {
            Some(address) => address,
            None => SocketAddr::from(([127, 0, 0, 1], port()?)),
        };
        Ok(Common {
            listen,
            data_dir: self.keys.data_dir.clone(),
            keys: self.keys.load()?,
            limits: HttpLimits { connections: self.max_connections, ..HttpLimits::default() },
        })
    }
}

#[derive(Args)]
struct PollsArgs {
    /// A TOML file of polls [default: the demo poll pets]
    #[arg(long, env = "BALLOT_POLLS")]
    polls: Option<PathBuf>,
}

impl PollsArgs {
    fn load(&self) -> Result<Vec<crate::polls::Poll>, String> {
        serve::polls_of(self.polls.as_deref()).map_err(|e| e.to_string())
    }

    /// Only what a file says; other roles have the polls already.
    fn of_file(&self) -> Result<Vec<crate::polls::Poll>, String> {
        if self.polls.is_some() { self.load() } else { Ok(Vec::new()) }
    }
}

#[derive(Args)]
struct FrontArgs {
    /// The front's name in reports [default: the host's name]
    #[arg(long, env = "BALLOT_NAME")]
    name: Option<String>,
    /// New voters and refused requests from one neighbourhood (IPv4 /24, IPv6 /48): a second/saved up, 0 for no limit
    #[arg(long, env = "BALLOT_PREFIX_RATE", default_value = "200/5000")]
    prefix_rate: Rate,
    /// Votes of one voter: a second/saved up, 0 for no limit
    #[arg(long, env = "BALLOT_VOTER_RATE", default_value = "2/20")]
    voter_rate: Rate,
    /// Addresses that may speak for others in X-Forwarded-For and name who is logged in
    #[arg(long, env = "BALLOT_TRUSTED_PROXIES", value_delimiter = ',')]
    trusted_proxy: Vec<Block>,
    /// The header in which a trusted proxy names who is logged in
    #[arg(long, env = "BALLOT_LOGIN_HEADER")]
    login_header: Option<String>,
    /// The public Ed25519 key, in hexadecimal, of signed identities in X-Skep-Identity
    #[arg(long, env = "BALLOT_LOGIN_KEY")]
    login_key: Option<String>,
    /// Bytes of one log segment
    #[arg(long, default_value_t = 32 << 20)]
    segment_bytes: u64,
    /// Where the results are, for links, when a front stands alone
    #[arg(long, env = "BALLOT_RESULTS", default_value = "")]
    results: String,
    /// On a request to stop, wait this long, in seconds, for workers to take the rest
    #[arg(long, default_value_t = 30)]
    drain_seconds: u64,
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "front".to_owned(), |n| n.trim().to_owned())
}

impl FrontArgs {
    fn options(&self) -> Result<FrontOptions, String> {
        if self.segment_bytes < 1 << 16 {
            return Err("--segment-bytes: at least 65536".to_owned());
        }
        let key = self.login_key.as_deref().map(|text| {
            crate::proof::unhex::<32>(text).ok_or("--login-key: write 64 hexadecimal digits".to_owned())
        });
        let base = FrontOptions::new(self.name.clone().unwrap_or_else(host_name));
        Ok(FrontOptions {
            trust: Trust { proxies: self.trusted_proxy.clone() },
            login: Login { header: self.login_header.clone(), public_key: key.transpose()? },
            prefix_rate: self.prefix_rate,
            voter_rate: self.voter_rate,
            segment_bytes: self.segment_bytes,
            results_base: self.results.clone(),
            ..base
        })
    }
}

/// Allows as many open connections as the system lets us: the usual first limit is a thousand.
fn allow_connections() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open connections");
    }
}

/// Parses, runs, reports.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    allow_connections();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(what) => {
            tracing::error!("{what}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::All { common, polls, front, store } => {
            let (shared, options) = (common.common()?, front.options()?);
            let database = shared.data_dir.join("ballot.db");
            let store = store.unwrap_or_else(|| format!("sqlite:{}", database.display()));
            let results = ResultsOptions { trust: options.trust.clone(), ..ResultsOptions::default() };
            let running = serve::all(shared, &store, polls.load()?, options, results)
                .await
                .map_err(|e| e.to_string())?;
            tracing::info!("ballot is at http://{}/", running.address);
            until_told(running, false, front.drain_seconds).await
        }
        Command::Front { common, polls, front } => {
            let running = serve::front(common.common()?, front.options()?, polls.of_file()?).await;
            let running = running.map_err(|e| e.to_string())?;
            tracing::info!("this front is at http://{}/", running.address);
            until_told(running, true, front.drain_seconds).await
        }
        Command::Results { common, polls, store, trusted_proxy, fronts } => {
            let trust = Trust { proxies: trusted_proxy };
            let options = ResultsOptions { trust, fronts_base: fronts, ..ResultsOptions::default() };
            let running = serve::results(common.common()?, &store, &polls.of_file()?, options).await;
            let running = running.map_err(|e| e.to_string())?;
            tracing::info!("results are at http://{}/", running.address);
            until_told(running, false, 0).await
        }
        Command::Worker { keys, polls, store, fronts } => {
            let (stop, stopping) = watch::channel(false);
            let options = WorkerOptions::new(format!("{}-{}", host_name(), std::process::id()));
            let (keys, polls) = (keys.load()?, polls.of_file()?);
            tokio::spawn(async move {
                asked_to_stop().await;
                let _ = stop.send(true);
            });
            serve::worker(options, &store, &polls, fronts, &keys, stopping)
                .await
                .map_err(|e| e.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(args) => check::run(args).await,
        Command::Load(args) => load::run(args).await,
        Command::Tickets { keys, poll, count, link } => tickets(keys.load()?.as_ref(), &poll, count, &link),
        Command::Token { keys, which } => {
            let keys = keys.load()?;
            let token = if which == "admin" { keys.admin_token() } else { keys.internal_token() };
            print(&format!("{token}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn tickets(keys: &Keys, poll: &PollId, count: u32, link: &str) -> Result<ExitCode, String> {
    let mut text = String::from("ticket,link\n");
    for _ in 0..count {
        let mut id = [0; 10];
        getrandom::fill(&mut id).map_err(|e| e.to_string())?;
        let code = Ticket { id }.code(keys, poll);
        text.push_str(&format!("{code},{link}?ticket={code}\n"));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes data to stdout.
fn print(text: &str) -> Result<(), String> {
    use std::io::Write;
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|e| e.to_string())
}

/// Reads a file, naming it in the error.
fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

async fn until_told(running: Running, seal: bool, drain_seconds: u64) -> Result<ExitCode, String> {
    asked_to_stop().await;
    if running.front.is_none() {
        running.stop().await;
        return Ok(ExitCode::SUCCESS);
    }
    tracing::info!("taking no more votes; waiting for workers to take the rest");
    if running.drain(seal, Duration::from_secs(drain_seconds)).await {
        tracing::info!("nothing is left");
    } else {
        tracing::warn!("ballots are left in the log; they are taken when its folder is served again");
    }
    Ok(ExitCode::SUCCESS)
}

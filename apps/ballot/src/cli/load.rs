//! `ballot load`: many voters against running fronts, and the checker over what became of their votes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::Method;
use sqlx::Row;

use super::{KeyArgs, print};
use crate::checker::{self, Kept, Verdict};
use crate::client::Client;
use crate::ids::PollId;
use crate::load::{self, Dialect, Plan, Report};
use crate::proof::hex;
use crate::store::Database;
use crate::worker::{Place, discover};

#[derive(Clone, Copy, ValueEnum)]
enum System {
    Ballot,
    Peer,
}

#[derive(Args)]
pub(super) struct LoadArgs {
    #[command(flatten)]
    keys: KeyArgs,
    /// Where fronts are: HOST:PORT, or dns:NAME:PORT for a name with one address per front
    #[arg(long, value_delimiter = ',', required = true)]
    fronts: Vec<Place>,
    #[arg(long, default_value = "pets")]
    poll: PollId,
    #[arg(long, default_value_t = 1_000)]
    voters: u64,
    /// Votes altogether; more than voters means that some vote again [default: as many as voters]
    #[arg(long)]
    votes: Option<u64>,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// A new connection for each voter, page and vote
    #[arg(long)]
    fresh_connections: bool,
    /// At most this long, in seconds
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// A voter waits this long for an answer, in milliseconds
    #[arg(long, default_value_t = 10_000)]
    patience_ms: u64,
    /// A connection rests this long between two voters, in milliseconds
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Compare every answer with this database afterwards (needs the key file)
    #[arg(long)]
    store: Option<String>,
    /// What the fronts are
    #[arg(long, value_enum, default_value = "ballot")]
    system: System,
}

async fn options(fronts: &[Place], poll: &PollId) -> Result<Vec<String>, String> {
    let found = discover(fronts).await;
    let front = found.first().ok_or("there is no front at these places")?;
    let client = Client::new(front, 1 << 20);
    let path = format!("/api/v1/polls/{poll}");
    let answer = client.send(Method::GET, &path, &[], Bytes::new()).await.map_err(|e| e.to_string())?;
    let poll: crate::polls::Poll =
        serde_json::from_slice(&answer.body).map_err(|_| format!("{front}: {}", answer.text()))?;
    Ok(poll.options.iter().map(|o| o.id.to_string()).collect())
}

pub(super) async fn run(args: LoadArgs) -> Result<ExitCode, String> {
    let dialect = match args.system {
        System::Ballot => Dialect::Ballot,
        System::Peer => Dialect::Peer,
    };
    let options = match dialect {
        Dialect::Ballot => options(&args.fronts, &args.poll).await?,
        Dialect::Peer => vec!["a".to_owned(), "b".to_owned()],
    };
    let keys = match (dialect, &args.store) {
        (Dialect::Ballot, Some(_)) => Some(args.keys.load()?),
        _ => None,
    };
    let plan = Plan {
        dialect,
        fronts: args.fronts.clone(),
        poll: args.poll.clone(),
        options,
        voters: args.voters,
        votes: args.votes.unwrap_or(args.voters),
        connections: args.connections.max(1),
        fresh_connections: args.fresh_connections,
        patience: Duration::from_millis(args.patience_ms),
        deadline: Duration::from_secs(args.seconds),
        pause: Duration::from_millis(args.pause_ms),
    };
    let report = load::run(plan, keys).await;
    tracing::info!(acknowledged = report.acknowledged, seconds = report.seconds, "voting is over");
    let (verdict, drained) = match &args.store {
        None => (None, None),
        Some(store) => {
            let started = Instant::now();
            let verdict = match dialect {
                Dialect::Ballot => judge(store, &args.poll, &report).await?,
                Dialect::Peer => judge_peer(store, &report).await?,
            };
            (Some(verdict), Some(started.elapsed().as_secs_f64()))
        }
    };
    print(&format!("{}\n", summary(&report, verdict.as_ref(), drained)))?;
    Ok(if verdict.is_none_or(|v| v.is_sound()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn summary(report: &Report, verdict: Option<&Verdict>, drained: Option<f64>) -> serde_json::Value {
    let failures: BTreeMap<&String, &u64> = report.failures.iter().collect();
    serde_json::json!({
        "acknowledged": report.acknowledged,
        "seconds": report.seconds,
        "acknowledged_per_second": report.acknowledged as f64 / report.seconds.max(0.001),
        "p50_ms": report.percentile(0.5),
        "p99_ms": report.percentile(0.99),
        "failures": failures,
        "receipts": report.receipts,
        "checked": verdict,
        "seconds_until_drained": drained,
    })
}

/// Waits until the database has what fronts are known to hold, then judges.
async fn judge(store: &str, poll: &PollId, report: &Report) -> Result<Verdict, String> {
    let database = Database::open(store).await.map_err(|e| e.to_string())?;
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut still = 0;
    while still < 3 && Instant::now() < deadline {
        let logs = database.logs().await.map_err(|e| e.to_string())?;
        let merged: u64 = logs.iter().map(|l| l.position).sum();
        let drained =
            logs.iter().all(|l| l.retired || l.position >= l.seen_end) && merged >= report.acknowledged;
        still = if drained { still + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let votes = database.votes(poll).await.map_err(|e| e.to_string())?;
    let kept = votes.into_iter().map(|(voter, option, tag)| Kept {
        voter: hex(&voter),
        option: option.to_string(),
        mark: hex(&tag),
    });
    let tally = database.counts().await.map_err(|e| e.to_string())?.remove(poll.as_str()).unwrap_or_default();
    let mut tally = tally.by_option;
    tally.retain(|_, n| *n > 0);
    Ok(checker::check(&report.histories, kept, &tally))
}

const CHANGES: &str =
    "select cast(coalesce(sum(n_tup_ins + n_tup_upd), 0) as bigint) as n from pg_stat_user_tables";

async fn judge_peer(store: &str, report: &Report) -> Result<Verdict, String> {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(store).await.map_err(|e| e.to_string())?;
    let (mut last, mut still, deadline) = (0, 0, Instant::now() + Duration::from_secs(1_800));
    // The peer does not say what is on its way: wait until nothing has changed for a while.
    while still < 10 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let row = sqlx::query(CHANGES).fetch_one(&pool).await;
        let now: i64 = row.and_then(|r| r.try_get("n")).unwrap_or(last - 1);
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
    let rows = sqlx::query("select id, vote from votes").fetch_all(&pool).await.map_err(|e| e.to_string())?;
    let mut kept = Vec::with_capacity(rows.len());
    let mut tally = BTreeMap::new();
    for row in &rows {
        let (voter, vote): (String, String) =
            (row.try_get("id").map_err(|e| e.to_string())?, row.try_get("vote").map_err(|e| e.to_string())?);
        *tally.entry(vote.clone()).or_default() += 1;
        kept.push(Kept { voter, option: vote.clone(), mark: vote });
    }
    Ok(checker::check(&report.histories, kept, &tally))
}

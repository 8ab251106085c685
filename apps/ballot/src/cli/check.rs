//! `ballot check`: a receipt against a server or against downloaded files, verified here.

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};

use super::{print, read};
use crate::client::Client;
use crate::ids::{BallotTag, OptionId};
use crate::proof::{Leaf, Statement};
use crate::receipt::Receipt;
use crate::results::check::{Checked, Fate};

#[derive(Args)]
pub(super) struct CheckArgs {
    /// The receipt; without one the list is recounted
    receipt: Option<String>,
    /// Ask this server (http://…), and verify what it answers
    #[arg(long, conflicts_with_all = ["list", "statement"])]
    server: Option<String>,
    /// The published list (ballots.csv); the receipt then stays on this machine
    #[arg(long, requires = "statement")]
    list: Option<PathBuf>,
    /// The signed result (JSON)
    #[arg(long, requires = "list")]
    statement: Option<PathBuf>,
}

pub(super) async fn run(args: CheckArgs) -> Result<ExitCode, String> {
    let receipt: Option<Receipt> = args
        .receipt
        .as_deref()
        .map(|r| r.parse().map_err(|e: crate::receipt::NotAReceipt| e.to_string()))
        .transpose()?;
    if let (Some(list), Some(statement)) = (&args.list, &args.statement) {
        return offline(&read(list)?, &read(statement)?, receipt.as_ref());
    }
    let Some(receipt) = receipt else {
        return Err("name a receipt, or --list and --statement".to_owned());
    };
    let server = args.server.as_deref().unwrap_or("http://127.0.0.1:8090");
    online(server, &receipt).await
}

fn leaves(text: &str) -> Result<Vec<Leaf>, String> {
    let mut leaves = Vec::new();
    for (i, line) in text.lines().enumerate().skip(1) {
        let wrong = || format!("line {} of the list is not a ballot: {line:?}", i + 1);
        let (tag, option) = line.split_once(',').ok_or_else(wrong)?;
        let tag = BallotTag::from_hex(tag).ok_or_else(wrong)?;
        leaves.push(Leaf { tag, option: OptionId::try_from(option).map_err(|_| wrong())? });
    }
    Ok(leaves)
}

fn offline(list: &str, statement: &str, receipt: Option<&Receipt>) -> Result<ExitCode, String> {
    let leaves = leaves(list)?;
    let statement: Statement =
        serde_json::from_str(statement).map_err(|e| format!("the signed result: {e}"))?;
    statement.recount(&leaves)?;
    let mut text = format!(
        "The list adds up: {} ballots, {}.\nThe root and the signature hold (key {}).\n",
        leaves.len(),
        statement.counts.iter().map(|(o, n)| format!("{o} {n}")).collect::<Vec<_>>().join(", "),
        statement.public_key
    );
    let mut code = ExitCode::SUCCESS;
    if let Some(receipt) = receipt {
        match leaves.iter().find(|l| l.tag == receipt.tag()) {
            Some(leaf) if statement.poll == receipt.poll => {
                text.push_str(&format!("Your vote is in the count, for {}.\n", leaf.option));
            }
            _ => {
                text.push_str(
                    "Your vote is NOT in this list. If you voted again later, that vote counts instead; \
                     ask the server (--server) to be told.\n",
                );
                code = ExitCode::FAILURE;
            }
        }
    }
    print(&text)?;
    Ok(code)
}

async fn online(server: &str, receipt: &Receipt) -> Result<ExitCode, String> {
    let (client, base) = Client::of_url(server, 1 << 20).map_err(|e| e.to_string())?;
    let body = serde_json::json!({ "receipt": receipt.to_string() }).to_string();
    let json = [("content-type", "application/json")];
    let path = format!("{base}/api/v1/check");
    let asked = client.send(Method::POST, &path, &json, Bytes::from(body));
    let answer = tokio::time::timeout(std::time::Duration::from_secs(30), asked)
        .await
        .map_err(|_| format!("{server} does not answer"))?
        .map_err(|e| e.to_string())?;
    if answer.status != StatusCode::OK {
        return Err(format!("{server}: {}: {}", answer.status, answer.text()));
    }
    let checked: Checked = serde_json::from_slice(&answer.body).map_err(|e| format!("{server}: {e}"))?;
    checked.verify(receipt).map_err(|what| format!("{server} answers what does not hold: {what}"))?;
    let mut text = format!("{}\n", checked.says);
    if let (Fate::Counted, Some(option), Some(statement)) =
        (checked.fate, &checked.option, &checked.statement)
    {
        text.push_str(&format!(
            "It counts for {option}. Verified here: {} hashes lead from your ballot to the signed root {} (key {}).\n",
            checked.path.len(),
            statement.root,
            statement.public_key
        ));
    }
    print(&text)?;
    Ok(match checked.fate {
        Fate::Counted | Fate::Replaced | Fate::NotFinal => ExitCode::SUCCESS,
        Fate::Late | Fate::Missing | Fate::NotIssued => ExitCode::FAILURE,
    })
}

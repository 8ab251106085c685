//! Commands about what runs: `ps`, `logs`, `stop`, `restart`, `upgrade`.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::paint::Paint;
use super::{Everywhere, client, count};

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// List the visitors' seats in use instead of the instances
    #[arg(long)]
    sessions: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// An app (its newest instance) or an instance
    #[arg(value_name = "APP|INSTANCE")]
    target: String,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// How many of the newest lines to begin with
    #[arg(short = 'n', long, default_value_t = 200, value_name = "LINES")]
    tail: u32,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct StopTarget {
    /// An app (all its instances) or an instance
    #[arg(value_name = "APP|INSTANCE")]
    target: Option<String>,
    /// Every instance of every app
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// An app (all its instances) or an instance
    #[arg(value_name = "APP|INSTANCE")]
    target: String,
}

pub(crate) fn ps(everywhere: &Everywhere, args: &PsArgs) -> anyhow::Result<ExitCode> {
    let data = everywhere.data_dir()?;
    let path = if args.sessions { "/_skep/api/v1/seats" } else { "/_skep/api/v1/instances" };
    let rows: Vec<Value> = client::json(&data, Method::GET, path)?;
    let mut stdout = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut stdout, &rows)?;
        writeln!(stdout)?;
        return Ok(ExitCode::SUCCESS);
    }
    let table = if args.sessions { seats_table(&rows) } else { instances_table(&rows) };
    print_table(&mut stdout, &table)?;
    Ok(ExitCode::SUCCESS)
}

const NAME_COLUMN: usize = 9;

fn instances_table(rows: &[Value]) -> Vec<Vec<String>> {
    // On one machine it would say the same in every line.
    let nodes = rows.iter().any(|row| row["node"].as_str().is_some_and(|node| node != "local"));
    let names = rows.iter().any(|row| row["name"].is_string());
    let head =
        ["INSTANCE", "STATE", "SEATS", "PID", "STARTED", "READY", "CPU", "MEMORY", "USER", "NAME", "NODE"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let number = |key: &str| row[key].as_u64();
        table.push(vec![
            text("id"),
            text("state"),
            format!("{}/{}", number("taken").unwrap_or(0), number("seats").unwrap_or(0)),
            number("pid").map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            text("started_at").get(..19).unwrap_or("-").replace('T', " "),
            number("ready_ms").map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
            row["cpu"].as_f64().map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1} s")),
            number("memory").map_or_else(|| "-".to_owned(), mebibytes),
            text("user"),
            text("name"),
            text("node"),
        ]);
    }
    if !nodes {
        table.iter_mut().for_each(|row| drop(row.pop()));
    }
    if !names {
        table.iter_mut().for_each(|row| drop(row.remove(NAME_COLUMN)));
    }
    table
}

fn seats_table(rows: &[Value]) -> Vec<Vec<String>> {
    let mut table = vec![["APP", "INSTANCE", "SEAT", "OPEN"].map(str::to_owned).to_vec()];
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let open = row["open"].as_u64().unwrap_or(0).to_string();
        table.push(vec![text("app"), text("instance"), text("seat"), open]);
    }
    table
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

pub(super) fn print_table(out: &mut impl Write, table: &[Vec<String>]) -> io::Result<()> {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| table.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in table {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

pub(crate) fn logs(everywhere: &Everywhere, args: &LogsArgs) -> anyhow::Result<ExitCode> {
    let data = everywhere.data_dir()?;
    let path = format!("{}/logs?tail={}&follow={}", resource(&args.target)?, args.tail, args.follow);
    let mut stdout = io::stdout().lock();
    client::stream(&data, &path, |bytes| {
        stdout.write_all(bytes)?;
        stdout.flush()
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn stop(everywhere: &Everywhere, args: &StopTarget) -> anyhow::Result<ExitCode> {
    let path = match &args.target {
        Some(target) => format!("{}/stop", resource(target)?),
        None => "/_skep/api/v1/stop".to_owned(),
    };
    order(&everywhere.data_dir()?, &path, "stopped")
}

pub(crate) fn restart(everywhere: &Everywhere, args: &RestartArgs) -> anyhow::Result<ExitCode> {
    let path = format!("{}/restart", resource(&args.target)?);
    order(&everywhere.data_dir()?, &path, "being replaced")
}

pub(crate) fn upgrade(everywhere: &Everywhere) -> anyhow::Result<ExitCode> {
    let answer: Value = client::json(&everywhere.data_dir()?, Method::POST, "/_skep/api/v1/server/upgrade")?;
    let pid = answer["pid"].as_u64().unwrap_or(0);
    say(&format!("process {pid} serves now; the old one goes when its last open connection closes"));
    Ok(ExitCode::SUCCESS)
}

fn order(data: &Path, path: &str, done: &str) -> anyhow::Result<ExitCode> {
    let answer: Value = client::json(data, Method::POST, path)?;
    let number = answer["instances"].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
    say(&format!("{} {done}", count(number, "instance")));
    Ok(ExitCode::SUCCESS)
}

/// One line of report on stderr.
fn say(text: &str) {
    let paint = Paint::of(io::stderr().is_terminal());
    let _ = writeln!(io::stderr(), "{} {text}", paint.good("✓"));
}

/// Instances have a dot in their id, apps have none.
fn resource(target: &str) -> anyhow::Result<String> {
    let target = client::in_path(target)?;
    let kind = if target.contains('.') { "instances" } else { "apps" };
    Ok(format!("/_skep/api/v1/{kind}/{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_and_instances_are_told_apart() {
        assert_eq!(resource("sales").unwrap(), "/_skep/api/v1/apps/sales");
        let instance = "sales.5f0c2a9be1d40377";
        assert_eq!(resource(instance).unwrap(), format!("/_skep/api/v1/instances/{instance}"));
        for bad in ["", "../x", "a/b", "a?b", "é"] {
            assert!(resource(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_table_lines_up() {
        let rows = [serde_json::json!({
            "id": "a.0000000000000001", "state": "ready", "taken": 1, "seats": 20, "pid": 7,
            "started_at": "2026-01-02T03:04:05.678Z", "ready_ms": 12, "cpu": 0.25, "memory": 5 << 20, "user": null,
        })];
        let mut out = Vec::new();
        print_table(&mut out, &instances_table(&rows)).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "a.0000000000000001  ready  1/20   7    2026-01-02 03:04:05  12 ms  0.2 s  5 MiB   -"
        );
        assert_eq!(lines[0].find("PID"), lines[1].find('7'));
        let mut far = rows.clone();
        far[0]["node"] = "node2".into();
        let table = instances_table(&far);
        assert_eq!((table[0][9].as_str(), table[1][9].as_str()), ("NODE", "node2"));
        far[0]["name"] = "north".into();
        let table = instances_table(&far);
        assert_eq!((table[0][9].as_str(), table[1][9].as_str()), ("NAME", "north"));
    }
}

//! `skep key`: the key ring cookies are sealed with.
//!
//! Works on the file itself; a running server notices within seconds.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use skep_identity::{KeyRing, MAX_KEYS};

use super::Everywhere;
use crate::config::ServerFile;
use crate::data_dir::KEY_FILE;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Puts a new key in front, which seals from then on; earlier keys still open
    Rotate(RotateArgs),
    /// Lists the keys' ids, the one that seals first
    List(ListArgs),
}

/// Where the key ring is.
#[derive(Debug, Args)]
pub(crate) struct RingArgs {
    /// The server's config file, for its `server.cookie_key_file` [default: the key ring in the data folder]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The key ring itself
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// How many earlier keys are kept; 0 signs everybody out
    #[arg(long, value_name = "N", default_value_t = MAX_KEYS - 1)]
    keep: usize,
    #[command(flatten)]
    ring: RingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ring: RingArgs,
}

pub(crate) fn run(everywhere: &Everywhere, command: KeyCommand) -> anyhow::Result<ExitCode> {
    let data = everywhere.data_dir()?;
    match command {
        KeyCommand::Rotate(args) => {
            let file = file(&data, &args.ring)?;
            let ring = KeyRing::rotate(&file, args.keep)?;
            let (new, others) = (ring.ids().into_iter().next().unwrap_or_default(), ring.len() - 1);
            writeln!(io::stderr(), "{}: key {new} seals from now on", file.display())?;
            match others {
                0 => writeln!(io::stderr(), "no earlier key is kept: everybody is signed out")?,
                1 => writeln!(io::stderr(), "1 earlier key still opens")?,
                _ => writeln!(io::stderr(), "{others} earlier keys still open")?,
            }
        }
        KeyCommand::List(args) => {
            let ids = KeyRing::load(&file(&data, &args.ring)?)?.ids();
            let mut stdout = io::stdout().lock();
            if args.json {
                let row = |(at, id): (usize, &String)| json!({ "id": id, "seals": at == 0 });
                let rows: Vec<_> = ids.iter().enumerate().map(row).collect();
                serde_json::to_writer_pretty(&mut stdout, &rows)?;
                writeln!(stdout)?;
            } else {
                ids.iter().try_for_each(|id| writeln!(stdout, "{id}"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn file(data: &Path, args: &RingArgs) -> anyhow::Result<PathBuf> {
    if let Some(file) = &args.file {
        return Ok(file.clone());
    }
    let configured = match &args.config {
        None => None,
        Some(file) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            ServerFile::parse(file, &text)?.server.cookie_key_file
        }
    };
    Ok(configured.unwrap_or_else(|| data.join(KEY_FILE)))
}

//! Configs of other servers, turned into Skep's: TOML on stdout, a report of every directive on stderr.

mod shiny_conf;
mod shiny_server;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::cli::paint::Paint;

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Reads a shiny-server.conf
    ShinyServer(ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The config file of the other server
    file: PathBuf,
}

/// A place in the file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    line: usize,
    column: usize,
}

/// What became of a directive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    place: Place,
    kind: Kind,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Carried over.
    Done,
    /// Left out, or carried over with a difference.
    Differs,
    /// The file is wrong.
    Wrong,
}

/// A config in Skep's notation and the story of how it came about.
pub(crate) struct Imported {
    pub(crate) toml: String,
    notes: Vec<Note>,
}

impl Imported {
    /// The file that was read has mistakes; what was made of it is of no use.
    pub(crate) fn is_wrong(&self) -> bool {
        self.notes.iter().any(|note| note.kind == Kind::Wrong)
    }
}

/// The text of a shiny-server.conf, carried over.
pub(crate) fn shiny_server_conf(text: &str) -> Imported {
    match shiny_conf::parse(text) {
        Ok(directives) => shiny_server::import(&directives),
        Err(wrong) => Imported { toml: String::new(), notes: vec![wrong] },
    }
}

pub(crate) fn run(command: &ImportCommand) -> anyhow::Result<ExitCode> {
    let ImportCommand::ShinyServer(args) = command;
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("{} cannot be read", args.file.display()))?;
    let imported = shiny_server_conf(&text);
    report(&args.file, &imported.notes)?;
    if imported.is_wrong() {
        return Ok(ExitCode::FAILURE);
    }
    io::stdout().write_all(imported.toml.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn report(file: &Path, notes: &[Note]) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    let paint = Paint::of(stderr.is_terminal());
    for note in notes {
        let mark = match note.kind {
            Kind::Done => paint.good("✓ "),
            Kind::Differs => paint.warn("! "),
            // A bare `FILE:LINE:COL: text`, as editors expect of errors.
            Kind::Wrong => String::new(),
        };
        writeln!(
            stderr,
            "{mark}{}:{}:{}: {}",
            file.display(),
            note.place.line,
            note.place.column,
            note.text
        )?;
    }
    Ok(())
}

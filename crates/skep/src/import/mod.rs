//! Configs of other servers, turned into Skep's: TOML on stdout, a report of every directive on stderr.

mod shiny_conf;
mod shiny_server;
mod shinyproxy;
mod yaml;

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::cli::paint::Paint;
use crate::config::problem::{Problem, Problems};

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Reads a shiny-server.conf
    ShinyServer(ImportArgs),
    /// Reads ShinyProxy's application.yml
    #[command(name = "shinyproxy")]
    ShinyProxy(ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The config file of the other server
    file: PathBuf,
}

/// Bytes of a file that is read.
const MAX_BYTES: u64 = 8 << 20;

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

    /// For a server that runs on the file itself: one sentence about what is not as it was.
    ///
    /// # Errors
    /// The mistakes of the file.
    pub(crate) fn differences(&self, file: &Path) -> Result<Option<String>, Problems> {
        let of = |kind: Kind| self.notes.iter().filter(move |note| note.kind == kind);
        let wrong: Vec<Problem> = of(Kind::Wrong)
            .map(|note| Problem {
                file: file.to_owned(),
                at: Some((note.place.line, note.place.column)),
                key: String::new(),
                wrong: printable(&note.text),
                mend: String::new(),
            })
            .collect();
        if !wrong.is_empty() {
            return Err(Problems(wrong));
        }
        let count = of(Kind::Differs).count();
        let told = format!(
            "{count} settings of {0} are changed or left out; `skep import shinyproxy {0}` says which",
            file.display()
        );
        Ok((count > 0).then_some(told))
    }
}

/// The text of a shiny-server.conf, carried over.
pub(crate) fn shiny_server_conf(text: &str) -> Imported {
    match shiny_conf::parse(text) {
        Ok(directives) => shiny_server::import(&directives),
        Err(wrong) => Imported { toml: String::new(), notes: vec![wrong] },
    }
}

/// The text of an application.yml, carried over. `variable`: what `${NAME}` in it stands for, where that is known.
pub(crate) fn shinyproxy_yml(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Imported {
    match yaml::parse(text) {
        Ok(root) => shinyproxy::import(&root, variable),
        Err(wrong) => Imported { toml: String::new(), notes: vec![wrong] },
    }
}

pub(crate) fn run(command: &ImportCommand) -> anyhow::Result<ExitCode> {
    let (args, import): (_, fn(&str) -> Imported) = match command {
        ImportCommand::ShinyServer(args) => (args, shiny_server_conf),
        // Its environment is not this one; and what is secret must not end up in a file nobody expects it in.
        ImportCommand::ShinyProxy(args) => (args, |text| shinyproxy_yml(text, &|_| None)),
    };
    let text = read(&args.file).with_context(|| format!("{} cannot be read", args.file.display()))?;
    let imported = import(&text);
    report(&args.file, &imported.notes)?;
    if imported.is_wrong() {
        return Ok(ExitCode::FAILURE);
    }
    io::stdout().write_all(imported.toml.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is longer than 8 MiB"));
    }
    Ok(text)
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
            printable(&note.text)
        )?;
    }
    Ok(())
}

/// What is quoted from the file must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

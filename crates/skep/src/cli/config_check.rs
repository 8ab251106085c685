//! `skep config check`: everything that is wrong with a config and the folders it names, in one go.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use skep_model::Source;

use super::CheckArgs;
use super::paint::Paint;
use crate::config::{Config, Dirty, Loader, SYSTEM_CONFIG};

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut loader = match &args.path {
        Some(path) if path.is_dir() => Loader::new(None, vec![path.clone()]),
        Some(file) => Loader::new(Some(file.clone()), Vec::new()),
        None => Loader::new(Some(PathBuf::from(SYSTEM_CONFIG)), Vec::new()),
    };
    let config = match loader.load(&Dirty::All) {
        Ok(config) => config,
        Err(problems) => {
            let mut stderr = io::stderr().lock();
            let paint = Paint::of(stderr.is_terminal());
            for problem in &problems.0 {
                writeln!(stderr, "{} {problem}", paint.bad("✗"))?;
            }
            writeln!(stderr, "{}", count(problems.0.len(), "mistake"))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    if args.json {
        list_json(&config)?;
    } else {
        list(&config)?;
    }
    report(&config)?;
    Ok(if config.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list_json(config: &Config) -> anyhow::Result<()> {
    let rows: Vec<_> = config
        .apps
        .iter()
        .map(|app| {
            let (dir, image) = match &app.source {
                Source::Folder { dir, .. } => (Some(dir), None),
                Source::Image(image) => (None, Some(&image.name)),
                Source::Service(_) => (None, None),
            };
            json!({
                "id": app.id, "mount": app.mount.as_str(), "title": app.title, "framework": app.framework,
                "folder": dir, "image": image, "revision": app.revision.to_string(),
            })
        })
        .collect();
    let mut stdout = io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, &rows)?;
    writeln!(stdout)?;
    Ok(())
}

fn list(config: &Config) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let width = config.apps.iter().map(|app| app.mount.as_str().len()).max().unwrap_or(0);
    for app in &config.apps {
        let kind = match &app.source {
            Source::Folder { .. } => app.framework.name(),
            Source::Image(_) => "image",
            Source::Service(_) => "service",
        };
        writeln!(stdout, "{:width$}  {kind:13} {}", app.mount.as_str(), app.title)?;
    }
    Ok(())
}

fn report(config: &Config) -> anyhow::Result<()> {
    let mut stderr = io::stderr().lock();
    let paint = Paint::of(stderr.is_terminal());
    for problem in &config.refused {
        writeln!(stderr, "{} {problem}", paint.bad("✗"))?;
    }
    for warning in &config.warnings {
        writeln!(stderr, "{} {warning}", paint.warn("!"))?;
    }
    for (folder, why) in &config.unrecognised {
        writeln!(stderr, "{} {}: {why}", paint.warn("!"), folder.display())?;
    }
    let verdict = match config.refused.len() {
        0 => paint.good("✓"),
        _ => paint.bad("✗"),
    };
    let apps = count(config.apps.len(), "app");
    writeln!(stderr, "{verdict} {apps}, {}", count(config.refused.len(), "mistake"))?;
    Ok(())
}

/// `1 app`, `3 apps`
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

//! How an instance ended, in words, and what its last lines suggest.

use std::path::Path;

use skep_launch::{EndedBy, ExitReport};

use super::folder::{Folder, State};
use super::logs;
use super::protocol::ExitFile;
use crate::ending;

/// What is reported of an instance that ended.
pub(super) fn report(folder: &Folder, state: Option<&State>, exit: &ExitFile) -> ExitReport {
    let mut last_lines = logs::tail(folder.path(), ending::LAST_LINES);
    ending::cut(&mut last_lines);
    let mut reason = reason(exit, state.and_then(|s| s.memory_limit));
    let failed = !exit.asked && !exit.out_of_memory;
    if failed && let Some(hint) = state.and_then(|state| hint(state, exit, &last_lines, folder.ready_ms())) {
        reason = format!("{reason}: {hint}");
    }
    // The shim is ours; when it or the machine goes, the app has done nothing.
    let ended_by =
        if exit.failure.is_some() && !exit.out_of_memory { EndedBy::Platform } else { EndedBy::Itself };
    ExitReport {
        reason,
        code: exit.code,
        signal: exit.signal,
        out_of_memory: exit.out_of_memory,
        last_lines,
        ended_by,
    }
}

fn reason(exit: &ExitFile, memory_limit: Option<u64>) -> String {
    if let Some(failure) = &exit.failure {
        return failure.clone();
    }
    if exit.out_of_memory {
        return ending::out_of_memory(memory_limit);
    }
    ending::words(exit.asked, exit.code, exit.signal)
}

/// What the last lines say about the cause, where that is sure enough to be worth a sentence.
fn hint(state: &State, exit: &ExitFile, lines: &[String], ready_ms: Option<u64>) -> Option<String> {
    let newest = || lines.iter().rev().take(30);
    // Our own launchers say in one line what is wrong.
    if let Some(said) = newest().find_map(|line| line.strip_prefix("skep: ")) {
        return Some(said.to_owned());
    }
    if let Some(module) = newest().find_map(|line| missing_module(line)) {
        let beside = state.entry.as_deref().unwrap_or("the app");
        return Some(if state.own_environment {
            format!("`{module}` is not among the app's requirements; add it to them")
        } else {
            let program = Path::new(&state.program).display();
            format!(
                "`{module}` is not installed in {program}; add a requirements.txt beside {beside} that names it"
            )
        });
    }
    if let Some(package) = newest().find_map(|line| missing_r_package(line)) {
        return Some(format!("the R package `{package}` is not installed"));
    }
    (exit.code == Some(0) && ready_ms.is_none())
        .then(|| "it ran to its end without serving anything; an app must go on listening".to_owned())
}

/// `ModuleNotFoundError: No module named 'dash.html'` → `dash`
fn missing_module(line: &str) -> Option<&str> {
    let name = line.split_once("No module named ")?.1.trim().trim_matches(['\'', '"']);
    let name = name.split(['.', ';', '\'', ' ']).next()?;
    (!name.is_empty()).then_some(name)
}

/// `there is no package called ‘plotly’` → `plotly`
fn missing_r_package(line: &str) -> Option<&str> {
    let name = line.split_once("there is no package called ")?.1;
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Option<i32>, signal: Option<i32>) -> ExitFile {
        ExitFile { v: 1, code, signal, out_of_memory: false, asked: false, failure: None }
    }

    #[test]
    fn reasons_are_sentences() {
        assert_eq!(reason(&exit(Some(1), None), None), "exited with status 1");
        assert_eq!(reason(&exit(None, Some(9)), None), "killed by signal 9 (SIGKILL)");
        assert_eq!(reason(&exit(None, Some(40)), None), "killed by signal 40");
        let asked = ExitFile { asked: true, ..exit(None, Some(15)) };
        assert_eq!(reason(&asked, None), "stopped");
        let memory = ExitFile { out_of_memory: true, ..exit(None, Some(9)) };
        assert_eq!(reason(&memory, Some(512 << 20)), "ran out of memory (limit 512 MiB)");
        assert_eq!(reason(&memory, Some(2 << 30)), "ran out of memory (limit 2 GiB)");
    }

    #[test]
    fn missing_packages_are_named() {
        assert_eq!(missing_module("ModuleNotFoundError: No module named 'dash.html'"), Some("dash"));
        assert_eq!(missing_module("/usr/bin/python3: No module named streamlit"), Some("streamlit"));
        assert_eq!(missing_module("fine"), None);
        let r = "Error in loadNamespace(x) : there is no package called \u{2018}shiny\u{2019}";
        assert_eq!(missing_r_package(r), Some("shiny"));
    }
}

//! How a container ended.

use std::time::Duration;

use skep_docker::ContainerState;
use skep_launch::{EndedBy, ExitReport};

use crate::ending;

/// Lines kept of what an instance wrote, once its container is gone.
pub(crate) const KEPT_LINES: usize = 2000;
/// To read them. A log on a dying disk is not waited for.
pub(crate) const READ_WITHIN: Duration = Duration::from_secs(10);

/// How a container ended, without its last lines.
pub(crate) fn judge(state: &ContainerState, asked: bool, memory_limit: Option<u64>) -> ExitReport {
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    // A program killed by a signal ends the container with 128 and the signal.
    let signal = code.filter(|code| (129..=192).contains(code)).map(|code| code - 128);
    // One process of several may have been killed for want of memory, and the app have gone on.
    let out_of_memory = state.out_of_memory && code != Some(0);
    let reason = if out_of_memory {
        ending::out_of_memory(memory_limit)
    } else if !state.error.is_empty() {
        format!("its container did not start: {}", state.error)
    } else {
        let by_status = if signal.is_some() { None } else { code };
        let words = ending::words(asked, by_status, signal);
        match code {
            Some(126) if !asked => format!("{words}: its command may not be executed"),
            Some(127) if !asked => format!("{words}: its command was not found in the image"),
            Some(0) if !asked => format!("{words}: an app must go on listening"),
            _ => words,
        }
    };
    ExitReport {
        reason,
        code: code.filter(|_| signal.is_none()),
        signal,
        out_of_memory,
        last_lines: Vec::new(),
        ended_by: EndedBy::Itself,
    }
}

/// Somebody else removed it.
pub(crate) fn removed_from_outside() -> ExitReport {
    ExitReport {
        reason: "its container was removed by somebody else than Skep".to_owned(),
        code: None,
        signal: None,
        out_of_memory: false,
        last_lines: Vec::new(),
        ended_by: EndedBy::Platform,
    }
}

/// Those of the last lines that go into a report.
pub(crate) fn last_lines(lines: &[String]) -> Vec<String> {
    let mut last = lines[lines.len().saturating_sub(ending::LAST_LINES)..].to_vec();
    ending::cut(&mut last);
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        let state = |code: i64, out_of_memory: bool| ContainerState {
            status: "exited".to_owned(),
            exit_code: Some(code),
            out_of_memory,
            ..ContainerState::default()
        };
        assert_eq!(judge(&state(1, false), false, None).reason, "exited with status 1");
        let killed = judge(&state(137, false), false, None);
        assert_eq!(
            (killed.reason.as_str(), killed.code, killed.signal),
            ("killed by signal 9 (SIGKILL)", None, Some(9))
        );
        assert_eq!(
            judge(&state(137, true), false, Some(64 << 20)).reason,
            "ran out of memory (limit 64 MiB)"
        );
        assert!(!judge(&state(0, true), false, None).out_of_memory);
        assert_eq!(judge(&state(143, false), true, None).reason, "stopped");
        assert_eq!(
            judge(&state(137, false), true, None).reason,
            "stopped, by force: it did not end when asked to"
        );
        assert!(judge(&state(127, false), false, None).reason.contains("not found in the image"));
        let broken = ContainerState { error: "no such device".to_owned(), ..state(128, false) };
        assert_eq!(judge(&broken, false, None).reason, "its container did not start: no such device");
    }
}

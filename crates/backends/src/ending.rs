//! Words for how an instance ended, the same whatever it was.

/// Lines of a report.
pub(crate) const LAST_LINES: usize = 50;
/// Characters of each.
const LINE_CHARS: usize = 1000;

/// `ran out of memory (limit 512 MiB)`
pub(crate) fn out_of_memory(limit: Option<u64>) -> String {
    match limit {
        Some(bytes) => format!("ran out of memory (limit {})", size(bytes)),
        None => "ran out of memory".to_owned(),
    }
}

/// How it ended, asked or not, by status or signal.
pub(crate) fn words(asked: bool, code: Option<i32>, signal: Option<i32>) -> String {
    match (asked, code, signal) {
        (true, _, Some(libc::SIGKILL)) => "stopped, by force: it did not end when asked to".to_owned(),
        (true, ..) => "stopped".to_owned(),
        (false, Some(code), _) => format!("exited with status {code}"),
        (false, None, Some(signal)) => format!("killed by signal {signal}{}", signal_name(signal)),
        (false, None, None) => "ended".to_owned(),
    }
}

/// Lines short enough for a report.
pub(crate) fn cut(lines: &mut [String]) {
    for line in lines {
        if let Some((end, _)) = line.char_indices().nth(LINE_CHARS) {
            line.truncate(end);
        }
    }
}

fn size(bytes: u64) -> String {
    let mib = bytes.div_ceil(1 << 20);
    if mib >= 1024 && mib.is_multiple_of(1024) { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGHUP => " (SIGHUP)",
        libc::SIGINT => " (SIGINT)",
        libc::SIGQUIT => " (SIGQUIT)",
        libc::SIGILL => " (SIGILL)",
        libc::SIGABRT => " (SIGABRT)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGFPE => " (SIGFPE)",
        libc::SIGKILL => " (SIGKILL)",
        libc::SIGSEGV => " (SIGSEGV)",
        libc::SIGPIPE => " (SIGPIPE)",
        libc::SIGTERM => " (SIGTERM)",
        _ => "",
    }
}

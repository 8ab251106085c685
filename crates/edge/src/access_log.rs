//! The access log: one line per exchange, written by a thread of its own.
//!
//! The event loops format lines into a buffer of theirs and hand it over now and then; when the writer cannot follow,
//! buffers are dropped and counted, and the log says so. Paths are logged without their query: queries hold secrets.

use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use http::Method;
use http::uri::PathAndQuery;
use jiff::Timestamp;
use skep_model::{AppId, InstanceId};

use crate::digits::{address, decimal, hex, three};

/// Where the access log goes, and how its lines look.
pub struct AccessLog {
    pub format: LogFormat,
    pub writer: Box<dyn Write + Send>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// The Common Log Format with the duration in microseconds at its end.
    Common,
}

/// One exchange, as logged.
pub(crate) struct Record {
    pub(crate) request_id: u64,
    pub(crate) client: IpAddr,
    pub(crate) method: Method,
    pub(crate) target: Option<PathAndQuery>,
    pub(crate) status: u16,
    /// Of the answer's body; of a tunnel, what went to the client.
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
    pub(crate) app: Option<AppId>,
    pub(crate) instance: Option<InstanceId>,
    /// How long the request waited for its app.
    pub(crate) held: Option<Duration>,
    pub(crate) note: Option<String>,
}

/// Buffers on their way to the writer.
const QUEUE: usize = 256;
/// A buffer is handed over at this size, or at the loop's next tick.
const FULL: usize = 16 * 1024;

/// One loop's end of the log.
pub(crate) struct LogBuffer {
    format: LogFormat,
    lines: String,
    count: u64,
    second: Second,
    to_writer: SyncSender<String>,
    dropped: Arc<AtomicU64>,
}

/// The second that was written last, as text: most lines come in the same one.
#[derive(Default)]
struct Second {
    of: Option<i64>,
    text: String,
}

impl Second {
    fn text(&mut self, format: LogFormat, now: Timestamp) -> &str {
        if self.of != Some(now.as_second()) {
            self.of = Some(now.as_second());
            self.text = match format {
                LogFormat::Json => now.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
                LogFormat::Common => now.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
            };
        }
        &self.text
    }
}

/// The writer's end: joined when the edge stops.
pub(crate) struct LogWriter {
    format: LogFormat,
    to_writer: SyncSender<String>,
    dropped: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl LogWriter {
    pub(crate) fn start(log: AccessLog) -> std::io::Result<Self> {
        let (to_writer, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let (format, mut writer) = (log.format, log.writer);
        let counted = Arc::clone(&dropped);
        let thread = std::thread::Builder::new()
            .name("skep-access-log".to_owned())
            .spawn(move || write_all(&lines, writer.as_mut(), format, &counted))?;
        Ok(Self { format, to_writer, dropped, thread })
    }

    pub(crate) fn buffer(&self) -> LogBuffer {
        LogBuffer {
            format: self.format,
            lines: String::new(),
            count: 0,
            second: Second::default(),
            to_writer: self.to_writer.clone(),
            dropped: Arc::clone(&self.dropped),
        }
    }

    /// Waits until everything handed over is written. Every [`LogBuffer`] must be gone.
    pub(crate) fn finish(self) {
        drop(self.to_writer);
        let _ = self.thread.join();
    }
}

fn write_all(lines: &Receiver<String>, writer: &mut dyn Write, format: LogFormat, dropped: &AtomicU64) {
    let mut failing = false;
    while let Ok(text) = lines.recv() {
        let lost = dropped.swap(0, Relaxed);
        let result = writer
            .write_all(text.as_bytes())
            .and_then(
                |()| if lost > 0 { writer.write_all(lost_line(format, lost).as_bytes()) } else { Ok(()) },
            )
            .and_then(|()| writer.flush());
        match result {
            Err(error) if !failing => {
                failing = true;
                tracing::error!(%error, "the access log cannot be written; its lines are lost until it can");
            }
            Err(_) => {}
            Ok(()) => failing = false,
        }
    }
}

fn lost_line(format: LogFormat, lost: u64) -> String {
    match format {
        LogFormat::Json => format!("{{\"time\":\"{}\",\"lost_lines\":{lost}}}\n", Timestamp::now()),
        LogFormat::Common => format!("# {} {lost} lines were lost\n", Timestamp::now()),
    }
}

impl LogBuffer {
    pub(crate) fn add(&mut self, record: &Record) {
        let now = Timestamp::now();
        if self.lines.capacity() == 0 {
            self.lines.reserve(FULL + FULL / 4);
        }
        let second = self.second.text(self.format, now);
        match self.format {
            LogFormat::Json => write_json(&mut self.lines, record, second, now.subsec_millisecond()),
            LogFormat::Common => write_common(&mut self.lines, record, second),
        }
        self.count += 1;
        if self.lines.len() >= FULL {
            self.hand_over();
        }
    }

    pub(crate) fn hand_over(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let count = std::mem::take(&mut self.count);
        match self.to_writer.try_send(lines) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(count, Relaxed);
                metrics::counter!("skep_edge_access_log_lost_lines_total").increment(count);
            }
        }
    }
}

impl Drop for LogBuffer {
    fn drop(&mut self) {
        self.hand_over();
    }
}

fn path(record: &Record) -> &str {
    record.target.as_ref().map_or("-", PathAndQuery::path)
}

fn write_json(out: &mut String, record: &Record, second: &str, millisecond: i32) {
    out.push_str("{\"time\":\"");
    out.push_str(second);
    out.push('.');
    three(out, u64::try_from(millisecond).unwrap_or_default());
    out.push_str("Z\",\"id\":\"");
    hex(out, record.request_id);
    out.push_str("\",\"client\":\"");
    address(out, record.client);
    out.push_str("\",\"method\":\"");
    out.push_str(record.method.as_str());
    out.push_str("\",\"path\":\"");
    escape(out, path(record));
    out.push_str("\",\"status\":");
    decimal(out, record.status.into());
    out.push_str(",\"bytes\":");
    decimal(out, record.bytes);
    out.push_str(",\"ms\":");
    write_ms(out, record.duration);
    if let Some(app) = &record.app {
        out.push_str(",\"app\":\"");
        out.push_str(app.as_str());
        out.push('"');
    }
    if let Some(instance) = &record.instance {
        out.push_str(",\"instance\":\"");
        out.push_str(instance.app().as_str());
        out.push('.');
        hex(out, instance.nonce());
        out.push('"');
    }
    if let Some(held) = record.held {
        out.push_str(",\"held_ms\":");
        write_ms(out, held);
    }
    if let Some(note) = &record.note {
        out.push_str(",\"note\":\"");
        escape(out, note);
        out.push('"');
    }
    out.push_str("}\n");
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn write_ms(out: &mut String, duration: Duration) {
    let micros = micros(duration);
    decimal(out, micros / 1000);
    out.push('.');
    three(out, micros);
}

fn write_common(out: &mut String, record: &Record, second: &str) {
    address(out, record.client);
    out.push_str(" - - [");
    out.push_str(second);
    out.push_str("] \"");
    out.push_str(record.method.as_str());
    out.push(' ');
    escape(out, path(record));
    out.push_str(" HTTP/1.1\"");
    for value in [record.status.into(), record.bytes, micros(record.duration)] {
        out.push(' ');
        decimal(out, value);
    }
    out.push('\n');
}

/// For both formats: quotes, backslashes and control characters are escaped as in JSON.
fn escape(out: &mut String, text: &str) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        return out.push_str(text);
    }
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            request_id: 7,
            client: "192.0.2.1".parse().unwrap(),
            method: Method::GET,
            target: Some("/a\"b?token=secret".parse().unwrap()),
            status: 200,
            bytes: 12,
            duration: Duration::from_micros(1500),
            app: Some("sales".parse().unwrap()),
            instance: None,
            held: Some(Duration::from_millis(20)),
            note: Some("a\nb".to_owned()),
        }
    }

    #[test]
    fn json_lines_parse_and_hide_the_query() {
        let mut out = String::new();
        let now = Timestamp::from_millisecond(1_790_000_000_042).unwrap();
        let mut second = Second::default();
        let second = second.text(LogFormat::Json, now);
        write_json(&mut out, &record(), second, now.subsec_millisecond());
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["path"], "/a\"b");
        assert_eq!(value["id"], "0000000000000007");
        assert_eq!(value["held_ms"], 20.0);
        assert_eq!(value["ms"], 1.5);
        assert_eq!(value["note"], "a\nb");
        assert_eq!(value["time"], "2026-09-21T14:13:20.042Z");
        assert!(!out.contains("secret"));
    }

    #[test]
    fn common_lines_look_as_usual() {
        let mut out = String::new();
        let mut second = Second::default();
        write_common(&mut out, &record(), second.text(LogFormat::Common, Timestamp::UNIX_EPOCH));
        assert_eq!(out, "192.0.2.1 - - [01/Jan/1970:00:00:00 +0000] \"GET /a\\\"b HTTP/1.1\" 200 12 1500\n");
    }

    #[test]
    fn each_line_bears_its_own_second() {
        let mut second = Second::default();
        for (at, expected) in
            [(0, "1970-01-01T00:00:00"), (999, "1970-01-01T00:00:00"), (1000, "1970-01-01T00:00:01")]
        {
            let now = Timestamp::from_millisecond(at).unwrap();
            assert_eq!(second.text(LogFormat::Json, now), expected, "{at}");
        }
    }

    #[test]
    fn a_stuck_writer_costs_lines_not_time() {
        /// Says that it was asked to write, and does so when told to.
        struct Stuck(SyncSender<()>, Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.try_send(());
                let _ = self.1.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = sync_channel(0);
        let (asked, writing) = sync_channel(1);
        let log = AccessLog { format: LogFormat::Common, writer: Box::new(Stuck(asked, stuck)) };
        let writer = LogWriter::start(log).unwrap();
        let mut buffer = writer.buffer();
        buffer.add(&record());
        buffer.hand_over();
        writing.recv().unwrap();
        for _ in 0..QUEUE * 2 {
            buffer.add(&record());
            buffer.hand_over();
        }
        assert_eq!(writer.dropped.load(Relaxed), QUEUE as u64);
        drop(release);
        drop(buffer);
        writer.finish();
    }
}

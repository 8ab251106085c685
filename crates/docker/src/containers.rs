//! Containers: their life, what they write and what they use.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use serde_json::{Value, json};

use crate::call::{Call, encode};
use crate::document::list;
use crate::frames::{Demux, Source};
use crate::json_lines::JsonLines;
use crate::{Document, Engine, Error, Filters, Upload};

/// Beyond the grace of a stop, for the engine's own work.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// A start waits for networks and mounts.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// Bytes of one line of a log; what is longer is cut into several.
const LINE_BYTES: usize = 8 * 1024;
/// Bytes of one report of statistics.
const SAMPLE_BYTES: usize = 1 << 20;

/// An inspected container.
#[derive(Debug, Clone)]
pub struct Container(pub Document);

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerState {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`, or something newer.
    pub status: String,
    pub running: bool,
    pub exit_code: Option<i64>,
    pub out_of_memory: bool,
    /// Why it could not be started.
    pub error: String,
    pub pid: Option<u32>,
}

impl Container {
    pub fn id(&self) -> &str {
        self.0.id()
    }

    pub fn state(&self) -> ContainerState {
        let pid = self.0.number("/State/Pid").and_then(|pid| u32::try_from(pid).ok());
        ContainerState {
            status: self.0.text("/State/Status").unwrap_or_default().to_owned(),
            running: self.0.flag("/State/Running").unwrap_or(false),
            exit_code: self.0.number("/State/ExitCode"),
            out_of_memory: self.0.flag("/State/OOMKilled").unwrap_or(false),
            error: self.0.text("/State/Error").unwrap_or_default().to_owned(),
            pid: pid.filter(|pid| *pid != 0),
        }
    }

    /// Its address in one of its networks, by the network's name or id.
    pub fn address_in(&self, network: &str) -> Option<std::net::IpAddr> {
        let networks = self.0.at("/NetworkSettings/Networks")?.as_object()?;
        let is_it = |joined: &Value| joined.get("NetworkID").and_then(Value::as_str) == Some(network);
        let joined = networks.get(network).or_else(|| networks.values().find(|joined| is_it(joined)))?;
        joined.get("IPAddress")?.as_str()?.parse().ok()
    }

    /// Where a TCP port of it is published on the host.
    pub fn published(&self, port: u16) -> Option<u16> {
        let bindings = self.0.at("/NetworkSettings/Ports")?.get(format!("{port}/tcp"))?.as_array()?;
        bindings.iter().find_map(|binding| binding.get("HostPort")?.as_str()?.parse().ok())
    }

    /// Whether it writes to a terminal, so that its output has no frames.
    pub fn has_terminal(&self) -> bool {
        self.0.flag("/Config/Tty").unwrap_or(false)
    }
}

/// What of a log is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions {
    /// The newest lines only.
    pub tail: Option<usize>,
    /// Go on until the container ends.
    pub follow: bool,
    /// The container has a terminal ([`Container::has_terminal`]).
    pub terminal: bool,
    /// Each line begins with the time the engine took it (RFC 3339) and a space.
    pub timestamps: bool,
}

/// One line a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub source: Source,
    pub text: String,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StatsSample {
    /// CPU seconds since its start.
    pub cpu_seconds: f64,
    /// Bytes that cannot be given back by dropping caches.
    pub memory_bytes: u64,
    pub processes: u32,
}

impl StatsSample {
    fn of(report: &Value) -> Option<Self> {
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64);
        let cpu = number("/cpu_stats/cpu_usage/total_usage")?;
        let used = number("/memory_stats/usage").unwrap_or(0);
        // The first on cgroup v1, the second on v2.
        let cache = number("/memory_stats/stats/total_inactive_file")
            .or_else(|| number("/memory_stats/stats/inactive_file"));
        Some(Self {
            cpu_seconds: Duration::from_nanos(cpu).as_secs_f64(),
            memory_bytes: used.saturating_sub(cache.unwrap_or(0)),
            processes: number("/pids_stats/current").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        })
    }
}

impl Engine {
    /// Creates a container from the engine's own JSON (`Image`, `Cmd`, `HostConfig`, …). Answers its id.
    ///
    /// # Errors
    /// A name that is taken is a conflict; an image that is absent is not found.
    pub async fn create_container(&self, name: &str, spec: &Value) -> Result<String, Error> {
        let call = Call::post("/containers/create").query("name", name).json(spec).within(START_DEADLINE);
        let answer = self.send(call).await?.json().await?;
        Ok(Document(answer).id().to_owned())
    }

    /// Answers whether it had to be started.
    pub async fn start_container(&self, id: &str) -> Result<bool, Error> {
        let call = Call::post(format!("/containers/{}/start", encode(id))).within(START_DEADLINE);
        Ok(self.send(call).await?.changed())
    }

    /// The polite signal, then after `grace` (the engine counts whole seconds) the rude one; answers when it does not run any more.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<bool, Error> {
        let call = Call::post(format!("/containers/{}/stop", encode(id)))
            .query("t", &grace.as_millis().div_ceil(1000).to_string())
            .within(grace + STOP_MARGIN);
        Ok(self.send(call).await?.changed())
    }

    /// Sends a signal, `SIGKILL` for example.
    pub async fn kill_container(&self, id: &str, signal: &str) -> Result<(), Error> {
        let call = Call::post(format!("/containers/{}/kill", encode(id))).query("signal", signal);
        self.send(call).await.map(drop)
    }

    /// Removes it, running or not, with its anonymous volumes. Answers whether there was anything to remove.
    pub async fn remove_container(&self, id: &str) -> Result<bool, Error> {
        let path = format!("/containers/{}", encode(id));
        let call = Call::delete(path).query("force", "1").query("v", "1").within(START_DEADLINE);
        match self.send(call).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            // Somebody else is removing it at this moment: as good as done.
            Err(error) if error.is_conflict() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// `None` when there is no such container.
    pub async fn inspect_container(&self, id: &str) -> Result<Option<Container>, Error> {
        match self.send(Call::get(format!("/containers/{}/json", encode(id)))).await {
            Ok(answer) => Ok(Some(Container(Document(answer.json().await?)))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Containers in any state.
    pub async fn list_containers(&self, filters: Filters<'_>) -> Result<Vec<Document>, Error> {
        let call = Call::get("/containers/json").query("all", "1").filters(filters);
        Ok(list(self.send(call).await?.json().await?))
    }

    /// Waits until it does not run any more; answers its exit status.
    ///
    /// # Errors
    /// [`Error::Late`] after `most`.
    pub async fn wait_container(&self, id: &str, most: Duration) -> Result<i64, Error> {
        // The engine sends the head of its answer at once and the body at the end.
        let call = Call::post(format!("/containers/{}/wait", encode(id))).query("condition", "not-running");
        let pieces = self.send(call).await?.pieces();
        let name = pieces.call.clone();
        let late = Error::Late { address: self.address().to_string(), call: name.clone(), after: most };
        let body = tokio::time::timeout(most, pieces.whole(SAMPLE_BYTES)).await.map_err(|_| late)??;
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        said.as_ref()
            .and_then(|value| value.get("StatusCode"))
            .and_then(Value::as_i64)
            .ok_or_else(|| Error::Garbled { call: name, reason: "it holds no `StatusCode`".to_owned() })
    }

    /// What it wrote, line by line, both outputs as they came.
    pub async fn container_logs(
        &self,
        id: &str,
        options: LogOptions,
    ) -> Result<impl Stream<Item = Result<LogLine, Error>> + Send + use<>, Error> {
        let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let call = Call::get(format!("/containers/{}/logs", encode(id)))
            .query("stdout", "1")
            .query("stderr", "1")
            .query("follow", if options.follow { "1" } else { "0" })
            .query("timestamps", if options.timestamps { "1" } else { "0" })
            .query("tail", &tail);
        let pieces = self.send(call).await?.pieces();
        let lines = Lines::new(options.terminal);
        Ok(stream::unfold(Some((pieces, lines)), |state| async move {
            let (mut pieces, mut lines) = state?;
            loop {
                if let Some(line) = lines.ready.pop_front() {
                    return Some((Ok(line), Some((pieces, lines))));
                }
                match pieces.next().await {
                    Some(Ok(piece)) => {
                        if let Err(reason) = lines.push(piece) {
                            return Some((Err(Error::Garbled { call: pieces.call.clone(), reason }), None));
                        }
                    }
                    Some(Err(error)) => return Some((Err(error), None)),
                    // What is left without a line end is a line too.
                    None => match lines.finish() {
                        Some(line) => return Some((Ok(line), Some((pieces, lines)))),
                        None => return None,
                    },
                }
            }
        }))
    }

    /// What it uses, about once a second until it ends. The first report takes a second or two on older engines.
    pub async fn container_stats(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<StatsSample, Error>> + Send + use<>, Error> {
        let call = Call::get(format!("/containers/{}/stats", encode(id))).query("stream", "1");
        let pieces = self.send(call).await?.pieces();
        let state = (pieces, JsonLines::new(SAMPLE_BYTES), VecDeque::new());
        Ok(stream::unfold(Some(state), |state| async move {
            let (mut pieces, mut lines, mut ready) = state?;
            loop {
                if let Some(sample) = ready.pop_front() {
                    return Some((Ok(sample), Some((pieces, lines, ready))));
                }
                match pieces.next().await? {
                    Ok(piece) => {
                        ready.extend(lines.push(&piece).iter().flatten().filter_map(StatsSample::of))
                    }
                    Err(error) => return Some((Err(error), None)),
                }
            }
        }))
    }

    /// Unpacks an archive into a folder of a container, running or not.
    pub async fn put_archive(&self, id: &str, folder: &str, tar: Upload) -> Result<(), Error> {
        let call = Call::put(format!("/containers/{}/archive", encode(id)))
            .query("path", folder)
            .tar(tar.0)
            .within(Duration::from_secs(600));
        self.send(call).await.map(drop)
    }

    /// Joins a container to a network besides those it has.
    pub async fn connect_network(&self, network: &str, container: &str) -> Result<(), Error> {
        let call = Call::post(format!("/networks/{}/connect", encode(network)))
            .json(&json!({ "Container": container }));
        self.send(call).await.map(drop)
    }
}

/// Cuts output into lines, each of the two outputs by itself.
struct Lines {
    /// `None`: raw bytes of a terminal.
    demux: Option<Demux>,
    partial: [Vec<u8>; 2],
    ready: VecDeque<LogLine>,
}

impl Lines {
    fn new(terminal: bool) -> Self {
        Self { demux: (!terminal).then(Demux::default), partial: Default::default(), ready: VecDeque::new() }
    }

    fn push(&mut self, piece: bytes::Bytes) -> Result<(), String> {
        match &mut self.demux {
            None => self.take(Source::Stdout, &piece),
            Some(demux) => {
                for frame in demux.push(piece).map_err(|e| e.to_string())? {
                    self.take(frame.source, &frame.bytes);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, source: Source, bytes: &[u8]) {
        let partial = &mut self.partial[usize::from(source == Source::Stderr)];
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            // In pieces, so that no line grows beyond its bound.
            for part in part.chunks(LINE_BYTES) {
                partial.extend_from_slice(part);
                if partial.ends_with(b"\n") || partial.len() >= LINE_BYTES {
                    self.ready.push_back(LogLine { source, text: text(&std::mem::take(partial)) });
                }
            }
        }
    }

    fn finish(&mut self) -> Option<LogLine> {
        [Source::Stdout, Source::Stderr].into_iter().zip(&mut self.partial).find_map(|(source, partial)| {
            let rest = std::mem::take(partial);
            (!rest.is_empty()).then(|| LogLine { source, text: text(&rest) })
        })
    }
}

/// Without the line end and without what would move a reader's cursor.
fn text(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.chars().filter(|&c| c == '\t' || c == '\u{1b}' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn frame(source: u8, text: &str) -> Vec<u8> {
        let mut all = vec![source, 0, 0, 0];
        all.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        all.extend(text.as_bytes());
        all
    }

    #[test]
    fn lines_of_both_outputs_are_kept_apart() {
        let mut lines = Lines::new(false);
        let all = [frame(1, "hel"), frame(2, "oh"), frame(1, "lo\nsecond"), frame(2, " no\r\n")].concat();
        lines.push(Bytes::from(all)).unwrap();
        let seen: Vec<_> = lines.ready.iter().map(|line| (line.source, line.text.as_str())).collect();
        assert_eq!(seen, [(Source::Stdout, "hello"), (Source::Stderr, "oh no")]);
        assert_eq!(lines.finish().unwrap().text, "second");
        assert_eq!(lines.finish(), None);
        assert!(lines.push(Bytes::from_static(b"raw text")).unwrap_err().contains("0x72"));
    }

    #[test]
    fn a_line_without_end_is_cut_and_a_terminal_is_read_raw() {
        let mut lines = Lines::new(true);
        lines.push(Bytes::from(vec![1; 10])).unwrap();
        for _ in 0..5 {
            lines.push(Bytes::from(vec![b'x'; LINE_BYTES / 2])).unwrap();
            assert!(lines.partial[0].len() <= LINE_BYTES + LINE_BYTES / 2);
        }
        assert_eq!(lines.ready.len(), 2);
        assert!(lines.ready[0].text.starts_with('x'), "a control byte does not reach the reader");
    }

    #[test]
    fn samples_are_read_on_both_kinds_of_control_groups() {
        let v1 = json!({"cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000_u64}}, "pids_stats": {"current": 3},
            "memory_stats": {"usage": 1000, "stats": {"total_inactive_file": 200, "inactive_file": 999}}});
        let sample = StatsSample { cpu_seconds: 1.5, memory_bytes: 800, processes: 3 };
        assert_eq!(StatsSample::of(&v1), Some(sample));
        let v2 = json!({"cpu_stats": {"cpu_usage": {"total_usage": 0}},
            "memory_stats": {"usage": 10, "stats": {"inactive_file": 20}}});
        assert_eq!(StatsSample::of(&v2), Some(StatsSample::default()));
        assert_eq!(StatsSample::of(&json!({"cpu_stats": []})), None);
    }
}

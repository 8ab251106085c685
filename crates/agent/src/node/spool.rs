//! Events no server has taken yet, on disk if there is a folder, with a bound.
//!
//! Every event has a number, one more than the one before, across restarts. What cannot be kept is dropped, oldest first,
//! and shows as a hole in the numbers; so nothing is lost without being told. A folder holds segments of lines (JSON, named
//! after their first number) and `state`: who this spool is, the next number, the last one acknowledged. `state` is
//! overwritten in place, which a full disk allows.
//!
//! A disk that takes nothing more costs the oldest segment; one that still takes nothing, and a spool without a folder, leave
//! a bounded queue in memory. It dies with the process: its events are told as a hole then, and those the engine still
//! remembers come again under new numbers.
//!
//! Nothing is forced to the disk: what a machine's power failure takes, it takes from the machine's containers too.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::wire::Spooled;

/// Events in memory.
const MOST_IN_MEMORY: usize = 4096;
/// Newest events that are recognised when the engine tells them again; it remembers 256.
const RECOGNISED: usize = 1024;
/// Segments the bound is divided into.
const SEGMENTS: u64 = 16;
const LEAST_SEGMENT: u64 = 4096;
/// A disk that was full is tried again this often.
const DISK_AGAIN: Duration = Duration::from_secs(1);
const STATE_BYTES: usize = 32;
const STATE_MAGIC: [u8; 8] = *b"skepspl1";

/// What is read at a time: a hole in front, then events.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Batch {
    /// Both ends included.
    pub(super) gap: Option<(u64, u64)>,
    pub(super) events: Vec<Spooled>,
}

pub(super) struct Spool {
    id: u64,
    next: u64,
    acknowledged: u64,
    disk: Option<Disk>,
    /// Newer than everything on disk.
    memory: VecDeque<Spooled>,
    /// Time, action and container of the newest.
    recent: VecDeque<(i64, String, String)>,
}

struct Disk {
    dir: PathBuf,
    state: File,
    most: u64,
    segments: VecDeque<Segment>,
    /// The newest segment.
    writer: Option<File>,
    /// Where reading went on last: segment, offset, number read there.
    cursor: Option<(u64, u64, u64)>,
    failed: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
    last: u64,
    bytes: u64,
    events: usize,
}

impl Spool {
    pub(super) fn in_memory() -> Self {
        let id = getrandom::u64().unwrap_or(0);
        Self { id, next: 1, acknowledged: 0, disk: None, memory: VecDeque::new(), recent: VecDeque::new() }
    }

    /// # Errors
    /// When the folder cannot be made, read or written to at all.
    pub(super) fn open(dir: &Path, most: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut spool = Self::in_memory();
        let mut segments = VecDeque::new();
        for first in firsts(dir)? {
            let (segment, events) = load(dir, first)?;
            spool
                .recent
                .extend(events.into_iter().map(|event| (event.time_ns, event.action, event.container)));
            let surplus = spool.recent.len().saturating_sub(RECOGNISED);
            spool.recent.drain(..surplus);
            if segment.events > 0 {
                segments.push_back(segment);
            } else {
                fs::remove_file(path(dir, first))?;
            }
        }
        let state =
            File::options().read(true).write(true).create(true).truncate(false).open(dir.join("state"))?;
        if let Some((id, next, acknowledged)) = read_state(&state) {
            (spool.id, spool.next, spool.acknowledged) = (id, next, acknowledged);
        } else if let Some(oldest) = segments.front() {
            spool.acknowledged = oldest.first - 1;
        }
        spool.next = spool.next.max(segments.back().map_or(0, |segment| segment.last) + 1);
        spool.disk = Some(Disk {
            dir: dir.to_owned(),
            state,
            most: most.max(LEAST_SEGMENT * 2),
            segments,
            writer: None,
            cursor: None,
            failed: None,
        });
        spool.note()?;
        Ok(spool)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The number of the last event.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    pub(super) fn has_seen(&self) -> bool {
        !self.recent.is_empty()
    }

    /// Whether it is among the newest. A gap never is.
    pub(super) fn knows(&self, event: &Spooled) -> bool {
        event.time_ns != 0
            && self.recent.iter().rev().any(|(time_ns, action, container)| {
                (*time_ns, action, container) == (event.time_ns, &event.action, &event.container)
            })
    }

    /// So many events were lost before they came here.
    pub(super) fn skip(&mut self, events: u64) {
        self.next += events;
    }

    /// Takes an event, unless it has it already.
    pub(super) fn append(&mut self, mut event: Spooled) {
        if self.knows(&event) {
            return;
        }
        event.seq = self.next;
        self.next += 1;
        self.recent.push_back((event.time_ns, event.action.clone(), event.container.clone()));
        if self.recent.len() > RECOGNISED {
            self.recent.pop_front();
        }
        self.memory.push_back(event);
        self.settle();
        if self.memory.len() > MOST_IN_MEMORY {
            self.memory.pop_front();
        }
        if let Err(error) = self.note() {
            tracing::debug!(%error, "the spool's state is not written");
        }
    }

    /// Moves what is in memory to the disk, as far as that takes it.
    fn settle(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        if disk.failed.is_some_and(|at| at.elapsed() < DISK_AGAIN) {
            return;
        }
        while let Some(event) = self.memory.front() {
            match disk.write(event, self.acknowledged) {
                Ok(()) => {
                    self.memory.pop_front();
                    if disk.failed.take().is_some() {
                        tracing::info!("the spool's disk takes events again");
                    }
                }
                Err(error) => {
                    if disk.failed.is_none() {
                        tracing::warn!(%error, "the spool's disk takes no more events; the newest are kept in memory");
                    }
                    disk.failed = Some(Instant::now());
                    return;
                }
            }
        }
    }

    /// A server has everything up to here.
    pub(super) fn acknowledge(&mut self, seq: u64) -> u64 {
        // A number never given would be one of a spool that has lost its memory: never give it again.
        self.next = self.next.max(seq.saturating_add(1));
        self.acknowledged = self.acknowledged.max(seq);
        while self.memory.front().is_some_and(|event| event.seq <= self.acknowledged) {
            self.memory.pop_front();
        }
        if let Some(disk) = &mut self.disk {
            disk.release(self.acknowledged);
        }
        if let Err(error) = self.note() {
            tracing::debug!(%error, "the spool's state is not written");
        }
        self.acknowledged
    }

    /// What comes after a number.
    pub(super) fn read(&mut self, after: u64, most: usize) -> Batch {
        let after = after.max(self.acknowledged);
        let mut events = match &mut self.disk {
            Some(disk) => disk.read(after, most),
            None => Vec::new(),
        };
        let newest = events.last().map_or(after, |event| event.seq);
        let room = most - events.len();
        // Only when the disk has no more: what is in memory is newer.
        if room > 0 {
            events.extend(self.memory.iter().filter(|event| event.seq > newest).take(room).cloned());
        }
        // Up to the first hole; what is behind it comes with the next batch.
        let gap_to = events.first().map_or(self.last(), |event| event.seq - 1);
        if gap_to > after {
            return Batch { gap: Some((after + 1, gap_to)), events: Vec::new() };
        }
        let whole = events.iter().zip(after + 1..).take_while(|(event, seq)| event.seq == *seq).count();
        events.truncate(whole);
        Batch { gap: None, events }
    }

    fn note(&self) -> io::Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut bytes = [0; STATE_BYTES];
        let parts =
            [STATE_MAGIC, self.id.to_le_bytes(), self.next.to_le_bytes(), self.acknowledged.to_le_bytes()];
        for (place, part) in bytes.chunks_exact_mut(8).zip(parts) {
            place.copy_from_slice(&part);
        }
        disk.state.write_all_at(&bytes, 0)
    }
}

impl Disk {
    /// Writes an event whole or not at all, at the cost of the oldest segments if need be.
    fn write(&mut self, event: &Spooled, acknowledged: u64) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let length = line.len() as u64;
        while self.segments.len() > 1 && self.bytes() + length > self.most {
            self.drop_oldest(acknowledged);
        }
        loop {
            match self.put(&line, event.seq) {
                Ok(()) => return Ok(()),
                Err(error) if self.segments.len() > 1 => {
                    tracing::debug!(%error, "the spool gives up its oldest events for a new one");
                    self.drop_oldest(acknowledged);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn put(&mut self, line: &[u8], seq: u64) -> io::Result<()> {
        let most = (self.most / SEGMENTS).max(LEAST_SEGMENT);
        let full = self.segments.back().is_none_or(|segment| segment.bytes >= most);
        if full || self.writer.is_none() {
            let first = if full { seq } else { self.segments.back().map_or(seq, |segment| segment.first) };
            let file = File::options().append(true).create(true).open(path(&self.dir, first))?;
            self.writer = Some(file);
            if full {
                self.segments.push_back(Segment { first, last: seq - 1, bytes: 0, events: 0 });
            }
        }
        let (Some(file), Some(segment)) = (&mut self.writer, self.segments.back_mut()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(error) = file.write_all(line) {
            // What is there of it goes.
            let _ = file.set_len(segment.bytes);
            if segment.events == 0 {
                let _ = fs::remove_file(path(&self.dir, segment.first));
                self.segments.pop_back();
                self.writer = None;
            }
            return Err(error);
        }
        segment.bytes += line.len() as u64;
        segment.events += 1;
        segment.last = seq;
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn drop_oldest(&mut self, acknowledged: u64) {
        let Some(oldest) = self.segments.pop_front() else { return };
        if self.segments.is_empty() {
            self.writer = None;
        }
        if let Err(error) = fs::remove_file(path(&self.dir, oldest.first)) {
            tracing::warn!(%error, "a full segment of the spool cannot be removed");
        }
        let lost = oldest.last.saturating_sub(acknowledged.max(oldest.first - 1));
        if lost > 0 {
            tracing::warn!(lost, "the spool is full: its oldest events are lost, and a gap will say so");
        }
    }

    /// Removes what is acknowledged, except for the newest events, by which those told again are recognised.
    fn release(&mut self, acknowledged: u64) {
        let mut rest: usize = self.segments.iter().map(|segment| segment.events).sum();
        while let Some(oldest) = self.segments.front() {
            rest -= oldest.events;
            if self.segments.len() == 1 || oldest.last > acknowledged || rest < RECOGNISED {
                return;
            }
            self.drop_oldest(acknowledged);
        }
    }

    fn read(&mut self, after: u64, most: usize) -> Vec<Spooled> {
        let mut events = Vec::new();
        let segments: Vec<Segment> =
            self.segments.iter().filter(|segment| segment.last > after).copied().collect();
        for segment in segments {
            if events.len() >= most {
                break;
            }
            if let Err(error) = self.read_segment(segment, after, most, &mut events) {
                tracing::warn!(%error, "a segment of the spool cannot be read");
            }
        }
        events
    }

    fn read_segment(
        &mut self,
        segment: Segment,
        after: u64,
        most: usize,
        events: &mut Vec<Spooled>,
    ) -> io::Result<()> {
        let mut file = File::open(path(&self.dir, segment.first))?;
        let mut offset = match self.cursor {
            Some((first, offset, seq)) if first == segment.first && seq <= after => offset,
            _ => 0,
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        while events.len() < most {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            offset += line.len() as u64;
            let Ok(event) = serde_json::from_slice::<Spooled>(&line) else { continue };
            self.cursor = Some((segment.first, offset, event.seq));
            if event.seq > after {
                events.push(event);
            }
        }
        Ok(())
    }
}

fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.events"))
}

/// The first numbers of the segments there are.
fn firsts(dir: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".events")?.parse::<u64>().ok());
        firsts.extend(first.filter(|first| *first > 0));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// Reads a segment as far as it is good; what follows, half a line for example, is cut off.
fn load(dir: &Path, first: u64) -> io::Result<(Segment, Vec<Spooled>)> {
    let file = path(dir, first);
    let mut bytes = Vec::new();
    File::open(&file)?.read_to_end(&mut bytes)?;
    let mut segment = Segment { first, last: first - 1, bytes: 0, events: 0 };
    let mut events = Vec::new();
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let whole = line.ends_with(b"\n").then(|| serde_json::from_slice::<Spooled>(line).ok()).flatten();
        let Some(event) = whole.filter(|event| event.seq > segment.last) else { break };
        segment.last = event.seq;
        segment.bytes += line.len() as u64;
        segment.events += 1;
        events.push(event);
    }
    if segment.bytes < bytes.len() as u64 {
        File::options().write(true).open(&file)?.set_len(segment.bytes)?;
    }
    Ok((segment, events))
}

fn read_state(state: &File) -> Option<(u64, u64, u64)> {
    let mut bytes = [0; STATE_BYTES];
    state.read_exact_at(&mut bytes, 0).ok()?;
    let parts: Vec<[u8; 8]> = bytes.chunks_exact(8).filter_map(|part| part.try_into().ok()).collect();
    let [magic, id, next, acknowledged] = parts.try_into().ok()?;
    let [id, next, acknowledged] = [id, next, acknowledged].map(u64::from_le_bytes);
    (magic == STATE_MAGIC && next > acknowledged).then_some((id, next, acknowledged))
}

#[cfg(test)]
mod tests;

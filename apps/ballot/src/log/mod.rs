//! The front's own log: a spool of segment files in one folder.
//!
//! Invariants: a batch is acknowledged only after its frame is synced into a segment that was itself made durable
//! before; segments are consecutive and each begins where the one before ends; recovery wipes a torn tail and nothing
//! else; after a failed write or sync nothing is acknowledged again; room for what is promised exists before it is
//! promised. Absent: copies on other nodes.

pub(crate) mod frame;
pub(crate) mod segment;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::disk::{self, File};
use crate::hlc::Reading;
use crate::ids::{LogId, Seq};
use crate::record;
use crate::spool::{Batch, BoxFuture, Chunk, Spool, SpoolError, Standing};
use frame::Frame;
use segment::Header;

/// A note of where a frame starts, for every so many bytes of a segment.
const NOTE_EVERY: u64 = 64 * 1024;

#[derive(Debug, Clone)]
pub struct LogOptions {
    pub dir: PathBuf,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Segments kept after all their records are in the database.
    pub keep_segments: usize,
}

impl LogOptions {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), segment_bytes: 32 << 20, keep_segments: 1 }
    }

    /// The largest batch this log takes.
    pub fn max_batch(&self) -> usize {
        usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX)
    }
}

/// Where the records of one segment are.
struct Shelf {
    number: u64,
    base: Seq,
    end: Seq,
    /// Bytes in use.
    used: u64,
    /// (first record, offset) of some frames, ascending, the first frame among them.
    notes: Vec<(Seq, u64)>,
    file: Arc<File>,
}

impl Shelf {
    fn note(&mut self, first: Seq, offset: u64) {
        if self.notes.last().is_none_or(|(_, last)| offset >= last + NOTE_EVERY) {
            self.notes.push((first, offset));
        }
    }
}

/// Owned by whoever commits.
struct Writer {
    file: Arc<File>,
    number: u64,
    at: u64,
    next: Seq,
    max_hlc: Reading,
    /// The next segment, made durable and waiting, if there is one.
    spare: Spare,
    failed: Option<SpoolError>,
    scratch: Vec<u8>,
}

enum Spare {
    Ready,
    #[cfg(not(feature = "sim"))]
    Coming(tokio::task::JoinHandle<std::io::Result<()>>),
    Missing,
}

pub struct SegmentLog {
    options: LogOptions,
    log: LogId,
    writer: tokio::sync::Mutex<Writer>,
    shelves: RwLock<Vec<Shelf>>,
    standing: Mutex<Standing>,
    room: AtomicU64,
    making_room: AtomicBool,
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> SpoolError {
    SpoolError::Failed(format!("{what} {}: {error}", path.display()))
}

fn read_whole(path: &Path) -> std::io::Result<(File, Vec<u8>)> {
    let file = disk::OpenOptions::new().read(true).write(true).open(path)?;
    let len = file.metadata()?.len();
    let mut bytes = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
    if !bytes.is_empty() {
        file.read_exact_at(&mut bytes, 0)?;
    }
    Ok((file, bytes))
}

/// Creates the folder and its missing parents, each made durable in the folder that holds it.
///
/// # Errors
/// As the file system reports.
pub fn create_dir_durably(dir: &Path) -> std::io::Result<()> {
    if disk::metadata(dir).is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir_durably(parent)?;
    disk::create_dir(dir)?;
    disk::sync_dir(parent)
}

impl SegmentLog {
    /// Opens the log in its folder, or starts one there under `fresh_id`.
    ///
    /// # Errors
    /// `Damaged` when what is there is not a log with at most a torn tail; `Full` when there is no room to start.
    pub fn open(options: LogOptions, fresh_id: LogId) -> Result<Self, SpoolError> {
        let dir = options.dir.clone();
        create_dir_durably(&dir).map_err(|e| failed("cannot create the folder", &dir, &e))?;
        let recovered = recover(&options)?;
        let (log, shelves, next, max_hlc, last) = match recovered {
            Some(found) => found,
            None => start(&options, fresh_id)?,
        };
        let start = shelves.first().map_or(next, |s| s.base);
        let at = shelves.last().map_or(segment::HEADER, |s| s.used);
        let file = shelves
            .last()
            .map(|s| Arc::clone(&s.file))
            .ok_or_else(|| SpoolError::Damaged(format!("{} holds no segment", dir.display())))?;
        let spare = match segment::prepare(&dir, last + 1, options.segment_bytes) {
            Ok(()) => Spare::Ready,
            Err(error) => {
                tracing::warn!(%error, "no room for a spare segment");
                Spare::Missing
            }
        };
        let this = Self {
            writer: tokio::sync::Mutex::new(Writer {
                file,
                number: last,
                at,
                next,
                max_hlc,
                spare,
                failed: None,
                scratch: Vec::new(),
            }),
            shelves: RwLock::new(shelves),
            standing: Mutex::new(Standing { log, start, end: next, max_hlc }),
            room: AtomicU64::new(0),
            making_room: AtomicBool::new(false),
            options,
            log,
        };
        if let Ok(writer) = this.writer.try_lock() {
            this.count_room(&writer);
        }
        Ok(this)
    }

    /// What is left in this segment and, when it is there, in the next. Reserves the most that a batch cut by the end
    /// of a segment can waste, and a frame header for every record, the worst case of grouping.
    fn count_room(&self, writer: &Writer) {
        let waste = self.options.segment_bytes / 4;
        let here = self.options.segment_bytes.saturating_sub(writer.at).saturating_sub(waste);
        let next = match writer.spare {
            Spare::Ready => self.options.segment_bytes - segment::HEADER,
            _ => 0,
        };
        self.room.store(here + next, Ordering::Release);
        self.making_room.store(!matches!(writer.spare, Spare::Ready | Spare::Missing), Ordering::Release);
    }

    async fn commit_batch(&self, batch: &Batch) -> Result<(), SpoolError> {
        let mut writer = self.writer.lock().await;
        if let Some(error) = &writer.failed {
            return Err(error.clone());
        }
        let result = self.write_frame(&mut writer, batch).await;
        if let Err(error) = &result
            && !matches!(error, SpoolError::Full(_))
        {
            writer.failed = Some(error.clone());
        }
        self.count_room(&writer);
        result
    }

    async fn write_frame(&self, writer: &mut Writer, batch: &Batch) -> Result<(), SpoolError> {
        if batch.first != writer.next {
            return Err(SpoolError::Failed(format!(
                "batch starts at {}, the log ends at {}",
                batch.first, writer.next
            )));
        }
        let span = frame::span(batch.bytes.len()) as u64;
        if span > self.options.segment_bytes - segment::HEADER {
            return Err(SpoolError::Failed(format!(
                "a batch of {} bytes does not fit a segment",
                batch.bytes.len()
            )));
        }
        self.tend_spare(writer, false).await;
        if writer.at + span > self.options.segment_bytes {
            self.roll(writer).await?;
        }
        let path = segment::path(&self.options.dir, writer.number);
        let place = frame::Place { log: self.log, segment: writer.number };
        let frame = Frame {
            first: batch.first,
            count: batch.count,
            max_hlc: batch.max_hlc,
            payload_len: batch.bytes.len(),
        };
        frame::build(place, &frame, &batch.bytes, &mut writer.scratch);
        writer
            .file
            .write_all_at(&writer.scratch, writer.at)
            .map_err(|e| failed("cannot write", &path, &e))?;
        disk::latency().await;
        disk::sync_data(&writer.file).map_err(|e| failed("cannot sync", &path, &e))?;
        {
            let mut shelves = self.shelves.write();
            if let Some(shelf) = shelves.last_mut() {
                shelf.note(batch.first, writer.at);
                shelf.end = batch.end();
                shelf.used = writer.at + span;
            }
        }
        writer.at += span;
        writer.next = batch.end();
        writer.max_hlc = writer.max_hlc.max(batch.max_hlc);
        let mut standing = self.standing.lock();
        standing.end = writer.next;
        standing.max_hlc = writer.max_hlc;
        Ok(())
    }

    /// Goes on to the next segment.
    async fn roll(&self, writer: &mut Writer) -> Result<(), SpoolError> {
        self.tend_spare(writer, true).await;
        if !matches!(writer.spare, Spare::Ready) {
            return Err(SpoolError::Full(self.options.dir.display().to_string()));
        }
        let header =
            Header { log: self.log, number: writer.number + 1, base: writer.next, hlc: writer.max_hlc };
        let file = segment::begin(&self.options.dir, &header)
            .map_err(|e| failed("cannot begin", &segment::path(&self.options.dir, header.number), &e))?;
        let file = Arc::new(file);
        self.shelves.write().push(Shelf {
            number: header.number,
            base: header.base,
            end: header.base,
            used: segment::HEADER,
            notes: Vec::new(),
            file: Arc::clone(&file),
        });
        writer.file = file;
        writer.number = header.number;
        writer.at = segment::HEADER;
        writer.spare = Spare::Missing;
        self.tend_spare(writer, false).await;
        Ok(())
    }

    /// Sees to it that the next segment is ready or being prepared; with `wait`, that it is ready if it can be.
    async fn tend_spare(&self, writer: &mut Writer, wait: bool) {
        let number = writer.number + 1;
        if matches!(writer.spare, Spare::Missing) {
            writer.spare = self.order_spare(number);
        }
        #[cfg(not(feature = "sim"))]
        if let Spare::Coming(task) = &mut writer.spare {
            if !wait && !task.is_finished() {
                return;
            }
            writer.spare = match task.await {
                Ok(Ok(())) => Spare::Ready,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "no room for the next segment");
                    Spare::Missing
                }
                Err(_) => Spare::Missing,
            };
        }
        #[cfg(feature = "sim")]
        let _ = wait;
    }

    #[cfg(not(feature = "sim"))]
    fn order_spare(&self, number: u64) -> Spare {
        let (dir, size) = (self.options.dir.clone(), self.options.segment_bytes);
        Spare::Coming(tokio::task::spawn_blocking(move || segment::prepare(&dir, number, size)))
    }

    #[cfg(feature = "sim")]
    fn order_spare(&self, number: u64) -> Spare {
        match segment::prepare(&self.options.dir, number, self.options.segment_bytes) {
            Ok(()) => Spare::Ready,
            Err(_) => Spare::Missing,
        }
    }

    /// Tries again to prepare a spare segment when one is missing, so that a front recovers when space is freed.
    pub async fn try_make_room(&self) {
        let mut writer = self.writer.lock().await;
        if writer.failed.is_none() {
            self.tend_spare(&mut writer, true).await;
            self.count_room(&writer);
        }
    }

    fn read_chunk(&self, from: Seq, max_bytes: usize) -> Result<Chunk, SpoolError> {
        let shelves = self.shelves.read();
        let start = shelves.first().map_or(0, |s| s.base);
        if from < start {
            return Err(SpoolError::Released(start));
        }
        let Some(shelf) = shelves.iter().find(|s| from < s.end) else {
            return Ok(Chunk { first: from, ..Chunk::default() });
        };
        let i = shelf.notes.partition_point(|(first, _)| *first <= from).saturating_sub(1);
        let (mut first, mut at) = shelf.notes.get(i).copied().unwrap_or((shelf.base, segment::HEADER));
        let (file, used, number) = (Arc::clone(&shelf.file), shelf.used, shelf.number);
        drop(shelves);
        let broken = |what: &str| {
            SpoolError::Damaged(format!("{what} in {}", segment::path(&self.options.dir, number).display()))
        };
        let place = frame::Place { log: self.log, segment: number };
        let mut chunk = Chunk { first: from, ..Chunk::default() };
        let mut buffer = Vec::new();
        while at < used && chunk.bytes.len() < max_bytes {
            let mut header = [0u8; frame::HEADER];
            file.read_exact_at(&mut header, at).map_err(|e| broken(&e.to_string()))?;
            let len = frame::announced_len(&header).ok_or_else(|| broken("a damaged frame"))?;
            if at + frame::span(len) as u64 > used {
                return Err(broken("a damaged frame"));
            }
            buffer.resize(frame::span(len), 0);
            file.read_exact_at(&mut buffer, at).map_err(|e| broken(&e.to_string()))?;
            let found = frame::parse(place, &buffer, 0).filter(|f| f.first == first);
            let found = found.ok_or_else(|| broken("a damaged frame"))?;
            at += found.span() as u64;
            first = found.end();
            if first <= from {
                continue;
            }
            let payload = &buffer[frame::HEADER..frame::HEADER + len];
            let malformed = |e: record::RecordError| broken(&e.to_string());
            let skip = record::prefix(payload, from.saturating_sub(found.first)).map_err(malformed)?;
            let room = max_bytes.saturating_sub(chunk.bytes.len());
            let (count, bytes) = record::fit(&payload[skip..], room).map_err(malformed)?;
            if chunk.count > 0 && bytes > room {
                break;
            }
            chunk.bytes.extend_from_slice(&payload[skip..skip + bytes]);
            chunk.count += count;
            if skip + bytes < payload.len() {
                break;
            }
        }
        Ok(chunk)
    }

    /// Answers whether anything went.
    fn forget(&self, upto: Seq) -> Result<bool, SpoolError> {
        let mut gone = Vec::new();
        {
            let mut shelves = self.shelves.write();
            while shelves.len() > self.options.keep_segments + 1 && shelves[0].end <= upto {
                gone.push(shelves.remove(0).number);
            }
            if let Some(first) = shelves.first() {
                self.standing.lock().start = first.base;
            }
        }
        for number in &gone {
            let path = segment::path(&self.options.dir, *number);
            disk::remove_file(&path).map_err(|e| failed("cannot remove", &path, &e))?;
        }
        if gone.is_empty() {
            return Ok(false);
        }
        disk::sync_dir(&self.options.dir).map_err(|e| failed("cannot sync", &self.options.dir, &e))?;
        Ok(true)
    }
}

/// What recovery would make of a segment file's bytes: nothing if it was never begun, else where its whole records end
/// and whether a torn tail follows. For tools and for tests that feed it damaged files.
///
/// # Errors
/// When the damage is not a torn tail.
pub fn inspect(bytes: &[u8]) -> Result<Option<(Seq, bool)>, String> {
    let scan = segment::scan(bytes).map_err(|e| e.to_string())?;
    Ok(scan.map(|s| (s.frames.last().map_or(s.header.base, |(_, f)| f.end()), s.torn)))
}

type Recovered = (LogId, Vec<Shelf>, Seq, Reading, u64);

/// Reads what is on the disk, wiping a torn tail. `None` when no segment was ever begun.
fn recover(options: &LogOptions) -> Result<Option<Recovered>, SpoolError> {
    let dir = &options.dir;
    let numbers = segment::list(dir).map_err(|e| failed("cannot list", dir, &e))?;
    let mut found: Option<Recovered> = None;
    let mut unbegun = None;
    let mut torn: Option<(PathBuf, u64, u64)> = None;
    for number in numbers {
        let path = segment::path(dir, number);
        let damaged = |what: String| {
            SpoolError::Damaged(format!(
                "{}: {what}; restore the file or move the folder away",
                path.display()
            ))
        };
        let (file, bytes) = read_whole(&path).map_err(|e| failed("cannot read", &path, &e))?;
        let Some(scan) = segment::scan(&bytes).map_err(|e| damaged(e.to_string()))? else {
            unbegun.get_or_insert(number);
            continue;
        };
        if let Some(missing) = unbegun {
            return Err(damaged(format!("segment {missing} before it was never begun")));
        }
        let header = scan.header;
        if header.number != number {
            return Err(damaged(format!("it says it is segment {}", header.number)));
        }
        if let Some((log, _, next, _, last)) = &found
            && ((header.log, header.base, number) != (*log, *next, last + 1) || torn.is_some())
        {
            return Err(damaged(format!(
                "it does not continue segment {last}, which ends before record {next}"
            )));
        }
        let file = Arc::new(file);
        let mut shelf =
            Shelf { number, base: header.base, end: header.base, used: scan.end, notes: Vec::new(), file };
        let mut max_hlc = header.hlc.max(found.as_ref().map_or(0, |f| f.3));
        for (offset, frame) in &scan.frames {
            shelf.note(frame.first, *offset);
            shelf.end = frame.end();
            max_hlc = max_hlc.max(frame.max_hlc);
        }
        let next = shelf.end;
        torn = scan.torn.then_some((path, scan.end, bytes.len() as u64));
        let mut shelves = found.map_or_else(Vec::new, |f| f.1);
        shelves.push(shelf);
        found = Some((header.log, shelves, next, max_hlc, number));
    }
    // Only now is it certain that the torn frame is the last thing that was written.
    if let (Some((path, from, size)), Some(shelf)) = (torn, found.as_ref().and_then(|f| f.1.last())) {
        tracing::info!(path = %path.display(), from, "wiping a torn tail");
        segment::wipe(&shelf.file, from, size).map_err(|e| failed("cannot wipe", &path, &e))?;
    }
    Ok(found)
}

/// The first segment of a new log.
fn start(options: &LogOptions, log: LogId) -> Result<Recovered, SpoolError> {
    let dir = &options.dir;
    let full = |e: &std::io::Error| SpoolError::Full(format!("{} ({e})", dir.display()));
    segment::prepare(dir, 0, options.segment_bytes).map_err(|e| full(&e))?;
    let header = Header { log, number: 0, base: 0, hlc: 0 };
    let file = segment::begin(dir, &header).map_err(|e| failed("cannot begin", dir, &e))?;
    let shelf =
        Shelf { number: 0, base: 0, end: 0, used: segment::HEADER, notes: Vec::new(), file: Arc::new(file) };
    Ok((log, vec![shelf], 0, 0, 0))
}

impl Spool for SegmentLog {
    fn standing(&self) -> Standing {
        *self.standing.lock()
    }

    fn commit<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<(), SpoolError>> {
        Box::pin(self.commit_batch(batch))
    }

    fn read(&self, from: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Chunk, SpoolError>> {
        Box::pin(async move { self.read_chunk(from, max_bytes) })
    }

    fn release(&self, upto: Seq) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(async move {
            if self.forget(upto)? {
                self.try_make_room().await;
            }
            Ok(())
        })
    }

    fn room(&self) -> u64 {
        self.room.load(Ordering::Acquire)
    }

    fn is_making_room(&self) -> bool {
        self.making_room.load(Ordering::Acquire)
    }

    fn make_room(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.try_make_room())
    }
}

//! Log recovery: whatever happens to the bytes of a log, what recovery answers was written, from the first record on and in
//! order, or it refuses and leaves every file as it is. It never panics.
//!
//! The first byte of the input chooses: arbitrary bytes as a segment; damage to a real segment; damage to a real folder of
//! several segments, which is then opened and read back.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use ballot::ballot::{Ballot, Stamp};
use ballot::ids::{BallotTag, LogId, OptionId, PollId, VoterTag};
use ballot::log::{LogOptions, SegmentLog, inspect};
use ballot::record;
use ballot::spool::{Batch, Spool};

const RECORDS: u64 = 60;
const SEGMENT: u64 = 4 << 10;

/// A real log of several segments: its files and the records in it.
struct Original {
    files: Vec<(PathBuf, Vec<u8>)>,
    records: Vec<Vec<u8>>,
}

fn options(dir: &std::path::Path) -> LogOptions {
    LogOptions { segment_bytes: SEGMENT, ..LogOptions::new(dir) }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

fn encoded(n: u64) -> Vec<u8> {
    let ballot = Ballot {
        poll: PollId::try_from("pets").expect("id"),
        voter: VoterTag(u128::from(n).to_be_bytes()),
        option: OptionId::try_from("cats").expect("id"),
        tag: BallotTag(u128::from(n * 7).to_le_bytes()),
        stamp: Stamp { first: 0, epoch: n, attempt: 1, hlc: n << 16 },
    };
    let mut bytes = Vec::new();
    record::encode(&ballot, &mut bytes);
    bytes
}

fn original() -> &'static Original {
    static MADE: OnceLock<Original> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = tempfile::tempdir_in(shelf()).expect("a folder");
        let records: Vec<Vec<u8>> = (0..RECORDS).map(encoded).collect();
        runtime().block_on(async {
            let log = SegmentLog::open(options(dir.path()), LogId([3; 16])).expect("a log");
            for first in (0..RECORDS).step_by(3) {
                let bytes = (first..first + 3).flat_map(encoded).collect();
                let batch = Batch { first, count: 3, max_hlc: first << 16, bytes };
                log.commit(&batch).await.expect("commits");
            }
        });
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        for entry in std::fs::read_dir(dir.path()).expect("a folder") {
            let path = entry.expect("an entry").path();
            files.push((path.file_name().expect("a name").into(), std::fs::read(&path).expect("a file")));
        }
        files.sort();
        assert!(files.len() > 2, "several segments");
        Original { files, records }
    })
}

/// In memory where there is such a place: a sync costs nothing there.
fn shelf() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// Damage, not forgery: bits that flip, ends and stretches that are lost, pieces that turn up elsewhere. The input chooses
/// what and where but writes no bytes of its own, because a checksum keeps off accidents and no one who can compute it.
fn damage(files: &mut [(PathBuf, Vec<u8>)], input: &[u8]) {
    for step in input.chunks_exact(6).take(8) {
        let (kind, file, len) = (step[0] % 4, usize::from(step[1]) % files.len(), usize::from(step[5]) + 1);
        let bytes = &mut files[file].1;
        if bytes.is_empty() {
            continue;
        }
        let at = usize::from(u16::from_be_bytes([step[2], step[3]])) % bytes.len();
        let end = (at + len).min(bytes.len());
        match kind {
            0 => bytes[at] ^= 1 << (step[4] % 8),
            1 => bytes.truncate(at),
            2 => bytes[at..end].fill(0),
            _ => {
                let from = usize::from(step[4]) * 16 % bytes.len();
                let count = (end - at).min(bytes.len() - from);
                bytes.copy_within(from..from + count, at);
            }
        }
    }
}

fn one_segment(input: &[u8]) {
    let mut files = vec![original().files[0].clone()];
    let whole = inspect(&files[0].1).expect("undamaged").expect("begun").0;
    damage(&mut files, input);
    if let Ok(Some((end, _))) = inspect(&files[0].1) {
        assert!(end <= whole && end % 3 == 0, "{end} of {whole}");
    }
}

fn a_folder(input: &[u8]) {
    let mut files = original().files.clone();
    damage(&mut files, input);
    let dir = tempfile::tempdir_in(shelf()).expect("a folder");
    for (name, bytes) in &files {
        std::fs::write(dir.path().join(name), bytes).expect("writes");
    }
    match SegmentLog::open(options(dir.path()), LogId([9; 16])) {
        Ok(log) => runtime().block_on(async {
            let standing = log.standing();
            assert!(standing.start <= standing.end && standing.end <= RECORDS, "{standing:?}");
            let mut at = standing.start;
            while at < standing.end {
                let chunk = log.read(at, 700).await.expect("what was recovered can be read");
                assert!(chunk.first == at && chunk.count > 0);
                let range =
                    usize::try_from(at).expect("small")..usize::try_from(at + chunk.count).expect("small");
                assert_eq!(chunk.bytes, original().records[range].concat(), "exactly what was written");
                at += chunk.count;
            }
        }),
        Err(_) => {
            for (name, bytes) in &files {
                assert_eq!(&std::fs::read(dir.path().join(name)).expect("reads"), bytes, "left as it is");
            }
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((mode, rest)) if mode % 3 == 0 => drop(inspect(rest)),
        Some((mode, rest)) if mode % 3 == 1 => one_segment(rest),
        Some((_, rest)) => a_folder(rest),
        None => {}
    }
});

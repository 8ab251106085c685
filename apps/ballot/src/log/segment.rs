//! One segment file: preallocated with zeros and made durable before it is used, so that appending to it can
//! neither run out of space nor change the file's size.
//!
//! Layout: a 64-byte header (magic, version, segment number, log id, first record's number, clock reading, checksum),
//! then frames. A header of zeros means prepared but not begun. Only the last begun segment may have a torn tail.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::frame::{self, Frame, Place};
use crate::disk::{self, File, OpenOptions};
use crate::hlc::Reading;
use crate::ids::{LogId, Seq};

pub(crate) const HEADER: u64 = 64;
const MAGIC: &[u8; 8] = b"SKBALLOT";
const VERSION: u32 = 1;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("segment-{number:012}"))
}

/// The segment numbers in a folder, ascending.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in disk::read_dir(dir)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|n| n.strip_prefix("segment-"));
        if let Some(number) = digits.and_then(|d| d.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub log: LogId,
    pub number: u64,
    pub base: Seq,
    pub hlc: Reading,
}

impl Header {
    fn bytes(&self) -> [u8; 64] {
        let mut out = [0u8; 64];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..40].copy_from_slice(&self.log.0);
        out[40..48].copy_from_slice(&self.base.to_le_bytes());
        out[48..56].copy_from_slice(&self.hlc.to_le_bytes());
        let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&out[..60]);
        out[60..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 64] = bytes.get(..64)?.try_into().ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
        let header = Self {
            log: LogId::from_slice(&bytes[24..40])?,
            number: number(16)?,
            base: number(40)?,
            hlc: number(48)?,
        };
        (header.bytes() == *bytes).then_some(header)
    }

    pub(crate) fn place(&self) -> Place {
        Place { log: self.log, segment: self.number }
    }
}

fn write_zeros(file: &File, mut at: u64, end: u64) -> io::Result<()> {
    while at < end {
        let n = usize::try_from(end - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_all_at(&ZEROS[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// Makes an empty segment durable: content first, then its name.
///
/// # Errors
/// As the file system reports; a half-made file is removed.
pub(crate) fn prepare(dir: &Path, number: u64, size: u64) -> io::Result<()> {
    let path = path(dir, number);
    let made = (|| {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        write_zeros(&file, 0, size)?;
        disk::sync_data(&file)
    })();
    if let Err(error) = made {
        let _ = disk::remove_file(&path);
        return Err(error);
    }
    disk::sync_dir(dir)
}

/// Writes the header of a prepared segment and makes it durable.
pub(crate) fn begin(dir: &Path, header: &Header) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path(dir, header.number))?;
    file.write_all_at(&header.bytes(), 0)?;
    disk::sync_data(&file)?;
    Ok(file)
}

/// What a scan of a segment's bytes found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub header: Header,
    pub frames: Vec<(u64, Frame)>,
    /// Where the next frame would go.
    pub end: u64,
    /// Whether anything but zeros follows `end`.
    pub torn: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("its header is damaged")]
    Header,
    #[error("record {0} and on are damaged, but records after them are whole: this is not a torn tail")]
    Middle(Seq),
}

/// Reads the bytes of a begun segment. `None` if it was prepared but never begun.
///
/// A frame is written only after the one before it is durable, so a whole frame after a damaged one means that
/// acknowledged records were damaged, which is never repaired by forgetting them.
///
/// # Errors
/// When the damage is not a torn tail.
pub(crate) fn scan(bytes: &[u8]) -> Result<Option<Scan>, ScanError> {
    let Some(header) = Header::parse(bytes) else {
        // Frames are written only after the header is durable.
        let begun = bytes.get(64..).is_some_and(|rest| rest.iter().any(|b| *b != 0));
        return if begun { Err(ScanError::Header) } else { Ok(None) };
    };
    let place = header.place();
    let (mut at, mut next, mut frames) = (64usize, header.base, Vec::new());
    while let Some(frame) = frame::parse(place, bytes, at) {
        if frame.first != next {
            return Err(ScanError::Middle(next));
        }
        frames.push((at as u64, frame));
        next = frame.end();
        at += frame.span();
    }
    let tail = bytes.get(at..).unwrap_or_default();
    let torn = tail.iter().any(|b| *b != 0);
    let later = (at + 8..bytes.len())
        .step_by(8)
        .any(|p| frame::parse(place, bytes, p).is_some_and(|f| f.first >= next));
    if torn && later {
        return Err(ScanError::Middle(next));
    }
    Ok(Some(Scan { header, frames, end: at as u64, torn }))
}

/// Wipes a torn tail, durably, so that its bytes can never be taken for anything.
pub(crate) fn wipe(file: &File, from: u64, size: u64) -> io::Result<()> {
    write_zeros(file, from, size)?;
    disk::sync_data(file)
}

#[cfg(all(test, not(feature = "sim")))]
mod tests {
    use super::*;

    const HEAD: Header = Header { log: LogId([9; 16]), number: 4, base: 100, hlc: 5 };

    fn segment(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = HEAD.bytes().to_vec();
        let mut next = HEAD.base;
        for payload in payloads {
            let frame = Frame { first: next, count: 3, max_hlc: 1, payload_len: payload.len() };
            let mut out = Vec::new();
            frame::build(HEAD.place(), &frame, payload, &mut out);
            bytes.extend_from_slice(&out);
            next += 3;
        }
        bytes.resize(4096, 0);
        bytes
    }

    #[test]
    fn a_torn_tail_is_found_and_only_a_torn_tail() {
        let whole = segment(&[b"first", b"second", b"third"]);
        let ends: Vec<u64> = scan(&whole).expect("scan").expect("begun").frames.iter().map(|f| f.0).collect();
        let third = usize::try_from(ends[2]).expect("fits");
        for damaged in third..third + frame::HEADER + 5 {
            let mut bytes = whole.clone();
            bytes[damaged] ^= 0x40;
            let found = scan(&bytes).expect("a torn tail").expect("begun");
            assert_eq!((found.frames.len(), found.end, found.torn), (2, ends[2], true), "byte {damaged}");
        }
        for damaged in 64..third {
            let mut bytes = whole.clone();
            bytes[damaged] ^= 0x40;
            // Padding is not covered; any other byte belongs to acknowledged records.
            match scan(&bytes) {
                Ok(found) => assert_eq!(found.expect("begun").frames.len(), 3, "byte {damaged}"),
                Err(error) => assert!(matches!(error, ScanError::Middle(_)), "byte {damaged}"),
            }
        }
    }

    #[test]
    fn a_prepared_segment_is_not_begun_and_a_damaged_header_is_an_error() {
        assert!(scan(&[0; 4096]).expect("scan").is_none());
        assert!(scan(&[]).expect("scan").is_none());
        let mut bytes = segment(&[b"first"]);
        bytes[20] ^= 1;
        assert_eq!(scan(&bytes).expect_err("damaged"), ScanError::Header);
        // Only the header was being written when the power went: nothing can have been acknowledged.
        let mut torn = vec![0; 4096];
        torn[..20].copy_from_slice(&HEAD.bytes()[..20]);
        assert!(scan(&torn).expect("scan").is_none());
    }
}

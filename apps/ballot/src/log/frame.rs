//! A frame: the records of one group commit under one checksum. What is durable is durable by the frame.
//!
//! Layout, little-endian: magic u32, checksum u32, payload bytes u32, records u32, first record's number u64, greatest
//! clock reading u64, then the payload, zero-padded to eight bytes. The checksum covers everything after itself up to
//! the padding, and starts from the log's id and the segment's number, so that bytes of another log or of a file
//! used before are never taken for a frame.

use crate::hlc::Reading;
use crate::ids::{LogId, Seq};

pub(crate) const HEADER: usize = 32;
const MAGIC: u32 = 0x5442_4b53; // "SKBT"

static CASTAGNOLI: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

/// Where a frame belongs; part of its checksum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub log: LogId,
    pub segment: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub first: Seq,
    pub count: u32,
    pub max_hlc: Reading,
    pub payload_len: usize,
}

impl Frame {
    /// Bytes the frame takes in its segment, padding included.
    pub(crate) fn span(&self) -> usize {
        span(self.payload_len)
    }

    pub(crate) fn end(&self) -> Seq {
        self.first + u64::from(self.count)
    }
}

/// Bytes a frame with such a payload takes.
pub(crate) fn span(payload_len: usize) -> usize {
    (HEADER + payload_len).next_multiple_of(8)
}

fn checksum(place: Place, bytes: &[u8]) -> u32 {
    let mut digest = CASTAGNOLI.digest();
    digest.update(&place.log.0);
    digest.update(&place.segment.to_le_bytes());
    digest.update(bytes);
    digest.finalize()
}

/// The bytes to write for a frame.
pub(crate) fn build(place: Place, frame: &Frame, payload: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(span(payload.len()));
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&frame.count.to_le_bytes());
    out.extend_from_slice(&frame.first.to_le_bytes());
    out.extend_from_slice(&frame.max_hlc.to_le_bytes());
    out.extend_from_slice(payload);
    let sum = checksum(place, &out[8..]);
    out[4..8].copy_from_slice(&sum.to_le_bytes());
    out.resize(span(payload.len()), 0);
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn double(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The frame that starts at `at`, if a whole and undamaged one does.
pub(crate) fn parse(place: Place, bytes: &[u8], at: usize) -> Option<Frame> {
    if word(bytes, at)? != MAGIC {
        return None;
    }
    let payload_len = usize::try_from(word(bytes, at + 8)?).ok()?;
    let end = at.checked_add(HEADER)?.checked_add(payload_len)?;
    let covered = bytes.get(at + 8..end)?;
    let frame = Frame {
        first: double(bytes, at + 16)?,
        count: word(bytes, at + 12)?,
        max_hlc: double(bytes, at + 24)?,
        payload_len,
    };
    (frame.count > 0 && frame.first.checked_add(u64::from(frame.count)).is_some())
        .then_some(frame)
        .filter(|_| word(bytes, at + 4) == Some(checksum(place, covered)))
}

/// The payload length a header announces, without checking anything else. Used to read a frame known to be good.
pub(crate) fn announced_len(header: &[u8]) -> Option<usize> {
    usize::try_from(word(header, 8)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place { log: LogId([7; 16]), segment: 3 };

    fn built(payload: &[u8]) -> (Frame, Vec<u8>) {
        let frame = Frame { first: 11, count: 2, max_hlc: 99, payload_len: payload.len() };
        let mut bytes = Vec::new();
        build(PLACE, &frame, payload, &mut bytes);
        (frame, bytes)
    }

    proptest! {
        #[test]
        fn a_frame_is_read_back(payload in proptest::collection::vec(any::<u8>(), 0..500)) {
            let (frame, bytes) = built(&payload);
            prop_assert_eq!(bytes.len() % 8, 0);
            prop_assert_eq!(bytes.len(), frame.span());
            prop_assert_eq!(parse(PLACE, &bytes, 0), Some(frame));
            prop_assert_eq!(announced_len(&bytes), Some(payload.len()));
        }

        #[test]
        fn any_flipped_bit_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 0..200), at in any::<proptest::sample::Index>(), bit in 0u8..8
        ) {
            let (frame, mut bytes) = built(&payload);
            let at = at.index(HEADER + payload.len());
            bytes[at] ^= 1 << bit;
            prop_assert_ne!(parse(PLACE, &bytes, 0), Some(frame));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..300) {
            prop_assert_eq!(parse(PLACE, &bytes, at), None);
        }
    }

    #[test]
    fn a_frame_of_another_log_or_segment_is_refused() {
        let (frame, bytes) = built(b"payload");
        assert_eq!(parse(PLACE, &bytes, 0), Some(frame));
        assert_eq!(parse(Place { segment: 4, ..PLACE }, &bytes, 0), None);
        assert_eq!(parse(Place { log: LogId([8; 16]), ..PLACE }, &bytes, 0), None);
    }
}

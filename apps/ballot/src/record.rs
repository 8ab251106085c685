//! How a ballot is written in a log and on its way to a worker: a length, then the ballot, all little-endian.
//!
//! Invariants: `decode(encode(ballot)) == ballot`; decoding never panics and never reads past its input, whatever the
//! bytes. Absent: checksums, which belong to the frame around a batch of records (`log::frame`).

use crate::ballot::{Ballot, Stamp};
use crate::ids::{BallotTag, OptionId, PollId, VoterTag};

/// Why bytes are not records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record is cut short")]
    Short,
    #[error("a record is longer than its content")]
    Long,
    #[error("a record names an invalid poll or option")]
    BadName,
}

const FIXED: usize = 16 + 16 + 8 + 8 + 4 + 8;
/// The most bytes one record takes, its length field included.
pub const MAX_RECORD: usize = 2 + FIXED + 2 + 2 * crate::ids::MAX_ID;

/// The bytes this ballot takes in a log.
pub fn encoded_len(ballot: &Ballot) -> usize {
    2 + FIXED + 2 + ballot.poll.as_str().len() + ballot.option.as_str().len()
}

/// Appends the ballot.
pub fn encode(ballot: &Ballot, out: &mut Vec<u8>) {
    // The sum is at most MAX_RECORD, far below the range of the length field.
    let body = u16::try_from(encoded_len(ballot) - 2).unwrap_or(u16::MAX);
    out.extend_from_slice(&body.to_le_bytes());
    out.extend_from_slice(&ballot.voter.0);
    out.extend_from_slice(&ballot.tag.0);
    out.extend_from_slice(&ballot.stamp.first.to_le_bytes());
    out.extend_from_slice(&ballot.stamp.epoch.to_le_bytes());
    out.extend_from_slice(&ballot.stamp.attempt.to_le_bytes());
    out.extend_from_slice(&ballot.stamp.hlc.to_le_bytes());
    for name in [ballot.poll.as_str(), ballot.option.as_str()] {
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(name.as_bytes());
    }
}

/// Takes fixed-size pieces off the front of a slice.
struct Cut<'a>(&'a [u8]);

impl<'a> Cut<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], RecordError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(RecordError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        self.take(N)?.try_into().map_err(|_| RecordError::Short)
    }

    fn text(&mut self) -> Result<&'a str, RecordError> {
        let len = usize::from(self.array::<1>()?[0]);
        std::str::from_utf8(self.take(len)?).map_err(|_| RecordError::BadName)
    }
}

fn split_first(bytes: &[u8]) -> Result<(&[u8], &[u8]), RecordError> {
    let mut cut = Cut(bytes);
    let len = usize::from(u16::from_le_bytes(cut.array()?));
    Ok((cut.take(len)?, cut.0))
}

fn decode_one(body: &[u8]) -> Result<Ballot, RecordError> {
    let mut cut = Cut(body);
    let voter = VoterTag(cut.array()?);
    let tag = BallotTag(cut.array()?);
    let stamp = Stamp {
        first: u64::from_le_bytes(cut.array()?),
        epoch: u64::from_le_bytes(cut.array()?),
        attempt: u32::from_le_bytes(cut.array()?),
        hlc: u64::from_le_bytes(cut.array()?),
    };
    let poll = PollId::try_from(cut.text()?).map_err(|_| RecordError::BadName)?;
    let option = OptionId::try_from(cut.text()?).map_err(|_| RecordError::BadName)?;
    if cut.0.is_empty() { Ok(Ballot { poll, voter, option, tag, stamp }) } else { Err(RecordError::Long) }
}

/// All ballots in a run of records.
///
/// # Errors
/// When any byte of the run does not belong to a well-formed record.
pub fn decode(mut bytes: &[u8]) -> Result<Vec<Ballot>, RecordError> {
    let mut ballots = Vec::with_capacity(bytes.len() / (FIXED + 12));
    while !bytes.is_empty() {
        let (body, rest) = split_first(bytes)?;
        ballots.push(decode_one(body)?);
        bytes = rest;
    }
    Ok(ballots)
}

/// The bytes of the first `n` records.
///
/// # Errors
/// When there are fewer.
pub fn prefix(bytes: &[u8], n: u64) -> Result<usize, RecordError> {
    let mut rest = bytes;
    for _ in 0..n {
        rest = split_first(rest)?.1;
    }
    Ok(bytes.len() - rest.len())
}

/// How many whole records fit in `max_bytes` (at least one if there is any), and their bytes.
///
/// # Errors
/// When the run is malformed.
pub fn fit(bytes: &[u8], max_bytes: usize) -> Result<(u64, usize), RecordError> {
    let mut rest = bytes;
    let mut count = 0;
    while !rest.is_empty() {
        let next = split_first(rest)?.1;
        if count > 0 && bytes.len() - next.len() > max_bytes {
            break;
        }
        rest = next;
        count += 1;
    }
    Ok((count, bytes.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_ballot() -> impl Strategy<Value = Ballot> {
        (
            ("[a-z0-9][a-z0-9_-]{0,39}", "[a-z0-9][a-z0-9_-]{0,39}"),
            any::<([u8; 16], [u8; 16])>(),
            any::<(u64, u64, u32, u64)>(),
        )
            .prop_map(|((poll, option), (voter, tag), (first, epoch, attempt, hlc))| Ballot {
                poll: PollId::try_from(poll).expect("id"),
                voter: VoterTag(voter),
                option: OptionId::try_from(option).expect("id"),
                tag: BallotTag(tag),
                stamp: Stamp { first, epoch, attempt, hlc },
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ballots in proptest::collection::vec(any_ballot(), 0..20), max in 0usize..2_000) {
            let mut bytes = Vec::new();
            ballots.iter().for_each(|b| {
                let before = bytes.len();
                encode(b, &mut bytes);
                assert_eq!(bytes.len() - before, encoded_len(b));
                assert!(encoded_len(b) <= MAX_RECORD);
            });
            prop_assert_eq!(decode(&bytes).expect("well-formed"), ballots.clone());
            let (count, len) = fit(&bytes, max).expect("well-formed");
            prop_assert_eq!(prefix(&bytes, count).expect("enough"), len);
            prop_assert!(count >= 1 || ballots.is_empty());
            prop_assert!(prefix(&bytes, ballots.len() as u64 + 1).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(ballots) = decode(&bytes) {
                let mut again = Vec::new();
                ballots.iter().for_each(|b| encode(b, &mut again));
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn a_cut_record_is_refused(ballot in any_ballot(), cut in any::<proptest::sample::Index>()) {
            let mut bytes = Vec::new();
            encode(&ballot, &mut bytes);
            let keep = cut.index(bytes.len());
            prop_assert!(keep == 0 || decode(&bytes[..keep]).is_err());
        }
    }
}

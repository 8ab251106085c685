//! Damaged segments: whatever happens to the bytes, recovery answers with a run of records that were written, from the
//! first on, or refuses. Input close to the real thing finds what arbitrary bytes do not.

use std::time::{Duration, Instant};

use ballot::ids::LogId;
use ballot::log::{LogOptions, SegmentLog, inspect};
use ballot::spool::{Batch, Spool};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % n as u64).expect("fits")
    }
}

/// A real segment with ten frames of three records.
async fn segment() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("dir");
    let options = LogOptions { segment_bytes: 8 << 10, ..LogOptions::new(dir.path()) };
    let log = SegmentLog::open(options, LogId([3; 16])).expect("log");
    for i in 0..10 {
        let bytes = vec![u8::try_from(i).expect("small"); 100];
        log.commit(&Batch { first: i * 3, count: 3, max_hlc: i, bytes }).await.expect("commits");
    }
    std::fs::read(dir.path().join("segment-000000000000")).expect("reads")
}

fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let at = dice.roll(bytes.len());
    match dice.roll(5) {
        0 => bytes[at] ^= 1 << dice.roll(8),
        1 => bytes.truncate(at),
        2 => bytes[at..].fill(0),
        3 => {
            let to = (at + dice.roll(200)).min(bytes.len());
            bytes[at..to].fill_with(|| u8::try_from(dice.roll(256)).expect("a byte"));
        }
        _ => {
            // A piece of the file turns up in another place.
            let from = dice.roll(bytes.len());
            let n = dice.roll(300).min(bytes.len() - at).min(bytes.len() - from);
            let piece = bytes[from..from + n].to_vec();
            bytes[at..at + n].copy_from_slice(&piece);
        }
    }
}

#[tokio::test]
async fn recovery_reads_a_beginning_of_what_was_written_or_refuses() {
    let whole = segment().await;
    assert_eq!(inspect(&whole), Ok(Some((30, false))));
    let (mut dice, end) = (Dice(1), Instant::now() + Duration::from_secs(5));
    let (mut read, mut refused) = (0, 0);
    while read == 0 || refused == 0 || (read + refused < 4_000 && Instant::now() < end) {
        let mut bytes = whole.clone();
        for _ in 0..=dice.roll(3) {
            if !bytes.is_empty() {
                damage(&mut dice, &mut bytes);
            }
        }
        match inspect(&bytes) {
            Ok(Some((upto, _))) => {
                assert!(upto <= 30 && upto % 3 == 0, "{upto}");
                read += 1;
            }
            Ok(None) => {
                assert!(!bytes.starts_with(&whole[..64]), "a begun segment is not taken for a fresh one")
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}

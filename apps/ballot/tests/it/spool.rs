//! The segment log against the SQLite spool, and against damage.

use std::path::Path;
use std::sync::Arc;

use ballot::ids::{BallotTag, LogId, OptionId, PollId, VoterTag};
use ballot::intake::{Draft, First, Intake, IntakeLimits, Refusal};
use ballot::log::{LogOptions, SegmentLog};
use ballot::record;
use ballot::spool::{Batch, Spool, SpoolError};
use ballot::spool_sqlite::SqliteSpool;
use proptest::prelude::*;

const ID: LogId = LogId([5; 16]);

fn options(dir: &Path) -> LogOptions {
    LogOptions { segment_bytes: 8 << 10, ..LogOptions::new(dir) }
}

fn draft(n: u64) -> Draft {
    Draft {
        poll: PollId::try_from("pets").expect("id"),
        option: OptionId::try_from("cats").expect("id"),
        voter: VoterTag(u128::from(n).to_be_bytes()),
        tag: BallotTag(u128::from(n).to_le_bytes()),
        epoch: 0,
        attempt: 0,
        first: First::Latest,
        opens_ms: 0,
        closes_ms: u64::MAX,
    }
}

fn batch(first: u64, count: u32) -> Batch {
    let mut batch = Batch { first, count, max_hlc: (first + 1) << 16, bytes: Vec::new() };
    for i in 0..u64::from(count) {
        let d = draft(first + i);
        let stamp = ballot::ballot::Stamp { first: 0, epoch: 0, attempt: 0, hlc: (first + i) << 16 };
        let ballot =
            ballot::ballot::Ballot { poll: d.poll, voter: d.voter, option: d.option, tag: d.tag, stamp };
        record::encode(&ballot, &mut batch.bytes);
    }
    batch
}

#[derive(Debug, Clone)]
enum Step {
    Commit(u32),
    Read(u64, usize),
    Release(u64),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(
        prop_oneof![
            6 => (1u32..15).prop_map(Step::Commit),
            3 => (0u64..200, 0usize..3000).prop_map(|(f, m)| Step::Read(f, m)),
            1 => (0u64..200).prop_map(Step::Release),
            1 => Just(Step::Reopen),
        ],
        1..60,
    )
}

/// All records from `from` to the end, read in pieces of any size.
async fn read_all(spool: &dyn Spool, mut from: u64, max: usize) -> Result<Vec<u8>, SpoolError> {
    let mut all = Vec::new();
    loop {
        let chunk = spool.read(from, max).await?;
        assert_eq!(chunk.first, from);
        if chunk.count == 0 {
            return Ok(all);
        }
        assert_eq!(record::decode(&chunk.bytes).expect("records").len() as u64, chunk.count);
        from += chunk.count;
        all.extend_from_slice(&chunk.bytes);
    }
}

async fn same_history(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("dir");
    let (log_dir, db) = (dir.path().join("log"), dir.path().join("oracle.db"));
    let mut log = SegmentLog::open(options(&log_dir), ID).expect("log");
    let mut oracle = SqliteSpool::open(&db, ID).await.expect("oracle");
    let mut released = 0;
    for step in steps {
        match step {
            Step::Commit(count) => {
                let batch = batch(oracle.standing().end, count);
                oracle.commit(&batch).await.expect("oracle");
                log.commit(&batch).await.expect("log");
            }
            Step::Read(from, max) => {
                let from = from.min(oracle.standing().end);
                // The log keeps whole segments, so it may still have what the oracle forgot.
                if let Ok(expected) = read_all(&oracle, from, max).await {
                    assert_eq!(read_all(&log, from, max).await.expect("log"), expected);
                }
            }
            Step::Release(upto) => {
                let upto = upto.min(oracle.standing().end);
                released = released.max(upto);
                oracle.release(upto).await.expect("oracle");
                log.release(upto).await.expect("log");
                assert!(log.standing().start <= released);
            }
            Step::Reopen => {
                drop(log);
                log = SegmentLog::open(options(&log_dir), LogId([0; 16])).expect("log");
                oracle = SqliteSpool::open(&db, LogId([0; 16])).await.expect("oracle");
            }
        }
        let (a, b) = (log.standing(), oracle.standing());
        assert_eq!((a.log, a.end, a.max_hlc), (b.log, b.end, b.max_hlc));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_log_and_the_oracle_agree(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(same_history(steps));
    }
}

async fn filled(dir: &Path, batches: u64) -> SegmentLog {
    let log = SegmentLog::open(options(dir), ID).expect("log");
    for i in 0..batches {
        log.commit(&batch(i * 3, 3)).await.expect("commit");
    }
    log
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).expect("dir").map(|e| e.expect("entry").path()).collect();
    paths.sort();
    paths
}

fn used(path: &Path) -> usize {
    let bytes = std::fs::read(path).expect("read");
    bytes.iter().rposition(|b| *b != 0).map_or(0, |p| p + 1)
}

#[tokio::test]
async fn a_torn_tail_is_wiped_and_only_the_torn_batch_goes() {
    let dir = tempfile::tempdir().expect("dir");
    drop(filled(dir.path(), 5).await);
    let path = &segments(dir.path())[0];
    let whole = std::fs::read(path).expect("read");
    let end = used(path);
    for cut in [1, 7, 30, 100, 200] {
        let mut bytes = whole.clone();
        bytes[end - cut..].fill(0);
        std::fs::write(path, &bytes).expect("write");
        let log = SegmentLog::open(options(dir.path()), ID).expect("recovers");
        assert_eq!(log.standing().end, 12, "cut {cut}");
        log.commit(&batch(12, 1)).await.expect("goes on");
        drop(log);
        let log = SegmentLog::open(options(dir.path()), ID).expect("recovers again");
        assert_eq!(log.standing().end, 13);
        assert_eq!(read_all(&log, 12, 100).await.expect("read"), batch(12, 1).bytes);
    }
}

#[tokio::test]
async fn damage_to_acknowledged_records_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("dir");
    drop(filled(dir.path(), 120).await);
    let paths = segments(dir.path());
    assert!(paths.len() > 2, "several segments");
    for path in &paths[..2] {
        let whole = std::fs::read(path).expect("read");
        for at in [70, 300, used(path) - 10] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(path, &bytes).expect("write");
            let error = SegmentLog::open(options(dir.path()), ID).err().expect("refused");
            assert!(matches!(error, SpoolError::Damaged(_)), "{error}");
            assert_eq!(std::fs::read(path).expect("read"), bytes, "nothing was repaired");
        }
        std::fs::write(path, &whole).expect("write");
    }
    std::fs::remove_file(&paths[1]).expect("remove");
    assert!(matches!(SegmentLog::open(options(dir.path()), ID).err(), Some(SpoolError::Damaged(_))));
}

#[tokio::test]
async fn released_segments_go_and_the_rest_stays() {
    let dir = tempfile::tempdir().expect("dir");
    let log = filled(dir.path(), 100).await;
    let before = segments(dir.path()).len();
    log.release(250).await.expect("release");
    assert!(segments(dir.path()).len() < before);
    let start = log.standing().start;
    assert!(start > 0 && start <= 250);
    assert_eq!(log.read(0, 100).await, Err(SpoolError::Released(start)));
    assert_eq!(read_all(&log, 250, 500).await.expect("read"), {
        let mut bytes = Vec::new();
        (250..300).for_each(|i| bytes.extend(batch(i, 1).bytes));
        bytes
    });
    drop(log);
    let log = SegmentLog::open(options(dir.path()), ID).expect("reopens");
    assert_eq!((log.standing().start, log.standing().end), (start, 300));
}

fn runtime_thread(intake: Arc<Intake>) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(intake.run())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn many_waiters_are_grouped_and_each_finds_its_ballot() {
    let dir = tempfile::tempdir().expect("dir");
    let log = Arc::new(
        SegmentLog::open(LogOptions { segment_bytes: 1 << 20, ..options(dir.path()) }, ID).expect("log"),
    );
    let intake = Arc::new(Intake::new(Arc::clone(&log) as Arc<dyn Spool>, IntakeLimits::default()));
    runtime_thread(Arc::clone(&intake));
    let mut tasks = Vec::new();
    for n in 0..2_000 {
        let intake = Arc::clone(&intake);
        tasks.push(tokio::spawn(async move {
            let commitment = intake.submit(draft(n), 1_000).expect("taken");
            commitment.durable().await.expect("durable");
            (commitment.seq, n)
        }));
    }
    let mut by_seq = Vec::new();
    for task in tasks {
        by_seq.push(task.await.expect("task"));
    }
    by_seq.sort_unstable();
    let ballots = record::decode(&read_all(&*log, 0, 10_000).await.expect("read")).expect("records");
    assert_eq!(ballots.len(), 2_000);
    assert!(ballots.windows(2).all(|w| w[0].stamp.hlc < w[1].stamp.hlc), "stamps stand in log order");
    for ((seq, n), (i, ballot)) in by_seq.iter().zip(ballots.iter().enumerate()) {
        assert_eq!((*seq, ballot.voter), (i as u64, draft(*n).voter));
    }
}

#[tokio::test]
async fn refusals_have_names() {
    let dir = tempfile::tempdir().expect("dir");
    let log = Arc::new(
        SegmentLog::open(LogOptions { segment_bytes: 1 << 20, ..options(dir.path()) }, ID).expect("log"),
    );
    let intake = Intake::new(log, IntakeLimits { max_pending: 2, max_batch: 1 << 20 });
    let refused = |d: Draft, now| intake.submit(d, now).err().expect("refused");
    assert_eq!(refused(Draft { closes_ms: 1_000, ..draft(1) }, 1_000), Refusal::Closed);
    assert_eq!(refused(Draft { opens_ms: 5_000, ..draft(1) }, 1_001), Refusal::NotOpen);
    assert!(matches!(refused(Draft { epoch: 500_000 << 16, ..draft(1) }, 1_002), Refusal::Clock(_)));
    assert!(intake.submit(draft(1), 1_003).is_ok() && intake.submit(draft(2), 1_003).is_ok());
    assert_eq!(refused(draft(3), 1_003), Refusal::Busy);
    intake.drain();
    assert_eq!(refused(draft(3), 1_003), Refusal::Draining);
}

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn event(time_ns: i64) -> Spooled {
    Spooled {
        seq: 0,
        time_ns,
        action: "die".to_owned(),
        container: format!("{time_ns:064x}"),
        attributes: [("name".to_owned(), "web".to_owned())].into(),
    }
}

fn times(batch: &Batch) -> Vec<i64> {
    assert_eq!(batch.gap, None);
    batch.events.iter().map(|event| event.time_ns).collect()
}

fn seqs(batch: &Batch) -> Vec<u64> {
    batch.events.iter().map(|event| event.seq).collect()
}

#[test]
fn what_was_appended_is_read_in_order_until_it_is_acknowledged() {
    let dir = TempDir::new().unwrap();
    for mut spool in [Spool::in_memory(), Spool::open(dir.path(), 1 << 20).unwrap()] {
        (1..=10).for_each(|time| spool.append(event(time)));
        assert_eq!(times(&spool.read(0, 4)), [1, 2, 3, 4]);
        assert_eq!(seqs(&spool.read(4, 100)), [5, 6, 7, 8, 9, 10]);
        assert_eq!(spool.read(10, 100), Batch::default());
        spool.acknowledge(7);
        assert_eq!(times(&spool.read(0, 100)), [8, 9, 10]);
        spool.append(event(10));
        assert_eq!(spool.last(), 10, "told again, taken once");
    }
}

#[test]
fn everything_survives_a_new_start() {
    let dir = TempDir::new().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    let id = spool.id();
    (1..=100).for_each(|time| spool.append(event(time)));
    spool.acknowledge(40);
    drop(spool);
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    assert_eq!((spool.id(), spool.last(), spool.acknowledge(0)), (id, 100, 40));
    assert!(spool.knows(&event(100)) && spool.knows(&event(1)) && !spool.knows(&event(101)));
    spool.append(event(101));
    assert_eq!(seqs(&spool.read(40, 1000)), (41..=101).collect::<Vec<_>>());
}

#[test]
fn half_a_line_is_cut_off_and_told_as_a_gap() {
    let dir = TempDir::new().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    (1..=3).for_each(|time| spool.append(event(time)));
    drop(spool);
    let file = path(dir.path(), 1);
    let length = fs::metadata(&file).unwrap().len();
    File::options().write(true).open(&file).unwrap().set_len(length - 5).unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(spool.last(), 3, "a number that was given is not given again");
    spool.append(event(4));
    assert_eq!(times(&spool.read(0, 10)), [1, 2]);
    assert_eq!(spool.read(2, 10).gap, Some((3, 3)));
    assert_eq!(times(&spool.read(3, 10)), [4]);
}

#[test]
fn a_full_spool_drops_the_oldest_and_says_how_many() {
    let dir = TempDir::new().unwrap();
    let most = LEAST_SEGMENT * 4;
    let mut spool = Spool::open(dir.path(), most).unwrap();
    (1..=2000).for_each(|time| spool.append(event(time)));
    let stored: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(stored <= most + LEAST_SEGMENT, "{stored}");
    let Batch { gap: Some((1, to)), .. } = spool.read(0, 10) else { panic!("no gap") };
    assert!((1500..2000).contains(&to), "{to}");
    let mut seen = Vec::new();
    let mut after = to;
    loop {
        let batch = spool.read(after, 7);
        assert_eq!(batch.gap, None);
        let Some(last) = batch.events.last() else { break };
        after = last.seq;
        seen.extend(seqs(&batch));
    }
    assert_eq!(seen, (to + 1..=2000).collect::<Vec<_>>());
}

#[test]
fn memory_has_a_bound_too() {
    let mut spool = Spool::in_memory();
    let all = i64::try_from(MOST_IN_MEMORY).unwrap() + 10;
    (1..=all).for_each(|time| spool.append(event(time)));
    assert_eq!(spool.read(0, 1).gap, Some((1, 10)));
    assert_eq!(times(&spool.read(10, 1)), [11]);
    spool.skip(5);
    spool.append(event(all + 1));
    let last = u64::try_from(all).unwrap();
    assert_eq!(spool.read(last, 1).gap, Some((last + 1, last + 5)));
    assert_eq!(times(&spool.read(last + 5, 1)), [all + 1]);
}

#[test]
fn acknowledged_segments_go_but_the_newest_events_are_recognised() {
    let dir = TempDir::new().unwrap();
    let mut spool = Spool::open(dir.path(), 16 * LEAST_SEGMENT).unwrap();
    (1..=3000).for_each(|time| {
        spool.append(event(time));
        if time % 10 == 0 {
            spool.acknowledge(u64::try_from(time).unwrap());
        }
    });
    assert_eq!(spool.read(0, 10), Batch::default());
    drop(spool);
    let spool = Spool::open(dir.path(), 16 * LEAST_SEGMENT).unwrap();
    assert!((3000 - 200..=3000).all(|time| spool.knows(&event(time))));
    assert_eq!(spool.last(), 3000);
}

#[test]
fn a_spool_whose_state_is_lost_is_another_one() {
    let dir = TempDir::new().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    let id = spool.id();
    (1..=3).for_each(|time| spool.append(event(time)));
    drop(spool);
    for broken in [&b""[..], b"garbage", &[0; STATE_BYTES], &[0xff; STATE_BYTES]] {
        fs::write(dir.path().join("state"), broken).unwrap();
        let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
        assert_ne!(spool.id(), id);
        assert_eq!(times(&spool.read(0, 10)), [1, 2, 3]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: every number is either read once or part of one gap.
    #[test]
    fn every_number_is_told_once(steps in prop::collection::vec((0_u8..5, 1_usize..60), 1..40)) {
        let dir = TempDir::new().unwrap();
        let mut spool = Spool::open(dir.path(), LEAST_SEGMENT * 2).unwrap();
        let (mut time, mut told) = (0, 0_u64);
        for (what, count) in steps {
            match what {
                0 | 1 => for _ in 0..count {
                    time += 1;
                    spool.append(event(time));
                },
                2 => spool.skip(1),
                3 => spool = Spool::open(dir.path(), LEAST_SEGMENT * 2).unwrap(),
                _ => {
                    let batch = spool.read(told, count);
                    if let Some((from, to)) = batch.gap {
                        prop_assert_eq!(from, told + 1);
                        prop_assert!(to >= from);
                        told = to;
                    }
                    for event in batch.events {
                        prop_assert_eq!(event.seq, told + 1);
                        told = event.seq;
                    }
                    spool.acknowledge(told);
                }
            }
        }
        while told < spool.last() {
            let batch = spool.read(told, 100);
            let from = batch.gap.map_or(told + 1, |(from, _)| from);
            prop_assert_eq!(from, told + 1);
            told = batch.gap.map_or(told, |(_, to)| to).max(batch.events.last().map_or(0, |event| event.seq));
        }
    }
}

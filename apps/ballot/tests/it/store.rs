//! The database on both engines: the same statements, the same answers, and batches that overlap.

use std::collections::BTreeMap;
use std::sync::Arc;

use ballot::ballot::{Ballot, Register, Stamp};
use ballot::hlc;
use ballot::ids::{BallotTag, LogId, OptionId, PollId, Seq, VoterTag};
use ballot::keys::Keys;
use ballot::proof::hex;
use ballot::source::SEALED;
use ballot::store::published::Standing;
use ballot::store::{Database, LogBatch, Sighting, Tally, sql};
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use crate::app::poll;
use crate::postgres::Postgres;

/// Both engines, each with an empty database.
struct Engines {
    dir: tempfile::TempDir,
    postgres: Postgres,
}

impl Engines {
    async fn start() -> Self {
        Self { dir: tempfile::tempdir().expect("dir"), postgres: Postgres::start().await }
    }

    async fn urls(&self, name: &'static str) -> [String; 2] {
        let file = self.dir.path().join(format!("{name}.db"));
        [format!("sqlite:{}", file.display()), self.postgres.database(name).await]
    }
}

/// A small, fixed stream of numbers: tests repeat exactly.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn ballot(dice: &mut Dice) -> Ballot {
    let mut tag = [0; 16];
    tag.iter_mut().for_each(|b| *b = u8::try_from(dice.roll(256)).expect("a byte"));
    Ballot {
        poll: PollId::try_from(["pets", "cars"][usize::try_from(dice.roll(2)).expect("index")]).expect("id"),
        voter: VoterTag([u8::try_from(dice.roll(60)).expect("a byte"); 16]),
        option: OptionId::try_from(["cats", "dogs"][usize::try_from(dice.roll(2)).expect("index")])
            .expect("id"),
        tag: BallotTag(tag),
        stamp: Stamp {
            first: if dice.roll(4) == 0 { dice.roll(3) } else { 0 },
            epoch: dice.roll(5),
            attempt: u32::try_from(dice.roll(3)).expect("small"),
            hlc: dice.roll(1000),
        },
    }
}

async fn agrees(store: &Database, all: &[Ballot]) {
    let mut register = Register::default();
    all.iter().cloned().for_each(|b| register.absorb(b));
    for name in ["pets", "cars"] {
        let poll = PollId::try_from(name).expect("id");
        let mut wanted: Vec<(String, String, String)> = register
            .winners()
            .filter(|b| b.poll == poll)
            .map(|b| (b.voter.to_string(), b.option.to_string(), b.tag.to_string()))
            .collect();
        let votes = store.votes(&poll).await.expect("votes");
        let mut found: Vec<_> = votes.iter().map(|(v, o, t)| (hex(v), o.to_string(), hex(t))).collect();
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted);
        let recount = store.recount(&poll).await.expect("recount");
        assert!(recount.values().all(|(tallied, counted)| tallied == counted), "{recount:?}");
        for b in all.iter().filter(|b| b.poll == poll) {
            let wins = register.get(&poll, b.voter).is_some_and(|w| w.tag == b.tag);
            let standing = store.uncounted(&poll, b.tag).await.expect("standing");
            assert_eq!(standing == Standing::Replaced, !wins, "{b:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_keep_the_register_under_overlapping_workers() {
    let engines = Engines::start().await;
    for url in engines.urls("overlap").await {
        let store = Arc::new(Database::open(&url).await.expect("opens"));
        let mut dice = Dice(7);
        let logs: Vec<LogId> = (1..=3).map(|n| LogId([n; 16])).collect();
        let mut contents: BTreeMap<LogId, Vec<Ballot>> = BTreeMap::new();
        for log in &logs {
            store.enrol(*log, "front").await.expect("enrols");
            contents.insert(*log, (0..300).map(|_| ballot(&mut dice)).collect());
        }
        // Three workers take overlapping pieces of every log at once.
        let contents = Arc::new(contents);
        let mut workers = Vec::new();
        for seed in 0..3 {
            let (store, contents) = (Arc::clone(&store), Arc::clone(&contents));
            workers.push(tokio::spawn(async move {
                let mut dice = Dice(seed);
                let mut left: Vec<LogId> = contents.keys().copied().collect();
                while !left.is_empty() {
                    let i = usize::try_from(dice.roll(left.len() as u64)).expect("index");
                    let (log, all) = (left[i], &contents[&left[i]]);
                    let from = store.position(log).await.expect("position");
                    if from == all.len() as Seq {
                        left.remove(i);
                        continue;
                    }
                    let upto = (from + 1 + dice.roll(60)).min(all.len() as Seq);
                    let part = usize::try_from(from).expect("index")..usize::try_from(upto).expect("index");
                    let batch = LogBatch { log, from, upto, ballots: all[part].to_vec() };
                    // A deadlock or a busy database is an error the worker retries after.
                    let _ = store.commit(batch).await;
                }
            }));
        }
        for worker in workers {
            worker.await.expect("worker");
        }
        let all: Vec<Ballot> = contents.values().flatten().cloned().collect();
        agrees(&store, &all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_applied_once_and_never_with_a_gap() {
    let engines = Engines::start().await;
    for url in engines.urls("once").await {
        let store = Database::open(&url).await.expect("opens");
        let mut dice = Dice(3);
        let ballots: Vec<Ballot> = (0..20).map(|_| ballot(&mut dice)).collect();
        let log = LogId([9; 16]);
        let part = |from: usize, upto: usize| LogBatch {
            log,
            from: from as Seq,
            upto: upto as Seq,
            ballots: ballots[from..upto].to_vec(),
        };
        assert!(store.commit(part(0, 5)).await.is_err(), "an unknown log is refused");
        store.enrol(log, "front").await.expect("enrols");
        assert_eq!(store.commit(part(5, 9)).await.expect("commits"), 0, "a gap is not jumped");
        assert_eq!(store.commit(part(0, 12)).await.expect("commits"), 12);
        assert_eq!(store.commit(part(0, 5)).await.expect("commits"), 12, "old news");
        assert_eq!(store.commit(part(3, 20)).await.expect("commits"), 20, "only what is new");
        agrees(&store, &ballots).await;
        assert!(store.claim(log, "a", 1_000, 3_000).await.expect("claims"));
        assert!(!store.claim(log, "b", 1_500, 3_000).await.expect("claims"));
        assert!(store.claim(log, "a", 2_000, 3_000).await.expect("claims"));
        assert!(store.claim(log, "b", 5_500, 3_000).await.expect("claims"), "the claim ran out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_published_once_every_log_is_settled_and_never_changes() {
    let engines = Engines::start().await;
    let keys = Keys::from_bytes(&[1; 32]).expect("keys");
    for url in engines.urls("publish").await {
        let store = Database::open(&url).await.expect("opens");
        let closes_ms = 10_000;
        let pets = {
            let mut pets = poll("pets", "");
            pets.closes_ms = closes_ms;
            pets
        };
        store.put_poll(&pets, 0).await.expect("defines");
        let reading = hlc::at_millis(closes_ms);
        let mut dice = Dice(5);
        let mut cast = |n: u8, ms: u64| Ballot {
            poll: pets.id.clone(),
            voter: VoterTag([n; 16]),
            stamp: Stamp { first: 0, epoch: 0, attempt: 0, hlc: hlc::at_millis(ms) },
            ..ballot(&mut dice)
        };
        let (a, b) = (LogId([1; 16]), LogId([2; 16]));
        let first = vec![cast(1, 9_000), cast(2, 9_999), cast(3, 10_000)];
        let stranded = vec![cast(4, 9_500)];
        for log in [a, b] {
            store.enrol(log, "front").await.expect("enrols");
        }
        let see = |log, end, settled| Sighting { log, end, settled, seen_ms: 11_000, offset_ms: 0 };
        store.commit(LogBatch { log: a, from: 0, upto: 3, ballots: first.clone() }).await.expect("commits");
        store.sighting(see(a, 3, reading)).await.expect("notes");
        assert!(!store.publish(&pets, &keys, 9_999).await.expect("asks"), "not closed");
        assert!(!store.publish(&pets, &keys, 11_000).await.expect("asks"), "b is not settled");
        store.sighting(see(b, 1, SEALED)).await.expect("notes");
        assert!(!store.publish(&pets, &keys, 11_000).await.expect("asks"), "b is not drained");
        store.retire(b, true).await.expect("gives up");
        assert!(store.publish(&pets, &keys, 11_000).await.expect("publishes"));
        assert!(!store.publish(&pets, &keys, 12_000).await.expect("asks"), "once");
        let statement = store.statement(&pets.id).await.expect("reads").expect("published");
        assert_eq!(statement.voters, 2, "what was stamped at the end or later does not count");
        statement.recount(&store.leaves(&pets.id).await.expect("leaves")).expect("adds up");
        // The stranded log comes back: shown, not counted.
        store
            .commit(LogBatch { log: b, from: 0, upto: 1, ballots: stranded.clone() })
            .await
            .expect("commits");
        statement.recount(&store.leaves(&pets.id).await.expect("leaves")).expect("still adds up");
        assert_eq!(store.late(&pets.id).await.expect("counts"), 2);
        assert_eq!(store.uncounted(&pets.id, stranded[0].tag).await.expect("asks"), Standing::Late);
        let mut reopened = pets.clone();
        reopened.closes_ms = 99_000;
        assert!(store.put_poll(&reopened, 11_000).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_prepares_on_both_engines() {
    let engines = Engines::start().await;
    for url in engines.urls("prepare").await {
        drop(Database::open(&url).await.expect("migrates"));
        drop(Database::open(&url).await.expect("migrating again changes nothing"));
        let pool = sqlx::AnyPool::connect(&url).await.expect("connects");
        for text in sql::ALL {
            let prepared = (&pool).prepare(AssertSqlSafe(*text).into_sql_str()).await;
            assert!(prepared.is_ok(), "{url}: {text}: {:?}", prepared.err());
        }
    }
}

//! Many deployments, and planted faults that must not go unnoticed.

use ballot::disk::faults::Fault;

use crate::model::Flaw;
use crate::run::{Trial, play};

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.parse().ok())
}

/// Splits seeds over the machine's cores; a simulation is single-threaded.
fn on_all_cores<R: Send>(seeds: std::ops::Range<u64>, play_one: impl Fn(u64) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let mut results = Vec::new();
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..cores)
            .map(|core| {
                let (seeds, play_one) = (seeds.clone(), &play_one);
                scope.spawn(move || seeds.filter(|s| s % cores == core).map(play_one).collect::<Vec<_>>())
            })
            .collect();
        for handle in handles {
            match handle.join() {
                Ok(part) => results.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    results
}

#[test]
fn no_acknowledged_vote_is_lost_or_wrong() {
    let seeds = match asked("BALLOT_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = asked("BALLOT_FIRST").unwrap_or(0);
            first..first + asked("BALLOT_SEEDS").unwrap_or(200)
        }
    };
    let outcomes = on_all_cores(seeds.clone(), |seed| {
        let outcome = play(Trial { seed, flaw: Flaw::None, fault: None });
        let outcome = outcome.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(outcome.verdict.is_sound(), "seed {seed}: {outcome:#?}");
        assert!(outcome.drained, "seed {seed}: {outcome:#?}");
        outcome
    });
    let sum = |of: fn(&crate::run::Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    println!(
        "{} deployments: {} voters, {} votes acknowledged, {} not, {} crashes, {} partitions; 0 lost, 0 wrong",
        outcomes.len(),
        sum(|o| o.verdict.voters),
        sum(|o| o.verdict.acknowledged),
        sum(|o| o.verdict.unacknowledged),
        sum(|o| u64::from(o.crashes)),
        sum(|o| u64::from(o.partitions)),
    );
    if seeds.end - seeds.start > 20 {
        // A simulation in which nothing happens proves nothing.
        assert!(sum(|o| u64::from(o.crashes)) > outcomes.len() as u64);
        assert!(sum(|o| o.verdict.acknowledged) > 10 * outcomes.len() as u64);
    }
}

/// Plays until the fault is noticed. Answers after how many deployments.
fn noticed(flaw: Flaw, fault: Option<Fault>) -> u64 {
    for seed in 0..60 {
        // A front that finds its log damaged and says so has noticed, too.
        if play(Trial { seed, flaw, fault }).map_or(true, |outcome| !outcome.verdict.is_sound()) {
            return seed + 1;
        }
    }
    panic!("{flaw:?} {fault:?} went unnoticed in 60 deployments");
}

#[test]
fn a_log_that_does_not_sync_is_noticed() {
    println!("noticed after {}", noticed(Flaw::None, Some(Fault::NoSync)));
}

#[test]
fn a_log_that_does_not_sync_its_folder_is_noticed() {
    println!("noticed after {}", noticed(Flaw::None, Some(Fault::NoDirectorySync)));
}

#[test]
fn a_watermark_outside_the_transaction_is_noticed() {
    println!("noticed after {}", noticed(Flaw::WatermarkOutside, None));
}

#[test]
fn arrival_order_is_noticed() {
    println!("noticed after {}", noticed(Flaw::ArrivalOrder, None));
}

#[test]
fn stamps_compared_but_not_stored_are_noticed() {
    println!("noticed after {}", noticed(Flaw::StampNotStored, None));
}

#[test]
fn ordering_by_the_fronts_clocks_alone_is_noticed() {
    println!("noticed after {}", noticed(Flaw::ClockOnly, None));
}

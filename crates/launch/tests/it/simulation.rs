//! Millions of steps of the pool in an invented world, watched by a model of its own.
//!
//! [`world`] (with [`invent`]) invents visitors, instances, failures and orders from a seed, and drives the pool with them. [`model`]
//! (with [`orders`]) keeps its own, naive account of who sits and waits where; it computes what every claim must be answered and what time
//! must bring about. [`judge`] holds every action of the pool against it, and after every step asks whether something was
//! left undone. At the end of each episode the world turns fair, and everything begun must come to an end.
//!
//! `cargo test -p skep-launch --test it -- simulation`; `SKEP_SIM_STEPS` sets the number of steps, `SKEP_SIM_SEED`
//! replays one episode with its trace.

mod compare;
mod ends;
mod invent;
mod judge;
mod model;
mod orders;
mod world;

use std::time::Instant;

use invent::Tally;
use skep_launch::pool::Fault;
use world::World;

/// Steps in an ordinary test run; five million take well under a minute.
const ORDINARY_STEPS: u64 = 400_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.replace('_', "").parse().unwrap())
}

/// Replays an episode to show how it came to its end.
fn explain(seed: u64, fault: Option<Fault>) -> String {
    let mut world = World::new(seed, fault, true);
    let violation = world.run().err().unwrap_or_else(|| "the replay went well".into());
    let trace = world.trace();
    let tail = trace.len().saturating_sub(60);
    format!("seed {seed}: {violation}\n{}", trace[tail..].join("\n"))
}

#[test]
fn the_pool_keeps_its_promises() {
    if let Some(seed) = number("SKEP_SIM_SEED") {
        println!("{}", explain(seed, None));
        return;
    }
    let wanted = number("SKEP_SIM_STEPS").unwrap_or(ORDINARY_STEPS);
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut seed = 0;
    while tally.steps < wanted {
        let mut world = World::new(seed, None, false);
        let outcome = world.run();
        assert!(outcome.is_ok(), "{}", explain(seed, None));
        tally.add(&world.tally);
        seed += 1;
    }
    println!("{tally:?} in {seed} episodes and {:?}", begun.elapsed());
    // A world in which hardly anything happens would prove nothing.
    for (what, count) in tally.kinds() {
        assert!(count * 20_000 > tally.steps, "hardly ever: {what} ({count} in {} steps)", tally.steps);
    }
}

#[test]
fn planted_faults_are_noticed() {
    let mut missed = Vec::new();
    for fault in Fault::ALL {
        let mut steps = 0;
        let caught = (0..600).find_map(|seed| {
            let mut world = World::new(seed, Some(fault), false);
            let violation = world.run().err();
            steps += world.tally.steps;
            violation
        });
        match caught {
            Some(violation) => println!("{fault:?}: after {steps} steps: {violation}"),
            None => missed.push(fault),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

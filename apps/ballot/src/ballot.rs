//! What a vote is and which of two votes by one voter counts. Pure: no clock, no input, no output.
//!
//! A vote is a last-writer-wins register keyed (poll, voter). [`Stamp`] orders all ballots of one voter; [`merge`] keeps
//! the greater. It is commutative, associative and idempotent, so ballots may arrive late, twice, in any order and
//! through any number of workers, and the result is the same. No coordination, no synchronised clocks.
//!
//! Absent: where the stamp comes from (`front`), where the register is kept (`store`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::hlc::Reading;
use crate::ids::{BallotTag, OptionId, PollId, VoterTag};

/// Orders the ballots of one voter in one poll.
///
/// The parts, most significant first:
/// - `first`: the *smaller* wins. 0 where the latest vote counts. In a poll that forbids changes it is the ballot's
///   own `hlc`, so the first vote stays; with tickets it is when the ticket was first redeemed, so a ticket that two
///   people use counts for the first of them.
/// - `epoch`: the clock reading of the voter's last acknowledged vote (or page), carried in the sealed cookie. A vote
///   cast after seeing an acknowledgement is greater than the acknowledged one.
/// - `attempt`: counts tries since that acknowledgement, so that a retry after a lost answer is greater than the try
///   whose answer was lost, even through a front whose clock is behind.
/// - `hlc`: the receiving front's hybrid logical clock, pushed past `epoch`. All that is left to order two devices of
///   one person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    pub first: Reading,
    pub epoch: Reading,
    pub attempt: u32,
    pub hlc: Reading,
}

impl Stamp {
    fn rank(&self) -> (std::cmp::Reverse<Reading>, Reading, u32, Reading) {
        (std::cmp::Reverse(self.first), self.epoch, self.attempt, self.hlc)
    }
}

impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// One vote as it stands in a log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ballot {
    pub poll: PollId,
    pub voter: VoterTag,
    pub option: OptionId,
    pub tag: BallotTag,
    pub stamp: Stamp,
}

impl Ballot {
    /// The order of merging. The tag and the option follow the stamp so that it is total: two fronts may issue equal stamps.
    fn rank(&self) -> (Stamp, BallotTag, &OptionId) {
        (self.stamp, self.tag, &self.option)
    }

    /// Whether this ballot counts rather than `other`, by the same voter.
    pub fn beats(&self, other: &Ballot) -> bool {
        self.rank() > other.rank()
    }
}

/// The one of two ballots by the same voter that counts.
pub fn merge(a: Ballot, b: Ballot) -> Ballot {
    if a.beats(&b) { a } else { b }
}

/// The register of a set of ballots: one winner for each (poll, voter), and the losers aside.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Register {
    winners: HashMap<(PollId, VoterTag), Ballot>,
    losers: Vec<Ballot>,
}

impl Register {
    pub fn absorb(&mut self, ballot: Ballot) {
        match self.winners.entry((ballot.poll.clone(), ballot.voter)) {
            Entry::Vacant(slot) => {
                slot.insert(ballot);
            }
            Entry::Occupied(mut slot) => {
                if *slot.get() == ballot {
                    return;
                }
                let loser = if ballot.beats(slot.get()) { slot.insert(ballot) } else { ballot };
                self.losers.push(loser);
            }
        }
    }

    pub fn get(&self, poll: &PollId, voter: VoterTag) -> Option<&Ballot> {
        self.winners.get(&(poll.clone(), voter))
    }

    pub fn winners(&self) -> impl Iterator<Item = &Ballot> {
        self.winners.values()
    }

    /// The winners in (poll, voter) order, so that overlapping workers lock rows in one order, and the losers.
    pub fn into_sorted(self) -> (Vec<Ballot>, Vec<Ballot>) {
        let mut winners: Vec<Ballot> = self.winners.into_values().collect();
        winners.sort_unstable_by(|a, b| (&a.poll, a.voter).cmp(&(&b.poll, b.voter)));
        (winners, self.losers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ballots() -> impl Strategy<Value = Ballot> {
        ((0u8..3, 0u64..4, 0u32..3), (0u64..4, 0u64..3, 0u8..3, 0u8..4)).prop_map(
            |((voter, epoch, attempt), (hlc, first, option, tag))| Ballot {
                poll: PollId::try_from("pets").expect("id"),
                voter: VoterTag([voter; 16]),
                option: OptionId::try_from(["cats", "dogs", "fish"][usize::from(option)]).expect("id"),
                tag: BallotTag([tag; 16]),
                stamp: Stamp { first, epoch, attempt, hlc },
            },
        )
    }

    fn settle(ballots: &[Ballot]) -> Vec<Ballot> {
        let mut register = Register::default();
        ballots.iter().cloned().for_each(|b| register.absorb(b));
        register.into_sorted().0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn merge_is_commutative_associative_idempotent(
            a in ballots(), mut b in ballots(), mut c in ballots()
        ) {
            (b.voter, c.voter) = (a.voter, a.voter);
            prop_assert_eq!(merge(a.clone(), b.clone()), merge(b.clone(), a.clone()));
            prop_assert_eq!(
                merge(merge(a.clone(), b.clone()), c.clone()),
                merge(a.clone(), merge(b.clone(), c))
            );
            prop_assert_eq!(merge(a.clone(), a.clone()), a);
        }

        #[test]
        fn any_order_any_repetition_any_split_gives_one_result(
            sent in proptest::collection::vec(ballots(), 1..30),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..60),
            split in any::<proptest::sample::Index>(),
        ) {
            // Every ballot at least once, then arbitrary repetitions, delivered through two overlapping workers.
            let mut delivered: Vec<Ballot> = order.iter().map(|i| i.get(&sent).clone()).collect();
            delivered.extend(sent.iter().rev().cloned());
            let (left, right) = delivered.split_at(split.index(delivered.len()));
            let mut merged = settle(left);
            merged.extend(settle(right));
            prop_assert_eq!(settle(&merged), settle(&sent));
        }
    }

    #[test]
    fn each_part_of_the_stamp_decides_in_its_turn() {
        let base = Stamp { first: 5, epoch: 5, attempt: 5, hlc: 5 };
        assert!(Stamp { first: 4, epoch: 0, attempt: 0, hlc: 0 } > base, "the first to redeem wins");
        assert!(Stamp { epoch: 6, attempt: 0, hlc: 0, ..base } > base);
        assert!(Stamp { attempt: 6, hlc: 0, ..base } > base);
        assert!(Stamp { hlc: 6, ..base } > base);
    }

    #[test]
    fn losers_are_kept_aside_and_repeats_are_not_losers() {
        let mut register = Register::default();
        let ballot = |epoch, tag| Ballot {
            poll: PollId::try_from("pets").expect("id"),
            voter: VoterTag([1; 16]),
            option: OptionId::try_from("cats").expect("id"),
            tag: BallotTag([tag; 16]),
            stamp: Stamp { first: 0, epoch, attempt: 0, hlc: 9 },
        };
        for b in [ballot(2, 2), ballot(1, 1), ballot(3, 3), ballot(3, 3)] {
            register.absorb(b);
        }
        let (winners, losers) = register.into_sorted();
        assert_eq!(winners, [ballot(3, 3)]);
        assert_eq!(losers, [ballot(1, 1), ballot(2, 2)]);
    }
}

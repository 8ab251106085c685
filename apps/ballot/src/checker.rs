//! Compares what voters were told with what was counted. Knows nothing of how votes are kept, so the same checker
//! judges other voting systems.
//!
//! For each voter, sends are in order. The counted vote must be the last acknowledged one or a later one that was never
//! acknowledged (it may have got through). A vote is named by its *mark*, which no other vote has. O(n).

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

/// One vote as its voter saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub option: String,
    /// The vote's name, if its sender knows it.
    pub mark: Option<String>,
    pub acknowledged: bool,
}

/// One vote as it was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub voter: String,
    pub option: String,
    pub mark: String,
}

/// The findings; a sound system has zeros in the last five.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub voters: u64,
    pub acknowledged: u64,
    pub unacknowledged: u64,
    pub counted: u64,
    /// Voters with an acknowledged vote of whom nothing is counted.
    pub lost: u64,
    /// Voters whose counted vote is older than one that was acknowledged, or was never sent.
    pub wrong: u64,
    /// Voters counted more than once.
    pub double: u64,
    /// Counted voters who never voted.
    pub foreign: u64,
    /// Options whose tally is not the number of votes counted for them.
    pub tally_off: u64,
    /// A few examples, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    pub fn is_sound(&self) -> bool {
        self.lost + self.wrong + self.double + self.foreign + self.tally_off == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < 10 {
            self.examples.push(text());
        }
    }
}

fn may_count(history: &[Sent], kept: &Kept) -> bool {
    let last = history.iter().rposition(|s| s.acknowledged);
    let from = last.unwrap_or(0);
    let is_older = || history[..from].iter().any(|s| s.mark.as_ref() == Some(&kept.mark));
    history[from..].iter().any(|s| {
        s.option == kept.option
            && match &s.mark {
                // Tries of one vote may share its mark: that an earlier one bears it, too, says nothing.
                Some(mark) => *mark == kept.mark,
                None => !is_older(),
            }
    })
}

/// Judges.
pub fn check(
    histories: &HashMap<String, Vec<Sent>>,
    kept: impl IntoIterator<Item = Kept>,
    tally: &BTreeMap<String, u64>,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut seen: HashMap<String, Kept> = HashMap::new();
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for vote in kept {
        verdict.counted += 1;
        *counted.entry(vote.option.clone()).or_default() += 1;
        if !histories.contains_key(&vote.voter) {
            verdict.foreign += 1;
            verdict.example(|| format!("voter {} is counted and never voted", vote.voter));
        }
        if seen.insert(vote.voter.clone(), vote.clone()).is_some() {
            verdict.double += 1;
            verdict.example(|| format!("voter {} is counted twice", vote.voter));
        }
    }
    for (voter, history) in histories {
        verdict.voters += 1;
        let acknowledged = history.iter().filter(|s| s.acknowledged).count() as u64;
        verdict.acknowledged += acknowledged;
        verdict.unacknowledged += history.len() as u64 - acknowledged;
        match seen.get(voter) {
            None if acknowledged > 0 => {
                verdict.lost += 1;
                verdict.example(|| format!("voter {voter} was acknowledged and is not counted: {history:?}"));
            }
            Some(vote) if !may_count(history, vote) => {
                verdict.wrong += 1;
                verdict.example(|| format!("voter {voter} is counted as {vote:?}, having sent {history:?}"));
            }
            _ => {}
        }
    }
    for option in tally.keys().chain(counted.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (told, found) =
            (tally.get(option).copied().unwrap_or(0), counted.get(option).copied().unwrap_or(0));
        if told != found {
            verdict.tally_off += 1;
            verdict.example(|| format!("option {option} is tallied {told} and counted {found}"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(option: &str, mark: &str, acknowledged: bool) -> Sent {
        Sent { option: option.into(), mark: (!mark.is_empty()).then(|| mark.into()), acknowledged }
    }

    fn judge(history: &[Sent], kept: &[(&str, &str)]) -> Verdict {
        let histories = HashMap::from([("v".to_owned(), history.to_vec())]);
        let kept: Vec<Kept> = kept
            .iter()
            .map(|(o, m)| Kept { voter: "v".into(), option: (*o).into(), mark: (*m).into() })
            .collect();
        let mut tally = BTreeMap::new();
        kept.iter().for_each(|k| *tally.entry(k.option.clone()).or_default() += 1);
        check(&histories, kept, &tally)
    }

    #[test]
    fn the_last_acknowledged_or_a_later_vote_counts() {
        let history = [sent("a", "1", true), sent("b", "2", true), sent("c", "", false)];
        assert!(judge(&history, &[("b", "2")]).is_sound());
        assert!(judge(&history, &[("c", "3")]).is_sound(), "an unacknowledged vote may count");
        assert_eq!(judge(&history, &[("a", "1")]).wrong, 1);
        assert_eq!(judge(&history, &[("b", "9")]).wrong, 1, "never sent");
        assert_eq!(judge(&history, &[("c", "1")]).wrong, 1, "another vote's mark");
        assert_eq!(judge(&history, &[]).lost, 1);
        let repeated = [sent("a", "1", false), sent("a", "1", true)];
        assert!(judge(&repeated, &[("a", "1")]).is_sound(), "two tries of one vote");
        assert_eq!(judge(&history, &[("b", "2"), ("b", "2")]).double, 1);
        assert!(judge(&[sent("a", "", false)], &[]).is_sound(), "nothing was promised");
    }

    #[test]
    fn tallies_and_strangers_are_noticed() {
        let histories = HashMap::new();
        let kept = vec![Kept { voter: "x".into(), option: "a".into(), mark: "1".into() }];
        let verdict = check(&histories, kept, &BTreeMap::from([("a".to_owned(), 2)]));
        assert_eq!((verdict.foreign, verdict.tally_off), (1, 1));
    }
}

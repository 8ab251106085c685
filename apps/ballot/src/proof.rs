//! What is published when a poll is final: the counted ballots by tag, a Merkle tree over them, and a signed statement.
//!
//! A *leaf* is a ballot tag and its option. Leaves are sorted by tag, so one ballot can stand in the list only once in a
//! place anyone can check. Anyone can recount the list, recompute the root and compare it with the signed statement; a
//! voter finds the own tag and needs only a path of hashes, not the list. Hash inputs of leaves and nodes are told apart
//! by a first byte, and a lone node moves up unchanged, so no two lists share a root.
//!
//! What this proves: every ballot whose receipt is held is in the count or visibly is not, and the count is the sum of
//! the list. What it does not prove: that no ballots were added for people who did not vote, that the server recorded
//! what was clicked before it issued a receipt, or who anyone is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{BallotTag, OptionId, PollId};
use crate::keys::{Keys, sha256, verify};

pub type Hash = [u8; 32];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leaf {
    pub tag: BallotTag,
    pub option: OptionId,
}

fn leaf_hash(poll: &PollId, leaf: &Leaf) -> Hash {
    sha256(&[&[0], poll.as_str().as_bytes(), b"/", &leaf.tag.0, leaf.option.as_str().as_bytes()])
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// The levels of the tree, leaves first.
fn levels(poll: &PollId, leaves: &[Leaf]) -> Vec<Vec<Hash>> {
    let mut all = vec![leaves.iter().map(|l| leaf_hash(poll, l)).collect::<Vec<_>>()];
    while let Some(last) = all.last()
        && last.len() > 1
    {
        let next = last
            .chunks(2)
            .map(|pair| if let [left, right] = pair { node_hash(left, right) } else { pair[0] })
            .collect();
        all.push(next);
    }
    all
}

/// The root over leaves sorted by tag. An empty list has a root of its own.
pub fn root(poll: &PollId, leaves: &[Leaf]) -> Hash {
    levels(poll, leaves)
        .last()
        .and_then(|l| l.first().copied())
        .unwrap_or_else(|| sha256(&[&[2], poll.as_str().as_bytes()]))
}

/// The tree, kept to answer many questions about one list.
pub struct Tree {
    poll: PollId,
    leaves: Vec<Leaf>,
    levels: Vec<Vec<Hash>>,
}

/// One step of a path: the other hash, and whether it stands on the right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub right: bool,
    pub hash: String,
}

impl Tree {
    /// Sorts the leaves and builds the tree.
    pub fn new(poll: PollId, mut leaves: Vec<Leaf>) -> Self {
        leaves.sort_unstable();
        let levels = levels(&poll, &leaves);
        Self { poll, leaves, levels }
    }

    pub fn root(&self) -> Hash {
        root_of(&self.poll, &self.levels)
    }

    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// The leaf with this tag and its path to the root.
    pub fn path(&self, tag: BallotTag) -> Option<(&Leaf, Vec<Step>)> {
        let mut index = self.leaves.binary_search_by(|l| l.tag.cmp(&tag)).ok()?;
        let leaf = &self.leaves[index];
        let mut steps = Vec::new();
        for level in &self.levels {
            if let Some(hash) = level.get(index ^ 1) {
                steps.push(Step { right: index % 2 == 0, hash: hex(hash) });
            }
            index /= 2;
        }
        Some((leaf, steps))
    }
}

fn root_of(poll: &PollId, levels: &[Vec<Hash>]) -> Hash {
    levels.last().and_then(|l| l.first().copied()).unwrap_or_else(|| root(poll, &[]))
}

/// The root that a leaf and its path lead to.
pub fn climb(poll: &PollId, leaf: &Leaf, steps: &[Step]) -> Option<Hash> {
    steps.iter().try_fold(leaf_hash(poll, leaf), |hash, step| {
        let other = unhex(&step.hash)?;
        Some(if step.right { node_hash(&hash, &other) } else { node_hash(&other, &hash) })
    })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads hexadecimal digits of exactly `N` bytes.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *slot = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(out)
}

/// The signed result of a final poll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    pub poll: PollId,
    pub question: String,
    pub closed_ms: u64,
    pub published_ms: u64,
    pub voters: u64,
    pub counts: BTreeMap<OptionId, u64>,
    /// The root over the counted ballots.
    pub root: String,
    pub public_key: String,
    pub signature: String,
}

impl Statement {
    /// The text that is signed: one line a fact, in a fixed order.
    fn message(&self) -> String {
        let mut text = format!(
            "ballot result 1\npoll {}\nquestion {:?}\nclosed {}\npublished {}\nvoters {}\nroot {}\n",
            self.poll, self.question, self.closed_ms, self.published_ms, self.voters, self.root
        );
        for (option, count) in &self.counts {
            text.push_str(&format!("option {option} {count}\n"));
        }
        text
    }

    pub fn sign(mut self, keys: &Keys) -> Self {
        self.public_key = hex(&keys.public_key());
        self.signature = hex(&keys.sign(self.message().as_bytes()));
        self
    }

    /// Whether the signature is good under the key the statement names. That this is the right key is for the reader
    /// to know, as with any signature.
    pub fn signature_holds(&self) -> bool {
        let (Some(key), Some(signature)) = (unhex::<32>(&self.public_key), unhex::<64>(&self.signature))
        else {
            return false;
        };
        verify(&key, self.message().as_bytes(), &signature)
    }

    /// Recounts a published list.
    ///
    /// # Errors
    /// Says the first thing that does not agree.
    pub fn recount(&self, leaves: &[Leaf]) -> Result<(), String> {
        if !leaves.windows(2).all(|w| w[0].tag < w[1].tag) {
            return Err("the list is not sorted by tag, or a ballot stands in it twice".to_owned());
        }
        let mut counts: BTreeMap<OptionId, u64> = self.counts.keys().map(|o| (o.clone(), 0)).collect();
        for leaf in leaves {
            match counts.get_mut(&leaf.option) {
                Some(n) => *n += 1,
                None => {
                    return Err(format!(
                        "ballot {} is for {}, which the result does not name",
                        leaf.tag, leaf.option
                    ));
                }
            }
        }
        if counts != self.counts {
            return Err("the list does not add up to the counts".to_owned());
        }
        if self.voters != leaves.len() as u64 {
            return Err(format!("the list has {} ballots, the result {}", leaves.len(), self.voters));
        }
        if hex(&root(&self.poll, leaves)) != self.root {
            return Err("the list does not lead to the published root".to_owned());
        }
        if self.signature_holds() { Ok(()) } else { Err("the signature does not hold".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn poll() -> PollId {
        PollId::try_from("pets").expect("id")
    }

    fn leaves(n: u8) -> Vec<Leaf> {
        (0..n)
            .map(|i| Leaf {
                tag: BallotTag(sha256(&[&[i]])[..16].try_into().expect("sixteen")),
                option: OptionId::try_from(if i % 3 == 0 { "cats" } else { "dogs" }).expect("id"),
            })
            .collect()
    }

    fn statement(tree: &Tree) -> Statement {
        let mut counts = BTreeMap::new();
        for name in ["cats", "dogs"] {
            let option = OptionId::try_from(name).expect("id");
            let n = tree.leaves().iter().filter(|l| l.option == option).count() as u64;
            counts.insert(option, n);
        }
        Statement {
            poll: poll(),
            question: "Cats or dogs?".into(),
            closed_ms: 1,
            published_ms: 2,
            voters: tree.leaves().len() as u64,
            counts,
            root: hex(&tree.root()),
            public_key: String::new(),
            signature: String::new(),
        }
        .sign(&Keys::from_bytes(&[7; 32]).expect("keys"))
    }

    proptest! {
        #[test]
        fn every_leaf_has_a_path_and_no_other_leaf_fits_it(n in 1u8..70, pick in any::<proptest::sample::Index>()) {
            let tree = Tree::new(poll(), leaves(n));
            let leaf = tree.leaves()[pick.index(usize::from(n))].clone();
            let (found, steps) = tree.path(leaf.tag).expect("a path");
            prop_assert_eq!(found, &leaf);
            prop_assert_eq!(climb(&poll(), &leaf, &steps), Some(tree.root()));
            let option = OptionId::try_from("fish").expect("id");
            prop_assert_ne!(climb(&poll(), &Leaf { option, ..leaf }, &steps), Some(tree.root()));
        }

        #[test]
        fn any_change_to_the_list_is_noticed(n in 2u8..40, at in any::<proptest::sample::Index>(), how in 0u8..4) {
            let tree = Tree::new(poll(), leaves(n));
            let statement = statement(&tree);
            prop_assert_eq!(statement.recount(tree.leaves()), Ok(()));
            let mut list = tree.leaves().to_vec();
            let at = at.index(list.len());
            match how {
                0 => { list.remove(at); }
                1 => list[at].tag.0[15] ^= 1,
                2 => list[at].option = OptionId::try_from(
                    if list[at].option.as_str() == "cats" { "dogs" } else { "cats" }).expect("id"),
                _ => { let copy = list[at].clone(); list.insert(at, copy); }
            }
            prop_assert!(statement.recount(&list).is_err());
        }
    }

    #[test]
    fn a_changed_statement_does_not_hold() {
        let tree = Tree::new(poll(), leaves(5));
        let good = statement(&tree);
        assert!(good.signature_holds());
        assert!(!Statement { voters: 6, ..good.clone() }.signature_holds());
        assert!(!Statement { question: "Dogs?".into(), ..good }.signature_holds());
        assert_ne!(root(&poll(), &[]), root(&PollId::try_from("cars").expect("id"), &[]));
    }
}

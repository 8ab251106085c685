//! A model of the database: the same contract as the real one, in memory, with the delays and failures of a network, and
//! with faults that can be planted to see whether the simulation notices.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ballot::ballot::Ballot;
use ballot::checker::Kept;
use ballot::ids::{LogId, PollId, Seq, VoterTag};
use ballot::polls::Poll;
use ballot::spool::BoxFuture;
use ballot::store::{LogBatch, Sighting, StoreError, Tally};

use crate::dice::Dice;

/// What is wrong with the model, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// The position moves in a transaction of its own, before the votes.
    WatermarkOutside,
    /// The last to arrive counts.
    ArrivalOrder,
    /// Time stamps are compared, but a change keeps the first one (the 2016 design).
    StampNotStored,
    /// Only the front's clock orders votes.
    ClockOnly,
}

#[derive(Default)]
struct State {
    votes: HashMap<(PollId, VoterTag), Ballot>,
    tally: BTreeMap<String, u64>,
    positions: HashMap<LogId, Seq>,
    seen_ends: HashMap<LogId, Seq>,
    claims: HashMap<LogId, (String, u64)>,
    polls: Vec<Poll>,
}

pub(crate) struct Model {
    flaw: Flaw,
    state: Mutex<State>,
    dice: Mutex<Dice>,
}

impl Model {
    pub(crate) fn new(flaw: Flaw, polls: Vec<Poll>, seed: u64) -> Arc<Self> {
        let state = State { polls, ..State::default() };
        Arc::new(Self { flaw, state: Mutex::new(state), dice: Mutex::new(Dice::new(seed)) })
    }

    fn roll(&self, n: u64) -> u64 {
        self.dice.lock().expect("dice").roll(n)
    }

    /// The way to the database: some calls fail, before or after they took effect.
    async fn call<R>(&self, act: impl FnOnce(&mut State) -> R) -> Result<R, StoreError> {
        let lost = || StoreError::Refused("the connection broke".to_owned());
        tokio::time::sleep(Duration::from_micros(200 + self.roll(8_000))).await;
        let fate = self.roll(100);
        if fate < 3 {
            return Err(lost());
        }
        let result = act(&mut self.state.lock().expect("state"));
        tokio::time::sleep(Duration::from_micros(200 + self.roll(8_000))).await;
        if fate < 6 { Err(lost()) } else { Ok(result) }
    }

    fn wins(&self, new: &Ballot, old: &Ballot) -> bool {
        match self.flaw {
            Flaw::ArrivalOrder => true,
            Flaw::StampNotStored | Flaw::ClockOnly => new.stamp.hlc > old.stamp.hlc,
            Flaw::None | Flaw::WatermarkOutside => new.beats(old),
        }
    }

    fn merge(&self, state: &mut State, ballots: impl IntoIterator<Item = Ballot>) {
        for mut ballot in ballots {
            let key = (ballot.poll.clone(), ballot.voter);
            if let Some(old) = state.votes.get(&key) {
                if !self.wins(&ballot, old) {
                    continue;
                }
                *state.tally.entry(old.option.to_string()).or_default() -= 1;
                if self.flaw == Flaw::StampNotStored {
                    ballot.stamp = old.stamp;
                }
            }
            *state.tally.entry(ballot.option.to_string()).or_default() += 1;
            state.votes.insert(key, ballot);
        }
    }

    /// The part of a batch that the position has not passed, if it follows the position.
    fn new_part(state: &State, batch: &LogBatch) -> Option<Vec<Ballot>> {
        let position = state.positions.get(&batch.log).copied().unwrap_or(0);
        if position < batch.from || position >= batch.upto {
            return None;
        }
        let skip = usize::try_from(position - batch.from).expect("small");
        Some(batch.ballots[skip..].to_vec())
    }

    /// Whether everything that workers have seen is merged.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.state.lock().expect("state");
        state.seen_ends.iter().all(|(log, end)| state.positions.get(log).is_some_and(|p| p >= end))
    }

    pub(crate) fn position(&self) -> Seq {
        self.state.lock().expect("state").positions.values().sum()
    }

    pub(crate) fn kept(&self) -> (Vec<Kept>, BTreeMap<String, u64>) {
        let state = self.state.lock().expect("state");
        let kept = state.votes.values().map(|b| Kept {
            voter: b.voter.to_string(),
            option: b.option.to_string(),
            mark: b.tag.to_string(),
        });
        let tally = state.tally.iter().filter(|(_, n)| **n > 0).map(|(o, n)| (o.clone(), *n)).collect();
        (kept.collect(), tally)
    }
}

/// What a worker holds: the model as seen from its host.
pub(crate) struct Connection(pub(crate) Arc<Model>);

impl Tally for Connection {
    fn enrol<'a>(&'a self, log: LogId, _: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.0.call(move |state| {
            state.positions.entry(log).or_default();
        }))
    }

    fn position(&self, log: LogId) -> BoxFuture<'_, Result<Seq, StoreError>> {
        Box::pin(self.0.call(move |state| state.positions.get(&log).copied().unwrap_or(0)))
    }

    fn claim<'a>(
        &'a self,
        log: LogId,
        worker: &'a str,
        now: u64,
        span: u64,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.0.call(move |state| {
            let (by, until) = state.claims.entry(log).or_default();
            let mine = by == worker || *until < now || *until > now + span + 60_000;
            if mine {
                (*by, *until) = (worker.to_owned(), now + span);
            }
            mine
        }))
    }

    fn commit(&self, batch: LogBatch) -> BoxFuture<'_, Result<Seq, StoreError>> {
        let model = Arc::clone(&self.0);
        Box::pin(async move {
            if model.flaw == Flaw::WatermarkOutside {
                let part = model
                    .call(|state| {
                        let part = Model::new_part(state, &batch);
                        if part.is_some() {
                            state.positions.insert(batch.log, batch.upto);
                        }
                        part
                    })
                    .await?;
                return model
                    .call(|state| {
                        model.merge(state, part.unwrap_or_default());
                        state.positions.get(&batch.log).copied().unwrap_or(0)
                    })
                    .await;
            }
            model
                .call(|state| {
                    if let Some(part) = Model::new_part(state, &batch) {
                        model.merge(state, part);
                        state.positions.insert(batch.log, batch.upto);
                    }
                    state.positions.get(&batch.log).copied().unwrap_or(0)
                })
                .await
        })
    }

    fn sighting(&self, sighting: Sighting) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.0.call(move |state| {
            let end = state.seen_ends.entry(sighting.log).or_default();
            *end = sighting.end.max(*end);
        }))
    }

    fn polls(&self) -> BoxFuture<'_, Result<Vec<Poll>, StoreError>> {
        Box::pin(self.0.call(|state| state.polls.clone()))
    }
}

//! The Swarm's managers: whichever answers.
//!
//! A manager that lost its peers answers with an error at once, one that waits for an election does not answer: each call has
//! a short limit, and the next manager is asked. A call that was carried out without its answer arriving is therefore made
//! again: only calls that may be made twice belong here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::{Engine, Error, Event, Filters};

/// For one answer of one manager.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Between two rounds of asking all of them.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two attempts to subscribe to events: the first, and the longest.
const SUBSCRIBE_AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];

/// Engines of a Swarm's managers, one of which is asked. Clones remember together which one answered last.
#[derive(Clone)]
pub struct Managers {
    engines: Arc<[Engine]>,
    current: Arc<AtomicUsize>,
}

impl Managers {
    pub fn new(engines: Vec<Engine>) -> Self {
        Self { engines: engines.into(), current: Arc::default() }
    }

    /// Asks each in turn until one answers for the Swarm, the one that answered last first.
    ///
    /// # Errors
    /// The answer's own, or why none can be asked ([`Error::is_away`]).
    pub async fn ask<T, F>(&self, call: impl Fn(Engine) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let first = self.current.load(Ordering::Relaxed);
        let mut failed = None;
        for step in 0..self.engines.len() {
            let index = (first + step) % self.engines.len();
            let engine = self.engines[index].clone();
            let address = engine.address().to_string();
            match timeout(ANSWER_WITHIN, call(engine)).await {
                Ok(Err(error)) if error.is_away() => failed = Some(error),
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return answer;
                }
                Err(_) => {
                    let call = "a call about the Swarm".to_owned();
                    failed = Some(Error::Late { address, call, after: ANSWER_WITHIN });
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::Unreachable {
            address: "(none)".to_owned(),
            reason: std::io::Error::new(std::io::ErrorKind::InvalidInput, "no manager is configured"),
        }))
    }

    /// The same, waiting out an election or a restart, as long as `wait` says so.
    ///
    /// # Errors
    /// As [`Managers::ask`].
    pub async fn ask_patiently<T, F>(
        &self,
        within: Duration,
        wait: impl Fn() -> bool,
        call: impl Fn(Engine) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let until = Instant::now() + within;
        loop {
            match self.ask(&call).await {
                Err(error) if error.is_away() && Instant::now() < until && wait() => {
                    sleep(AGAIN).await;
                }
                answer => return answer,
            }
        }
    }

    /// Reads a manager's events, another one's when it ends them, for as long as `told` answers true. It is told `None` at
    /// each beginning: what happened before is to be looked for then, what happens from there on is told.
    pub async fn follow(&self, filters: Filters<'_>, mut told: impl FnMut(Option<&Event>) -> bool) {
        let (mut pause, mut away) = (SUBSCRIBE_AGAIN[0], false);
        let mut turn = self.current.load(Ordering::Relaxed);
        while let Some(engine) = self.engines.get(turn % self.engines.len().max(1)) {
            match engine.events(filters, None).await {
                Ok(mut events) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("a manager of the Swarm sends events again");
                    }
                    pause = SUBSCRIBE_AGAIN[0];
                    if !told(None) {
                        return;
                    }
                    while let Some(Ok(event)) = events.next().await {
                        if !told(Some(&event)) {
                            return;
                        }
                    }
                    tracing::warn!("a manager of the Swarm ended its stream of events; subscribing anew");
                }
                // Told once: they may be away for long.
                Err(error) if !std::mem::replace(&mut away, true) => {
                    tracing::warn!(%error, "no events of the Swarm can be read; trying until they can");
                }
                Err(_) => {}
            }
            turn = turn.wrapping_add(1);
            sleep(pause).await;
            pause = (pause * 2).min(SUBSCRIBE_AGAIN[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;
    use std::sync::Mutex;

    fn refused(status: u16, message: &str) -> Error {
        Error::Refused { call: "GET /tasks".to_owned(), status, message: message.to_owned() }
    }

    #[test]
    fn a_manager_that_cannot_speak_for_the_swarm_is_told_from_a_refusal() {
        assert!(refused(500, "rpc error: code = Unknown desc = The swarm does not have a leader.").is_away());
        assert!(refused(503, "This node is not a swarm manager.").is_away());
        assert!(!refused(409, "name conflicts with an existing object").is_away());
        assert!(!refused(400, "invalid bind mount source").is_away());
    }

    #[tokio::test]
    async fn the_next_manager_is_asked_and_remembered() {
        let engines = ["/a.sock", "/b.sock"].map(|path| Engine::new(Address::unix(path))).to_vec();
        let managers = Managers::new(engines);
        let asked = Mutex::new(Vec::new());
        let call = |engine: Engine| {
            let address = engine.address().to_string();
            asked.lock().unwrap().push(address.clone());
            std::future::ready(if address.contains("/b.sock") {
                Ok(address)
            } else {
                Err(refused(503, "This node is not a swarm manager."))
            })
        };
        assert!(managers.ask(call).await.unwrap().contains("/b.sock"));
        assert!(managers.ask(call).await.unwrap().contains("/b.sock"));
        let order: Vec<char> =
            asked.lock().unwrap().iter().map(|a| if a.contains("/a.sock") { 'a' } else { 'b' }).collect();
        assert_eq!(order, ['a', 'b', 'b']);

        let conflict = |_: Engine| std::future::ready(Err::<(), _>(refused(409, "exists")));
        assert!(managers.ask(conflict).await.unwrap_err().is_conflict(), "an answer, not an absence");
        let away = |_: Engine| std::future::ready(Err::<(), _>(refused(503, "no")));
        let told = Mutex::new(0);
        let wait = || {
            *told.lock().unwrap() += 1;
            *told.lock().unwrap() < 2
        };
        assert!(managers.ask_patiently(Duration::from_secs(60), wait, away).await.is_err());
        assert_eq!(*told.lock().unwrap(), 2, "asked again once, then given up");
    }
}

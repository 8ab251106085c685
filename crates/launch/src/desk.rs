//! The front desk: the pool behind one short lock, and what binds its decisions to waiting tasks and open leases.
//!
//! Whoever steps the pool settles at once what concerns people: grants, refusals, seats taken back. What concerns
//! instances is left for the driver. The lock is never held over an await, a channel send or a lease's end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use skep_model::{AppId, AppSpec, BackendKind, InstanceId, InstanceName, SeatId};
use tokio::sync::{Notify, oneshot, watch};

use crate::backend::{Launched, Stage};
use crate::driver::Clock;
use crate::handle::{
    Claim, InstanceView, LaunchFailure, LaunchStatus, Lease, Outcome, Refusal, Upstream, Waiting,
};
use crate::pool::{Action, Answer, GrantId, Granted, Input, Moment, Nonces, Pool, Ticket};
use crate::visits::{VisitSums, Visits};

/// What all leases of one granted seat have in common.
pub(crate) struct HeldSeat {
    pub seat: SeatId,
    grant: GrantId,
    pub upstream: Arc<Upstream>,
    /// When the visitor last did something.
    last: AtomicU64,
    taken_back: AtomicBool,
    notice: Notify,
}

impl HeldSeat {
    pub(crate) fn touch(&self, now: Moment) {
        self.last.store(now.0, Ordering::Relaxed);
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.taken_back.load(Ordering::Acquire)
    }

    pub(crate) async fn revoked(&self) {
        let notice = self.notice.notified();
        tokio::pin!(notice);
        notice.as_mut().enable();
        if !self.is_revoked() {
            notice.await;
        }
    }

    fn revoke(&self) {
        self.taken_back.store(true, Ordering::Release);
        self.notice.notify_waiters();
    }
}

/// What is known of an instance that can be dialled.
#[derive(Clone)]
pub(crate) struct Live {
    pub upstream: Arc<Upstream>,
    pub spec: Arc<AppSpec>,
    pub kind: BackendKind,
    pub node: String,
    pub pid: Option<u32>,
}

impl Live {
    /// `spec`: the variant's.
    pub(crate) fn new(
        id: &InstanceId,
        (spec, name): (Arc<AppSpec>, Option<InstanceName>),
        kind: BackendKind,
        launched: Launched,
    ) -> Self {
        let upstream = Upstream {
            app: spec.id.clone(),
            name,
            instance: id.clone(),
            prefix: spec.prefix,
            base_path: spec.mount.base_path().to_owned(),
            dial: launched.dial.clone(),
        };
        let Launched { node, pid, .. } = launched;
        Self { upstream: Arc::new(upstream), spec, kind, node, pid }
    }
}

/// What the driver finds to do.
#[derive(Default)]
pub(crate) struct Work {
    pub actions: Vec<Action>,
    /// Apps whose gauges are out of date.
    pub dirty: BTreeSet<AppId>,
    /// How long seats were held that are free again.
    pub used: BTreeMap<AppId, Duration>,
}

struct State {
    pool: Pool,
    random: Random,
    waiters: HashMap<Ticket, oneshot::Sender<Result<Lease, Refusal>>>,
    seats: HashMap<GrantId, Arc<HeldSeat>>,
    live: HashMap<InstanceId, Live>,
    /// Found alive; how to forward to it is known once its app is.
    adopted: HashMap<InstanceId, (BackendKind, Launched)>,
    changes: HashMap<AppId, Arc<Notify>>,
    /// Reused by every step.
    out: Vec<Action>,
    work: Work,
    visits: VisitSums,
    /// The driver sleeps until it is woken, for nothing was alive.
    driver_asleep: bool,
}

pub(crate) struct Desk {
    state: Mutex<State>,
    pub clock: Clock,
    /// The clock as of the last step or tick, for traffic marks.
    coarse: AtomicU64,
    /// Wakes the driver.
    pub wake: Notify,
    /// Something is gone for good.
    forgotten: Notify,
    ended: AtomicBool,
    /// The driver has done its last.
    finished: watch::Sender<bool>,
}

/// Answers on their way out of the lock.
type Answers = Vec<(oneshot::Sender<Result<Lease, Refusal>>, Result<Lease, Refusal>)>;

impl Desk {
    pub(crate) fn new(pool: Pool, clock: Clock) -> Arc<Self> {
        let state = State {
            pool,
            random: Random::new(),
            waiters: HashMap::new(),
            seats: HashMap::new(),
            live: HashMap::new(),
            adopted: HashMap::new(),
            changes: HashMap::new(),
            out: Vec::new(),
            visits: VisitSums::default(),
            work: Work::default(),
            driver_asleep: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            coarse: AtomicU64::new(clock.now().0),
            clock,
            wake: Notify::new(),
            forgotten: Notify::new(),
            ended: AtomicBool::new(false),
            finished: watch::Sender::new(false),
        })
    }

    pub(crate) fn coarse_now(&self) -> Moment {
        Moment(self.coarse.load(Ordering::Relaxed))
    }

    pub(crate) fn step(self: &Arc<Self>, input: Input) {
        self.act(|state, now, out| state.pool.step(now, input, &mut state.random, out));
    }

    pub(crate) fn claim(self: &Arc<Self>, claim: &Claim) -> Outcome {
        self.act(|state, now, out| match state.pool.claim(now, claim, &mut state.random, out) {
            Answer::Refused(refusal) => Outcome::Refused(refusal),
            Answer::Waiting { ticket, seat } => {
                let (sender, answer) = oneshot::channel();
                state.waiters.insert(ticket, sender);
                Outcome::Waiting(Waiting {
                    desk: self.clone(),
                    app: claim.app.clone(),
                    seat,
                    ticket,
                    claimed: claim.key.clone(),
                    answer,
                    answered: false,
                })
            }
            Answer::Granted(granted) => match self.lease(state, now, &granted) {
                Some(mut lease) => {
                    let same = claim.key.as_ref().is_some_and(|key| {
                        key.seat == granted.seat && key.instance.as_ref() == Some(&granted.instance)
                    });
                    lease.key_is_new = !same;
                    Outcome::Granted(lease)
                }
                None => {
                    state.give_back(now, granted, out);
                    Outcome::Refused(Refusal::NoRoom)
                }
            },
        })
    }

    pub(crate) fn open_foreign(
        self: &Arc<Self>,
        app: &AppId,
        seat: SeatId,
        instance: &InstanceId,
    ) -> Option<Lease> {
        self.act(|state, now, out| {
            let granted = state.pool.claim_foreign(now, app, seat, instance, &mut state.random, out)?;
            let mut lease = self.lease(state, now, &granted)?;
            lease.foreign = true;
            Some(lease)
        })
    }

    pub(crate) fn abandon(self: &Arc<Self>, app: &AppId, ticket: Ticket) {
        self.act(|state, now, out| {
            // Answered already: the lease comes to its end in the channel.
            if state.waiters.remove(&ticket).is_some() {
                let input = Input::Abandon { app: app.clone(), ticket };
                state.pool.step(now, input, &mut state.random, out);
            }
        });
    }

    pub(crate) fn release(self: &Arc<Self>, held: &HeldSeat, foreign: bool) {
        let app = held.upstream.app.clone();
        self.step(Input::Release { app, seat: held.seat, grant: held.grant, foreign });
    }

    /// Looks without changing anything.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&Pool) -> R) -> R {
        f(&self.state.lock().pool)
    }

    pub(crate) fn take_visits(&self) -> Vec<Visits> {
        self.state.lock().visits.take()
    }

    pub(crate) fn status(&self, app: &AppId, seat: Option<SeatId>) -> LaunchStatus {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let State { pool, random, .. } = &mut *state;
        match pool.status(now, app, seat, random) {
            Some(facts) => LaunchStatus {
                stage: facts.stage,
                detail: facts.detail,
                elapsed_ms: facts.elapsed_ms,
                usual_ms: facts.usual_ms,
                place: facts.place,
                waiting: facts.waiting,
                failure: facts.failure.map(|failure| LaunchFailure {
                    code: failure.code,
                    summary: failure.summary,
                    last_lines: failure.last_lines,
                    retry_after_ms: failure.retry_after_ms,
                }),
                instance: facts.instance,
                before: facts.before,
            },
            None => LaunchStatus {
                stage: Stage::Queue,
                detail: String::new(),
                elapsed_ms: 0,
                usual_ms: None,
                place: None,
                waiting: 0,
                failure: Some(LaunchFailure {
                    code: Refusal::UnknownApp.code(),
                    summary: Refusal::UnknownApp.to_string(),
                    last_lines: Vec::new(),
                    retry_after_ms: 0,
                }),
                instance: None,
                before: None,
            },
        }
    }

    /// What to wait on for changes of an app; `None` when there is no such app.
    pub(crate) fn change_of(&self, app: &AppId) -> Option<Arc<Notify>> {
        let mut state = self.state.lock();
        state.pool.spec(app)?;
        Some(state.changes.entry(app.clone()).or_default().clone())
    }

    /// Nobody can follow an app that is gone.
    pub(crate) fn forget_changes(&self) {
        let mut state = self.state.lock();
        let State { pool, changes, .. } = &mut *state;
        changes.retain(|app, _| pool.spec(app).is_some());
    }

    pub(crate) fn instances(&self) -> Vec<InstanceView> {
        let mut state = self.state.lock();
        let facts = state.pool.instances();
        let view = |facts: crate::pool::InstanceFacts| {
            let live = state.live(&facts.id).cloned();
            let live = live.as_ref();
            let planned = state.pool.spec(facts.id.app()).map(|spec| spec.backend);
            let app = facts.id.app().clone();
            InstanceView {
                backend: live.map(|live| live.kind).or(planned).unwrap_or(BackendKind::Process),
                node: live.map_or_else(|| "local".to_owned(), |live| live.node.clone()),
                pid: live.and_then(|live| live.pid),
                phase: facts.phase,
                revision: facts.revision,
                seats: facts.seats,
                taken: facts.taken,
                open: facts.open,
                owner: facts.owner,
                variant: facts.variant,
                idle_since_ms: facts.idle_since.map(|since| self.clock.wall(since)),
                started_at_ms: self.clock.wall(facts.started),
                ready_ms: facts.ready_ms,
                address: live.map_or_else(String::new, |live| live.upstream.dial.describe()),
                id: facts.id,
                app,
            }
        };
        facts.into_iter().map(view).collect()
    }

    /// Resolves when none of these instances is left, or the launcher has ended. A backend that cannot stop an instance
    /// goes on trying for longer than anybody is kept waiting here.
    pub(crate) async fn gone(&self, ids: &[InstanceId]) {
        const AT_MOST: Duration = Duration::from_secs(120);
        if tokio::time::timeout(AT_MOST, self.all_gone(ids)).await.is_err() {
            tracing::error!(?ids, "not every instance could be stopped within {AT_MOST:?}");
        }
    }

    /// Resolves when the pool knows none of them any more.
    pub(crate) async fn all_gone(&self, ids: &[InstanceId]) {
        loop {
            let forgotten = self.forgotten.notified();
            let left = self.read(|pool| pool.knows_any(ids));
            if !left || self.has_ended() {
                return;
            }
            // The limit only guards against a notice lost between looking and waiting.
            let _late = tokio::time::timeout(Duration::from_millis(250), forgotten).await;
        }
    }

    /// An instance can be dialled from now on.
    pub(crate) fn introduce(&self, id: &InstanceId, live: Live) {
        self.state.lock().live.insert(id.clone(), live);
    }

    pub(crate) fn introduce_adopted(&self, id: &InstanceId, kind: BackendKind, launched: Launched) {
        self.state.lock().adopted.insert(id.clone(), (kind, launched));
    }

    pub(crate) fn live(&self, id: &InstanceId) -> Option<Live> {
        self.state.lock().live(id).cloned()
    }

    /// The kind of backend an instance runs on.
    pub(crate) fn kind_of(&self, id: &InstanceId) -> Option<BackendKind> {
        let state = self.state.lock();
        let live = state.live.get(id).map(|live| live.kind);
        let adopted = || state.adopted.get(id).map(|(kind, _)| *kind);
        live.or_else(adopted).or_else(|| state.pool.spec(id.app()).map(|spec| spec.backend))
    }

    /// An instance that was stopped although the pool never knew it.
    pub(crate) fn forget_unknown(&self, id: &InstanceId) {
        let mut state = self.state.lock();
        if !state.pool.knows_any(std::slice::from_ref(id)) {
            state.live.remove(id);
            state.adopted.remove(id);
        }
    }

    /// What has to be done, taken over by the driver, and how long until the next tick.
    pub(crate) fn take_work(&self) -> (Work, Option<Duration>) {
        let mut state = self.state.lock();
        let work = std::mem::take(&mut state.work);
        let now = self.clock.now();
        let next = state.pool.next_tick().map(|at| at.since(now));
        state.driver_asleep = next.is_none();
        (work, next)
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake.notify_one();
        self.forgotten.notify_waiters();
    }

    /// Called by the driver at its end.
    pub(crate) fn finish(&self) {
        self.finished.send_replace(true);
    }

    pub(crate) async fn finished(&self) {
        const AT_MOST: Duration = Duration::from_secs(3);
        let mut finished = self.finished.subscribe();
        let _late = tokio::time::timeout(AT_MOST, finished.wait_for(|finished| *finished)).await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Steps the pool under the lock, settles what concerns people, leaves the rest to the driver.
    fn act<R>(self: &Arc<Self>, f: impl FnOnce(&mut State, Moment, &mut Vec<Action>) -> R) -> R {
        let now = self.clock.now();
        self.coarse.fetch_max(now.0, Ordering::Relaxed);
        let mut answers = Answers::new();
        let result = {
            let mut state = self.state.lock();
            let mut out = std::mem::take(&mut state.out);
            let result = f(&mut state, now, &mut out);
            self.settle(&mut state, now, &mut out, &mut answers);
            out.clear();
            state.out = out;
            result
        };
        for (sender, answer) in answers {
            // Nobody listens any more: a lease that comes back ends here, outside the lock.
            drop(sender.send(answer));
        }
        result
    }

    fn settle(
        self: &Arc<Self>,
        state: &mut State,
        now: Moment,
        out: &mut Vec<Action>,
        answers: &mut Answers,
    ) {
        let mut wake = false;
        let mut batch = Vec::new();
        // Settling may step the pool again, which asks for more.
        while !out.is_empty() {
            std::mem::swap(&mut batch, out);
            for action in batch.drain(..) {
                wake |= self.settle_one(state, now, action, out, answers);
            }
        }
        if out.capacity() < batch.capacity() {
            *out = batch;
        }
        if wake || state.driver_asleep && state.pool.next_tick().is_some() {
            state.driver_asleep = false;
            self.wake.notify_one();
        }
    }

    /// Answers whether the driver has something to do.
    fn settle_one(
        self: &Arc<Self>,
        state: &mut State,
        now: Moment,
        action: Action,
        out: &mut Vec<Action>,
        answers: &mut Answers,
    ) -> bool {
        match action {
            Action::Grant { ticket, granted } => match state.waiters.remove(&ticket) {
                Some(sender) => match self.lease(state, now, &granted) {
                    Some(lease) => answers.push((sender, Ok(lease))),
                    None => {
                        state.give_back(now, granted, out);
                        answers.push((sender, Err(Refusal::NoRoom)));
                    }
                },
                None => state.give_back(now, granted, out),
            },
            Action::Refuse { ticket, refusal } => {
                if let Some(sender) = state.waiters.remove(&ticket) {
                    answers.push((sender, Err(refusal)));
                }
            }
            Action::Revoke { grant } => {
                if let Some(held) = state.seats.get(&grant) {
                    held.revoke();
                }
            }
            Action::Free { grant, used, app, user, lasting } => {
                state.seats.remove(&grant);
                if lasting {
                    state.visits.add(app.clone(), user, used);
                }
                *state.work.used.entry(app).or_default() += used;
            }
            Action::AskActivity { app, seat, grant } => {
                let last = state.seats.get(&grant).map_or(0, |held| held.last.load(Ordering::Relaxed));
                let input = Input::Activity { app, seat, grant, last: Moment(last) };
                state.pool.step(now, input, &mut state.random, out);
            }
            Action::Changed { app } => {
                if let Some(change) = state.changes.get(&app) {
                    change.notify_waiters();
                }
                return state.work.dirty.insert(app);
            }
            Action::Forget { id } => {
                state.live.remove(&id);
                state.adopted.remove(&id);
                self.forgotten.notify_waiters();
                state.work.actions.push(Action::Forget { id });
                return true;
            }
            other => {
                state.work.actions.push(other);
                return true;
            }
        }
        false
    }

    /// A lease on a granted seat. `None` when its instance cannot be dialled, which would be a mistake of the driver.
    fn lease(self: &Arc<Self>, state: &mut State, now: Moment, granted: &Granted) -> Option<Lease> {
        let held = match state.seats.get(&granted.grant) {
            Some(held) => held.clone(),
            None => {
                let live = state.live(&granted.instance)?;
                let held = Arc::new(HeldSeat {
                    seat: granted.seat,
                    grant: granted.grant,
                    upstream: live.upstream.clone(),
                    last: AtomicU64::new(0),
                    taken_back: AtomicBool::new(false),
                    notice: Notify::new(),
                });
                state.seats.insert(granted.grant, held.clone());
                held
            }
        };
        held.touch(now);
        Some(Lease { desk: self.clone(), held, key_is_new: false, foreign: false })
    }
}

impl State {
    fn live(&mut self, id: &InstanceId) -> Option<&Live> {
        if !self.live.contains_key(id) {
            let made_from = self.pool.made_from(id)?;
            let (kind, launched) = self.adopted.remove(id)?;
            self.live.insert(id.clone(), Live::new(id, made_from, kind, launched));
        }
        self.live.get(id)
    }

    /// A grant nobody can use.
    fn give_back(&mut self, now: Moment, granted: Granted, out: &mut Vec<Action>) {
        let Granted { grant, seat, instance } = granted;
        tracing::error!(%instance, "a seat was granted on an instance that cannot be dialled");
        let input = Input::Release { app: instance.app().clone(), seat, grant, foreign: false };
        self.pool.step(now, input, &mut self.random, out);
    }
}

/// Random numbers from the operating system, drawn in batches.
struct Random {
    drawn: Vec<u64>,
    fallback: RandomState,
    count: u64,
}

impl Random {
    fn new() -> Self {
        Self { drawn: Vec::new(), fallback: RandomState::new(), count: 0 }
    }
}

impl Nonces for Random {
    fn next(&mut self) -> u64 {
        if let Some(number) = self.drawn.pop() {
            return number;
        }
        let mut bytes = [0_u8; 512];
        if getrandom::fill(&mut bytes).is_ok() {
            let (words, _) = bytes.as_chunks::<8>();
            self.drawn.extend(words.iter().map(|word| u64::from_ne_bytes(*word)));
        }
        self.drawn.pop().unwrap_or_else(|| {
            // Without the system's source, ids are unique but guessable; they only travel sealed.
            self.count += 1;
            let mut hasher = self.fallback.build_hasher();
            hasher.write_u64(self.count);
            hasher.finish()
        })
    }
}

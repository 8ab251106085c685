//! What the world is made of, drawn from a seed.

use std::sync::Arc;
use std::time::Duration;

use skep_launch::pool::{Found, Moment, Nonces, PoolConfig};
use skep_launch::{EndedBy, ExitReport, SeatKey};
use skep_model::{
    AppId, AppSpec, Choice, InstanceId, InstanceName, Parameter, ParameterValue, Parameters, Principal,
    Revision, SeatId, Variant,
};

/// Between two ticks, milliseconds.
pub(super) const TICK: u64 = 200;

/// A small, fast source of numbers (SplitMix64).
#[derive(Clone)]
pub(super) struct Rng(pub u64);

impl Nonces for Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Rng {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(super) fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn small(&mut self, from: u64, to: u64) -> u32 {
        u32::try_from(self.range(from, to)).unwrap()
    }

    pub(super) fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.range(from, to))
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(usize::try_from(self.below(of.len() as u64)).unwrap())
    }
}

#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    pub steps: u64,
    pub claims: u64,
    pub granted_at_once: u64,
    pub granted_later: u64,
    pub refused: u64,
    pub launches: u64,
    pub failures: u64,
    pub stops: u64,
    pub revoked: u64,
    pub crashes: u64,
    pub lost: u64,
    pub wedged: u64,
    pub adopted: u64,
    pub joined: u64,
    pub chosen: u64,
    pub handed_over: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.claims += other.claims;
        self.granted_at_once += other.granted_at_once;
        self.granted_later += other.granted_later;
        self.refused += other.refused;
        self.launches += other.launches;
        self.failures += other.failures;
        self.stops += other.stops;
        self.revoked += other.revoked;
        self.crashes += other.crashes;
        self.lost += other.lost;
        self.wedged += other.wedged;
        self.adopted += other.adopted;
        self.joined += other.joined;
        self.chosen += other.chosen;
        self.handed_over += other.handed_over;
    }

    pub(super) fn kinds(&self) -> [(&'static str, u64); 13] {
        [
            ("claims", self.claims),
            ("grants at once", self.granted_at_once),
            ("grants after a wait", self.granted_later),
            ("refusals", self.refused),
            ("launches", self.launches),
            ("failures", self.failures),
            ("stops", self.stops),
            ("seats taken back", self.revoked),
            ("crashes", self.crashes),
            ("instances lost", self.lost),
            ("wedged instances", self.wedged),
            ("guests let in", self.joined),
            ("seats on what was chosen", self.chosen),
        ]
    }
}

pub(super) fn exit_report(ended_by: EndedBy) -> ExitReport {
    ExitReport {
        reason: "exited with status 1".into(),
        code: Some(1),
        signal: None,
        out_of_memory: false,
        last_lines: Vec::new(),
        ended_by,
    }
}

pub(super) fn invent_principal(rng: &mut Rng) -> Principal {
    match rng.below(4) {
        0 => Principal::Anonymous,
        n => Principal::User { name: format!("user{n}").parse().unwrap(), groups: Vec::new() },
    }
}

/// What an instance is called, if it has a name at all.
pub(super) fn invent_name(rng: &mut Rng) -> Option<InstanceName> {
    match rng.below(5) {
        0 => "north".parse().ok(),
        1 => "south".parse().ok(),
        _ => None,
    }
}

/// Some of three values; what is offered changes with what is published.
fn invent_parameters(rng: &mut Rng) -> Parameters {
    let some = rng.range(1, 7);
    let values = ["1", "2", "3"].into_iter().enumerate().filter(|(at, _)| some >> at & 1 == 1);
    let value = |value: &str| ParameterValue { value: value.to_owned(), title: value.to_owned() };
    let values = values.map(|(_, text)| value(text)).collect();
    let (name, title) = ("v".to_owned(), "Version".to_owned());
    let list = vec![Parameter { name, title, description: String::new(), values, default: None }];
    Parameters { list, sets: Vec::new() }
}

pub(super) fn invent_choice(rng: &mut Rng) -> Choice {
    Choice::from([("v".to_owned(), rng.range(1, 3).to_string())])
}

pub(super) fn invent_config(rng: &mut Rng) -> PoolConfig {
    PoolConfig {
        max_instances: rng.small(2, 10),
        max_starts: rng.small(1, 4),
        max_starts_per_app: rng.small(1, 3),
        max_warm_starts: rng.small(1, 2),
        warm_spacing: rng.ms(0, 500),
        environment_timeout: Duration::from_secs(10),
        reservation: Duration::from_secs(3),
        page_patience: Duration::from_secs(3),
        tickets_per_place: 4,
        drain_deadline: Duration::from_secs(15),
        wedged_deadline: Duration::from_secs(6),
        command_deadline: Duration::from_secs(2),
        stop_grace: Duration::from_secs(1),
        probe_every: Duration::from_secs(1),
        probe_misses: 2,
        backoff_base: Duration::from_millis(300),
        backoff_cap: Duration::from_secs(3),
        healthy_after: Duration::from_secs(4),
        note_every: Duration::from_millis(500),
        refusal_every: Duration::from_secs(1),
        tick: Duration::from_millis(TICK),
    }
}

pub(super) fn invent_spec(rng: &mut Rng, n: u64) -> AppSpec {
    let per_user = rng.chance(35);
    AppSpec {
        seats: rng.small(1, 4),
        min_seats: if rng.chance(40) { rng.small(1, 4) } else { 0 },
        max_instances: rng.small(1, 4),
        per_user,
        max_instances_per_user: rng.small(1, 3),
        parameters: if per_user && rng.chance(50) { invent_parameters(rng) } else { Parameters::default() },
        start_timeout: rng.ms(2_000, 5_000),
        idle_timeout: rng.ms(500, 5_000),
        inactivity_timeout: rng.chance(40).then(|| rng.ms(1_000, 5_000)),
        max_lifetime: rng.chance(30).then(|| rng.ms(8_000, 40_000)),
        max_waiting: rng.small(1, 6),
        ..crate::fake::spec(&format!("a{n}"))
    }
}

/// Who holds a seat on an instance that was found alive.
type Holder = (AppId, Principal, Option<InstanceName>, SeatKey);

/// What is alive when the episode begins, and who sits there.
pub(super) fn invent_found(
    rng: &mut Rng,
    nonces: &mut Rng,
    specs: &[Arc<AppSpec>],
    now: Moment,
) -> (Vec<Found>, Vec<Holder>) {
    let count = if rng.chance(50) { rng.below(4) } else { 0 };
    let mut holders = Vec::new();
    let mut found = Vec::new();
    for _ in 0..count {
        let spec = rng.pick(specs).filter(|_| rng.chance(90));
        let app: AppId = spec.map_or_else(|| "gone".parse().unwrap(), |spec| spec.id.clone());
        let current = spec.map_or(Revision(1), |spec| spec.revision);
        let owned = spec.is_some_and(|spec| spec.per_user) || rng.chance(5);
        let owner = owned.then(|| invent_principal(rng));
        let name = if owned { invent_name(rng) } else { None };
        let id = InstanceId::new(app.clone(), nonces.next());
        let seats: Vec<SeatId> = (0..rng.below(4)).map(|_| SeatId(u128::from(nonces.next()))).collect();
        for seat in &seats {
            let principal = owner.clone().unwrap_or(Principal::Anonymous);
            let key = SeatKey { seat: *seat, instance: Some(id.clone()) };
            holders.push((app.clone(), principal, name.clone(), key));
        }
        found.push(Found {
            id,
            revision: if rng.chance(75) { current } else { Revision(99) },
            owner,
            variant: Variant {
                chosen: if owned && rng.chance(40) { invent_choice(rng) } else { Choice::new() },
                ..Variant::named(name)
            },
            started: Moment(now.0 - rng.below(60_000)),
            was_ready: rng.chance(80),
            ready_ms: rng.chance(80).then_some(400),
            seats,
        });
    }
    (found, holders)
}

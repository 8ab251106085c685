//! Randomness that repeats, and clocks that are wrong.

use std::sync::Mutex;

use ballot::surroundings::Surroundings;

/// SplitMix64: a small generator that is the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c909)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn roll(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn pick(&mut self, n: usize) -> usize {
        usize::try_from(self.roll(n as u64)).expect("fits")
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|b| *b = u8::try_from(self.roll(256)).expect("a byte"));
    }
}

/// A host whose clock is wrong by so much.
pub(crate) struct Skewed {
    pub(crate) skew_ms: i64,
    pub(crate) dice: Mutex<Dice>,
}

/// When simulations begin, in milliseconds.
const START_MS: u64 = 1_800_000_000_000;

impl Surroundings for Skewed {
    fn now_ms(&self) -> u64 {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default().as_millis();
        (START_MS + u64::try_from(elapsed).unwrap_or(0)).saturating_add_signed(self.skew_ms)
    }

    fn fill(&self, bytes: &mut [u8]) {
        self.dice.lock().expect("dice").fill(bytes);
    }
}

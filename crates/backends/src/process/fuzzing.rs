//! What the fuzzer asks of the shim's protocol, as functions that panic when a promise is broken.
//!
//! Compiled only with `--cfg fuzzing` (see `fuzz/`).

#![allow(clippy::expect_used, reason = "a broken promise shall end the fuzzer")]

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::{Answer, Ask, ExitFile, Order, Report, ShimFile};

/// Every message and file of the protocol: whatever is understood is written so that it is understood alike again.
pub fn shim_protocol(bytes: &[u8]) {
    round_trip::<Order>(bytes);
    round_trip::<Report>(bytes);
    round_trip::<Ask>(bytes);
    round_trip::<Answer>(bytes);
    round_trip::<ShimFile>(bytes);
    round_trip::<ExitFile>(bytes);
}

fn round_trip<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return };
    let text = serde_json::to_vec(&value).expect("a message can be written");
    assert!(!text.contains(&b'\n'), "a message is one line");
    let again: T = serde_json::from_slice(&text).expect("what was written is understood");
    assert_eq!(text, serde_json::to_vec(&again).expect("a message can be written"));
}

//! Recovery and records must read or refuse any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = ballot::log::inspect(bytes);
    if let Ok(ballots) = ballot::record::decode(bytes) {
        let mut again = Vec::new();
        ballots.iter().for_each(|b| ballot::record::encode(b, &mut again));
        assert_eq!(again, bytes);
    }
});

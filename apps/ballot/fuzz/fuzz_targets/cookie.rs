//! Cookies, sealed and opened, must read or refuse any bytes.
#![no_main]

use ballot::cookie::{BallotCookie, find};
use ballot::ids::PollId;
use ballot::keys::Keys;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (Some(keys), Ok(poll)) = (Keys::from_bytes(&[1; 32]), PollId::try_from("pets")) else { return };
    if let Some(cookie) = BallotCookie::parse(bytes) {
        let sealed = cookie.seal(&keys, &poll, [0; 24]);
        assert_eq!(BallotCookie::open(&keys, &poll, &sealed), Some(cookie));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = find(text, "ballot-pets");
        assert_eq!(BallotCookie::open(&keys, &poll, text), None);
    }
});

//! Ballot cookies: no bytes make a panic, no text that we did not seal opens, and what is read is what was written.
#![no_main]

use std::sync::OnceLock;

use ballot::cookie::{self, BallotCookie};
use ballot::ids::PollId;
use ballot::keys::Keys;

fn fixed() -> &'static (Keys, PollId, PollId) {
    static MADE: OnceLock<(Keys, PollId, PollId)> = OnceLock::new();
    MADE.get_or_init(|| {
        let poll = |id: &str| PollId::try_from(id).expect("an id");
        (Keys::from_bytes(&[3; 32]).expect("keys"), poll("pets"), poll("cars"))
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (keys, poll, other) = fixed();
    if let Some(read) = BallotCookie::parse(data) {
        let sealed = read.seal(keys, poll, [1; 24]);
        assert_eq!(BallotCookie::open(keys, poll, &sealed), Some(read));
        assert_eq!(BallotCookie::open(keys, other, &sealed), None);
        let header = format!("a=b; {}={sealed}; c", cookie::name(poll));
        assert_eq!(cookie::find(&header, &cookie::name(poll)), Some(sealed.as_str()));
        // One changed letter: the first byte beyond the cookie's own chooses which.
        let mut changed = sealed.clone().into_bytes();
        let at =
            data.iter().fold(0usize, |a, b| a.wrapping_mul(31).wrapping_add(usize::from(*b))) % changed.len();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("text");
        assert_eq!(BallotCookie::open(keys, poll, &changed), None);
    }
    let text = String::from_utf8_lossy(data);
    assert_eq!(BallotCookie::open(keys, poll, &text), None);
    if let Some(value) = cookie::find(&text, &cookie::name(poll)) {
        assert!(text.contains(value) && !value.contains(';'));
        assert_eq!(BallotCookie::open(keys, poll, value), None);
    }
});

//! Tickets: one-time codes for polls in which only the invited vote.
//!
//! A code is a random number and a keyed checksum, so fronts know a good one without a list, and a guess succeeds once in
//! 2^80. The first browser to redeem a ticket is bound to it: `Stamp::first` makes the merge count that browser's
//! ballots, whichever front they went through. Absent: who got which ticket; that is the sender's knowledge.

use crate::ids::PollId;
use crate::keys::Keys;

const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Writes bytes with an alphabet that people can read aloud: no 0, 1, l or o.
pub(crate) fn spell(bytes: &[u8]) -> String {
    let (mut out, mut bits, mut held) = (String::new(), 0u32, 0u32);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(ALPHABET[((held >> bits) & 31) as usize]));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        out.push(char::from(ALPHABET[((held << (5 - bits)) & 31) as usize]));
    }
    out
}

/// Reads what [`spell`] wrote; hyphens, spaces and capitals do not matter.
pub(crate) fn unspell(text: &str, len: usize) -> Option<Vec<u8>> {
    if text.len() > 400 {
        return None;
    }
    let (mut out, mut bits, mut held) = (Vec::with_capacity(len), 0u32, 0u32);
    for c in text.bytes().filter(|c| !matches!(c, b'-' | b' ')) {
        let value = ALPHABET.iter().position(|a| *a == c.to_ascii_lowercase())?;
        held = (held << 5) | u32::try_from(value).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits).ok()?);
            held &= (1 << bits) - 1;
        }
    }
    // The last letter's spare bits must be zero, so that each ticket has one spelling.
    (out.len() == len && held == 0 && bits < 5).then_some(out)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub id: [u8; 10],
}

impl Ticket {
    fn mac(&self, keys: &Keys, poll: &PollId) -> [u8; 10] {
        let mut out = [0; 10];
        out.copy_from_slice(&keys.ticket_mac(&[poll.as_str().as_bytes(), b"/", &self.id])[..10]);
        out
    }

    /// The code to hand out, in groups of four letters.
    pub fn code(&self, keys: &Keys, poll: &PollId) -> String {
        let mut bytes = self.id.to_vec();
        bytes.extend_from_slice(&self.mac(keys, poll));
        let letters = spell(&bytes).into_bytes();
        letters.chunks(4).map(|c| String::from_utf8_lossy(c).into_owned()).collect::<Vec<_>>().join("-")
    }

    /// The ticket with this code, if it was made for this poll.
    pub fn check(keys: &Keys, poll: &PollId, code: &str) -> Option<Self> {
        let bytes = unspell(code, 20)?;
        let ticket = Self { id: bytes[..10].try_into().ok()? };
        crate::keys::same(&ticket.mac(keys, poll), &bytes[10..]).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn poll(text: &str) -> PollId {
        PollId::try_from(text).expect("id")
    }

    proptest! {
        #[test]
        fn a_code_is_good_for_its_poll_only(id in any::<[u8; 10]>(), at in 0usize..39, letter in 0usize..32) {
            let keys = Keys::from_bytes(&[4; 32]).expect("keys");
            let ticket = Ticket { id };
            let code = ticket.code(&keys, &poll("board"));
            prop_assert_eq!(Ticket::check(&keys, &poll("board"), &code), Some(ticket));
            prop_assert_eq!(Ticket::check(&keys, &poll("board"), &code.to_uppercase().replace('-', " ")), Some(ticket));
            prop_assert_eq!(Ticket::check(&keys, &poll("lunch"), &code), None);
            let mut changed = code.clone().into_bytes();
            if changed[at] != b'-' && changed[at] != ALPHABET[letter] {
                changed[at] = ALPHABET[letter];
                let changed = String::from_utf8(changed).expect("ascii");
                prop_assert_eq!(Ticket::check(&keys, &poll("board"), &changed), None);
            }
        }

        #[test]
        fn any_text_is_refused(text in "[a-z2-9é -]{0,60}") {
            let keys = Keys::from_bytes(&[4; 32]).expect("keys");
            prop_assert_eq!(Ticket::check(&keys, &poll("board"), &text), None);
        }

        #[test]
        fn spelling_is_undone(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unspell(&spell(&bytes), bytes.len()), Some(bytes));
        }
    }
}

//! The sealed ballot cookie: who a browser is in one poll, and the last acknowledgement it has seen.
//!
//! Issued with the poll's page and replaced on each acknowledgement. Only fronts can make or read one, and it is bound
//! to its poll: a forged or foreign cookie does not open. It is the whole identity of an `open` poll, which therefore
//! counts browsers, not people. Absent: anything kept on the server.

use crate::hlc::Reading;
use crate::ids::PollId;
use crate::keys::Keys;

/// How a browser's voter is named before it is hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearer {
    /// A random number given to the browser.
    Browser([u8; 16]),
    /// The number of a redeemed ticket.
    Ticket([u8; 10]),
    /// Whoever is logged in; the cookie only carries the rest.
    Login,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BallotCookie {
    pub bearer: Bearer,
    /// The clock reading of the last acknowledged vote, or of the page.
    pub epoch: Reading,
    /// When the ticket was redeemed, or 0.
    pub bound: Reading,
    /// When this browser last voted, or 0.
    pub voted: Reading,
}

const VERSION: u8 = 1;

/// The cookie's name, which is also what it is sealed under.
pub fn name(poll: &PollId) -> String {
    format!("ballot-{poll}")
}

impl BallotCookie {
    pub fn seal(&self, keys: &Keys, poll: &PollId, nonce: [u8; 24]) -> String {
        let mut plain = Vec::with_capacity(64);
        plain.push(VERSION);
        for number in [self.epoch, self.bound, self.voted] {
            plain.extend_from_slice(&number.to_le_bytes());
        }
        match &self.bearer {
            Bearer::Browser(id) => {
                plain.push(0);
                plain.extend_from_slice(id);
            }
            Bearer::Ticket(id) => {
                plain.push(1);
                plain.extend_from_slice(id);
            }
            Bearer::Login => plain.push(2),
        }
        keys.seal(&name(poll), nonce, &plain)
    }

    /// The cookie, if this deployment issued it for this poll.
    pub fn open(keys: &Keys, poll: &PollId, text: &str) -> Option<Self> {
        Self::parse(&keys.open(&name(poll), text)?)
    }

    /// Reads the opened text. Never panics, whatever the bytes.
    pub fn parse(plain: &[u8]) -> Option<Self> {
        let (version, rest) = plain.split_first()?;
        if *version != VERSION {
            return None;
        }
        let (numbers, rest) = rest.split_at_checked(24)?;
        let number = |i: usize| Some(u64::from_le_bytes(numbers.get(i * 8..i * 8 + 8)?.try_into().ok()?));
        let (kind, id) = rest.split_first()?;
        let bearer = match kind {
            0 => Bearer::Browser(id.try_into().ok()?),
            1 => Bearer::Ticket(id.try_into().ok()?),
            2 if id.is_empty() => Bearer::Login,
            _ => return None,
        };
        Some(Self { bearer, epoch: number(0)?, bound: number(1)?, voted: number(2)? })
    }
}

/// The value of one cookie in a `Cookie` header.
pub fn find<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.split(';').find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
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
        fn a_cookie_is_read_back_in_its_own_poll_only(
            epoch in any::<u64>(), bound in any::<u64>(), voted in any::<u64>(), id in any::<[u8; 16]>(), kind in 0u8..3
        ) {
            let keys = Keys::from_bytes(&[3; 32]).expect("keys");
            let bearer = match kind {
                0 => Bearer::Browser(id),
                1 => Bearer::Ticket(id[..10].try_into().expect("ten")),
                _ => Bearer::Login,
            };
            let cookie = BallotCookie { bearer, epoch, bound, voted };
            let text = cookie.seal(&keys, &poll("pets"), [1; 24]);
            prop_assert_eq!(BallotCookie::open(&keys, &poll("pets"), &text), Some(cookie));
            prop_assert_eq!(BallotCookie::open(&keys, &poll("cars"), &text), None);
        }

        #[test]
        fn any_text_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in ".{0,200}") {
            let keys = Keys::from_bytes(&[3; 32]).expect("keys");
            let _ = BallotCookie::parse(&bytes);
            prop_assert_eq!(BallotCookie::open(&keys, &poll("pets"), &text), None);
            let _ = find(&text, "ballot-pets");
        }
    }

    #[test]
    fn finds_the_cookie_among_others() {
        assert_eq!(find("a=1; ballot-pets=x=y; b=2", "ballot-pets"), Some("x=y"));
        assert_eq!(find("ballot-pets2=no; xballot-pets=no", "ballot-pets"), None);
    }
}

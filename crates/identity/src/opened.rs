//! Sealed texts that were opened lately, and what was in them: a browser sends the same cookies with every request.
//!
//! Only what the keys did open is kept, so nobody fills this with texts of their own. Its size is bounded: a text has one
//! place, found by its last bytes (the end of its authenticator, hence as good as random), and the newer one has it.
//! Lock-free, for every event loop at once. Nothing here says whether a cookie counts.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use subtle::ConstantTimeEq;

use crate::sealer::SealedBy;

/// Places; a power of two. A place that is taken costs some 400 bytes.
const PLACES: usize = 1024;
/// A longer text (the longest login cookie has some 1,200 bytes) is opened each time.
const MAX_TEXT: usize = 1536;

/// One sealed text and its content.
pub(crate) struct Kept {
    context: Box<str>,
    text: Box<str>,
    pub(crate) plain: Vec<u8>,
    pub(crate) by: SealedBy,
}

impl Kept {
    pub(crate) fn new(context: &str, text: &str, plain: Vec<u8>, by: SealedBy) -> Self {
        Self { context: context.into(), text: text.into(), plain, by }
    }
}

/// The memory of one set of keys.
pub(crate) struct Remembered(Box<[ArcSwapOption<Kept>]>);

impl Default for Remembered {
    fn default() -> Self {
        Self((0..PLACES).map(|_| ArcSwapOption::empty()).collect())
    }
}

impl Remembered {
    /// What was in this very text, in this very context.
    pub(crate) fn find(&self, context: &str, text: &str) -> Option<Arc<Kept>> {
        let kept = Guard::into_inner(self.place(text)?.load())?;
        let same = kept.context.as_ref() == context && is_same(kept.text.as_bytes(), text.as_bytes());
        same.then_some(kept)
    }

    pub(crate) fn keep(&self, kept: Kept) {
        if kept.text.len() <= MAX_TEXT
            && let Some(place) = self.place(&kept.text)
        {
            place.store(Some(Arc::new(kept)));
        }
    }

    fn place(&self, text: &str) -> Option<&ArcSwapOption<Kept>> {
        let tail = text.as_bytes().last_chunk::<8>()?;
        // Each of these bytes is one of 64 letters; multiplying spreads what differs between them over the upper bits.
        let spread = u64::from_le_bytes(*tail).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let index = usize::try_from(spread >> 40).ok()? % PLACES;
        self.0.get(index)
    }
}

/// Looks at every byte: how long a wrong guess takes must not tell how much of it was right.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b));
    a.len() == b.len() && differing.ct_eq(&0).into()
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remembered({PLACES} places)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::{KID, KeyRing};

    fn keep(memory: &Remembered, context: &str, text: &str) {
        memory.keep(Kept::new(context, text, vec![1], SealedBy { key: [0; KID], current: true }));
    }

    #[test]
    fn only_the_very_text_in_the_very_context_is_found() {
        let memory = Remembered::default();
        keep(&memory, "sales", "abcdefghijkl");
        assert_eq!(memory.find("sales", "abcdefghijkl").unwrap().plain, [1]);
        for (context, text) in [
            ("other", "abcdefghijkl"),
            ("", "abcdefghijkl"),
            ("sales", "xbcdefghijkl"),
            ("sales", "efghijkl"),
            ("sales", ""),
        ] {
            assert!(memory.find(context, text).is_none(), "{context} {text}");
        }
    }

    #[test]
    fn it_stays_bounded_and_what_lost_its_place_is_opened_anew() {
        let memory = Remembered::default();
        let texts: Vec<String> = (0..20 * PLACES).map(|n| format!("{n:020}")).collect();
        for text in &texts {
            keep(&memory, "", text);
        }
        let kept = texts.iter().filter(|text| memory.find("", text).is_some()).count();
        assert!((PLACES / 2..=PLACES).contains(&kept), "{kept}");
        assert!(memory.find("", texts.last().unwrap()).is_some());
        let long = "A".repeat(MAX_TEXT + 1);
        keep(&memory, "", &long);
        assert!(memory.find("", &long).is_none());
    }

    #[test]
    fn keys_that_are_gone_open_nothing_they_opened_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let ring = KeyRing::load_or_create(&path).unwrap();
        let sealer = ring.sealer("c");
        let text = sealer.seal("x", b"plain").unwrap();
        let current = |text: &str| {
            sealer.open_dated("x", text).map(|(plain, by)| {
                assert_eq!(plain, b"plain");
                by.current
            })
        };
        for _ in 0..2 {
            assert_eq!(current(&text), Some(true));
            assert_eq!(sealer.open("y", &text), None);
        }
        // A new key opens at once and seals later; the old one is not current any more then.
        ring.take_up(&KeyRing::rotate(&path, 1).unwrap());
        assert_eq!(current(&text), Some(true));
        ring.settle();
        assert_eq!(current(&text), Some(false));
        let (_, by) = sealer.open_dated("x", &text).unwrap();
        assert!(sealer.has(by));
        ring.take_up(&KeyRing::rotate(&path, 0).unwrap());
        assert_eq!(current(&text), None);
        assert!(!sealer.has(by));
    }
}

//! Sealing and opening: XChaCha20-Poly1305 under keys derived from the ring's, one per purpose.
//!
//! Invariant: a sealer uses the keys in force at each call, however long ago it was made. Lock-free: every event loop opens
//! cookies all the time, mostly the same ones, so what was opened lately is remembered ([`crate::opened`]) for as long as
//! the keys stay as they are. Whether a cookie counts is decided anew each time, from its plaintext.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::keyring::{IdentityError, KID, Key, TakenUp, random};
use crate::opened::{Kept, Remembered};
use crate::subkey::subkey;

const VERSION: u8 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEAD: usize = 1 + KID + NONCE;
/// Nothing longer was ever sealed by us (browsers keep no larger cookie), so nothing longer is decoded.
const MAX_TEXT: usize = 8192;

/// The keys that count now, shared by a ring and its sealers.
#[derive(Clone)]
pub(crate) struct KeysInForce(Arc<ArcSwap<Keys>>);

struct Keys {
    list: Vec<Key>,
    /// Which of them seals.
    seals: usize,
}

impl KeysInForce {
    pub(crate) fn new(list: Vec<Key>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Keys { list, seals: 0 })))
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.0.load().list.clone()
    }

    pub(crate) fn replace(&self, list: Vec<Key>) -> TakenUp {
        let before = self.0.load_full();
        if before.list == list {
            return TakenUp::Nothing;
        }
        let sealing = before.list.get(before.seals);
        // A key that was taken out of the ring must not seal either.
        let seals = list.iter().position(|key| Some(key) == sealing).unwrap_or(0);
        self.0.store(Arc::new(Keys { list, seals }));
        if seals == 0 { TakenUp::Done } else { TakenUp::Settling }
    }

    pub(crate) fn settle(&self) {
        let list = self.keys();
        self.0.store(Arc::new(Keys { list, seals: 0 }));
    }
}

/// Which of the ring's keys sealed a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedBy {
    pub(crate) key: [u8; KID],
    /// It is the one that seals now. If not, seal the text anew: that key will go.
    pub current: bool,
}

/// Seals and opens for one purpose. The name is authenticated, and so is the context given at each call.
#[derive(Clone)]
pub struct Sealer {
    name: String,
    force: KeysInForce,
    ciphers: Arc<ArcSwap<Ciphers>>,
}

/// The keys of a ring, derived for one purpose.
struct Ciphers {
    of: Arc<Keys>,
    list: Vec<([u8; KID], XChaCha20Poly1305)>,
    /// What these very keys opened: other keys begin with an empty memory.
    remembered: Remembered,
}

impl Ciphers {
    fn derive(of: Arc<Keys>, name: &str) -> Self {
        let cipher = |key: &Key| (key.id, XChaCha20Poly1305::new(&subkey(&key.secret, name).into()));
        Self { list: of.list.iter().map(cipher).collect(), of, remembered: Remembered::default() }
    }
}

impl Sealer {
    pub(crate) fn new(name: &str, force: KeysInForce) -> Self {
        let ciphers = Ciphers::derive(force.0.load_full(), name);
        Self { name: name.to_owned(), force, ciphers: Arc::new(ArcSwap::from_pointee(ciphers)) }
    }

    /// Those of the keys in force; derived anew after a change of them.
    fn ciphers(&self) -> Guard<Arc<Ciphers>> {
        let keys = self.force.0.load();
        let ciphers = self.ciphers.load();
        if Arc::ptr_eq(&keys, &ciphers.of) {
            return ciphers;
        }
        self.ciphers.store(Arc::new(Ciphers::derive(Guard::into_inner(keys), &self.name)));
        self.ciphers.load()
    }

    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn seal(&self, context: &str, plaintext: &[u8]) -> Result<String, IdentityError> {
        let ciphers = self.ciphers();
        let (kid, cipher) = ciphers
            .list
            .get(ciphers.of.seals)
            .ok_or_else(|| IdentityError::Random("empty key ring".to_owned()))?;
        let nonce: [u8; NONCE] = random()?;
        let aad = self.aad(context);
        let payload = Payload { msg: plaintext, aad: &aad };
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| IdentityError::Random("the plaintext is too long to seal".to_owned()))?;
        let mut bytes = Vec::with_capacity(HEAD + sealed.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(kid);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// `None` for whatever this ring did not seal under this name and context.
    pub fn open(&self, context: &str, text: &str) -> Option<Vec<u8>> {
        self.open_dated(context, text).map(|(plain, _)| plain)
    }

    /// As [`Sealer::open`], and what sealed it.
    pub fn open_dated(&self, context: &str, text: &str) -> Option<(Vec<u8>, SealedBy)> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let ciphers = self.ciphers();
        if let Some(kept) = ciphers.remembered.find(context, text) {
            return Some((kept.plain.clone(), kept.by));
        }
        let (plain, by) = self.decrypt(&ciphers, context, text)?;
        ciphers.remembered.keep(Kept::new(context, text, plain.clone(), by));
        Some((plain, by))
    }

    /// Whether what that key sealed still opens.
    pub fn has(&self, by: SealedBy) -> bool {
        self.force.0.load().list.iter().any(|key| key.id == by.key)
    }

    fn decrypt(&self, ciphers: &Ciphers, context: &str, text: &str) -> Option<(Vec<u8>, SealedBy)> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        if bytes.len() < HEAD + TAG || bytes.first() != Some(&VERSION) {
            return None;
        }
        let (head, sealed) = bytes.split_at(HEAD);
        let (kid, nonce) = head.get(1..)?.split_at(KID);
        let (at, (key, cipher)) = ciphers.list.iter().enumerate().find(|(_, (id, _))| id == kid)?;
        let nonce: [u8; NONCE] = nonce.try_into().ok()?;
        let aad = self.aad(context);
        let plain = cipher.decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: &aad }).ok()?;
        Some((plain, SealedBy { key: *key, current: at == ciphers.of.seals }))
    }

    // The zero byte keeps ("ab", "c") apart from ("a", "bc"); neither a name nor an app id can hold one.
    fn aad(&self, context: &str) -> Vec<u8> {
        let mut aad = Vec::with_capacity(self.name.len() + 1 + context.len());
        aad.extend_from_slice(self.name.as_bytes());
        aad.push(0);
        aad.extend_from_slice(context.as_bytes());
        aad
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({:?}, {} keys)", self.name, self.ciphers().list.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::KeyRing;
    use proptest::prelude::*;

    fn ring() -> KeyRing {
        KeyRing::ephemeral().unwrap()
    }

    #[test]
    fn names_and_contexts_do_not_mix() {
        let ring = ring();
        let text = ring.seal("skep-seat", "sales", b"x").unwrap();
        assert!(ring.open("skep-seat", "sales", &text).is_some());
        assert!(ring.open("skep-seat", "other", &text).is_none());
        assert!(ring.open("__Host-skep", "sales", &text).is_none());
        assert!(ring.open("skep-seat\0sales", "", &text).is_none());
        assert!(KeyRing::ephemeral().unwrap().open("skep-seat", "sales", &text).is_none());
    }

    proptest! {
        #[test]
        fn sealed_texts_open(plain in proptest::collection::vec(any::<u8>(), 0..600), context in "[a-z]{0,9}") {
            let ring = ring();
            let text = ring.seal("c", &context, &plain).unwrap();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(ring.open("c", &context, &text), Some(plain));
        }

        #[test]
        fn a_flipped_bit_never_opens(at in 0_usize..10_000, bit in 0_u8..8) {
            let ring = ring();
            let mut bytes = URL_SAFE_NO_PAD.decode(ring.seal("c", "", b"something").unwrap()).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(ring.open("c", "", &URL_SAFE_NO_PAD.encode(bytes)), None);
        }

        #[test]
        fn hostile_texts_do_not_open(text in ".{0,300}") {
            prop_assert_eq!(ring().open("c", "", &text), None);
        }

        #[test]
        fn hostile_bytes_do_not_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = vec![VERSION];
            framed.extend(bytes);
            prop_assert_eq!(ring().open("c", "", &URL_SAFE_NO_PAD.encode(framed)), None);
        }
    }

    #[test]
    fn an_overlong_text_is_refused_before_decoding() {
        assert_eq!(ring().open("c", "", &"A".repeat(MAX_TEXT + 1)), None);
    }
}

//! The key ring: a small file of random keys. The first seals, all open.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::subkey::subkey;

/// Keys a ring may hold. Each further key makes a foreign cookie no dearer to refuse (the key is found by its id), so
/// the bound only keeps the file readable.
pub const MAX_KEYS: usize = 16;

const VERSION: u8 = 1;
const KID: usize = 4;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEAD: usize = 1 + KID + NONCE;
/// Nothing longer was ever sealed by us (browsers keep no larger cookie), so nothing longer is decoded.
const MAX_TEXT: usize = 8192;
const HEADER: &str = "# Skep key ring. The first key seals, all open. Keep it secret; copy it to instances that share logins.\n";

/// What went wrong with a key ring, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot {verb} the key ring {}: {source}", path.display())]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("{}:{line}: {what}; restore the file from a backup, or move it away to get a new one (everybody is signed out then)", path.display())]
    Malformed { path: PathBuf, line: usize, what: &'static str },
    #[error("{} may be read by other users (mode {mode:03o}); run `chmod 600` on it", path.display())]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("the operating system gave no random numbers: {0}")]
    Random(String),
    #[error("the password could not be hashed: {0}")]
    Hash(String),
}

/// The keys of this installation. Immutable once read; a rotation yields a new ring.
pub struct KeyRing {
    keys: Vec<Key>,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: [u8; KID],
    secret: [u8; 32],
}

impl KeyRing {
    /// Reads the ring, or creates it with one new key. Two processes that do so at once end up with the same ring.
    ///
    /// # Errors
    /// When the file cannot be read or written, is malformed, or other users may read it.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let ring = Self { keys: vec![Key::random()?] };
        match ring.write(path, false) {
            // Somebody else was first: theirs counts.
            Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(path)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(ring),
        }
    }

    /// Reads an existing ring.
    ///
    /// # Errors
    /// When the file is missing, unreadable, malformed, or other users may read it.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::File { verb: "read", path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::TooOpen { path: path.to_owned(), mode });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text).map_err(|(line, what)| IdentityError::Malformed {
            path: path.to_owned(),
            line,
            what,
        })
    }

    /// A ring that lives in memory only: cookies sealed with it die with the process.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        Ok(Self { keys: vec![Key::random()?] })
    }

    /// Puts a new key in front and keeps the newest `keep` others, in the file and in the ring returned.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn rotate(path: &Path, keep: usize) -> Result<Self, IdentityError> {
        let mut ring = Self::load(path)?;
        ring.keys.insert(0, Key::random()?);
        ring.keys.truncate(keep.saturating_add(1).min(MAX_KEYS));
        ring.write(path, true)?;
        Ok(ring)
    }

    /// The text form, as in the file. The position of a mistake comes back as its line.
    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = Key::parse(line).map_err(|what| (index + 1, what))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err((index + 1, "this key id appears twice"));
            }
            if keys.len() == MAX_KEYS {
                return Err((index + 1, "more than 16 keys"));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err((1, "no key in it")) } else { Ok(Self { keys }) }
    }

    fn write(&self, path: &Path, replace: bool) -> Result<(), IdentityError> {
        let mut text = HEADER.to_owned();
        for key in &self.keys {
            text.push_str(&key.to_line());
        }
        let result = write_private(path, text.as_bytes(), replace);
        result.map_err(|source| IdentityError::File { verb: "write", path: path.to_owned(), source })
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Seals and opens for one purpose: the cookie's name. Keep it where it is used often; it holds the derived keys.
    pub fn sealer(&self, name: &str) -> Sealer {
        let keys = self.keys.iter();
        let ciphers = keys.map(|key| (key.id, XChaCha20Poly1305::new(&subkey(&key.secret, name).into())));
        Sealer { name: name.to_owned(), ciphers: ciphers.collect() }
    }

    /// Seals `plaintext` as the cookie `name` in a `context` (an app id, or empty).
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn seal(&self, name: &str, context: &str, plaintext: &[u8]) -> Result<String, IdentityError> {
        self.sealer(name).seal(context, plaintext)
    }

    /// Opens what [`KeyRing::seal`] sealed under the same name and context.
    pub fn open(&self, name: &str, context: &str, text: &str) -> Option<Vec<u8>> {
        self.sealer(name).open(context, text)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

impl Key {
    fn random() -> Result<Self, IdentityError> {
        Ok(Self { id: random()?, secret: random()? })
    }

    fn parse(line: &str) -> Result<Self, &'static str> {
        let mut words = line.split_ascii_whitespace();
        let (Some("v1"), Some(id), Some(secret), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("expected `v1 <key id> <key>`");
        };
        let id = u32::from_str_radix(id, 16).ok().filter(|_| id.len() == 2 * KID && !id.starts_with('+'));
        let id = id.ok_or("the key id must be 8 hex digits")?.to_be_bytes();
        let secret = URL_SAFE_NO_PAD.decode(secret).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Self { id, secret: secret.ok_or("the key must be 32 bytes in base64url")? })
    }

    fn to_line(&self) -> String {
        let id = u32::from_be_bytes(self.id);
        format!("v1 {id:08x} {}\n", URL_SAFE_NO_PAD.encode(self.secret))
    }
}

/// Seals and opens for one purpose. The name is authenticated, and so is the context given at each call.
#[derive(Clone)]
pub struct Sealer {
    name: String,
    ciphers: Vec<([u8; KID], XChaCha20Poly1305)>,
}

impl Sealer {
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn seal(&self, context: &str, plaintext: &[u8]) -> Result<String, IdentityError> {
        let (kid, cipher) =
            self.ciphers.first().ok_or_else(|| IdentityError::Random("empty key ring".to_owned()))?;
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

    /// As [`Sealer::open`], and whether the ring's first key sealed it. If not, seal it anew: that key will go.
    pub fn open_dated(&self, context: &str, text: &str) -> Option<(Vec<u8>, bool)> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        if bytes.len() < HEAD + TAG || bytes.first() != Some(&VERSION) {
            return None;
        }
        let (head, sealed) = bytes.split_at(HEAD);
        let (kid, nonce) = head.get(1..)?.split_at(KID);
        let (at, (_, cipher)) = self.ciphers.iter().enumerate().find(|(_, (id, _))| id == kid)?;
        let nonce: [u8; NONCE] = nonce.try_into().ok()?;
        let aad = self.aad(context);
        let plain = cipher.decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: &aad }).ok()?;
        Some((plain, at == 0))
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
        write!(f, "Sealer({:?}, {} keys)", self.name, self.ciphers.len())
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| IdentityError::Random(error.to_string()))?;
    Ok(bytes)
}

/// Writes a file that only its owner may read, whole or not at all: a temporary file beside it, synced, then renamed
/// over it (`replace`) or linked (which fails when the name is taken).
fn write_private(path: &Path, content: &[u8], replace: bool) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let suffix: [u8; 6] = random().map_err(io::Error::other)?;
    let temporary = folder.join(format!(".key-ring.{}", URL_SAFE_NO_PAD.encode(suffix)));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        if replace { fs::rename(&temporary, path) } else { fs::hard_link(&temporary, path) }
    })();
    if written.is_err() || !replace {
        // Best effort: what is left over holds nothing that the ring does not.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring() -> KeyRing {
        KeyRing::ephemeral().unwrap()
    }

    #[test]
    fn the_file_is_private_and_stable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let first = KeyRing::load_or_create(&path).unwrap();
        let second = KeyRing::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = first.seal("c", "", b"hello").unwrap();
        assert_eq!(second.open("c", "", &text).unwrap(), b"hello");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn racing_creators_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let rings: Vec<_> = std::thread::scope(|scope| {
            let load = || scope.spawn(|| KeyRing::load_or_create(&path).unwrap());
            let threads: Vec<_> = (0..8).map(|_| load()).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let text = rings[0].seal("c", "", b"x").unwrap();
        assert!(rings.iter().all(|ring| ring.open("c", "", &text).is_some()));
    }

    #[test]
    fn rotation_seals_with_the_new_key_and_opens_with_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let old = KeyRing::load_or_create(&path).unwrap();
        let before = old.seal("c", "", b"old").unwrap();
        let new = KeyRing::rotate(&path, 1).unwrap();
        assert_eq!(new.open("c", "", &before).unwrap(), b"old");
        let after = new.seal("c", "", b"new").unwrap();
        assert!(old.open("c", "", &after).is_none());
        let third = KeyRing::rotate(&path, 1).unwrap();
        assert_eq!(third.len(), 2);
        assert!(third.open("c", "", &before).is_none(), "two rotations later the oldest key is gone");
        assert_eq!(third.open("c", "", &after).unwrap(), b"new");
    }

    #[test]
    fn a_ring_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        KeyRing::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = KeyRing::load(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn malformed_rings_name_their_line() {
        let good = "v1 00000001 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        for (text, line) in [
            ("", 1),
            ("# only a comment\n", 1),
            ("v2 00000001 AAAA\n", 1),
            (&format!("{good}\nv1 0000001 AAAA"), 2),
            (&format!("{good}\n{good}\n"), 2),
            (&format!("{good}\nv1 +0000001 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"), 2),
            ("v1 00000001 AAAAAAAA\n", 1),
        ] {
            assert_eq!(KeyRing::parse(text).map(|_| ()).unwrap_err().0, line, "{text:?}");
        }
        let many: String = (0..17).map(|n| format!("v1 {n:08x} {}\n", &good[12..])).collect();
        assert_eq!(KeyRing::parse(&many).map(|_| ()).unwrap_err(), (17, "more than 16 keys"));
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

    #[test]
    fn nothing_secret_is_printed() {
        let ring = ring();
        assert_eq!(format!("{ring:?} {:?}", ring.sealer("c")), "KeyRing(1 keys) Sealer(\"c\", 1 keys)");
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

        #[test]
        fn hostile_rings_are_parsed_or_refused(text in "(v1 [0-9a-f+]{0,9} [A-Za-z0-9_=-]{0,50}\n|.{0,40}\n){0,20}") {
            if let Ok(ring) = KeyRing::parse(&text) {
                prop_assert!(!ring.is_empty() && ring.len() <= MAX_KEYS);
            }
        }
    }

    #[test]
    fn an_overlong_text_is_refused_before_decoding() {
        assert_eq!(ring().open("c", "", &"A".repeat(MAX_TEXT + 1)), None);
    }
}

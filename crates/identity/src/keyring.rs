//! The key ring: a small file of random keys. The first seals, all open.
//!
//! A ring in use takes up what another process wrote to its file: new keys open at once, and the first of them seals once
//! [`KeyRing::settle`] is called, when every server that shares the file has had the time to read it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::sealer::{KeysInForce, Sealer};

/// Keys a ring may hold. Each further key makes a foreign cookie no dearer to refuse (the key is found by its id), so
/// the bound only keeps the file readable.
pub const MAX_KEYS: usize = 16;

pub(crate) const KID: usize = 4;
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

/// The keys of this installation.
pub struct KeyRing {
    force: KeysInForce,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) id: [u8; KID],
    pub(crate) secret: [u8; 32],
}

/// What [`KeyRing::take_up`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenUp {
    /// The same keys as before.
    Nothing,
    /// The keys are in force.
    Done,
    /// They open; the key of before goes on sealing until [`KeyRing::settle`].
    Settling,
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
        let ring = Self::of(vec![Key::random()?]);
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
        Ok(Self::of(vec![Key::random()?]))
    }

    /// Puts a new key in front and keeps the newest `keep` others, in the file and in the ring returned.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn rotate(path: &Path, keep: usize) -> Result<Self, IdentityError> {
        let mut keys = Self::load(path)?.force.keys();
        keys.insert(0, Key::random()?);
        keys.truncate(keep.saturating_add(1).min(MAX_KEYS));
        let ring = Self::of(keys);
        ring.write(path, true)?;
        Ok(ring)
    }

    fn of(keys: Vec<Key>) -> Self {
        Self { force: KeysInForce::new(keys) }
    }

    /// Puts the keys of `read` in force, for every sealer made of this ring. Keys that are not in it any more open nothing
    /// from now on.
    pub fn take_up(&self, read: &Self) -> TakenUp {
        self.force.replace(read.force.keys())
    }

    /// From now on the first key seals.
    pub fn settle(&self) {
        self.force.settle();
    }

    /// The names of the keys, as in the file.
    pub fn ids(&self) -> Vec<String> {
        self.force.keys().iter().map(|key| format!("{:08x}", u32::from_be_bytes(key.id))).collect()
    }

    /// The text form, as in the file.
    ///
    /// # Errors
    /// The line that is wrong, from 1, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
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
        if keys.is_empty() { Err((1, "no key in it")) } else { Ok(Self::of(keys)) }
    }

    fn write(&self, path: &Path, replace: bool) -> Result<(), IdentityError> {
        let mut text = HEADER.to_owned();
        for key in self.force.keys() {
            text.push_str(&key.to_line());
        }
        let result = write_private(path, text.as_bytes(), replace);
        result.map_err(|source| IdentityError::File { verb: "write", path: path.to_owned(), source })
    }

    pub fn len(&self) -> usize {
        self.force.keys().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Seals and opens for one purpose: the cookie's name. Keep it where it is used often; it holds the derived keys.
    pub fn sealer(&self, name: &str) -> Sealer {
        Sealer::new(name, self.force.clone())
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
        write!(f, "KeyRing({} keys)", self.len())
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
    fn a_ring_in_use_takes_up_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        // Two servers that share the file, with the sealers they made at their start.
        let (one, two) = (KeyRing::load_or_create(&path).unwrap(), KeyRing::load_or_create(&path).unwrap());
        let (first, second) = (one.sealer("c"), two.sealer("c"));
        let old = first.seal("", b"old").unwrap();
        assert_eq!(one.take_up(&KeyRing::load(&path).unwrap()), TakenUp::Nothing);

        let rotated = KeyRing::rotate(&path, 1).unwrap();
        assert_eq!(one.take_up(&KeyRing::load(&path).unwrap()), TakenUp::Settling);
        let between = first.seal("", b"between").unwrap();
        assert!(
            second.open("", &between).is_some(),
            "the other server has not looked yet and opens it all the same"
        );
        assert_eq!(first.open_dated("", &old).map(|(_, by)| by.current), Some(true));
        assert_eq!(two.take_up(&KeyRing::load(&path).unwrap()), TakenUp::Settling);
        one.settle();
        let new = first.seal("", b"new").unwrap();
        assert!(second.open("", &new).is_some() && rotated.open("c", "", &new).is_some());
        assert_eq!(first.open_dated("", &old).map(|(_, by)| by.current), Some(false), "time to seal it anew");
        assert_eq!(one.ids(), rotated.ids());

        KeyRing::rotate(&path, 0).unwrap();
        assert_eq!(
            one.take_up(&KeyRing::load(&path).unwrap()),
            TakenUp::Done,
            "the key of before is not to be used"
        );
        assert!(first.open("", &old).is_none() && first.open("", &new).is_none());
        assert!(first.open("", &first.seal("", b"x").unwrap()).is_some());
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
    fn nothing_secret_is_printed() {
        let ring = ring();
        assert_eq!(format!("{ring:?} {:?}", ring.sealer("c")), "KeyRing(1 keys) Sealer(\"c\", 1 keys)");
    }

    proptest! {
        #[test]
        fn hostile_rings_are_parsed_or_refused(text in "(v1 [0-9a-f+]{0,9} [A-Za-z0-9_=-]{0,50}\n|.{0,40}\n){0,20}") {
            if let Ok(ring) = KeyRing::parse(&text) {
                prop_assert!(!ring.is_empty() && ring.len() <= MAX_KEYS);
            }
        }
    }
}

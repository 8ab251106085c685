//! The secret that fronts, workers and results share, and everything derived from it.
//!
//! One file of 32 random bytes in hexadecimal, mode 0600. Every use has its own derived key, so that none opens what
//! another seals. Whoever holds the file can forge ballots; whoever holds only the database can neither name a voter nor
//! link two polls. Absent: rotation of the file while a poll is open (receipts and cookies of that poll would end).

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

use crate::ids::{BallotTag, PollId, VoterTag};

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read or write the key file {}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("the key file {} must hold 64 hexadecimal digits", .0.display())]
    Malformed(PathBuf),
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// SHA-256.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|p| context.update(p));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn tagged(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|p| context.update(p));
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

fn first16(bytes: &[u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[..16]);
    out
}

/// Compares without telling by the time taken where two texts differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// The keys of a deployment.
pub struct Keys {
    root: hmac::Key,
    cookie: XChaCha20Poly1305,
    receipt: hmac::Key,
    ticket: hmac::Key,
    signer: Ed25519KeyPair,
    internal: String,
    admin: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    pub fn from_bytes(secret: &[u8; 32]) -> Option<Self> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |label: &str| tagged(&root, &[b"ballot/1/", label.as_bytes()]);
        let token = |label: &str| URL_SAFE_NO_PAD.encode(derive(label));
        Some(Self {
            cookie: XChaCha20Poly1305::new(&Key::from(derive("cookie"))),
            receipt: hmac::Key::new(hmac::HMAC_SHA256, &derive("receipt")),
            ticket: hmac::Key::new(hmac::HMAC_SHA256, &derive("ticket")),
            signer: Ed25519KeyPair::from_seed_unchecked(&derive("sign")).ok()?,
            internal: token("internal"),
            admin: token("admin"),
            root,
        })
    }

    /// Reads the key file, creating it with fresh keys when it does not exist.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let io = |error| KeyError::Io { path: path.to_owned(), error };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut secret = [0; 32];
                getrandom::fill(&mut secret).map_err(KeyError::Random)?;
                let text = secret.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
                Self::write_new(path, &text).map_err(io)?;
                std::fs::read_to_string(path).map_err(io)?
            }
            Err(error) => return Err(io(error)),
        };
        let malformed = || KeyError::Malformed(path.to_owned());
        let text = text.trim();
        let (left, right) = text.split_at_checked(32).ok_or_else(malformed)?;
        let halves = (BallotTag::from_hex(left), BallotTag::from_hex(right));
        let (Some(left), Some(right)) = halves else { return Err(malformed()) };
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&left.0);
        secret[16..].copy_from_slice(&right.0);
        Self::from_bytes(&secret).ok_or_else(malformed)
    }

    /// Links the finished file into place, so that of two processes starting together both use one key.
    fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let draft = dir.join(format!(".key-{}", std::process::id()));
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let linked = std::fs::hard_link(&draft, path);
        std::fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => std::fs::File::open(dir)?.sync_all(),
        }
    }

    /// The key that hides voters of one poll.
    pub fn poll(&self, poll: &PollId) -> PollKey {
        let key = tagged(&self.root, &[b"ballot/1/poll/", poll.as_str().as_bytes()]);
        PollKey(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// What fronts and workers show each other.
    pub fn internal_token(&self) -> &str {
        &self.internal
    }

    /// What the administrator shows.
    pub fn admin_token(&self) -> &str {
        &self.admin
    }

    pub fn receipt_mac(&self, parts: &[&[u8]]) -> [u8; 8] {
        let mut out = [0; 8];
        out.copy_from_slice(&tagged(&self.receipt, parts)[..8]);
        out
    }

    pub fn ticket_mac(&self, parts: &[&[u8]]) -> [u8; 16] {
        first16(&tagged(&self.ticket, parts))
    }

    /// Signs what is published.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        let signature = self.signer.sign(message);
        let bytes = signature.as_ref();
        if bytes.len() == 64 {
            out.copy_from_slice(bytes);
        }
        out
    }

    /// The public half of the signing key.
    pub fn public_key(&self) -> [u8; 32] {
        let mut out = [0; 32];
        let bytes = self.signer.public_key().as_ref();
        if bytes.len() == 32 {
            out.copy_from_slice(bytes);
        }
        out
    }

    /// Seals a text under a name: it can be opened under this name only.
    pub fn seal(&self, name: &str, nonce: [u8; 24], plain: &[u8]) -> String {
        let payload = Payload { msg: plain, aad: name.as_bytes() };
        // Encryption fails only for texts of hundreds of gigabytes.
        let sealed = self.cookie.encrypt(&XNonce::from(nonce), payload).unwrap_or_default();
        let mut bytes = Vec::with_capacity(24 + sealed.len());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Opens what [`Keys::seal`] sealed under the same name.
    pub fn open(&self, name: &str, text: &str) -> Option<Vec<u8>> {
        if text.len() > 4096 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(24)?;
        let nonce: [u8; 24] = nonce.try_into().ok()?;
        self.cookie.decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: name.as_bytes() }).ok()
    }
}

/// Checks a signature of [`Keys::sign`].
pub fn verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public_key)
        .verify(message, signature)
        .is_ok()
}

/// Hides the voters of one poll.
#[derive(Clone)]
pub struct PollKey(hmac::Key);

impl PollKey {
    /// The voter as log and database know it.
    pub fn voter(&self, kind: &str, principal: &[u8]) -> VoterTag {
        VoterTag(first16(&tagged(&self.0, &[kind.as_bytes(), b"/", principal])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_file_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("sub/key");
        let first = Keys::load_or_create(&path).expect("made");
        let again = Keys::load_or_create(&path).expect("read");
        assert_eq!(first.internal_token(), again.internal_token());
        assert_ne!(first.internal_token(), first.admin_token());
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").expect("write");
        assert!(matches!(Keys::load_or_create(&path), Err(KeyError::Malformed(_))));
    }

    #[test]
    fn a_seal_opens_under_its_own_name_and_key_only() {
        let keys = Keys::from_bytes(&[1; 32]).expect("keys");
        let other = Keys::from_bytes(&[2; 32]).expect("keys");
        let sealed = keys.seal("a", [9; 24], b"text");
        assert_eq!(keys.open("a", &sealed).as_deref(), Some(&b"text"[..]));
        assert_eq!(keys.open("b", &sealed), None);
        assert_eq!(other.open("a", &sealed), None);
        assert_eq!(keys.open("a", "short"), None);
    }

    #[test]
    fn signatures_are_checked() {
        let keys = Keys::from_bytes(&[1; 32]).expect("keys");
        let signature = keys.sign(b"result");
        assert!(verify(&keys.public_key(), b"result", &signature));
        assert!(!verify(&keys.public_key(), b"Result", &signature));
    }

    #[test]
    fn polls_do_not_share_voters() {
        let keys = Keys::from_bytes(&[1; 32]).expect("keys");
        let id = |t: &str| PollId::try_from(t).expect("id");
        assert_ne!(keys.poll(&id("a")).voter("open", b"x"), keys.poll(&id("b")).voter("open", b"x"));
        assert_ne!(keys.poll(&id("a")).voter("open", b"x"), keys.poll(&id("a")).voter("login", b"x"));
    }
}

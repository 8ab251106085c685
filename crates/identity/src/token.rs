//! Tokens of one-time links: random, shown once, stored as a hash.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::keyring::{IdentityError, random};

/// What a link holds. Not `Debug`: whoever has it can use the link.
pub struct LinkToken(String);

impl LinkToken {
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn random() -> Result<Self, IdentityError> {
        let bytes: [u8; 32] = random()?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// For the link itself.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// For the store.
    pub fn hash(&self) -> String {
        Self::hash_of(&self.0)
    }

    /// What to look a presented token up by. 256 random bits need no slow hash.
    pub fn hash_of(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_their_hashes_do_not_tell() {
        let (one, two) = (LinkToken::random().unwrap(), LinkToken::random().unwrap());
        assert_eq!(one.text().len(), 43);
        assert_ne!(one.text(), two.text());
        assert_eq!(one.hash(), LinkToken::hash_of(one.text()));
        assert_ne!(one.hash(), two.hash());
        assert_ne!(one.hash(), one.text());
    }
}

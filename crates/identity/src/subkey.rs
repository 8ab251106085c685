//! Key separation: one key of the ring, one subkey per purpose (HKDF-Expand with SHA-256, RFC 5869).

use hkdf::Hkdf;
use sha2::Sha256;

/// The subkey of `key` for `purpose`. The ring's keys are uniform already, so the extract step is not needed.
#[expect(
    clippy::expect_used,
    reason = "both lengths are fixed here; going on with a wrong key would be worse"
)]
pub(crate) fn subkey(key: &[u8; 32], purpose: &str) -> [u8; 32] {
    let mut out = [0_u8; 32];
    Hkdf::<Sha256>::from_prk(key)
        .expect("a 32-byte key is long enough for SHA-256")
        .expand_multi_info(&[b"skep/v1/", purpose.as_bytes()], &mut out)
        .expect("32 bytes are within what HKDF yields");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_and_keys_get_different_subkeys() {
        let key = [7; 32];
        assert_ne!(subkey(&key, "a"), subkey(&key, "b"));
        assert_ne!(subkey(&key, "a"), subkey(&[8; 32], "a"));
        assert_eq!(subkey(&key, "a"), subkey(&key, "a"));
        assert_ne!(subkey(&key, "a"), [0; 32]);
    }
}

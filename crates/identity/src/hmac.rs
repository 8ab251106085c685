//! HMAC-SHA-256 (RFC 2104) and one block of HKDF-Expand (RFC 5869), which is all the key separation here needs.

use sha2::{Digest, Sha256};

const BLOCK: usize = 64;

/// The subkey of `key` for `purpose`: HKDF-Expand of an already uniform key, first block.
pub(crate) fn subkey(key: &[u8; 32], purpose: &str) -> [u8; 32] {
    let mut info = Vec::with_capacity(purpose.len() + 9);
    info.extend_from_slice(b"skep/v1/");
    info.extend_from_slice(purpose.as_bytes());
    info.push(1);
    hmac_sha256(key, &info)
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut padded = [0_u8; BLOCK];
    if key.len() > BLOCK {
        padded[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let keyed = |pad: u8| Sha256::new_with_prefix(padded.map(|byte| byte ^ pad));
    let inner = keyed(0x36).chain_update(message).finalize();
    keyed(0x5c).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn rfc_4231_vectors() {
        assert_eq!(
            hex(&hmac_sha256(&[0x0b; 20], b"Hi There")),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            hex(&hmac_sha256(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(&hmac_sha256(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn purposes_get_different_keys() {
        let key = [7; 32];
        assert_ne!(subkey(&key, "a"), subkey(&key, "b"));
        assert_eq!(subkey(&key, "a"), subkey(&key, "a"));
    }
}

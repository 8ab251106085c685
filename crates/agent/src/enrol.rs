//! Proving the join secret to each other over a TLS connection nobody has vouched for yet. Pure.
//!
//! Each side shows an HMAC over what it says *and* over a value both ends derive from the connection itself (RFC 5705).
//! Whoever sits in between has two connections, and so two values: a proof is worth nothing on any other connection, in the
//! other direction, or with anything in it changed.

use aws_lc_rs::{digest, hmac};

use crate::AgentError;

/// The label under which the connection's value is derived.
pub const EXPORTER: &[u8] = b"EXPORTER-skep-enrol";
/// Characters of a join secret, at least: whoever sits between the two could try guesses against what the agent shows.
pub const LEAST_SECRET: usize = 16;

/// The value of one connection.
pub type Binding = [u8; 32];

/// What agents and server both know beforehand.
#[derive(Clone)]
pub struct JoinSecret(hmac::Key);

impl JoinSecret {
    /// White space around it does not count.
    ///
    /// # Errors
    /// When it is too short to be worth anything.
    pub fn new(text: &str) -> Result<Self, AgentError> {
        let text = text.trim();
        let have = text.chars().count();
        if have < LEAST_SECRET {
            return Err(AgentError::ShortSecret { have, least: LEAST_SECRET });
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())))
    }

    /// # Errors
    /// When the file cannot be read, or the secret in it is too short.
    pub fn from_file(path: &std::path::Path) -> Result<Self, AgentError> {
        let text = std::fs::read_to_string(path)
            .map_err(|reason| AgentError::SecretFile { path: path.to_owned(), reason })?;
        Self::new(&text)
    }

    pub fn prove(&self, binding: &Binding, statement: &Statement<'_>) -> Vec<u8> {
        hmac::sign(&self.0, &statement.bytes(binding)).as_ref().to_vec()
    }

    /// Takes the same time whatever differs.
    pub fn is_proof(&self, proof: &[u8], binding: &Binding, statement: &Statement<'_>) -> bool {
        hmac::verify(&self.0, &statement.bytes(binding), proof).is_ok()
    }
}

impl std::fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinSecret")
    }
}

/// What one side says.
#[derive(Debug, Clone, Copy)]
pub enum Statement<'a> {
    Agent { node: &'a str, task: Option<&'a str>, key: &'a [u8] },
    Server { authority: &'a [u8], certificate: &'a [u8], install: &'a str, time_ms: u64, lives_ms: u64 },
}

impl Statement<'_> {
    /// Every field with its length before it: no two statements give the same bytes.
    fn bytes(&self, binding: &Binding) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let mut put = |field: &[u8]| {
            out.extend_from_slice(&(field.len() as u64).to_be_bytes());
            out.extend_from_slice(field);
        };
        match self {
            Self::Agent { node, task, key } => {
                put(b"skep agent to server 1");
                put(binding);
                put(node.as_bytes());
                put(if task.is_some() { b"task" } else { b"" });
                put(task.unwrap_or_default().as_bytes());
                put(&sha256(key));
            }
            Self::Server { authority, certificate, install, time_ms, lives_ms } => {
                put(b"skep server to agent 1");
                put(binding);
                put(&sha256(authority));
                put(&sha256(certificate));
                put(install.as_bytes());
                put(&time_ms.to_be_bytes());
                put(&lives_ms.to_be_bytes());
            }
        }
        out
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: Binding = [7; 32];

    fn secret() -> JoinSecret {
        JoinSecret::new("correct horse battery staple").unwrap()
    }

    fn agent() -> Statement<'static> {
        Statement::Agent { node: "n1", task: Some("t1"), key: b"key" }
    }

    fn server() -> Statement<'static> {
        Statement::Server { authority: b"ca", certificate: b"leaf", install: "i", time_ms: 5, lives_ms: 6 }
    }

    #[test]
    fn a_proof_holds_for_what_it_was_made_for() {
        for statement in [agent(), server()] {
            let proof = secret().prove(&BINDING, &statement);
            assert!(secret().is_proof(&proof, &BINDING, &statement));
        }
    }

    #[test]
    fn a_proof_is_worth_nothing_on_another_connection_or_with_another_secret() {
        let other = JoinSecret::new("correct horse battery stapl3").unwrap();
        for statement in [agent(), server()] {
            let proof = secret().prove(&BINDING, &statement);
            let mut elsewhere = BINDING;
            elsewhere[31] ^= 1;
            assert!(!secret().is_proof(&proof, &elsewhere, &statement));
            assert!(!other.is_proof(&proof, &BINDING, &statement));
        }
    }

    #[test]
    fn no_field_can_be_changed() {
        let proof = secret().prove(&BINDING, &agent());
        for changed in [
            Statement::Agent { node: "n2", task: Some("t1"), key: b"key" },
            Statement::Agent { node: "n1", task: Some("t2"), key: b"key" },
            Statement::Agent { node: "n1", task: None, key: b"key" },
            Statement::Agent { node: "n1", task: Some("t1"), key: b"kez" },
            // Nothing moves from one field into the next.
            Statement::Agent { node: "n1t", task: Some("1"), key: b"key" },
        ] {
            assert!(!secret().is_proof(&proof, &BINDING, &changed), "{changed:?}");
        }
        let nobody = Statement::Agent { node: "n1", task: None, key: b"key" };
        let unnamed = Statement::Agent { node: "n1", task: Some(""), key: b"key" };
        assert!(!secret().is_proof(&secret().prove(&BINDING, &nobody), &BINDING, &unnamed));

        let proof = secret().prove(&BINDING, &server());
        let s = |authority, certificate, install, time_ms, lives_ms| Statement::Server {
            authority,
            certificate,
            install,
            time_ms,
            lives_ms,
        };
        for changed in [
            s(b"cb", b"leaf", "i", 5, 6),
            s(b"ca", b"leag", "i", 5, 6),
            s(b"ca", b"leaf", "j", 5, 6),
            s(b"ca", b"leaf", "i", 4, 6),
            s(b"ca", b"leaf", "i", 5, 7),
        ] {
            assert!(!secret().is_proof(&proof, &BINDING, &changed), "{changed:?}");
        }
    }

    #[test]
    fn neither_a_cut_proof_nor_one_of_the_other_side_is_one() {
        let proof = secret().prove(&BINDING, &agent());
        for cut in [&proof[..31], &proof[..0], &[&proof[..], &[0]].concat()] {
            assert!(!secret().is_proof(cut, &BINDING, &agent()));
        }
        for bit in 0..proof.len() * 8 {
            let mut flipped = proof.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!secret().is_proof(&flipped, &BINDING, &agent()));
        }
        assert!(!secret().is_proof(&proof, &BINDING, &server()));
    }

    #[test]
    fn a_secret_is_long_enough_and_stays_out_of_logs() {
        assert!(matches!(
            JoinSecret::new(" short\n"),
            Err(AgentError::ShortSecret { have: 5, least: LEAST_SECRET })
        ));
        let proof = JoinSecret::new("  0123456789abcdef\n").unwrap().prove(&BINDING, &agent());
        assert!(JoinSecret::new("0123456789abcdef").unwrap().is_proof(&proof, &BINDING, &agent()));
        assert_eq!(format!("{:?}", secret()), "JoinSecret");
    }
}

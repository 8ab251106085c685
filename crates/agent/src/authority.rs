//! Who may call itself an agent: certificates, made by a certificate authority that lives in this process's memory only.
//!
//! A server that is started anew knows nobody any more; agents enrol again. Every certificate that was issued is remembered
//! with its node until it expires, so a connection's node is looked up, never read out of what somebody sent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::AgentError;
use crate::enrol::sha256;

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "skep";
/// Clocks may differ by this much before a certificate seems to be of the future.
const BACKDATED: Duration = Duration::from_secs(3600);
/// The authority and the server's own certificate live as long as the process.
const PROCESS_LIFE: Duration = Duration::from_secs(10 * 365 * 86400);
/// Certificates remembered at a time, and of one node: it has one or two, and with more than these its oldest goes.
const MOST_ISSUED: usize = 65_536;
const MOST_OF_NODE: usize = 4;

/// The certificate authority.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    lives: Duration,
    issued: Mutex<HashMap<[u8; 32], Holder>>,
    /// How many there ever were.
    numbers: AtomicU64,
}

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) node: String,
    pub(crate) expires: SystemTime,
    /// Rising from certificate to certificate.
    number: u64,
}

/// A certificate and its private key.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// A public key somebody asks a certificate for: a point of P-256, uncompressed.
struct Point<'a>(&'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    /// Makes a new one; certificates of agents will live for `lives`.
    ///
    /// # Errors
    /// When no keys can be made.
    pub(crate) fn new(now: SystemTime, lives: Duration) -> Result<Self, AgentError> {
        let key = new_key()?;
        let mut params = named("skep agents", now, PROCESS_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(broken)?.into();
        let issuer = Issuer::new(params, key);
        Ok(Self { certificate, issuer, lives, issued: Mutex::default(), numbers: AtomicU64::new(0) })
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn lives(&self) -> Duration {
        self.lives
    }

    /// The server's own certificate.
    ///
    /// # Errors
    /// When no keys can be made.
    pub(crate) fn server(&self, now: SystemTime) -> Result<Identity, AgentError> {
        let key = new_key()?;
        let mut params = named(SERVER_NAME, now, PROCESS_LIFE);
        params.subject_alt_names = alternative(SERVER_NAME)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(broken)?.into();
        Ok(Identity { certificate, key: private(&key) })
    }

    /// A certificate for a node's agent, and remembers it.
    ///
    /// # Errors
    /// When the key is no point of P-256, or too many certificates are out.
    pub(crate) fn issue(
        &self,
        node: &str,
        key: &[u8],
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, AgentError> {
        if key.len() != 65 || key.first() != Some(&4) {
            return Err(AgentError::Certificates("the agent's key is no point of P-256".to_owned()));
        }
        let mut params = named(node, now, self.lives);
        params.subject_alt_names = alternative(node)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate: CertificateDer<'static> =
            params.signed_by(&Point(key), &self.issuer).map_err(broken)?.into();
        let mut issued = self.issued.lock();
        issued.retain(|_, holder| holder.expires > now);
        let mut own: Vec<(u64, [u8; 32])> = issued
            .iter()
            .filter(|(_, holder)| holder.node == node)
            .map(|(print, holder)| (holder.number, *print))
            .collect();
        own.sort_unstable();
        for (_, print) in own.iter().rev().skip(MOST_OF_NODE - 1) {
            issued.remove(print);
        }
        if issued.len() >= MOST_ISSUED {
            return Err(AgentError::Certificates(format!("{MOST_ISSUED} certificates are out already")));
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let holder = Holder { node: node.to_owned(), expires: now + self.lives, number };
        issued.insert(sha256(&certificate), holder);
        Ok(certificate)
    }

    /// Whose this certificate is; `None` when it was not issued here or is not good any more.
    pub(crate) fn holder(&self, certificate: &[u8], now: SystemTime) -> Option<Holder> {
        self.issued.lock().get(&sha256(certificate)).filter(|holder| holder.expires > now).cloned()
    }
}

/// A fresh key of an agent: its private half, and the point to be certified.
///
/// # Errors
/// When none can be made.
pub(crate) fn agent_key() -> Result<(PrivateKeyDer<'static>, Vec<u8>), AgentError> {
    let key = new_key()?;
    Ok((private(&key), key.public_key_raw().to_vec()))
}

fn new_key() -> Result<KeyPair, AgentError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(broken)
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

fn named(name: &str, now: SystemTime, lives: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lives).into();
    params.use_authority_key_identifier_extension = true;
    params
}

fn alternative(name: &str) -> Result<Vec<rcgen::SanType>, AgentError> {
    Ok(vec![rcgen::SanType::DnsName(name.try_into().map_err(broken)?)])
}

fn broken(error: rcgen::Error) -> AgentError {
    AgentError::Certificates(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_known_until_it_expires() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let authority = Authority::new(now, Duration::from_secs(60)).unwrap();
        let (_, key) = agent_key().unwrap();
        let certificate = authority.issue("node1", &key, now).unwrap();
        let at = |seconds| authority.holder(&certificate, now + Duration::from_secs(seconds));
        assert_eq!(at(59).map(|holder| holder.node), Some("node1".to_owned()));
        assert_eq!(at(60), None);
        let other = Authority::new(now, Duration::from_secs(60)).unwrap();
        assert_eq!(other.holder(&certificate, now), None, "another server's");
        assert_eq!(authority.holder(&authority.server(now).unwrap().certificate, now), None);
    }

    #[test]
    fn a_node_keeps_its_newest_certificates_and_takes_no_other_nodes_room() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let authority = Authority::new(now, Duration::from_secs(60)).unwrap();
        let (_, key) = agent_key().unwrap();
        let other = authority.issue("node2", &key, now).unwrap();
        let own: Vec<_> = (0..10).map(|_| authority.issue("node1", &key, now).unwrap()).collect();
        let good: Vec<bool> = own.iter().map(|own| authority.holder(own, now).is_some()).collect();
        assert_eq!(good, [[false; 6].as_slice(), &[true; 4]].concat());
        assert!(authority.holder(&other, now).is_some());
    }

    #[test]
    fn what_is_no_key_gets_no_certificate() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let authority = Authority::new(now, Duration::from_secs(60)).unwrap();
        let (_, key) = agent_key().unwrap();
        for bad in [&key[..64], &[], &[2; 65]] {
            assert!(authority.issue("node1", bad, now).is_err());
        }
        assert!(authority.issue("n\u{f6}de", &key, now).is_err(), "a name that is no host name");
    }
}

//! TLS of both kinds of connections: enrolment, on which nobody shows a certificate that means anything, and lines, on which
//! both sides do. TLS 1.3 only; no session is ever resumed, so certificates are looked at each time.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ConnectionCommon, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::AgentError;
use crate::authority::{Identity, SERVER_NAME};
use crate::enrol::{Binding, EXPORTER};

/// What a connection is for, said in its first bytes.
pub(crate) const ENROL: &[u8] = b"skep-enrol/1";
pub(crate) const LINE: &[u8] = b"skep-line/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn broken(error: impl std::fmt::Display) -> AgentError {
    AgentError::Certificates(error.to_string())
}

pub(crate) fn server_name() -> Result<ServerName<'static>, AgentError> {
    ServerName::try_from(SERVER_NAME).map_err(broken)
}

/// The server's side of both kinds.
pub(crate) struct Doors {
    pub(crate) enrol: Arc<ServerConfig>,
    pub(crate) line: Arc<ServerConfig>,
}

impl Doors {
    pub(crate) fn new(authority: &CertificateDer<'static>, server: Identity) -> Result<Self, AgentError> {
        let builder = || {
            ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(broken)
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider());
        let chain = vec![server.certificate, authority.clone()];
        let finish = |config: &mut ServerConfig, protocol: &[u8]| {
            config.alpn_protocols = vec![protocol.to_vec()];
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
        };
        let mut enrol = builder()?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), server.key.clone_key())
            .map_err(broken)?;
        finish(&mut enrol, ENROL);
        let mut line = builder()?
            .with_client_cert_verifier(verifier.build().map_err(broken)?)
            .with_single_cert(chain, server.key)
            .map_err(broken)?;
        finish(&mut line, LINE);
        Ok(Self { enrol: Arc::new(enrol), line: Arc::new(line) })
    }
}

/// The agent's side of enrolment: whoever answers must prove the join secret afterwards.
pub(crate) fn enrolling() -> Result<Arc<ClientConfig>, AgentError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
        .with_no_client_auth();
    config.alpn_protocols = vec![ENROL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The agent's side of lines.
pub(crate) fn calling(
    authority: &CertificateDer<'static>,
    own: Identity,
) -> Result<Arc<ClientConfig>, AgentError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(broken)?
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(vec![own.certificate], own.key)
        .map_err(broken)?;
    config.alpn_protocols = vec![LINE.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, AgentError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(broken)?;
    Ok(Arc::new(roots))
}

/// The value both ends of this connection, and nobody else, can derive.
pub(crate) fn binding<D>(connection: &ConnectionCommon<D>) -> Result<Binding, AgentError> {
    connection.export_keying_material([0; 32], EXPORTER, None).map_err(broken)
}

/// Takes any certificate, but only from whoever has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::authority::{Authority, agent_key};

    /// Whether an agent takes whoever answers with this certificate for the server.
    fn takes(agent: &Arc<ClientConfig>, answers: Arc<ServerConfig>) -> Result<(), rustls::Error> {
        let mut client = ClientConnection::new(Arc::clone(agent), server_name().unwrap()).unwrap();
        let mut server = ServerConnection::new(answers).unwrap();
        while client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    fn certified(authority: &Authority, name: &str, now: SystemTime) -> Identity {
        let (key, point) = agent_key().unwrap();
        Identity { certificate: authority.issue(name, &point, now).unwrap(), key }
    }

    // Whoever has taken over a node has its agent's certificate and key, of the very authority the others trust.
    #[test]
    fn an_agents_identity_makes_no_server() {
        let now = SystemTime::now();
        let authority = Authority::new(now, Duration::from_secs(3600)).unwrap();
        let agent = calling(authority.certificate(), certified(&authority, "node1", now)).unwrap();
        let doors = Doors::new(authority.certificate(), authority.server(now).unwrap()).unwrap();
        takes(&agent, doors.line).unwrap();
        // Not even one that a node with the server's own name has got.
        for name in ["node2", SERVER_NAME] {
            let posing = Doors::new(authority.certificate(), certified(&authority, name, now)).unwrap();
            let refused = takes(&agent, posing.line).unwrap_err();
            assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{name}: {refused}");
        }
        // Nor one that signed itself a certificate as the server's, with its own as the authority.
        let rogue = Authority::new(now, Duration::from_secs(3600)).unwrap();
        let posing = Doors::new(authority.certificate(), rogue.server(now).unwrap()).unwrap();
        let refused = takes(&agent, posing.line).unwrap_err();
        assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused}");
    }
}

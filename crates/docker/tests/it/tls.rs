//! An engine on a TCP port, where both sides show certificates.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use skep_docker::{Address, Engine, TlsFiles};

use crate::daemon::Daemon;

#[tokio::test]
async fn with_certificates_on_both_sides() {
    let certificates = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(certificates.path().join(name), text).unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    write("ca", ca.self_signed(&ca_key).unwrap().pem());
    let issuer = Issuer::new(ca, ca_key);
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        write(name, params.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}-key"), key.serialize_pem());
    }
    let file = |name: &str| certificates.path().join(name);
    let flag = |flag: &str, name: &str| format!("--{flag}={}", file(name).display());
    let daemon = Daemon::start(|_| {
        vec![
            "--host=tcp://127.0.0.1:2376".to_owned(),
            "--tlsverify".to_owned(),
            flag("tlscacert", "ca"),
            flag("tlscert", "server"),
            flag("tlskey", "server-key"),
        ]
    });
    daemon.enter();
    let plain: Address = "tcp://127.0.0.1:2376".parse().unwrap();
    let files = TlsFiles { ca: file("ca"), cert: file("client"), key: file("client-key") };
    let engine = Engine::new(plain.clone().with_tls(&files).unwrap());
    assert!(engine.inspect_image("bb:1").await.unwrap().is_some());

    let refused = Engine::new(plain.clone()).info().await.unwrap_err();
    assert!(refused.to_string().contains("HTTP request to an HTTPS server"), "{refused}");
    let stranger = TlsFiles { ca: file("ca"), cert: file("server"), key: file("server-key") };
    assert!(Engine::new(plain.with_tls(&stranger).unwrap()).info().await.is_err(), "no client's certificate");
}

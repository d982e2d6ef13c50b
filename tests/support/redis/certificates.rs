//! Certificates for tests of TLS.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tollgate::tls::{ClientTls, Identity};

/// PEM files: an authority, its certificates for a server named `localhost` and for a client, and another authority
/// that has signed nothing.
pub(crate) struct Certificates {
    dir: TempDir,
}

impl Certificates {
    pub(super) fn new() -> Self {
        let certificates = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        let authority = certificates.write_authority("ca");
        certificates.write_authority("other-ca");
        // Not for 127.0.0.1: a client that connects to that address must notice that the certificate has another name.
        certificates.write("server", "localhost", ExtendedKeyUsagePurpose::ServerAuth, &authority);
        certificates.write("client", "tollgate", ExtendedKeyUsagePurpose::ClientAuth, &authority);
        certificates
    }

    /// Strictest settings of a client, with a certificate.
    pub(crate) fn settings(&self) -> ClientTls {
        ClientTls {
            ca: Some(self.ca()),
            identity: Some(Identity { certificate: self.client(), key: self.client_key() }),
            verify_hostname: true,
        }
    }

    /// The authority of the server and the client.
    pub(crate) fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// An authority that has not signed the server's certificate.
    pub(crate) fn other_ca(&self) -> PathBuf {
        self.file("other-ca.pem")
    }

    pub(super) fn client(&self) -> PathBuf {
        self.file("client.pem")
    }

    pub(super) fn client_key(&self) -> PathBuf {
        self.file("client.key")
    }

    /// Lines for the server's configuration file.
    pub(super) fn server_config(&self) -> String {
        format!(
            "tls-auth-clients yes\ntls-ca-cert-file {}\ntls-cert-file {}\ntls-key-file {}\n",
            self.ca().display(),
            self.file("server.pem").display(),
            self.file("server.key").display(),
        )
    }

    fn write_authority(&self, name: &str) -> Issuer<'static, KeyPair> {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(self.file(&format!("{name}.pem")), certificate.pem()).expect("a file");
        Issuer::new(params, key)
    }

    fn write(&self, name: &str, host: &str, usage: ExtendedKeyUsagePurpose, by: &Issuer<'_, KeyPair>) {
        let mut params = params(host);
        params.subject_alt_names = vec![rcgen::SanType::DnsName(host.try_into().expect("a name"))];
        params.extended_key_usages.push(usage);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, by).expect("a certificate");
        fs::write(self.file(&format!("{name}.pem")), certificate.pem()).expect("a file");
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).expect("a file");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

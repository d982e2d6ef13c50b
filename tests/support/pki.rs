//! Certificates for TLS between a service and its peers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Files of certificates and keys. Dropping this value deletes them.
pub(crate) struct Pki {
    dir: TempDir,
}

/// An authority, and its certificate in a file.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) path: PathBuf,
}

/// A certificate and its key, in files.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn authority(&self, name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let path = self.file(&format!("{name}.crt"));
        fs::write(&path, params.self_signed(&key).expect("a certificate").pem()).expect("a file");
        Authority { issuer: Issuer::new(params, key), path }
    }

    /// A certificate for `host` by `authority`, in `file.crt` and `file.key`.
    pub(crate) fn pair(&self, authority: &Authority, file: &str, host: &str) -> Pair {
        self.pair_until(authority, file, host, 2100)
    }

    /// A certificate for `host` by `authority`, valid until the beginning of `year`.
    pub(crate) fn pair_until(&self, authority: &Authority, file: &str, host: &str, year: i32) -> Pair {
        self.pair_named(authority, file, SanType::DnsName(host.try_into().expect("a name")), year)
    }

    /// A certificate for a URI, such as a SPIFFE id.
    pub(crate) fn pair_for_uri(&self, authority: &Authority, file: &str, uri: &str) -> Pair {
        self.pair_named(authority, file, SanType::URI(uri.try_into().expect("a URI")), 2100)
    }

    fn pair_named(&self, authority: &Authority, file: &str, name: SanType, year: i32) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &authority.issuer).expect("a certificate");
        let pair =
            Pair { certificate: self.file(&format!("{file}.crt")), key: self.file(&format!("{file}.key")) };
        fs::write(&pair.certificate, certificate.pem()).expect("a file");
        fs::write(&pair.key, key.serialize_pem()).expect("a file");
        pair
    }
}

/// Puts a copy of `from` in the place of `to`, in one step.
pub(crate) fn replace(from: &Path, to: &Path) {
    let aside = to.with_extension("new");
    fs::copy(from, &aside).expect("a copy");
    fs::rename(aside, to).expect("renamed");
}

/// A client that trusts `authority`, presents `identity` and speaks `alpn`.
pub(crate) fn client(authority: &Authority, identity: Option<&Pair>, alpn: &[&[u8]]) -> TlsConnector {
    let roots = roots(authority);
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_file(&pair.certificate).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(&authority.path).expect("a certificate");
    roots.add(certificate).expect("an authority");
    roots
}

/// A server of HTTP/2 that presents `pair` to clients of `clients`.
pub(crate) fn server(pair: &Pair, clients: &Authority) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(clients)), Arc::clone(&provider)).build();
    let chain = vec![CertificateDer::from_pem_file(&pair.certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("authorities"))
        .with_single_cert(chain, key)
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Connects to `localhost` at this port of 127.0.0.1.
pub(crate) async fn connect(connector: &TlsConnector, port: u16) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    connector.connect(ServerName::try_from("localhost").expect("a name"), stream).await
}

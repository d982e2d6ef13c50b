//! TLS to the management server, with certificates as Envoy Gateway makes them: PKCS#1 keys of RSA, no extended key
//! usage, names of one label for the server, and a wildcard for the client.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::support::ads::{AdsServer, config};
use crate::support::xds::{Client, VARIANTS, text};

const CA: &str = include_str!("support/gateway/ca.crt");
const SERVER: (&str, &str) =
    (include_str!("support/gateway/server.crt"), include_str!("support/gateway/server.key"));
const CLIENT: (&str, &str) =
    (include_str!("support/gateway/client.crt"), include_str!("support/gateway/client.key"));
/// The key of the client in PKCS#8.
const SAME_KEY: &str = include_str!("support/gateway/client-pkcs8.key");
/// A name of the server.
const NAME: (&str, &str) = ("CONFIG_GRPC_XDS_SERVER_TLS_SAN", "envoy-gateway");

/// A server like Envoy Gateway's: TLS 1.3, `h2`, and a client certificate of its authority.
async fn server() -> AdsServer {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA.as_bytes()).expect("an authority")).expect("an authority");
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let chain = vec![CertificateDer::from_pem_slice(SERVER.0.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(SERVER.1.as_bytes()).expect("a key");
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(chain, key)
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    AdsServer::start_with(Some(watch::Sender::new(Arc::new(config)).subscribe())).await
}

/// The files of a client, and the settings that name them: authorities, certificate and key.
struct Files {
    dir: TempDir,
    settings: Vec<(&'static str, String)>,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| text(&dir.path().join(name));
        let settings = vec![
            ("CONFIG_GRPC_XDS_SERVER_TLS_CACERT", path("ca.crt")),
            ("CONFIG_GRPC_XDS_CLIENT_TLS_CERT", path("tls.crt")),
            ("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", path("tls.key")),
        ];
        let files = Self { dir, settings };
        for (name, content) in [("ca.crt", CA), ("tls.crt", CLIENT.0), ("tls.key", CLIENT.1)] {
            files.write(name, content);
        }
        files
    }

    /// Replaces a file in one step.
    fn write(&self, name: &str, content: &str) {
        let aside = self.dir.path().join("aside");
        fs::write(&aside, content).expect("a file");
        fs::rename(aside, self.dir.path().join(name)).expect("renamed");
    }

    fn start(&self, variant: &str, server: &AdsServer, others: &[(&str, &str)]) -> Client {
        let is_set = |path: &str| Path::new(path).exists();
        let files = self.settings.iter().filter(|(_, path)| is_set(path));
        let mut settings: Vec<(&str, &str)> = files.map(|(name, path)| (*name, path.as_str())).collect();
        settings.extend([
            ("CONFIG_GRPC_XDS_SERVER_USE_TLS", "true"),
            ("XDS_CLIENT_BACKOFF_MAX_INTERVAL", "200ms"),
        ]);
        settings.extend(others);
        Client::start(variant, server, &settings)
    }
}

/// Expects that no stream is opened, for a reason that contains `part`.
async fn fails(client: &Client, part: &str) {
    let is_named = |client: &Client| client.stream_error().is_some_and(|error| error.contains(part));
    client.reaches(part, is_named).await;
    assert_eq!((client.rule_count(), client.xds.acks()), (None, 0));
}

/// Expects a stream, sends rules over it, and expects that they are in force.
async fn works(server: &mut AdsServer, client: &Client) {
    let mut stream = server.stream().await;
    stream.request().await;
    stream.put(&config("shop", &[("user", 5)])).respond("1", "n1");
    assert_eq!(stream.request().await.refusal, None);
    assert_eq!(client.limit("shop", "user"), Some(5));
}

#[tokio::test]
async fn a_certificate_for_another_name_needs_the_name_to_be_set() {
    let mut server = server().await;
    let files = Files::new();
    for variant in VARIANTS {
        fails(&files.start(variant, &server, &[]), "not valid for").await;
        let client = files.start(variant, &server, &[NAME]);
        works(&mut server, &client).await;
    }
}

#[tokio::test]
async fn a_server_that_requires_a_certificate_gets_one() {
    let server = server().await;
    let files = Files::new();
    for name in ["tls.crt", "tls.key"] {
        fs::remove_file(files.dir.path().join(name)).expect("a file");
    }
    fails(&files.start("GRPC_XDS_SOTW", &server, &[NAME]), "CertificateRequired").await;
}

#[tokio::test]
async fn another_authority_is_not_trusted_until_the_file_changes() {
    let mut server = server().await;
    let files = Files::new();
    let other = rcgen::generate_simple_self_signed(["other".to_owned()]).expect("a certificate");
    files.write("ca.crt", &other.cert.pem());
    let client = files.start("GRPC_XDS_SOTW", &server, &[NAME]);
    fails(&client, "UnknownIssuer").await;
    files.write("ca.crt", CA);
    works(&mut server, &client).await;
}

#[tokio::test]
async fn replaced_certificates_come_with_a_new_connection_and_rules_stay() {
    let mut server = server().await;
    let files = Files::new();
    let client = files.start("GRPC_XDS_SOTW", &server, &[NAME]);
    works(&mut server, &client).await;
    files.write("tls.key", SAME_KEY);
    works(&mut server, &client).await;
    assert_eq!((client.xds.reconnects(), client.limit("shop", "user")), (1, Some(5)));
}

//! TLS of a client.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::sync::watch;

use super::files::{Identity, TlsError};
use super::material::{Files, Material, system_authorities};

/// Name of an error of webpki in texts of rustls: a server or client presents the certificate of an authority as its
/// own, often a self-signed one.
pub(crate) const CA_AS_END_ENTITY: &str = "CaUsedAsEndEntity";

/// Description of the error [`CA_AS_END_ENTITY`] with its remedy.
pub(crate) const CA_AS_END_ENTITY_IN_WORDS: &str =
    "it is the certificate of an authority (CA:TRUE); present one that the authority signed";

/// TLS of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// File with CA certificates, in PEM, one of which must have signed the server's certificate; `None` for the CAs
    /// of the system.
    pub ca: Option<PathBuf>,
    /// Identity of the client, for servers that request one.
    pub identity: Option<Identity>,
    /// True if the server's certificate must have the name to which the client connected.
    pub verify_hostname: bool,
}

impl ClientTls {
    /// Checks that the files can be used. The validity period of the certificates is not checked.
    ///
    /// # Errors
    /// [`TlsError`] for the first file that cannot be used.
    pub fn check(&self) -> Result<(), TlsError> {
        let files = self.files();
        ClientMaterial::new(files.parse(&files.read()?, None)?).map(drop)
    }

    pub(super) fn files(&self) -> Files {
        Files { ca: self.ca.clone(), identity: self.identity.clone() }
    }
}

/// TLS of a client whose files are reloaded.
#[derive(Clone, Debug)]
pub struct LiveClient {
    config: Arc<ClientConfig>,
    ca: Option<PathBuf>,
    material: watch::Receiver<Arc<ClientMaterial>>,
}

impl LiveClient {
    /// A client that uses the latest value of `material`. `alpn` lists its protocols, the preferred one first.
    pub(super) fn new(
        settings: &ClientTls,
        alpn: &[&[u8]],
        material: watch::Receiver<Arc<ClientMaterial>>,
    ) -> Result<Self, TlsError> {
        let latest = Latest {
            material: material.clone(),
            verify_hostname: settings.verify_hostname,
            provider: Arc::new(ring::default_provider()),
        };
        let latest = Arc::new(latest);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&latest.provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unsupported)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&latest) as _)
            .with_client_cert_resolver(latest);
        // A resumed session would keep the authorities and the certificate of its first handshake.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self { config: Arc::new(config), ca: settings.ca.clone(), material })
    }

    /// A client whose files are read once, now.
    ///
    /// # Errors
    /// [`TlsError`] for the first file that cannot be used.
    pub fn read_once(settings: &ClientTls, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let files = settings.files();
        let material = ClientMaterial::new(files.parse(&files.read()?, None)?)?;
        Self::new(settings, alpn, watch::channel(Arc::new(material)).1)
    }

    /// Configuration of every connection. Its handshakes use the latest files.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Text for the error `error` of a connection. It names the trusted authorities if none of them signed the server's
    /// certificate.
    pub fn explain(&self, error: String) -> String {
        if error.contains(CA_AS_END_ENTITY) {
            return format!("invalid peer certificate: {CA_AS_END_ENTITY_IN_WORDS}");
        }
        if !error.contains("UnknownIssuer") {
            return error;
        }
        match &self.ca {
            Some(path) => format!("{error}; the trusted authorities are in {}", path.display()),
            None => format!("{error}; the trusted authorities are the system's"),
        }
    }

    /// Waits until the files have changed since the last call: long-lived connections are due for renewal. Never
    /// returns once the [`Reloader`](super::Reloader) is gone.
    pub async fn changed(&mut self) {
        if self.material.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Parsed files of a client.
#[derive(Debug)]
pub(super) struct ClientMaterial {
    verifier: Arc<WebPkiServerVerifier>,
    identity: Option<Arc<CertifiedKey>>,
}

impl ClientMaterial {
    pub(super) fn new(material: Material) -> Result<Self, TlsError> {
        let Material { authorities, identity, .. } = material;
        let roots = authorities.map_or_else(system_authorities, Ok)?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        // Without revocation lists, the only error is that there are no roots.
        Ok(Self { verifier: verifier.map_err(|_| TlsError::NoAuthorities)?, identity })
    }
}

/// Verifies servers and presents the client's certificate, using the latest files.
#[derive(Debug)]
struct Latest {
    material: watch::Receiver<Arc<ClientMaterial>>,
    verify_hostname: bool,
    provider: Arc<CryptoProvider>,
}

impl Latest {
    fn material(&self) -> Arc<ClientMaterial> {
        Arc::clone(&self.material.borrow())
    }
}

impl ServerCertVerifier for Latest {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = &self.material().verifier;
        match verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is verified last, after everything else.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.verify_hostname => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.material().verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.material().verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Latest {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.material().identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.material().identity.is_some()
    }
}

//! TLS of a listener.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client::{CA_AS_END_ENTITY, CA_AS_END_ENTITY_IN_WORDS};
use super::der::names;
use super::files::{Identity, TlsError};
use super::material::{Files, Material};
use super::peer::PeerName;

/// Names of a rejected client's certificate that an error shows.
const SHOWN_NAMES: usize = 5;
/// Characters that it shows of each.
const SHOWN_CHARS: usize = 100;

/// Time between two log lines of failed handshakes.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Identity of the listener.
    pub identity: Identity,
    /// Clients that may connect; `None` for all, which are asked for no certificate.
    pub clients: Option<ClientAuth>,
}

/// Authentication of clients by their certificates (mutual TLS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Path of the certificates, in PEM, one of which must have signed the client's. Those that the system trusts
    /// have no say.
    pub ca: PathBuf,
    /// Names of which the client's certificate must have one; empty for any.
    pub names: Vec<PeerName>,
    /// True if clients without a certificate may connect.
    pub is_optional: bool,
}

impl ServerTls {
    /// Checks that the files can be used, but for the validity period of the certificates.
    ///
    /// # Errors
    /// [`TlsError`] with the first file that cannot be used, and why.
    pub fn check(&self) -> Result<(), TlsError> {
        let files = self.files();
        self.config(files.parse(&files.read()?, None)?, &[]).map(drop)
    }

    pub(super) fn files(&self) -> Files {
        let ca = self.clients.as_ref().map(|clients| clients.ca.clone());
        Files { ca, identity: Some(self.identity.clone()) }
    }

    /// The configuration of connections with `material`, speaking the protocols of `alpn`.
    pub(super) fn config(&self, material: Material, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unsupported)?;
        // `files` names one, so that there always is one.
        let identity = material.identity.ok_or(TlsError::Unsupported(Error::NoCertificatesPresented))?;
        let identity = SingleCertAndKey::from(identity);
        let mut config = match &self.clients {
            None => builder.with_no_client_auth().with_cert_resolver(Arc::new(identity)),
            Some(ClientAuth { names, is_optional, .. }) => {
                let roots = Arc::new(material.authorities.ok_or(TlsError::NoAuthorities)?);
                let inner = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let inner = if *is_optional { inner.allow_unauthenticated() } else { inner }.build();
                // Without revocation lists, the only error is that there are no roots.
                let inner = inner.map_err(|_| TlsError::NoAuthorities)?;
                let verifier = Arc::new(ClientVerifier { inner, names: names.clone() });
                let mut config =
                    builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(identity));
                // A resumed session would go by the client's certificate of its first handshake, which may have
                // expired since.
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
                config
            }
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// TLS of a listener whose files are reloaded.
#[derive(Clone, Debug)]
pub struct LiveServer {
    config: watch::Receiver<Arc<ServerConfig>>,
    ca: Option<PathBuf>,
    failures: Arc<HandshakeFailures>,
}

impl LiveServer {
    /// A listener that uses what is sent to `config`. `ca` is the file of trusted authorities, for the log.
    pub(super) fn new(
        user: &'static str,
        config: watch::Receiver<Arc<ServerConfig>>,
        ca: Option<PathBuf>,
        failures: Arc<AtomicU64>,
    ) -> Self {
        let failures = HandshakeFailures { user, total: failures, unlogged: Mutex::default() };
        Self { config, ca, failures: Arc::new(failures) }
    }

    /// Number of handshakes that failed.
    #[cfg(test)]
    pub(super) fn handshake_failures(&self) -> u64 {
        self.failures.total.load(Ordering::Relaxed)
    }

    /// Completes the handshake on `socket` with the latest files. `None` if it failed, which is counted and logged.
    pub async fn accept<S>(&self, socket: S) -> Option<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config.borrow()));
        match acceptor.accept(socket).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
                    Some(cause) => self.failures.record(&explain(cause, self.ca.as_deref()), Instant::now()),
                    // A health check that only connects is no failure.
                    None => tracing::debug!(%error, "connection lost during the TLS handshake"),
                }
                None
            }
        }
    }
}

/// Failed handshakes of a listener. At most one each second is logged.
#[derive(Debug)]
struct HandshakeFailures {
    user: &'static str,
    total: Arc<AtomicU64>,
    unlogged: Mutex<Unlogged>,
}

#[derive(Debug, Default)]
struct Unlogged {
    logged: Option<Instant>,
    suppressed: u64,
}

impl HandshakeFailures {
    fn record(&self, error: &str, now: Instant) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let mut unlogged = self.unlogged.lock();
        if unlogged.logged.is_some_and(|logged| now.saturating_duration_since(logged) < LOG_INTERVAL) {
            unlogged.suppressed += 1;
            return;
        }
        let suppressed = unlogged.suppressed;
        *unlogged = Unlogged { logged: Some(now), suppressed: 0 };
        drop(unlogged);
        tracing::warn!(listener = self.user, error, suppressed, "TLS handshake failed");
    }
}

/// The reason why a handshake failed. It names the file of authorities if the client's certificate was not signed by
/// one of them.
fn explain(error: &Error, ca: Option<&Path>) -> String {
    let ca = || ca.map_or_else(String::new, |path| format!(" in {}", path.display()));
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => match cause.to_string() {
            cause if cause == CA_AS_END_ENTITY => {
                format!("client certificate rejected: {CA_AS_END_ENTITY_IN_WORDS}")
            }
            cause => cause,
        },
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("client certificate not signed by an authority{}", ca())
        }
        Error::InvalidCertificate(cause) => format!("client certificate rejected: {cause}"),
        Error::NoCertificatesPresented => {
            format!("client presented no certificate; it needs one signed by an authority{}", ca())
        }
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            "client does not speak TLS".to_owned()
        }
        error => error.to_string(),
    }
}

/// Verifies the certificates of clients.
#[derive(Debug)]
struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<PeerName>,
}

impl ClientVerifier {
    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.names.is_empty() {
            return Ok(());
        }
        let names = names(certificate).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.names.iter().any(|wanted| wanted.is_in(certificate)) {
            return Ok(());
        }
        let presented = names.dns.iter().chain(&names.uris).take(SHOWN_NAMES);
        let presented = presented.map(|name| name.chars().take(SHOWN_CHARS).collect()).collect();
        let error = WrongName { presented, wanted: self.names.clone() };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))))
    }
}

/// A certificate of a client without a name that is wanted.
#[derive(Debug)]
struct WrongName {
    presented: Vec<String>,
    wanted: Vec<PeerName>,
}

impl fmt::Display for WrongName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted: Vec<_> = self.wanted.iter().map(ToString::to_string).collect();
        write!(f, "client certificate is for {:?}, not for one of {wanted:?}", self.presented)
    }
}

impl std::error::Error for WrongName {}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        self.check_name(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

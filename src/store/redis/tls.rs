//! TLS to Redis: what the operator set, made into what connections are opened with.
//!
//! The cryptography is ring's, chosen here and not by the process, whose default may be anybody's. What
//! is wrong with a file is told without anything that it holds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fred::types::config::TlsConnector;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore,
    SignatureScheme,
};

use super::{ClientCertificate, TlsSettings};

/// TLS cannot be spoken as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is of no use.
    #[error("{}: {fault}", path.display())]
    File {
        /// What it is for.
        file: TlsFile,
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// No file of authorities was named, and the system trusts nobody either.
    #[error("the system trusts no authority")]
    NoAuthorities,
    /// The cryptography cannot do what is asked of it.
    #[error("TLS is not to be had: {0}")]
    Unsupported(Error),
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// [`TlsSettings::ca`].
    Ca,
    /// [`ClientCertificate::certificate`].
    Certificate,
    /// [`ClientCertificate::key`].
    Key,
}

/// What is wrong with a file.
#[derive(Debug)]
pub enum Fault {
    /// It is missing, or may not be read.
    Unreadable(std::io::Error),
    /// There is not what it should hold, or it is not in PEM.
    Missing(&'static str),
    /// There is, but it makes no sense.
    Broken(&'static str),
    /// The key is another certificate's.
    Mismatch,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Missing(what) => write!(f, "there is no {what} in PEM in it"),
            Self::Broken(what) => write!(f, "a {what} in it makes no sense"),
            Self::Mismatch => write!(f, "the key in it does not belong to the certificate"),
        }
    }
}

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";

/// Whether connections could be opened as `settings` say: the files are read, and nothing else is done.
///
/// # Errors
/// The first file that is of no use, and why.
pub fn check_tls(settings: &TlsSettings) -> Result<(), TlsError> {
    connector(settings).map(drop)
}

/// What connections are opened with. The files are read again each time.
pub(super) fn connector(settings: &TlsSettings) -> Result<TlsConnector, TlsError> {
    config(settings).map(TlsConnector::from)
}

fn config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let roots = roots(settings.ca.as_deref())?;
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unsupported)?;
    let builder = match settings.verify_hostname {
        true => builder.with_root_certificates(roots),
        false => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName::new(roots, provider)?))
        }
    };
    let Some(ClientCertificate { certificate, key }) = &settings.client else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates = read_certificates(TlsFile::Certificate, certificate)?;
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| wrong(TlsFile::Key, key, read_fault(error, KEY)))?;
    builder.with_client_auth_cert(certificates, private_key).map_err(|error| match error {
        Error::InvalidCertificate(_) => wrong(TlsFile::Certificate, certificate, Fault::Broken(CERTIFICATE)),
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => wrong(TlsFile::Key, key, Fault::Mismatch),
        _ => wrong(TlsFile::Key, key, Fault::Broken(KEY)),
    })
}

/// Those who may sign a server's certificate.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in read_certificates(TlsFile::Ca, path)? {
                let added = roots.add(certificate);
                added.map_err(|_| wrong(TlsFile::Ca, path, Fault::Broken(CERTIFICATE)))?;
            }
        }
        // A system has files that are none of ours among them: those that make sense are enough.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}

/// At least one certificate.
fn read_certificates(file: TlsFile, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(wrong(file, path, Fault::Missing(CERTIFICATE))),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(wrong(file, path, read_fault(error, CERTIFICATE))),
    }
}

fn wrong(file: TlsFile, path: &Path, fault: Fault) -> TlsError {
    TlsError::File { file, path: path.to_owned(), fault }
}

/// Of what `error` says, only what repeats nothing of the file.
fn read_fault(error: pem::Error, what: &'static str) -> Fault {
    match error {
        pem::Error::Io(error) => Fault::Unreadable(error),
        pem::Error::NoItemsFound => Fault::Missing(what),
        _ => Fault::Broken(what),
    }
}

/// Lets a server have any name, and otherwise holds it to what everybody is held to: an authority that is
/// trusted signed its certificate, it is in date, and the server has its key.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl AnyName {
    fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        // Without revocation lists, all that can be wrong is that there are no roots.
        verifier.map(Self).map_err(|_| TlsError::NoAuthorities)
    }
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when all else is well.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// An authority, and its certificate in a file.
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        certificate: PathBuf,
    }

    impl Authority {
        fn new(folder: &Path, name: &str) -> Self {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new([]).expect("parameters");
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let certificate = folder.join(format!("{name}.pem"));
            let signed = params.self_signed(&key).expect("a certificate");
            fs::write(&certificate, signed.pem()).expect("written");
            Self { issuer: Issuer::new(params, key), certificate }
        }

        /// A certificate for `name` and its key, in files.
        fn sign(&self, folder: &Path, name: &str) -> ClientCertificate {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new([name.to_owned()]).expect("parameters");
            let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
            let files = ClientCertificate {
                certificate: folder.join(format!("{name}.crt")),
                key: folder.join(format!("{name}.key")),
            };
            fs::write(&files.certificate, signed.pem()).expect("written");
            fs::write(&files.key, key.serialize_pem()).expect("written");
            files
        }
    }

    fn settings(ca: &Path) -> TlsSettings {
        TlsSettings { ca: Some(ca.to_owned()), client: None, verify_hostname: true }
    }

    /// Whether somebody with `settings` believes that a server with `certificate` is `localhost`, and is
    /// believed by it; a server that asks for `clients` wants a certificate that they signed.
    async fn shake_hands(
        settings: &TlsSettings,
        certificate: &ClientCertificate,
        clients: Option<&Authority>,
    ) -> Result<(), String> {
        let provider = Arc::new(ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let roots = Arc::new(roots(Some(&authority.certificate)).expect("an authority"));
                let verifier =
                    rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let chain = read_certificates(TlsFile::Certificate, &certificate.certificate).expect("certificates");
        let key = PrivateKeyDer::from_pem_file(&certificate.key).expect("a key");
        let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("a server")));

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serve = async {
            let (stream, _) = listener.accept().await.expect("a client");
            acceptor.accept(stream).await.map(drop).map_err(|error| error.to_string())
        };
        let TlsConnector::Rustls(connector) = connector(settings).expect("good settings");
        let connect = async {
            let stream = TcpStream::connect(address).await.expect("a connection");
            let name = ServerName::try_from("localhost").expect("a name");
            let mut stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
            // A server says after the handshake that it does not believe in a client's certificate.
            match stream.read_to_end(&mut Vec::new()).await {
                Err(error) if error.to_string().contains("alert") => Err(error.to_string()),
                Ok(_) | Err(_) => Ok(()),
            }
        };
        let (served, connected) = tokio::join!(serve, connect);
        connected.and(served)
    }

    #[tokio::test]
    async fn a_server_is_believed_that_a_trusted_authority_signed_for_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, other) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "other"));
        let server = ours.sign(folder.path(), "localhost");
        let elsewhere = ours.sign(folder.path(), "elsewhere");
        for (ca, certificate, verify_hostname, expected) in [
            (&ours, &server, true, None),
            (&other, &server, true, Some("UnknownIssuer")),
            (&ours, &elsewhere, true, Some("not valid for name")),
            (&ours, &elsewhere, false, None),
            (&ours, &server, false, None),
            (&other, &server, false, Some("UnknownIssuer")),
            (&other, &elsewhere, false, Some("UnknownIssuer")),
        ] {
            let settings = TlsSettings { verify_hostname, ..settings(&ca.certificate) };
            let found = shake_hands(&settings, certificate, None).await;
            match (&found, expected) {
                (Ok(()), None) => {}
                (Err(found), Some(expected)) if found.contains(expected) => {}
                _ => panic!("{settings:?} {certificate:?}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_asks_who_connects_is_shown_the_certificate() {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(folder.path(), "ours");
        let server = authority.sign(folder.path(), "localhost");
        let nobody = settings(&authority.certificate);
        let client = Some(authority.sign(folder.path(), "client"));
        let somebody = TlsSettings { client, ..nobody.clone() };
        assert_eq!(shake_hands(&somebody, &server, Some(&authority)).await, Ok(()));
        assert!(shake_hands(&nobody, &server, Some(&authority)).await.is_err());
    }

    #[test]
    fn a_file_that_is_of_no_use_is_named_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(path(name), text).expect("written");
        let authority = Authority::new(folder.path(), "ours");
        let (one, two) = (authority.sign(folder.path(), "one"), authority.sign(folder.path(), "two"));
        write("empty", "");
        write("text", "hunter2");
        write("half", "-----BEGIN CERTIFICATE-----\nhunter2\n");
        write("junk", "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n");
        write("junk.key", "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n");

        let ca = |name: &str| settings(&path(name));
        let client = |certificate: &Path, key: &Path| TlsSettings {
            client: Some(ClientCertificate { certificate: certificate.to_owned(), key: key.to_owned() }),
            ..settings(&authority.certificate)
        };
        for (settings, file, name, fault) in [
            (ca("none"), TlsFile::Ca, "none", "No such file"),
            (ca("empty"), TlsFile::Ca, "empty", "no certificate in PEM"),
            (ca("text"), TlsFile::Ca, "text", "no certificate in PEM"),
            (ca("one.key"), TlsFile::Ca, "one.key", "no certificate in PEM"),
            (ca("half"), TlsFile::Ca, "half", "makes no sense"),
            (ca("junk"), TlsFile::Ca, "junk", "makes no sense"),
            (client(&path("none"), &one.key), TlsFile::Certificate, "none", "No such file"),
            (client(&path("text"), &one.key), TlsFile::Certificate, "text", "no certificate in PEM"),
            (client(&path("junk"), &one.key), TlsFile::Certificate, "junk", "makes no sense"),
            (client(&one.certificate, &path("none")), TlsFile::Key, "none", "No such file"),
            (client(&one.certificate, &path("one.crt")), TlsFile::Key, "one.crt", "no private key in PEM"),
            (client(&one.certificate, &path("junk.key")), TlsFile::Key, "junk.key", "makes no sense"),
            (client(&one.certificate, &two.key), TlsFile::Key, "two.key", "does not belong"),
        ] {
            let error = check_tls(&settings).expect_err("a mistake");
            let text = error.to_string();
            assert!(text.starts_with(&path(name).display().to_string()), "{name}: {text}");
            assert!(text.contains(fault), "{name}: {text}");
            assert!(!format!("{text} {error:?}").contains("hunter2"), "{name}: {error:?}");
            let TlsError::File { file: found, .. } = error else { panic!("{name}: {error:?}") };
            assert_eq!(found, file, "{name}");
        }
        assert!(check_tls(&client(&one.certificate, &one.key)).is_ok());
    }
}

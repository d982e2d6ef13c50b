//! TLS of clients.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore,
    SignatureScheme,
};

use super::files::{CERTIFICATE, Fault, Identity, KEY, TlsError, TlsFile, file_error, trusted_authorities};

/// TLS of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Path of the certificates, in PEM, one of which must have signed the server's; `None` for those that
    /// the system trusts.
    pub ca: Option<PathBuf>,
    /// Identity of the client, for servers that require one.
    pub identity: Option<Identity>,
    /// Whether the server's certificate must match its host name.
    pub verify_hostname: bool,
}

impl ClientTls {
    /// Configuration of connections. Reads the files on every call.
    ///
    /// # Errors
    /// [`TlsError`] for the first file that cannot be used.
    pub fn config(&self) -> Result<ClientConfig, TlsError> {
        let roots = trusted_authorities(self.ca.as_deref())?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unsupported)?;
        let builder = match self.verify_hostname {
            true => builder.with_root_certificates(roots),
            false => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyHostname::new(roots, provider)?)),
        };
        let Some(identity) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let (chain, private_key) = identity.read()?;
        let Identity { certificate, key } = identity;
        builder.with_client_auth_cert(chain, private_key).map_err(|error| match error {
            Error::InvalidCertificate(_) => {
                file_error(TlsFile::Certificate, certificate, Fault::Malformed(CERTIFICATE))
            }
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                file_error(TlsFile::Key, key, Fault::Mismatch)
            }
            _ => file_error(TlsFile::Key, key, Fault::Malformed(KEY)),
        })
    }
}

/// Verifier that accepts any name in the server's certificate. Signature by a trusted authority, validity
/// period and possession of the key are verified as usual.
#[derive(Debug)]
struct AnyHostname(Arc<WebPkiServerVerifier>);

impl AnyHostname {
    fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        // Without revocation lists, the only error is that there are no roots.
        verifier.map(Self).map_err(|_| TlsError::NoAuthorities)
    }
}

impl ServerCertVerifier for AnyHostname {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is verified last, after everything else.
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
    use std::path::Path;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

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
        fn sign(&self, folder: &Path, name: &str) -> Identity {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new([name.to_owned()]).expect("parameters");
            let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
            let files = Identity {
                certificate: folder.join(format!("{name}.crt")),
                key: folder.join(format!("{name}.key")),
            };
            fs::write(&files.certificate, signed.pem()).expect("written");
            fs::write(&files.key, key.serialize_pem()).expect("written");
            files
        }
    }

    fn settings(ca: &Path) -> ClientTls {
        ClientTls { ca: Some(ca.to_owned()), identity: None, verify_hostname: true }
    }

    /// Whether somebody with `settings` believes that a server with `certificate` is `localhost`, and is
    /// believed by it; a server that asks for `clients` wants a certificate that they signed.
    async fn handshake(
        settings: &ClientTls,
        certificate: &Identity,
        clients: Option<&Authority>,
    ) -> Result<(), String> {
        let provider = Arc::new(ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let roots =
                    Arc::new(trusted_authorities(Some(&authority.certificate)).expect("an authority"));
                let verifier =
                    rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let (chain, key) = certificate.read().expect("an identity");
        let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("a server")));

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serve = async {
            let (stream, _) = listener.accept().await.expect("a client");
            acceptor.accept(stream).await.map(drop).map_err(|error| error.to_string())
        };
        let connector = TlsConnector::from(Arc::new(settings.config().expect("good settings")));
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
            let settings = ClientTls { verify_hostname, ..settings(&ca.certificate) };
            let found = handshake(&settings, certificate, None).await;
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
        let identity = Some(authority.sign(folder.path(), "client"));
        let somebody = ClientTls { identity, ..nobody.clone() };
        assert_eq!(handshake(&somebody, &server, Some(&authority)).await, Ok(()));
        assert!(handshake(&nobody, &server, Some(&authority)).await.is_err());
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
        let client = |certificate: &Path, key: &Path| ClientTls {
            identity: Some(Identity { certificate: certificate.to_owned(), key: key.to_owned() }),
            ..settings(&authority.certificate)
        };
        for (settings, file, name, fault) in [
            (ca("none"), TlsFile::Ca, "none", "No such file"),
            (ca("empty"), TlsFile::Ca, "empty", "no certificate in PEM format"),
            (ca("text"), TlsFile::Ca, "text", "no certificate in PEM format"),
            (ca("one.key"), TlsFile::Ca, "one.key", "no certificate in PEM format"),
            (ca("half"), TlsFile::Ca, "half", "malformed"),
            (ca("junk"), TlsFile::Ca, "junk", "malformed"),
            (client(&path("none"), &one.key), TlsFile::Certificate, "none", "No such file"),
            (client(&path("text"), &one.key), TlsFile::Certificate, "text", "no certificate in PEM format"),
            (client(&path("junk"), &one.key), TlsFile::Certificate, "junk", "malformed"),
            (client(&one.certificate, &path("none")), TlsFile::Key, "none", "No such file"),
            (
                client(&one.certificate, &path("one.crt")),
                TlsFile::Key,
                "one.crt",
                "no private key in PEM format",
            ),
            (client(&one.certificate, &path("junk.key")), TlsFile::Key, "junk.key", "malformed"),
            (client(&one.certificate, &two.key), TlsFile::Key, "two.key", "does not match"),
        ] {
            let error = settings.config().expect_err("a mistake");
            let text = error.to_string();
            assert!(text.starts_with(&path(name).display().to_string()), "{name}: {text}");
            assert!(text.contains(fault), "{name}: {text}");
            assert!(!format!("{text} {error:?}").contains("hunter2"), "{name}: {error:?}");
            let TlsError::File { file: found, .. } = error else { panic!("{name}: {error:?}") };
            assert_eq!(found, file, "{name}");
        }
        assert!(client(&one.certificate, &one.key).config().is_ok());
    }
}

//! Certificates and private keys in files, in PEM.
//!
//! Errors never contain content of a file: a misconfigured path may point at another secret.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{Error, RootCertStore};

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{}: {fault}", path.display())]
    File {
        /// Purpose of the file.
        file: TlsFile,
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// No file of authorities is set, and the system trusts none.
    #[error("the system trusts no certificate authority; name a file of authorities")]
    NoAuthorities,
    /// The cryptographic provider does not support the configuration.
    #[error("TLS is not supported: {0}")]
    Unsupported(Error),
}

/// Purpose of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// Certificates of trusted authorities.
    Ca,
    /// [`Identity::certificate`].
    Certificate,
    /// [`Identity::key`].
    Key,
}

/// Problem of a file.
#[derive(Debug)]
pub enum Fault {
    /// It is missing or not readable.
    Unreadable(std::io::Error),
    /// It contains no PEM block of this kind.
    Missing(&'static str),
    /// It contains a malformed PEM block of this kind.
    Malformed(&'static str),
    /// The key does not belong to the certificate.
    Mismatch,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Missing(what) => write!(f, "no {what} in PEM format found"),
            Self::Malformed(what) => write!(f, "malformed {what}"),
            Self::Mismatch => write!(f, "the private key does not match the certificate"),
        }
    }
}

pub(super) const CERTIFICATE: &str = "certificate";
pub(super) const KEY: &str = "private key";

/// A certificate and its private key, in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Path of the certificate, followed by intermediate certificates.
    pub certificate: PathBuf,
    /// Path of its private key.
    pub key: PathBuf,
}

impl Identity {
    /// Reads both files. Does not check that they match.
    ///
    /// # Errors
    /// [`TlsError::File`] for the first file that cannot be used.
    pub fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = read_certificates(TlsFile::Certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| file_error(TlsFile::Key, &self.key, fault_of(error, KEY)))?;
        Ok((chain, key))
    }
}

/// Trusted authorities: those in `ca`, else those of the system.
///
/// # Errors
/// [`TlsError::File`] if `ca` cannot be used, [`TlsError::NoAuthorities`] if the system has none.
pub fn trusted_authorities(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in read_certificates(TlsFile::Ca, path)? {
                let added = roots.add(certificate);
                added.map_err(|_| file_error(TlsFile::Ca, path, Fault::Malformed(CERTIFICATE)))?;
            }
        }
        // Trust stores of systems contain certificates that cannot be parsed; the others are enough.
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
        Ok(certificates) if certificates.is_empty() => {
            Err(file_error(file, path, Fault::Missing(CERTIFICATE)))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(file_error(file, path, fault_of(error, CERTIFICATE))),
    }
}

pub(super) fn file_error(file: TlsFile, path: &Path, fault: Fault) -> TlsError {
    TlsError::File { file, path: path.to_owned(), fault }
}

/// Problem of `error`, without content of the file.
fn fault_of(error: pem::Error, what: &'static str) -> Fault {
    match error {
        pem::Error::Io(error) => Fault::Unreadable(error),
        pem::Error::NoItemsFound => Fault::Missing(what),
        _ => Fault::Malformed(what),
    }
}

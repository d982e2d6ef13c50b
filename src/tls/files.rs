//! Files of certificates and private keys, in PEM.
//!
//! An error never repeats what a file holds: a path to a key may point at the wrong secret.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chrono::DateTime;
use rustix::fs::OFlags;
use rustls::Error;

use crate::engine::Timestamp;

/// Largest file, in bytes. A bundle of all public authorities takes 250 kB.
const MAX_FILE_BYTES: u64 = 4 << 20;

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
        /// Reason.
        fault: Fault,
    },
    /// No file of authorities is set, and the system trusts none.
    #[error("the system trusts no certificate authority; name a file of authorities")]
    NoAuthorities,
    /// The cryptography does not support the configuration.
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

/// Reason why a file cannot be used.
#[derive(Debug)]
pub enum Fault {
    /// Missing, or no permission to read it.
    Unreadable(io::Error),
    /// Without a PEM block of this kind.
    Missing(&'static str),
    /// With a PEM block of this kind that cannot be parsed.
    Malformed(&'static str),
    /// A key that needs a passphrase.
    Encrypted,
    /// A key of another certificate.
    Mismatch,
    /// A certificate that was valid until this time.
    Expired(Timestamp),
    /// A certificate that is valid from this time on.
    NotYetValid(Timestamp),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Missing(what) => write!(f, "no {what} in PEM format found"),
            Self::Malformed(what) => write!(f, "malformed {what}"),
            Self::Encrypted => write!(f, "the private key is encrypted; remove its passphrase"),
            Self::Mismatch => write!(f, "the private key does not match the certificate"),
            Self::Expired(at) => write!(f, "the certificate expired at {}", Utc(*at)),
            Self::NotYetValid(at) => write!(f, "the certificate is not valid before {}", Utc(*at)),
        }
    }
}

/// A time as people read it: `2026-11-27 18:56:34 UTC`.
pub(super) struct Utc(pub(super) Timestamp);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        match i64::try_from(secs).ok().and_then(|secs| DateTime::from_timestamp(secs, 0)) {
            Some(time) => time.fmt(f),
            None => secs.fmt(f),
        }
    }
}

pub(super) const CERTIFICATE: &str = "certificate";
pub(super) const KEY: &str = "private key";

/// A certificate and its private key, in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Path of the certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// Path of its private key: PKCS#1, PKCS#8 or SEC1, without a passphrase.
    pub key: PathBuf,
}

pub(super) fn file_error(file: TlsFile, path: &Path, fault: Fault) -> TlsError {
    TlsError::File { file, path: path.to_owned(), fault }
}

/// The content of the file at `path`.
pub(super) fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, TlsError> {
    read_bounded(path).map_err(|error| file_error(file, path, Fault::Unreadable(error)))
}

/// Content of the regular file at `path`, up to a bound. Never waits for a writer.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Without `NONBLOCK`, opening a FIFO blocks until a writer opens it too.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    if file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)? as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("the file is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(content)
}

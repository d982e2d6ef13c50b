//! Certificates and keys, parsed and checked.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

use super::der::{Validity, validity};
use super::files::{CERTIFICATE, Fault, Identity, KEY, TlsError, TlsFile, file_error, read};
use crate::engine::Timestamp;

/// Part of the label of an encrypted PKCS#8 key, and of the header of an encrypted PKCS#1 or SEC1 key.
const ENCRYPTED_KEY: &[u8] = b"ENCRYPTED";

/// The files of one client or listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    /// Trusted authorities; `None` for none.
    pub(super) ca: Option<PathBuf>,
    pub(super) identity: Option<Identity>,
}

/// Content of the files.
pub(super) struct Contents {
    ca: Option<Vec<u8>>,
    /// Certificates and key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Parsed content of the files.
pub(super) struct Material {
    /// Trusted authorities, at least one; `None` without a file of them.
    pub(super) authorities: Option<RootCertStore>,
    pub(super) identity: Option<Arc<CertifiedKey>>,
    /// End of the validity of each file of certificates.
    pub(super) expiries: Vec<(PathBuf, Timestamp)>,
}

impl Files {
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
        self.ca.iter().chain(identity).map(PathBuf::as_path)
    }

    /// Reads the files, blocking the thread while the disk answers.
    pub(super) fn read(&self) -> Result<Contents, TlsError> {
        let ca = self.ca.as_deref().map(|path| read(TlsFile::Ca, path)).transpose()?;
        let identity = self.identity.as_ref().map(|Identity { certificate, key }| {
            Ok((read(TlsFile::Certificate, certificate)?, read(TlsFile::Key, key)?))
        });
        Ok(Contents { ca, identity: identity.transpose()? })
    }

    /// Parses what [`Files::read`] returned. The certificate must be valid at `now`, if that is given.
    pub(super) fn parse(&self, contents: &Contents, now: Option<Timestamp>) -> Result<Material, TlsError> {
        let mut material = Material { authorities: None, identity: None, expiries: Vec::new() };
        if let (Some(path), Some(pem)) = (&self.ca, &contents.ca) {
            let certificates = certificates(TlsFile::Ca, path, pem)?;
            let malformed = || file_error(TlsFile::Ca, path, Fault::Malformed(CERTIFICATE));
            let ends = certificates.iter().map(|certificate| Some(validity(certificate)?.not_after));
            // Trust ends with the last of them.
            let end = ends.max().flatten().ok_or_else(malformed)?;
            material.expiries.push((path.clone(), end));
            let mut roots = RootCertStore::empty();
            for certificate in certificates {
                roots.add(certificate).map_err(|_| malformed())?;
            }
            material.authorities = Some(roots);
        }
        if let (Some(files), Some((certificate, key))) = (&self.identity, &contents.identity) {
            let chain = certificates(TlsFile::Certificate, &files.certificate, certificate)?;
            material.expiries.push((files.certificate.clone(), check_chain(files, &chain, now)?));
            material.identity = Some(Arc::new(certified_key(files, chain, key)?));
        }
        Ok(material)
    }
}

impl Contents {
    /// Hash that differs if the contents do.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.ca, &self.identity).hash(&mut hasher);
        hasher.finish()
    }
}

/// The authorities that the system trusts.
pub(super) fn system_authorities() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // Systems have certificates among theirs that cannot be parsed: the others are enough.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}

/// At least one certificate.
fn certificates(file: TlsFile, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(file_error(file, path, Fault::Missing(CERTIFICATE)))
        }
        Ok(certificates) => Ok(certificates),
        Err(_) => Err(file_error(file, path, Fault::Malformed(CERTIFICATE))),
    }
}

/// The time at which the first certificate of `chain` expires: the chain is unusable from then on.
fn check_chain(
    files: &Identity,
    chain: &[CertificateDer<'_>],
    now: Option<Timestamp>,
) -> Result<Timestamp, TlsError> {
    let error = |fault| file_error(TlsFile::Certificate, &files.certificate, fault);
    let mut end = Timestamp::from_micros(u64::MAX);
    for certificate in chain {
        let period = validity(certificate).ok_or_else(|| error(Fault::Malformed(CERTIFICATE)))?;
        let Validity { not_before, not_after } = period;
        if now.is_some_and(|now| now < not_before) {
            return Err(error(Fault::NotYetValid(not_before)));
        }
        if now.is_some_and(|now| now.as_secs() > not_after.as_secs()) {
            return Err(error(Fault::Expired(not_after)));
        }
        end = end.min(not_after);
    }
    Ok(end)
}

fn certified_key(
    files: &Identity,
    chain: Vec<CertificateDer<'static>>,
    pem: &[u8],
) -> Result<CertifiedKey, TlsError> {
    let error = |fault| file_error(TlsFile::Key, &files.key, fault);
    let is_encrypted = || pem.windows(ENCRYPTED_KEY.len()).any(|text| text == ENCRYPTED_KEY);
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|found| match found {
        _ if is_encrypted() => error(Fault::Encrypted),
        pem::Error::NoItemsFound => error(Fault::Missing(KEY)),
        _ => error(Fault::Malformed(KEY)),
    })?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|found| match found {
        Error::InvalidCertificate(_) => {
            file_error(TlsFile::Certificate, &files.certificate, Fault::Malformed(CERTIFICATE))
        }
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => error(Fault::Mismatch),
        _ => error(Fault::Malformed(KEY)),
    })
}

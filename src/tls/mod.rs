//! TLS for clients and listeners: authorities, certificates and keys from files, reloaded when they change.
//!
//! Every client and listener registers its files with [`Reloader`] and gets a handle. New handshakes through the
//! handle use the latest valid files; open connections keep their certificates.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use tollgate::tls::{ClientTls, Reloader, TlsError};
//! # fn example(reloader: &Arc<Reloader>) -> Result<(), TlsError> {
//! let tls = ClientTls { ca: Some("/certs/ca.crt".into()), identity: None, verify_hostname: true };
//! let client = reloader.client("xds", &tls, &[b"h2"])?;
//! let connector = tokio_rustls::TlsConnector::from(client.config());
//! # Ok(())
//! # }
//! ```
//!
//! Cryptography comes from ring, always. The process-wide default of rustls is not used, since a dependency may
//! change it.

mod client;
mod der;
mod files;
mod flags;
mod material;
mod peer;
mod reload;
mod server;

pub(crate) use self::client::{CA_AS_END_ENTITY, CA_AS_END_ENTITY_IN_WORDS};
pub use self::client::{ClientTls, LiveClient};
pub(crate) use self::files::read_bounded;
pub use self::files::{Fault, Identity, TlsError, TlsFile};
pub use self::flags::{TlsClient, TlsFlags};
pub use self::peer::{ClientCertificate, PeerName};
pub use self::reload::{CertificateStatus, Reloader, TlsStatus};
pub use self::server::{ClientAuth, LiveServer, ServerTls};

#[cfg(test)]
mod tests;

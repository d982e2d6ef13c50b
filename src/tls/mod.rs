//! TLS for clients and listeners: authorities, certificates and keys from files.
//!
//! The cryptography is ring's, chosen here and not by the process: a dependency may set another default.

mod client;
mod files;

pub use self::client::ClientTls;
pub use self::files::{Fault, Identity, TlsError, TlsFile, trusted_authorities};

//! The Redis store.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// How to reach Redis, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The user to authenticate as; `None` for the default user.
    pub username: Option<String>,
    /// The password; `None` where none is asked for.
    pub password: Option<SecretString>,
    /// How long a connection may take to come up.
    pub connect_timeout: Duration,
    /// How long one charge may take. Below Envoy's own timeout (20 ms by default).
    pub call_timeout: Duration,
    /// Counters outlive their window by a random time of up to this many seconds, so that they do not
    /// all expire at once. 0 for none.
    pub expiration_jitter_max_secs: u32,
}

/// Where Redis listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or address, and a port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

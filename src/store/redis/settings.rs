//! What the operator sets for Redis.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// How to reach Redis, and how long to wait for it.
#[derive(Clone)]
pub struct RedisSettings {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The user to authenticate as; `None` for the default user.
    pub username: Option<String>,
    /// The password; `None` where none is asked for.
    pub password: Option<SecretString>,
    /// The number of the database to count in; `None` for the server's first.
    pub database: Option<u8>,
    /// How long a connection may take to come up.
    pub connect_timeout: Duration,
    /// How long one charge may take. Below Envoy's own timeout (20 ms by default).
    pub call_timeout: Duration,
    /// Counters outlive their window by a random time below this many seconds, so that they do not all
    /// expire at once. 0 for none.
    pub expiration_jitter_max_secs: u32,
}

/// Where Redis listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or address, and a port.
    Tcp {
        /// Name or address; an IPv6 address with or without its brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Debug for RedisSettings {
    /// Everything but the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("endpoint", &self.endpoint)
            .field("database", &self.database)
            .field("connect_timeout", &self.connect_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("expiration_jitter_max_secs", &self.expiration_jitter_max_secs)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Endpoint {
    /// `host:port`, or the path of the socket.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') && !host.starts_with('[') => {
                write!(f, "[{host}]:{port}")
            }
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

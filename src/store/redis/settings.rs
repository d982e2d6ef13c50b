//! Settings of the Redis store.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::tls::ClientTls;

/// Deployment, logins and timeouts of Redis.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Addresses of its servers.
    pub deployment: Deployment,
    /// Logins to its servers.
    pub credentials: Credentials,
    /// The number of the database to count in; `None` for the server's first.
    pub database: Option<u8>,
    /// TLS to all servers, Sentinels included; `None` for connections without it.
    pub tls: Option<ClientTls>,
    /// Timeout of opening a connection.
    pub connect_timeout: Duration,
    /// Timeout of one charge. Below Envoy's own timeout (20 ms by default).
    pub call_timeout: Duration,
    /// Counters outlive their window by a random time below this many seconds, so that they do not all
    /// expire at once. 0 for none.
    pub expiration_jitter_max_secs: u32,
}

/// The clock that sliding windows, sliding logs, token buckets and lockouts go by. Fixed windows begin by the
/// caller's: the window is a part of the counter's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ServerClock {
    /// That of the server that keeps the counter: one for all its clients.
    #[default]
    Own,
    /// The caller's, for tests that pass the time in.
    Callers,
}

/// The servers that Redis or Valkey runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// One server, or whatever stands in front of several and looks like one.
    Single(Endpoint),
    /// A primary and its replicas, watched by Sentinels that know which is which.
    Sentinel {
        /// The name that the Sentinels know the primary by.
        primary: String,
        /// Some of them; never empty.
        sentinels: Vec<Endpoint>,
    },
    /// Primaries that share the slots of a Redis Cluster.
    Cluster {
        /// Some of its nodes; never empty.
        nodes: Vec<Endpoint>,
    },
}

/// Logins.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// To the servers that count.
    pub server: Login,
    /// To Sentinels.
    pub sentinel: Login,
}

/// Login to one kind of server.
#[derive(Clone, Default)]
pub enum Login {
    /// Without being asked.
    #[default]
    Open,
    /// By this password.
    Password {
        /// The user; `None` for the default user.
        username: Option<String>,
        /// The password.
        password: SecretString,
    },
    /// By what this file holds when a connection is made: `password` or `user:password`.
    File(PathBuf),
}

impl fmt::Debug for Login {
    /// Nothing of a password or a user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Password { .. } => f.write_str("Password"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Address of a Redis server.
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

impl fmt::Display for Deployment {
    /// `host:port`, or all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, endpoints) = match self {
            Self::Single(endpoint) => return endpoint.fmt(f),
            Self::Sentinel { primary, sentinels } => (format!("{primary} of Sentinels"), sentinels),
            Self::Cluster { nodes } => ("Cluster".to_owned(), nodes),
        };
        let endpoints: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
        write!(f, "{what} {}", endpoints.join(","))
    }
}

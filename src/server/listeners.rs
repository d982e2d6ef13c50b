//! The listeners: their addresses, their sockets, and their TLS.

use std::io;
use std::sync::Arc;

use super::ServeSettings;
use super::listen::{Address, BindError, Listener, Purpose};
use crate::tls::{LiveServer, Reloader, ServerTls, TlsError};

/// Addresses of the listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    /// `/json`, `/v1/check` and `/healthcheck`.
    pub http: Address,
    /// Envoy's protocol.
    pub grpc: Address,
    /// `/rlconfig`, `/stats` and `/metrics`.
    pub debug: Address,
    /// API and console for operators; `None` if they are off.
    pub admin: Option<Address>,
    /// Additional address of metrics, and their path.
    pub prometheus: Option<(Address, String)>,
}

/// Bound listeners.
#[derive(Debug)]
pub struct Listeners {
    pub(super) http: Listener,
    pub(super) grpc: Listener,
    pub(super) debug: Listener,
    /// Configured hosts of the HTTP and the debug port; empty if they are addresses.
    pub(super) http_names: Arc<[String]>,
    pub(super) debug_names: Arc<[String]>,
    /// The admin listener and its configured host; empty if that is an address.
    pub(super) admin: Option<(Listener, Vec<String>)>,
    pub(super) prometheus: Option<(Listener, String)>,
}

impl Listeners {
    /// Binds all addresses. Must be called inside a runtime.
    ///
    /// # Errors
    /// [`BindError`] of the first address that cannot be bound.
    pub fn bind(settings: &ListenSettings) -> Result<Self, BindError> {
        let prometheus = match &settings.prometheus {
            Some((address, path)) => Some((address.bind(Purpose::Prometheus)?, path.clone())),
            None => None,
        };
        Ok(Self {
            http: settings.http.bind(Purpose::Http)?,
            grpc: settings.grpc.bind(Purpose::Grpc)?,
            debug: settings.debug.bind(Purpose::Debug)?,
            http_names: settings.http.name().into_iter().collect(),
            debug_names: settings.debug.name().into_iter().collect(),
            admin: match &settings.admin {
                Some(address) => Some((address.bind(Purpose::Admin)?, address.name().into_iter().collect())),
                None => None,
            },
            prometheus,
        })
    }

    /// Actual addresses: port 0 is replaced by the port that was free.
    ///
    /// # Errors
    /// Error of the operating system if a socket has no address.
    pub fn addresses(&self) -> io::Result<ListenSettings> {
        let prometheus = match &self.prometheus {
            Some((listener, path)) => Some((listener.address()?, path.clone())),
            None => None,
        };
        Ok(ListenSettings {
            http: self.http.address()?,
            grpc: self.grpc.address()?,
            debug: self.debug.address()?,
            admin: self.admin.as_ref().map(|(listener, _)| listener.address()).transpose()?,
            prometheus,
        })
    }
}

/// TLS of the listeners; `None` for plain text.
#[derive(Clone, Debug, Default)]
pub struct ListenerTls {
    pub(super) grpc: Option<LiveServer>,
    pub(super) http: Option<LiveServer>,
    pub(super) admin: Option<LiveServer>,
}

impl ListenerTls {
    /// Reads the files of `settings` and has `certificates` reload them.
    ///
    /// # Errors
    /// [`TlsError`] with the first file that cannot be used, and why.
    pub fn load(settings: &ServeSettings, certificates: &Reloader) -> Result<Self, TlsError> {
        let server = |user, tls: &Option<ServerTls>, alpn| {
            tls.as_ref().map(|tls| certificates.server(user, tls, alpn)).transpose()
        };
        Ok(Self {
            grpc: server("grpc", &settings.grpc_tls, &[b"h2"])?,
            http: server("http", &settings.http_tls, &[b"h2", b"http/1.1"])?,
            admin: server("admin", &settings.admin_tls, &[b"h2", b"http/1.1"])?,
        })
    }
}

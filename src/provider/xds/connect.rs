//! Connections to the management server: TCP or a Unix socket, with or without TLS.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint};

use crate::tcp::{self, KeepAlive};
use crate::tls::LiveClient;

/// Upper bound on connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper bound on the handshakes of TLS and HTTP/2.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Keep-alive of TCP: a peer that is gone is noticed within a minute. It costs the server nothing, while many
/// servers close connections with frequent pings of HTTP/2.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { idle: Duration::from_secs(30), unacknowledged: Duration::from_secs(30) };
/// Time within which the server must answer a ping of HTTP/2, unless their interval is shorter.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Flow-control window: a large snapshot takes few round trips.
const WINDOW_BYTES: u32 = 1 << 20;

/// Address of the management server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// Host, resolved for each connection, and port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl ServerAddress {
    /// Address in one of the forms of gRPC: `host:port`, `dns:///host:port`, `unix:path` or `unix:///path`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return (!path.is_empty()).then(|| Self::Unix(path.into()));
        }
        let schemes = ["dns:///", "passthrough:///", "dns:"];
        let text = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
        let (host, port) = text.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_valid = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(is_host),
        };
        let port = port.parse().ok().filter(|port| *port > 0)?;
        is_valid.then(|| Self::Tcp { host: bare.unwrap_or(host).to_owned(), port })
    }

    /// Value of `:authority`.
    fn authority(&self) -> String {
        match self {
            Self::Tcp { .. } => self.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// Name that a certificate must have.
    fn host(&self) -> &str {
        match self {
            Self::Tcp { host, .. } => host,
            Self::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// TLS of a connection.
#[derive(Clone)]
pub(super) struct ConnectTls {
    pub(super) client: LiveClient,
    /// Name that the certificate must have in place of the host.
    pub(super) server_name: Option<String>,
}

type Plain = Either<TcpStream, UnixStream>;
type Io = Either<tokio_rustls::client::TlsStream<Plain>, Plain>;

/// Connects, with a ping of HTTP/2 every `ping_interval`.
///
/// # Errors
/// The reason, for each address that was tried.
pub(super) async fn connect(
    address: &ServerAddress,
    tls: Option<&ConnectTls>,
    ping_interval: Option<Duration>,
) -> Result<Channel, String> {
    let io = dial(address, tls).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let uri =
        |scheme| Uri::builder().scheme(scheme).authority(address.authority()).path_and_query("/").build();
    let invalid = |error: http::Error| format!("{address}: {error}");
    let (target, origin) = (uri("http").map_err(invalid)?, uri(scheme).map_err(invalid)?);
    let mut endpoint = Endpoint::from(target)
        .origin(origin)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    if let Some(interval) = ping_interval {
        endpoint = endpoint
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(interval.min(PING_TIMEOUT))
            .keep_alive_while_idle(true);
    }
    endpoint = endpoint
        .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| chain(&error))?;
    let mut io = Some(TokioIo::new(io));
    // A channel would connect again by itself; here each stream has a connection of its own.
    let connector = tower::service_fn(move |_: Uri| {
        let io = io.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(io)
    });
    let connecting = timeout(HANDSHAKE_TIMEOUT, endpoint.connect_with_connector(connector));
    match connecting.await {
        Ok(connected) => connected.map_err(|error| format!("{address}: {}", chain(&error))),
        Err(_) => Err(format!("{address}: HTTP/2 handshake timed out")),
    }
}

async fn dial(address: &ServerAddress, tls: Option<&ConnectTls>) -> Result<Io, String> {
    let stream = match address {
        ServerAddress::Tcp { host, port } => {
            let found = lookup_host((host.as_str(), *port)).await;
            let addresses: Vec<_> =
                found.map_err(|error| format!("cannot resolve {host}: {error}"))?.collect();
            Either::Left(dial_first(&addresses).await?)
        }
        ServerAddress::Unix(path) => {
            let connected = UnixStream::connect(path).await;
            Either::Right(connected.map_err(|error| format!("{}: {error}", path.display()))?)
        }
    };
    let Some(ConnectTls { client, server_name }) = tls else { return Ok(Either::Right(stream)) };
    let name = server_name.as_deref().unwrap_or_else(|| address.host());
    let server_name =
        ServerName::try_from(name.to_owned()).map_err(|_| format!("'{name}' is not the name of a server"))?;
    let handshake = TlsConnector::from(client.config()).connect(server_name, stream);
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => Ok(Either::Left(stream)),
        Ok(Err(error)) => {
            let error = client.explain(error.to_string());
            Err(format!("{address}: TLS handshake for the name '{name}' failed: {error}"))
        }
        Err(_) => Err(format!("{address}: TLS handshake timed out")),
    }
}

/// The first of the addresses that can be reached.
async fn dial_first(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut errors = Vec::new();
    for address in addresses {
        let error = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match tcp::set_options(&stream, KEEP_ALIVE) {
                Ok(()) => return Ok(stream),
                Err(error) => error.to_string(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "connecting timed out".to_owned(),
        };
        errors.push(format!("{address}: {error}"));
    }
    Err(if errors.is_empty() { "the name has no address".to_owned() } else { errors.join("; ") })
}

/// An error with its causes: the outermost alone says `transport error`.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_have_the_forms_of_grpc() {
        for (text, expected) in [
            ("envoy-gateway:18001", Some("envoy-gateway:18001")),
            ("dns:///envoy-gateway:18001", Some("envoy-gateway:18001")),
            ("10.0.0.1:1", Some("10.0.0.1:1")),
            ("[::1]:18000", Some("[::1]:18000")),
            ("unix:/run/xds.sock", Some("unix:/run/xds.sock")),
            ("unix:///run/xds.sock", Some("unix:/run/xds.sock")),
            ("envoy-gateway", None),
            ("envoy-gateway:0", None),
            ("envoy-gateway:99999", None),
            (":18000", None),
            ("::1:18000", None),
            ("http://envoy-gateway:18001", None),
            ("a b:1", None),
            ("unix:", None),
        ] {
            let found = ServerAddress::parse(text).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_dead_is_passed_over() {
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let stream = dial_first(&[dead, alive]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEP_ALIVE.idle);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(KEEP_ALIVE.unacknowledged));

        let error = dial_first(&[dead]).await.unwrap_err();
        assert!(error.starts_with(&format!("{dead}: ")), "{error}");
    }
}

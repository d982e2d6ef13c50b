//! Listening sockets. They are bound before anything else happens, so that a port in use is reported at once.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::tcp::{self, KeepAlive};

/// Upper bound on connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// TCP keep-alive detects peers that vanished. HTTP/2 pings would also detect peers that hang, but hyper would
/// then account for every frame; a hanging peer costs only its slot.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { idle: Duration::from_secs(60), unacknowledged: Duration::from_secs(90) };

/// Address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host name or address, and port; 0 for a free one.
    Tcp {
        /// `0.0.0.0` for every IPv4 address of the machine, `::` for every address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Unix socket. A stale socket file is replaced.
    Unix(PathBuf),
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({}): {reason}{}", purpose.name(), purpose.hint(address))]
pub struct BindError {
    address: Address,
    purpose: Purpose,
    reason: String,
}

/// The use of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Http,
    Grpc,
    Debug,
    Admin,
    Prometheus,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Grpc => "gRPC",
            Self::Debug => "debug",
            Self::Admin => "admin",
            Self::Prometheus => "Prometheus",
        }
    }

    /// Remedy: the settings that change the address.
    const fn hint(self, address: &Address) -> &'static str {
        match (self, address) {
            (Self::Grpc, Address::Unix(_)) => "; set GRPC_UDS or --grpc-uds",
            (Self::Http, _) => "; set HOST and PORT, or --host and --port",
            (Self::Grpc, _) => "; set GRPC_HOST and GRPC_PORT, or --grpc-host and --grpc-port",
            (Self::Debug, _) => "; set DEBUG_HOST and DEBUG_PORT, or --debug-host and --debug-port",
            (Self::Admin, _) => "; set ADMIN_HOST and ADMIN_PORT, or --admin-host and --admin-port",
            (Self::Prometheus, _) => "; set PROMETHEUS_ADDR or --prometheus-addr",
        }
    }
}

/// Listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener, SocketFile),
}

/// Accepted connection, before a core serves it.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(std::net::TcpStream, IpAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// Removes the socket file when the listener is dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Address {
    /// Host, if it is a name and not an address.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::Tcp { host, .. } => host.parse::<IpAddr>().is_err().then(|| host.clone()),
            Self::Unix(_) => None,
        }
    }

    /// Binds the address for `purpose`.
    ///
    /// # Errors
    /// [`BindError`]
    pub(super) fn bind(&self, purpose: Purpose) -> Result<Listener, BindError> {
        let bound = match self {
            Self::Tcp { host, port } => bind_tcp(host, *port),
            Self::Unix(path) => bind_unix(path),
        };
        bound.map_err(|error| BindError { address: self.clone(), purpose, reason: reason(&error) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Cause in words, without the error number of the operating system.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

impl Stream {
    /// Bounds the bytes that the kernel keeps for the peer to `bytes`.
    pub(super) fn bound_send_buffer(&self, bytes: usize) {
        if let Self::Tcp(stream, _) = self
            && let Err(error) = socket2::SockRef::from(stream).set_send_buffer_size(bytes)
        {
            tracing::debug!(%error, "send buffer not bounded");
        }
    }

    /// Address of the peer; `None` for unix sockets.
    pub(super) const fn peer_address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl Listener {
    /// Actual address: port 0 is replaced by the port that was free.
    pub(super) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => {
                let address = listener.local_addr()?;
                Ok(Address::Tcp { host: address.ip().to_string(), port: address.port() })
            }
            Self::Unix(_, SocketFile(path)) => Ok(Address::Unix(path.clone())),
        }
    }

    /// Waits for a connection.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // The peer may have gone, which some systems report like a socket that does not listen.
                let gone = |_| io::Error::from_raw_os_error(rustix::io::Errno::CONNABORTED.raw_os_error());
                tcp::set_options(&stream, KEEP_ALIVE).map_err(gone)?;
                stream.into_std().map(|stream| Stream::Tcp(stream, peer.ip()))
            }
            Self::Unix(listener, _) => listener.accept().await?.0.into_std().map(Stream::Unix),
        }
    }
}

fn bind_tcp(host: &str, port: u16) -> io::Result<Listener> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    // A name may have several addresses: use the first that can be bound.
    let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    for address in addresses {
        outcome = bind_address(address);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Listens on `address`. `::` is every address of the machine, and falls back to IPv4 where IPv6 is switched off.
fn bind_address(address: SocketAddr) -> io::Result<Listener> {
    bind_or_fall_back(address, bind_socket)
}

fn bind_or_fall_back<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(address) {
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && lacks_ipv6(&error) => {
            let all_ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::warn!(%error, %address, instead = %all_ipv4, "IPv6 is not available, listening on IPv4 alone");
            bind(all_ipv4)
        }
        outcome => outcome,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].contains(&errno))
}

fn bind_socket(address: SocketAddr) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `::` accepts IPv4 too.
        socket.set_only_v6(false)?;
    }
    // Allow a port whose old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    tokio::net::TcpListener::from_std(socket.into()).map(Listener::Tcp)
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    let is_socket = path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
    // A killed process leaves its file behind. If connecting succeeds, a process still listens.
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = tokio::net::UnixListener::bind(path)?;
    Ok(Listener::Unix(listener, SocketFile(path.to_owned())))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "socket file cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::local::Peer;

    #[tokio::test]
    async fn all_addresses_of_ipv6_include_those_of_ipv4() {
        let listener = bind_address(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        let Address::Tcp { port, .. } = listener.address().unwrap() else { panic!("it has a port") };
        let (accepted, peer) =
            tokio::join!(listener.accept(), tokio::net::TcpStream::connect(("127.0.0.1", port)));
        let peer_address = accepted.unwrap().peer_address();
        assert!(Peer { address: peer_address }.is_local() && peer.is_ok());
    }

    #[test]
    fn without_ipv6_all_addresses_are_those_of_ipv4() {
        let lacks = |errno: rustix::io::Errno| {
            move |address: SocketAddr| {
                if address.is_ipv6() { Err(io::Error::from(errno)) } else { Ok(address) }
            }
        };
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8081));
        for errno in [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL] {
            let bound = bind_or_fall_back(all, lacks(errno)).unwrap();
            assert_eq!(bound, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8081)));
            // An address that was asked for by itself has no substitute.
            let one = SocketAddr::from((Ipv6Addr::LOCALHOST, 8081));
            assert!(bind_or_fall_back(one, lacks(errno)).is_err());
        }
        assert!(bind_or_fall_back(all, lacks(rustix::io::Errno::ADDRINUSE)).is_err());
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_noticed_whether_or_not_it_owes_an_answer() {
        let listener = bind_address(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let Address::Tcp { host, port } = listener.address().unwrap() else { panic!("it has a port") };
        let (accepted, _peer) = tokio::join!(listener.accept(), tokio::net::TcpStream::connect((host, port)));
        let Stream::Tcp(stream, _) = accepted.unwrap() else { panic!("it has a port") };
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEP_ALIVE.idle);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(KEEP_ALIVE.unacknowledged));
    }
}

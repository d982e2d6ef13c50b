//! Connection to a statsd server over TCP or UDP. It reconnects with a back-off, and resolves the name each time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::{Instant, sleep, timeout};

use super::StatsdTransport;

/// Upper bound on a datagram, in bytes, so that it fits into an Ethernet frame with IPv6 and a tunnel.
const DATAGRAM_BYTES_MAX: usize = 1432;
/// Number of datagrams between two pauses: the default buffer of a receiver that does not read holds this many.
const DATAGRAMS_AT_ONCE: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Age at which a UDP socket is replaced: a sender of datagrams gets no error when the name resolves to another
/// address.
const UDP_MAX_AGE: Duration = Duration::from_secs(60);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Connection to a statsd server.
#[derive(Debug)]
pub(super) struct Connection {
    host: String,
    port: u16,
    transport: StatsdTransport,
    socket: Option<Socket>,
    /// Failures since the last flush that was sent.
    failures: u32,
    retry_at: Instant,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp { socket: UdpSocket, since: Instant },
}

impl Connection {
    pub(super) fn new(host: String, port: u16, transport: StatsdTransport) -> Self {
        Self { host, port, transport, socket: None, failures: 0, retry_at: Instant::now() }
    }

    /// True if lines can be sent. Connects if necessary, unless it is too early for another attempt.
    pub(super) async fn is_ready(&mut self) -> bool {
        if self.socket.as_ref().is_some_and(Socket::is_usable) {
            return true;
        }
        self.socket = None;
        if Instant::now() < self.retry_at {
            return false;
        }
        let connected = timeout(CONNECT_TIMEOUT, self.connect()).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => self.failed(&error),
        }
        self.socket.is_some()
    }

    /// Sends `lines`, each with its line end. Lost lines are not sent again, since some of them may have arrived.
    pub(super) async fn send(&mut self, lines: &str) {
        let sent = match &mut self.socket {
            None => return,
            Some(Socket::Tcp(stream)) => timeout(WRITE_TIMEOUT, stream.write_all(lines.as_bytes())).await,
            Some(Socket::Udp { socket, .. }) => Ok(send_datagrams(socket, lines).await),
        };
        match sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(()) if self.failures > 0 => {
                self.failures = 0;
                tracing::warn!(host = self.host, port = self.port, "metrics are sent to statsd again");
            }
            Ok(()) => {}
            Err(error) => self.failed(&error),
        }
    }

    async fn connect(&self) -> io::Result<Socket> {
        if self.transport == StatsdTransport::Tcp {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            return Ok(Socket::Tcp(stream));
        }
        let mut addresses: Vec<_> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        // `localhost` resolves to IPv4 and IPv6, and most servers listen on IPv4 alone.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        // After each failure, the next address is tried.
        let turn = self.failures as usize % addresses.len().max(1);
        let Some(address) = addresses.get(turn) else { return Err(io::ErrorKind::NotFound.into()) };
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        Ok(Socket::Udp { socket, since: Instant::now() })
    }

    fn failed(&mut self, error: &io::Error) {
        self.socket = None;
        if self.failures == 0 {
            tracing::warn!(host = self.host, port = self.port, %error, "cannot send metrics to statsd");
        }
        let backoff = BACKOFF_MIN.saturating_mul(1 << self.failures.min(6)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // Random, so that replicas do not reconnect to a server all at once.
        self.retry_at = Instant::now() + backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
    }
}

impl Socket {
    /// False for a connection that the server has closed, which the next write would not notice, and for an
    /// address that was resolved long ago.
    fn is_usable(&self) -> bool {
        match self {
            Self::Udp { since, .. } => since.elapsed() < UDP_MAX_AGE,
            Self::Tcp(stream) => match stream.try_read(&mut [0; 64]) {
                Ok(read) => read > 0,
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            },
        }
    }
}

async fn send_datagrams(socket: &UdpSocket, lines: &str) -> io::Result<()> {
    for (sent, datagram) in datagrams(lines).enumerate() {
        if sent > 0 && sent % DATAGRAMS_AT_ONCE == 0 {
            sleep(PAUSE).await;
        }
        socket.send(datagram.as_bytes()).await?;
    }
    Ok(())
}

/// `lines` in parts of at most [`DATAGRAM_BYTES_MAX`], without the last line end. A line that is longer is left
/// out.
fn datagrams(lines: &str) -> impl Iterator<Item = &str> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        loop {
            let mut end = 0;
            for line in rest.split_inclusive('\n') {
                if end + line.trim_end_matches('\n').len() > DATAGRAM_BYTES_MAX {
                    break;
                }
                end += line.len();
            }
            if end > 0 {
                let (datagram, after) = rest.split_at(end);
                rest = after;
                return Some(datagram.trim_end_matches('\n'));
            }
            rest = rest.split_once('\n')?.1;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_whole_lines_and_bounded() {
        let lines: String = (0..500).map(|line| format!("metric.{line}:1|c\n")).collect();
        let parts: Vec<_> = datagrams(&lines).collect();
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() <= DATAGRAM_BYTES_MAX));
        assert!(parts[..parts.len() - 1].iter().all(|part| part.len() > DATAGRAM_BYTES_MAX - 20));
        assert_eq!(parts.join("\n") + "\n", lines);
        assert_eq!(datagrams("").count(), 0);
    }

    #[test]
    fn a_line_that_exceeds_a_datagram_is_left_out() {
        let fits = "x".repeat(DATAGRAM_BYTES_MAX);
        let lines = format!("a:1|c\n{fits}x\n{fits}\nb:1|c\n{}\n", "ä".repeat(2_000));
        assert_eq!(datagrams(&lines).collect::<Vec<_>>(), ["a:1|c", &fits, "b:1|c"]);
    }
}

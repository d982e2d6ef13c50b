//! Options of TCP connections.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Time between two keep-alive probes, and the number of unanswered ones after which the peer is gone.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Detection of peers that vanished.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// Time without data before the first probe.
    pub idle: Duration,
    /// Upper bound on the time that sent data stays unacknowledged, when the kernel sends no probes. Linux only.
    pub unacknowledged: Duration,
}

/// Sends small writes of `stream` at once, and has the kernel detect that its peer vanished.
///
/// # Errors
/// That of the operating system.
pub fn set_options(stream: &TcpStream, keep_alive: KeepAlive) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(keep_alive.idle);
    socket.set_tcp_keepalive(&probes.with_interval(PROBE_INTERVAL).with_retries(PROBES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(keep_alive.unacknowledged))?;
    Ok(())
}

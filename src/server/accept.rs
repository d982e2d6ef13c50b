//! Accept loops: one for each listener, on the main runtime.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{self, Shutdown};
use super::connections::Connections;
use super::connections::Slot;
use super::cores::{Cores, Protocol};
use super::listen::{Listener, Stream};
use super::local::Peer;
use super::transport::Transport;
use crate::tls::LiveServer;

/// Pause after `accept` failed for lack of a resource, which an immediate retry would not free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that the kernel may keep for an operator, so that one who stops reading is noticed soon.
const OPERATOR_SEND_BUFFER: usize = 64 * 1024;
/// Time between two log lines of one listener.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts connections and hands them to cores. Returns only if the listener cannot be used any more.
pub(super) async fn accept(
    listener: Listener,
    protocol: Protocol,
    cores: Arc<Cores>,
    connections: Arc<Connections>,
) {
    let mut acceptor = Acceptor::new(listener, connections);
    while let Some((stream, slot)) = acceptor.accept().await {
        cores.hand_over(stream, protocol, slot);
    }
}

/// Serves operators' pages on the main runtime, apart from the cores. Returns only if the listener cannot be used any
/// more.
pub(super) async fn serve_operators(
    listener: Listener,
    tls: Option<LiveServer>,
    router: axum::Router,
    connections: Arc<Connections>,
) {
    let mut acceptor = Acceptor::new(listener, connections);
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            accepted = acceptor.accept() => {
                let Some((stream, slot)) = accepted else { return };
                let router = router.clone().layer(Extension(Peer { address: stream.peer_address() }));
                stream.bound_send_buffer(OPERATOR_SEND_BUFFER);
                let transport = Transport { stream, tls: tls.clone() };
                served.spawn(async move {
                    let connection = Arc::clone(slot.connection());
                    connection::serve_http(transport, connection, router, Shutdown::default()).await;
                    drop(slot);
                });
            }
            Some(_) = served.join_next() => {}
        }
    }
}

/// A listener with the list of its connections.
struct Acceptor {
    listener: Listener,
    connections: Arc<Connections>,
    failures: Failures,
    /// Connection that was accepted and waits for a slot.
    waiting: Option<Stream>,
}

impl Acceptor {
    fn new(listener: Listener, connections: Arc<Connections>) -> Self {
        Self { listener, connections, failures: Failures::default(), waiting: None }
    }

    /// Waits for the next connection and a slot for it; `None` if there can be no more. Cancel-safe.
    async fn accept(&mut self) -> Option<(Stream, Slot)> {
        loop {
            if let Some(stream) = &self.waiting {
                let slot = self.connections.admit(stream.peer_address()).await;
                if let Some(stream) = self.waiting.take() {
                    return Some((stream, slot));
                }
            }
            match self.listener.accept().await {
                Ok(stream) => self.waiting = Some(stream),
                Err(error) if is_final(&error) => {
                    tracing::error!(%error, "listener failed");
                    return None;
                }
                Err(error) => {
                    self.failures.report(&error, Instant::now());
                    if !concerns_one_peer(&error) {
                        // If file descriptors are exhausted, closing an idle connection frees one.
                        self.connections.displace();
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
}

/// Failures of `accept`; one per interval is logged.
#[derive(Debug, Default)]
struct Failures {
    logged: Option<Instant>,
    suppressed: u64,
}

impl Failures {
    fn report(&mut self, error: &io::Error, now: Instant) {
        if self.is_due(now) {
            tracing::warn!(%error, suppressed = self.suppressed, "accept failed");
            self.suppressed = 0;
        }
    }

    /// True if to log a failure at `now`; otherwise it is counted as suppressed.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.logged.is_some_and(|logged| now.saturating_duration_since(logged) < LOG_INTERVAL) {
            self.suppressed += 1;
            return false;
        }
        self.logged = Some(now);
        true
    }
}

/// True if `accept` fails from now on, because the socket does not listen any more. A loop that continued would use
/// all of its core and accept no connection, while the process looks alive.
fn is_final(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| [Errno::INVAL, Errno::BADF, Errno::NOTSOCK].contains(&errno))
}

/// True if `accept` failed because of one connection, so that the next one can be accepted at once. Linux also
/// reports pending network errors of the new socket (<https://man7.org/linux/man-pages/man2/accept.2.html>).
fn concerns_one_peer(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| {
        [
            Errno::CONNABORTED,
            Errno::CONNRESET,
            Errno::INTR,
            Errno::PERM,
            Errno::PROTO,
            Errno::NOPROTOOPT,
            Errno::OPNOTSUPP,
            Errno::NETDOWN,
            Errno::NETUNREACH,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
            Errno::TIMEDOUT,
            Errno::NOTCONN,
        ]
        .contains(&errno)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_closes_early_delays_no_other() {
        let failed = |errno: rustix::io::Errno| concerns_one_peer(&errno.into());
        assert!(failed(rustix::io::Errno::CONNABORTED) && failed(rustix::io::Errno::PERM));
        assert!(!failed(rustix::io::Errno::MFILE) && !failed(rustix::io::Errno::NOBUFS));
        assert!(!concerns_one_peer(&io::Error::other("no number")));
    }

    #[test]
    fn failures_are_logged_once_a_second_and_counted_in_between() {
        let (start, mut failures) = (Instant::now(), Failures::default());
        let due = [0, 10, 999, 1_000, 1_001, 2_500];
        let due = due.map(|millis| failures.is_due(start + Duration::from_millis(millis)));
        assert_eq!(due, [true, false, false, true, false, true]);
        assert_eq!(failures.suppressed, 3);
    }
}

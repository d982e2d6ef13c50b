//! State of one connection: its requests, its answers that have not been sent, and whether it must close.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Bounds, MAX_UNSENT_BYTES};

/// Upper bound on the time that a peer leaves answers unread without sending another request.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that an answer takes beside its body: the state of its stream.
pub(super) const ANSWER_BYTES: u64 = 6 << 10;
/// Part of the time for the first request that is reserved for a GOAWAY: a well-behaved peer may connect early.
const LEAVE_MARGIN: Duration = Duration::from_millis(500);

/// One open request, and one byte of an answer that has not been sent, in [`Connection::requests`].
const OPEN: u64 = 1;
const UNSENT: u64 = 1 << 24;

/// State of one connection, shared by the core that serves it and the listener.
#[derive(Debug)]
pub(in crate::server) struct Connection {
    pub(super) address: Option<IpAddr>,
    accepted: Instant,
    /// Open requests in the low 24 bits; the bytes of their answers that have not been sent above.
    requests: AtomicU64,
    /// Start of the latest request, or latest progress of an event stream, in microseconds from `accepted`.
    latest_us: AtomicU64,
    has_received: AtomicBool,
    pub(super) closing: AtomicU8,
    close: Notify,
}

/// Urgency of closing a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(in crate::server) enum Closing {
    /// Not at all.
    No,
    /// After a GOAWAY and the requests in flight.
    Idle,
    /// Like `Idle`, with less time for the peer: a new connection waits for the slot.
    Displaced,
    /// At once.
    Cut,
}

impl Closing {
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::No,
            1 => Self::Idle,
            2 => Self::Displaced,
            _ => Self::Cut,
        }
    }
}

impl Connection {
    pub(super) fn new(address: Option<IpAddr>, accepted: Instant) -> Self {
        Self {
            address,
            accepted,
            requests: AtomicU64::new(0),
            latest_us: AtomicU64::new(0),
            has_received: AtomicBool::new(false),
            closing: AtomicU8::new(Closing::No as u8),
            close: Notify::new(),
        }
    }

    /// Opens a request whose headers arrived at `now`.
    pub(in crate::server) fn open(self: &Arc<Self>, now: Instant) -> OpenRequest {
        self.requests.fetch_add(OPEN, Ordering::Relaxed);
        self.touch(now);
        OpenRequest { connection: Arc::clone(self), counted: OPEN }
    }

    fn touch(&self, now: Instant) {
        let latest = now.saturating_duration_since(self.accepted).as_micros();
        self.latest_us.store(u64::try_from(latest).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Records that a request has arrived in full.
    pub(in crate::server) fn received(&self) {
        // Reading first keeps the cache line shared with the sweep.
        if !self.has_received.load(Ordering::Relaxed) {
            self.has_received.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn has_received(&self) -> bool {
        self.has_received.load(Ordering::Relaxed)
    }

    fn is_open(&self) -> bool {
        self.requests.load(Ordering::Relaxed) != 0
    }

    /// Bytes of answers that the peer has not taken.
    pub(super) fn unsent(&self) -> u64 {
        self.requests.load(Ordering::Relaxed) / UNSENT
    }

    fn latest(&self) -> Instant {
        self.accepted + Duration::from_micros(self.latest_us.load(Ordering::Relaxed))
    }

    /// Start of the idle time; `None` while a request is open.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (!self.is_open()).then(|| self.latest())
    }

    /// True if it was asked to give way to another connection, or to close at once.
    pub(super) fn is_leaving(&self) -> bool {
        self.closing.load(Ordering::Relaxed) >= Closing::Displaced as u8
    }

    /// Asks the serving core to close it.
    pub(super) fn close(&self, closing: Closing) {
        if self.closing.fetch_max(closing as u8, Ordering::Relaxed) < closing as u8 {
            self.close.notify_one();
        }
    }

    /// Waits until it must close more urgently than `than`. For one task only.
    pub(in crate::server) async fn closing(&self, than: Closing) -> Closing {
        loop {
            let closing = Closing::from_u8(self.closing.load(Ordering::Relaxed));
            if closing > than {
                return closing;
            }
            self.close.notified().await;
        }
    }

    /// Waits until no request has been open for `period`.
    pub(in crate::server) async fn wait_until_quiet(&self, period: Duration) {
        loop {
            let before = self.latest_us.load(Ordering::Relaxed);
            tokio::time::sleep(period).await;
            if !self.is_open() && self.latest_us.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Urgency at `now` by the time bounds.
    pub(super) fn closing_at(&self, now: Instant, bounds: &Bounds) -> Closing {
        if !self.has_received() {
            let age = now.saturating_duration_since(self.accepted);
            return match () {
                () if age >= bounds.first_request => Closing::Cut,
                () if age + LEAVE_MARGIN.min(bounds.first_request / 2) >= bounds.first_request => {
                    Closing::Idle
                }
                () => Closing::No,
            };
        }
        let quiet = now.saturating_duration_since(self.latest());
        if self.unsent() > 0 && quiet >= SEND_TIMEOUT {
            return Closing::Cut;
        }
        let is_idle = !self.is_open() && bounds.idle.is_some_and(|idle| quiet >= idle);
        if is_idle { Closing::Idle } else { Closing::No }
    }
}

/// An open request, from its headers until its answer was sent or its stream has ended.
#[derive(Debug)]
pub(in crate::server) struct OpenRequest {
    connection: Arc<Connection>,
    /// Value added to [`Connection::requests`].
    counted: u64,
}

impl OpenRequest {
    /// Records that the request has arrived in full.
    pub(in crate::server) fn received(&self) {
        self.connection.received();
    }

    /// Notes that an answer of `bytes` is ready, and that only the peer can delay it now.
    pub(in crate::server) fn answered(&mut self, bytes: u64) {
        if self.counted == OPEN {
            let unsent = (ANSWER_BYTES + bytes).min(MAX_UNSENT_BYTES) * UNSENT;
            self.connection.requests.fetch_add(unsent, Ordering::Relaxed);
            self.counted += unsent;
        }
    }

    /// Notes that the peer reads a response that never ends.
    pub(in crate::server) fn progressed(&self, now: Instant) {
        self.connection.touch(now);
    }

    pub(in crate::server) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.connection.requests.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

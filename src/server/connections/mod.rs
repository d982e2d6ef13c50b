//! Open connections of a listener, bounded in number and in time.
//!
//! A connection must complete its first request soon and may be idle for a bounded time. At the bound, the
//! connection that has been idle longest is closed for a new one. An address with more than its share loses its
//! own connections first, so that one client cannot keep others out. Below the bound a single address may have
//! all connections, as a fleet of proxies behind one gateway does.

mod connection;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

pub(super) use self::connection::{Closing, Connection, OpenRequest};

/// Upper bound on the bytes of answers that the peers of a listener leave unread together.
const MAX_UNSENT_BYTES: u64 = 64 << 20;
/// Time to wait for a displaced connection before another one is displaced.
const DISPLACE_TIMEOUT: Duration = Duration::from_millis(100);
/// Victims found by one search, which examines all connections.
const MAX_VICTIMS: usize = 64;
/// Connections examined under one lock of the list.
const SWEEP_CHUNK: usize = 256;

/// The bounds of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections, at least 1.
    pub(super) max: usize,
    /// Connections of one address that do not give way before those of others.
    pub(super) share: usize,
    /// Time from accept to the first request that has arrived in full.
    pub(super) first_request: Duration,
    /// Time without a request; `None` for no bound.
    pub(super) idle: Option<Duration>,
}

/// The open connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    bounds: Bounds,
    listed: Mutex<ConnectionList>,
    left: Notify,
    displaced: AtomicUsize,
}

#[derive(Debug, Default)]
struct ConnectionList {
    open: Slab<Arc<Connection>>,
    /// Connections that can give way, the one that has been idle longest last.
    victims: Vec<Victim>,
}

/// A connection that was idle when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Victim {
    key: usize,
    idle_since: Instant,
}

/// Slot of a connection; dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Slot {
    connections: Arc<Connections>,
    key: usize,
    connection: Arc<Connection>,
}

impl Slot {
    pub(super) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.connections.listed.lock().open.try_remove(self.key));
        self.connections.left.notify_one();
    }
}

impl Connections {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            listed: Mutex::default(),
            left: Notify::new(),
            displaced: AtomicUsize::new(0),
        })
    }

    /// Adds a connection from `address`, which is `None` for unix sockets. At the bound, waits until another
    /// one has closed.
    pub(super) async fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Slot {
        let address = address.map(network);
        // With room to spare, newcomers need not wait for peers that are slow to leave.
        let spare = (self.bounds.max / 64).min(MAX_VICTIMS);
        loop {
            if self.listed.lock().open.len() + spare >= self.bounds.max {
                self.displace_for(address);
            }
            let place = async {
                loop {
                    match self.place(address) {
                        Some(slot) => return slot,
                        None => self.left.notified().await,
                    }
                }
            };
            // If the victim does not close in time, displace another one.
            if let Ok(slot) = timeout(DISPLACE_TIMEOUT, place).await {
                return slot;
            }
        }
    }

    /// Lists a connection, if there is room.
    fn place(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Slot> {
        let mut listed = self.listed.lock();
        if listed.open.len() >= self.bounds.max {
            return None;
        }
        let connection = Arc::new(Connection::new(address, Instant::now()));
        let key = listed.open.insert(Arc::clone(&connection));
        Some(Slot { connections: Arc::clone(self), key, connection })
    }

    /// Closes the connection that has been idle longest, to free its file descriptor.
    pub(super) fn displace(&self) {
        self.displace_for(None);
    }

    fn displace_for(&self, newcomer: Option<IpAddr>) {
        if self.listed.lock().displace(newcomer, self.bounds.share) {
            self.displaced.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Number of connections that were asked to leave for others so far.
    pub(super) fn displaced(&self) -> usize {
        self.displaced.load(Ordering::Relaxed)
    }

    /// Ends the connections whose time is over, and those with the most unsent bytes if these are too many.
    pub(super) fn sweep(&self, now: Instant) {
        let (mut from, mut total, mut unsent) = (0, 0, Vec::new());
        loop {
            let listed = self.listed.lock();
            let end = listed.open.capacity();
            for connection in (from..end.min(from + SWEEP_CHUNK)).filter_map(|key| listed.open.get(key)) {
                match connection.closing_at(now, &self.bounds) {
                    Closing::No => {}
                    closing => connection.close(closing),
                }
                let bytes = connection.unsent();
                if bytes > 0 {
                    total += bytes;
                    unsent.push((bytes, Arc::clone(connection)));
                }
            }
            from += SWEEP_CHUNK;
            if from >= end {
                break;
            }
        }
        if total > MAX_UNSENT_BYTES {
            unsent.sort_by_key(|(bytes, _)| *bytes);
        }
        while total > MAX_UNSENT_BYTES
            && let Some((bytes, connection)) = unsent.pop()
        {
            connection.close(Closing::Cut);
            total -= bytes;
        }
    }
}

impl ConnectionList {
    /// Asks the connection to leave that has been idle longest; `false` if none is idle.
    fn displace(&mut self, newcomer: Option<IpAddr>, share: usize) -> bool {
        if self.displace_victim() {
            return true;
        }
        let open = self.open.iter().map(|(key, connection)| {
            let idle_since = connection.idle_since().filter(|_| !connection.is_leaving());
            (connection.address, idle_since.map(|idle_since| Victim { key, idle_since }))
        });
        self.victims = victims(open, newcomer, share);
        self.displace_victim()
    }

    fn displace_victim(&mut self) -> bool {
        while let Some(victim) = self.victims.pop() {
            let connection = self.open.get(victim.key);
            let Some(connection) = connection.filter(|found| found.idle_since() == Some(victim.idle_since))
            else {
                continue;
            };
            // A peer without a request loses nothing.
            let closing = if connection.has_received() { Closing::Displaced } else { Closing::Cut };
            connection.close(closing);
            return true;
        }
        false
    }
}

/// The connections that give way to one from `newcomer`, the first last. `open` is the address of each open
/// connection and, if it is idle, since when.
fn victims(
    open: impl Iterator<Item = (Option<IpAddr>, Option<Victim>)>,
    newcomer: Option<IpAddr>,
    share: usize,
) -> Vec<Victim> {
    let open: Vec<_> = open.collect();
    let mut of_address = HashMap::<IpAddr, usize>::new();
    for address in open.iter().map(|(address, _)| *address).chain([newcomer]).flatten() {
        *of_address.entry(address).or_default() += 1;
    }
    let largest = of_address.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > share);
    let idle_of = |of: Option<IpAddr>| {
        let idle = open.iter().filter(move |(address, _)| of.is_none() || *address == of);
        idle.filter_map(|(_, victim)| *victim).collect::<Vec<_>>()
    };
    let (mut found, most) = match largest {
        Some((address, count)) => (idle_of(Some(address)), (count - share).min(MAX_VICTIMS)),
        None => (Vec::new(), MAX_VICTIMS),
    };
    // Also if none of the address with too many is idle.
    if found.is_empty() {
        found = idle_of(None);
    }
    found.sort_by_key(|victim| victim.idle_since);
    found.truncate(most);
    found.reverse();
    found
}

/// Network that counts as one address: an IPv6 host has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;

//! The state of Redis nodes, as all cores see them together: for the log, metrics and health.
//!
//! Each core has its own connection to each node. A change is logged once for the process: when the first
//! core sees a failure, and when the last one has recovered.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Endpoint;
use super::queue::CallQueue;
use super::round_trips::{NodeLatency, RoundTripCounts, RoundTrips};

/// A server may accept connections and close them many times a second.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Nodes that are remembered though no core uses them. A Cluster's addresses may change again and again.
const MAX_NODES: usize = 256;

/// The state of one Redis node, summed over the connections of all cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSnapshot {
    /// `host:port`, or the path of the socket.
    pub node: String,
    /// Connections that this process keeps to the node: one for each core, and one for operators.
    pub connections: usize,
    /// Those that are up.
    pub connected: usize,
    /// Those whose circuit breaker is open.
    pub breakers_open: usize,
    /// Calls that wait for a batch.
    pub queued: usize,
    /// Age of the oldest of them.
    pub oldest_queued: Duration,
    /// Calls that were sent and are not answered yet.
    pub in_flight: usize,
    /// Calls in the latest batch: the largest of all connections.
    pub batch_size: usize,
    /// Round trips of the last minute; `None` if there were none.
    pub latency: Option<NodeLatency>,
    /// Counters whose TTL is still to be set.
    pub ttls_not_set: u64,
    /// Commands that the user may not run, though counting needs them.
    pub denied_commands: Vec<&'static str>,
    /// Why the node cannot be reached, if it cannot.
    pub error: Option<String>,
}

/// Every node of a deployment that some core is connected to.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: Mutex<Vec<Arc<Node>>>,
    lost_ttls: Arc<Losses>,
    lost_releases: Losses,
    lost_settlements: Losses,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            nodes: Mutex::default(),
            lost_ttls: Arc::new(Losses::new(
                "TTLs of counters are lost: the counters may stay in Redis for ever",
            )),
            lost_releases: Losses::new("releases are lost: places and holds stay until their TTL ends"),
            lost_settlements: Losses::new("settlements are lost: their amounts are not counted"),
        }
    }
}

/// Number of things that were given up, on whatever node.
#[derive(Debug)]
pub(super) struct Losses {
    number: AtomicU64,
    is_logged: AtomicBool,
    warning: &'static str,
}

impl Losses {
    const fn new(warning: &'static str) -> Self {
        Self { number: AtomicU64::new(0), is_logged: AtomicBool::new(false), warning }
    }

    /// Logged once: whatever loses one may lose thousands.
    pub(super) fn add(&self, number: usize) {
        if number == 0 {
            return;
        }
        self.number.fetch_add(number as u64, Ordering::Relaxed);
        if !self.is_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(number, "{}", self.warning);
        }
    }

    fn get(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<Weak<Link>>,
    down: usize,
    breakers_open: usize,
    rejecting: usize,
    error: Option<Arc<str>>,
    denied: BTreeSet<&'static str>,
    logged: Logged,
}

/// Last state that was logged.
#[derive(Debug, Default)]
struct Logged {
    connected: bool,
    down: bool,
    down_at: Option<Instant>,
    breaker_open: bool,
    rejecting: bool,
    ttl_rejected: bool,
}

/// One core's connection to a node.
#[derive(Debug)]
pub(super) struct Link {
    node: Arc<Node>,
    pub(super) queue: Arc<CallQueue>,
    connected: AtomicBool,
    down: AtomicBool,
    breaker_open: AtomicBool,
    rejecting: AtomicBool,
    pub(super) in_flight: AtomicUsize,
    pub(super) batch_size: AtomicUsize,
    pub(super) round_trips: RoundTrips,
    pub(super) ttls_pending: AtomicUsize,
    lost_ttls: Arc<Losses>,
}

impl Nodes {
    /// Adds a core's connection to `server`.
    pub(super) fn link(&self, server: &Endpoint, queue: &Arc<CallQueue>) -> Arc<Link> {
        let name = server.to_string();
        let mut nodes = self.nodes.lock();
        let known = nodes.iter().find(|node| node.name == name).map(Arc::clone);
        let node = known.unwrap_or_else(|| {
            if nodes.len() >= MAX_NODES {
                nodes.retain(|node| Arc::strong_count(node) > 1);
            }
            let node = Arc::new(Node { name, state: Mutex::default() });
            nodes.push(Arc::clone(&node));
            node
        });
        let link = Arc::new(Link {
            queue: Arc::clone(queue),
            connected: AtomicBool::new(false),
            down: AtomicBool::new(false),
            breaker_open: AtomicBool::new(false),
            rejecting: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            batch_size: AtomicUsize::new(0),
            round_trips: RoundTrips::new(Instant::now()),
            ttls_pending: AtomicUsize::new(0),
            lost_ttls: Arc::clone(&self.lost_ttls),
            node: Arc::clone(&node),
        });
        let mut state = node.state.lock();
        state.links.retain(|link| link.strong_count() > 0);
        state.links.push(Arc::downgrade(&link));
        drop(state);
        link
    }

    /// The state of each node, by name.
    pub(super) fn snapshot(&self) -> Vec<NodeSnapshot> {
        let nodes: Vec<Arc<Node>> = self.nodes.lock().iter().map(Arc::clone).collect();
        let mut snapshots: Vec<_> = nodes.iter().map(|node| node.snapshot()).collect();
        snapshots.retain(|node| node.connections > 0);
        snapshots.sort_by(|one, other| one.node.cmp(&other.node));
        snapshots
    }

    /// Receives TTLs that nothing is going to set any more.
    pub(super) const fn lost_ttls(&self) -> &Arc<Losses> {
        &self.lost_ttls
    }

    /// Receives releases that were given up.
    pub(super) const fn lost_releases(&self) -> &Losses {
        &self.lost_releases
    }

    /// TTLs that were lost so far.
    pub(super) fn ttls_lost(&self) -> u64 {
        self.lost_ttls.get()
    }

    /// Receives settlements that were given up.
    pub(super) const fn lost_settlements(&self) -> &Losses {
        &self.lost_settlements
    }

    /// Settlements that were lost so far.
    pub(super) fn settlements_lost(&self) -> u64 {
        self.lost_settlements.get()
    }

    /// Releases that were lost so far.
    pub(super) fn releases_lost(&self) -> u64 {
        self.lost_releases.get()
    }
}

impl Node {
    fn snapshot(&self) -> NodeSnapshot {
        let (links, error, denied) = {
            let state = self.state.lock();
            let links: Vec<Arc<Link>> = state.links.iter().filter_map(Weak::upgrade).collect();
            (links, state.error.clone(), state.denied.iter().copied().collect())
        };
        let mut snapshot = NodeSnapshot {
            node: self.name.clone(),
            connections: links.len(),
            denied_commands: denied,
            error: error.map(|error| error.as_ref().to_owned()),
            ..NodeSnapshot::default()
        };
        let now = Instant::now();
        let mut round_trips = RoundTripCounts::default();
        for link in links {
            link.round_trips.add_to(&mut round_trips, now);
            snapshot.connected += usize::from(link.connected.load(Ordering::Relaxed));
            snapshot.breakers_open += usize::from(link.breaker_open.load(Ordering::Relaxed));
            snapshot.queued += link.queue.len();
            let age =
                link.queue.oldest().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            snapshot.oldest_queued = snapshot.oldest_queued.max(age);
            snapshot.in_flight += link.in_flight.load(Ordering::Relaxed);
            snapshot.batch_size = snapshot.batch_size.max(link.batch_size.load(Ordering::Relaxed));
            snapshot.ttls_not_set += link.ttls_pending.load(Ordering::Relaxed) as u64;
        }
        snapshot.latency = round_trips.latency();
        snapshot
    }
}

impl Link {
    pub(super) fn name(&self) -> &str {
        &self.node.name
    }

    /// The connection is up.
    pub(super) fn up(&self) {
        self.connected.store(true, Ordering::Relaxed);
        let mut state = self.node.state.lock();
        if self.down.swap(false, Ordering::Relaxed) {
            state.down -= 1;
        }
        if state.down > 0 {
            return;
        }
        state.error = None;
        if state.breakers_open == 0 && std::mem::take(&mut state.logged.breaker_open) && !state.logged.down {
            tracing::warn!(node = self.name(), "circuit breaker closed");
        }
        if std::mem::take(&mut state.logged.down) {
            tracing::warn!(node = self.name(), "connected to Redis again");
        } else if !state.logged.connected {
            tracing::info!(node = self.name(), "connected to Redis");
        }
        state.logged.connected = true;
    }

    /// The connection was lost, or could not be made.
    pub(super) fn down(&self, cause: &Arc<str>) {
        self.connected.store(false, Ordering::Relaxed);
        let mut state = self.node.state.lock();
        if self.breaker_open.swap(false, Ordering::Relaxed) {
            // Not logged as closed: Redis has not answered, and the log says next that it is unreachable. Nor as
            // open again, if another core's breaker opens in the same outage.
            state.breakers_open -= 1;
        }
        if !self.down.swap(true, Ordering::Relaxed) {
            state.down += 1;
        }
        state.error = Some(Arc::clone(cause));
        let now = Instant::now();
        let is_recent = |at: Instant| now.saturating_duration_since(at) < MIN_LOG_INTERVAL;
        if !state.logged.down && !state.logged.down_at.is_some_and(is_recent) {
            state.logged.down = true;
            state.logged.down_at = Some(now);
            tracing::warn!(node = self.name(), %cause, "Redis unreachable");
        }
    }

    pub(super) fn breaker_opened(&self) {
        if !self.breaker_open.swap(true, Ordering::Relaxed) {
            let mut state = self.node.state.lock();
            state.breakers_open += 1;
            if !state.logged.down && !std::mem::replace(&mut state.logged.breaker_open, true) {
                tracing::warn!(node = self.name(), "circuit breaker open: Redis does not answer");
            }
        }
    }

    pub(super) fn breaker_closed(&self) {
        if self.breaker_open.swap(false, Ordering::Relaxed) {
            let mut state = self.node.state.lock();
            state.breakers_open -= 1;
            let is_over = state.breakers_open == 0 && state.down == 0;
            if is_over && std::mem::take(&mut state.logged.breaker_open) {
                tracing::warn!(node = self.name(), "circuit breaker closed");
            }
        }
    }

    /// Redis answered a charge with an error that is about the server, not about the charge.
    pub(super) fn rejected(&self, cause: &str) {
        if self.rejecting.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut state = self.node.state.lock();
        state.rejecting += 1;
        if !std::mem::replace(&mut state.logged.rejecting, true) {
            tracing::warn!(node = self.name(), cause, "Redis rejects charges");
        }
    }

    /// Redis carried out a charge.
    pub(super) fn accepted(&self) {
        if !self.rejecting.load(Ordering::Relaxed) || !self.rejecting.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut state = self.node.state.lock();
        state.rejecting -= 1;
        if state.rejecting == 0 {
            state.logged.rejecting = false;
            tracing::warn!(node = self.name(), "Redis accepts charges again");
        }
    }

    /// The commands that the user may not run, as of a new connection.
    pub(super) fn set_denied(&self, commands: &[&'static str]) {
        let denied: BTreeSet<&'static str> = commands.iter().copied().collect();
        let mut state = self.node.state.lock();
        if state.denied != denied && !denied.is_empty() {
            let commands = commands.join(", ");
            tracing::warn!(
                node = self.name(),
                commands,
                "the Redis user lacks permissions that counting needs: see docs/redis.md"
            );
        }
        state.denied = denied;
    }

    /// Redis rejected an `EXPIRE`.
    pub(super) fn ttl_rejected(&self, cause: &str) {
        let mut state = self.node.state.lock();
        if !std::mem::replace(&mut state.logged.ttl_rejected, true) {
            tracing::warn!(node = self.name(), cause, "cannot set the TTL of a counter");
        }
    }

    /// A counter may stay without a TTL.
    pub(super) fn ttl_lost(&self) {
        self.lost_ttls.add(1);
    }
}

impl Drop for Link {
    /// The core no longer uses the node; its failure is no news any more.
    fn drop(&mut self) {
        let mut state = self.node.state.lock();
        state.down -= usize::from(*self.down.get_mut());
        state.breakers_open -= usize::from(*self.breaker_open.get_mut());
        state.rejecting -= usize::from(*self.rejecting.get_mut());
        // The next failure is news again.
        state.logged.rejecting &= state.rejecting > 0;
        state.logged.breaker_open &= state.breakers_open > 0 || state.down > 0;
    }
}

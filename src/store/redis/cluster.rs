//! The servers of one deployment, as one core reaches them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smallvec::smallvec;
use tokio::sync::{mpsc, watch};
use tokio::time::{self, Instant};

use super::Endpoint;
use super::batch::Dispatch;
use super::batch::SlotCharges;
use super::connect::ConnectConfig;
use super::discovery::{Discovery, Topology};
use super::node_client::{NodeClient, SETTLE_TIMEOUT};
use super::queue::{Answer, Outcomes, Request};
use super::reply::Reply;
use super::slots::Redirection;
use super::ttl::{Orphan, Orphans};
use crate::store::StoreError;
use crate::supervisor::OwnedTask;

/// Upper bound on redirections of one charge. A slot that moves takes two, and Redis' own clients give up after five.
const MAX_REDIRECTIONS: usize = 5;
/// The pause before counters of a slot on its way are tried again.
const TRY_AGAIN_PAUSE: Duration = Duration::from_millis(1);
/// Attempts to set a TTL that a worker left, their timeout, and the delay between them.
const MAX_TTL_ATTEMPTS: usize = 20;
const TTL_TIMEOUT: Duration = Duration::from_secs(1);
const TTL_RETRY_DELAY: Duration = Duration::from_millis(250);
const READY_POLL: Duration = Duration::from_millis(5);

/// The servers of one deployment.
#[derive(Debug)]
pub(super) struct Cluster {
    router: Arc<Router>,
    _follower: OwnedTask,
}

#[derive(Debug)]
struct Router {
    config: Arc<ConnectConfig>,
    discovery: Discovery,
    routes: ArcSwap<RoutingTable>,
    /// Nodes that slots are on their way to, and which serve none yet. Forgotten with the next topology.
    importing: Mutex<Vec<Arc<NodeClient>>>,
    orphans: Orphans,
}

/// Which server is asked for what.
#[derive(Debug)]
struct RoutingTable {
    topology: Arc<Topology>,
    /// In a Cluster, in the order of its primaries.
    nodes: Vec<Arc<NodeClient>>,
}

/// Charges that cannot be carried out together for now: their slot is on its way to another server.
#[derive(Debug)]
pub(super) struct CrossSlot(pub(super) SlotCharges);

impl Cluster {
    /// Begins to connect to what `discovery` knows, now and later. Belongs to the runtime it is made in.
    pub(super) fn connect(config: &Arc<ConnectConfig>, discovery: &Discovery) -> Self {
        let (sender, orphans) = Orphans::channel(config.nodes.lost_ttls());
        let mut topology = discovery.topology();
        let first = RoutingTable { topology: Arc::clone(&topology.borrow_and_update()), nodes: Vec::new() };
        let router = Arc::new(Router {
            config: Arc::clone(config),
            discovery: discovery.clone(),
            routes: ArcSwap::from_pointee(first),
            importing: Mutex::default(),
            orphans: sender,
        });
        router.follow(&router.routes.load().topology);
        let follower = config
            .supervisor
            .spawn_owned("Redis slot map follower", follow(Arc::clone(&router), topology, orphans));
        Self { router, _follower: follower }
    }

    /// Number of times that a server was replaced by another.
    pub(super) fn generation(&self) -> u64 {
        self.router.config.generation.load(Ordering::Relaxed)
    }

    /// Slot of the counter with this key in a Redis Cluster, else 0.
    pub(super) fn slot(&self, key: &[u8]) -> u16 {
        self.router.slot(key)
    }

    /// Waits until every server is connected, for at most `timeout`; zero is no bound.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when `timeout` has run out, with the cause of the last failure.
    pub(super) async fn ready(&self, timeout: Duration) -> Result<(), StoreError> {
        let begun = Instant::now();
        loop {
            let routes = self.router.routes.load_full();
            let nodes = routes.nodes.iter().map(|node| node.ready(READY_POLL));
            let outcome = match &*routes.topology {
                Topology::Unknown(cause) => {
                    time::sleep(READY_POLL).await;
                    Err(StoreError::Unreachable(cause.clone()))
                }
                Topology::One(_) | Topology::Cluster(_) => {
                    futures_util::future::join_all(nodes).await.into_iter().collect()
                }
            };
            if outcome.is_ok() || (!timeout.is_zero() && begun.elapsed() >= timeout) {
                return outcome;
            }
        }
    }

    /// Pings every server. Returns the first error.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let routes = self.router.routes.load_full();
        if let Topology::Unknown(cause) = &*routes.topology {
            return Err(StoreError::Unreachable(cause.clone()));
        }
        let pings = routes.nodes.iter().map(|node| node.ping());
        futures_util::future::join_all(pings).await.into_iter().collect()
    }

    /// Waits until the TTLs of new counters are set on every server.
    pub(super) async fn settle(&self) {
        let routes = self.router.routes.load_full();
        futures_util::future::join_all(routes.nodes.iter().map(|node| node.settle())).await;
        let end = Instant::now() + SETTLE_TIMEOUT;
        while self.router.orphans.open() > 0 && Instant::now() < end {
            time::sleep(READY_POLL).await;
        }
    }

    /// The server that serves `slot`.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] where none is known to.
    pub(super) fn node_of(&self, slot: u16) -> Result<Arc<NodeClient>, StoreError> {
        self.router.routes.load().node(slot).cloned()
    }

    /// Requests a look at where the servers are, after one of them has failed or named another.
    pub(super) fn request_refresh(&self) {
        self.router.discovery.request_refresh();
    }

    /// Every server that counts.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] where none is known.
    pub(super) fn nodes(&self) -> Result<Vec<Arc<NodeClient>>, StoreError> {
        let routes = self.router.routes.load();
        match &*routes.topology {
            Topology::Unknown(cause) => Err(StoreError::Unreachable(cause.clone())),
            Topology::One(_) | Topology::Cluster(_) => Ok(routes.nodes.clone()),
        }
    }

    /// Carries out charges whose counters lie in `slot`: by the server that serves it, and by whatever
    /// server that one names.
    ///
    /// # Errors
    /// The unchanged charges, if they must be carried out together and cannot be.
    pub(super) async fn charge(
        &self,
        charges: SlotCharges,
        slot: u16,
        dispatch: Dispatch,
    ) -> Result<Outcomes, CrossSlot> {
        let deadline = Instant::now() + self.router.config.settings.call_timeout;
        let routes = self.router.routes.load();
        let node = match routes.node(slot) {
            Ok(node) => Arc::clone(node),
            Err(error) => {
                self.router.discovery.request_refresh();
                return Ok(charges.iter().map(|_| Err(error.clone())).collect());
            }
        };
        drop(routes);
        let answer = node.charge(Request { charges, slot, dispatch }, deadline).await;
        if answer.outcomes.iter().all(Result::is_ok) {
            return Ok(answer.outcomes);
        }
        Box::pin(self.router.reroute(answer, slot, node, deadline)).await
    }
}

impl Router {
    fn is_cluster(&self) -> bool {
        matches!(*self.routes.load().topology, Topology::Cluster(_))
    }

    /// Forwards the charges that another server must carry out.
    async fn reroute(
        &self,
        answer: Answer,
        slot: u16,
        node: Arc<NodeClient>,
        deadline: Instant,
    ) -> Result<Outcomes, CrossSlot> {
        if is_one_refusal(&answer.outcomes) {
            return self.reroute_together(answer, slot, node, deadline).await;
        }
        // Each has its own reply, and counts whatever becomes of the others: one may have been counted
        // already where another was sent on.
        let Answer { charges, mut outcomes } = answer;
        for (charge, outcome) in charges.into_iter().zip(&mut outcomes) {
            if let Err(error) = outcome {
                let one = Answer { charges: smallvec![charge], outcomes: smallvec![Err(error.clone())] };
                let again = self.reroute_together(one, slot, Arc::clone(&node), deadline).await;
                if let Some(again) = again.ok().and_then(|mut outcomes| outcomes.pop()) {
                    *outcome = again;
                }
            }
        }
        Ok(outcomes)
    }

    /// Forwards charges that one reply refused, so that they stay together.
    async fn reroute_together(
        &self,
        mut answer: Answer,
        slot: u16,
        mut node: Arc<NodeClient>,
        deadline: Instant,
    ) -> Result<Outcomes, CrossSlot> {
        for _ in 0..MAX_REDIRECTIONS {
            let Some(Err(error)) = answer.outcomes.first() else { break };
            let Some(redirection) = self.redirection(error, &node) else { break };
            let (next, dispatch) = match redirection {
                Redirection::Moved(server) => (self.client_of(&server, deadline).await, Dispatch::Batched),
                Redirection::Ask(server) => (self.client_of(&server, deadline).await, Dispatch::Asking),
                Redirection::Repeat => (node, Dispatch::Batched),
                Redirection::TryAgain if is_together(&answer.charges) => {
                    return Err(CrossSlot(answer.charges));
                }
                Redirection::TryAgain => {
                    time::sleep(TRY_AGAIN_PAUSE).await;
                    (self.routes.load().node(slot).cloned().unwrap_or(node), Dispatch::Alone)
                }
            };
            if Instant::now() >= deadline {
                break;
            }
            node = next;
            answer = node.charge(Request { charges: answer.charges, slot, dispatch }, deadline).await;
        }
        Ok(answer.outcomes)
    }

    /// Redirection that an error asks for. Requests a refresh of the topology if the error shows that it is stale.
    fn redirection(&self, error: &StoreError, node: &NodeClient) -> Option<Redirection> {
        let cause = match error {
            StoreError::Rejected(cause) => cause,
            StoreError::Unreachable(_) | StoreError::Unanswered(_) => {
                self.discovery.request_refresh();
                return None;
            }
        };
        if cause.starts_with("READONLY") || cause.starts_with("CLUSTERDOWN") {
            self.discovery.request_refresh();
        }
        let redirection = Redirection::read(cause, node.server())
            .filter(|redirection| *redirection == Redirection::Repeat || self.is_cluster())?;
        if let Redirection::Moved(_) = redirection {
            self.discovery.request_refresh();
        }
        Some(redirection)
    }

    /// The server at this address, connected to if it was not known: then it is waited for.
    async fn client_of(&self, server: &Endpoint, deadline: Instant) -> Arc<NodeClient> {
        if let Some(node) = self.routes.load().find(server) {
            return Arc::clone(node);
        }
        let node = {
            let mut importing = self.importing.lock();
            let known = importing.iter().find(|node| node.server() == server).cloned();
            known.unwrap_or_else(|| {
                let node = self.connect(server);
                importing.push(Arc::clone(&node));
                node
            })
        };
        let timeout = deadline.saturating_duration_since(Instant::now()).max(TRY_AGAIN_PAUSE);
        // If it is not ready in time, the charge fails with the reason.
        drop(node.ready(timeout).await);
        node
    }

    /// Sets the TTL of a counter whose worker could not.
    async fn set_ttl(self: Arc<Self>, orphan: Orphan) {
        let ttl = &orphan.ttl;
        let secs = ttl.secs.to_string();
        let slot = self.slot(&ttl.key);
        for _ in 0..MAX_TTL_ATTEMPTS {
            let node = self.routes.load().node(slot).cloned();
            if let Ok(node) = node {
                let command: [&[u8]; 3] = [b"EXPIRE", &ttl.key, secs.as_bytes()];
                let mut reply = node.command(&command, TTL_TIMEOUT).await;
                // The counter is gone, or on the node that imports its slot.
                if let Ok(Reply::Error(text)) = &reply
                    && let Some(Redirection::Ask(server)) = Redirection::read(text, node.server())
                {
                    let importing = self.client_of(&server, Instant::now() + TTL_TIMEOUT).await;
                    reply = importing.command_asking(&command, TTL_TIMEOUT).await;
                }
                if matches!(reply, Ok(Reply::Int(_))) {
                    return orphan.set();
                }
            }
            self.discovery.request_refresh();
            time::sleep(TTL_RETRY_DELAY).await;
        }
    }

    /// Slot of a key in a Redis Cluster, else 0.
    fn slot(&self, key: &[u8]) -> u16 {
        if self.is_cluster() { fred::util::redis_keyslot(key) } else { 0 }
    }

    fn connect(&self, server: &Endpoint) -> Arc<NodeClient> {
        Arc::new(NodeClient::connect(server.clone(), &self.config, &self.orphans))
    }

    /// Takes up a topology: connects to the servers that are new, and keeps those that stay.
    fn follow(&self, topology: &Arc<Topology>) {
        let old = self.routes.load();
        let servers = match &**topology {
            Topology::Unknown(_) => &[],
            Topology::One(server) => std::slice::from_ref(server),
            Topology::Cluster(slots) => slots.primaries(),
        };
        if old.nodes.iter().any(|node| !servers.contains(node.server())) {
            self.config.generation.fetch_add(1, Ordering::Relaxed);
        }
        let importing = std::mem::take(&mut *self.importing.lock());
        let node = |server| {
            let node = || importing.iter().find(|node| node.server() == server);
            old.find(server).or_else(node).cloned().unwrap_or_else(|| self.connect(server))
        };
        let nodes = servers.iter().map(node).collect();
        self.routes.store(Arc::new(RoutingTable { topology: Arc::clone(topology), nodes }));
    }
}

impl RoutingTable {
    fn node(&self, slot: u16) -> Result<&Arc<NodeClient>, StoreError> {
        let found = match &*self.topology {
            Topology::Unknown(cause) => return Err(StoreError::Unreachable(cause.clone())),
            Topology::One(_) => self.nodes.first(),
            Topology::Cluster(slots) => slots.owner(slot).and_then(|owner| self.nodes.get(owner)),
        };
        found.ok_or_else(|| StoreError::Unreachable(format!("no server serves slot {slot}")))
    }

    fn find(&self, server: &Endpoint) -> Option<&Arc<NodeClient>> {
        self.nodes.iter().find(|node| node.server() == server)
    }
}

/// True if all charges were refused in the same words, and so none was counted.
fn is_one_refusal(outcomes: &Outcomes) -> bool {
    let refusal = |outcome: &Result<_, StoreError>| match outcome {
        Err(StoreError::Rejected(cause)) => Some(cause.clone()),
        Ok(_) | Err(_) => None,
    };
    let first = outcomes.first().and_then(refusal);
    first.is_some() && outcomes.iter().all(|outcome| refusal(outcome) == first)
}

/// True if the charges have several counters that must be asked in one call.
fn is_together(charges: &SlotCharges) -> bool {
    charges.iter().any(|charge| charges.first().is_some_and(|first| first.key != charge.key))
}

/// Takes up every new topology, and sets the TTLs that workers left. Never ends.
async fn follow(
    router: Arc<Router>,
    mut topology: watch::Receiver<Arc<Topology>>,
    mut orphans: mpsc::Receiver<Orphan>,
) {
    let mut setting = None;
    // Discovery of a single server has nothing to change.
    let mut is_fixed = false;
    loop {
        tokio::select! {
            changed = topology.changed(), if !is_fixed => match changed {
                Ok(()) => {
                    let topology = Arc::clone(&topology.borrow_and_update());
                    router.follow(&topology);
                }
                Err(_) => is_fixed = true,
            },
            Some(orphan) = orphans.recv(), if setting.is_none() => {
                setting = Some(Box::pin(Arc::clone(&router).set_ttl(orphan)));
            }
            () = finished(&mut setting) => setting = None,
        }
    }
}

/// Ends when the future does; never without one.
async fn finished(future: &mut Option<impl Future<Output = ()> + Unpin>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

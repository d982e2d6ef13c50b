//! A model of Redis in memory: nodes that count, fail over, move slots and break connections, all by a seed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::duplex;

use super::server::serve;
use super::wire::ScriptedWire;
use crate::store::redis::Endpoint;
use crate::store::redis::connect::Network;
use crate::store::redis::wire::Wire;

/// Bytes that a connection holds in each direction. Small, so that writes are torn apart.
const PIPE_BYTES: usize = 4 * 1024;
pub(super) const SLOTS: u16 = 16_384;
/// Slots that have one owner in the model.
const SLOTS_PER_RANGE: u16 = 1_024;

/// Deployment of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Sentinel,
    Cluster,
}

/// A counter as a node holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counter {
    pub(super) value: i64,
    pub(super) has_ttl: bool,
}

/// One node.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Ordered, so that a seed always has one outcome.
    pub(super) counters: BTreeMap<Bytes, Counter>,
    /// Names of the scripts that it knows.
    pub(super) scripts: BTreeSet<Bytes>,
    /// Connections are refused until it is up again.
    pub(super) down: bool,
    /// Connections made before this one are dead.
    pub(super) generation: u64,
}

/// All that happened, and what is true now.
#[derive(Debug)]
pub(super) struct State {
    pub(super) kind: Kind,
    pub(super) random: fastrand::Rng,
    pub(super) nodes: Vec<Node>,
    /// The node that counts, where one does.
    pub(super) primary: usize,
    /// In a Cluster, the node of each range of 1,024 slots, and the config epochs of the nodes.
    pub(super) owners: Vec<usize>,
    pub(super) epochs: Vec<u64>,
    /// Ranges of slots on their way, and the nodes that they go to.
    pub(super) migrating: HashMap<usize, usize>,
    /// True if a counter may be evicted in front of any write.
    pub(super) evicts: bool,
    /// True if the user may not run `EXPIRE`.
    pub(super) refuses_expire: bool,
    /// Commands for each fault of a connection, on average; 0 for no faults.
    pub(super) fault_one_in: u32,
    /// Hits that were carried out, by key.
    pub(super) executed: HashMap<Bytes, u64>,
    /// Counters that lost hits: evicted, or on a node that lost all it had.
    pub(super) lost: HashSet<Bytes>,
    /// Keys of one charge each whose caller was answered.
    pub(super) answered: HashMap<Bytes, bool>,
    /// Counters that were without a TTL at any time, though nothing had removed them.
    pub(super) born_without_ttl: Vec<Bytes>,
    /// Violations by the client.
    pub(super) violations: Vec<String>,
}

pub(super) type World = Arc<Mutex<State>>;

impl State {
    /// Removes the counters of a node that `goes` is true for.
    pub(super) fn lose(&mut self, node: usize, goes: impl Fn(&Bytes, &Counter) -> bool) {
        let lost = &mut self.lost;
        self.nodes[node].counters.retain(|key, counter| {
            let goes = goes(key, counter);
            if goes {
                lost.insert(key.clone());
            }
            !goes
        });
    }

    /// Makes room for a write to `key`, as Redis does, perhaps by evicting that counter itself.
    pub(super) fn evict_before_write(&mut self, node: usize, key: &Bytes) {
        if self.evicts && self.random.u8(0..8) == 0 {
            self.lose(node, |held, counter| held == key && counter.has_ttl);
        }
    }

    /// Begins to move a range of slots to another node, moves some of its counters, or moves the rest.
    pub(super) fn migrate(&mut self, random: &mut fastrand::Rng) {
        let held: Vec<u16> = self.nodes.iter().flat_map(|node| node.counters.keys()).map(slot).collect();
        let Some(slot) = random.choice(held) else { return };
        let range = usize::from(slot / SLOTS_PER_RANGE);
        let owner = self.owners[range];
        let target = match self.migrating.get(&range) {
            Some(target) => *target,
            None => random.usize(0..self.nodes.len()),
        };
        if target == owner {
            return;
        }
        self.migrating.insert(range, target);
        let is_last = random.u8(0..4) == 0;
        self.move_counters(owner, target, |key| range_of(key) == range && (is_last || random.bool()));
        if is_last {
            self.migrating.remove(&range);
            self.owners[range] = target;
            self.epochs[target] = self.epochs.iter().max().expect("nodes") + 1;
        }
    }

    pub(super) fn move_counters(&mut self, from: usize, to: usize, mut moves: impl FnMut(&Bytes) -> bool) {
        if from == to {
            return;
        }
        let held = std::mem::take(&mut self.nodes[from].counters);
        let (moved, stay): (Vec<_>, Vec<_>) = held.into_iter().partition(|(key, _)| moves(key));
        self.nodes[from].counters.extend(stay);
        self.nodes[to].counters.extend(moved);
    }

    pub(super) fn is_fault(&mut self) -> bool {
        self.fault_one_in > 0 && self.random.u32(0..self.fault_one_in) == 0
    }

    pub(super) fn delay(&mut self) -> Duration {
        let us = match self.random.u8(0..50) {
            // A timer takes a millisecond at least.
            _ if self.fault_one_in == 0 => u64::from(self.random.u8(0..8) == 0),
            0 => self.random.u64(0..40_000),
            _ => self.random.u64(0..1_000),
        };
        Duration::from_micros(us)
    }
}

fn slot(key: &Bytes) -> u16 {
    redis_protocol::redis_keyslot(key)
}

/// Range of slots that a key is in.
pub(super) fn range_of(key: &Bytes) -> usize {
    usize::from(slot(key) / SLOTS_PER_RANGE)
}

pub(super) fn port(node: usize) -> u16 {
    u16::try_from(node + 1).expect("few nodes")
}

/// Node number of a Sentinel: they listen beyond the nodes.
pub(super) const SENTINEL: usize = 100;

pub(super) fn endpoint(node: usize) -> Endpoint {
    Endpoint::Tcp { host: "node".to_owned(), port: port(node) }
}

/// The network between the store and the nodes.
pub(super) struct InMemory(pub(super) World);

impl Network for InMemory {
    fn connect(&self, server: &Endpoint) -> BoxFuture<'static, Result<Box<dyn Wire>, String>> {
        let world = Arc::clone(&self.0);
        let Endpoint::Tcp { port, .. } = *server else { unreachable!("no unix sockets here") };
        Box::pin(async move {
            let node = usize::from(port) - 1;
            let delay = world.lock().delay();
            tokio::time::sleep(delay).await;
            let generation = {
                let mut state = world.lock();
                if node < SENTINEL && (state.nodes[node].down || state.is_fault()) {
                    return Err("connection refused".to_owned());
                }
                if node < SENTINEL { state.nodes[node].generation } else { 0 }
            };
            let (client, server) = duplex(PIPE_BYTES);
            tokio::spawn(serve(Arc::clone(&world), node, generation, server));
            Ok(Box::new(ScriptedWire::new(client, world)) as Box<dyn Wire>)
        })
    }
}

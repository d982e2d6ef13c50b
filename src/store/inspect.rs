//! State of a store, for operators.

use std::pin::Pin;
use std::time::Duration;

use super::memory::Figures;
use super::redis::NodeSnapshot;

/// Future of an inspection.
pub type InspectFuture<'a> = Pin<Box<dyn Future<Output = StoreReport> + Send + 'a>>;

/// A store that operators can inspect.
pub trait Inspect: Send + Sync {
    /// State of the store. Servers are queried, each for a bounded time.
    fn inspect(&self) -> InspectFuture<'_>;
}

/// State of a store.
#[derive(Clone, Debug)]
pub enum StoreReport {
    /// Counters in this process.
    Memory(Figures),
    /// Counters in Redis.
    Redis {
        /// Cause while the servers are not known: no Sentinel or no node of a Cluster has answered.
        error: Option<String>,
        /// Nodes that are connected or known.
        nodes: Vec<NodeReport>,
    },
}

/// State of one node of Redis.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Connections of this process to it.
    pub connections: NodeSnapshot,
    /// Report of the node itself, or the reason that there is none.
    pub server: Result<ServerReport, String>,
}

/// Report of a node of Redis about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// Time from the query to the report, connecting included.
    pub elapsed: Duration,
    /// Version.
    pub version: String,
    /// `master` or `slave`, as Redis has it.
    pub role: String,
    /// Connected replicas.
    pub replicas: u64,
    /// Memory in use, in bytes.
    pub used_memory: u64,
    /// `maxmemory` in bytes; 0 for no bound.
    pub max_memory: u64,
    /// `maxmemory-policy`.
    pub eviction_policy: String,
    /// Keys that were evicted since the start of the server.
    pub evicted_keys: u64,
}

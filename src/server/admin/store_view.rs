//! State of the store, node by node.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Admin;
use super::latency::LatencyView;
use crate::server::schema::replies;
use crate::store::inspect::{Inspect, NodeReport, ServerReport, StoreReport};

replies! {
    /// State of the store.
    struct StoreView {
        /// Kind of store.
        kind: &'static str = { "enum": ["memory", "redis"] },
        /// Cause while the servers are not known: no Sentinel or no node of a Cluster has answered.
        error: Option<String>,
        /// Time from a charge to the store's answer; `null` if there were no calls.
        latency: Option<LatencyView>,
        /// Counters in memory; `null` for Redis.
        memory: Option<MemoryView>,
        /// Nodes of Redis.
        nodes: Vec<NodeView>,
    }
    /// Counters in memory.
    struct MemoryView {
        /// Counters.
        counters: usize,
        /// Bytes that they take, about.
        bytes: usize,
        /// Counters dropped before their window ended, because memory was full.
        evicted: u64,
    }
    /// A node of Redis.
    struct NodeView {
        /// Address.
        node: String,
        /// State: `up`, `degraded` if some connections are down, `breaker_open`, or `down`.
        state: &'static str = { "enum": ["up", "degraded", "breaker_open", "down"] },
        /// Connections of this replica: one for each core.
        connections: usize,
        /// Connections that are up.
        connected: usize,
        /// Connections whose circuit breaker is open.
        breakers_open: usize,
        /// Calls that wait for a batch.
        queued: usize,
        /// Age of the oldest of them, in milliseconds.
        oldest_queued_ms: f64,
        /// Calls that were sent and are not answered yet.
        in_flight: usize,
        /// Calls in the latest batch, the largest of all connections.
        batch_size: usize,
        /// Time from sending a batch to its last reply, of the last minute; `null` if there was none.
        latency: Option<NodeLatencyView>,
        /// Counters whose TTL is still to be set, or could not be.
        ttls_not_set: u64,
        /// Last error of a connection.
        error: Option<String>,
        /// Report of the node itself.
        server: Option<ServerView>,
        /// Cause of a missing report.
        server_error: Option<String>,
        /// Settings and permissions that are checked.
        checks: Vec<CheckView>,
    }
    /// Round trips of the last minute. Quantiles are up to a quarter too high.
    struct NodeLatencyView {
        /// Batches of calls.
        batches: u64,
        /// Median in seconds.
        p50_secs: f64,
        /// 99th percentile in seconds.
        p99_secs: f64,
    }
    /// Report of a node of Redis about itself.
    struct ServerView {
        /// Version.
        version: String,
        /// `master` or `slave`, as Redis has it.
        role: String,
        /// Connected replicas.
        replicas: u64,
        /// Memory in use, in bytes.
        used_memory: u64,
        /// `maxmemory` in bytes; 0 for no bound.
        max_memory: u64,
        /// Milliseconds from the query to the report, connecting included.
        elapsed_ms: f64,
    }
    /// A check of a node.
    struct CheckView {
        /// Name of the setting or fact.
        name: &'static str,
        /// Value.
        value: String,
        /// True if it is as it should be.
        ok: bool,
        /// Consequence of a wrong value, and the value to set.
        advice: &'static str,
    }
}

/// Time that a report is kept.
const KEPT_FOR: Duration = Duration::from_secs(1);
const EVICTION_ADVICE: &str =
    "every policy but noeviction drops counters under memory pressure, and their clients start again";
const ROLE_ADVICE: &str = "only a primary can count";
const MEMORY_ADVICE: &str = "at maxmemory Redis rejects charges: raise it, or find out which keys grow";
const PERMISSION_ADVICE: &str = "the Redis user lacks commands that counting needs: see docs/redis.md";
/// Share of `maxmemory` in use above which a node is short of memory.
const MEMORY_SHARE: f64 = 0.9;

/// The latest report of the store. One query is under way at a time, however many clients ask.
#[derive(Default)]
pub(super) struct KeptReport(Mutex<Option<(Instant, StoreReport)>>);

impl KeptReport {
    async fn read(&self, store: &dyn Inspect) -> StoreReport {
        let mut kept = self.0.lock().await;
        if let Some((at, report)) = &*kept
            && at.elapsed() < KEPT_FOR
        {
            return report.clone();
        }
        let report = store.inspect().await;
        *kept = Some((Instant::now(), report.clone()));
        report
    }
}

impl Admin {
    /// State of the store. Servers are queried.
    pub(in crate::server) async fn store(&self) -> StoreView {
        let latency = self.store_latency.latest();
        match self.store_report.read(&*self.store).await {
            StoreReport::Memory(figures) => StoreView {
                kind: "memory",
                error: None,
                latency,
                memory: Some(MemoryView {
                    counters: figures.counters,
                    bytes: figures.bytes,
                    evicted: figures.evicted,
                }),
                nodes: Vec::new(),
            },
            StoreReport::Redis { error, nodes } => StoreView {
                kind: "redis",
                error,
                latency,
                memory: None,
                nodes: nodes.into_iter().map(NodeView::from).collect(),
            },
        }
    }
}

impl From<NodeReport> for NodeView {
    fn from(NodeReport { connections: node, server }: NodeReport) -> Self {
        let mut checks = server.as_ref().map_or_else(|_| Vec::new(), checks);
        checks.push(CheckView {
            name: "permissions",
            value: match node.denied_commands.as_slice() {
                [] => "complete".to_owned(),
                denied => format!("not {}", denied.join(", ")),
            },
            ok: node.denied_commands.is_empty(),
            advice: PERMISSION_ADVICE,
        });
        Self {
            state: match node.connected {
                _ if node.breakers_open > 0 => "breaker_open",
                0 => "down",
                connected if connected < node.connections => "degraded",
                _ => "up",
            },
            connections: node.connections,
            connected: node.connected,
            breakers_open: node.breakers_open,
            queued: node.queued,
            oldest_queued_ms: millis(node.oldest_queued),
            in_flight: node.in_flight,
            batch_size: node.batch_size,
            latency: node.latency.map(|latency| NodeLatencyView {
                batches: latency.batches,
                p50_secs: latency.p50.as_secs_f64(),
                p99_secs: latency.p99.as_secs_f64(),
            }),
            ttls_not_set: node.ttls_not_set,
            error: node.error,
            node: node.node,
            server_error: server.as_ref().err().cloned(),
            server: server.ok().map(|report| ServerView {
                version: report.version,
                role: report.role,
                replicas: report.replicas,
                used_memory: report.used_memory,
                max_memory: report.max_memory,
                elapsed_ms: millis(report.elapsed),
            }),
            checks,
        }
    }
}

fn checks(report: &ServerReport) -> Vec<CheckView> {
    let ServerReport { role, eviction_policy, used_memory, max_memory, .. } = report;
    let share = *used_memory as f64 / (*max_memory).max(1) as f64;
    let memory = match max_memory {
        0 => "no bound".to_owned(),
        _ => format!("{:.0} % in use", 100.0 * share),
    };
    vec![
        CheckView { name: "role", value: role.clone(), ok: role == "master", advice: ROLE_ADVICE },
        CheckView {
            name: "maxmemory-policy",
            value: eviction_policy.clone(),
            ok: eviction_policy == "noeviction",
            advice: EVICTION_ADVICE,
        },
        CheckView {
            name: "maxmemory",
            value: memory,
            ok: *max_memory == 0 || share < MEMORY_SHARE,
            advice: MEMORY_ADVICE,
        },
    ]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

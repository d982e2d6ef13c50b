//! Construction of stores from settings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time;

use super::StartError;
use crate::clock::Clock;
use crate::engine::{KeyWriter, Timestamp};
use crate::server::StoreHealth;
use crate::settings::{RedisStoreSettings, Settings, StoreSettings};
use crate::store::fallback::Fallback;
use crate::store::fleet::{Announcement, Fleet, FleetFuture};
use crate::store::inspect::{Inspect, InspectFuture};
use crate::store::lockouts::{Found, LockoutFuture, Lockouts};
use crate::store::memory::{Figures, MemoryStore};
use crate::store::overrides::{DocumentFuture, DocumentStore, MemoryDocument, Replacement, StoredDocument};
use crate::store::redis::{Denials, Leases, NodeSnapshot, Redis, RedisContext, RedisStore};
use crate::store::reset::{CounterReset, ResetFuture};
use crate::store::{Charge, ChargeFuture, Store};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::{Metrics, definitions as defined};
use crate::tls::Reloader;

/// Upper bound on the time that a core waits for its connections to Redis before it accepts calls.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Upper bound on setting pending TTLs in Redis at shutdown.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval and timeout of the pings that decide whether Redis is reachable.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// Stores of the service.
pub(super) struct Stores {
    /// Constructor of a core's stores.
    pub(super) make: Box<dyn Fn() -> CoreStores + Send + Sync>,
    /// Leased hits; `None` for counters in memory, which need none.
    pub(super) leases: Option<Arc<Leases>>,
    /// Store for operators, who only read.
    pub(super) for_operators: Arc<dyn Store>,
    /// Store as operators inspect it.
    pub(super) inspect: Arc<dyn Inspect>,
    /// Store that replicas share; `None` for counters in memory.
    pub(super) fleet: Option<Arc<dyn Fleet>>,
    /// Stores with lockouts: the main store and the local fallback.
    pub(super) lockouts: Vec<Arc<dyn Lockouts>>,
    /// Stores with counters: the main store and the local fallback.
    pub(super) counters: Vec<Arc<dyn CounterReset>>,
    /// Keeps the overrides of operators.
    pub(super) overrides: Arc<dyn DocumentStore>,
    /// Policies and local counters for failures of the store.
    pub(super) fallback: Arc<Fallback>,
    /// Upper bound on a call that the store enforces itself; zero for stores in memory.
    pub(super) store_timeout: Duration,
    pub(super) health: StoreHealth,
}

/// Stores of one core.
pub(super) struct CoreStores {
    pub(super) store: Arc<dyn Store>,
    /// Store of the candidate.
    pub(super) candidate_store: Arc<dyn Store>,
    /// Resolves when the store is reachable, or after [`CONNECT_TIMEOUT`].
    pub(super) ready: BoxFuture<'static, ()>,
    /// Work after the last call was answered.
    pub(super) settle: BoxFuture<'static, ()>,
}

/// Opens the stores. All cores share one store in memory; each has its own connections to Redis.
///
/// # Errors
/// Last failure of Redis, if the settings wait for it at startup, and unusable TLS files.
pub(super) async fn open(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    supervisor: &Supervisor,
    certificates: &Arc<Reloader>,
) -> Result<Stores, StartError> {
    let fallback = Arc::new(Fallback::new(settings.memory, settings.replicas));
    let (swept, now) = (Arc::clone(&fallback), Arc::clone(clock));
    supervisor.spawn("sweeper of the fallback", async move { swept.local().sweep(|| now.now()).await });
    match &settings.store {
        StoreSettings::Memory => {
            let memory = || Arc::new(MemoryStore::new(settings.memory));
            let store = memory();
            // A candidate must not use memory that the rules in force need.
            let candidate_store = settings.candidate.as_ref().map(|_| memory());
            for swept in [&store].into_iter().chain(&candidate_store) {
                let (swept, now) = (Arc::clone(swept), Arc::clone(clock));
                supervisor.spawn("sweeper", async move { swept.sweep(|| now.now()).await });
            }
            let counted = Arc::clone(&store);
            watch_memory(metrics, move || counted.figures());
            let held = Arc::clone(&store);
            let lockouts = vec![Arc::clone(&store) as _];
            let counters = vec![Arc::clone(&store) as _];
            let for_operators: Arc<dyn Store> = Arc::clone(&store) as _;
            let inspect: Arc<dyn Inspect> = Arc::clone(&store) as _;
            let nothing = || std::future::ready(()).boxed();
            let make = move || CoreStores {
                store: Arc::clone(&store) as _,
                candidate_store: Arc::clone(candidate_store.as_ref().unwrap_or(&store)) as _,
                ready: nothing(),
                settle: nothing(),
            };
            Ok(Stores {
                make: Box::new(make),
                leases: None,
                for_operators,
                inspect,
                fleet: None,
                lockouts,
                counters,
                overrides: Arc::new(MemoryDocument::default()),
                fallback,
                store_timeout: Duration::ZERO,
                health: StoreHealth {
                    reachable: None,
                    detail: Arc::new(move || memory_detail(held.figures())),
                },
            })
        }
        StoreSettings::Redis(redis) => {
            // Separate, so that they displace none of the rules in force. They have no gauge.
            let of_candidate = settings.candidate.as_ref().and_then(|_| denials(redis));
            let counted = Arc::clone(&fallback);
            watch_memory(metrics, move || counted.local().figures());
            let context =
                RedisContext { supervisor: supervisor.clone(), certificates: Arc::clone(certificates) };
            let leases = Arc::new(Leases::new(settings.replicas));
            let connected = watch_redis(redis, &leases, metrics, &context)?;
            let stores = open_redis(redis, connected, of_candidate, fallback, supervisor).await?;
            Ok(Stores { leases: Some(leases), ..stores })
        }
    }
}

/// The servers of Redis, with their metrics and those of the cache of denials.
fn watch_redis(
    settings: &RedisStoreSettings,
    leases: &Arc<Leases>,
    metrics: &Metrics,
    context: &RedisContext,
) -> Result<Arc<Redis>, StartError> {
    let denials = denials(settings);
    if let Some(denials) = &denials {
        watch_denials(denials, metrics);
    }
    let redis = Redis::watch(settings.all.clone(), settings.per_second.clone(), denials, context)?;
    let redis = Arc::new(redis.with_leases(Arc::clone(leases)));
    watch_nodes(&redis, metrics);
    Ok(redis)
}

async fn open_redis(
    settings: &RedisStoreSettings,
    redis: Arc<Redis>,
    of_candidate: Option<Arc<Denials>>,
    fallback: Arc<Fallback>,
    supervisor: &Supervisor,
) -> Result<Stores, StartError> {
    if let Some(timeout) = settings.startup_max {
        redis
            .store()
            .ready(timeout)
            .await
            .map_err(|source| StartError::RedisUnreachable { timeout, source })?;
    }
    let reachable = settings.ready_only_connected.then(|| {
        let (sender, reachable) = watch::channel(false);
        supervisor.spawn("Redis health check", watch_reachability(redis.store(), sender));
        reachable
    });
    let watched = Arc::clone(&redis);
    let on_demand = Arc::new(OnDemand { redis: Arc::clone(&redis), store: OnceLock::new() });
    let lockouts = vec![Arc::clone(&on_demand) as _, fallback.lockouts()];
    let counters = vec![Arc::clone(&on_demand) as _, fallback.counters()];
    let overrides = Arc::clone(&on_demand) as _;
    // Once for the process, not once for each core.
    let has_warned = Arc::new(AtomicBool::new(false));
    let make = move || {
        let has_warned = Arc::clone(&has_warned);
        let store = Arc::new(redis.store());
        let (connected, settled) = (Arc::clone(&store), Arc::clone(&store));
        let ready = async move {
            if let Err(error) = connected.ready(CONNECT_TIMEOUT).await
                && !has_warned.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(%error, "Redis is not reachable yet; accepting calls without it");
            }
        };
        let settle = async move {
            if time::timeout(SETTLE_TIMEOUT, settled.settle()).await.is_err() {
                tracing::warn!("TTLs of the last counters could not be set in Redis");
            }
        };
        let candidate_store = Arc::new(store.beside(of_candidate.clone()));
        CoreStores { store, candidate_store, ready: ready.boxed(), settle: settle.boxed() }
    };
    let detail = {
        let reachable = reachable.clone();
        Arc::new(move || redis_detail(&watched, reachable.as_ref().map(|reachable| *reachable.borrow())))
    };
    Ok(Stores {
        make: Box::new(make),
        leases: None,
        inspect: Arc::clone(&on_demand) as _,
        fleet: Some(Arc::clone(&on_demand) as _),
        for_operators: on_demand,
        lockouts,
        counters,
        overrides,
        fallback,
        store_timeout: settings.all.call_timeout,
        health: StoreHealth { reachable, detail },
    })
}

fn memory_detail(Figures { counters, bytes, evicted }: Figures) -> Value {
    json!({"kind": "memory", "counters": counters, "bytes": bytes, "evicted": evicted})
}

/// `reachable` is set if this replica is ready only while Redis can be reached.
fn redis_detail(redis: &Redis, reachable: Option<bool>) -> Value {
    let node = |node: NodeSnapshot| {
        json!({
            "node": node.node,
            "connections": node.connections,
            "connected": node.connected,
            "breakers_open": node.breakers_open,
            "queued": node.queued,
            "oldest_queued_ms": u64::try_from(node.oldest_queued.as_millis()).unwrap_or(u64::MAX),
            "in_flight": node.in_flight,
            "batch_size": node.batch_size,
            "ttls_not_set": node.ttls_not_set,
            "denied_commands": node.denied_commands,
            "error": node.error,
        })
    };
    let nodes: Vec<Value> = redis.nodes().into_iter().map(node).collect();
    json!({"kind": "redis", "reachable": reachable, "error": redis.discovery_error(), "nodes": nodes})
}

/// Connections for operators and for overrides, opened on first use.
struct OnDemand {
    redis: Arc<Redis>,
    store: OnceLock<RedisStore>,
}

impl OnDemand {
    /// Store, once its topology is known or [`CONNECT_TIMEOUT`] has passed.
    async fn store(&self) -> &RedisStore {
        let store = self.store.get_or_init(|| self.redis.store());
        // Unreachable servers fail the calls themselves.
        drop(store.ready(CONNECT_TIMEOUT).await);
        store
    }
}

impl Store for OnDemand {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ChargeFuture<'a> {
        Box::pin(async move { self.store().await.charge(charges, now).await })
    }

    /// Operators only read.
    fn refund(&self, _: &[Charge], _: Timestamp) {}
}

impl Inspect for OnDemand {
    fn inspect(&self) -> InspectFuture<'_> {
        Box::pin(self.redis.inspect())
    }
}

impl Fleet for OnDemand {
    fn announce<'a>(&'a self, announcement: Announcement<'a>) -> FleetFuture<'a> {
        Box::pin(async move { self.redis.announce(announcement).await })
    }
}

impl Lockouts for OnDemand {
    fn search<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp, found: &'a Found) -> LockoutFuture<'a, ()> {
        Box::pin(async move { self.store().await.search(keys, now, found).await })
    }

    fn is_blocked<'a>(&'a self, key: &'a Bytes, now: Timestamp) -> LockoutFuture<'a, bool> {
        Box::pin(async move { self.store().await.is_blocked(key, now).await })
    }

    fn lift<'a>(&'a self, key: &'a Bytes) -> LockoutFuture<'a, bool> {
        Box::pin(async move { self.store().await.lift(key).await })
    }
}

impl CounterReset for OnDemand {
    fn reset<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ResetFuture<'a> {
        Box::pin(async move { self.store().await.reset(charges, now).await })
    }
}

impl DocumentStore for OnDemand {
    fn version<'a>(&'a self, keys: &'a KeyWriter) -> DocumentFuture<'a, Bytes> {
        Box::pin(async move { self.store().await.version(keys).await })
    }

    fn read<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp) -> DocumentFuture<'a, StoredDocument> {
        Box::pin(async move { self.store().await.read(keys, now).await })
    }

    fn replace<'a>(&'a self, keys: &'a KeyWriter, by: Replacement) -> DocumentFuture<'a, bool> {
        Box::pin(async move { self.store().await.replace(keys, by).await })
    }
}

/// Cache of denials; `None` if it is disabled.
fn denials(settings: &RedisStoreSettings) -> Option<Arc<Denials>> {
    (settings.local_cache_bytes > 0).then(|| Arc::new(Denials::new(settings.local_cache_bytes)))
}

fn watch_memory(metrics: &Metrics, figures: impl Fn() -> Figures + Send + Sync + 'static) {
    metrics.register(move |snapshot| {
        let Figures { counters, bytes, evicted } = figures();
        snapshot.add(&defined::MEMORY_COUNTERS, [], counters);
        snapshot.add(&defined::MEMORY_COUNTER_BYTES, [], bytes);
        snapshot.add(&defined::MEMORY_EVICTED_COUNTERS, [], evicted);
    });
}

fn watch_denials(denials: &Arc<Denials>, metrics: &Metrics) {
    let denials = Arc::clone(denials);
    metrics.register(move |snapshot| {
        let (hits, misses) = denials.lookups();
        snapshot.add(&defined::LOCAL_CACHE_HITS, [], hits);
        snapshot.add(&defined::LOCAL_CACHE_MISSES, [], misses);
        snapshot.add(&defined::LOCAL_CACHE_LOOKUPS, [], hits + misses);
        snapshot.add(&defined::LOCAL_CACHE_ENTRIES, [], denials.len());
    });
}

fn watch_nodes(redis: &Arc<Redis>, metrics: &Metrics) {
    let redis = Arc::clone(redis);
    metrics.register(move |snapshot| {
        snapshot.add(&defined::REDIS_TTLS_LOST, [], redis.ttls_lost());
        snapshot.add(&defined::REDIS_RELEASES_LOST, [], redis.releases_lost());
        snapshot.add(&defined::REDIS_SETTLEMENTS_LOST, [], redis.settlements_lost());
        for node in redis.nodes() {
            let name = [node.node.as_str()];
            snapshot.add(&defined::REDIS_POOL_ACTIVE, [], node.connected);
            snapshot.add(&defined::REDIS_CONNECTIONS, name, node.connections);
            snapshot.add(&defined::REDIS_CONNECTIONS_UP, name, node.connected);
            snapshot.add(&defined::REDIS_BREAKERS_OPEN, name, node.breakers_open);
            snapshot.add(&defined::REDIS_QUEUED_CALLS, name, node.queued);
            snapshot.add(&defined::REDIS_OLDEST_QUEUED, name, node.oldest_queued);
            snapshot.add(&defined::REDIS_CALLS_IN_FLIGHT, name, node.in_flight);
            snapshot.add(&defined::REDIS_BATCH_SIZE, name, node.batch_size);
            snapshot.add(&defined::REDIS_TTLS_NOT_SET, name, node.ttls_not_set);
            snapshot.add(&defined::REDIS_DENIED_COMMANDS, name, node.denied_commands.len());
        }
    });
}

/// Pings Redis periodically. Never returns.
async fn watch_reachability(store: RedisStore, reachable: watch::Sender<bool>) {
    let mut turn = time::interval(PING_INTERVAL);
    loop {
        turn.tick().await;
        let answer = time::timeout(PING_INTERVAL, store.ping()).await;
        reachable.send_if_modified(|known| {
            let now = matches!(answer, Ok(Ok(())));
            std::mem::replace(known, now) != now
        });
    }
}

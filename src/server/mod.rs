//! The server: listeners, serving threads, and graceful shutdown.

mod accept;
pub mod admin;
mod admission;
mod connection;
mod connections;
mod console;
mod cores;
mod debug;
mod file_descriptors;
mod grpc;
mod health;
mod heartbeat;
mod http;
mod links;
mod listen;
mod listeners;
mod local;
mod lockouts;
mod origin;
mod page;
mod placement;
mod schema;
mod service;
mod streams;
mod tracked_body;
mod transport;
pub mod wire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::accept::{accept, serve_operators};
use self::admin::{Admin, AdminParts};
use self::admission::UnfinishedBodies;
use self::connections::{Bounds, Connections};
use self::cores::{CoreParts, Cores, Protocol};
use self::debug::{Debug, Pages};
use self::grpc::LongStreams;
use self::health::Health;
pub use self::health::StoreHealth;
use self::streams::Streams;
use crate::engine::Rules;
use crate::provider;
use crate::provider::xds::XdsStatus;
use crate::supervisor::{Supervisor, Task};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::definitions::{CONNECTIONS, DISPLACED_CONNECTIONS, INCOMPLETE_REQUEST_BODIES};
use crate::tls::{LiveServer, ServerTls};

pub use self::admission::{BodyError, BodySettings};
pub use self::connection::{ConnectionSettings, Shutdown};
pub use self::cores::{CoreContext, CoreFactory};
pub use self::health::HealthPolicy;
pub use self::listen::{Address, BindError};
pub use self::listeners::{ListenSettings, ListenerTls, Listeners};
pub use self::lockouts::LockoutAdmin;
pub use self::service::{Call, CallError, RateLimitService};
pub use self::wire::{AnswerSettings, HeaderNames, HeaderStyle, InvalidRequest};

/// Interval of the sweep for expired connections and bodies.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// Threads, connections and shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeSettings {
    /// Threads that serve calls, at least 1; `None` for one on each core that the process may use.
    pub threads: Option<usize>,
    /// Open connections, for gRPC and for HTTP each; at least 1.
    pub max_connections: usize,
    /// Open connections of one client address that do not give way before those of others, at least 1; `None`
    /// for a quarter of `max_connections`.
    pub max_connections_per_address: Option<usize>,
    /// Bounds on the lifetime of connections.
    pub connections: ConnectionSettings,
    /// Bounds on request bodies that have not arrived in full.
    pub bodies: BodySettings,
    /// TLS of the gRPC listener; `None` for plain text.
    pub grpc_tls: Option<ServerTls>,
    /// TLS of the HTTP listener; `None` for plain text.
    pub http_tls: Option<ServerTls>,
    /// TLS of the admin listener; `None` for plain text.
    pub admin_tls: Option<ServerTls>,
    /// Rules that the service needs before it is ready.
    pub health: HealthPolicy,
    /// Delay between the shutdown request and the end of accepting connections, during which health checks
    /// fail, so that load balancers drain this replica.
    pub shutdown_delay: Duration,
    /// Upper bound on the time after that delay until calls in flight are cut off.
    pub shutdown_timeout: Duration,
}

/// Parts that the server uses.
pub struct Parts {
    /// TLS of the listeners.
    pub tls: ListenerTls,
    /// Rules in force, for the debug port.
    pub rules: Arc<ArcSwapOption<Rules>>,
    /// Candidate rules, for the debug port.
    pub candidate_rules: Option<Arc<ArcSwapOption<Rules>>>,
    /// Status of the last load of rules.
    pub rules_status: watch::Receiver<provider::Status>,
    /// Connection to the management server, if there is one.
    pub xds: Option<Arc<XdsStatus>>,
    /// State of the store, for health.
    pub store: StoreHealth,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Lockouts, for the debug port.
    pub lockouts: LockoutAdmin,
    /// Makes of each core's context.
    pub core_factory: Arc<CoreFactory>,
    /// Parts of the admin listener; `None` if it is off.
    pub admin: Option<AdminParts>,
}

/// Failure of the server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A thread could not be started.
    #[error("cannot start a serving thread: {0}")]
    Threads(io::Error),
    /// A serving thread has ended.
    #[error("a serving thread has ended unexpectedly")]
    CoreEnded,
}

/// Serves until `shutdown`, then drains: health checks fail, after a delay no connection is accepted, and calls
/// in flight finish until a deadline. Tasks that end earlier are reported to `supervisor`. Dropping the future
/// cuts all connections off.
///
/// # Errors
/// [`ServeError`]
pub async fn run(
    settings: &ServeSettings,
    listeners: Listeners,
    parts: Parts,
    supervisor: &Supervisor,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let xds = parts.xds.clone();
    let health = Health::new(parts.rules_status, settings.health, parts.store, xds);
    // Follows `shutdown` after its delays.
    let connections = Shutdown::default();
    let _cut = connections.now.clone().drop_guard();
    let threads = settings.threads.unwrap_or_else(available_cores);
    let admin_tls = parts.tls.admin.clone();
    let bodies = Arc::new(UnfinishedBodies::new(threads, settings.bodies));
    let core_parts = CoreParts {
        make: parts.core_factory,
        health: health.clone(),
        connections: settings.connections,
        tls: parts.tls,
        shutdown: connections.clone(),
        bodies: Arc::clone(&bodies),
        long: LongStreams {
            watches: Streams::new(connections.drain.clone()),
            reflections: Streams::new(connections.drain.clone()),
        },
        http_names: Arc::clone(&listeners.http_names),
    };
    let (cores, ended) = Cores::start(threads, &core_parts, supervisor).map_err(ServeError::Threads)?;
    drop(core_parts);
    register_metrics(&parts.metrics, &cores, Arc::clone(&bodies));

    supervisor.spawn("heartbeat monitor", heartbeat::monitor(cores.heartbeats(), supervisor.clone()));
    supervisor.spawn("health reporter", health.clone().report());
    let debug = Debug {
        rules: parts.rules,
        candidate: parts.candidate_rules,
        xds: parts.xds,
        metrics: parts.metrics,
        lockouts: parts.lockouts,
        host_names: Arc::clone(&listeners.debug_names),
        pages: Pages::default(),
    };
    let cores = Arc::new(cores);
    let (accepting, swept) = start_listeners(
        settings,
        listeners,
        Operators { debug, admin: parts.admin, admin_tls },
        &cores,
        supervisor,
    );
    supervisor.spawn("connection sweep", sweep(swept, bodies));
    drop(cores);

    let mut all_ended = std::pin::pin!(wait_for_all(ended));
    tokio::select! {
        () = shutdown.drain.cancelled() => {}
        () = shutdown.now.cancelled() => {}
        _ = all_ended.as_mut() => return Err(ServeError::CoreEnded),
    }
    tracing::info!(delay = ?settings.shutdown_delay, timeout = ?settings.shutdown_timeout, "stopping");
    health.drain();
    sleep_unless(settings.shutdown_delay, &shutdown.now).await;
    // This drops the listeners and the last handle of the cores, which end with their connections.
    for task in accepting {
        task.stop().await;
    }
    connections.drain.cancel();
    tokio::select! {
        outcome = all_ended.as_mut() => return outcome,
        () = sleep_unless(settings.shutdown_timeout, &shutdown.now) => {}
    }
    tracing::warn!("shutdown timeout exceeded; cutting off calls in flight");
    connections.now.cancel();
    all_ended.await
}

/// Registers metrics of the connections of each core and of incomplete request bodies.
fn register_metrics(metrics: &Metrics, cores: &Cores, bodies: Arc<UnfinishedBodies>) {
    let open = cores.open_connections();
    metrics.register(move |snapshot| {
        for (core, open) in open.iter().enumerate() {
            snapshot.add(&CONNECTIONS, [&core.to_string()], open.load(Ordering::Relaxed));
        }
    });
    metrics.register(move |snapshot| {
        snapshot.add(&INCOMPLETE_REQUEST_BODIES, ["displaced"], bodies.displaced());
        snapshot.add(&INCOMPLETE_REQUEST_BODIES, ["timed_out"], bodies.timed_out());
    });
}

/// Parts of the listeners for operators.
struct Operators {
    debug: Debug,
    admin: Option<AdminParts>,
    admin_tls: Option<LiveServer>,
}

/// Starts accepting connections. Returns the accept loops of the cores, and the connections of each listener
/// for the sweep.
fn start_listeners(
    settings: &ServeSettings,
    listeners: Listeners,
    Operators { debug, admin, admin_tls }: Operators,
    cores: &Arc<Cores>,
    supervisor: &Supervisor,
) -> (Vec<Task>, Vec<Arc<Connections>>) {
    let operator_ports =
        1 + usize::from(listeners.prometheus.is_some()) + usize::from(listeners.admin.is_some());
    let quota = file_descriptors::allot(settings.max_connections, cores.heartbeats().len(), operator_ports);
    let mut swept = Vec::new();
    let metrics = Arc::clone(&debug.metrics);
    let mut list = |listener, bounds| {
        let connections = Connections::new(bounds);
        let counted = Arc::clone(&connections);
        metrics.register(move |snapshot| {
            snapshot.add(&DISPLACED_CONNECTIONS, [listener], counted.displaced());
        });
        swept.push(Arc::clone(&connections));
        connections
    };
    if let Some((listener, path)) = listeners.prometheus {
        let router = debug::metrics_router(debug.clone(), &path);
        let served =
            serve_operators(listener, None, router, list("prometheus", settings.operators(quota.operators)));
        supervisor.spawn("Prometheus listener", served);
    }
    if let (Some((listener, names)), Some(parts)) = (listeners.admin, admin) {
        let admin = Admin::new(parts, names.into(), admin_tls.is_some());
        supervisor.spawn("rate sampler", Arc::clone(&admin).sample_rates());
        supervisor.spawn("recorder of loads", Arc::clone(&admin).record_loads());
        supervisor.spawn("fleet announcer", Arc::clone(&admin).announce());
        let served = serve_operators(
            listener,
            admin_tls,
            admin::router(&admin, console::router(Arc::clone(&admin)), console::public_router()),
            list("admin", settings.operators(quota.operators)),
        );
        supervisor.spawn("admin listener", served);
    }
    let router = debug::router(debug);
    let served =
        serve_operators(listeners.debug, None, router, list("debug", settings.operators(quota.operators)));
    supervisor.spawn("debug listener", served);

    let mut accepting = Vec::new();
    for (name, label, listener, protocol, idle) in [
        ("gRPC listener", "grpc", listeners.grpc, Protocol::Grpc, settings.connections.grpc_idle_timeout),
        ("HTTP listener", "http", listeners.http, Protocol::Http, settings.connections.http_idle_timeout),
    ] {
        // Separate bounds, so that a flood on one listener does not affect the other.
        let connections = list(label, settings.bounds(quota.calls, idle));
        accepting.push(supervisor.spawn(name, accept(listener, protocol, Arc::clone(cores), connections)));
    }
    (accepting, swept)
}

impl ServeSettings {
    /// Bounds of a listener with `max` connections, which may be idle for `idle`.
    fn bounds(&self, max: usize, idle: Option<Duration>) -> Bounds {
        let share = self.max_connections_per_address.unwrap_or(max / 4).max(1);
        Bounds { max, share, first_request: self.connections.first_request_timeout, idle }
    }

    /// Bounds of a listener for operators: an address may have a quarter of the connections, whatever the settings.
    fn operators(&self, max: usize) -> Bounds {
        Bounds { share: (max / 4).max(1), ..self.bounds(max, self.connections.http_idle_timeout) }
    }
}

/// Ends expired connections and bodies. Never returns.
async fn sweep(listeners: Vec<Arc<Connections>>, bodies: Arc<UnfinishedBodies>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        bodies.expire(now);
        for connections in &listeners {
            connections.sweep(now);
        }
    }
}

/// Waits until every core has ended.
async fn wait_for_all(ended: Vec<oneshot::Receiver<()>>) -> Result<(), ServeError> {
    for core in ended {
        core.await.map_err(|_| ServeError::CoreEnded)?;
    }
    Ok(())
}

async fn sleep_unless(duration: Duration, now: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        () = now.cancelled() => {}
    }
}

/// Cores that the process may use, which a cgroup may restrict.
fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

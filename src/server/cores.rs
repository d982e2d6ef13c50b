//! Serving threads: one for each core, each with its own runtime, limiter and store connection. A client
//! connection is handed to one of them and stays there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_utils::CachePadded;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ListenerTls;
use super::admission::UnfinishedBodies;
use super::connection::{ConnectionSettings, Shutdown, serve_grpc, serve_http};
use super::connections::Slot;
use super::grpc::{Grpc, LongStreams};
use super::health::Health;
use super::heartbeat::{Heartbeat, core_name};
use super::http;
use super::listen::Stream;
use super::placement::{Load, Placement};
use super::service::RateLimitService;
use super::transport::Transport;
use crate::supervisor::Supervisor;

/// Constructor of a core's context, called on that core inside its runtime.
pub type CoreFactory = dyn Fn() -> CoreContext + Send + Sync;

/// Service and life cycle hooks of one core.
pub struct CoreContext {
    /// Answers calls.
    pub service: RateLimitService,
    /// Resolves when the core may take its first connection.
    pub ready: BoxFuture<'static, ()>,
    /// Work after the last call was answered.
    pub settle: BoxFuture<'static, ()>,
}

/// Protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

/// Accepted connection on its way to its core.
struct Accepted {
    stream: Stream,
    protocol: Protocol,
    open: Open,
}

/// Counts a connection for as long as it is open.
struct Open {
    core: Arc<CachePadded<AtomicUsize>>,
    slot: Slot,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Handle of a serving thread.
struct Core {
    runtime: Handle,
    open: Arc<CachePadded<AtomicUsize>>,
    heartbeat: Heartbeat,
    /// The channel is unbounded; the slots of open connections bound its length.
    accepted: UnboundedSender<Accepted>,
}

/// Serving threads. Dropping the handle ends each of them once its connections have ended.
pub(super) struct Cores {
    cores: Vec<Core>,
    placement: Mutex<Placement>,
}

/// Parts that every core gets.
#[derive(Clone)]
pub(super) struct CoreParts {
    pub(super) make: Arc<CoreFactory>,
    pub(super) health: Health,
    pub(super) connections: ConnectionSettings,
    pub(super) tls: ListenerTls,
    pub(super) shutdown: Shutdown,
    pub(super) bodies: Arc<UnfinishedBodies>,
    pub(super) long: LongStreams,
    /// Host names of the HTTP listener.
    pub(super) http_names: Arc<[String]>,
}

impl Core {
    fn load(&self) -> Load {
        let busy = self.runtime.metrics().worker_total_busy_duration(0);
        Load { open: self.open.load(Ordering::Relaxed), busy, stalled: self.heartbeat.is_stalled() }
    }
}

impl Cores {
    /// Starts `count` cores. Each receiver resolves when its core has ended, and fails if the core panicked,
    /// which is also reported to `supervisor`.
    pub(super) fn start(
        count: usize,
        parts: &CoreParts,
        supervisor: &Supervisor,
    ) -> io::Result<(Self, Vec<oneshot::Receiver<()>>)> {
        let (mut cores, mut ended) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for index in 0..count {
            let (sender, accepted) = unbounded_channel();
            let (done, receiver) = oneshot::channel();
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, parts) = (runtime.handle().clone(), parts.clone());
            let (guard, heartbeat) = (supervisor.thread(core_name(index)), Heartbeat::default());
            let beats = heartbeat.clone();
            thread::Builder::new().name(core_name(index)).spawn(move || {
                runtime.spawn(beats.beat());
                runtime.block_on(run(index, accepted, parts));
                guard.disarm();
                // The receiver may be gone.
                done.send(()).unwrap_or_default();
            })?;
            cores.push(Core { runtime: handle, open: Arc::default(), heartbeat, accepted: sender });
            ended.push(receiver);
        }
        let placement = Mutex::new(Placement::new(count, Instant::now()));
        Ok((Self { cores, placement }, ended))
    }

    /// Hands a connection to the core with the lowest expected load.
    pub(super) fn hand_over(&self, stream: Stream, protocol: Protocol, slot: Slot) {
        let loads: Vec<_> = self.cores.iter().map(Core::load).collect();
        let place = self.placement.lock().place(Instant::now(), &loads);
        let Some(core) = place.and_then(|place| self.cores.get(place)) else { return };
        core.open.fetch_add(1, Ordering::Relaxed);
        let open = Open { core: Arc::clone(&core.open), slot };
        if core.accepted.send(Accepted { stream, protocol, open }).is_err() {
            tracing::error!("connection dropped: its core has ended");
        }
    }

    /// Heartbeats of the cores, in their order.
    pub(super) fn heartbeats(&self) -> Vec<Heartbeat> {
        self.cores.iter().map(|core| core.heartbeat.clone()).collect()
    }

    /// Live counts of open connections per core.
    pub(super) fn open_connections(&self) -> Vec<Arc<CachePadded<AtomicUsize>>> {
        self.cores.iter().map(|core| Arc::clone(&core.open)).collect()
    }
}

/// Serves connections until the channel is closed and the last connection has ended.
async fn run(index: usize, mut accepted: UnboundedReceiver<Accepted>, parts: CoreParts) {
    let CoreContext { service, ready, settle } = (parts.make)();
    ready.await;
    let service = Arc::new(service.on_core(index, parts.bodies));
    let grpc = Grpc::new(Arc::clone(&service), parts.health.grpc_service(), parts.long);
    let router = http::router(service, parts.health.clone(), parts.http_names);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            next = accepted.recv() => {
                let Some(Accepted { stream, protocol, open }) = next else { break };
                let (grpc, router, shutdown) = (Arc::clone(&grpc), router.clone(), parts.shutdown.clone());
                let tls = match protocol {
                    Protocol::Grpc => parts.tls.grpc.clone(),
                    Protocol::Http => parts.tls.http.clone(),
                };
                connections.spawn(async move {
                    let connection = Arc::clone(open.slot.connection());
                    let transport = Transport { stream, tls };
                    match protocol {
                        Protocol::Grpc => {
                            serve_grpc(transport, connection, grpc, parts.connections, shutdown).await;
                        }
                        Protocol::Http => serve_http(transport, connection, router, shutdown).await,
                    }
                    drop(open);
                });
            }
            Some(ended) = connections.join_next() => report_panic(ended),
        }
    }
    while let Some(ended) = connections.join_next().await {
        report_panic(ended);
    }
    settle.await;
}

/// A panic ends its own connection, and nothing else.
fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "connection handler panicked");
    }
}

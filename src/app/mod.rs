//! The composition root: settings in, a running service out.
//!
//! [`run`] assembles the parts and serves until shutdown. The program, the tests and programs that embed
//! tollgate all use it: it installs no signal handler, logger or other process-wide state.

mod certificates;
mod exporters;
mod leases;
mod rules;
mod stores;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use self::exporters::Exporters;
use self::rules::{CandidateRules, LiveRules};
use self::stores::{CoreStores, Stores};
use crate::clock::{Clock, SystemClock};
use crate::engine::{Overrides, Rules};
use crate::limiter::observe::Observer;
use crate::limiter::overrides::OverrideBook;
use crate::limiter::{DecisionLog, Limiter};
use crate::provider::Handle;
use crate::provider::xds::XdsStatus;
use crate::server::admin::{Access, AdminParts, TokenFileError};
use crate::server::{
    self, BindError, CoreContext, CoreFactory, ListenSettings, ListenerTls, Listeners, LockoutAdmin, Parts,
    RateLimitService, ServeError,
};
use crate::settings::Settings;
use crate::store::StoreError;
use crate::supervisor::{Supervisor, TaskEnd, TaskEnds};
use crate::telemetry::Telemetry;
use crate::telemetry::collector::Connector;
use crate::telemetry::logs::{DecisionLogSettings, LogWriter, decision_writer};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::definitions::{DECISION_LOG_LINES_DROPPED, LOG_LINES_DROPPED};
use crate::telemetry::traces::Protocol;
use crate::tls::TlsError;

pub use crate::server::Shutdown;

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A socket that was bound has no address.
    #[error("cannot read the address of a socket: {0}")]
    Address(io::Error),
    /// The token file of the admin listener cannot be used.
    #[error(transparent)]
    AdminTokens(#[from] TokenFileError),
    /// A file of certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The decision log cannot be opened.
    #[error("DECISION_LOG cannot be opened: {0}")]
    DecisionLog(io::Error),
    /// Redis was not reachable within `REDIS_STARTUP_MAX_ELAPSED_TIME`.
    #[error("Redis was not reachable within {timeout:?}: {source}")]
    RedisUnreachable {
        /// `REDIS_STARTUP_MAX_ELAPSED_TIME`.
        timeout: Duration,
        /// The last failure.
        source: StoreError,
    },
}

/// Why the service did not start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It could not serve.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A thread or task that it needs has ended.
    #[error(transparent)]
    Ended(#[from] TaskEnd),
}

/// A service that is bound to its addresses and has read its rules. It serves in [`App::run`].
pub struct App {
    settings: Settings,
    listeners: Listeners,
    addresses: ListenSettings,
    tls: ListenerTls,
    /// Connects to the collector of metrics.
    collector: Connector,
    stores: Stores,
    shared: Shared,
    provider: Handle,
    xds: Option<Arc<XdsStatus>>,
    supervisor: Supervisor,
    ends: TaskEnds,
}

/// Parts that every core uses.
struct Shared {
    rules: Arc<ArcSwapOption<Rules>>,
    candidate: Option<CandidateRules>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Reads the observations of the cores; `None` without an admin listener.
    observer: Option<Arc<Observer>>,
    /// Overrides in force.
    overrides: Arc<ArcSwapOption<Overrides>>,
    /// Access to the admin listener.
    admin_access: Arc<Access>,
    /// Log of decisions and its writer; `None` if it is off.
    decision_log: Option<(DecisionLog, Arc<LogWriter>)>,
}

/// Serves as `settings` say until `shutdown` asks it to stop. Logs and traces go wherever the process sends
/// those of `tracing`; see [`crate::telemetry::install`].
///
/// Must be called inside a tokio runtime with I/O and time enabled. That runtime reads rules and serves
/// operators; calls are answered on threads of their own.
///
/// # Errors
/// [`RunError`]
pub async fn run(settings: Settings, shutdown: Shutdown) -> Result<(), RunError> {
    App::start(settings).await?.run(shutdown).await
}

impl App {
    /// Binds the addresses, reads the rules and opens the store, in this order. Rules with errors do not
    /// prevent the start: the service is not ready until there are valid ones.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let admin_access = Arc::new(Access::load(&settings.admin_access)?);
        let listeners = Listeners::bind(&settings.listen)?;
        let addresses = listeners.addresses().map_err(StartError::Address)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (supervisor, ends) = Supervisor::new();
        let certificates = certificates::reloader(&clock);
        let tls = ListenerTls::load(&settings.serve, &certificates)?;
        let LiveRules { rules, handle, metrics, xds } =
            rules::load(&settings, &clock, &supervisor, &certificates)?;
        let candidate = settings
            .candidate
            .as_ref()
            .map(|candidate| rules::load_candidate(candidate, &clock, &metrics, &supervisor));
        let (tls_to_collector, protocol) =
            settings.otlp.as_ref().map_or((None, Protocol::Http), |otlp| (otlp.tls.as_ref(), otlp.protocol));
        let collector = Connector::new(tls_to_collector, protocol, "otlp_metrics", &certificates)?;
        let stores = stores::open(&settings, &clock, &metrics, &supervisor, &certificates).await?;
        if let Some(leases) = &stores.leases {
            leases::register(Arc::clone(leases), Arc::clone(&rules), &metrics);
        }
        certificates::supervise(certificates, &supervisor, &metrics);
        let observer = settings.listen.admin.as_ref().map(|_| Arc::default());
        let decision_log = decision_log(&settings, &metrics, &supervisor)?;
        let overrides = Arc::default();
        let shared =
            Shared { rules, candidate, clock, metrics, observer, overrides, admin_access, decision_log };
        let provider = handle;
        Ok(Self {
            settings,
            listeners,
            addresses,
            tls,
            collector,
            stores,
            shared,
            provider,
            xds,
            supervisor,
            ends,
        })
    }

    /// Actual addresses of the listeners: port 0 is replaced by the port that was free.
    pub const fn addresses(&self) -> &ListenSettings {
        &self.addresses
    }

    /// Settings that it was started with.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Rules in force; `None` while there are none.
    pub fn rules(&self) -> Option<Arc<Rules>> {
        self.shared.rules.load_full()
    }

    /// Rules of `CANDIDATE_CONFIG`; `None` while there are none.
    pub fn candidate_rules(&self) -> Option<Arc<Rules>> {
        self.shared.candidate.as_ref()?.rules.load_full()
    }

    /// Handles to reload the rules and the candidate rules.
    pub fn providers(&self) -> Vec<Handle> {
        let candidate = self.shared.candidate.as_ref().map(|candidate| candidate.handle.clone());
        [self.provider.clone()].into_iter().chain(candidate).collect()
    }

    /// Supervises a task of the process that must last as long as the service: its end ends [`Self::run`].
    pub fn supervise(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.supervisor.spawn(name, task);
    }

    /// Supervises the threads that write the process' log and send its spans, and counts the lines that the
    /// first one drops.
    pub fn watch_telemetry(&self, telemetry: &mut Telemetry) {
        self.supervise("log writer", telemetry.logs.writer.ended());
        if let Some(traces) = &mut telemetry.traces {
            self.supervise("trace exporter", traces.ended());
            certificates::supervise(traces.certificates(), &self.supervisor, &self.shared.metrics);
        }
        let dropped = telemetry.logs.writer.dropped();
        self.shared.metrics.register(move |snapshot| snapshot.add(&LOG_LINES_DROPPED, [], dropped()));
    }

    /// Serves until `shutdown` asks it to stop, and returns when every connection has ended. Returns early
    /// when a thread or task that the service needs ends unexpectedly.
    ///
    /// # Errors
    /// [`RunError::Serve`] and [`RunError::Ended`].
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RunError> {
        let Self {
            settings,
            listeners,
            tls,
            collector,
            stores,
            shared,
            provider,
            xds,
            supervisor,
            mut ends,
            ..
        } = self;
        // The writer must not end before the service does.
        let decision_log = shared.decision_log.clone();
        let exporters = Exporters::start(&settings, collector, &shared.metrics, &shared.clock, &supervisor);
        let overrides = follow_overrides(&settings, &stores, &shared, &supervisor);
        let lockouts =
            LockoutAdmin::new(stores.lockouts.clone(), settings.keys.clone(), Arc::clone(&shared.clock));
        let candidate_status = shared.candidate.as_ref().map(|candidate| candidate.handle.status());
        let candidate_provider = shared.candidate.as_ref().map(|candidate| candidate.handle.clone());
        let admin = shared.observer.as_ref().map(|observer| AdminParts {
            rules: Arc::clone(&shared.rules),
            rules_status: provider.status(),
            candidate_status,
            candidate_counts: shared.candidate.as_ref().map(|candidate| Arc::clone(&candidate.metrics)),
            providers: [provider.clone()].into_iter().chain(candidate_provider).collect(),
            metrics: Arc::clone(&shared.metrics),
            observer: Arc::clone(observer),
            lockouts: lockouts.clone(),
            store: Arc::clone(&stores.inspect),
            fleet: stores.fleet.clone(),
            keys: settings.keys.clone(),
            limiter: operators_limiter(&settings, &stores, &shared),
            overrides: Arc::clone(&overrides),
            counters: stores.counters.clone(),
            clock: Arc::clone(&shared.clock),
            access: Arc::clone(&shared.admin_access),
        });
        let parts = Parts {
            rules: Arc::clone(&shared.rules),
            candidate_rules: shared.candidate.as_ref().map(|candidate| Arc::clone(&candidate.rules)),
            rules_status: provider.status(),
            xds,
            tls,
            store: stores.health.clone(),
            metrics: Arc::clone(&shared.metrics),
            lockouts,
            admin,
            core_factory: core_factory(&settings, stores, shared),
        };
        let outcome = tokio::select! {
            outcome = server::run(&settings.serve, listeners, parts, &supervisor, shutdown) => {
                outcome.map_err(RunError::from)
            }
            end = ends.first() => {
                tracing::error!(task = %end.task, cause = end.cause, "supervised task ended, stopping");
                Err(end.into())
            }
        };
        exporters.finish().await;
        drop(decision_log);
        outcome
    }
}

/// The decision log, if it is on, and the thread that writes it.
fn decision_log(
    settings: &Settings,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> Result<Option<(DecisionLog, Arc<LogWriter>)>, StartError> {
    let Some(DecisionLogSettings { target, sample }) = &settings.decision_log else { return Ok(None) };
    let mut writer = decision_writer(target).map_err(StartError::DecisionLog)?;
    supervisor.spawn("decision log writer", writer.ended());
    let dropped = writer.dropped();
    metrics.register(move |snapshot| snapshot.add(&DECISION_LOG_LINES_DROPPED, [], dropped()));
    Ok(Some((DecisionLog::new(writer.queue(), *sample), Arc::new(writer))))
}

/// Follows the overrides in the store, and shows them in the metrics.
fn follow_overrides(
    settings: &Settings,
    stores: &Stores,
    shared: &Shared,
    supervisor: &Supervisor,
) -> Arc<OverrideBook> {
    let (store, live) = (Arc::clone(&stores.overrides), Arc::clone(&shared.overrides));
    let book = Arc::new(OverrideBook::new(store, settings.keys.clone(), Arc::clone(&shared.clock), live));
    book.register(&shared.metrics);
    supervisor.spawn("override follower", Arc::clone(&book).follow());
    book
}

/// Reads counters for operators, with connections of its own.
fn operators_limiter(settings: &Settings, stores: &Stores, shared: &Shared) -> Limiter {
    Limiter {
        rules: Arc::clone(&shared.rules).into(),
        store: Arc::clone(&stores.for_operators),
        fallback: Arc::clone(&stores.fallback),
        store_timeout: stores.store_timeout,
        clock: Arc::clone(&shared.clock),
        metrics: Arc::clone(&shared.metrics),
        keys: settings.keys.clone(),
        modes: settings.modes,
        candidate: None,
        tap: None,
        overrides: Arc::clone(&shared.overrides).into(),
        decision_log: None,
    }
}

/// The factory of core contexts.
fn core_factory(settings: &Settings, stores: Stores, shared: Shared) -> Arc<CoreFactory> {
    let (keys, modes, answers) = (settings.keys.clone(), settings.modes, settings.answers.clone());
    let max_in_flight = settings.max_in_flight;
    Arc::new(move || {
        let CoreStores { store, candidate_store, ready, settle } = (stores.make)();
        let Shared { rules, candidate, clock, metrics, observer, overrides, decision_log, .. } = &shared;
        let limiter = Limiter {
            rules: Arc::clone(rules).into(),
            store,
            fallback: Arc::clone(&stores.fallback),
            store_timeout: stores.store_timeout,
            clock: Arc::clone(clock),
            metrics: Arc::clone(metrics),
            keys: keys.clone(),
            modes,
            candidate: candidate.as_ref().map(|candidate| candidate.for_core(candidate_store)),
            tap: observer.as_ref().map(|observer| observer.tap()),
            decision_log: decision_log.as_ref().map(|(log, _)| log.clone()),
            overrides: Arc::clone(overrides).into(),
        };
        CoreContext { service: RateLimitService::new(limiter, answers.clone(), max_in_flight), ready, settle }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn start() -> App {
        let local = [("HOST", "127.0.0.1"), ("GRPC_HOST", "127.0.0.1"), ("DEBUG_HOST", "127.0.0.1")];
        let ports =
            [("PORT", "0"), ("GRPC_PORT", "0"), ("DEBUG_PORT", "0"), ("ADMIN_PORT", "0"), ("THREADS", "1")];
        let settings = Settings::from_variables(&[&local[..], &ports, &[("RULES_PATH", "/none")]].concat());
        App::start(settings.unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn the_service_ends_when_a_task_that_it_needs_has_ended() {
        let app = start().await;
        app.supervise("helper", async { panic!("by request") });
        let error = app.run(Shutdown::default()).await.unwrap_err();
        assert_eq!(error.to_string(), "helper ended unexpectedly: panicked: by request");
    }

    #[tokio::test]
    async fn the_service_ends_well_when_it_is_asked_to() {
        let app = start().await;
        let shutdown = Shutdown::default();
        shutdown.drain.cancel();
        app.run(shutdown).await.unwrap();
    }
}

//! Loading and watching of the rules in force and of the candidate rules.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::engine::{KeyWriter, Rules};
use crate::limiter::{CANDIDATE_GRACE, Candidate, Sampler};
use crate::provider::files::{FileProvider, FileSettings};
use crate::provider::origin::Origin;
use crate::provider::publish::{OnLoad, PublishSettings, Publisher};
use crate::provider::xds::{XdsProvider, XdsStatus};
use crate::provider::{Handle, Status};
use crate::settings::{CandidateSettings, Settings};
use crate::store::Store;
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::definitions as defined;
use crate::telemetry::metrics::{CandidateMetrics, Metrics};
use crate::tls::{Reloader, TlsError};

/// Rules in force.
pub(super) struct LiveRules {
    pub(super) rules: Arc<ArcSwapOption<Rules>>,
    pub(super) handle: Handle,
    pub(super) metrics: Arc<Metrics>,
    /// Connection to the management server, if there is one.
    pub(super) xds: Option<Arc<XdsStatus>>,
}

/// Candidate rules.
pub(super) struct CandidateRules {
    pub(super) rules: Arc<ArcSwapOption<Rules>>,
    pub(super) handle: Handle,
    keys: KeyWriter,
    pub(super) metrics: Arc<CandidateMetrics>,
    sampler: Arc<Sampler>,
}

/// Loads the rules in force, and spawns a task in the current runtime that reloads them.
///
/// # Errors
/// [`TlsError`] with the first file for TLS to the management server that cannot be used, and why.
pub(super) fn load(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    supervisor: &Supervisor,
    certificates: &Reloader,
) -> Result<LiveRules, TlsError> {
    let rules = Arc::new(ArcSwapOption::empty());
    let metrics = Arc::new(Metrics::new(settings.metrics.clone(), Arc::clone(&rules)));
    let counted = Arc::clone(&metrics);
    let on_load = move |status: &Status| {
        counted.set_rules_hash(status.rules_hash);
        match (&status.error, status.loaded_at) {
            (None, Some(loaded_at)) => counted.record_config_load(loaded_at),
            (Some(_), _) | (None, None) => counted.record_config_error(),
        }
    };
    let origins = settings.reads_rule_files.then_some(Origin::Files);
    let origins = origins.into_iter().chain(settings.xds.as_ref().map(|_| Origin::Xds)).collect();
    let publisher = publisher(&settings.rules, origins, &rules, clock, Box::new(on_load));
    let mut wakes = Vec::new();
    if settings.reads_rule_files {
        let wake = Arc::new(Notify::new());
        let provider = FileProvider::load(&settings.rules, publisher.clone(), Arc::clone(&wake));
        supervisor.spawn("rule loader", run(provider));
        wakes.push(wake);
    }
    let mut xds = None;
    if let Some(settings) = settings.xds.clone() {
        let wake = Arc::new(Notify::new());
        let (publisher, clock) = (publisher.clone(), Arc::clone(clock));
        let provider = XdsProvider::load(settings, publisher, clock, Arc::clone(&wake), certificates)?;
        let status = provider.status();
        supervisor.spawn("xDS client", run_xds(provider));
        wakes.push(wake);
        register_xds(&metrics, Arc::clone(&status));
        xds = Some(status);
    }
    let handle = Handle::new(publisher.status(), wakes);
    Ok(LiveRules { rules, handle, metrics, xds })
}

/// Loads the candidate rules, and spawns a task that reloads them. Errors are logged and do not prevent the start.
pub(super) fn load_candidate(
    settings: &CandidateSettings,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    supervisor: &Supervisor,
) -> CandidateRules {
    let CandidateSettings { files, keys } = settings;
    let rules = Arc::new(ArcSwapOption::empty());
    let counts = Arc::new(CandidateMetrics::new(Arc::clone(&rules)));
    metrics.show_candidate(&counts);
    let counted = Arc::clone(&counts);
    let on_load = move |status: &Status| counted.record_load(status.error.is_none());
    let publisher = publisher(files, vec![Origin::Files], &rules, clock, Box::new(on_load));
    let wake = Arc::new(Notify::new());
    let handle = Handle::new(publisher.status(), vec![Arc::clone(&wake)]);
    let provider = FileProvider::load(files, publisher, wake);
    supervisor.spawn("candidate rule loader", run(provider));
    CandidateRules { rules, handle, keys: keys.clone(), metrics: counts, sampler: Arc::default() }
}

impl CandidateRules {
    /// Candidate of one core, which counts in `store`.
    pub(super) fn for_core(&self, store: Arc<dyn Store>) -> Candidate {
        Candidate {
            rules: Arc::clone(&self.rules).into(),
            store,
            keys: self.keys.clone(),
            metrics: Arc::clone(&self.metrics),
            grace: CANDIDATE_GRACE,
            sampler: Arc::clone(&self.sampler),
        }
    }
}

fn publisher(
    settings: &FileSettings,
    origins: Vec<Origin>,
    rules: &Arc<ArcSwapOption<Rules>>,
    clock: &Arc<dyn Clock>,
    on_load: OnLoad,
) -> Publisher {
    let FileSettings { role, compile, .. } = settings.clone();
    Publisher::new(PublishSettings { role, compile, origins }, Arc::clone(rules), Arc::clone(clock), on_load)
}

fn register_xds(metrics: &Metrics, status: Arc<XdsStatus>) {
    metrics.register(move |snapshot| {
        snapshot.add(&defined::XDS_CONNECTED, [], u64::from(status.is_connected()));
        snapshot.add(&defined::XDS_LAST_RESPONSE_AT, [], status.last_response_at_secs());
        snapshot.add(&defined::XDS_ACKS, [], status.acks());
        snapshot.add(&defined::XDS_NACKS, [], status.nacks());
        snapshot.add(&defined::XDS_RECONNECTS, [], status.reconnects());
        snapshot.add(&defined::XDS_STREAM_ERRORS, [], status.stream_errors());
    });
}

/// Receives rules for as long as `provider` can; the supervisor reports the end.
async fn run_xds(provider: XdsProvider) {
    let Err(error) = provider.run().await;
    tracing::error!(%error, "xDS client ended");
}

/// Reloads rules until `provider` fails; the supervisor reports that end.
async fn run(provider: FileProvider) {
    let Err(error) = provider.run().await;
    tracing::error!(%error, "rule loader ended");
}

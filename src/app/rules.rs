//! Loading and watching of the rules in force and of the candidate rules.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::clock::Clock;
use crate::engine::{KeyWriter, Rules};
use crate::limiter::{Candidate, Sampler};
use crate::provider::files::FileProvider;
use crate::provider::{Handle, Status};
use crate::settings::{CandidateSettings, Settings};
use crate::store::Store;
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::{CandidateMetrics, Metrics};

/// Rules in force.
pub(super) struct LiveRules {
    pub(super) rules: Arc<ArcSwapOption<Rules>>,
    pub(super) handle: Handle,
    pub(super) metrics: Arc<Metrics>,
}

/// Candidate rules.
pub(super) struct CandidateRules {
    pub(super) rules: Arc<ArcSwapOption<Rules>>,
    pub(super) handle: Handle,
    keys: KeyWriter,
    metrics: Arc<CandidateMetrics>,
    sampler: Arc<Sampler>,
}

/// Loads the rules in force, and spawns a task in the current runtime that reloads them.
pub(super) fn load(settings: &Settings, clock: &Arc<dyn Clock>, supervisor: &Supervisor) -> LiveRules {
    let rules = Arc::new(ArcSwapOption::empty());
    let metrics = Arc::new(Metrics::new(settings.metrics.clone(), Arc::clone(&rules)));
    let counted = Arc::clone(&metrics);
    let on_load = move |status: &Status| match (&status.error, status.loaded_at) {
        (None, Some(loaded_at)) => counted.record_config_load(loaded_at),
        (Some(_), _) | (None, None) => counted.record_config_error(),
    };
    let (provider, handle) =
        FileProvider::load(settings.rules.clone(), Arc::clone(&rules), Arc::clone(clock), on_load);
    supervisor.spawn("rule loader", run(provider));
    LiveRules { rules, handle, metrics }
}

/// The same for the candidate rules. Their errors are logged and do not prevent the start.
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
    let (provider, handle) =
        FileProvider::load(files.clone(), Arc::clone(&rules), Arc::clone(clock), on_load);
    supervisor.spawn("candidate rule loader", run(provider));
    CandidateRules { rules, handle, keys: keys.clone(), metrics: counts, sampler: Arc::default() }
}

impl CandidateRules {
    /// Candidate of one core, which counts in `store`.
    pub(super) fn for_core(&self, store: Arc<dyn Store>) -> Candidate {
        Candidate {
            rules: Arc::clone(&self.rules),
            store,
            keys: self.keys.clone(),
            metrics: Arc::clone(&self.metrics),
            sampler: Arc::clone(&self.sampler),
        }
    }
}

/// Reloads rules until `provider` fails; the supervisor reports that end.
async fn run(provider: FileProvider) {
    let Err(error) = provider.run().await;
    tracing::error!(%error, "rule loader ended");
}

//! The rules in force and those that are tried out beside them, each read and watched by itself.

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

/// The rules in force.
pub(super) struct LiveRules {
    pub(super) rules: Arc<ArcSwapOption<Rules>>,
    pub(super) handle: Handle,
    pub(super) metrics: Arc<Metrics>,
}

/// Rules that are tried out.
pub(super) struct CandidateRules {
    pub(super) rules: Arc<ArcSwapOption<Rules>>,
    pub(super) handle: Handle,
    keys: KeyWriter,
    metrics: Arc<CandidateMetrics>,
    sampler: Arc<Sampler>,
}

/// Loads the rules to be in force, and follows them from then on. Belongs to the runtime it is called in.
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

/// The same for rules to try out. Whatever is wrong with them is told, and holds up nothing.
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
    /// The candidate of one core, which counts in `store`.
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

/// Reloads rules for as long as `provider` can; the supervisor reports the end.
async fn run(provider: FileProvider) {
    let Err(error) = provider.run().await;
    tracing::error!(%error, "rule loader ended");
}

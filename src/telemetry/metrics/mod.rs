//! Every metric: its name, unit and labels. Nothing else names one.
//!
//! The names and labels of envoyproxy/ratelimit are kept, as its own Prometheus mapping has them, so that
//! its dashboards keep working; what it has no name for begins with `tollgate_`,  Hits are counted in
//! the compiled rules and read when somebody asks. No series comes from a request's bytes unless the
//! rule asks for it, and those are bounded ([`MetricsSettings::max_named_series`]).

mod candidate;
mod histogram;
mod name;
mod named;
mod series;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::engine::hit_counts::{HitCounts, StatsRef};
use crate::engine::{Code, Decision, Rules, StatsPath, Timestamp};
use histogram::Histogram;
use named::NamedCounts;

pub use candidate::CandidateMetrics;

/// Settings of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Labels that every per-rule series carries: names that Prometheus takes, none of them `domain`,
    /// `key1` or `key2`, and their values.
    pub extra_tags: Vec<(String, String)>,
    /// Upper bound on series whose names come from requests.
    pub max_named_series: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { extra_tags: Vec::new(), max_named_series: 10_000 }
    }
}

/// The service's instruments.
#[derive(Default)]
pub struct Metrics {
    extra_tags: Vec<(String, String)>,
    rules: Arc<ArcSwapOption<Rules>>,
    named: NamedCounts,
    calls: Histogram,
    service_errors: AtomicU64,
    unknown_domain_requests: AtomicU64,
    shadowed_requests: AtomicU64,
    store_latency: Histogram,
    store_errors: StoreErrors,
    config_loads: AtomicU64,
    config_errors: AtomicU64,
    config_loaded_at_secs: AtomicU64,
    /// A lock that only start-up and scrapes take.
    watched: Mutex<Vec<Watched>>,
    /// Set at start-up, where there is one.
    candidate: OnceLock<Arc<CandidateMetrics>>,
}

#[derive(Default)]
struct StoreErrors {
    unreachable: AtomicU64,
    unanswered: AtomicU64,
    rejected: AtomicU64,
}

/// Kind of a store's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFailure {
    /// It cannot be reached.
    Unreachable,
    /// It did not answer.
    Unanswered,
    /// It answered with an error.
    Rejected,
}

/// A number that someone else keeps, and how to read it.
struct Watched {
    gauge: Gauge,
    read: Box<dyn Fn() -> usize + Send + Sync>,
}

/// The numbers that others keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Counters that this process holds.
    MemoryCounters,
    /// Bytes that they take.
    MemoryBytes,
    /// Counters that gave way to others because there was no room.
    MemoryEvicted,
    /// Number of lookups that found a key above its limit.
    LocalCacheHits,
    /// Number of lookups that did not.
    LocalCacheMisses,
    /// Number of lookups.
    LocalCacheLookups,
    /// Keys that are known to be over their limit.
    LocalCacheEntries,
    /// Log lines that were not written since the process began.
    LogLinesDropped,
    /// Connections that a core serves.
    Connections {
        /// Which core, counted from 0.
        core: usize,
    },
}

impl Metrics {
    /// Instruments that read the hits of whatever `rules` are in force when somebody asks.
    pub fn new(settings: MetricsSettings, rules: Arc<ArcSwapOption<Rules>>) -> Self {
        let MetricsSettings { extra_tags, max_named_series } = settings;
        Self { extra_tags, rules, named: NamedCounts::new(max_named_series), ..Self::default() }
    }

    /// Reads `gauge` with `read` from now on.
    pub fn watch(&self, gauge: Gauge, read: impl Fn() -> usize + Send + Sync + 'static) {
        self.watched.lock().push(Watched { gauge, read: Box::new(read) });
    }

    /// Shows what `candidate` counts among the others from now on. There is at most one candidate.
    pub fn show_candidate(&self, candidate: &Arc<CandidateMetrics>) {
        self.candidate.get_or_init(|| Arc::clone(candidate));
    }

    /// Counts a call, refused ones included, and how long its answer took.
    pub fn record_call(&self, elapsed: Duration) {
        self.calls.record(elapsed);
    }

    /// Counts a call that could not be decided for a reason other than the store: a bad request, or no
    /// rules yet.
    pub fn record_service_error(&self) {
        add_one(&self.service_errors);
    }

    /// Counts what was decided.
    pub fn record_decision(&self, decision: &Decision<'_>) {
        if !decision.domain_known {
            add_one(&self.unknown_domain_requests);
        }
        if decision.shadowed {
            add_one(&self.shadowed_requests);
        }
        let layer = decision.denial().and_then(|status| status.rule?.layer.as_deref());
        if let Some(layer) = layer {
            layer.add_denied();
        }
        for status in &decision.statuses {
            let Some((stats, hit_counts)) = &status.counted else { continue };
            let denies = decision.code == Code::OverLimit && status.code == Code::OverLimit;
            let hit_counts = HitCounts { denied_requests: denies.into(), ..*hit_counts };
            match stats {
                StatsRef::Rule(counts) => counts.add(&hit_counts),
                StatsRef::Named(path) => self.named.add(path, &hit_counts),
            }
        }
    }

    /// Counts how long the store took to answer, with readings or with an error.
    pub fn record_store_latency(&self, elapsed: Duration) {
        self.store_latency.record(elapsed);
    }

    /// Counts a store that did not count.
    pub fn record_store_failure(&self, failure: StoreFailure) {
        add_one(match failure {
            StoreFailure::Unreachable => &self.store_errors.unreachable,
            StoreFailure::Unanswered => &self.store_errors.unanswered,
            StoreFailure::Rejected => &self.store_errors.rejected,
        });
    }

    /// Counts rules that came into force at `now`.
    pub fn record_config_load(&self, now: Timestamp) {
        add_one(&self.config_loads);
        self.config_loaded_at_secs.store(now.as_secs(), Ordering::Relaxed);
    }

    /// Counts rules that were refused; those before them stay in force.
    pub fn record_config_error(&self) {
        add_one(&self.config_errors);
    }

    /// Everything in Prometheus' text form, to be sent as `text/plain; version=0.0.4`.
    pub fn render_prometheus(&self) -> String {
        text::prometheus(self)
    }

    /// Every counter and gauge as a line of `name: value` under envoyproxy/ratelimit's flat names.
    pub fn render_stats(&self) -> String {
        text::stats(self)
    }

    /// The hits of every rule in force, and of the names that requests have a part in.
    fn totals(&self) -> Vec<(StatsPath, HitCounts)> {
        let mut totals = self.named.all();
        if let Some(rules) = &*self.rules.load() {
            totals.extend(rules.counts().map(|(path, counts)| (path.clone(), counts.sum())));
        }
        totals
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;

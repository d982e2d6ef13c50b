//! Metrics: what the service counts, and the exporters that show it.
//!
//! Counts live here, in the compiled rules, or in the part that counts ([`Metrics::register`]). What is counted for
//! each request has a part for every core ([`crate::engine::per_core`]).
//! [`Metrics::snapshot`] reads them all; each exporter renders that one snapshot in its own form. [`model`]
//! says how to add a metric.
//!
//! No series comes from a request's bytes unless the rule asks for it, and those are bounded
//! ([`MetricsSettings::max_named_series`]).

mod candidate;
pub mod definitions;
mod histogram;
mod holds;
pub mod model;
mod name;
mod named;
pub mod otlp;
#[cfg(target_os = "linux")]
mod process;
mod prometheus;
pub mod snapshot;
mod stats;
pub mod statsd;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::engine::algorithm::Reading;
use crate::engine::hit_counts::{HitCounts, StatsRef};
use crate::engine::per_core::CoreCount;
use crate::engine::reserve::Action;
use crate::engine::{Code, Decision, Rules, StatsPath, Timestamp};
use definitions as defined;
use histogram::Histogram;
use holds::Holds;
use model::Distribution;
use named::NamedCounts;
use snapshot::Snapshot;

pub use candidate::CandidateMetrics;

/// The only method of the service that decides.
const METHOD: &str = "ShouldRateLimit";

/// Settings of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// Labels that every per-rule series carries: names that Prometheus takes, none of them `domain`,
    /// `key1` or `key2`, and their values.
    pub extra_tags: Vec<(String, String)>,
    /// Upper bound on series whose names come from requests.
    pub max_named_series: usize,
    /// Serve response times to Prometheus in milliseconds.
    pub response_time_as_millis: bool,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { extra_tags: Vec::new(), max_named_series: 10_000, response_time_as_millis: false }
    }
}

/// The service's instruments.
#[derive(Default)]
pub struct Metrics {
    extra_tags: Vec<(String, String)>,
    response_time_as_millis: bool,
    rules: Arc<ArcSwapOption<Rules>>,
    named: NamedCounts,
    calls: Histogram,
    service_errors: CoreCount,
    unknown_domain_requests: CoreCount,
    shadowed_requests: CoreCount,
    store_latency: Histogram,
    store_errors: StoreErrors,
    config_loads: CoreCount,
    config_errors: CoreCount,
    config_loaded_at_secs: AtomicU64,
    config_wrong: AtomicBool,
    rules_hash: AtomicU64,
    locked_out_requests: CoreCount,
    tickets: [CoreCount; TicketEvent::NAMES.len()],
    holds: Holds,
    /// A lock that only start-up and snapshots take.
    sources: Mutex<Vec<Source>>,
}

/// Adds values that another part keeps to a snapshot.
type Source = Arc<dyn Fn(&mut Snapshot) + Send + Sync>;

#[derive(Default)]
struct StoreErrors {
    unreachable: CoreCount,
    unanswered: CoreCount,
    rejected: CoreCount,
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

/// Event of a ticket that holds places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketEvent {
    /// A request passed and holds places.
    Acquired,
    /// A request was denied by a concurrency limit.
    Denied,
    /// Places were released.
    Released,
    /// Places are held for longer.
    Renewed,
    /// A ticket was released or renewed that held nothing: it had expired, was released before, or is not ours.
    Unknown,
}

impl TicketEvent {
    /// Names, in the order of the events.
    const NAMES: [&'static str; 5] = ["acquired", "denied", "released", "renewed", "unknown"];
}

impl Metrics {
    /// Instruments that read the hits of the `rules` in force at the time of a scrape.
    pub fn new(settings: MetricsSettings, rules: Arc<ArcSwapOption<Rules>>) -> Self {
        let MetricsSettings { extra_tags, max_named_series, response_time_as_millis } = settings;
        let named = NamedCounts::new(max_named_series);
        Self { extra_tags, response_time_as_millis, rules, named, ..Self::default() }
    }

    /// Calls `source` for each snapshot from now on.
    pub fn register(&self, source: impl Fn(&mut Snapshot) + Send + Sync + 'static) {
        self.sources.lock().push(Arc::new(source));
    }

    /// Shows what `candidate` counts in each snapshot from now on.
    pub fn show_candidate(&self, candidate: &Arc<CandidateMetrics>) {
        let candidate = Arc::clone(candidate);
        self.register(move |snapshot| candidate.collect(snapshot));
    }

    /// Counts a call, refused ones included, and how long its answer took.
    pub fn record_call(&self, elapsed: Duration) {
        self.calls.record(elapsed);
    }

    /// Counts a call that could not be decided for a reason other than the store: a bad request, or no
    /// rules yet.
    pub fn record_service_error(&self) {
        self.service_errors.add(1);
    }

    /// Counts a decision.
    pub fn record_decision(&self, decision: &Decision<'_>) {
        if !decision.domain_known {
            self.unknown_domain_requests.add(1);
        }
        if decision.shadowed {
            self.shadowed_requests.add(1);
        }
        let layer = decision.denial().and_then(|status| status.rule?.layer.as_deref());
        if let Some(layer) = layer {
            layer.add_denied();
        }
        if decision.denial().is_some_and(|status| status.locked_out) {
            self.locked_out_requests.add(1);
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

    /// Times from calls to their answers, since the start.
    pub fn response_time(&self) -> Distribution {
        self.calls.distribution()
    }

    /// Times from charges to the store's answers, since the start.
    pub fn store_latency(&self) -> Distribution {
        self.store_latency.distribution()
    }

    /// Counts a store that did not count.
    pub fn record_store_failure(&self, failure: StoreFailure) {
        let errors = match failure {
            StoreFailure::Unreachable => &self.store_errors.unreachable,
            StoreFailure::Unanswered => &self.store_errors.unanswered,
            StoreFailure::Rejected => &self.store_errors.rejected,
        };
        errors.add(1);
    }

    /// Counts an event of a ticket.
    pub fn record_ticket(&self, event: TicketEvent) {
        if let Some(count) = self.tickets.get(event as usize) {
            count.add(1);
        }
    }

    /// Counts what a charge with this action has done to the holds of a budget.
    pub fn record_budget(&self, action: Action, reading: &Reading) {
        self.holds.record(action, reading);
    }

    /// Counts an amount of a budget that the store did not count.
    pub fn record_unsettled(&self) {
        self.holds.record_unsettled();
    }

    /// Records a settlement whose model has no price.
    pub fn record_unknown_model(&self) {
        self.holds.record_unknown_model();
    }

    /// Counts rules that came into force at `now`.
    pub fn record_config_load(&self, now: Timestamp) {
        self.config_loads.add(1);
        self.config_wrong.store(false, Ordering::Relaxed);
        self.config_loaded_at_secs.store(now.as_secs(), Ordering::Relaxed);
    }

    /// Counts rules that were refused; those before them stay in force.
    pub fn record_config_error(&self) {
        self.config_errors.add(1);
        self.config_wrong.store(true, Ordering::Relaxed);
    }

    /// Sets the hash of the rules in force.
    pub fn set_rules_hash(&self, hash: u64) {
        self.rules_hash.store(hash, Ordering::Relaxed);
    }

    /// Everything in Prometheus' text form, to be sent as `text/plain; version=0.0.4`.
    pub fn render_prometheus(&self) -> String {
        prometheus::render(&self.snapshot(), self.response_time_as_millis)
    }

    /// Every counter and gauge as a line of `name: value` under envoyproxy/ratelimit's flat names.
    pub fn render_stats(&self) -> String {
        stats::render(&self.snapshot())
    }

    /// Every value now.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.extra_tags.clone_from(&self.extra_tags);
        snapshot.rules = self.rule_totals();
        self.collect(&mut snapshot);
        self.collect_rules(&mut snapshot);
        snapshot.add(&defined::BUILD_INFO, [env!("CARGO_PKG_VERSION"), env!("TOLLGATE_REVISION")], true);
        #[cfg(target_os = "linux")]
        process::collect(&mut snapshot);
        let sources = self.sources.lock().clone();
        sources.iter().for_each(|source| source(&mut snapshot));
        snapshot
    }

    /// Hits of each rule, and of names with a request's values, without the other metrics.
    pub fn rule_totals(&self) -> Vec<(StatsPath, HitCounts)> {
        let mut totals = self.named.all();
        if let Some(rules) = &*self.rules.load() {
            totals.extend(rules.counts().map(|(path, counts)| (path.clone(), counts.sum())));
        }
        totals
    }

    /// Counts of calls and of loads.
    fn collect(&self, snapshot: &mut Snapshot) {
        let store_errors = [
            ("unreachable", self.store_errors.unreachable.get()),
            ("unanswered", self.store_errors.unanswered.get()),
            ("rejected", self.store_errors.rejected.get()),
        ];
        snapshot.add(&defined::TOTAL_REQUESTS, [METHOD], self.calls.count());
        snapshot.add(&defined::CALL_ERRORS, ["service_error"], self.service_errors.get());
        for (kind, errors) in store_errors {
            snapshot.add(&defined::CALL_ERRORS, ["redis_error"], errors);
            snapshot.add(&defined::STORE_ERRORS, [kind], errors);
        }
        snapshot.add(&defined::CONFIG_LOADS, [], self.config_loads.get());
        snapshot.add(&defined::CONFIG_ERRORS, [], self.config_errors.get());
        snapshot.add(&defined::CONFIG_LOADED_AT, [], self.config_loaded_at_secs.load(Ordering::Relaxed));
        snapshot.add(&defined::CONFIG_WRONG, [], self.config_wrong.load(Ordering::Relaxed));
        snapshot.add(&defined::RULES_HASH, [], self.rules_hash.load(Ordering::Relaxed));
        snapshot.add(&defined::LOCKED_OUT_REQUESTS, [], self.locked_out_requests.get());
        for (event, count) in TicketEvent::NAMES.into_iter().zip(&self.tickets) {
            snapshot.add(&defined::TICKETS, [event], count.get());
        }
        self.holds.collect(snapshot);
        snapshot.add(&defined::SHADOWED_REQUESTS, [], self.shadowed_requests.get());
        snapshot.add(&defined::UNKNOWN_DOMAIN_REQUESTS, [], self.unknown_domain_requests.get());
        snapshot.add(&defined::RESPONSE_TIME, [METHOD], self.calls.distribution());
        snapshot.add(&defined::STORE_LATENCY, [], self.store_latency.distribution());
    }

    /// Counts that the rules in force hold.
    fn collect_rules(&self, snapshot: &mut Snapshot) {
        let rules = self.rules.load();
        snapshot.add(&defined::RULES, [], rules.as_ref().map_or(0, |rules| rules.len()));
        let Some(rules) = &*rules else { return };
        for (domain, layer) in rules.layers() {
            snapshot.add(&defined::LAYER_DENIED_REQUESTS, [domain, layer.name()], layer.denied());
        }
        for (domain, rule, counts) in rules.holding() {
            for (event, count) in counts.sums() {
                snapshot.add(&defined::RULE_HOLDS, [domain, rule, event], count);
            }
        }
        for domain in rules.domains() {
            snapshot.add(&defined::UNMATCHED_DESCRIPTORS, [domain.name()], domain.unmatched());
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

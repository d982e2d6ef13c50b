//! Metrics of the candidate rules. There are none without a candidate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use hashbrown::HashMap;
use parking_lot::RwLock;

use super::definitions::{
    CANDIDATE_CONFIG_ERRORS, CANDIDATE_CONFIG_LOADS, CANDIDATE_CONFIG_WRONG, CANDIDATE_DIFFERING_REQUESTS,
    CANDIDATE_REQUESTS, CANDIDATE_RULES,
};
use super::snapshot::Snapshot;
use crate::engine::Rules;
use crate::engine::compare::ComparisonOutcome;
use crate::engine::per_core::CoreCount;

/// Upper bound on rules with series of differences. Rules come from files and not from requests;
/// this bounds what many reloads may add up to.
const MAX_RULES: usize = 10_000;
/// Name of the series for further rules.
const OTHER: &str = "other";

/// The candidate's instruments.
#[derive(Debug, Default)]
pub struct CandidateMetrics {
    rules: Arc<ArcSwapOption<Rules>>,
    same: CoreCount,
    stricter: CoreCount,
    looser: CoreCount,
    failed: CoreCount,
    /// A lock, since rules come while others are counted. Nearly every call only reads; it is held for
    /// one lookup, and never across an await.
    differences: RwLock<HashMap<Differing, Arc<CoreCount>>>,
    loads: CoreCount,
    errors: CoreCount,
    is_wrong: AtomicBool,
}

/// Labels of a series of differences.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Differing {
    domain: Box<str>,
    /// The rule that denies, on the one side that does.
    rule: Box<str>,
    outcome: &'static str,
}

/// A borrowed `Differing`, for lookups without an allocation.
#[derive(Hash)]
struct DifferingRef<'a> {
    domain: &'a str,
    rule: &'a str,
    outcome: &'static str,
}

impl hashbrown::Equivalent<Differing> for DifferingRef<'_> {
    fn equivalent(&self, key: &Differing) -> bool {
        (self.domain, self.rule, self.outcome) == (&*key.domain, &*key.rule, key.outcome)
    }
}

impl CandidateMetrics {
    /// Instruments that read the counts of the `rules` at the time of a scrape.
    pub fn new(rules: Arc<ArcSwapOption<Rules>>) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Counts a request that was compared.
    pub fn record(&self, outcome: ComparisonOutcome) {
        self.outcome(outcome).add(1);
    }

    /// Counts a request that was not compared: without candidate rules, or after a store failure.
    pub fn record_failure(&self) {
        self.failed.add(1);
    }

    /// Counts where a difference came from: the domain, which the rules know, and the rule that denies.
    pub fn record_difference(&self, outcome: ComparisonOutcome, domain: &str, rule: &str) {
        let outcome = outcome.name();
        let find = |rule| DifferingRef { domain, rule, outcome };
        let (known, has_room) = {
            let differences = self.differences.read();
            let has_room = differences.len() < MAX_RULES;
            let known = differences.get(&find(rule));
            (known.or_else(|| differences.get(&find(OTHER)).filter(|_| !has_room)).cloned(), has_room)
        };
        let count = known.unwrap_or_else(|| {
            let rule = if has_room { rule } else { OTHER };
            let place = Differing { domain: domain.into(), rule: rule.into(), outcome };
            Arc::clone(self.differences.write().entry(place).or_default())
        });
        count.add(1);
    }

    /// Counts a load of the candidate's files, `is_good` where all of them can be used as written.
    pub fn record_load(&self, is_good: bool) {
        if is_good { &self.loads } else { &self.errors }.add(1);
        self.is_wrong.store(!is_good, Ordering::Relaxed);
    }

    const fn outcome(&self, outcome: ComparisonOutcome) -> &CoreCount {
        match outcome {
            ComparisonOutcome::Same => &self.same,
            ComparisonOutcome::Stricter => &self.stricter,
            ComparisonOutcome::Looser => &self.looser,
        }
    }

    /// Adds every value to `snapshot`.
    pub fn collect(&self, snapshot: &mut Snapshot) {
        for outcome in [ComparisonOutcome::Same, ComparisonOutcome::Stricter, ComparisonOutcome::Looser] {
            snapshot.add(&CANDIDATE_REQUESTS, [outcome.name()], self.outcome(outcome).get());
        }
        snapshot.add(&CANDIDATE_REQUESTS, ["failed"], self.failed.get());
        for (Differing { domain, rule, outcome }, count) in self.differences.read().iter() {
            snapshot.add(&CANDIDATE_DIFFERING_REQUESTS, [domain, rule, outcome], count.get());
        }
        snapshot.add(&CANDIDATE_RULES, [], self.rules.load().as_ref().map_or(0, |rules| rules.len()));
        snapshot.add(&CANDIDATE_CONFIG_WRONG, [], self.is_wrong.load(Ordering::Relaxed));
        snapshot.add(&CANDIDATE_CONFIG_LOADS, [], self.loads.get());
        snapshot.add(&CANDIDATE_CONFIG_ERRORS, [], self.errors.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Metrics, MetricsSettings};

    /// Series of differences by flat name.
    fn differences(metrics: &CandidateMetrics) -> Vec<(String, f64)> {
        let mut snapshot = Snapshot::default();
        metrics.collect(&mut snapshot);
        let flat = snapshot.flat().into_iter().map(|(name, flat)| (name, flat.value.as_f64()));
        flat.filter(|(name, _)| name.starts_with("tollgate.candidate_differing_requests.")).collect()
    }

    #[test]
    fn differences_are_counted_by_domain_rule_and_direction_up_to_a_bound() {
        let metrics = CandidateMetrics::default();
        for (outcome, rule) in [
            (ComparisonOutcome::Stricter, "shop.user"),
            (ComparisonOutcome::Looser, "shop.user"),
            (ComparisonOutcome::Stricter, "shop.user"),
            (ComparisonOutcome::Stricter, "shop.ip"),
        ] {
            metrics.record_difference(outcome, "shop", rule);
        }
        let expected = [
            ("shop.shop.ip.stricter", 1.0),
            ("shop.shop.user.looser", 1.0),
            ("shop.shop.user.stricter", 2.0),
        ];
        let expected =
            expected.map(|(rest, value)| (format!("tollgate.candidate_differing_requests.{rest}"), value));
        assert_eq!(differences(&metrics), expected);
        for rule in 0..MAX_RULES + 5 {
            metrics.record_difference(ComparisonOutcome::Looser, "shop", &format!("shop.r{rule}"));
        }
        let found = differences(&metrics);
        assert_eq!(found.len(), MAX_RULES + 1);
        assert!(found.contains(&("tollgate.candidate_differing_requests.shop.other.looser".to_owned(), 8.0)));
    }

    #[test]
    fn without_a_candidate_there_is_nothing_of_it() {
        let metrics = Metrics::new(MetricsSettings::default(), Arc::default());
        assert!(!metrics.render_prometheus().contains("candidate"));
        let candidate = Arc::new(CandidateMetrics::default());
        metrics.show_candidate(&candidate);
        candidate.record(ComparisonOutcome::Same);
        candidate.record_failure();
        candidate.record_load(false);
        let shown = metrics.render_prometheus();
        for line in [
            "tollgate_candidate_requests{outcome=\"same\"} 1",
            "tollgate_candidate_requests{outcome=\"stricter\"} 0",
            "tollgate_candidate_requests{outcome=\"looser\"} 0",
            "tollgate_candidate_requests{outcome=\"failed\"} 1",
            "tollgate_candidate_config_wrong 1",
            "tollgate_candidate_config_load_error 1",
            "tollgate_candidate_config_load_success 0",
            "tollgate_candidate_rules 0",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
        }
        candidate.record_load(true);
        assert!(metrics.render_stats().contains("tollgate.candidate_config_wrong: 0\n"));
    }
}

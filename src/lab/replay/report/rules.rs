//! Figures of one set of rules.

use serde::Serialize;

use super::rfc3339;
use crate::engine::Timestamp;
use crate::lab::explained_limit::limit_text;
use crate::lab::replay::evaluation::Evaluation;
use crate::lab::replay::stats::{Busiest, LimitStats, Offender};

/// The keys with the most denied hits, at most `top`.
pub(in crate::lab::replay) fn offenders(evaluation: &Evaluation, top: usize) -> Vec<OffenderReport> {
    let limits = evaluation.stats.limits();
    let report = |offender: Offender| OffenderReport {
        rule: limits.get(offender.limit).map(|limit| limit.rule.to_string()).unwrap_or_default(),
        key: offender.label.into(),
        hits: offender.hits,
        denied: offender.denied,
    };
    evaluation.stats.offenders(top).into_iter().map(report).collect()
}

/// Report on a set of rules.
#[derive(Clone, Debug, Default, Serialize)]
pub(in crate::lab::replay) struct RulesReport {
    /// Path of the rules.
    pub(super) name: String,
    /// Requests that they deny.
    pub(super) denied: u64,
    /// Requests that no limit applied to.
    pub(super) unmatched: u64,
    /// Rules that were reached, by denied hits.
    pub(super) rules: Vec<RuleReport>,
    /// Keys with the most denied hits.
    pub(super) offenders: Vec<OffenderReport>,
    /// Rules with a limit that no request reached, with their positions.
    pub(super) never_hit: Vec<String>,
}

/// Report on a rule.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct RuleReport {
    /// Path of the rule.
    pub(super) rule: String,
    /// Hits that were asked for.
    pub(super) hits: u64,
    /// Hits of descriptors that the rule denied.
    pub(super) denied: u64,
    /// Hits of descriptors that it would have denied, if it were enforced.
    pub(super) shadowed: u64,
    /// Distinct keys, and those that were denied. Estimates beyond 10,000, within some 2 %.
    pub(super) keys: u64,
    pub(super) denied_keys: u64,
    pub(super) limits: Vec<LimitReport>,
}

/// Report on a limit of a rule.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LimitReport {
    pub(super) name: Option<String>,
    /// The limit in words.
    pub(super) limit: String,
    pub(super) requests_per_unit: u32,
    pub(super) window_secs: u32,
    pub(super) denied: u64,
    /// Demand of a key in a window, in percent of the limit: median, 99th percentile and maximum.
    pub(super) use_percent: [f64; 3],
    /// Windows by their demand, in classes of 10 %; the last one is beyond the limit.
    pub(super) windows_by_use: [u64; 11],
    pub(super) busiest_second: Option<BusiestReport>,
    pub(super) busiest_minute: Option<BusiestReport>,
    /// Smallest limit in the same windows that denies no more than the wanted share.
    pub(super) suggested: Option<u64>,
}

/// The interval with the most hits.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BusiestReport {
    pub(super) start: String,
    pub(super) hits: u64,
}

/// A key with denials.
#[derive(Clone, Debug, Serialize)]
pub(in crate::lab::replay) struct OffenderReport {
    pub(super) rule: String,
    pub(super) key: String,
    pub(super) hits: u64,
    pub(super) denied: u64,
}

impl RulesReport {
    /// The report on what `evaluation` counted.
    pub(in crate::lab::replay) fn of(
        evaluation: &mut Evaluation,
        name: String,
        top: usize,
        denied_percent: f64,
    ) -> Self {
        evaluation.stats.finish();
        let limits = evaluation.stats.limits();
        let mut rules: Vec<RuleReport> = Vec::new();
        for limit in limits {
            // The limits of a rule follow its first one, but other rules may lie between.
            let known = rules.iter().position(|rule| *rule.rule == *limit.rule && limit.index > 0);
            match known.and_then(|known| rules.get_mut(known)) {
                Some(rule) => rule.limits.push(LimitReport::of(limit, denied_percent)),
                None => rules.push(RuleReport::of(limit, denied_percent)),
            }
        }
        let reached = |path: &str| rules.iter().any(|rule| rule.rule == path);
        let placed = evaluation.rules.placed().into_iter();
        let missed = placed.filter(|placed| !placed.rule.limits().is_empty() && !reached(&placed.rule.path));
        let never_hit =
            missed.map(|placed| format!("{} ({}:{})", placed.rule.path, placed.source, placed.span.line));
        let never_hit = never_hit.collect();
        rules.sort_by_key(|rule| std::cmp::Reverse((rule.denied, rule.hits)));
        Self {
            name,
            denied: evaluation.denied,
            unmatched: evaluation.unmatched,
            offenders: offenders(evaluation, top),
            rules,
            never_hit,
        }
    }
}

impl RuleReport {
    fn of(limit: &LimitStats, denied_percent: f64) -> Self {
        Self {
            rule: limit.rule.to_string(),
            hits: limit.hits,
            denied: limit.rule_denied,
            shadowed: limit.shadowed,
            keys: limit.keys.count(),
            denied_keys: limit.denied_keys.count(),
            limits: vec![LimitReport::of(limit, denied_percent)],
        }
    }
}

impl LimitReport {
    fn of(stats: &LimitStats, denied_percent: f64) -> Self {
        let capacity = u64::from(stats.limit.capacity());
        let requests_per_unit = stats.limit.requests_per_unit;
        let of_limit = |hits: u64| hits as f64 * 100.0 / f64::from(requests_per_unit.max(1));
        let [second, minute] = stats.busiest.each_ref().map(BusiestReport::of);
        Self {
            name: stats.name.as_deref().map(str::to_owned),
            limit: limit_text(requests_per_unit, stats.limit.nominal_secs()),
            requests_per_unit,
            window_secs: stats.limit.nominal_secs(),
            denied: stats.denied,
            use_percent: [0.5, 0.99, 1.0].map(|share| of_limit(stats.demand.quantile(share))),
            windows_by_use: stats.demand.by_use(capacity.min(requests_per_unit.into())),
            busiest_second: second,
            busiest_minute: minute,
            suggested: stats.demand.limit_for(denied_percent / 100.0),
        }
    }
}

impl BusiestReport {
    fn of(busiest: &Busiest) -> Option<Self> {
        let (start_secs, hits) = busiest.most;
        (hits > 0).then(|| Self { start: rfc3339(Timestamp::from_secs(start_secs)), hits })
    }
}

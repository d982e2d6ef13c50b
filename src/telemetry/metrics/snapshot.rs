//! Every value at one time, in the two forms that exporters need: by labels, and by flat names.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::definitions::{ALL, RULE_COUNTERS};
use super::model::{Kind, Metric, Value};
use super::name::sanitize;
use crate::engine::StatsPath;
use crate::engine::hit_counts::HitCounts;

/// Every value at one time.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Values by label values, by metric.
    series: HashMap<&'static str, BTreeMap<Vec<String>, Value>>,
    pub(super) rules: Vec<(StatsPath, HitCounts)>,
    /// `EXTRA_TAGS`.
    pub(super) extra_tags: Vec<(String, String)>,
}

/// Series of one metric.
pub(super) struct Family<'s> {
    pub(super) metric: &'static Metric,
    pub(super) points: Vec<Point<'s>>,
}

/// One series and its value.
pub(super) struct Point<'s> {
    pub(super) labels: Vec<(&'s str, Cow<'s, str>)>,
    pub(super) value: Value,
}

/// Value of a series with a flat name.
#[derive(Debug)]
pub(super) struct FlatValue {
    pub(super) kind: Kind,
    pub(super) value: Value,
}

impl Snapshot {
    /// Hits of each rule, and of names with a request's values.
    pub fn rules(&self) -> &[(StatsPath, HitCounts)] {
        &self.rules
    }

    /// Label values and value of each series of `metric` that is a whole number.
    pub fn integers(&self, metric: &Metric) -> Vec<(&[String], u64)> {
        let series = self.series.get(metric.name).into_iter().flatten();
        let mut integers = Vec::new();
        for (labels, value) in series {
            if let Value::Integer(value) = value {
                integers.push((labels.as_slice(), *value));
            }
        }
        integers
    }

    /// Adds a value of `metric`, with a value for each of its labels. Values of one series add up.
    pub fn add<const N: usize>(
        &mut self,
        metric: &'static Metric,
        labels: [&str; N],
        value: impl Into<Value>,
    ) {
        debug_assert_eq!(metric.labels.len(), N, "{} has other labels", metric.name);
        let series = self.series.entry(metric.name).or_default();
        let labels = labels.map(str::to_owned).to_vec();
        match series.get_mut(&labels) {
            Some(sum) => sum.add(value.into()),
            None => drop(series.insert(labels, value.into())),
        }
    }

    /// Every metric that has series, for exporters that have labels. Rules deeper than two levels add up
    /// in their second one.
    pub(super) fn families(&self) -> Vec<Family<'_>> {
        let own = ALL.iter().filter_map(|&metric| Some((metric, self.series.get(metric.name)?)));
        let own = own.map(|(metric, series)| Family { metric, points: points(metric, series) });
        own.chain(self.rule_families()).collect()
    }

    /// A series of a rule begins with its first hit, as in envoyproxy/ratelimit.
    fn rule_families(&self) -> impl Iterator<Item = Family<'_>> {
        let mut sums = BTreeMap::<_, [u64; RULE_COUNTERS.len()]>::new();
        for (path, hit_counts) in &self.rules {
            let mut parts = path.parts.iter().map(|part| sanitize(part));
            let Some(key1) = parts.next() else { continue };
            let labels = (sanitize(&path.domain), key1, parts.next());
            for (sum, (_, read)) in sums.entry(labels).or_default().iter_mut().zip(RULE_COUNTERS) {
                *sum += read(hit_counts);
            }
        }
        RULE_COUNTERS.into_iter().enumerate().filter_map(move |(index, (metric, _))| {
            let counted = sums.iter().filter_map(|(labels, sums)| Some((labels, *sums.get(index)?)));
            let points: Vec<_> = counted
                .filter(|(_, hits)| *hits > 0)
                .map(|((domain, key1, key2), hits)| {
                    let keys = [Some(domain), Some(key1), key2.as_ref()].into_iter().flatten();
                    let labels = metric.labels.iter().copied().zip(keys.cloned().map(Cow::Owned));
                    let tags = self.extra_tags.iter().map(|(name, value)| (&**name, Cow::Borrowed(&**value)));
                    Point { labels: labels.chain(tags).collect(), value: Value::Integer(hits) }
                })
                .collect();
            (!points.is_empty()).then_some(Family { metric, points })
        })
    }

    /// Every series under its flat name, for exporters without labels.
    pub(super) fn flat(&self) -> BTreeMap<String, FlatValue> {
        let mut flat = BTreeMap::<String, FlatValue>::new();
        let mut add = |name, kind, value: Value| match flat.get_mut(&name) {
            Some(sum) => sum.value.add(value),
            None => drop(flat.insert(name, FlatValue { kind, value })),
        };
        for (metric, series) in ALL.iter().filter_map(|metric| Some((metric, self.series.get(metric.name)?)))
        {
            for (labels, value) in series {
                let labels: Vec<_> = labels.iter().map(|label| sanitize(label)).collect();
                if let Some(name) = metric.flat_name(labels.iter().map(String::as_str)) {
                    add(name, metric.flat_kind(), value.clone());
                }
            }
        }
        for (path, hit_counts) in &self.rules {
            let parts = path.parts.iter().map(|part| sanitize(part));
            let rule = parts.fold(sanitize(&path.domain), |rule, part| rule + "." + &part);
            for (metric, hits) in RULE_COUNTERS.map(|(metric, read)| (metric, read(hit_counts))) {
                if let Some(name) = metric.flat_name([&*rule].into_iter()).filter(|_| hits > 0) {
                    add(name, metric.kind, Value::Integer(hits));
                }
            }
        }
        flat
    }
}

fn points<'s>(metric: &'static Metric, series: &'s BTreeMap<Vec<String>, Value>) -> Vec<Point<'s>> {
    let labels = |values: &'s Vec<String>| {
        let values = values.iter().map(|value| Cow::Borrowed(value.as_str()));
        metric.labels.iter().copied().zip(values).collect()
    };
    series.iter().map(|(values, value)| Point { labels: labels(values), value: value.clone() }).collect()
}

//! The two texts that metrics are read in.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

use super::Metrics;
use super::histogram::Snapshot;
use super::name::sanitize;
use super::series::{Durations, Family, RULE_COUNTERS, RuleCounter, RuleLabels};
use crate::engine::text::one_line;

/// Prometheus' text form.
pub(super) fn prometheus(metrics: &Metrics) -> String {
    let mut families: Vec<_> = metrics.families().into_iter().filter_map(service_family).collect();
    families.extend(metrics.durations().iter().map(duration_family));
    families.extend(rule_families(metrics));
    // An encoder refuses families without a name or a point, and there are none of those here.
    TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| format!("# {error}\n"))
}

/// Lines of `name: value`, in the order of their names.
pub(super) fn stats(metrics: &Metrics) -> String {
    let points = metrics.families().into_iter().flat_map(|family| family.points);
    let mut sums: BTreeMap<_, _> = points.map(|point| (point.flat, point.value)).collect();
    for (path, hit_counts) in metrics.totals() {
        let parts = path.parts.iter().map(|part| sanitize(part));
        let key = parts.fold(sanitize(&path.domain), |key, part| key + "." + &part);
        for RuleCounter { flat: (prefix, suffix), read, .. } in
            RULE_COUNTERS.iter().filter(|counter| (counter.read)(&hit_counts) > 0)
        {
            *sums.entry(format!("{prefix}.{key}.{suffix}")).or_default() += read(&hit_counts);
        }
    }
    // A name may hold what a client sent, which must not begin a line of its own.
    sums.into_iter().map(|(name, value)| format!("{}: {value}\n", one_line(&name, usize::MAX))).collect()
}

fn service_family(family: Family) -> Option<MetricFamily> {
    let points: Vec<_> = family
        .points
        .into_iter()
        .map(|point| {
            let labels = point.labels.iter().map(|(name, value)| label(name, value)).collect();
            number(family.kind, labels, point.value)
        })
        .collect();
    (!points.is_empty()).then(|| metric_family(family.name, family.help, family.kind, points))
}

/// One for each counter that any rule has. A series begins with its first hit, as in the reference.
fn rule_families(metrics: &Metrics) -> impl Iterator<Item = MetricFamily> {
    let rules = metrics.rule_counters();
    RULE_COUNTERS.into_iter().enumerate().filter_map(move |(index, RuleCounter { name, help, .. })| {
        let points: Vec<_> = rules
            .iter()
            .filter_map(|(labels, sums)| Some((labels, *sums.get(index)?)))
            .filter(|(_, hits)| *hits > 0)
            .map(|(labels, hits)| number(MetricType::COUNTER, rule_labels(labels, &metrics.extra_tags), hits))
            .collect();
        (!points.is_empty()).then(|| metric_family(name, help, MetricType::COUNTER, points))
    })
}

fn rule_labels((domain, key1, key2): &RuleLabels, extra_tags: &[(String, String)]) -> Vec<LabelPair> {
    let mut labels = vec![label("domain", domain), label("key1", key1)];
    labels.extend(key2.as_ref().map(|key2| label("key2", key2)));
    labels.extend(extra_tags.iter().map(|(name, value)| label(name, value)));
    labels
}

fn duration_family(durations: &Durations<'_>) -> MetricFamily {
    let Snapshot { buckets, count, sum_secs } = durations.histogram.snapshot();
    let buckets = buckets.into_iter().map(|(upper_bound, count)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(upper_bound);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum_secs);
    let labels = durations.labels.iter().map(|(name, value)| label(name, value)).collect();
    let mut metric = proto::Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric_family(durations.name, durations.help, MetricType::HISTOGRAM, vec![metric])
}

fn metric_family(name: &str, help: &str, kind: MetricType, points: Vec<proto::Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(points);
    family
}

fn number(kind: MetricType, labels: Vec<LabelPair>, value: u64) -> proto::Metric {
    let mut metric = proto::Metric::from_label(labels);
    if kind == MetricType::COUNTER {
        let mut counter = proto::Counter::default();
        counter.set_value(value as f64);
        metric.set_counter(counter);
    } else {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value as f64);
        metric.set_gauge(gauge);
    }
    metric
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

//! Prometheus' classic text form. The series of envoyproxy/ratelimit have no `_total` suffix, which
//! OpenMetrics insists on.

use std::fmt::Write as _;

use super::definitions::RESPONSE_TIME;
use super::model::{Distribution, Kind, Value};
use super::snapshot::{Family, Point, Snapshot};

/// Every series, to be sent as `text/plain; version=0.0.4`. Response times are in milliseconds where old dashboards
/// expect them so.
pub(super) fn render(snapshot: &Snapshot, response_time_as_millis: bool) -> String {
    let mut text = String::new();
    for Family { metric, points } in snapshot.families() {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = metric.help().replace('\\', r"\\").replace('\n', r"\n");
        text += &format!("# HELP {0} {help}\n# TYPE {0} {kind}\n", metric.name);
        for Point { labels, value } in points {
            let labels: Vec<_> =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
            let name = metric.name;
            let is_in_millis = response_time_as_millis && name == RESPONSE_TIME.name;
            match value {
                Value::Integer(value) => sample(&mut text, name, &labels, value),
                Value::Float(value) => sample(&mut text, name, &labels, value),
                Value::Histogram(distribution) => {
                    let unit = if is_in_millis { 1_000.0 } else { 1.0 };
                    histogram(&mut text, name, labels, &distribution, unit);
                }
            }
        }
    }
    text
}

fn sample(text: &mut String, name: &str, labels: &[String], value: impl std::fmt::Display) {
    let written = match labels {
        [] => writeln!(text, "{name} {value}"),
        labels => writeln!(text, "{name}{{{}}} {value}", labels.join(",")),
    };
    // A `String` takes everything.
    written.unwrap_or_default();
}

/// `per_sec` units are a second.
fn histogram(
    text: &mut String,
    name: &str,
    mut labels: Vec<String>,
    distribution: &Distribution,
    per_sec: f64,
) {
    let own = labels.len();
    let bounds =
        distribution.bounds.iter().map(|bound| (bound * per_sec).to_string()).chain(["+Inf".to_owned()]);
    let mut cumulative = 0;
    for (bound, count) in bounds.zip(&distribution.counts) {
        cumulative += count;
        labels.push(format!("le=\"{bound}\""));
        sample(text, &format!("{name}_bucket"), &labels, cumulative);
        labels.truncate(own);
    }
    sample(text, &format!("{name}_sum"), &labels, distribution.sum_secs * per_sec);
    sample(text, &format!("{name}_count"), &labels, cumulative);
}

/// Label values contain what clients sent: none may begin a line or a label of its own.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::definitions;

    #[test]
    fn label_values_are_escaped() {
        let mut snapshot = Snapshot::default();
        snapshot.add(&definitions::UNMATCHED_DESCRIPTORS, ["a\\b\"} 1\nfake 2"], 7_u64);
        let text = render(&snapshot, false);
        let sample = text.lines().last();
        assert_eq!(sample, Some(r#"tollgate_unmatched_descriptors{domain="a\\b\"} 1\nfake 2"} 7"#));
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn old_dashboards_get_response_times_in_milliseconds() {
        static BOUNDS: [f64; 2] = [0.005, 0.01];
        let mut snapshot = Snapshot::default();
        let distribution = Distribution { bounds: &BOUNDS, counts: vec![1, 2, 0], sum_secs: 0.02 };
        snapshot.add(&RESPONSE_TIME, ["ShouldRateLimit"], distribution.clone());
        snapshot.add(&definitions::STORE_LATENCY, [], distribution);
        let text = render(&snapshot, true);
        for line in [
            r#"ratelimit_service_response_time_seconds_bucket{grpc_method="ShouldRateLimit",le="10"} 3"#,
            r#"ratelimit_service_response_time_seconds_sum{grpc_method="ShouldRateLimit"} 20"#,
            r#"tollgate_store_latency_seconds_bucket{le="0.01"} 3"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}

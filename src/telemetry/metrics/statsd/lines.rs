//! The lines of one flush.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::StatsdDialect;
use crate::telemetry::metrics::model::{Distribution, Kind, Value};
use crate::telemetry::metrics::snapshot::{FlatValue, Snapshot};

/// Lines of a server's dialect, and what the last ones said.
#[derive(Debug)]
pub(super) struct Lines {
    dialect: StatsdDialect,
    last: BTreeMap<String, FlatValue>,
}

/// A name as a line begins with it, and the tags at the line's end.
struct Name {
    name: String,
    /// `|#tag:value,tag:value`, or nothing.
    tags: String,
}

impl Lines {
    pub(super) const fn new(dialect: StatsdDialect) -> Self {
        Self { dialect, last: BTreeMap::new() }
    }

    /// Lines for the difference between `snapshot` and the one before it, each with its end.
    pub(super) fn since_last(&mut self, snapshot: &Snapshot) -> String {
        let flat = snapshot.flat();
        let mut lines = String::new();
        for (name, FlatValue { kind, value }) in &flat {
            let last = self.last.get(name).map(|last| &last.value);
            let samples = samples(*kind, value, last);
            if samples.is_empty() {
                continue;
            }
            let Name { name, tags } = self.dialect.name(name, &snapshot.extra_tags);
            for sample in samples {
                // A `String` takes everything.
                writeln!(lines, "{name}:{sample}{tags}").unwrap_or_default();
            }
        }
        self.last = flat;
        lines
    }
}

/// Ends of lines after the name: `value|type`, and the sample rate.
fn samples(kind: Kind, value: &Value, last: Option<&Value>) -> Vec<String> {
    match (kind, value, last) {
        (Kind::Gauge, value, _) => vec![format!("{}|g", number(value))],
        (_, Value::Histogram(now), Some(Value::Histogram(last))) => timings(now, Some(last)),
        (_, Value::Histogram(now), _) => timings(now, None),
        (_, value, last) => difference(value, last).map(|value| format!("{value}|c")).into_iter().collect(),
    }
}

fn number(value: &Value) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        value => value.as_f64().to_string(),
    }
}

/// Growth of a counter, all of it after a restart at zero; `None` if it did not grow.
fn difference(value: &Value, last: Option<&Value>) -> Option<String> {
    match (value, last) {
        (Value::Integer(now), last) => {
            let last = if let Some(Value::Integer(last)) = last { *last } else { 0 };
            let grown = now.checked_sub(last).unwrap_or(*now);
            (grown > 0).then(|| grown.to_string())
        }
        (now, last) => {
            let (now, last) = (now.as_f64(), last.map_or(0.0, Value::as_f64));
            let grown = if now >= last { now - last } else { now };
            (grown > 0.0).then(|| grown.to_string())
        }
    }
}

/// One value in milliseconds for each bucket that grew, its middle.
fn timings(now: &Distribution, last: Option<&Distribution>) -> Vec<String> {
    let lower = [0.0].into_iter().chain(now.bounds.iter().copied());
    let upper = now.bounds.iter().copied().chain(now.bounds.last().copied());
    let buckets = lower.zip(upper).zip(&now.counts).enumerate();
    let grown = buckets.filter_map(|(index, (bounds, count))| {
        let before = last.and_then(|last| last.counts.get(index)).copied().unwrap_or_default();
        Some((bounds, count.checked_sub(before).filter(|grown| *grown > 0)?))
    });
    grown
        .map(|((lower, upper), grown)| {
            let millis = f64::midpoint(lower, upper) * 1_000.0;
            if grown == 1 { format!("{millis:.6}|ms") } else { format!("{millis:.6}|ms|@{}", rate(grown)) }
        })
        .collect()
}

/// The sample rate at which one value stands for `count`, also where a server divides 1 by it and rounds down.
fn rate(count: u64) -> f64 {
    let mut rate = 1.0 / count as f64;
    while 1.0 / rate < count as f64 {
        rate = rate.next_down();
    }
    rate
}

impl StatsdDialect {
    fn name(&self, flat: &str, extra_tags: &[(String, String)]) -> Name {
        let name = clean(flat);
        match self {
            Self::Statsd => {
                let mut tags: Vec<_> =
                    extra_tags.iter().map(|(tag, value)| format!(".__{tag}={}", tag_value(value))).collect();
                tags.sort();
                Name { name: name + &tags.concat(), tags: String::new() }
            }
            Self::DogStatsd(mogrifiers) => {
                let changed = mogrifiers.iter().find_map(|mogrifier| mogrifier.apply(&name));
                let (name, own_tags) = changed.unwrap_or((name, Vec::new()));
                let tags: Vec<_> = extra_tags.iter().map(|(tag, value)| format!("{tag}:{value}")).collect();
                let tags: Vec<_> = tags.into_iter().chain(own_tags).map(|tag| clean_tag(&tag)).collect();
                let tags = if tags.is_empty() { String::new() } else { format!("|#{}", tags.join(",")) };
                Name { name: clean(&name), tags }
            }
        }
    }
}

/// Characters by which servers find the parts of a line or tags within a name. Clients have a part in names.
fn has_a_meaning(c: char) -> bool {
    matches!(c, ':' | '|' | '#' | ',' | ';' | '[' | ']') || c.is_whitespace() || c.is_control()
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if has_a_meaning(c) { '_' } else { c }).collect()
}

/// A tag's value as a part of a name, as gostats writes it.
fn tag_value(value: &str) -> String {
    clean(value).replace('.', "_")
}

/// A tag of DogStatsD, `name:value`.
fn clean_tag(tag: &str) -> String {
    tag.chars().map(|c| if c != ':' && has_a_meaning(c) { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::StatsPath;
    use crate::engine::hit_counts::HitCounts;
    use crate::telemetry::metrics::definitions as defined;
    use crate::telemetry::metrics::statsd::Mogrifier;

    static BOUNDS: [f64; 2] = [0.001, 0.01];

    fn snapshot(requests: u64, hits: u64, counts: [u64; 3]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.add(&defined::TOTAL_REQUESTS, ["ShouldRateLimit"], requests);
        snapshot.add(&defined::RULES, [], 7_u64);
        snapshot.add(&defined::PROCESS_CPU, [], 1.5);
        snapshot.add(&defined::LOCAL_CACHE_HITS, [], 3_u64);
        let distribution = Distribution { bounds: &BOUNDS, counts: counts.to_vec(), sum_secs: 0.0 };
        snapshot.add(&defined::RESPONSE_TIME, ["ShouldRateLimit"], distribution);
        let path = StatsPath { domain: "shop".into(), parts: vec!["user".into(), "ip_10.0.0.1".into()] };
        snapshot.rules = vec![(path, HitCounts { total_hits: hits, ..HitCounts::default() })];
        snapshot
    }

    fn lines(lines: &str) -> Vec<&str> {
        lines.lines().collect()
    }

    #[test]
    fn counters_are_differences_gauges_are_absolute_and_times_have_their_rate() {
        let mut statsd = Lines::new(StatsdDialect::Statsd);
        let first = statsd.since_last(&snapshot(5, 2, [4, 1, 1]));
        assert_eq!(
            lines(&first),
            [
                "process.cpu_seconds_total:1.5|c",
                "ratelimit.localcache.hitCount:3|g",
                "ratelimit.service.rate_limit.shop.user.ip_10_0_0_1.total_hits:2|c",
                "ratelimit_server.ShouldRateLimit.response_time:0.500000|ms|@0.25",
                "ratelimit_server.ShouldRateLimit.response_time:5.500000|ms",
                "ratelimit_server.ShouldRateLimit.response_time:10.000000|ms",
                "ratelimit_server.ShouldRateLimit.total_requests:5|c",
                "tollgate.rules:7|g",
            ]
        );
        let second = statsd.since_last(&snapshot(8, 2, [4, 2, 1]));
        assert_eq!(
            lines(&second),
            [
                "ratelimit.localcache.hitCount:3|g",
                "ratelimit_server.ShouldRateLimit.response_time:5.500000|ms",
                "ratelimit_server.ShouldRateLimit.total_requests:3|c",
                "tollgate.rules:7|g",
            ]
        );
        let reloaded = statsd.since_last(&snapshot(8, 1, [4, 2, 1]));
        assert!(reloaded.contains("total_hits:1|c\n"), "a counter that began anew: {reloaded}");
    }

    #[test]
    fn tags_are_a_part_of_the_name_or_follow_it() {
        let mut tagged = snapshot(1, 1, [0; 3]);
        let tags = [("zone", "eu.1:a"), ("cluster", "c|d")];
        tagged.extra_tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let statsd = Lines::new(StatsdDialect::Statsd).since_last(&tagged);
        assert!(statsd.contains("\ntollgate.rules.__cluster=c_d.__zone=eu_1_a:7|g\n"), "{statsd}");
        let mogrifier = Mogrifier::new(
            r"^ratelimit\.service\.rate_limit\.([^.]+)\.(.*)\.([^.]+)$",
            "ratelimit.service.rate_limit.$3",
            &[("domain".to_owned(), "$1".to_owned()), ("descriptor".to_owned(), "$2".to_owned())],
        );
        let dialect = StatsdDialect::DogStatsd(vec![mogrifier.expect("a mogrifier")]);
        let dogstatsd = Lines::new(dialect).since_last(&tagged);
        let rules = "\ntollgate.rules:7|g|#zone:eu.1:a,cluster:c_d\n";
        let hits = "\nratelimit.service.rate_limit.total_hits:1|c|\
                    #zone:eu.1:a,cluster:c_d,domain:shop,descriptor:user.ip_10_0_0_1\n";
        assert!(dogstatsd.contains(rules) && dogstatsd.contains(hits), "{dogstatsd}");
    }

    #[test]
    fn a_name_from_a_request_adds_no_line_and_no_tag() {
        let mut snapshot = Snapshot::default();
        let path = StatsPath { domain: "d".into(), parts: vec!["k_a\nfake:1|c#x,y=z;[q] \u{7f}".into()] };
        snapshot.rules = vec![(path, HitCounts { total_hits: 1, ..HitCounts::default() })];
        for dialect in [StatsdDialect::Statsd, StatsdDialect::DogStatsd(Vec::new())] {
            let lines = Lines::new(dialect).since_last(&snapshot);
            assert_eq!(lines, "ratelimit.service.rate_limit.d.k_a_fake_1_c_x_y=z__q___.total_hits:1|c\n");
        }
    }

    #[test]
    fn the_rate_stands_for_the_count_however_a_server_computes() {
        for count in (1..2_000).chain([49, 12_345, 1_000_003, 77_777_777]) {
            let rate: f64 = rate(count).to_string().parse().expect("a number");
            let (restored, count) = (1.0 / rate, count as f64);
            assert!(restored.floor() == count && restored - count < 1e-6, "{restored} for {count}");
        }
    }
}

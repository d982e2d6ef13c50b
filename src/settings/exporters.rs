//! Settings of metrics and their exporters.

use std::collections::BTreeMap;
use std::time::Duration;
use std::{fs, io};

use serde::Deserialize;

use super::raw::RawExporters;
use super::reader::{HOUR, Reader, parse_bool};
use super::{Ignored, RawSettings};
use crate::server::Address;
use crate::telemetry::metrics::statsd::{Mogrifier, StatsdDialect, StatsdSettings, StatsdTransport};
use crate::telemetry::metrics::{MetricsSettings, definitions};

/// Labels that per-rule series have anyway.
const OWN_LABELS: [&str; 3] = ["domain", "key1", "key2"];

/// Members of `PROMETHEUS_MAPPER_YAML` that affect names.
#[derive(Deserialize)]
struct Mapper {
    #[serde(default)]
    mappings: Vec<Mapping>,
}

#[derive(Deserialize)]
struct Mapping {
    #[serde(default)]
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    action: String,
}

pub(super) fn metrics(raw: &RawSettings, reader: &mut Reader) -> MetricsSettings {
    let RawSettings { metrics: raw, exporters, .. } = raw;
    let expected = "name:value,name:value, each name once and none of them domain, key1 or key2";
    MetricsSettings {
        extra_tags: reader.read("EXTRA_TAGS", &raw.extra_tags, expected, parse_tags).unwrap_or_default(),
        max_named_series: reader.number(
            "DETAILED_METRIC_MAX_SERIES",
            &raw.detailed_metric_max_series,
            0..=1_000_000,
        ),
        response_time_as_millis: reader.boolean(
            "PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS",
            &exporters.prometheus_response_time_as_milliseconds,
        ),
    }
}

/// Tags as labels: what Prometheus does not take in a label's name becomes `_`.
fn parse_tags(text: &str) -> Option<Vec<(String, String)>> {
    let mut tags = Vec::<(String, String)>::new();
    for (name, value) in parse_pairs(text)? {
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let is_label = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !is_label || OWN_LABELS.contains(&name.as_str()) || tags.iter().any(|(other, _)| *other == name) {
            return None;
        }
        tags.push((name, value));
    }
    Some(tags)
}

/// `name:value,name:value`
fn parse_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once(':'));
    pairs.map(|pair| pair.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))).collect()
}

/// The listener for Prometheus alone, and its path.
pub(super) fn prometheus(raw: &RawSettings, reader: &mut Reader) -> Option<(Address, String)> {
    let RawSettings { metrics: raw, exporters, .. } = raw;
    let is_used = reader.boolean("USE_PROMETHEUS", &raw.use_prometheus);
    let is_disabled = reader.boolean("DISABLE_STATS", &exporters.disable_stats);
    let expected = "[host]:port, the port from 0 to 65535";
    let address = reader.read("PROMETHEUS_ADDR", &raw.prometheus_addr, expected, |text| {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() { "0.0.0.0" } else { host }.to_owned();
        Some(Address::Tcp { host, port: port.parse().ok()? })
    });
    let expected = "a path that begins with a slash";
    let path = reader.read("PROMETHEUS_PATH", &raw.prometheus_path, expected, |text| {
        text.starts_with('/').then(|| text.to_owned())
    });
    address.zip(path).filter(|_| is_used && !is_disabled)
}

/// statsd or DogStatsD. envoyproxy/ratelimit sends to statsd by default; hardly any deployment has one, so here
/// its host or its use must be set.
pub(super) fn statsd(
    raw: &RawExporters,
    environment: impl Fn(&str) -> Option<String>,
    reader: &mut Reader,
) -> Option<StatsdSettings> {
    let is_dog = reader.boolean("USE_DOG_STATSD", &raw.use_dog_statsd);
    let asked = raw.use_statsd.as_deref().map(|text| reader.boolean("USE_STATSD", text));
    if is_dog && asked == Some(true) {
        reader.error("USE_STATSD", "false where USE_DOG_STATSD is true", raw.use_statsd.as_deref());
    }
    let transports = [("tcp", StatsdTransport::Tcp), ("udp", StatsdTransport::Udp)];
    let transport = reader.choice("STATSD_PROTOCOL", &raw.statsd_protocol, &transports);
    let dialect = if is_dog {
        StatsdDialect::DogStatsd(mogrifiers(&raw.use_dog_statsd_mogrifiers, environment, reader))
    } else {
        StatsdDialect::Statsd
    };
    let settings = StatsdSettings {
        host: raw.statsd_host.as_deref().unwrap_or("localhost").to_owned(),
        port: reader.number("STATSD_PORT", &raw.statsd_port, 1..=u16::MAX),
        transport: transport.filter(|_| !is_dog).unwrap_or(StatsdTransport::Udp),
        dialect,
        flush_interval: reader.duration(
            "STATS_FLUSH_INTERVAL",
            &raw.stats_flush_interval,
            Duration::from_millis(100)..=HOUR,
        ),
    };
    let is_used = is_dog || asked.unwrap_or(raw.statsd_host.is_some());
    // `prometheus` reports what it is where that is no truth value.
    let is_disabled = parse_bool(&raw.disable_stats).unwrap_or_default();
    (is_used && !is_disabled).then_some(settings)
}

fn mogrifiers(
    names: &str,
    environment: impl Fn(&str) -> Option<String>,
    reader: &mut Reader,
) -> Vec<Mogrifier> {
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut read = |name: &str| {
        let mogrifier = mogrifier(&name.to_ascii_uppercase(), &environment);
        mogrifier.map_err(|error| reader.error("USE_DOG_STATSD_MOGRIFIERS", error, Some(name))).ok()
    };
    names.filter_map(&mut read).collect()
}

/// The mogrifier of this name, or the variable that it lacks.
fn mogrifier(name: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Mogrifier, String> {
    // The code of envoyproxy/ratelimit has the singular, its README the plural too.
    let read = |part: &str| {
        let prefixes = ["DOG_STATSD_MOGRIFIER", "DOG_STATSD_MOGRIFIERS"];
        prefixes.iter().find_map(|prefix| environment(&format!("{prefix}_{name}_{part}")))
    };
    let needed = |part| read(part).ok_or_else(|| format!("DOG_STATSD_MOGRIFIER_{name}_{part} to be set"));
    let (pattern, new_name) = (needed("PATTERN")?, needed("NAME")?);
    let tags = parse_pairs(&read("TAGS").unwrap_or_default());
    let tags = tags.filter(|tags| tags.iter().all(|(tag, value)| !tag.is_empty() && !value.is_empty()));
    let tags = tags.ok_or_else(|| format!("tag:value,tag:value in DOG_STATSD_MOGRIFIER_{name}_TAGS"))?;
    Mogrifier::new(&pattern, &new_name, &tags)
        .map_err(|error| format!("a valid DOG_STATSD_MOGRIFIER_{name}: {error}"))
}

/// A note where `PROMETHEUS_MAPPER_YAML` asks for other names than metrics have. Envoy Gateway always names a file,
/// which may be absent.
pub(super) fn mapper(raw: &RawExporters) -> Option<Ignored> {
    let text = match fs::read_to_string(raw.prometheus_mapper_yaml.as_ref()?) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        text => text.unwrap_or_default(),
    };
    let is_ours = |Mapping { name, labels, action }: &Mapping| {
        let metric = definitions::ALL.iter().find(|metric| metric.name == *name);
        let has = |label: &String| metric.is_some_and(|metric| metric.labels.contains(&label.as_str()));
        action == "drop" || (metric.is_some() && labels.keys().all(has))
    };
    let is_default = serde_yaml::from_str(&text)
        .is_ok_and(|mapper: Mapper| !mapper.mappings.is_empty() && mapper.mappings.iter().all(is_ours));
    let instead = "metrics keep the names and labels of the default mapping";
    (!is_default).then_some(Ignored { name: "PROMETHEUS_MAPPER_YAML", instead })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn read(variables: &[(&str, &str)]) -> Settings {
        Settings::from_variables(variables).unwrap()
    }

    fn errors(variables: &[(&str, &str)]) -> String {
        Settings::from_variables(variables).unwrap_err().to_string()
    }

    #[test]
    fn statsd_is_on_where_a_host_or_its_use_is_set() {
        for (variables, expected) in [
            (&[][..], None),
            (&[("STATSD_PORT", "9125")], None),
            (&[("USE_STATSD", "true")], Some(("localhost", 8125, StatsdTransport::Tcp))),
            (&[("STATSD_HOST", "agent")], Some(("agent", 8125, StatsdTransport::Tcp))),
            (&[("STATSD_HOST", "agent"), ("USE_STATSD", "false")], None),
            (&[("STATSD_HOST", "agent"), ("DISABLE_STATS", "true")], None),
            (
                &[("STATSD_HOST", "agent"), ("STATSD_PORT", "9125"), ("STATSD_PROTOCOL", "udp")],
                Some(("agent", 9125, StatsdTransport::Udp)),
            ),
            (&[("USE_DOG_STATSD", "true")], Some(("localhost", 8125, StatsdTransport::Udp))),
            (
                &[("USE_DOG_STATSD", "true"), ("USE_STATSD", "false"), ("STATSD_HOST", "agent")],
                Some(("agent", 8125, StatsdTransport::Udp)),
            ),
        ] {
            let statsd = read(variables).statsd;
            let found = statsd.as_ref().map(|settings| (&*settings.host, settings.port, settings.transport));
            assert_eq!(found, expected, "{variables:?}");
        }
        assert!(errors(&[("USE_STATSD", "true"), ("USE_DOG_STATSD", "true")]).contains("USE_STATSD"));
    }

    #[test]
    fn disabled_statistics_have_no_listener() {
        let on = [("USE_PROMETHEUS", "true"), ("USE_STATSD", "true")];
        let settings = read(&on);
        assert!(settings.listen.prometheus.is_some() && settings.statsd.is_some(), "both together");
        let settings = read(&[&on[..], &[("DISABLE_STATS", "true")]].concat());
        assert!(settings.listen.prometheus.is_none() && settings.statsd.is_none());
        assert_eq!(errors(&[("DISABLE_STATS", "perhaps")]).matches("DISABLE_STATS").count(), 1);
    }

    #[test]
    fn a_mogrifier_that_lacks_a_part_is_an_error_that_names_it() {
        let named = [("USE_DOG_STATSD", "true"), ("USE_DOG_STATSD_MOGRIFIERS", "a")];
        let pattern = ("DOG_STATSD_MOGRIFIER_A_PATTERN", "(b)");
        let plural = ("DOG_STATSD_MOGRIFIERS_A_PATTERN", "(b)");
        let name = ("DOG_STATSD_MOGRIFIER_A_NAME", "$1");
        for (more, expected) in [
            (&[][..], "DOG_STATSD_MOGRIFIER_A_PATTERN to be set"),
            (&[pattern], "DOG_STATSD_MOGRIFIER_A_NAME to be set"),
            (&[pattern, name, ("DOG_STATSD_MOGRIFIER_A_TAGS", "a:")], "DOG_STATSD_MOGRIFIER_A_TAGS"),
            (&[pattern, ("DOG_STATSD_MOGRIFIER_A_NAME", "$2")], "$2 is not a group"),
        ] {
            let errors = errors(&[&named[..], more].concat());
            assert!(errors.contains(expected), "{expected} in {errors}");
        }
        for pattern in [pattern, plural] {
            let statsd = read(&[&named[..], &[pattern, name]].concat()).statsd.unwrap();
            assert!(matches!(statsd.dialect, StatsdDialect::DogStatsd(mogrifiers) if mogrifiers.len() == 1));
        }
    }

    #[test]
    fn a_mapping_to_other_names_is_reported_and_an_absent_file_is_not() {
        let ours = "mappings:\n  - match: a.*.b\n    name: ratelimit_service_total_requests\n    \
                    timer_type: histogram\n    labels: {grpc_method: $1}\n  - {match: ., match_type: regex, \
                    action: drop, name: dropped}\n";
        for (text, is_reported) in [
            (Some(ours), false),
            (None, false),
            (Some("mappings: [{match: a, name: hits}]"), true),
            (Some("mappings: [{match: a, name: ratelimit_service_total_requests, labels: {x: $1}}]"), true),
            (Some("mappings: []"), true),
            (Some(": {"), true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("conf.yaml");
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            let ignored = read(&[("PROMETHEUS_MAPPER_YAML", path.to_str().unwrap())]).ignored;
            let names: Vec<_> = ignored.iter().map(|ignored| ignored.name).collect();
            assert_eq!(names, vec!["PROMETHEUS_MAPPER_YAML"; usize::from(is_reported)], "{text:?}");
        }
    }
}

//! Settings of the OTLP exporter of metrics, and timeouts of all exports, by the standard variables of OpenTelemetry.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};

use super::RawSettings;
use super::raw::{RawExporters, RawTraces};
use super::reader::{Reader, parse_bool};
use crate::telemetry::metrics::otlp::OtlpSettings;
use crate::telemetry::traces::{Protocol, Service};
use crate::tls::ClientTls;

/// The exporter, where it is asked for. The endpoint for all signals does not ask for it: it may be there for traces,
/// and a collector without a pipeline for metrics rejects them.
///
/// `timeout` is that of all signals.
pub(super) fn read(
    raw: &RawSettings,
    tls: ClientTls,
    timeout: Duration,
    reader: &mut Reader,
) -> Option<OtlpSettings> {
    let RawSettings { exporters: raw, traces, .. } = raw;
    let of_metrics = raw.otel_exporter_otlp_metrics_endpoint.is_some();
    let is_used = match raw.otel_metrics_exporter.as_deref() {
        None => of_metrics,
        Some(text) => exporters(text, reader),
    };
    let own = raw.otel_exporter_otlp_metrics_timeout.as_deref();
    let timeout = own.map_or(timeout, |text| millis("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", text, reader));
    let interval =
        reader.number("OTEL_METRIC_EXPORT_INTERVAL", &raw.otel_metric_export_interval, 100..=86_400_000);
    let longest = millis("OTEL_METRIC_EXPORT_TIMEOUT", &raw.otel_metric_export_timeout, reader);
    let temporality = &raw.otel_exporter_otlp_metrics_temporality_preference;
    let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    reader.choice(name, temporality, &[("cumulative", ())]);
    let protocol = protocol(raw, traces, reader);
    let endpoint = endpoint(raw, traces, protocol, reader)?;
    let settings = OtlpSettings {
        tls: (endpoint.scheme_str() == Some("https")).then_some(tls),
        endpoint,
        protocol,
        headers: headers(raw, reader),
        interval: Duration::from_millis(interval),
        timeout: timeout.min(longest),
        service: service(traces),
    };
    let is_disabled = parse_bool(&raw.disable_stats).unwrap_or_default();
    (is_used && !is_disabled).then_some(settings)
}

/// Upper bound on one request to the collector, for all signals.
pub(super) fn timeout(raw: &RawExporters, reader: &mut Reader) -> Duration {
    millis("OTEL_EXPORTER_OTLP_TIMEOUT", &raw.otel_exporter_otlp_timeout, reader)
}

/// Upper bound on one request with traces; `timeout` is that for all signals.
pub(super) fn trace_timeout(raw: &RawExporters, timeout: Duration, reader: &mut Reader) -> Duration {
    let own = raw.otel_exporter_otlp_traces_timeout.as_deref();
    own.map_or(timeout, |text| millis("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", text, reader))
}

fn millis(name: &'static str, text: &str, reader: &mut Reader) -> Duration {
    Duration::from_millis(reader.number(name, text, 1..=86_400_000))
}

/// True if `otlp` is among the exporters. `prometheus` is always there, and served rather than sent.
fn exporters(text: &str, reader: &mut Reader) -> bool {
    let choices = [("otlp", true), ("none", false), ("prometheus", false)];
    let mut read = |text: &str| reader.choice("OTEL_METRICS_EXPORTER", text, &choices);
    let asked: Vec<_> = text.split(',').map(str::trim).map(&mut read).collect();
    asked.contains(&Some(true))
}

/// Attributes of the service, in metrics and traces.
pub(super) fn service(raw: &RawTraces) -> Service {
    let name = raw.tracing_service_name.as_ref().or(raw.otel_service_name.as_ref());
    Service {
        name: name.map_or("RateLimit", String::as_str).to_owned(),
        namespace: raw.tracing_service_namespace.clone(),
        instance_id: raw.tracing_service_instance_id.clone(),
    }
}

fn protocol(raw: &RawExporters, traces: &RawTraces, reader: &mut Reader) -> Protocol {
    let choices = [("http/protobuf", Protocol::Http), ("grpc", Protocol::Grpc)];
    let own = raw.otel_exporter_otlp_metrics_protocol.as_ref();
    let own = own.and_then(|text| reader.choice("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", text, &choices));
    // An invalid value is reported with the settings of traces.
    let of_all = traces.otel_exporter_otlp_protocol.as_ref();
    let of_all = of_all.and_then(|text| choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)));
    own.or(of_all.map(|(_, protocol)| *protocol)).unwrap_or(Protocol::Http)
}

/// The collector's whole URL, as the OpenTelemetry specification finds it.
fn endpoint(raw: &RawExporters, traces: &RawTraces, protocol: Protocol, reader: &mut Reader) -> Option<Uri> {
    let below = |base: &str| match protocol {
        Protocol::Grpc => base.to_owned(),
        Protocol::Http => format!("{}/v1/metrics", base.trim_end_matches('/')),
    };
    let default = if protocol == Protocol::Grpc { "http://localhost:4317" } else { "http://localhost:4318" };
    let name = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
    if let Some(whole) = &raw.otel_exporter_otlp_metrics_endpoint {
        return reader.read(name, whole, URL, collector_url);
    }
    // An invalid endpoint for all signals is reported with the settings of traces.
    collector_url(&below(traces.otel_exporter_otlp_endpoint.as_deref().unwrap_or(default)))
}

/// Expected form of a collector's URL.
pub(super) const URL: &str = "a URL that begins with http:// or https://";

/// URL of a collector.
pub(super) fn collector_url(text: &str) -> Option<Uri> {
    let is_known = text.starts_with("http://") || text.starts_with("https://");
    text.parse().ok().filter(|_| is_known)
}

fn headers(raw: &RawExporters, reader: &mut Reader) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, text) in [
        ("OTEL_EXPORTER_OTLP_HEADERS", &raw.otel_exporter_otlp_headers),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", &raw.otel_exporter_otlp_metrics_headers),
    ] {
        match text.as_ref().map(parse_headers) {
            Some(Some(read)) => headers.extend(read),
            // The text may contain a secret.
            Some(None) => reader.error(name, "name=value,name=value, values percent-encoded", None),
            None => {}
        }
    }
    headers
}

fn parse_headers(text: &SecretString) -> Option<HeaderMap> {
    let pairs = text.expose_secret().split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.map(|pair| pair.split_once('=').unwrap_or_default()) {
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        let mut value = HeaderValue::from_bytes(&value).ok()?;
        value.set_sensitive(true);
        headers.insert(name.trim().parse::<HeaderName>().ok()?, value);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn read(variables: &[(&str, &str)]) -> Option<OtlpSettings> {
        Settings::from_variables(variables).unwrap().otlp
    }

    #[test]
    fn metrics_are_exported_only_where_they_are_asked_for() {
        let of_all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        let own = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://metrics:4318/in");
        let asked = ("OTEL_METRICS_EXPORTER", "prometheus, otlp");
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        for (variables, expected) in [
            (&[][..], None),
            // As Envoy Gateway sets it for traces.
            (&[("TRACING_ENABLED", "true"), of_all], None),
            (&[asked], Some("http://localhost:4318/v1/metrics")),
            (&[asked, of_all], Some("http://collector:4318/v1/metrics")),
            (&[own, of_all], Some("http://metrics:4318/in")),
            (&[asked, grpc], Some("http://localhost:4317/")),
            (&[asked, of_all, grpc], Some("http://collector:4318/")),
            (
                &[asked, grpc, ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")],
                Some("http://localhost:4318/v1/metrics"),
            ),
            (&[own, ("OTEL_METRICS_EXPORTER", "none")], None),
            (&[own, ("DISABLE_STATS", "true")], None),
        ] {
            let endpoint = read(variables).map(|settings| settings.endpoint.to_string());
            assert_eq!(endpoint.as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn times_headers_and_the_service_are_read() {
        let settings = read(&[
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a,api-key=old"),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "api-key=one%20two"),
            ("OTEL_SERVICE_NAME", "limits"),
        ]);
        let settings = settings.unwrap();
        assert_eq!((settings.interval, settings.timeout), (Duration::from_secs(5), Duration::from_secs(2)));
        assert_eq!(
            (&settings.headers["x-tenant"], &settings.headers["api-key"]),
            (&"a".parse().unwrap(), &"one two".parse().unwrap())
        );
        assert_eq!(settings.service.name, "limits");
        assert!(!format!("{settings:?}").contains("one two"), "a secret is not printed");
    }

    #[test]
    fn a_timeout_for_one_signal_takes_precedence() {
        let all = ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000");
        let both = [("OTEL_METRICS_EXPORTER", "otlp"), ("TRACING_ENABLED", "true"), all];
        let of = |more: &[_]| {
            let settings = Settings::from_variables(&[&both[..], more].concat()).unwrap();
            (settings.otlp.unwrap().timeout.as_secs(), settings.traces.unwrap().timeout.as_secs())
        };
        assert_eq!(of(&[]), (2, 2));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "3000")]), (3, 2));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "4000")]), (2, 4));
    }

    #[test]
    fn errors_name_the_variable_and_show_no_secret() {
        for (name, value) in [
            ("OTEL_METRICS_EXPORTER", "console"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "grpc://collector"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=secret%0A"),
        ] {
            let errors = Settings::from_variables(&[(name, value)]).unwrap_err().to_string();
            assert!(errors.contains(name) && !errors.contains("secret"), "{errors}");
        }
    }
}

//! An OpenTelemetry collector receives the metrics of the service.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, NumberDataPoint};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::collector::{Collector, Export};
use crate::support::eventually;
use crate::support::pki::{self, Pki};
use crate::support::ports::free_ports;
use crate::support::process::POLL;
use crate::support::tollgate::Tollgate;

const TIMEOUT: Duration = Duration::from_secs(30);
const RULES: &str = "\
domain: shop
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 2}
";

/// Three calls, the last of which is denied.
async fn load(service: &Tollgate) {
    let body = json!({"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]});
    for _ in 0..3 {
        let answer = reqwest::Client::new().post(service.url("/json")).json(&body).send().await;
        let answer: Value = answer.expect("an answer").json().await.expect("JSON");
        assert!(answer["overallCode"].is_string(), "{answer}");
    }
}

fn attributes(attributes: &[KeyValue]) -> Vec<String> {
    let text = |value: &KeyValue| match value.value.clone().and_then(|value| value.value) {
        Some(AnyValue::StringValue(text)) => format!("{}={text}", value.key),
        other => panic!("{}: {other:?}", value.key),
    };
    attributes.iter().map(text).collect()
}

fn find<'e>(export: &'e Export, name: &str) -> Option<&'e Metric> {
    let resources = export.request.resource_metrics.iter();
    let scopes = resources.flat_map(|resource| &resource.scope_metrics);
    scopes.flat_map(|scope| &scope.metrics).find(|metric| metric.name == name)
}

/// Points of a cumulative, monotonic sum, with their attributes.
fn sum(export: &Export, name: &str) -> Vec<(Vec<String>, i64)> {
    let Some(Data::Sum(sum)) = find(export, name).and_then(|metric| metric.data.clone()) else {
        return Vec::new();
    };
    assert!(sum.is_monotonic && sum.aggregation_temporality == AggregationTemporality::Cumulative as i32);
    sum.data_points.iter().map(point).collect()
}

fn point(point: &NumberDataPoint) -> (Vec<String>, i64) {
    assert!(
        point.start_time_unix_nano > 0 && point.start_time_unix_nano <= point.time_unix_nano,
        "{point:?}"
    );
    let Some(Number::AsInt(value)) = point.value else { panic!("{point:?} is no whole number") };
    (attributes(&point.attributes), value)
}

/// Waits for the first export that contains the whole load.
async fn wait_for_load(collector: &Collector) -> Export {
    let deadline = Instant::now() + TIMEOUT;
    let all = vec![(vec!["grpc_method=ShouldRateLimit".to_owned()], 3)];
    loop {
        let exports = collector.exports();
        let complete = exports.iter().find(|export| sum(export, "ratelimit_service_total_requests") == all);
        if let Some(export) = complete {
            return export.clone();
        }
        assert!(Instant::now() < deadline, "{:?}", exports.last());
        sleep(POLL).await;
    }
}

fn check(export: &Export) {
    let owned = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
    let hits = sum(export, "ratelimit_service_rate_limit_total_hits");
    assert_eq!(hits, [(owned(&["domain=shop", "key1=user", "zone=eu"]), 3)]);
    let over = sum(export, "ratelimit_service_rate_limit_over_limit");
    assert_eq!(over, [(owned(&["domain=shop", "key1=user", "zone=eu"]), 1)]);
    let rules = find(export, "tollgate_rules").expect("a gauge");
    let Some(Data::Gauge(gauge)) = &rules.data else { panic!("{rules:?}") };
    assert_eq!(gauge.data_points.iter().map(point).collect::<Vec<_>>(), [(vec![], 1)]);
    let times = find(export, "ratelimit_service_response_time_seconds").expect("a histogram");
    assert_eq!(times.unit, "s");
    assert!(!times.description.is_empty());
    let Some(Data::Histogram(histogram)) = &times.data else { panic!("{times:?}") };
    let [point] = &histogram.data_points[..] else { panic!("{histogram:?}") };
    assert_eq!((point.count, point.bucket_counts.iter().sum::<u64>()), (3, 3));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert!(point.sum.is_some_and(|sum| sum > 0.0) && point.explicit_bounds.is_sorted());
    let resource = export.request.resource_metrics[0].resource.as_ref().expect("a resource");
    let resource = attributes(&resource.attributes);
    for attribute in ["service.name=limits", "team=edge"] {
        assert!(resource.contains(&attribute.to_owned()), "{resource:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_receives_every_kind_of_metric_over_grpc_and_http() {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start().await;
        let address = if protocol == "grpc" { collector.grpc } else { collector.http };
        let endpoint = format!("http://{address}");
        let environment = [
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=one%20two"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
            ("OTEL_SERVICE_NAME", "limits"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=edge"),
            ("EXTRA_TAGS", "zone:eu"),
        ];
        let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
        load(&service).await;
        let export = wait_for_load(&collector).await;
        check(&export);
        assert_eq!(export.api_key.as_deref(), Some("one two"), "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_for_all_signals_exports_no_metrics_by_itself() {
    let mut collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.http);
    let environment = [
        ("TRACING_ENABLED", "true"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let mut service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    load(&service).await;
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(TIMEOUT).await, Some(0));
    collector.next("ShouldRateLimit Execution").await;
    assert!(collector.exports().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_starts_late_gets_all_counts_and_a_missing_one_does_not_delay_the_exit() {
    let [port] = free_ports::<1>();
    let endpoint = format!("http://127.0.0.1:{port}");
    let environment = [
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let mut service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    load(&service).await;
    service.process.output_with("cannot export metrics").await;
    let collector = Collector::start_at(port).await;
    wait_for_load(&collector).await;
    // The collector has the metrics slightly before the service has the reply.
    service.process.output_with("metrics are exported again").await;
    drop(collector);
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(TIMEOUT).await, Some(0));
    let output = service.process.output();
    assert!(output.matches("cannot export metrics").count() <= 2, "once for each absence: {output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn remaining_metrics_are_exported_at_shutdown() {
    let collector = Collector::start().await;
    let endpoint = format!("http://{}/v1/metrics", collector.http);
    let environment = [("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &*endpoint)];
    let mut service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    load(&service).await;
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(TIMEOUT).await, Some(0));
    wait_for_load(&collector).await;
}

/// A collector that requires a client certificate gets metrics and traces as soon as the files are right, and still
/// gets them when a file becomes invalid.
async fn reaches_a_collector_with_tls(protocol: &str) {
    let pki = Pki::new();
    let (ours, other) = (pki.authority("ours"), pki.authority("other"));
    let server = pki.pair(&ours, "server", "localhost");
    let client = pki.pair(&ours, "client", "tollgate.example");
    let used = pki.pair(&other, "used", "tollgate.example");
    let mut config = (*pki::server(&server, &ours)).clone();
    config.alpn_protocols.push(b"http/1.1".to_vec());
    let mut collector = Collector::start_tls(Arc::new(config)).await;
    let port = if protocol == "grpc" { collector.grpc } else { collector.http }.port();
    let endpoint = format!("https://localhost:{port}");
    let trusted = pki.file("trusted.crt");
    fs::copy(&other.path, &trusted).expect("a copy");
    let [trusted_text, certificate, key] =
        [&trusted, &used.certificate, &used.key].map(|path| path.display().to_string());
    let environment = [
        ("TRACING_ENABLED", "true"),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &*trusted_text),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &*certificate),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &*key),
    ];
    let mut service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    let reason = format!("UnknownIssuer; the trusted authorities are in {trusted_text}");
    service.process.output_with(&reason).await;

    pki::replace(&ours.path, &trusted);
    for user in ["otlp_metrics", "otlp_traces"] {
        let series = format!("tollgate_tls_reloads{{use=\"{user}\"}}");
        eventually("the file is read again", async || service.metric(&series).await == 1).await;
    }
    load(&service).await;
    service.process.output_with("BatchSpanProcessor.ExportError").await;
    assert!(collector.exports().is_empty());

    pki::replace(&client.key, &used.key);
    pki::replace(&client.certificate, &used.certificate);
    wait_for_load(&collector).await;

    fs::write(&used.certificate, "no certificate").expect("a file");
    for user in ["otlp_metrics", "otlp_traces"] {
        let series = format!("tollgate_tls_stale_files{{use=\"{user}\"}}");
        eventually("the invalid file is noticed", async || service.metric(&series).await == 1).await;
    }
    let exports = collector.exports().len();
    eventually("metrics are exported as before", async || collector.exports().len() > exports).await;
    load(&service).await;
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(TIMEOUT).await, Some(0));
    collector.next("ShouldRateLimit Execution").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_reached_over_grpc_with_tls() {
    reaches_a_collector_with_tls("grpc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_reached_over_http_with_tls() {
    reaches_a_collector_with_tls("http/protobuf").await;
}

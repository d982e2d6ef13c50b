//! Spans reach a collector, as parts of the traces that callers began.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, sleep};
use tollgate::pb::{Entry, RateLimitDescriptor, RateLimitRequest, RateLimitServiceClient};
use tollgate::telemetry::traces::{Protocol, Service, TraceSettings, Traces, set_parent};
use tonic::transport::Endpoint;
use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::collector::Collector;
use crate::support::process::POLL;
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn settings(collector: &Collector, protocol: Protocol) -> TraceSettings {
    TraceSettings {
        endpoint: match protocol {
            Protocol::Grpc => format!("http://{}", collector.grpc),
            Protocol::Http => format!("http://{}/v1/traces", collector.http),
        },
        protocol,
        tls: None,
        sampling_rate: 1.0,
        timeout: Duration::from_secs(10),
        service: Service {
            name: "limits".to_owned(),
            namespace: Some("shop".to_owned()),
            instance_id: Some("one".to_owned()),
        },
    }
}

fn traceparent(flags: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", format!("00-{TRACE_ID}-{CALLER}-{flags}").parse().expect("a header"));
    headers
}

/// Makes a span with another one in it for each of `callers`, and sends what there is to send.
fn make_spans(settings: &TraceSettings, callers: Vec<HeaderMap>) {
    let traces = Traces::start(settings).expect("good settings");
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || {
        for headers in callers {
            let span = info_span!(target: "tollgate", "outer");
            set_parent(&span, &headers);
            span.in_scope(|| info_span!(target: "tollgate", "inner").in_scope(|| ()));
            info_span!(target: "hyper", "of a library").in_scope(|| ());
        }
    });
    drop(traces);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_is_a_child_of_the_callers_and_the_last_ones_are_sent_at_the_end() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let mut collector = Collector::start().await;
        let settings = settings(&collector, protocol);
        tokio::task::spawn_blocking(move || make_spans(&settings, vec![traceparent("01")]))
            .await
            .expect("made");
        let inner = collector.next("inner").await;
        let outer = collector.next("outer").await;
        assert_eq!((&*outer.trace_id, &*outer.parent_span_id), (TRACE_ID, CALLER), "{protocol:?}");
        assert_eq!((&*inner.trace_id, &inner.parent_span_id), (TRACE_ID, &outer.span_id), "{protocol:?}");
        for attribute in ["service.name=limits", "service.namespace=shop", "service.instance.id=one"] {
            assert!(outer.resource.iter().any(|found| found == attribute), "{:?}", outer.resource);
        }
        assert_eq!(collector.rest(), [], "spans of libraries stay here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_decides_whether_its_trace_is_sent_and_the_rate_decides_for_the_rest() {
    for (sampling_rate, begun_here) in [(1.0, 1), (0.0, 0)] {
        let mut collector = Collector::start().await;
        let settings = TraceSettings { sampling_rate, ..settings(&collector, Protocol::Grpc) };
        let callers = vec![traceparent("00"), HeaderMap::new(), traceparent("01")];
        tokio::task::spawn_blocking(move || make_spans(&settings, callers)).await.expect("made");
        let first = collector.next("outer").await;
        let outer: Vec<_> =
            std::iter::once(first).chain(collector.rest()).filter(|span| span.name == "outer").collect();
        let of_caller = outer.iter().filter(|span| span.parent_span_id == CALLER).count();
        assert_eq!((of_caller, outer.len() - of_caller), (1, begun_here), "{sampling_rate}: {outer:?}");
    }
}

#[test]
fn a_span_without_a_subscriber_is_never_created() {
    let span = info_span!(target: "tollgate", "outer");
    set_parent(&span, &traceparent("01"));
    assert!(span.is_disabled());
}

const RULES: &str = "\
domain: shop
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 2}
";

/// Asks `service` as a part of the caller's trace, until it decides: its store may not be there yet.
async fn ask(service: &Tollgate) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(status) = ask_once(service).await {
        assert!(Instant::now() < deadline, "{status}");
        sleep(POLL).await;
    }
}

async fn ask_once(service: &Tollgate) -> Result<(), tonic::Status> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", service.grpc)).expect("a URL");
    let mut client = RateLimitServiceClient::new(endpoint.connect().await.expect("it listens"));
    let entries = vec![Entry { key: "user".into(), value: "alice".into() }];
    let descriptor = RateLimitDescriptor { entries, ..RateLimitDescriptor::default() };
    let mut request = tonic::Request::new(RateLimitRequest {
        domain: "shop".to_owned(),
        descriptors: vec![descriptor],
        hits_addend: 0,
    });
    let traceparent = format!("00-{TRACE_ID}-{CALLER}-01").parse().expect("a header");
    request.metadata_mut().insert("traceparent", traceparent);
    client.should_rate_limit(request).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_its_way_to_redis_are_spans_of_the_callers_trace() {
    let redis = Redis::start().await;
    let redis_url = redis.settings().deployment.to_string();
    for protocol in ["grpc", "http"] {
        let mut collector = Collector::start().await;
        let address = if protocol == "grpc" { collector.grpc } else { collector.http };
        let endpoint = format!("http://{address}");
        let mut service = Tollgate::start(
            &[("rules.yaml", RULES)],
            &[
                ("TRACING_EXPORTER_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
                ("REDIS_URL", &redis_url),
            ],
        )
        .await;
        ask(&service).await;
        service.process.signal("TERM");
        let code = service.process.exit_code(Duration::from_secs(30)).await;
        assert_eq!(code, Some(0), "{}", service.process.output());
        let redis = collector.next("Redis Pipeline Execution").await;
        let call = collector.next("ShouldRateLimit Execution").await;
        assert_eq!((&*call.trace_id, &*call.parent_span_id), (TRACE_ID, CALLER), "{protocol}");
        assert_eq!((&*redis.trace_id, &redis.parent_span_id), (TRACE_ID, &call.span_id), "{protocol}");
        assert!(call.resource.contains(&"service.name=RateLimit".to_owned()), "{:?}", call.resource);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_is_logged_and_holds_nothing_up() {
    let environment = [("TRACING_ENABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")];
    let mut service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    ask(&service).await;
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(Duration::from_secs(30)).await, Some(0));
    let output = service.process.output();
    assert!(output.contains("opentelemetry"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_delays_the_end_by_no_more_than_a_second_and_nothing_panics() {
    // Connections are accepted by the kernel, and nobody answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("its address"));
    for protocol in ["http", "grpc"] {
        let environment =
            [("TRACING_EXPORTER_PROTOCOL", protocol), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint)];
        let mut service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
        ask(&service).await;
        service.process.signal("TERM");
        let stopped = Instant::now();
        assert_eq!(service.process.exit_code(Duration::from_secs(30)).await, Some(0));
        let (took, output) = (stopped.elapsed(), service.process.output());
        assert!(took < Duration::from_millis(3_500), "{took:?}: {output}");
        assert!(!output.contains("panicked"), "{output}");
    }
}

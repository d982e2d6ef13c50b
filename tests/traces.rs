//! Spans reach a collector, as parts of the traces that callers began.

use http::HeaderMap;
use tollgate::telemetry::traces::{Protocol, Service, TraceSettings, Traces, set_parent};
use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::collector::Collector;

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn settings(collector: &Collector, protocol: Protocol) -> TraceSettings {
    TraceSettings {
        endpoint: match protocol {
            Protocol::Grpc => format!("http://{}", collector.grpc),
            Protocol::Http => format!("http://{}/v1/traces", collector.http),
        },
        protocol,
        sampling_rate: 1.0,
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
fn a_span_that_nobody_listens_to_is_never_made() {
    let span = info_span!(target: "tollgate", "outer");
    set_parent(&span, &traceparent("01"));
    assert!(span.is_disabled());
}

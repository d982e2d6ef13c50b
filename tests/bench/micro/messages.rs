//! Both ends of a request, and all of it: bytes in, bytes out.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion};
use futures_util::FutureExt as _;
use prost::Message as _;
use tokio::time::Instant;
use tollgate::limiter::Limiter;
use tollgate::limiter::observe::Observer;
use tollgate::pb;
use tollgate::server::{AnswerSettings, RateLimitService, wire};

use crate::limiter::limiter;
use crate::rules::{ASKED, LAYERS, load};

const SHAPES: [(&str, usize); 2] = [("1 descriptor", 1), ("3 descriptors", 3)];

/// A request as Envoy puts it on the wire, without gRPC's prefix.
fn sent(descriptors: usize) -> Bytes {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let descriptor = |&(key, value): &(&'static str, &'static str)| pb::RateLimitDescriptor {
        entries: vec![pb::Entry { key: text(key), value: text(value) }],
        ..pb::RateLimitDescriptor::default()
    };
    let message = pb::RateLimitRequest {
        domain: "store".to_owned(),
        descriptors: ASKED.iter().take(descriptors).map(descriptor).collect(),
        // Envoy's own default; it sends it along.
        hits_addend: 1,
    };
    message.encode_to_vec().into()
}

/// From bytes to what the engine is asked.
pub(crate) fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, descriptors) in SHAPES {
        let sent = sent(descriptors);
        group.bench_with_input(BenchmarkId::from_parameter(name), &sent, |bencher, sent| {
            bencher.iter(|| wire::decode(black_box(sent)).expect("it makes sense").descriptors.len());
        });
    }
    group.finish();
}

/// From what was decided to bytes.
pub(crate) fn encode(criterion: &mut Criterion) {
    let (limiter, settings) = (limiter(Arc::new(load(LAYERS))), AnswerSettings::default());
    let mut group = criterion.benchmark_group("encode");
    for (name, descriptors) in SHAPES {
        let message = sent(descriptors);
        let request = wire::decode(&message).expect("it makes sense");
        let snapshot = limiter.snapshot();
        let decision = snapshot.decide(&request, None).now_or_never().expect("memory never waits");
        let decision = decision.expect("there is room");
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| wire::encode(&request, black_box(&decision), &settings));
        });
    }
    group.finish();
}

/// All of it, with counters in memory: what a request costs without HTTP/2 and sockets; and with the observation of
/// top keys and denials, which the admin listener switches on.
pub(crate) fn answer(criterion: &mut Criterion) {
    let rules = Arc::new(load(LAYERS));
    let observer = Observer::default();
    let mut group = criterion.benchmark_group("bytes in, bytes out");
    for (observed, tap) in [("", None), (", observed", Some(observer.tap()))] {
        let limiter = Limiter { tap, ..limiter(Arc::clone(&rules)) };
        let service = RateLimitService::new(limiter, AnswerSettings::default(), 1_000);
        for (name, descriptors) in SHAPES {
            let (name, sent) = (format!("{name}{observed}"), sent(descriptors));
            group.bench_with_input(BenchmarkId::from_parameter(name), &sent, |bencher, sent| {
                bencher.iter(|| answer_one(&service, sent));
            });
        }
    }
    group.finish();
}

fn answer_one(service: &RateLimitService, sent: &Bytes) -> impl Sized {
    let call = service.begin(Instant::now()).expect("nothing else is in flight");
    let request = call.accept(wire::decode(black_box(sent))).expect("it makes sense");
    let rules = call.snapshot();
    let decision = call.decide(&rules, &request, None).now_or_never().expect("memory never waits");
    wire::encode(&request, &decision.expect("there is room"), service.settings())
}

//! Allocations of each step of a request. They are exact, so a step that begins to allocate more fails here, on any
//! machine and under any load.

use std::hint::black_box;
use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use futures_util::FutureExt as _;
use prost::Message as _;
use tokio::time::Instant;
use tollgate::engine::judge::judge;
use tollgate::engine::plan::plan;
use tollgate::engine::rules::{CompileOptions, Rules, SourceFile, compile};
use tollgate::engine::{KeyWriter, Modes};
use tollgate::limiter::charges;
use tollgate::pb;
use tollgate::server::{AnswerSettings, RateLimitService, wire};
use tollgate::store::Store as _;
use tollgate::store::memory::{MemorySettings, MemoryStore};

use crate::support::limiter::limiter;

/// Quota that no test uses up.
const RULES: &str = "
domain: store
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 4000000000}}
---
domain: layers
defaults: {charge: if_allowed}
descriptors:
  - {key: user, layer: user, rate_limit: {unit: year, requests_per_unit: 4000000000}}
  - {key: remote_address, layer: ip, rate_limit: {unit: year, requests_per_unit: 4000000000}}
  - {key: path, layer: endpoint, rate_limit: {unit: year, requests_per_unit: 4000000000}}
";

const LAYERS: [(&str, &str); 3] =
    [("user", "9f1c2d7a-6b54"), ("remote_address", "203.0.113.42"), ("path", "/v1/checkout")];

fn rules() -> Arc<Rules> {
    let file = SourceFile { name: "rules.yaml".to_owned(), text: RULES.to_owned() };
    Arc::new(compile(&[file], CompileOptions::default(), None).expect("the rules are right"))
}

/// A request as Envoy sends it, without gRPC's prefix.
fn message(domain: &str, entries: &[(&str, &str)]) -> Bytes {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let descriptor = |&(key, value): &(&str, &str)| pb::RateLimitDescriptor {
        entries: vec![pb::Entry { key: bytes(key), value: bytes(value) }],
        ..pb::RateLimitDescriptor::default()
    };
    let descriptors = entries.iter().map(descriptor).collect();
    pb::RateLimitRequest { domain: domain.to_owned(), descriptors, hits_addend: 1 }.encode_to_vec().into()
}

fn users(count: usize) -> Bytes {
    let names: Vec<String> = (0..count).map(|number| format!("user-{number:08}")).collect();
    message("store", &names.iter().map(|name| ("user", &**name)).collect::<Vec<_>>())
}

fn service(rules: &Arc<Rules>) -> RateLimitService {
    RateLimitService::new(limiter(Arc::clone(rules)), AnswerSettings::default(), 1_000)
}

/// Result of `step`, and its allocations.
fn counted<T>(step: impl FnOnce() -> T) -> (T, u64) {
    let mut result = None;
    let AllocationInfo { count_total, .. } = measure(|| result = Some(black_box(step())));
    (result.expect("it ran"), count_total)
}

/// Allocations of decode, plan, charges, judge and encode, and of a whole call with counters in memory.
fn allocations(message: &Bytes) -> ([u64; 5], u64) {
    let (rules, keys, modes) = (rules(), KeyWriter::default(), Modes::default());
    let (store, settings) = (MemoryStore::new(MemorySettings::of_counters(1_000)), AnswerSettings::default());
    let now = tollgate::engine::Timestamp::from_secs(1_700_000_000);

    let (request, decoding) = counted(|| wire::decode(message).expect("a valid request"));
    let (planned, planning) = counted(|| plan(&rules, &request, &keys));
    let (charged, charging) = counted(|| charges(&planned, &modes));
    let readings = store.charge(&charged, now).now_or_never().expect("memory never waits");
    let readings: Vec<_> = readings.into_iter().map(|reading| reading.expect("there is room")).collect();
    let (decision, judging) = counted(|| judge(planned, readings, &modes));
    let (_, encoding) = counted(|| wire::encode(&request, &decision, &settings));

    let service = service(&rules);
    let answer = || {
        let call = service.begin(Instant::now()).expect("nothing else is in flight");
        let request = call.accept(wire::decode(message)).expect("a valid request");
        let snapshot = call.snapshot();
        let decision = call.decide(&snapshot, &request, None).now_or_never().expect("memory never waits");
        wire::encode(&request, &decision.expect("there is room"), service.settings())
    };
    // The first call creates the counters.
    drop(answer());
    ([decoding, planning, charging, judging, encoding], counted(answer).1)
}

#[test]
fn steps_of_a_request_allocate_no_more_than_they_did() {
    let requests = [
        ("one descriptor", users(1)),
        ("three layers", message("layers", &LAYERS)),
        ("sixteen descriptors", users(16)),
    ];
    let expected = [
        ("one descriptor", [0, 2, 0, 0, 2], 5),
        ("three layers", [0, 6, 1, 0, 2], 13),
        ("sixteen descriptors", [2, 34, 3, 1, 2], 47),
    ];
    let measured = requests.map(|(name, message)| {
        let (steps, whole) = allocations(&message);
        (name, steps, whole)
    });
    assert_eq!(
        measured, expected,
        "decode, plan, charges, judge, encode; whole call. More is a regression; if there are fewer, lower the figures"
    );
}

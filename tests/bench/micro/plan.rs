//! The two steps around a store: what to charge, and what its readings mean.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion};
use tollgate::engine::algorithm::Reading;
use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::judge::judge;
use tollgate::engine::plan::plan;
use tollgate::engine::{Descriptor, Entry, Hits, KeyWriter, Modes, Request};

use crate::rules::{ASKED, LAYERS, load};

const READING: Reading =
    Reading { outcome: ChargeOutcome::Charged, used: 42, reset: Duration::from_secs(26) };

fn request(descriptors: usize) -> Request<'static> {
    let descriptor = |(key, value): &(&'static str, &'static str)| Descriptor {
        entries: [Entry { key: key.as_bytes(), value: value.as_bytes() }].into_iter().collect(),
        hits: Hits::Add(1),
        limit_override: None,
    };
    Request { domain: b"store", descriptors: ASKED.iter().take(descriptors).map(descriptor).collect() }
}

/// Both, for requests of one descriptor and of three.
pub(crate) fn plan_and_judge(criterion: &mut Criterion) {
    let (rules, keys, modes) = (load(LAYERS), KeyWriter::default(), Modes::default());
    for (name, descriptors) in [("1 descriptor", 1), ("3 descriptors", 3)] {
        let request = request(descriptors);
        let planned = || plan(&rules, black_box(&request), &keys);
        assert_eq!(planned().limited().count(), descriptors);
        criterion
            .benchmark_group("plan")
            .bench_function(BenchmarkId::from_parameter(name), |bencher| bencher.iter(planned));
        criterion.benchmark_group("judge").bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let judged = |plan| judge(plan, std::iter::repeat_n(READING, descriptors), &modes);
            bencher.iter_batched(planned, judged, BatchSize::SmallInput);
        });
    }
}

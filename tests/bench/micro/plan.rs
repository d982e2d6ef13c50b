//! The two steps around a store: what to charge, and what its readings mean.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use criterion::{BatchSize, BenchmarkId, Criterion};
use tollgate::engine::algorithm::Reading;
use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::algorithm::places::PlaceReport;
use tollgate::engine::judge::judge;
use tollgate::engine::overrides::{Effect, Override, Overrides};
use tollgate::engine::plan::{plan, plan_with};
use tollgate::engine::{Descriptor, Entry, Hits, KeyWriter, Modes, Request, Timestamp};

use crate::rules::{ASKED, LAYERS, load};

const READING: Reading = Reading {
    outcome: ChargeOutcome::Charged,
    used: 42,
    reset: Duration::from_secs(26),
    budget: None,
    places: PlaceReport::NONE,
};

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

/// A plan without the code of overrides, with that code while there are no overrides, and with a thousand for other
/// descriptors of the domain.
pub(crate) fn overrides(criterion: &mut Criterion) {
    let (rules, keys, request) = (load(LAYERS), KeyWriter::default(), request(1));
    let now = Timestamp::from_secs(1_000_000);
    let (none, thousand) = (ArcSwapOption::empty(), ArcSwapOption::empty());
    let mut others = Overrides::default();
    for number in 0..1_000 {
        let entries = [(b"user"[..].into(), format!("other {number}").into_bytes().into())].into();
        let ends_at = now.after(Duration::from_secs(3_600));
        others.insert(b"store", Override { entries, effect: Effect::Block, ends_at });
    }
    thousand.store(Some(Arc::new(others)));
    let planned = |live: &ArcSwapOption<Overrides>| {
        let loaded = black_box(live).load();
        let overrides = loaded.as_ref().map(|overrides| overrides.at(now));
        plan_with(&rules, overrides, black_box(&request), &keys).items.len()
    };
    let mut group = criterion.benchmark_group("overrides");
    group.bench_function("off", |bencher| {
        bencher.iter(|| plan(&rules, black_box(&request), &keys).items.len())
    });
    group.bench_function("none", |bencher| bencher.iter(|| planned(&none)));
    group.bench_function("1,000 others", |bencher| bencher.iter(|| planned(&thousand)));
}

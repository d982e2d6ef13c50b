//! Cost of the algorithms: one charge of a counter that was found, for each algorithm; and three charges that count
//! only if all of them pass.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use tollgate::engine::algorithm::group::{GroupCharge, charge, charge_alone};
use tollgate::engine::algorithm::{ChargeContext, CounterState, Meter, Reading};
use tollgate::engine::{Algorithm, ChargeMode, Enforcement, Hits, Limit, Timestamp, Unit};

const START: Timestamp = Timestamp::from_secs(1_699_963_200);

/// Time between steps: 600 steps a minute, below the limit of 1,000.
const EVERY: Duration = Duration::from_millis(100);
const PER_MINUTE: u32 = 1_000;

fn limit(algorithm: Algorithm) -> Limit {
    Limit { algorithm, ..Limit::per(PER_MINUTE, Unit::Minute) }
}

/// Loads, charges and saves a counter, and returns the reading, as a store does once it has found the counter.
fn step(state: &mut CounterState, limit: Limit, now: Timestamp) -> Reading {
    let (hits, mode) = (Hits::Add(1), ChargeMode::Always);
    let mut meter = state.load(limit, now);
    let outcome = charge_alone(mode, hits, limit.capacity(), &mut meter);
    state.save(meter, limit, now);
    Reading::of(ChargeContext { limit, hits, mode, now }, state, meter.used(), outcome)
}

/// One step of each algorithm.
pub(crate) fn alone(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    for algorithm in [
        Algorithm::FixedWindow,
        Algorithm::SlidingWindow,
        Algorithm::TokenBucket { burst: PER_MINUTE },
        Algorithm::SlidingLog,
    ] {
        group.bench_function(algorithm.name(), |bencher| {
            let (limit, mut state, mut now) = (limit(algorithm), CounterState::empty(algorithm), START);
            bencher.iter(|| {
                now = now.after(EVERY);
                step(&mut state, black_box(limit), now)
            });
        });
    }
    group.finish();
}

/// Three counters of one request.
pub(crate) fn together(criterion: &mut Criterion) {
    let limit = limit(Algorithm::FixedWindow);
    let ask = |counter| GroupCharge {
        counter,
        capacity: limit.capacity(),
        hits: Hits::Add(1),
        mode: ChargeMode::IfAllowed,
        enforcement: Enforcement::Enforced,
        lockout: None,
        lease: None,
    };
    let asks = [0, 1, 2].map(ask);
    criterion.benchmark_group("step").bench_function("three of fixed_window, if_allowed", |bencher| {
        let (mut states, mut now) = ([0, 1, 2].map(|_| CounterState::empty(limit.algorithm)), START);
        bencher.iter(|| {
            now = now.after(EVERY);
            let mut meters: [Meter; 3] = states.each_mut().map(|state| state.load(limit, now));
            let charged = charge(black_box(&asks), &mut meters, &mut []);
            for (state, meter) in states.iter_mut().zip(meters) {
                state.save(meter, limit, now);
            }
            charged
        });
    });
}

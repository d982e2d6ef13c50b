//! Cost of counting when two cores count at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use criterion::Criterion;
use tokio::time::Instant;
use tollgate::engine::per_core::CoreCount;

/// Additions by one thread and by two: to a count that they share, and to a count with a part for each core.
pub(crate) fn count(criterion: &mut Criterion) {
    let (shared, own) = (AtomicU64::new(0), CoreCount::new());
    let mut group = criterion.benchmark_group("count");
    for threads in [1, 2] {
        let mut measure = |name: &str, add: &(dyn Fn() + Sync)| {
            group.bench_function(format!("{name}, {threads} at once"), |bencher| {
                bencher.iter_custom(|times| {
                    let count = || {
                        let begun = Instant::now();
                        (0..times).for_each(|_| add());
                        begun.elapsed()
                    };
                    thread::scope(|scope| {
                        let counting: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
                        let took = counting.into_iter().map(|thread| thread.join().expect("no panic"));
                        took.max().unwrap_or_default()
                    })
                });
            });
        };
        measure("one line for all cores", &|| {
            shared.fetch_add(1, Ordering::Relaxed);
        });
        measure("a line for each core", &|| own.add(1));
    }
    group.finish();
}

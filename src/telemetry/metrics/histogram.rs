//! A histogram of durations that every core adds to by itself.
//!
//! Two integers are added for each value: the sum is in nanoseconds, and the count is the sum of the buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::model::Distribution;
use crate::engine::per_core::PerCore;

/// Upper bounds in seconds: envoyproxy/ratelimit's, and before them those that tell times below its
/// first one apart.
const BOUNDS_SECS: [f64; 22] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_15, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.002, 0.003, 0.005,
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Histogram of durations.
#[derive(Debug, Default)]
pub(super) struct Histogram(PerCore<Part>);

#[derive(Debug, Default)]
struct Part {
    /// One bucket for each bound, and one above all bounds; not cumulative.
    counts: [AtomicU64; BOUNDS_SECS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Adds one value.
    pub(super) fn record(&self, value: Duration) {
        let secs = value.as_secs_f64();
        let bucket = BOUNDS_SECS.partition_point(|bound| *bound < secs);
        let part = self.0.own();
        if let Some(count) = part.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        part.sum_ns.fetch_add(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Number of values that were added.
    pub(super) fn count(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// Its contents now.
    pub(super) fn distribution(&self) -> Distribution {
        let sum_ns: u64 = self.0.all().map(|part| part.sum_ns.load(Ordering::Relaxed)).sum();
        Distribution {
            bounds: &BOUNDS_SECS,
            counts: self.counts().into(),
            sum_secs: Duration::from_nanos(sum_ns).as_secs_f64(),
        }
    }

    fn counts(&self) -> [u64; BOUNDS_SECS.len() + 1] {
        let mut counts = [0; BOUNDS_SECS.len() + 1];
        for part in self.0.all() {
            for (count, of_part) in counts.iter_mut().zip(&part.counts) {
                *count += of_part.load(Ordering::Relaxed);
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_threads_are_read() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..100).for_each(|_| histogram.record(Duration::from_millis(1))));
            }
        });
        assert_eq!(histogram.count(), 2_000);
        assert!((histogram.distribution().sum_secs - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_value_is_counted_in_every_bucket_that_reaches_it() {
        let histogram = Histogram::default();
        for micros in [0, 25, 26, 5_000, 5_001, 10_000_000, 10_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let distribution = histogram.distribution();
        let at_most = |bound: f64| {
            let buckets = distribution.bounds.iter().zip(&distribution.counts);
            buckets.take_while(|(upper, _)| **upper <= bound).map(|(_, count)| count).sum::<u64>()
        };
        assert_eq!([0.000_025, 0.000_05, 0.005, 0.01, 10.0].map(at_most), [2, 3, 4, 5, 6]);
        assert_eq!((distribution.count(), histogram.count()), (7, 7));
        assert!((distribution.sum_secs - 20.010_053).abs() < 1e-9, "{}", distribution.sum_secs);
    }

    #[test]
    fn the_reference_s_buckets_are_all_there() {
        for bound in [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0] {
            assert!(BOUNDS_SECS.contains(&bound), "{bound}");
        }
        assert!(BOUNDS_SECS.is_sorted());
    }
}

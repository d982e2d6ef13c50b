//! A histogram of durations that any number of cores add to without waiting for each other.
//!
//! `prometheus::Histogram` keeps its sum as a float behind a compare-and-swap loop and touches three
//! shared words for each value. This one adds two integers: the count is the sum of the buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds: envoyproxy/ratelimit's, and before them those that tell times below its
/// first one apart.
const BOUNDS_SECS: [f64; 22] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_15, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.002, 0.003, 0.005,
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Histogram of durations.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// One for each bound, and one for what is above them all; not cumulative.
    counts: [AtomicU64; BOUNDS_SECS.len() + 1],
    sum_ns: AtomicU64,
}

/// Contents of a histogram at one time.
#[derive(Debug, PartialEq)]
pub(super) struct Snapshot {
    /// Upper bounds in seconds and how many values lie at or below each.
    pub(super) buckets: Vec<(f64, u64)>,
    /// Number of values.
    pub(super) count: u64,
    /// All of them together, in seconds.
    pub(super) sum_secs: f64,
}

impl Histogram {
    /// Adds one value.
    pub(super) fn record(&self, value: Duration) {
        let secs = value.as_secs_f64();
        let bucket = BOUNDS_SECS.partition_point(|bound| *bound < secs);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Number of values that were added.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Its contents now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let mut up_to = |of_bucket: &AtomicU64| {
            count += of_bucket.load(Ordering::Relaxed);
            count
        };
        // The last count has no bound: it only adds to the whole.
        let buckets = BOUNDS_SECS.into_iter().zip(self.counts.iter().map(&mut up_to)).collect();
        let above = self.counts.last().map_or(0, |above| above.load(Ordering::Relaxed));
        let sum_secs = Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64();
        Snapshot { buckets, count: count + above, sum_secs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_every_bucket_that_reaches_it() {
        let histogram = Histogram::default();
        for micros in [0, 25, 26, 5_000, 5_001, 10_000_000, 10_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let Snapshot { buckets, count, sum_secs } = histogram.snapshot();
        let at = |bound: f64| buckets.iter().find(|(b, _)| *b == bound).map(|(_, count)| *count);
        assert_eq!(at(0.000_025), Some(2));
        assert_eq!(at(0.000_05), Some(3));
        assert_eq!(at(0.005), Some(4));
        assert_eq!(at(0.01), Some(5));
        assert_eq!(at(10.0), Some(6));
        assert_eq!((count, histogram.count()), (7, 7));
        assert!((sum_secs - 20.010_053).abs() < 1e-9, "{sum_secs}");
    }

    #[test]
    fn the_reference_s_buckets_are_all_there() {
        for bound in [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0] {
            assert!(BOUNDS_SECS.contains(&bound), "{bound}");
        }
        assert!(BOUNDS_SECS.is_sorted());
    }
}

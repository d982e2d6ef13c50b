//! Round trips of a connection: the time from sending a batch to its last reply, of the last minute.

use std::array;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Buckets: four for each power of two. The first ends at 20 µs, the last has everything from some 3.7 s.
const BUCKETS: usize = 72;
/// Bits of the smallest duration that is not in the first bucket, 16 µs.
const MIN_BITS: u32 = 4;
/// Time after which counts begin anew: those of the time before are kept beside them.
const PERIOD_SECS: u64 = 30;

/// Round trips of one connection, which one task records.
#[derive(Debug)]
pub(super) struct RoundTrips {
    begun: Instant,
    /// Number of the period of the latest round trip.
    period: AtomicU64,
    current: [AtomicU32; BUCKETS],
    before: [AtomicU32; BUCKETS],
}

/// Numbers of round trips by their bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTripCounts([u64; BUCKETS]);

/// Round trips of a node in the last minute. Quantiles are up to a quarter too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLatency {
    /// Batches of calls.
    pub batches: u64,
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
}

impl Default for RoundTripCounts {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl RoundTrips {
    pub(super) fn new(now: Instant) -> Self {
        let counts = || array::from_fn(|_| AtomicU32::new(0));
        Self { begun: now, period: AtomicU64::new(0), current: counts(), before: counts() }
    }

    fn period_of(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_secs() / PERIOD_SECS
    }

    /// Records one that ends `now`. Only one task may.
    pub(super) fn record(&self, took: Duration, now: Instant) {
        let period = self.period_of(now);
        let last = self.period.load(Ordering::Relaxed);
        if period != last {
            for (before, current) in self.before.iter().zip(&self.current) {
                let ended = current.load(Ordering::Relaxed);
                before.store(if period == last + 1 { ended } else { 0 }, Ordering::Relaxed);
                current.store(0, Ordering::Relaxed);
            }
            self.period.store(period, Ordering::Relaxed);
        }
        if let Some(count) = self.current.get(bucket(took)) {
            count.store(count.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Adds those of the last 30 to 60 seconds to `counts`.
    pub(super) fn add_to(&self, counts: &mut RoundTripCounts, now: Instant) {
        let age = self.period_of(now).saturating_sub(self.period.load(Ordering::Relaxed));
        let recent: &[_] = match age {
            0 => &[&self.current, &self.before],
            1 => &[&self.current],
            _ => &[],
        };
        for own in recent {
            for (sum, count) in counts.0.iter_mut().zip(own.iter()) {
                *sum += u64::from(count.load(Ordering::Relaxed));
            }
        }
    }
}

impl RoundTripCounts {
    /// Quantiles; `None` without a round trip.
    pub(super) fn latency(&self) -> Option<NodeLatency> {
        let batches: u64 = self.0.iter().sum();
        let quantile = |percent: u64| {
            let rank = (batches * percent).div_ceil(100);
            let mut below = 0;
            let at = self.0.iter().position(|count| {
                below += count;
                below >= rank
            });
            at.map(end)
        };
        if batches == 0 {
            return None;
        }
        Some(NodeLatency { batches, p50: quantile(50)?, p99: quantile(99)? })
    }
}

/// Bucket of a duration.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1 << MIN_BITS);
    let bits = micros.ilog2();
    // The two bits behind the first one.
    let quarter = (micros >> (bits - 2)) & 3;
    let at = u64::from(bits - MIN_BITS) * 4 + quarter;
    usize::try_from(at).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// End of a bucket.
fn end(bucket: usize) -> Duration {
    let (bits, quarter) = (bucket / 4, bucket as u64 % 4);
    Duration::from_micros((quarter + 5) << bits << (MIN_BITS - 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_duration_is_below_the_end_of_its_bucket_and_less_than_a_fifth_below_unless_it_is_short() {
        for took in [0, 1, 15, 16, 19, 20, 23, 31, 32, 40, 999, 1_000, 10_000, 123_456, 3_000_000] {
            let found = end(bucket(micros(took)));
            assert!(micros(took) < found, "{took}");
            assert!(took < 16 || found <= micros(took) * 5 / 4, "{took}: {found:?}");
            assert!(bucket(found) == bucket(micros(took)) + 1, "{took}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_minute_counts_and_what_is_older_does_not() {
        let trips = RoundTrips::new(Instant::now());
        let latency = || {
            let mut counts = RoundTripCounts::default();
            trips.add_to(&mut counts, Instant::now());
            counts.latency()
        };
        assert_eq!(latency(), None);
        for number in 0..100 {
            trips.record(micros(if number < 98 { 100 } else { 5_000 }), Instant::now());
        }
        let slow = NodeLatency { batches: 100, p50: micros(112), p99: micros(5_120) };
        assert_eq!(latency(), Some(slow));
        tokio::time::advance(Duration::from_secs(35)).await;
        assert_eq!(latency(), Some(slow), "an idle connection keeps them for a while");
        trips.record(micros(100), Instant::now());
        assert_eq!(latency().map(|latency| latency.batches), Some(101));
        tokio::time::advance(Duration::from_secs(30)).await;
        trips.record(micros(100), Instant::now());
        assert_eq!(latency(), Some(NodeLatency { batches: 2, p50: micros(112), p99: micros(112) }));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(latency(), None);
        trips.record(micros(100), Instant::now());
        assert_eq!(latency().map(|latency| latency.batches), Some(1));
    }
}

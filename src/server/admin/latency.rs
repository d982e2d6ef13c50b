//! Latencies of the last minute, from histograms that only grow.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::server::schema::replies;
use crate::telemetry::metrics::model::Distribution;

/// Number of samples: with one every 10 seconds, the oldest is a minute old.
const MAX_SAMPLES: usize = 7;

replies! {
    /// Latencies of the last minute. Quantiles are interpolated within the buckets of a histogram.
    struct LatencyView {
        /// Calls in this time.
        calls: u64,
        /// Median in seconds.
        p50_secs: f64,
        /// 99th percentile in seconds.
        p99_secs: f64,
    }
}

/// Samples of a histogram, newest last.
#[derive(Debug, Default)]
pub(super) struct Latency(Mutex<VecDeque<Distribution>>);

impl Latency {
    /// Adds a sample, and drops the oldest one if there are too many.
    pub(super) fn tick(&self, sample: Distribution) {
        let mut samples = self.0.lock();
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Latencies between the oldest sample and the newest; `None` if there were no calls.
    pub(super) fn latest(&self) -> Option<LatencyView> {
        let samples = self.0.lock();
        let recent = samples.back()?.since(samples.front()?);
        let view = |p50_secs, p99_secs| LatencyView { calls: recent.count(), p50_secs, p99_secs };
        Some(view(recent.quantile(0.5)?, recent.quantile(0.99)?))
    }
}

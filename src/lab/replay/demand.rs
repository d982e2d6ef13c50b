//! Demand of each key in each window, as a histogram: what share of it a limit would deny.

/// Values up to here have a bucket each.
const LINEAR: u64 = 64;
/// Ratio of two bounds of the others.
const GROWTH: f64 = 1.03;

/// Histogram of the hits that one key asked for in one window.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    buckets: Vec<Bucket>,
    windows: u64,
    hits: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    windows: u64,
    hits: u64,
}

/// Bucket of a value.
fn index(value: u64) -> usize {
    if value <= LINEAR {
        return usize::try_from(value).unwrap_or_default();
    }
    let steps = (value as f64 / LINEAR as f64).ln() / GROWTH.ln();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a few thousand")]
    let steps = steps as usize;
    steps + 1 + usize::try_from(LINEAR).unwrap_or_default()
}

impl Demand {
    /// Adds a window in which a key asked for `hits`.
    pub(super) fn add(&mut self, hits: u64) {
        let index = index(hits);
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, Bucket::default());
        }
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.windows += 1;
            bucket.hits += hits;
        }
        self.windows += 1;
        self.hits += hits;
    }

    /// Demand of the window at `share` of all windows, smallest first: 0.99 for p99.
    pub(super) fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.windows as f64 * share).ceil();
        let mut seen = 0;
        for bucket in &self.buckets {
            seen += bucket.windows;
            if bucket.windows > 0 && seen as f64 >= wanted {
                return bucket.hits.div_ceil(bucket.windows);
            }
        }
        0
    }

    /// Share of all hits beyond `limit` in their window.
    pub(super) fn denied_share(&self, limit: u64) -> f64 {
        let beyond = |bucket: &Bucket| bucket.hits.saturating_sub(bucket.windows.saturating_mul(limit));
        let denied: u64 = self.buckets.iter().map(beyond).sum();
        denied as f64 / self.hits.max(1) as f64
    }

    /// Smallest limit that denies at most `share` of the hits. `None` without hits.
    pub(super) fn limit_for(&self, share: f64) -> Option<u64> {
        let last = self.buckets.last().filter(|_| self.hits > 0)?;
        let (mut low, mut high) = (1, last.hits.div_ceil(last.windows.max(1)).max(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.denied_share(middle) <= share {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Some(low)
    }

    /// Windows by their demand in percent of `capacity`, ten percent to a class; the last class is over 100 %.
    pub(super) fn by_use(&self, capacity: u64) -> [u64; 11] {
        let mut classes = [0; 11];
        for bucket in self.buckets.iter().filter(|bucket| bucket.windows > 0) {
            let mean = bucket.hits.div_ceil(bucket.windows);
            let class = mean.saturating_mul(10).div_ceil(capacity.max(1)).saturating_sub(1).min(10);
            if let Some(windows) = usize::try_from(class).ok().and_then(|class| classes.get_mut(class)) {
                *windows += bucket.windows;
            }
        }
        classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_for_a_share_is_the_smallest_that_denies_no_more() {
        let mut demand = Demand::default();
        assert_eq!((demand.limit_for(0.0), demand.quantile(0.99)), (None, 0));
        // 99 windows of 1 to 50 hits in turn, and one of 1,000.
        let windows: Vec<u64> = (0..99).map(|n| n % 50 + 1).chain([1_000]).collect();
        windows.iter().for_each(|hits| demand.add(*hits));
        let total: u64 = windows.iter().sum();
        let denied = |limit: u64| windows.iter().map(|hits| hits.saturating_sub(limit)).sum::<u64>();
        for share in [0.0, 0.001, 0.01, 0.2, 0.5, 0.9] {
            let limit = demand.limit_for(share).expect("there are hits");
            assert!(denied(limit) as f64 / total as f64 <= share, "{share}: {limit}");
            assert!(limit == 1 || denied(limit - 1) as f64 / total as f64 > share, "{share}: {limit}");
        }
        assert_eq!((demand.quantile(0.5), demand.quantile(1.0)), (25, 1_000));
        assert_eq!(demand.by_use(50)[10], 1);
        assert_eq!(demand.by_use(50).iter().sum::<u64>(), 100);
    }

    #[test]
    fn large_values_are_off_by_three_percent_at_most() {
        for value in [65, 100, 999, 12_345, u64::from(u32::MAX)] {
            let mut demand = Demand::default();
            demand.add(value);
            demand.add(value + value / 50);
            let found = demand.limit_for(0.0).expect("there are hits");
            assert!(found.abs_diff(value) <= value * 3 / 100 + 1, "{found} for {value}");
            assert!(index(value) < 1_000);
        }
    }
}

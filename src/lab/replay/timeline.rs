//! Counts over time, in a bounded number of intervals that grow with the log.

use serde::{Serialize, Serializer};

use crate::engine::Timestamp;

/// Upper bound on the intervals.
const MAX_INTERVALS: usize = 480;

/// Counts of intervals of equal length.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    /// Start of the first interval, in seconds since the epoch; a multiple of the length.
    start_secs: u64,
    /// Length of an interval.
    interval_secs: u64,
    intervals: Vec<Interval>,
}

/// Counts of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) requests: u64,
    pub(super) denied: u64,
    /// By the other rules.
    pub(super) denied_against: u64,
}

impl Timeline {
    /// The interval of `now`, which is not before the first one.
    pub(super) fn at(&mut self, now: Timestamp) -> &mut Interval {
        if self.intervals.is_empty() {
            (self.start_secs, self.interval_secs) = (now.as_secs(), 1);
        }
        let mut index = self.index(now);
        while index >= MAX_INTERVALS {
            self.widen();
            index = self.index(now);
        }
        if self.intervals.len() <= index {
            self.intervals.resize(index + 1, Interval::default());
        }
        &mut self.intervals[index]
    }

    fn index(&self, now: Timestamp) -> usize {
        usize::try_from(now.as_secs().saturating_sub(self.start_secs) / self.interval_secs)
            .unwrap_or(usize::MAX)
    }

    /// Doubles the intervals.
    fn widen(&mut self) {
        let length = self.interval_secs * 2;
        let offset = usize::from(!self.start_secs.is_multiple_of(length));
        self.start_secs -= self.start_secs % length;
        self.interval_secs = length;
        let mut wide = vec![Interval::default(); (self.intervals.len() + offset).div_ceil(2)];
        for (index, interval) in self.intervals.iter().enumerate() {
            let sum = &mut wide[(index + offset) / 2];
            sum.requests += interval.requests;
            sum.denied += interval.denied;
            sum.denied_against += interval.denied_against;
        }
        self.intervals = wide;
    }

    /// Length of an interval in seconds.
    pub(super) const fn interval_secs(&self) -> u64 {
        self.interval_secs
    }

    /// Start of each interval, in seconds since the epoch, and its counts.
    pub(super) fn intervals(&self) -> impl Iterator<Item = (u64, Interval)> {
        let starts = (0..).map(|index| self.start_secs + index * self.interval_secs);
        starts.zip(self.intervals.iter().copied())
    }
}

impl Serialize for Timeline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written {
            interval_secs: u64,
            intervals: Vec<WrittenInterval>,
        }
        #[derive(Serialize)]
        struct WrittenInterval {
            start_secs: u64,
            requests: u64,
            denied: u64,
            denied_against: u64,
        }
        let intervals = self.intervals().map(|(start_secs, interval)| {
            let Interval { requests, denied, denied_against } = interval;
            WrittenInterval { start_secs, requests, denied, denied_against }
        });
        Written { interval_secs: self.interval_secs, intervals: intervals.collect() }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_grow_and_lose_nothing() {
        let mut timeline = Timeline::default();
        for secs in (1_001..200_000).step_by(7) {
            timeline.at(Timestamp::from_secs(secs)).requests += 1;
        }
        let intervals: Vec<_> = timeline.intervals().collect();
        assert!(intervals.len() <= MAX_INTERVALS && intervals.len() > MAX_INTERVALS / 3);
        assert_eq!(
            intervals.iter().map(|(_, interval)| interval.requests).sum::<u64>(),
            (200_000 - 1_001) / 7 + 1
        );
        let length = timeline.interval_secs();
        for (start, interval) in &intervals[1..intervals.len() - 1] {
            assert!(interval.requests.abs_diff(length / 7) <= 1, "{start}: {interval:?}");
        }
    }
}

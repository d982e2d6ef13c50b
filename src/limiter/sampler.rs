//! At most one log line a second.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::Timestamp;
use crate::engine::per_core::CoreCount;

/// Upper bound on how late an event may be. Later ones mean that the clock was set back.
const LATE_SECS: u64 = 60;

/// Admits the first event of each second. Shared by cores without a lock: a load and, where nothing is logged,
/// an addition to this core's count.
#[derive(Debug)]
pub struct Sampler {
    /// The second of the last line, since the epoch; [`u64::MAX`] before the first.
    last_secs: AtomicU64,
    /// Events since then without a line.
    unlogged: CoreCount,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// A sampler that has logged nothing yet.
    pub const fn new() -> Self {
        Self { last_secs: AtomicU64::new(u64::MAX), unlogged: CoreCount::new() }
    }

    /// Admits an event at `now`, and returns the number of those that were not logged since the last line;
    /// `None` where this one is not logged either. No event is lost from the count.
    pub(super) fn admit(&self, now: Timestamp) -> Option<u64> {
        let last = self.last_secs.load(Ordering::Relaxed);
        let is_first = last.checked_sub(now.as_secs()).is_none_or(|behind| behind > LATE_SECS);
        let mine = || {
            let (old, new) = (last, now.as_secs());
            self.last_secs.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        if is_first && mine() {
            return Some(self.unlogged.take());
        }
        self.unlogged.add(1);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_a_second_is_logged_with_the_number_of_those_that_were_not() {
        let sampler = Sampler::default();
        for (at_ms, expected) in [
            (0, Some(0)),
            (1, None),
            (999, None),
            (1_000, Some(2)),
            (999, None),
            (1_500, None),
            (7_000, Some(2)),
            (7_000, None),
            (8_999, Some(1)),
            (9_000, Some(0)),
        ] {
            let now = Timestamp::default().after(Duration::from_millis(at_ms));
            assert_eq!(sampler.admit(now), expected, "{at_ms}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nothing_for_long() {
        let sampler = Sampler::default();
        let admit = |secs| sampler.admit(Timestamp::from_secs(secs));
        assert_eq!(admit(1_000), Some(0));
        assert_eq!((admit(999), admit(940)), (None, None), "late");
        assert_eq!(admit(939), Some(2), "set back");
        assert_eq!(admit(940), Some(0));
    }

    #[test]
    fn of_cores_that_meet_one_logs_and_all_are_counted() {
        const CORES: usize = 4;
        const EACH: u64 = 1_000;
        let sampler = Sampler::default();
        let logged: u64 = std::thread::scope(|scope| {
            let core = || (0..EACH).filter(|_| sampler.admit(Timestamp::from_secs(7)).is_some()).count();
            let cores: Vec<_> = (0..CORES).map(|_| scope.spawn(core)).collect();
            cores.into_iter().map(|core| core.join().expect("it counts") as u64).sum()
        });
        assert_eq!(logged, 1);
        assert_eq!(sampler.admit(Timestamp::from_secs(8)), Some(CORES as u64 * EACH - 1));
    }
}

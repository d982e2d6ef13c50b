//! Due times of requests at a fixed rate, independent of the answers. No I/O, no clock: times are relative to
//! the start of the run.

use std::time::Duration;

/// Due times of one thread: every n-th of evenly spaced requests, for n threads.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    per_second: u32,
    next: u64,
    stride: u64,
    length: Duration,
}

impl Schedule {
    /// Schedule of thread `index` of `threads`, in a run of `length` with `per_second` requests per second, at
    /// least 1.
    pub(super) fn new(per_second: u32, index: usize, threads: usize, length: Duration) -> Self {
        debug_assert!(per_second > 0 && index < threads);
        Self { per_second, next: index as u64, stride: threads as u64, length }
    }

    /// Due time of the next request; `None` at the end of the run.
    pub(super) fn peek(&self) -> Option<Duration> {
        let nanos = u128::from(self.next) * 1_000_000_000 / u128::from(self.per_second);
        // An overflow is more than five centuries away.
        let due = Duration::from_nanos(u64::try_from(nanos).ok()?);
        (due < self.length).then_some(due)
    }

    /// Advances to the next request.
    pub(super) fn advance(&mut self) {
        self.next += self.stride;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn due_times(mut schedule: Schedule) -> Vec<Duration> {
        let next = || {
            let due = schedule.peek();
            schedule.advance();
            due
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn requests_are_due_at_equal_distances() {
        let millis = |due_times: Vec<Duration>| due_times.iter().map(Duration::as_millis).collect::<Vec<_>>();
        let half = Duration::from_millis(500);
        assert_eq!(millis(due_times(Schedule::new(10, 0, 1, half))), [0, 100, 200, 300, 400]);
        assert_eq!(millis(due_times(Schedule::new(10, 1, 2, half))), [100, 300]);
        assert_eq!(millis(due_times(Schedule::new(1, 1, 2, half))), []);
    }

    proptest! {
        #[test]
        fn threads_share_every_request_of_the_rate(
            per_second in 1_u32..5_000,
            threads in 1_usize..9,
            millis in 1_u64..3_000,
        ) {
            let length = Duration::from_millis(millis);
            let results = (0..threads).map(|index| due_times(Schedule::new(per_second, index, threads, length)));
            let mut all: Vec<_> = results.flatten().collect();
            all.sort();
            let alone = due_times(Schedule::new(per_second, 0, 1, length));
            prop_assert_eq!(&all, &alone);
            // The number is exact: none is missing at the end, and none is added.
            let expected = (u128::from(millis) * u128::from(per_second)).div_ceil(1_000);
            prop_assert_eq!(all.len() as u128, expected);
        }
    }
}

//! Waits between attempts: exponential, with jitter.

use std::time::Duration;

/// Settings of a back-off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffSettings {
    /// First wait.
    pub initial: Duration,
    /// First wait after an attempt to connect that failed.
    pub initial_unconnected: Duration,
    /// Longest wait; at least as long as both first waits.
    pub max: Duration,
    /// Factor by which each wait is longer than the previous one; at least 1.
    pub factor: f64,
    /// True if a wait is shortened by a random part of up to half of it.
    pub jitter: bool,
}

/// Number of attempts without success, and the waits that follow from it.
#[derive(Debug)]
pub(super) struct Backoff {
    settings: BackoffSettings,
    failures: i32,
}

impl Backoff {
    pub(super) const fn new(settings: BackoffSettings) -> Self {
        Self { settings, failures: 0 }
    }

    /// Makes the next wait a first wait again.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Wait before the next attempt; `random` is a number from 0 to 1.
    pub(super) fn next(&mut self, is_connected: bool, random: f64) -> Duration {
        let BackoffSettings { initial, initial_unconnected, max, factor, jitter } = self.settings;
        let initial = if is_connected { initial } else { initial_unconnected };
        let grown = initial.as_secs_f64() * factor.powi(self.failures);
        self.failures = self.failures.saturating_add(1);
        let wait = Duration::try_from_secs_f64(grown).unwrap_or(max).min(max);
        if jitter { jittered(wait, random) } else { wait }
    }

    /// The longest wait, for an error that another attempt is unlikely to end.
    pub(super) fn longest(&self, random: f64) -> Duration {
        let BackoffSettings { max, jitter, .. } = self.settings;
        if jitter { jittered(max, random) } else { max }
    }
}

/// Duration between half of `wait` and `wait`, so never close to zero.
pub(super) fn jittered(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BackoffSettings = BackoffSettings {
        initial: Duration::from_millis(500),
        initial_unconnected: Duration::from_secs(3),
        max: Duration::from_secs(30),
        factor: 2.0,
        jitter: false,
    };

    fn waits(backoff: &mut Backoff, is_connected: bool, count: usize) -> Vec<f64> {
        (0..count).map(|_| backoff.next(is_connected, 0.0).as_secs_f64()).collect()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again() {
        let mut backoff = Backoff::new(SETTINGS);
        assert_eq!(waits(&mut backoff, true, 8), [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        backoff.reset();
        assert_eq!(waits(&mut backoff, false, 5), [3.0, 6.0, 12.0, 24.0, 30.0]);
        assert_eq!(waits(&mut backoff, true, 3000).last(), Some(&30.0));
    }

    #[test]
    fn jitter_shortens_a_wait_by_up_to_half() {
        for (random, expected) in [(0.0, 0.25), (0.5, 0.375), (1.0, 0.5)] {
            let mut backoff = Backoff::new(BackoffSettings { jitter: true, ..SETTINGS });
            assert_eq!(backoff.next(true, random).as_secs_f64(), expected);
        }
    }
}

//! The measured window: from the end of the warm-up to the end of the run. No I/O, no clock.

use std::time::Duration;

use tokio::time::Instant;

/// Half-open interval of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    from: Instant,
    until: Instant,
}

impl Window {
    /// Window of this start and length.
    pub(super) fn new(from: Instant, length: Duration) -> Self {
        Self { from, until: from + length }
    }

    /// Start.
    pub(super) fn from(&self) -> Instant {
        self.from
    }

    /// End.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// True if no further request may start.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// True if a request that is due at this time counts, whenever it ends. Requests of the warm-up do not.
    pub(super) fn counts(&self, begun: Instant) -> bool {
        begun >= self.from
    }

    /// True if the window contains this time.
    pub(super) fn contains(&self, moment: Instant) -> bool {
        self.from <= moment && !self.is_over(moment)
    }

    /// The window, cut off at `now`.
    pub(super) fn cut(self, now: Instant) -> Self {
        Self { until: self.until.min(now), ..self }
    }

    /// Length; zero if the run ended before the window began.
    pub(super) fn length(&self) -> Duration {
        self.until.saturating_duration_since(self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_moment_is_in_it_from_its_beginning_to_before_its_end() {
        let from = Instant::now() + SECOND;
        let window = Window::new(from, 4 * SECOND);
        for (moment, contains, counts) in [
            (from - SECOND, false, false),
            (from, true, true),
            (from + 3 * SECOND, true, true),
            (from + 4 * SECOND, false, true),
        ] {
            assert_eq!((window.contains(moment), window.counts(moment)), (contains, counts), "{moment:?}");
        }
    }

    #[test]
    fn a_stopped_window_is_never_longer() {
        let from = Instant::now() + SECOND;
        let window = Window::new(from, 4 * SECOND);
        for (now, length) in
            [(from - SECOND, Duration::ZERO), (from + SECOND, SECOND), (from + 9 * SECOND, 4 * SECOND)]
        {
            let cut = window.cut(now);
            assert_eq!(cut.length(), length, "{now:?}");
            assert!(!cut.contains(now) && cut.is_over(now), "{now:?}");
        }
    }
}

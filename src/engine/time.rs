//! Time as the engine counts it: whole microseconds, the resolution of Redis' `TIME`.

use std::time::Duration;

const MICROS_PER_SECOND: u64 = 1_000_000;

/// A point in time: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// `micros` microseconds after the epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// `secs` seconds after the epoch; the end of time where that is too far to count.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(MICROS_PER_SECOND))
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / MICROS_PER_SECOND
    }

    /// `later` after this; the end of time where that is too far to count.
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero where it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// The windows that time is cut into for one limit: equally long, the first one beginning at the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    secs: u32,
}

impl Window {
    /// Windows of `secs` seconds each; a zero is taken as one second.
    pub const fn of_secs(secs: u32) -> Self {
        Self { secs: if secs == 0 { 1 } else { secs } }
    }

    /// The length of a window, in seconds: at least 1.
    pub const fn secs(self) -> u32 {
        self.secs
    }

    /// The beginning of the window that `now` lies in, in seconds since the epoch.
    pub const fn start_secs(self, now: Timestamp) -> u64 {
        let secs = now.as_secs();
        secs - secs % self.secs as u64
    }

    /// How long after `now` the next window begins: more than zero, a window's length at the most.
    pub const fn remaining(self, now: Timestamp) -> Duration {
        Timestamp::from_secs(self.start_secs(now).saturating_add(self.secs as u64)).since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_at_or_before_now_and_ends_after_it() {
        for (secs, now_us, start, remaining_us) in [
            (1, 1_234_000_000, 1234, 1_000_000),
            (60, 1_234_000_000, 1200, 26_000_000),
            (60, 1_259_999_999, 1200, 1),
            (60, 1_260_000_000, 1260, 60_000_000),
            (3600, 1_000_000_000_000, 997_200, 800_000_000),
            (86_400, 1_000_000_000_000, 950_400, 36_800_000_000),
        ] {
            let (window, now) = (Window::of_secs(secs), Timestamp::from_micros(now_us));
            assert_eq!(window.start_secs(now), start, "{secs} s at {now_us}");
            assert_eq!(window.remaining(now), Duration::from_micros(remaining_us), "{secs} s at {now_us}");
        }
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let now = Timestamp::from_micros(u64::MAX);
        assert!(Window::of_secs(31_536_000).remaining(now) <= Duration::from_secs(31_536_000));
        assert_eq!(Timestamp::from_secs(u64::MAX).as_micros(), u64::MAX);
    }
}

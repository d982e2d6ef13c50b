//! Times and windows of the engine, in whole microseconds, the resolution of Redis' `TIME`.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike as _};

use super::Calendar;

const MICROS_PER_SECOND: u64 = 1_000_000;

/// A point in time: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// `micros` microseconds after the epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// `secs` seconds after the epoch; saturates.
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

    /// Time `later` after this one; saturates.
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to this one; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC, with microseconds: `2026-11-16T12:34:56.000789Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.as_secs();
        let date =
            i64::try_from(secs).ok().and_then(|secs| DateTime::from_timestamp(secs, 0)).unwrap_or_default();
        let (year, month, day) = (date.year(), date.month(), date.day());
        let (hour, minute, second) = (secs / 3_600 % 24, secs / 60 % 60, secs % 60);
        let micros = self.0 % MICROS_PER_SECOND;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// Windows of a limit: of equal length, counted from the epoch, or those of a [`Calendar`].
///
/// Every counter in memory has one, so it is packed into one number: below 2^31 it is the length in seconds,
/// from there on a calendar.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window(u32);

/// Bit that marks a calendar.
const CALENDAR: u32 = 1 << 31;

enum Kind {
    /// At least 1.
    Secs(u32),
    Calendar(Calendar),
}

impl Window {
    /// Windows of `secs` seconds, clamped to 1 to 2^31 - 1 (68 years).
    pub const fn of_secs(secs: u32) -> Self {
        match secs {
            0 => Self(1),
            1..CALENDAR => Self(secs),
            CALENDAR.. => Self(CALENDAR - 1),
        }
    }

    /// Windows of `calendar`. Their lengths differ, so only the fixed window algorithm can use them.
    pub const fn of_calendar(calendar: Calendar) -> Self {
        Self(CALENDAR | calendar.to_bits())
    }

    const fn kind(self) -> Kind {
        match self.0 {
            0..CALENDAR => Kind::Secs(self.0),
            CALENDAR.. => Kind::Calendar(Calendar::from_bits(self.0 - CALENDAR)),
        }
    }

    /// Calendar of the windows; `None` for windows of equal length.
    pub const fn calendar(self) -> Option<Calendar> {
        match self.kind() {
            Kind::Secs(_) => None,
            Kind::Calendar(calendar) => Some(calendar),
        }
    }

    /// Length of the longest window, in seconds; at least 1.
    pub const fn secs(self) -> u32 {
        match self.kind() {
            Kind::Secs(secs) => secs,
            Kind::Calendar(calendar) => calendar.secs_max(),
        }
    }

    /// Start of the window that contains `now`, in seconds since the epoch.
    pub fn start_secs(self, now: Timestamp) -> u64 {
        match self.kind() {
            Kind::Secs(window_secs) => now.as_secs() - now.as_secs() % u64::from(window_secs),
            Kind::Calendar(calendar) => calendar.window_secs(now.as_secs()).start,
        }
    }

    /// End of the window that starts at `start_secs`, both in seconds since the epoch.
    pub fn end_secs(self, start_secs: u64) -> u64 {
        match self.kind() {
            Kind::Secs(window_secs) => start_secs.saturating_add(u64::from(window_secs)),
            Kind::Calendar(calendar) => calendar.window_secs(start_secs).end,
        }
    }

    /// Time from `now` to the next window: more than zero, at most [`Self::secs`].
    pub fn remaining(self, now: Timestamp) -> Duration {
        let end_secs = match self.kind() {
            Kind::Secs(_) => self.end_secs(self.start_secs(now)),
            Kind::Calendar(calendar) => calendar.window_secs(now.as_secs()).end,
        };
        Timestamp::from_secs(end_secs).since(now)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Kind::Secs(secs) => write!(f, "Window({secs} s)"),
            Kind::Calendar(calendar) => write!(f, "Window({calendar:?})"),
        }
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
    fn a_time_is_written_as_rfc_3339() {
        for (micros, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_794_832_496_000_789, "2026-11-16T12:34:56.000789Z"),
            (1_709_251_199_999_999, "2024-02-29T23:59:59.999999Z"),
        ] {
            assert_eq!(Timestamp::from_micros(micros).to_string(), expected);
        }
        assert!(!Timestamp::from_micros(u64::MAX).to_string().is_empty());
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let now = Timestamp::from_micros(u64::MAX);
        assert!(Window::of_secs(31_536_000).remaining(now) <= Duration::from_secs(31_536_000));
        assert_eq!(Timestamp::from_secs(u64::MAX).as_micros(), u64::MAX);
        for (secs, length) in [(0, 1), (1, 1), (u32::MAX / 2, u32::MAX / 2), (u32::MAX, u32::MAX / 2)] {
            let window = Window::of_secs(secs);
            assert_eq!((window.secs(), window.calendar()), (length, None));
        }
    }
}

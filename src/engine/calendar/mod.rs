//! Calendar windows: days, weeks, months and years in a time zone.
//!
//! A date begins at its first instant: at midnight, at the end of a gap that skips midnight, or at the first
//! midnight if it occurs twice. A period begins with its first date and ends where the next period begins, so
//! periods neither overlap nor leave gaps. If clocks are set back over midnight, the repeated time belongs to
//! the date that has already begun.
//!
//! The time zone database ([`database_version`]) is compiled in. From 2100 on it has no further changes of
//! clocks.

use std::fmt;
use std::ops::Range;

use chrono::{DateTime, Datelike as _, Days, LocalResult, Months, NaiveDate, NaiveTime, TimeZone as _};
use chrono_tz::{GapInfo, TZ_VARIANTS, Tz};

use super::Unit;

/// Last second of the year 9999, in UTC. Later windows do not follow a calendar.
const LAST_SECS: u64 = 253_402_300_799;
/// Upper bound, in seconds, on how far clocks were set back in any zone since 1970: by seven hours, at Vostok.
const SET_BACK_SECS_MAX: u32 = 8 * 3_600;
/// Similarity from which a name is suggested.
const LIKENESS_MIN: f64 = 0.6;
/// Shortest name with suggestions. Short ones, such as `PST`, are similar to too many others.
const ALIKE_BYTES_MIN: usize = 5;

/// Windows of one period in one zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Calendar {
    /// Length of a window.
    pub period: Period,
    /// Time zone.
    pub zone: Zone,
}

/// Length of calendar windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// Seven days from Monday, as in ISO 8601.
    Week,
    /// From the first of a month.
    Month,
    /// From the first of January.
    Year,
}

/// Time zone of the IANA database. Aliases are distinct zones.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Zone {
    /// Index in [`TZ_VARIANTS`].
    index: u16,
}

/// The release of the time zone database that is compiled in: `2025b`.
pub const fn database_version() -> &'static str {
    chrono_tz::IANA_TZDB_VERSION
}

impl Calendar {
    /// Upper bound on the length of a window, in seconds: 1, 7, 31 or 366 days, and eight hours for clocks that
    /// are set back.
    pub const fn secs_max(self) -> u32 {
        self.period.days_max() * 86_400 + SET_BACK_SECS_MAX
    }

    /// The calendar as a number below 2^18.
    pub(super) const fn to_bits(self) -> u32 {
        let period = match self.period {
            Period::Day => 0,
            Period::Week => 1,
            Period::Month => 2,
            Period::Year => 3,
        };
        (period << 16) | self.zone.index as u32
    }

    /// The calendar whose number is `bits`.
    pub(super) const fn from_bits(bits: u32) -> Self {
        let period = match bits >> 16 {
            0 => Period::Day,
            1 => Period::Week,
            2 => Period::Month,
            _ => Period::Year,
        };
        Self { period, zone: Zone { index: (bits & 0xffff) as u16 } }
    }

    /// Window that contains `now_secs`, from its start to the start of the next one, in seconds since the
    /// epoch. The first window begins at the epoch. After the year 9999 windows are those of [`Unit::window`].
    pub fn window_secs(self, now_secs: u64) -> Range<u64> {
        let by_calendar = i64::try_from(now_secs.min(LAST_SECS)).ok().and_then(|now| self.window(now));
        match by_calendar.filter(|_| now_secs <= LAST_SECS) {
            Some(Range { start, end }) => {
                let window = start.max(0).unsigned_abs()..end.max(0).unsigned_abs();
                debug_assert!(window.contains(&now_secs), "{self:?} at {now_secs}: {window:?}");
                window
            }
            None => {
                let length = u64::from(self.period.unit().window().secs());
                let start = now_secs - now_secs % length;
                start..start.saturating_add(length)
            }
        }
    }

    /// `None` for times outside of chrono's range.
    fn window(self, now: i64) -> Option<Range<i64>> {
        let date = DateTime::from_timestamp(now, 0)?.with_timezone(&self.zone.tz()).date_naive();
        let first = self.period.first_date(date)?;
        let next = self.period.next_date(first)?;
        let end = self.zone.first_instant(next)?;
        if end <= now {
            // The next period had begun when the clocks were set back into this one.
            return Some(end..self.zone.first_instant(self.period.next_date(next)?)?);
        }
        Some(self.zone.first_instant(first)?..end)
    }
}

impl Period {
    /// Every period, shortest first.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Year];

    /// Period of `unit`; `None` for units shorter than a day.
    pub const fn of_unit(unit: Unit) -> Option<Self> {
        match unit {
            Unit::Second | Unit::Minute | Unit::Hour => None,
            Unit::Day => Some(Self::Day),
            Unit::Week => Some(Self::Week),
            Unit::Month => Some(Self::Month),
            Unit::Year => Some(Self::Year),
        }
    }

    /// Unit in Envoy's protocol.
    pub const fn unit(self) -> Unit {
        match self {
            Self::Day => Unit::Day,
            Self::Week => Unit::Week,
            Self::Month => Unit::Month,
            Self::Year => Unit::Year,
        }
    }

    const fn days_max(self) -> u32 {
        match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => 31,
            Self::Year => 366,
        }
    }

    /// First date of the period that contains `date`.
    fn first_date(self, date: NaiveDate) -> Option<NaiveDate> {
        match self {
            Self::Day => Some(date),
            Self::Week => date.checked_sub_days(Days::new(date.weekday().num_days_from_monday().into())),
            Self::Month => date.with_day(1),
            Self::Year => NaiveDate::from_ymd_opt(date.year(), 1, 1),
        }
    }

    /// The first date of the period after the one that begins on `first`.
    fn next_date(self, first: NaiveDate) -> Option<NaiveDate> {
        match self {
            Self::Day => first.succ_opt(),
            Self::Week => first.checked_add_days(Days::new(7)),
            Self::Month => first.checked_add_months(Months::new(1)),
            Self::Year => NaiveDate::from_ymd_opt(first.year() + 1, 1, 1),
        }
    }
}

impl Zone {
    /// The zone of this name, spelt as in the database: `Europe/Berlin`, `UTC`.
    pub fn from_name(name: &str) -> Option<Self> {
        name.parse().ok().map(Self::of)
    }

    const fn of(tz: Tz) -> Self {
        Self { index: tz as u16 }
    }

    fn tz(self) -> Tz {
        TZ_VARIANTS.get(usize::from(self.index)).copied().unwrap_or_default()
    }

    /// The name, at most 32 letters, digits, slashes, underscores and signs.
    pub fn name(self) -> &'static str {
        self.tz().name()
    }

    /// Every zone, by its name.
    pub fn all() -> impl Iterator<Item = Self> {
        TZ_VARIANTS.iter().copied().map(Self::of)
    }

    /// Zone whose name, or last part of the name such as the city, is most similar to `name`; `None` if none is
    /// similar.
    pub fn nearest(name: &str) -> Option<Self> {
        let name = name.trim().replace(' ', "_").to_lowercase();
        let likeness = |zone: Self| {
            let known = zone.name().to_lowercase();
            let place = known.rsplit('/').next().unwrap_or_default();
            let like = |known| strsim::normalized_damerau_levenshtein(&name, known);
            like(&known).max(like(place))
        };
        let likeness_min = if name.len() < ALIKE_BYTES_MIN { 1.0 } else { LIKENESS_MIN };
        let known = Self::all().map(|zone| (likeness(zone), zone));
        known
            .filter(|(like, _)| *like >= likeness_min)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, zone)| zone)
    }

    /// First instant of `date`, or of the next date if clocks skip it, in seconds since the epoch.
    fn first_instant(self, date: NaiveDate) -> Option<i64> {
        let midnight = date.and_time(NaiveTime::MIN);
        let tz = self.tz();
        let instant = match tz.from_local_datetime(&midnight) {
            LocalResult::Single(instant) | LocalResult::Ambiguous(instant, _) => instant,
            LocalResult::None => GapInfo::new(&midnight, &tz)?.end?,
        };
        Some(instant.timestamp())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;

//! The calendar: days, weeks, months and years as the clocks of a time zone show them.
//!
//! A date begins at its first instant, wherever clocks are set: where midnight is left out, that is the end
//! of what is left out; where midnight comes twice, it is the first. A period begins with its first date and
//! ends where the next period begins, so that periods follow each other without a gap and never overlap.
//! What the clocks say of a date that has begun already, after they were set back over midnight, belongs to
//! that date's period.
//!
//! The rules of all zones are compiled in, as the time zone database of [`database_version`] has them. From
//! 2100 on, clocks are taken to stay as they are.

use std::fmt;
use std::ops::Range;

use chrono::{DateTime, Datelike as _, Days, LocalResult, Months, NaiveDate, NaiveTime, TimeZone as _};
use chrono_tz::{GapInfo, TZ_VARIANTS, Tz};

use super::Unit;

/// The last second of the year 9999, in UTC: up to here there are calendars.
const LAST_SECS: u64 = 253_402_300_799;
/// In no zone clocks were ever set back by more since 1970, in seconds. The most was seven hours, at Vostok.
const SET_BACK_SECS_MAX: u32 = 8 * 3_600;
/// A name that is less like a zone's is not taken for it.
const LIKENESS_MIN: f64 = 0.6;
/// Shorter names are like too many others, such as `PST` like `EST`.
const ALIKE_BYTES_MIN: usize = 5;

/// Windows of one period in one zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Calendar {
    /// What a window is.
    pub period: Period,
    /// Where it is so.
    pub zone: Zone,
}

/// What a calendar cuts time into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// Seven days from Monday on, as in ISO 8601.
    Week,
    /// From the first of a month on.
    Month,
    /// From the first of January on.
    Year,
}

/// A time zone of the IANA database. Names that mean the same are zones of their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Zone {
    /// Its place in [`TZ_VARIANTS`].
    index: u16,
}

/// The release of the time zone database that is compiled in: `2025b`.
pub const fn database_version() -> &'static str {
    chrono_tz::IANA_TZDB_VERSION
}

impl Calendar {
    /// How long no window exceeds, in seconds: eight hours more than a day, seven, 31 or 366 of them, for
    /// clocks that are set back.
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

    /// The window that the second `now_secs` lies in, from its beginning up to the beginning of the next; all
    /// in seconds since the epoch. The first window begins at the epoch. After the year 9999 windows are
    /// those of [`Unit::window`].
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

    /// `None` where chrono cannot tell.
    fn window(self, now: i64) -> Option<Range<i64>> {
        let date = DateTime::from_timestamp(now, 0)?.with_timezone(&self.zone.tz()).date_naive();
        let first = self.period.first_date(date)?;
        let next = self.period.next_date(first)?;
        let end = self.zone.first_instant(next)?;
        if end <= now {
            // The next one had begun when the clocks were set back into this.
            return Some(end..self.zone.first_instant(self.period.next_date(next)?)?);
        }
        Some(self.zone.first_instant(first)?..end)
    }
}

impl Period {
    /// Every period, shortest first.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Year];

    /// The period that `unit` is in a calendar. No calendar says what shorter ones are.
    pub const fn of_unit(unit: Unit) -> Option<Self> {
        match unit {
            Unit::Second | Unit::Minute | Unit::Hour => None,
            Unit::Day => Some(Self::Day),
            Unit::Week => Some(Self::Week),
            Unit::Month => Some(Self::Month),
            Unit::Year => Some(Self::Year),
        }
    }

    /// What Envoy calls it.
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

    /// The first date of the period that `date` lies in.
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

    /// The zone that `name` is most like, where it is like one: the whole of its name or its last part, such
    /// as a city's.
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

    /// When its clocks show `date` for the first time or, where they leave it out, a later one; in seconds
    /// since the epoch.
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

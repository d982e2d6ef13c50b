//! The calendar compared with local clocks: on known days on which clocks were changed, and at random instants.

use std::time::Duration;

use chrono::{NaiveDateTime, Offset as _, Weekday};
use proptest::prelude::*;

use super::*;
use crate::engine::{Timestamp, Window};

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// Zones whose clocks are changed at various hours of the night, or never. One zone skipped a day.
const ZONES: [&str; 11] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Pacific/Apia",
    "Asia/Beirut",
    "America/Havana",
    "America/St_Johns",
    "Antarctica/Vostok",
];

fn calendar(period: Period, zone: &str) -> Calendar {
    Calendar { period, zone: Zone::from_name(zone).expect("a zone") }
}

/// Seconds since the epoch of a UTC time such as `2024-03-31 00:00`.
fn utc(text: &str) -> u64 {
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").expect("a time");
    u64::try_from(time.and_utc().timestamp()).expect("after the epoch")
}

/// Local time in `zone`, derived from UTC only.
fn clock(zone: Zone, at: u64) -> NaiveDateTime {
    let utc = DateTime::from_timestamp(i64::try_from(at).expect("soon"), 0).expect("a time").naive_utc();
    utc + zone.tz().offset_from_utc_datetime(&utc).fix()
}

/// Offset of `zone` from UTC, in seconds.
fn ahead(zone: Zone, at: u64) -> i64 {
    clock(zone, at).and_utc().timestamp() - i64::try_from(at).expect("soon")
}

#[test]
fn days_are_as_long_as_the_clocks_make_them() {
    for (zone, start, hours, why) in [
        ("UTC", "2024-03-31 00:00", 24, "nothing changes"),
        ("Europe/Berlin", "2024-03-29 23:00", 24, "the day before summer time"),
        ("Europe/Berlin", "2024-03-30 23:00", 23, "02:00 becomes 03:00"),
        ("Europe/Berlin", "2024-03-31 22:00", 24, "the day after"),
        ("Europe/Berlin", "2024-10-26 22:00", 25, "03:00 becomes 02:00"),
        ("America/New_York", "2024-03-10 05:00", 23, "02:00 becomes 03:00"),
        ("America/New_York", "2024-11-03 04:00", 25, "02:00 becomes 01:00"),
        ("Asia/Kolkata", "2024-05-04 18:30", 24, "half an hour, the whole year"),
        ("America/Sao_Paulo", "2018-11-03 03:00", 24, "the day before 00:00 becomes 01:00"),
        ("America/Sao_Paulo", "2018-11-04 03:00", 23, "it begins at 01:00"),
        ("America/Sao_Paulo", "2019-02-16 02:00", 25, "it ends when 00:00 becomes 23:00 for the first time"),
        ("America/Sao_Paulo", "2019-02-17 03:00", 24, "the day after"),
        ("Africa/Cairo", "2024-04-25 22:00", 23, "it begins at 01:00"),
        ("Africa/Cairo", "2024-10-30 21:00", 25, "24:00 becomes 23:00"),
        ("Asia/Beirut", "2024-03-30 22:00", 23, "it begins at 01:00"),
        ("Asia/Beirut", "2024-10-25 21:00", 25, "it ends when 00:00 becomes 23:00"),
        ("America/Havana", "2024-11-03 04:00", 25, "midnight comes twice, as 01:00 becomes 00:00"),
        ("America/Havana", "2024-03-10 05:00", 23, "it begins at 01:00"),
        ("America/St_Johns", "2006-10-28 02:30", 24, "00:01 of the next day becomes 23:01 of this"),
        ("America/St_Johns", "2006-10-29 02:30", 25, "the repeated hour belongs to this day"),
        ("Pacific/Apia", "2011-12-29 10:00", 24, "the 29th, the last before"),
        ("Pacific/Apia", "2011-12-30 10:00", 24, "the 31st: there was no 30th"),
    ] {
        let (day, start) = (calendar(Period::Day, zone), utc(start));
        let window = start..start + hours * HOUR;
        for now in [start, start + 1, start + 23 * HOUR - 1, window.end - 1] {
            assert_eq!(day.window_secs(now), window, "{zone}: {why}, at {now}");
        }
        assert_eq!(day.window_secs(start - 1).end, start, "{zone}: {why}, before it");
        assert_eq!(day.window_secs(window.end).start, window.end, "{zone}: {why}, after it");
    }
}

#[test]
fn weeks_begin_on_monday_and_months_and_years_on_their_first() {
    for (period, zone, now, start, end) in [
        (Period::Week, "UTC", "2024-02-29 12:00", "2024-02-26 00:00", "2024-03-04 00:00"),
        (Period::Week, "UTC", "2024-03-03 23:59", "2024-02-26 00:00", "2024-03-04 00:00"),
        (Period::Week, "UTC", "2025-01-01 00:00", "2024-12-30 00:00", "2025-01-06 00:00"),
        (Period::Week, "Europe/Berlin", "2024-03-31 21:59", "2024-03-24 23:00", "2024-03-31 22:00"),
        (Period::Week, "Pacific/Apia", "2011-12-30 10:00", "2011-12-26 10:00", "2012-01-01 10:00"),
        (Period::Month, "UTC", "2024-02-29 23:59", "2024-02-01 00:00", "2024-03-01 00:00"),
        (Period::Month, "UTC", "2100-02-28 23:59", "2100-02-01 00:00", "2100-03-01 00:00"),
        (Period::Month, "Europe/Berlin", "2024-10-15 00:00", "2024-09-30 22:00", "2024-10-31 23:00"),
        (Period::Month, "Asia/Kolkata", "2024-12-31 18:30", "2024-12-31 18:30", "2025-01-31 18:30"),
        (Period::Year, "UTC", "2024-12-31 23:59", "2024-01-01 00:00", "2025-01-01 00:00"),
        (Period::Year, "America/New_York", "2025-01-01 04:59", "2024-01-01 05:00", "2025-01-01 05:00"),
        (Period::Year, "Pacific/Apia", "2011-12-31 09:59", "2011-01-01 10:00", "2011-12-31 10:00"),
    ] {
        let window = calendar(period, zone).window_secs(utc(now));
        assert_eq!(window, utc(start)..utc(end), "{period:?} in {zone} at {now}");
    }
}

#[test]
fn time_has_windows_from_its_beginning_to_its_end() {
    for zone in ZONES {
        for period in Period::ALL {
            let window = Window::of_calendar(calendar(period, zone));
            assert_eq!(window.start_secs(Timestamp::from_secs(0)), 0, "the year 1969 is not counted in");
            for secs in [0, LAST_SECS - 1, LAST_SECS, LAST_SECS + 1, u64::MAX / 1_000_000, u64::MAX] {
                let range = calendar(period, zone).window_secs(secs);
                assert!(range.start <= secs && secs <= range.end, "{zone} at {secs}: {range:?}");
                assert!(range.end - range.start <= window.secs().into(), "{zone} at {secs}: {range:?}");
            }
            assert!(window.remaining(Timestamp::from_micros(u64::MAX)) <= Duration::from_secs(DAY * 366));
        }
    }
}

/// A zone and an instant, often close to a change of the zone's clocks.
fn instant() -> impl Strategy<Value = (Zone, u64)> {
    let zone = prop::sample::select(&ZONES[..]).prop_map(|name| Zone::from_name(name).expect("a zone"));
    let any_time = 0..utc("2101-01-01 00:00");
    (zone, any_time, any::<bool>(), 0..50 * HOUR).prop_map(|(zone, at, near_change, later)| {
        if !near_change {
            return (zone, at);
        }
        let day = at / DAY;
        let ahead = |day| ahead(zone, day * DAY);
        let change = (day..day + 400).find(|day| ahead(*day) != ahead(day + 1)).unwrap_or(day);
        (zone, (change * DAY + later).saturating_sub(12 * HOUR))
    })
}

/// True if `at` is the first second at which the clocks of `zone` show its date or a later one.
fn begins_its_date(zone: Zone, at: u64) -> bool {
    let date = clock(zone, at).date();
    // Shorter than any period that a clock repeats after it is set back.
    (at.saturating_sub(26 * HOUR)..at)
        .step_by(20 * 60)
        .chain([at - 1])
        .all(|before| clock(zone, before).date() < date)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn windows_contain_now_tile_time_and_begin_at_the_first_instant_of_their_period(
        (zone, now) in instant(),
        micros in 0..1_000_000_u64,
        period in prop::sample::select(&Period::ALL[..]),
    ) {
        let calendar = Calendar { period, zone };
        let window = Window::of_calendar(calendar);
        let now = Timestamp::from_micros(now * 1_000_000 + micros);
        let (start, remaining) = (window.start_secs(now), window.remaining(now));
        let end = window.end_secs(start);
        prop_assert!(start <= now.as_secs() && !remaining.is_zero());
        prop_assert_eq!(now.after(remaining), Timestamp::from_secs(end));
        prop_assert!(end - start <= window.secs().into());
        for other in [start, start + (end - start) / 2, end - 1] {
            prop_assert_eq!(calendar.window_secs(other), start..end, "one window, at {}", other);
        }
        prop_assert_eq!(calendar.window_secs(end).start, end, "no gap");
        for start in [start, end].into_iter().filter(|start| *start > 0) {
            let shown = clock(zone, start);
            prop_assert!(begins_its_date(zone, start), "{} {}", zone.name(), shown);
            let before = clock(zone, start - 1).date();
            let first = match period {
                Period::Day => true,
                // The first date of a period may have been skipped when clocks were changed.
                Period::Week => shown.weekday() == Weekday::Mon || before.iso_week() < shown.date().iso_week(),
                Period::Month => shown.day() == 1 || before.month() != shown.month(),
                Period::Year => shown.ordinal() == 1,
            };
            prop_assert!(first, "{} {}", zone.name(), shown);
        }
    }
}

#[test]
fn no_window_of_any_zone_is_longer_than_its_bound() {
    let last = utc("2040-01-01 00:00");
    for zone in Zone::all() {
        let is_set = |at: &u64, within: u64| ahead(zone, *at) != ahead(zone, at + within);
        for week in (0..last).step_by(604_800).filter(|at| is_set(at, 7 * DAY)) {
            let mut days = (week..week + 7 * DAY).step_by(86_400);
            let Some(at) = days.find(|at| is_set(at, DAY)) else { continue };
            for period in Period::ALL {
                let calendar = Calendar { period, zone };
                for now in [at, at + DAY / 2, at + DAY] {
                    let Range { start, end } = calendar.window_secs(now);
                    assert!(
                        end - start <= calendar.secs_max().into(),
                        "{period:?} in {} at {now}",
                        zone.name()
                    );
                    assert_eq!(
                        calendar.window_secs(end).start,
                        end,
                        "{period:?} in {} at {now}",
                        zone.name()
                    );
                }
            }
        }
    }
}

#[test]
fn zones_are_known_by_their_names_alone() {
    let mut len = 0;
    for tz in TZ_VARIANTS {
        let (zone, name) = (Zone::of(tz), tz.name());
        assert_eq!((zone.name(), Zone::from_name(name)), (name, Some(zone)));
        for period in Period::ALL {
            let calendar = Calendar { period, zone };
            assert_eq!(Window::of_calendar(calendar).calendar(), Some(calendar));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
        assert!(name.len() <= 32 && name.chars().all(plain), "{name}");
        len += 1;
    }
    assert!(len > 500, "{len}");
}

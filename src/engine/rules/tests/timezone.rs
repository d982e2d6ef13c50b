//! Calendar windows: days, weeks, months and years in a time zone.

use super::limits::limit;
use super::loading::{check, with_fields, with_limit};
use super::{load, try_load};
use crate::engine::{Algorithm, Calendar, Limit, Period, Unit, Window, Zone};

/// A limit of nine in the time zone `timezone`, with further fields.
fn in_zone(timezone: &str, fields: &str) -> String {
    with_limit(&format!("timezone: {timezone}, requests_per_unit: 9, {fields}"))
}

#[test]
fn with_a_time_zone_a_unit_is_a_period_of_the_calendar() {
    for timezone in ["UTC", "Europe/Berlin", "America/Argentina/ComodRivadavia", "Etc/GMT+12", "EST5EDT"] {
        for (name, period, unit) in [
            ("day", Period::Day, Unit::Day),
            ("WEEK", Period::Week, Unit::Week),
            ("Month", Period::Month, Unit::Month),
            ("year", Period::Year, Unit::Year),
        ] {
            let zone = Zone::from_name(timezone).expect("a zone");
            let text = in_zone(timezone, &format!("unit: {name}"));
            let window = Window::of_calendar(Calendar { period, zone });
            let expected = Limit { requests_per_unit: 9, window, algorithm: Algorithm::FixedWindow };
            assert_eq!(limit(&text), expected, "{text}");
            assert_eq!(limit(&text).unit(), Some(unit), "{text}");
            assert!(limit(&text).ttl_secs() > Limit::per(9, unit).ttl_secs(), "{text}");
        }
    }
    let named = in_zone("Asia/Kolkata", "unit: day, algorithm: fixed_window");
    assert_eq!(limit(&format!("defaults: {{algorithm: gcra}}\n{named}")), limit(&named));
}

#[test]
fn unknown_and_misplaced_time_zones_are_errors() {
    for (timezone, expected) in [
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("utc", "did you mean 'UTC'?"),
        ("Rome", "did you mean 'Europe/Rome'?"),
        ("new york", "did you mean 'America/New_York'?"),
        ("America/NewYork", "did you mean 'America/New_York'?"),
        ("PST", "write a name of the IANA database (20"),
        ("+02:00", "write a name of the IANA database (20"),
        ("''", "write a name of the IANA database (20"),
    ] {
        let text = in_zone(timezone, "unit: day");
        check(&text, &format!("4:28 unknown time zone '{}': {expected}", timezone.trim_matches('\'')));
    }
    for unit in ["second", "minute", "hour"] {
        let text = in_zone("UTC", &format!("unit: {unit}"));
        check(&text, &format!("4:28 'timezone' has no effect on a {unit}: write 'unit: day', 'week',"));
    }
    check(&in_zone("UTC", "window: 1d"), "4:28 'timezone' is for the days, weeks, months and years of a");
    check(&in_zone("UTC", "unit: fortnight"), "4:61 invalid rate limit unit 'fortnight'");
    check(&in_zone("UTC", "unit: day, window: 1d"), "4:74 'unit' and 'window' both set the window");
    check(&with_limit("unlimited: true, timezone: UTC"), "4:45 'timezone' has no effect when unlimited");
    check(&with_limit("unit: day, timezone: [UTC]"), "4:39 error checking config: 'timezone' must be text");
    check(&with_fields("    timezone: UTC\n"), "4:5 config error, 'timezone' does not belong here");
}

#[test]
fn calendar_windows_are_fixed_windows() {
    for algorithm in ["sliding_window", "sliding_log", "token_bucket"] {
        let fixed = "'timezone' is for a fixed_window, and";
        let text = in_zone("UTC", &format!("unit: day, algorithm: {algorithm}"));
        let named = format!("4:28 {fixed} this is a {algorithm}: write 'algorithm: fixed_window', or leave");
        check(&text, &named);
        let text = format!("defaults: {{algorithm: {algorithm}}}\n{}", in_zone("UTC", "unit: day"));
        let inherited = format!(
            "5:28 {fixed} 'defaults' make this a {algorithm}: write 'algorithm: fixed_window' beside"
        );
        check(&text, &inherited);
    }
    let wrong = in_zone("Mars/Olympus", "unit: hour, algorithm: gcra");
    let mistakes = try_load(&wrong).expect_err("three mistakes").reported;
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
}

#[test]
fn the_rules_in_force_show_their_time_zones() {
    let shown = |text: &str| {
        let dump = load(text).dump_json();
        let limit = &dump["rules"][0]["rate_limit"];
        [&limit["unit"], &limit["timezone"], &limit["window_secs"]].map(ToString::to_string)
    };
    assert_eq!(shown(&in_zone("Asia/Kolkata", "unit: week")), ["\"WEEK\"", "\"Asia/Kolkata\"", "null"]);
    assert_eq!(shown(&with_limit("requests_per_unit: 9, unit: week")), ["\"WEEK\"", "null", "604800"]);
}

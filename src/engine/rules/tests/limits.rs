//! Limits that envoyproxy/ratelimit does not have: other windows, other algorithms, and short forms.

use super::loading::{check, with_fields, with_limit};
use super::{entries, load, try_load};
use crate::engine::rules::Quota;
use crate::engine::{Algorithm, Calendar, Limit, Period, Unit, Window, Zone};

/// The limit of the one rule in `text`.
fn limit(text: &str) -> Limit {
    let rules = load(text);
    let domain = rules.domain(b"d").expect("its domain");
    match domain.find(&entries("k=v")).expect("a rule").rule.quota {
        Quota::Limited(limit) => limit,
        Quota::Unlimited => panic!("unlimited"),
    }
}

fn expect(text: &str, requests_per_unit: u32, secs: u32, algorithm: Algorithm) {
    let expected = Limit { requests_per_unit, window: Window::of_secs(secs), algorithm };
    assert_eq!(limit(text), expected, "{text}");
}

#[test]
fn windows_have_any_length_up_to_ten_years() {
    for (window, secs) in [
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5_400),
        ("12h", 43_200),
        ("2d", 172_800),
        ("1w", 604_800),
        ("3650d", 315_360_000),
    ] {
        let text = with_limit(&format!("requests_per_unit: 7, window: {window}"));
        expect(&text, 7, secs, Algorithm::FixedWindow);
    }
    for (window, expected) in [
        ("0s", "it must be at least a second long"),
        ("3651d", "it must be at most ten years long"),
        ("99999999999999999999s", "write a time"),
        ("15", "write a time such as 90s, 15m"),
        ("m", "write a time"),
        ("15 m", "write a time"),
        ("1M", "write a time"),
        ("-1s", "write a time"),
        ("1.5h", "write a time"),
        ("ü", "write a time"),
    ] {
        let text = with_limit(&format!("requests_per_unit: 7, window: \"{window}\""));
        check(&text, &format!("4:48 invalid window '{window}': {expected}"));
    }
    check(
        &with_limit("requests_per_unit: 1, unit: day, window: 1d"),
        "4:59 'unit' and 'window' say the same thing",
    );
    check(&with_limit("requests_per_unit: 1"), "4:17 invalid rate limit unit ''");
}

#[test]
fn a_limit_can_be_written_short() {
    for (short, requests, secs) in
        [("60/minute", 60, 60), ("100/15m", 100, 900), ("1000/HOUR", 1_000, 3_600), ("0/day", 0, 86_400)]
    {
        expect(&with_fields(&format!("    rate_limit: {short}\n")), requests, secs, Algorithm::FixedWindow);
    }
    for short in ["60", "60/", "/minute", "many/minute", "-1/minute", "60/fortnight", "60 / minute", "60/0s"]
    {
        let text = with_fields(&format!("    rate_limit: {short}\n"));
        check(&text, "4:17 error checking config: 'rate_limit' must be a map, or short such as 60/minute");
    }
}

#[test]
fn algorithms_are_named_for_a_limit_or_for_a_whole_file() {
    for (name, algorithm) in [
        ("fixed_window", Algorithm::FixedWindow),
        ("sliding_window", Algorithm::SlidingWindow),
        ("sliding_log", Algorithm::SlidingLog),
        ("token_bucket", Algorithm::TokenBucket { burst: 9 }),
        ("gcra", Algorithm::TokenBucket { burst: 9 }),
        ("leaky_bucket", Algorithm::TokenBucket { burst: 9 }),
    ] {
        let fields = format!("requests_per_unit: 9, unit: hour, algorithm: {name}");
        expect(&with_limit(&fields), 9, 3_600, algorithm);
        let of_file = with_limit("requests_per_unit: 9, unit: hour");
        expect(&format!("defaults: {{algorithm: {name}}}\n{of_file}"), 9, 3_600, algorithm);
        let short = with_fields("    rate_limit: 9/hour\n");
        expect(&format!("defaults: {{algorithm: {name}}}\n{short}"), 9, 3_600, algorithm);
    }
    let overridden = with_limit("requests_per_unit: 9, unit: hour, algorithm: fixed_window");
    expect(&format!("defaults: {{algorithm: gcra}}\n{overridden}"), 9, 3_600, Algorithm::FixedWindow);
    check(
        &with_limit("requests_per_unit: 9, unit: hour, algorithm: sliding"),
        "4:63 error checking config: 'algorithm' must be fixed_window, sliding_window, sliding_log, token_bucket, \
         gcra or leaky_bucket, not 'sliding'",
    );
}

#[test]
fn a_bucket_holds_a_burst_and_nothing_else_does() {
    let bucket = |burst| format!("requests_per_unit: 9, unit: hour, algorithm: token_bucket, burst: {burst}");
    expect(&with_limit(&bucket(20)), 9, 3_600, Algorithm::TokenBucket { burst: 20 });
    expect(&with_limit(&bucket(1)), 9, 3_600, Algorithm::TokenBucket { burst: 1 });
    check(&with_limit(&bucket(0)), "4:84 a 'burst' of 0 lets nothing pass");
    for algorithm in ["fixed_window", "sliding_window", "sliding_log"] {
        let fields = format!("burst: 20, requests_per_unit: 9, unit: hour, algorithm: {algorithm}");
        check(
            &with_limit(&fields),
            &format!("4:25 'burst' is for a token_bucket, and this is a {algorithm}"),
        );
    }
    check(&with_limit("unlimited: true, burst: 3"), "4:42 'burst' means nothing when unlimited");
    check(&with_limit("unlimited: true, window: 3s"), "4:43 'window' means nothing when unlimited");
}

#[test]
fn a_limit_that_cannot_be_counted_exactly_is_refused() {
    check(
        &with_limit("requests_per_unit: 10001, unit: hour, algorithm: sliding_log"),
        "4:17 a sliding_log remembers every request, and so takes up to 10000",
    );
    expect(
        &with_limit("requests_per_unit: 10000, unit: hour, algorithm: sliding_log"),
        10_000,
        3_600,
        Algorithm::SlidingLog,
    );
    for algorithm in ["sliding_window", "token_bucket"] {
        check(
            &with_limit(&format!("requests_per_unit: 4000000000, unit: year, algorithm: {algorithm}")),
            &format!("4:17 4000000000 requests in so long a window are too many for a {algorithm}"),
        );
    }
    expect(
        &with_limit("requests_per_unit: 4000000000, unit: year"),
        4_000_000_000,
        31_536_000,
        Algorithm::FixedWindow,
    );
}

/// A limit of nine in the time zone `timezone`, with further fields.
fn in_zone(timezone: &str, fields: &str) -> String {
    with_limit(&format!("timezone: {timezone}, requests_per_unit: 9, {fields}"))
}

#[test]
fn a_unit_is_the_calendars_where_a_time_zone_is_named() {
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
            assert!(limit(&text).memory_secs() > Limit::per(9, unit).memory_secs(), "{text}");
        }
    }
    let named = in_zone("Asia/Kolkata", "unit: day, algorithm: fixed_window");
    assert_eq!(limit(&format!("defaults: {{algorithm: gcra}}\n{named}")), limit(&named));
}

#[test]
fn a_time_zone_is_one_and_stands_where_it_means_something() {
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
        check(&text, &format!("4:28 'timezone' means nothing for a {unit}: write 'unit: day', 'week',"));
    }
    check(&in_zone("UTC", "window: 1d"), "4:28 'timezone' is for the days, weeks, months and years of a");
    check(&in_zone("UTC", "unit: fortnight"), "4:61 invalid rate limit unit 'fortnight'");
    check(&in_zone("UTC", "unit: day, window: 1d"), "4:74 'unit' and 'window' say the same thing");
    check(&with_limit("unlimited: true, timezone: UTC"), "4:45 'timezone' means nothing when unlimited");
    check(&with_limit("unit: day, timezone: [UTC]"), "4:39 error checking config: 'timezone' must be text");
    check(&with_fields("    timezone: UTC\n"), "4:5 config error, 'timezone' does not belong here");
}

#[test]
fn a_calendars_windows_are_fixed_ones() {
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
    let mistakes = try_load(&wrong).expect_err("three mistakes").0;
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

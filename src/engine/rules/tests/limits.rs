//! Limits that envoyproxy/ratelimit does not have: other windows, other algorithms, and short forms.

use super::loading::{check, with_fields, with_limit};
use super::{entries, load};
use crate::engine::lockout::{Block, LockoutSchedule};
use crate::engine::{Algorithm, Limit, Window};

/// The limit of the one rule in `text`.
pub(super) fn limit(text: &str) -> Limit {
    let rules = load(text);
    let domain = rules.domain(b"d").expect("its domain");
    domain.find(&entries("k=v")).expect("a rule").rule.limits().first().expect("a limit").limit
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
        ("15 m", 900),
        ("2 hours", 7_200),
        ("1 day 12 hrs", 129_600),
        ("45secs", 45),
        ("month", 2_592_000),
        ("2 years", 63_072_000),
    ] {
        let text = with_limit(&format!("requests_per_unit: 7, window: {window}"));
        expect(&text, 7, secs, Algorithm::FixedWindow);
    }
    for (window, expected) in [
        ("0s", "it must be at least a second long"),
        ("3651d", "it must be at most ten years long"),
        ("99999999999999999999s", "write a time"),
        ("15", "write a time such as 90s, 15m"),
        ("fortnight", "write a time"),
        ("1h 1x", "write a time"),
        ("1h hour", "write a time"),
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
        "4:59 'unit' and 'window' both set the window",
    );
    check(&with_limit("requests_per_unit: 1"), "4:17 invalid rate limit unit ''");
}

#[test]
fn a_limit_can_be_written_short() {
    for (short, requests, secs) in [
        ("60/minute", 60, 60),
        ("100/15m", 100, 900),
        ("1000/HOUR", 1_000, 3_600),
        ("0/day", 0, 86_400),
        ("10/s", 10, 1),
        ("10/sec", 10, 1),
        ("10/m", 10, 60),
        ("10/min", 10, 60),
        ("10/h", 10, 3_600),
        ("10/d", 10, 86_400),
        ("10/w", 10, 604_800),
        ("10/months", 10, 2_592_000),
        ("10 / 2 hours", 10, 7_200),
    ] {
        expect(&with_fields(&format!("    rate_limit: {short}\n")), requests, secs, Algorithm::FixedWindow);
    }
    for (short, expected) in [
        ("60", "write REQUESTS/TIME such as 10/s, 60/minute or 100/15m"),
        ("60/", "write a time such as 90s"),
        ("/minute", "write REQUESTS/TIME"),
        ("many/minute", "write REQUESTS/TIME"),
        ("-1/minute", "write REQUESTS/TIME"),
        ("60/fortnight", "write a time such as 90s"),
        ("60/0s", "it must be at least a second long"),
        ("4294967296/s", "at most 4294967295 requests"),
    ] {
        let text = with_fields(&format!("    rate_limit: {short}\n"));
        check(&text, &format!("4:17 error checking config: invalid rate_limit '{short}': {expected}"));
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
    check(&with_limit("unlimited: true, burst: 3"), "4:42 'burst' has no effect when unlimited");
    check(&with_limit("unlimited: true, window: 3s"), "4:43 'window' has no effect when unlimited");
}

#[test]
fn a_limit_that_cannot_be_counted_exactly_is_refused() {
    check(
        &with_limit("requests_per_unit: 10001, unit: hour, algorithm: sliding_log"),
        "4:17 a sliding_log remembers every request: at most 1000 in the store",
    );
    expect(
        &with_limit("requests_per_unit: 1000, unit: hour, algorithm: sliding_log"),
        1_000,
        3_600,
        Algorithm::SlidingLog,
    );
    for algorithm in ["sliding_window", "token_bucket"] {
        check(
            &with_limit(&format!("requests_per_unit: 4000000000, unit: year, algorithm: {algorithm}")),
            &format!(
                "4:17 a {algorithm} cannot count 4000000000 requests exactly in a window of this length"
            ),
        );
    }
    expect(
        &with_limit("requests_per_unit: 4000000000, unit: year"),
        4_000_000_000,
        31_536_000,
        Algorithm::FixedWindow,
    );
}

#[test]
fn several_limits_of_a_rule_are_checked_each_and_together() {
    let several = |limits: &str| with_fields(&format!("    rate_limits: [{limits}]\n"));
    let rules = load(&several("5/minute, {requests_per_unit: 9, unit: hour, name: slow}"));
    let domain = rules.domain(b"d").expect("its domain");
    let limits = domain.find(&entries("k=v")).expect("a rule").rule.limits();
    let found = limits.iter().map(|limit| (limit.limit.requests_per_unit, limit.name.as_deref()));
    assert_eq!(found.collect::<Vec<_>>(), [(5, None), (9, Some("slow"))]);
    for (text, expected) in [
        (several("5/minute, 9/60s"), "4:29 two limits with the same algorithm and window"),
        (several("5/minute, {unlimited: true}"), "4:29 'unlimited' in 'rate_limits'"),
        (several("1/1s, 2/2s, 3/3s, 4/4s, 5/5s, 6/6s, 7/7s, 8/8s, 9/9s"), "4:67 a rule has at most 8 limits"),
        (several("5/minute, 5"), "4:29 error checking config: invalid rate_limits '5': write REQUESTS/TIME"),
        (
            with_fields("    rate_limit: 5/minute\n    rate_limits: [6/hour]\n"),
            "5:18 'rate_limit' and 'rate_limits' in one rule",
        ),
        (
            with_fields("    quota_mode: true\n    rate_limits: [5/minute, 6/hour]\n"),
            "5:29 'quota_mode' is for a rule with one limit",
        ),
        (with_fields("    enforce_percent: 5\n"), "4:22 'enforce_percent' without a limit"),
        (
            with_fields("    enforce_percent: 101\n    rate_limit: 5/minute\n"),
            "4:22 error checking config: 'enforce_percent' must be a number from 0 to 100",
        ),
        (
            with_fields("    enabled: false\n    rate_limit: 5/fortnight\n"),
            "5:17 error checking config: invalid rate_limit '5/fortnight': write a time such as 90s",
        ),
    ] {
        check(&text, expected);
    }
    for nothing in ["", "null"] {
        check(&several(nothing), "4:18 'rate_limits' without a limit has no effect");
    }
    let itself = "{name: a, requests_per_unit: 1, unit: minute}, {requests_per_unit: 1, unit: hour, replaces: [{name: a}]}";
    check(&several(itself), "4:119 replaces should not contain name of same descriptor");
}

#[test]
fn a_penalty_is_a_schedule_of_longer_blocks() {
    let with_penalty =
        |penalty: &str| with_fields(&format!("    rate_limit: 5/minute\n    penalty: {penalty}\n"));
    let schedule = |penalty: &str| {
        let rules = load(&with_penalty(penalty));
        let domain = rules.domain(b"d").expect("its domain");
        LockoutSchedule::clone(
            &domain.find(&entries("k=v")).expect("a rule").rule.penalty.as_ref().expect("a penalty").schedule,
        )
    };
    let expected = LockoutSchedule {
        after: 1,
        within_secs: 60,
        steps: [Block::Secs(900)].as_slice().into(),
        forget_secs: 86_400,
        extend: false,
    };
    assert_eq!(schedule("{block: 15m}"), expected);
    let expected = LockoutSchedule {
        after: 3,
        within_secs: 600,
        steps: [Block::Secs(60), Block::Secs(60), Block::Permanent].as_slice().into(),
        forget_secs: 7_200,
        extend: true,
    };
    assert_eq!(
        schedule("{after: 3, within: 10m, block: [1m, 60s, permanent], forget: 2h, extend: true}"),
        expected
    );
    for (penalty, expected) in [
        ("{after: 1}", "5:14 a penalty needs 'block'"),
        ("{block: []}", "5:14 a penalty needs 'block'"),
        ("{block: [5m, 1m]}", "5:27 the block '1m' is shorter than the one before it"),
        ("{block: [permanent, 1m]}", "5:34 nothing comes after a permanent block"),
        ("{block: forever}", "5:22 invalid block 'forever': write a time such as 90s"),
        ("{block: 0s}", "5:22 invalid block '0s': it must be at least a second long"),
        ("{block: 1m, after: 0}", "5:33 'after' counts denied requests"),
        ("{block: 1m, within: soon}", "5:34 invalid within 'soon'"),
        ("{block: 1m, forget: 0s}", "5:34 invalid forget '0s'"),
        ("{block: 1m, scope: [account]}", "5:33 'scope' names 'account', and this rule has only k"),
        ("{block: 1m, scope: []}", "5:33 'scope' is empty"),
        ("{block: 1m, blocks: 2m}", "5:26 config error, unknown key 'blocks': did you mean 'block'?"),
        (
            "15m",
            "5:14 config error, yaml file contains list of type other than map: 15m; a penalty must be a map",
        ),
    ] {
        check(&with_penalty(penalty), expected);
    }
    check(&with_fields("    penalty: {block: 1m}\n"), "4:14 'penalty' without a limit has no effect");
    let unlimited = "    rate_limit: {unlimited: true}\n    penalty: {block: 1m}\n";
    check(&with_fields(unlimited), "5:14 'penalty' without a limit has no effect");
    let two = |schedule: &str| {
        format!(
            "domain: d\ndescriptors:\n  - {{key: a, rate_limit: 5/minute, penalty: {{block: 1m, name: p, scope: \
             [a]}}}}\n  - key: b\n    descriptors:\n      - {{key: a, rate_limit: 5/minute, penalty: {{{schedule}, \
             name: p, scope: [a]}}}}\n"
        )
    };
    load(&two("block: 1m"));
    check(&two("block: 2m"), "6:49 the lockout 'p' has another schedule at line 3");
}

#[test]
fn max_hits_and_headers_are_checked_and_listed() {
    let rules = load(
        "domain: d\ndescriptors:\n  - key: a\n    headers: none\n    max_hits: 3\n    rate_limit: 5/minute\n    \
         descriptors:\n      - {key: b, rate_limit: 5/minute}\n      - {key: c, headers: all, rate_limit: 5/minute}\n",
    );
    let dump = rules.dump_json();
    let listed = ["d.a", "d.a.b", "d.a.c"].map(|path| {
        let rules = dump["rules"].as_array().expect("a list");
        let rule = rules.iter().find(|rule| rule["path"] == path).expect("the rule");
        (rule["max_hits"].as_u64(), rule["headers"].as_str().expect("a word"))
    });
    assert_eq!(listed, [(Some(3), "none"), (None, "none"), (None, "all")], "headers are inherited");
    assert!(rules.dump_text().contains("max_hits: 3"), "{}", rules.dump_text());
    for (fields, expected) in [
        ("max_hits: 3", "4:15 'max_hits' without a limit has no effect"),
        ("max_hits: 3\n    rate_limit: {unlimited: true}", "4:15 'max_hits' without a limit has no effect"),
        ("max_hits: 0\n    rate_limit: 5/minute", "4:15 'max_hits: 0' denies every request except peeks"),
        (
            "max_hits: some\n    rate_limit: 5/minute",
            "4:15 error checking config: 'max_hits' must be a whole number",
        ),
        (
            "headers: some",
            "4:14 error checking config: 'headers' must be all or none (headers to add belong inside 'on_deny'), not 'some'",
        ),
    ] {
        check(&with_fields(&format!("    {fields}\n")), expected);
    }
}

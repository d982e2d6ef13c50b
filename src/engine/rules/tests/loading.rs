use serde_json::json;

use super::lookup::BASIC;
use super::{entries, file, load, try_load};
use crate::engine::ChargeMode;
use crate::engine::rules::{CompileOptions, compile};

/// The mistakes in `text`: `line:column message`.
pub(super) fn mistakes(text: &str) -> Vec<String> {
    let errors = try_load(text).err().unwrap_or_default().reported;
    errors
        .iter()
        .map(|error| format!("{}:{} {}", error.span.line, error.span.column, error.message))
        .collect()
}

/// The one mistake in `text` begins so.
pub(super) fn check(text: &str, expected: &str) {
    let mistakes = mistakes(text);
    assert!(
        mistakes.len() == 1 && mistakes[0].starts_with(expected),
        "{text}\n{mistakes:#?}\nnot {expected}"
    );
}

/// A file whose one descriptor has these fields besides its key.
pub(super) fn with_fields(fields: &str) -> String {
    format!("domain: d\ndescriptors:\n  - key: k\n{fields}")
}

/// A file whose one rate limit has these fields.
pub(super) fn with_limit(fields: &str) -> String {
    with_fields(&format!("    rate_limit: {{{fields}}}\n"))
}

#[test]
fn domains_and_keys_are_there_and_there_once() {
    check("descriptors: []", "1:1 config file cannot have empty domain");
    check("domain: ''", "1:9 config file cannot have empty domain");
    check("", "0:0 config file cannot have empty domain");
    check("# nothing\n", "0:0 config file cannot have empty domain");
    check("domain: d\ndescriptors:\n  - value: v", "3:5 descriptor has empty key");
    check("domain: d\ndescriptors:\n  - key: ''", "3:5 descriptor has empty key");
    let twice =
        "domain: test-domain\ndescriptors:\n  - {key: key1, value: value1}\n  - {key: key1, value: value1}";
    check(twice, "4:5 duplicate descriptor composite key 'test-domain.key1_value1'");
    let nested = "domain: d\ndescriptors:\n  - key: a\n    descriptors:\n      - key: b\n      - key: b";
    check(nested, "6:9 duplicate descriptor composite key 'd.a.b'");
    let patterns = "domain: d\ndescriptors:\n  - {key: a, value: b*}\n  - {key: a, value: b*}";
    check(patterns, "4:5 duplicate descriptor composite key 'd.a_b*'");
}

#[test]
fn a_domain_is_in_one_file_unless_domains_are_merged() {
    let files = [file("one.yaml", "domain: test-domain"), file("two.yaml", "domain: test-domain")];
    let errors = compile(&files, CompileOptions::default(), None).expect_err("it is there twice");
    assert_eq!(errors.count(), 1);
    assert_eq!(errors.reported[0].source, "two.yaml");
    assert!(
        errors.reported[0].message.starts_with("duplicate domain 'test-domain' in config file"),
        "{errors}"
    );
    check("domain: d\n---\ndomain: d\n", "3:9 duplicate domain 'd' in config file");
}

#[test]
fn units_and_replaces_make_sense() {
    check(
        &with_limit("unit: foo, requests_per_unit: 1"),
        "4:24 invalid rate limit unit 'foo': use one of second",
    );
    check(&with_limit("requests_per_unit: 1"), "4:17 invalid rate limit unit ''");
    check(
        &with_limit("unlimited: true, unit: day"),
        "4:41 should not specify rate limit unit when unlimited",
    );
    let own = with_limit("name: a, unit: day, requests_per_unit: 1, replaces: [{name: b}, {name: a}]");
    check(&own, "4:89 replaces should not contain name of same descriptor");
    let empty = with_limit("name: a, unit: day, requests_per_unit: 1, replaces: [{name: ''}]");
    check(&empty, "4:71 should not have an empty replaces entry");
    check(
        &with_limit("unit: day, requests_per_unit: 1, replaces: [{}]"),
        "4:62 should not have an empty replaces entry",
    );
}

#[test]
fn unknown_fields_are_named_with_the_nearest_known_one() {
    let expect = |text: &str, mistake: &str| check(text, mistake);
    expect(
        &with_fields("    ratelimit: {}\n"),
        "4:5 config error, unknown key 'ratelimit': did you mean 'rate_limit'?",
    );
    expect(
        &with_limit("unit: day, requestsperunit: 1, requests_per_unit: 1"),
        "4:29 config error, unknown key 'requestsperunit': did you mean 'requests_per_unit'?",
    );
    expect(
        &with_limit("unlimied: true, unit: day, requests_per_unit: 1"),
        "4:18 config error, unknown key 'unlimied': did you mean 'unlimited'?",
    );
    expect(
        "domain: d\nzebra: 1",
        "2:1 config error, unknown key 'zebra': known here are domain, hash_tag, enabled, prices, defaults, descriptors",
    );
    expect("domain: d\n0.25: x", "2:1 config error, key is not of type string: 0.25");
    expect(
        "domain: d\ndescriptors:\n  - a\n",
        "3:5 config error, yaml file contains list of type other than map: a",
    );
    expect(
        "domain: d\ndescriptors: {key: a}\n",
        "2:14 error checking config: 'descriptors' must be a list, not a map",
    );
    expect("- domain: d\n", "1:1 config error, a rule file must be a map, not a list");
}

#[test]
fn a_misplaced_field_is_an_error_that_names_its_place() {
    check(
        &with_limit("unit: day, requests_per_unit: 1, shadow_mode: true"),
        "4:51 config error, 'shadow_mode' does not belong here: write it in a descriptor",
    );
    check(
        &with_fields("    unit: day\n"),
        "4:5 config error, 'unit' does not belong here: write it inside 'rate_limit'",
    );
    check("domain: d\nkey: a\n", "2:1 config error, 'key' does not belong here: write it in a descriptor");
}

#[test]
fn invalid_yaml_is_an_error_with_its_position() {
    let found = mistakes("domain: d\ndescriptors: [\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(" error loading config file: ") && !found[0].starts_with("0:"), "{found:?}");
    let twice = mistakes("domain: d\ndomain: e\n");
    assert!(twice.len() == 1 && twice[0].starts_with("2:1 "), "{twice:?}");
}

#[test]
fn one_mistake_is_one_error() {
    check(
        &with_fields("    rate_limits: {requests_per_unit: 1, unit: day}\n    penalty: {block: 1m}\n"),
        "4:18 error checking config: 'rate_limits' must be a list of limits (for one limit write 'rate_limit')",
    );
    check(
        &with_fields("    rate_limit: [5/minute]\n    enforce_percent: 5\n"),
        "4:17 error checking config: 'rate_limit' takes one limit: write 'rate_limits' for a list",
    );
    check(
        &with_limit("requests_per_unit: 1, unit: day, algorithm: bucket, burst: 5, timezone: UTC"),
        "4:62 error checking config: 'algorithm' must be",
    );
    check(
        &format!(
            "defaults: {{algorithm: bucket}}\n{}",
            with_limit("requests_per_unit: 1, unit: day, burst: 5")
        ),
        "1:23 error checking config: 'algorithm' must be",
    );
    check(
        &with_limit("requests_per_unit: x, unit: day, burst: 0, algorithm: gcra"),
        "4:37 error checking config",
    );
    check(&with_fields("    rate_limit: 5/minute\n    penalty: {block: {}}\n"), "5:22 error checking config");
    check(
        &with_fields("    rate_limit: 5/minute\n    penalty: {blok: 1m}\n"),
        "5:15 config error, unknown key",
    );
    check(
        "domain: d\ndescriptors:\n  - kye: k\n",
        "3:5 config error, unknown key 'kye': did you mean 'key'?",
    );
    check("domian: d\n", "1:1 config error, unknown key 'domian': did you mean 'domain'?");
    check("domain: []\n", "1:9 error checking config: 'domain' must be text, not a list");
    check(
        "domain: d\ndescriptors:\n  - {key: k}\n  - {key: k, valeu: v}\n",
        "4:14 config error, unknown key 'valeu'",
    );
    check(
        "domain: d\ndescriptors:\n  - {key: k, one_of: v}\n  - {key: k}\n",
        "3:22 error checking config: 'one_of' must be",
    );
}

#[test]
fn an_error_says_where_the_other_one_is() {
    check("domain: d\ndomain: e\n", "2:1 duplicate key 'domain': the first one is at line 1, column 1");
    check(
        "domain: d\n---\ndomain: d\n",
        "3:9 duplicate domain 'd' in config file: the first one is at line 1",
    );
    check(
        "{domain: d, descriptors: [{key: k}, {key: k}]}",
        "1:37 duplicate descriptor composite key 'd.k': the first one is at column 27",
    );
    check(
        "domain: d\ndescriptors:\n  - {key: k, one_of: [a, b]}\n  - {key: k, one_of: [b]}\n",
        "4:23 'b' is in another 'one_of' for 'k', at line 3",
    );
    check(
        "domain: d\ndescriptors:\n  - {key: k, normalize: [trim]}\n  - {key: k, value: v, normalize: [hash]}\n",
        "4:35 another rule for 'k' at this level has a different 'normalize' at line 3",
    );
    let joined = CompileOptions { merge_domains: true, ..CompileOptions::default() };
    let files = ["a.yaml", "b.yaml"].map(|name| file(name, "{domain: d, descriptors: [{key: k}]}"));
    let errors = compile(&files, joined, None).expect_err("the rule is there twice");
    assert!(errors.to_string().contains("the first one is at a.yaml:1:27"), "{errors}");
}

#[test]
fn numbers_in_quotation_marks_are_explained() {
    check(
        &with_limit("requests_per_unit: \"5\", unit: day"),
        "4:37 error checking config: 'requests_per_unit' must be a whole number from 0 to 4294967295, not text: \
         write requests_per_unit: 5, without quotation marks",
    );
    check(
        &with_limit("requests_per_unit: 5, unit: minutes"),
        "4:46 invalid rate limit unit 'minutes': did you mean 'minute'?",
    );
    check(
        &with_limit("requests_per_unit: 5, unit: 15m"),
        "4:46 invalid rate limit unit '15m': write 'window: 15m'",
    );
}

#[test]
fn names_that_begin_with_x_hold_anchors() {
    let rules = load(
        "
x-limits: {tight: &tight {unit: day, requests_per_unit: 7}}
domain: d
descriptors:
  - key: k
    x-note: [kept, for, readers]
    rate_limit: *tight
",
    );
    assert_eq!((rules.len(), rules.warnings.count()), (1, 0));
    check("domain: d\nxlimits: 1\n", "2:1 config error, unknown key 'xlimits'");
}

#[test]
fn an_explicit_key_wins_over_a_merged_one_and_the_other_order_is_a_warning() {
    let text = |fields: &str| format!("x-a: &a {{unit: day, requests_per_unit: 1}}\n{}", with_limit(fields));
    for (fields, warnings) in [("<<: *a, requests_per_unit: 7", 0), ("requests_per_unit: 7, <<: *a", 1)] {
        let rules = load(&text(fields));
        assert_eq!(rules.dump_json()["rules"][0]["rate_limit"]["requests_per_unit"], 7, "{fields}");
        assert_eq!(rules.warnings.count(), warnings, "{fields}");
    }
    let warning = load(&text("requests_per_unit: 7, <<: *a")).warnings.to_string();
    assert!(warning.contains("'requests_per_unit' above '<<' takes precedence"), "{warning}");
    check(&text("<<: 5, requests_per_unit: 7, unit: day"), "5:18 '<<' takes a map, or a list of maps");
    let list = load(&format!("x-b: &b {{unit: hour}}\n{}", text("requests_per_unit: 7, <<: [*b, *a]")));
    assert_eq!(list.dump_json()["rules"][0]["rate_limit"]["unit"], "HOUR", "the first of a list wins");
}

#[test]
fn a_name_that_no_limit_has_replaces_nothing_and_is_a_warning() {
    let text = "domain: d\ndescriptors:\n  - {key: a, rate_limit: {name: NAME, unit: day, requests_per_unit: 1}}\n  \
                - {key: b, rate_limit: {unit: day, requests_per_unit: 1, replaces: [{name: known}]}}\n";
    assert_eq!(load(&text.replace("NAME", "known")).warnings.count(), 0);
    let warnings = load(&text.replace("NAME", "knwon")).warnings.to_string();
    let expected = "rules.yaml:4:78: 'replaces' names 'known', and no limit of domain 'd' has that name";
    assert!(warnings.starts_with(expected), "{warnings}");
}

#[test]
fn a_bucket_that_is_never_refilled_is_refused() {
    check(
        &with_limit("requests_per_unit: 0, unit: day, algorithm: token_bucket, burst: 5"),
        "4:83 'burst' contradicts 'requests_per_unit: 0'",
    );
}

#[test]
fn values_have_the_kind_their_field_takes() {
    check(
        &with_fields("    value: v\n    share_threshold: true\n"),
        "3:5 share_threshold can only be used with wildcard values (containing '*'), one_of, cidr and regex, but found key 'k_v'",
    );
    for (count, found) in [
        ("-1", "'-1'"),
        ("1.5", "'1.5'"),
        ("4294967296", "'4294967296'"),
        ("many", "'many'"),
        ("[1]", "a list"),
    ] {
        let text = with_limit(&format!("requests_per_unit: {count}, unit: day"));
        check(
            &text,
            &format!(
                "4:37 error checking config: 'requests_per_unit' must be a whole number from 0 to 4294967295, not {found}"
            ),
        );
    }
    check(
        &with_fields("    shadow_mode: maybe\n"),
        "4:18 error checking config: 'shadow_mode' must be true or false, not 'maybe'",
    );
    check(&with_fields("    value: [a]\n"), "4:12 error checking config: 'value' must be text, not a list");
    check(
        &with_fields("    rate_limit: five\n"),
        "4:17 error checking config: invalid rate_limit 'five': write REQUESTS/TIME such as 10/s, 60/minute or 100/15m",
    );
    check(
        &with_fields("    metadata: text\n"),
        "4:15 error checking config: 'metadata' must be a map, not 'text'",
    );
}

#[test]
fn numbers_and_truths_are_texts_as_they_are_written() {
    for (written, value) in [
        ("404", "404"),
        ("007", "007"),
        ("true", "true"),
        ("True", "True"),
        ("1.50", "1.50"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("1e3", "1e3"),
        ("-0", "-0"),
        ("'12'", "12"),
        ("\"a\\tb\"", "a\tb"),
        ("&anchor 12", "12"),
        ("2024-01-01", "2024-01-01"),
        ("10.0.0.1", "10.0.0.1"),
        ("52e9999", "52e9999"),
        ("12E5678", "12E5678"),
        ("1e400", "1e400"),
        (".inf", ".inf"),
        ("-.INF", "-.INF"),
        (".NaN", ".NaN"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ] {
        let rules = load(&with_fields(&format!(
            "    value: {written}   # said so\n    rate_limit: {{unit: day, requests_per_unit: 1}}\n"
        )));
        let domain = rules.domain(b"d").expect("the domain is known");
        let found = domain.find(&entries(&format!("k={value}"))).is_some();
        assert!(found, "value: {written}\n{}", rules.dump_text());
    }
}

#[test]
fn metadata_may_hold_anything() {
    let rules = load(&with_fields(
        "    metadata: {a: 1, b: {c: [x, 2.5, null, true]}, 7: seven}\n    rate_limit: {unit: day, requests_per_unit: 1}\n",
    ));
    let found =
        rules.domain(b"d").expect("the domain is known").find(&entries("k=v")).expect("the rule applies");
    let expected = json!({"a": 1, "b": {"c": ["x", 2.5, null, true]}, "7": "seven"});
    assert_eq!(found.rule.metadata.clone().map(serde_json::Value::Object), Some(expected));
}

#[test]
fn units_are_named_in_any_case_and_have_their_lengths() {
    for (name, secs) in [
        ("second", 1),
        ("MINUTE", 60),
        ("Hour", 3_600),
        ("dAy", 86_400),
        ("week", 604_800),
        ("month", 2_592_000),
        ("year", 31_536_000),
    ] {
        let rules = load(&with_limit(&format!("unit: {name}, requests_per_unit: 1")));
        let found = rules.domain(b"d").and_then(|domain| domain.find(&entries("k=v"))).expect("a rule");
        assert_eq!(found.rule.limits()[0].limit.window.secs(), secs, "{name}");
    }
}

#[test]
fn all_mistakes_of_all_files_are_reported_at_once() {
    let one = "domain: one\ndescriptors:\n  - key: a\n    rate_limit: {unit: foo, requests_per_unit: many}\n  - {key: b, valeu: c}\n  - {key: b}\n  - {value: c}\n";
    let two = "domain: one\nrubbish: 1\n";
    let errors = compile(&[file("one.yaml", one), file("two.yaml", two)], CompileOptions::default(), None)
        .expect_err("both are wrong");
    let reported: Vec<_> =
        errors.reported.iter().map(|error| (error.source.as_str(), error.span.line)).collect();
    assert_eq!(
        reported,
        [
            ("one.yaml", 4),
            ("one.yaml", 4),
            ("one.yaml", 5),
            ("one.yaml", 7),
            ("two.yaml", 1),
            ("two.yaml", 2)
        ],
        "{errors}"
    );
}

#[test]
fn an_error_shows_its_file_line_and_column_and_the_line_itself() {
    let errors =
        try_load("domain: d\ndescriptors:\n  - key: k\n    rate_limit: {unit: ü, requests_per_unit: 1}\n")
            .expect_err("no such unit");
    assert_eq!(
        errors.to_string(),
        "rules.yaml:4:24: invalid rate limit unit 'ü': use one of second, minute, hour, day, week, month, year, or 'window' for any other time\n     4 |     rate_limit: {unit: ü, requests_per_unit: 1}\n       |                        ^"
    );
}

#[test]
fn joined_domains_hold_the_rules_of_every_file() {
    let one = file(
        "one.yaml",
        "{domain: d, descriptors: [{key: key1, rate_limit: {unit: day, requests_per_unit: 10}}]}",
    );
    let two = file(
        "two.yaml",
        "{domain: d, descriptors: [{key: key2, rate_limit: {unit: day, requests_per_unit: 20}}]}",
    );
    let joined = CompileOptions { merge_domains: true, ..CompileOptions::default() };
    let rules = compile(&[one.clone(), two], joined, None).expect("they are joined");
    let domain = rules.domain(b"d").expect("the domain is known");
    assert!(domain.find(&entries("key1=a")).is_some() && domain.find(&entries("key2=a")).is_some());
    let errors = compile(&[one.clone(), one], joined, None).expect_err("the rule is there twice");
    assert!(errors.to_string().contains("duplicate descriptor composite key 'd.key1'"), "{errors}");
}

#[test]
fn the_dump_has_a_line_for_each_rule_in_the_order_of_the_file() {
    let rules = load(&BASIC.replace("{key: key3,", "{key: key3, shadow_mode: true, quota_mode: true,"));
    let expected = "\
test-domain.key1_value1.subkey1: unit=SECOND requests_per_unit=5, shadow_mode: false, quota_mode: false
test-domain.key1_value1.subkey1_subvalue1: unit=SECOND requests_per_unit=10, shadow_mode: false, quota_mode: false
test-domain.key2: unit=MINUTE requests_per_unit=20, shadow_mode: false, quota_mode: false
test-domain.key2_value2: unit=MINUTE requests_per_unit=30, shadow_mode: false, quota_mode: false
test-domain.key3: unit=HOUR requests_per_unit=1, shadow_mode: true, quota_mode: true
test-domain.key4: unit=DAY requests_per_unit=1, shadow_mode: false, quota_mode: false
test-domain.key5_value5.subkey5_sub: unit=DAY requests_per_unit=15, shadow_mode: false, quota_mode: false
test-domain.key6: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false, unlimited: true
";
    assert_eq!(rules.dump_text(), expected);
    let dump = rules.dump_json();
    assert_eq!(dump["rules"][5]["name"], "key4_rate_limit");
    assert_eq!(dump["rules"][7]["rate_limit"], json!({"unlimited": true}));
    assert_eq!(dump["rules"].as_array().map(Vec::len), Some(rules.len()));
}

#[test]
fn the_dump_appends_the_fields_that_envoyproxy_ratelimit_lacks() {
    let rules = load(
        "
domain: d
descriptors:
  - {key: a, rate_limit: 10/15m}
  - key: b
    rate_limits:
      - {name: burst, requests_per_unit: 2, unit: second, algorithm: token_bucket, burst: 5}
      - {requests_per_unit: 9, unit: day, timezone: UTC}
      - {requests_per_unit: 7, window: 90s, algorithm: sliding_window}
  - key: c
    rate_limit: 5/minute
    penalty: {after: 2, within: 10m, block: [1m, 1h30m, permanent]}
",
    );
    let expected = "\
d.a: unit=UNKNOWN requests_per_unit=10, shadow_mode: false, quota_mode: false, window: 15m
d.b: unit=SECOND requests_per_unit=2, shadow_mode: false, quota_mode: false, algorithm: token_bucket, burst: 5, limit: 1 of 3, name: burst
d.b: unit=DAY requests_per_unit=9, shadow_mode: false, quota_mode: false, timezone: UTC, limit: 2 of 3
d.b: unit=UNKNOWN requests_per_unit=7, shadow_mode: false, quota_mode: false, window: 1m30s, algorithm: sliding_window, limit: 3 of 3
d.c: unit=MINUTE requests_per_unit=5, shadow_mode: false, quota_mode: false, penalty: after 2 within 10m block 1m 1h30m permanent
";
    assert_eq!(rules.dump_text(), expected);
    let dump = rules.dump_json();
    let [a, b, c] = [0, 1, 2].map(|index| &dump["rules"][index]);
    for (rule, line) in [(a, 4), (b, 5), (c, 10)] {
        assert_eq!((&rule["file"], &rule["line"]), (&json!("rules.yaml"), &json!(line)));
    }
    assert_eq!((&a["rate_limit"]["window_secs"], &a["rate_limit"]["burst"]), (&json!(900), &json!(null)));
    let bursts: Vec<_> = (0..3).map(|limit| b["rate_limits"][limit]["burst"].clone()).collect();
    assert_eq!(bursts, [json!(5), json!(null), json!(null)]);
}

#[test]
fn windows_that_are_not_the_calendars_are_noted() {
    let notes = |limit: &str| load(&with_limit(limit)).notes().to_string();
    for (unit, expected) in
        [("week", "begins on a Thursday"), ("month", "is 30 days"), ("year", "is 365 days")]
    {
        let note = notes(&format!("unit: {unit}, requests_per_unit: 1"));
        assert!(note.starts_with("rules.yaml:3:5: ") && note.contains(expected), "{note}");
        assert_eq!(notes(&format!("unit: {unit}, requests_per_unit: 1, timezone: UTC")), "");
        assert_eq!(notes(&format!("unit: {unit}, requests_per_unit: 1, algorithm: sliding_window")), "");
    }
    assert_eq!(notes("unit: day, requests_per_unit: 1"), "");
}

#[test]
fn several_documents_in_one_file_are_all_read() {
    let rules = load(
        "domain: one\n---\n# nothing here\n---\ndomain: two\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}]\n",
    );
    assert!(rules.domain(b"one").is_some() && rules.domain(b"two").is_some());
    check("domain: one\n---\ndomain: two\nrubbish: 1\n", "4:1 config error, unknown key 'rubbish'");
}

#[test]
fn anchors_and_merge_keys_spare_repetition() {
    let rules = load(
        "
domain: d
descriptors:
  - key: a
    rate_limit: &tight {unit: day, requests_per_unit: 1}
  - key: b
    rate_limit: *tight
  - key: c
    rate_limit: {<<: *tight, requests_per_unit: 7}
",
    );
    let counts: Vec<_> =
        rules.dump_text().lines().filter_map(|line| line.split(' ').nth(2).map(str::to_owned)).collect();
    assert_eq!(counts, ["requests_per_unit=1,", "requests_per_unit=1,", "requests_per_unit=7,"]);
}

#[test]
fn a_limit_without_a_count_loads_with_a_warning() {
    let rules = load(&with_limit("unit: day"));
    assert_eq!(rules.warnings.count(), 1);
    assert!(
        rules.warnings.reported[0].message.contains("'d.k' has no requests_per_unit, which means 0"),
        "{:?}",
        rules.warnings
    );
    let blocked =
        "{domain: d, descriptors: [{key: k, value: x, rate_limit: {unit: day, requests_per_unit: 0}}]}";
    assert!(load(blocked).warnings.is_empty());
    let all = load(&with_limit("unit: day, requests_per_unit: 0")).warnings;
    assert!(
        all.reported[0].message.starts_with("'d.k' lets nothing pass: it is zero for every value"),
        "{all}"
    );
    assert!(load(&with_limit("unlimited: true")).warnings.is_empty());
}

#[test]
fn charge_modes_are_inherited_down_the_tree_and_overridden_below() {
    let limit = "rate_limit: {unit: day, requests_per_unit: 1}";
    let text = format!(
        "
domain: d
DEFAULTS
descriptors:
  - {{key: plain, {limit}}}
  - {{key: own, charge: always, {limit}}}
  - key: above
    charge: if_allowed
    descriptors:
      - {{key: below, {limit}}}
      - {{key: other, charge: always, {limit}}}
"
    );
    let modes = |defaults: &str, charge: Option<ChargeMode>| -> Vec<String> {
        let file = file("rules.yaml", &text.replace("DEFAULTS", defaults));
        let options = CompileOptions { charge, ..CompileOptions::default() };
        let rules = compile(&[file], options, None).unwrap_or_else(|errors| panic!("{errors}"));
        let dump = rules.dump_json();
        let rules = dump["rules"].as_array().expect("a list").iter();
        rules.map(|rule| rule["charge"].as_str().expect("a mode").to_owned()).collect()
    };
    let if_allowed = Some(ChargeMode::IfAllowed);
    assert_eq!(modes("", None), ["always", "always", "if_allowed", "always"]);
    assert_eq!(modes("", if_allowed), ["if_allowed", "always", "if_allowed", "always"]);
    assert_eq!(
        modes("defaults: {charge: if_allowed}", None),
        ["if_allowed", "always", "if_allowed", "always"]
    );
    assert_eq!(modes("defaults: {charge: always}", if_allowed), ["always", "always", "if_allowed", "always"]);
    check(
        &with_fields("    charge: sometimes\n"),
        "4:13 error checking config: 'charge' must be always, if_allowed or overdraft, not 'sometimes'",
    );
    check(
        "domain: d\ndefaults: {chrage: always}\n",
        "2:12 config error, unknown key 'chrage': did you mean 'charge'?",
    );
    check(
        &with_limit("unit: day, requests_per_unit: 1, charge: always"),
        "4:51 config error, 'charge' does not belong here: write it in a descriptor",
    );
}

#[test]
fn the_default_charge_follows_the_algorithm() {
    let charge = |head: &str, limit: &str| {
        let rules = load(&format!("{head}\n{}", with_fields(&format!("    {limit}\n"))));
        rules.dump_json()["rules"][0]["charge"].as_str().expect("a mode").to_owned()
    };
    for (algorithm, expected) in [
        ("fixed_window", "always"),
        ("sliding_window", "if_allowed"),
        ("sliding_log", "if_allowed"),
        ("token_bucket", "if_allowed"),
        ("gcra", "if_allowed"),
    ] {
        let limit = format!("rate_limit: {{requests_per_unit: 9, unit: hour, algorithm: {algorithm}}}");
        assert_eq!(charge("", &limit), expected, "{algorithm}");
        assert_eq!(charge("defaults: {charge: always}", &limit), "always", "{algorithm}");
        let of_file = format!("defaults: {{algorithm: {algorithm}}}");
        assert_eq!(charge(&of_file, "rate_limit: 9/hour"), expected, "{algorithm} as the file's default");
    }
    let mixed = "rate_limits: [9/hour, {requests_per_unit: 2, unit: second, algorithm: token_bucket}]";
    assert_eq!(charge("", mixed), "if_allowed", "the limits of a rule are charged together");
    assert_eq!(charge("", "rate_limits: [9/hour, 2/second]"), "always");
    assert_eq!(charge("", "rate_limit: {unlimited: true}"), "always");
}

#[test]
fn empty_parts_are_left_out() {
    let rules = load("domain: d\ndescriptors:\n  - key: k\n    value:\n    rate_limit:\n    descriptors:\n");
    assert!(rules.is_empty());
}

#[test]
fn a_tree_is_at_most_sixteen_levels_deep() {
    let nested = |depth: usize| {
        let open = "descriptors: [{key: k, ".repeat(depth);
        format!("{{domain: d, {open}rate_limit: {{unit: day, requests_per_unit: 1}}{}}}", "}]".repeat(depth))
    };
    assert_eq!(load(&nested(16)).len(), 1);
    check(&nested(17), "1:394 descriptors nest 16 levels deep at most");
    assert!(!mistakes(&nested(100_000)).is_empty(), "depth without end is an error, too");
}

#[test]
fn a_file_that_unfolds_without_end_is_refused() {
    let mut bomb = "domain: d\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        bomb += &format!("a{level}: &a{level} [{below}]\n");
    }
    assert!(!mistakes(&bomb).is_empty());
}

#[test]
fn a_hundred_thousand_rules_load() {
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for rule in 0..100_000 {
        text += &format!(
            "  - key: user\n    value: u{rule}\n    rate_limit: {{unit: minute, requests_per_unit: {rule}}}\n"
        );
    }
    let rules = load(&text);
    assert_eq!(rules.len(), 100_000);
    let domain = rules.domain(b"d").expect("the domain is known");
    assert!(domain.find(&entries("user=u99999")).is_some());
}

/// The warnings of rules for one key at one level.
fn warnings(rules: &[&str]) -> Vec<String> {
    let rules: Vec<_> =
        rules.iter().map(|rule| format!("  - {{key: k, {rule}, rate_limit: 1/day}}\n")).collect();
    let rules = load(&format!("domain: d\ndescriptors:\n{}", rules.concat()));
    rules
        .warnings
        .reported
        .iter()
        .map(|warning| format!("{}: {}", warning.span.line, warning.message))
        .collect()
}

#[test]
fn rules_that_can_never_match_are_warned_of() {
    for (rules, expected) in [
        (
            &["value: a*", "value: ab*"][..],
            "4: 'k_ab*' can never match: that pattern matches all of its values, and comes first; see 'k_a*' at line 3",
        ),
        (
            &["value: '*'", "cidr: 10.0.0.0/8"],
            "4: 'k_cidr(10.0.0.0/8)' can never match: that pattern matches every value",
        ),
        (&["layer: x", "value: '**'"], "3: 'k' can never match: that pattern matches every value"),
        (&["regex: .*", "layer: x"], "4: 'k' can never match: that regex matches every value"),
        (
            &["regex: a.*", "regex: abc"],
            "4: 'k_regex(abc)' can never match: that regex matches all of its values",
        ),
        (
            &["one_of: [a, b]", "value: a", "value: b"],
            "3: 'k_one_of(a,b)' can never match: each value of the list",
        ),
    ] {
        let found = warnings(rules);
        assert_eq!(found.len(), 1, "{rules:?}: {found:?}");
        assert!(found[0].starts_with(expected), "{found:?}");
    }
    for rules in [
        &["value: ab*", "value: a*"][..],
        &["value: a*", "value: b*", "value: '*a'"],
        &["value: a*", "regex: a.*", "cidr: 10.0.0.0/8", "layer: x"],
        &["regex: abc", "regex: a.*"],
        &["regex: a.c", "regex: 'a[.]c'"],
        &["one_of: [a, b]", "value: a"],
    ] {
        assert_eq!(warnings(rules), Vec::<String>::new(), "{rules:?}");
    }
    let keys = "{domain: d, descriptors: [{key: a*, rate_limit: 1/day}, {key: ab, value: '*', rate_limit: 1/day}, \
                {key: ab*, rate_limit: 2/day}]}";
    let found = load(keys).warnings;
    assert_eq!(found.count(), 1, "{found}");
    assert!(found.to_string().contains("'ab*' can never match"), "{found}");
}

#[test]
fn anchors_in_a_regex_are_warned_of() {
    for (regex, expected) in [
        (
            "^/api",
            "'^' and '$' have no effect in '^/api': a regex is matched against the whole value; leave them out; if values may go on",
        ),
        ("[.]php$", "have no effect in '[.]php$'"),
        ("^a$", "leave them out"),
    ] {
        let found = warnings(&[&format!("regex: '{regex}'")]);
        assert!(found.len() == 1 && found[0].contains(expected), "{regex}: {found:?}");
    }
    for regex in ["a.*", r"5\$", "(?m)^a$", "[$^]"] {
        assert_eq!(warnings(&[&format!("regex: '{regex}'")]), Vec::<String>::new(), "{regex}");
    }
}

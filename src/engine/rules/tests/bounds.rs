//! Bounds of a load: errors, their text and regular expressions, whatever a file holds.

use super::loading::with_fields;
use super::{file, try_load};
use crate::engine::rules::{CompileOptions, MAX_REPORTED, RuleErrors, compile};

/// Errors of `text` in one file.
fn errors(text: &str) -> RuleErrors {
    try_load(text).expect_err("the rules have errors")
}

/// A report stays within its bounds and counts what it leaves out.
fn check_bounds(text: &str, count: usize) {
    let errors = errors(text);
    assert_eq!(errors.count(), count, "{}", errors.first(3));
    assert_eq!(errors.reported.len(), count.min(MAX_REPORTED));
    let shown = errors.to_string();
    assert!(shown.len() < 100_000, "{} bytes", shown.len());
    assert_eq!(shown.contains("more"), count > MAX_REPORTED);
}

#[test]
fn errors_on_one_long_line_are_bounded_in_number_and_length() {
    for count in [1, 100, 4_000] {
        let descriptors: Vec<_> = (0..count).map(|n| format!("{{key: k{n}, valeu: x}}")).collect();
        check_bounds(&format!("{{domain: d, descriptors: [{}]}}", descriptors.join(", ")), count);
    }
    let limits = "{unit: x}, ".repeat(20_000);
    let text = format!("{{domain: d, descriptors: [{{key: k, rate_limits: [{limits}]}}]}}");
    check_bounds(&text, 20_001);
}

#[test]
fn errors_on_many_lines_are_counted_in_one_pass() {
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for n in 0..20_000 {
        text += &format!("  - {{key: k{n}, shadow_mode: maybe}}\n");
    }
    check_bounds(&text, 20_000);
}

#[test]
fn many_duplicates_of_every_kind_are_found_in_one_pass() {
    for (value, of_other) in [
        ("value: v", false),
        ("value: \"v*\"", false),
        ("regex: v.", false),
        ("cidr: 10.0.0.0/8", true),
        ("one_of: [v]", true),
    ] {
        let count = 5_000;
        let text = format!("domain: d\ndescriptors:\n{}", format!("  - {{key: k, {value}}}\n").repeat(count));
        check_bounds(&text, count - 1);
        let first = errors(&text).reported[0].message.clone();
        assert!(first.contains("line 3"), "{first}");
        assert_eq!(first.contains("another"), of_other, "{first}");
    }
    let keys = "domain: d\ndescriptors:\n".to_owned() + &"  - {key: \"k*\"}\n".repeat(5_000);
    check_bounds(&keys, 4_999);
}

#[test]
fn many_patterns_load_in_one_pass() {
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for n in 0..30_000 {
        text += &format!("  - {{key: k, value: \"v{n}*\"}}\n  - {{key: \"k{n}*\"}}\n");
    }
    assert!(try_load(&text).is_ok());
}

#[test]
fn a_list_with_many_wrong_or_taken_values_is_bounded() {
    let values: Vec<_> = (0..20_000).map(|n| format!("v{n}")).collect();
    let list = values.join(", ");
    check_bounds(&format!("domain: d\ndescriptors:\n  - {{key: k, one_of: [{list}, {list}]}}\n"), 20_000);
    let taken = format!("  - {{key: k, one_of: [{list}]}}\n").repeat(2);
    check_bounds(&format!("domain: d\ndescriptors:\n{taken}"), 20_000);
    check_bounds(&with_fields(&format!("    cidr: [{list}]\n")), 20_000);
}

#[test]
fn long_values_are_quoted_in_part() {
    let long = "x".repeat(1_000_000);
    for text in [
        format!("domain: d\ndescriptors: {long}"),
        format!("domain: d\n{long}: 1"),
        with_fields(&format!("    rate_limit: {{unit: {long}, requests_per_unit: 1}}\n")),
        with_fields(&format!("    rate_limit: {{window: {long}, requests_per_unit: 1}}\n")),
        with_fields(&format!("    rate_limit: {long}\n")),
        with_fields(&format!("    cidr: {long}\n")),
        with_fields(&format!("    normalize: [{long}]\n")),
        with_fields(&format!("    on_deny: {{body: {{text: \"{{{long}}}\"}}}}\n")),
        with_fields(&format!("    on_deny: {{headers: {{\"{long} \": x}}}}\n")),
        format!("domain: d\ndescriptors:\n  - {{key: {long}}}\n  - {{key: {long}}}\n"),
        format!("domain: {long}\n---\ndomain: {long}\n"),
        format!("{{domain: d, {long}: 1, {long}: 2}}"),
    ] {
        let shown = errors(&text).to_string();
        assert!(shown.len() < 3_000, "{} bytes: {}…", shown.len(), &shown[..300]);
    }
}

#[test]
fn the_errors_of_all_files_share_one_bound() {
    let wrong = "domain: d\ndescriptors:\n".to_owned() + &"  - {valeu: x}\n".repeat(80);
    let files: Vec<_> =
        (0..5).map(|n| file(&format!("{n}.yaml"), &wrong.replace(": d", &format!(": d{n}")))).collect();
    let errors = compile(&files, CompileOptions::default(), None).expect_err("all are wrong");
    assert_eq!((errors.reported.len(), errors.count()), (MAX_REPORTED, 800));
    assert!(errors.to_string().ends_with("and 700 more"));
}

#[test]
fn warnings_are_bounded_like_errors() {
    let text = "domain: d\ndescriptors:\n".to_owned()
        + &(0..1_000).map(|n| format!("  - {{key: k{n}, rate_limit: {{unit: day}}}}\n")).collect::<String>();
    let rules = try_load(&text).expect("it loads");
    assert_eq!((rules.warnings.reported.len(), rules.warnings.count()), (MAX_REPORTED, 1_000));
}

#[test]
fn expressions_that_are_too_large_together_are_one_error() {
    let mut text = "domain: d\ndescriptors:\n".to_owned();
    for n in 0..2_000 {
        text += &format!("  - {{key: k, regex: '(?u)\\w{{5}}a{n}'}}\n");
    }
    let errors = errors(&text);
    assert_eq!(errors.count(), 1, "{}", errors.first(3));
    assert!(errors.reported[0].message.contains("all expressions together take more than 67108864 bytes"));
}

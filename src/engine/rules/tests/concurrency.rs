//! Concurrency limits: parsing, errors, and the dump.

use super::{load, try_load};
use crate::engine::{Algorithm, ChargeMode, Limit, Window};

const IN_FLIGHT: &str = "{max: 20, ttl: 2m, name: in-flight}";

fn rule(fields: &str) -> String {
    format!(
        "domain: d\ndescriptors:\n  - key: tenant\n{}",
        fields.replace('|', "\n    ").replacen("", "    ", 1)
    )
}

fn limits(fields: &str) -> Vec<(Limit, Option<String>)> {
    let rules = load(&rule(fields));
    let placed = rules.placed();
    placed[0].rule.limits().iter().map(|of| (of.limit, of.name.as_deref().map(str::to_owned))).collect()
}

#[test]
fn a_concurrency_limit_may_be_alone_or_among_others() {
    let limit =
        Limit { requests_per_unit: 20, window: Window::of_secs(120), algorithm: Algorithm::Concurrency };
    let expected = (limit, Some("in-flight".to_owned()));
    assert_eq!(limits(&format!("concurrency: {IN_FLIGHT}")), std::slice::from_ref(&expected));
    let several = limits(&format!("rate_limits:|  - 100/minute|  - concurrency: {IN_FLIGHT}"));
    assert_eq!(several[1], expected);
    assert_eq!(several[0].0.requests_per_unit, 100);

    let rules = load(&rule(&format!("concurrency: {IN_FLIGHT}")));
    let rule = rules.placed()[0].rule;
    assert_eq!((rule.charge, rule.max_hits), (ChargeMode::IfAllowed, Some(64)));
    let text = rules.dump_text();
    assert!(text.contains("unit=UNKNOWN requests_per_unit=20"), "{text}");
    assert!(text.contains(", ttl: 2m, algorithm: concurrency, max_hits: 64"), "{text}");
    let json = rules.dump_json();
    let written = &json["rules"][0]["rate_limit"]["concurrency"];
    assert_eq!(*written, serde_json::json!({"name": "in-flight", "max": 20, "ttl_secs": 120}));
}

#[test]
fn an_invalid_limit_is_an_error_at_its_position() {
    for (fields, place, expected) in [
        ("concurrency: {ttl: 2m}", "4:18", "has no 'max'"),
        ("concurrency: {max: 2}", "4:18", "has no 'ttl'"),
        ("concurrency: {max: 10001, ttl: 2m}", "4:24", "at most 10000"),
        ("concurrency: {max: 2, ttl: 25h}", "4:32", "at most a day"),
        ("concurrency: {max: 2, ttl: 0s}", "4:32", "at least a second"),
        ("concurrency: {max: 2, ttl: soon}", "4:32", "invalid ttl 'soon'"),
        ("concurrency: {max: -2, ttl: 1m}", "4:24", "max"),
        ("concurrency: {maxx: 2, ttl: 1m}", "4:19", "did you mean 'max'"),
        ("concurrency: 20", "4:18", "must be a map"),
        ("concurrency: {max: 2, ttl: 1m}|rate_limit: 5/minute", "4:18", "'rate_limits'"),
        ("rate_limit: {unit: minute, concurrency: {max: 2, ttl: 1m}}", "4:24", "have no window"),
        ("rate_limit: {algorithm: sliding_window, concurrency: {max: 2, ttl: 1m}}", "4:29", "have no window"),
        ("rate_limit: {algorithm: concurrency, unit: minute}", "4:29", "algorithm"),
        ("concurrency: {max: 2, ttl: 1m}|quota_mode: true", "4:18", "'quota_mode'"),
        ("concurrency: {max: 2, ttl: 1m}|charge: always", "4:18", "'charge: always'"),
        ("concurrency: {max: 2, ttl: 1m}|charge: overdraft", "4:18", "'charge: overdraft'"),
        ("concurrency: {max: 2, ttl: 1m}|max_hits: 65", "5:15", "at most 64 beside 'concurrency'"),
        ("concurrency: {max: 2, ttl: 1m}|penalty: {block: 1m}", "5:14", "'penalty'"),
        ("concurrency: {max: 2, ttl: 1m}|on_backend_failure: local", "3:5", "'on_backend_failure: local'"),
        (
            "rate_limits:|  - concurrency: {max: 2, ttl: 1m}|  - concurrency: {max: 3, ttl: 2m}",
            "6:9",
            "the same requests in flight",
        ),
    ] {
        let errors = try_load(&rule(fields)).expect_err(fields).to_string();
        assert!(errors.contains(&format!("rules.yaml:{place}")), "{fields}: {errors}");
        assert!(errors.contains(expected), "{fields}: {errors}");
    }
}

#[test]
fn inherited_local_counting_is_an_error_too() {
    let text = "domain: d\ndefaults: {on_backend_failure: local}\ndescriptors:\n  \
                - {key: k, concurrency: {max: 1, ttl: 1m}}\n";
    let errors = try_load(text).expect_err("another replica may release the place").to_string();
    assert!(errors.contains("'on_backend_failure: local'"), "{errors}");
    load(&text.replace("{key: k,", "{key: k, on_backend_failure: deny,"));
}

#[test]
fn a_rule_for_a_reserved_key_is_an_error() {
    for key in ["tollgate.ticket", "tollgate.end"] {
        let text = format!("domain: d\ndescriptors:\n  - {{key: k, descriptors: [{{key: {key}}}]}}\n");
        let errors = try_load(&text).expect_err("a reserved key").to_string();
        assert!(errors.contains(&format!("'{key}' names the ticket")), "{errors}");
    }
}

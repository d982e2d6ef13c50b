use super::{load, try_load};
use crate::engine::{Algorithm, LeaseTerms, Limit};

fn limits_of(rate_limit: &str) -> (Limit, Option<LeaseTerms>) {
    let rules = load(&format!("domain: a\ndescriptors: [{{key: k, rate_limit: {rate_limit}}}]"));
    let rule = rules.placed().first().expect("a rule").rule.limits()[0].clone();
    (rule.limit, rule.lease)
}

#[test]
fn a_lease_has_defaults_and_a_token_bucket_pays_for_it() {
    let terms = |hold_ms: u32, ceiling, max| Some(LeaseTerms { hold_us: hold_ms * 1_000, ceiling, max });
    for (written, expected) in [
        ("{requests_per_unit: 1000, unit: second, lease: true}", terms(100, 900, 10_000)),
        ("{requests_per_unit: 1000, unit: second, lease: {}}", terms(100, 900, 10_000)),
        ("{requests_per_unit: 1000, unit: second, lease: false}", None),
        ("{requests_per_unit: 1000, unit: second}", None),
        (
            "{requests_per_unit: 995, unit: minute, lease: {hold: 1s, tail: 1%, max: 50}}",
            terms(1_000, 985, 50),
        ),
        (
            "{requests_per_unit: 10, unit: minute, algorithm: sliding_window, lease: true}",
            terms(100, 9, 10_000),
        ),
        // Half of its burst refills in 25 ms.
        (
            "{requests_per_unit: 1000, unit: second, algorithm: token_bucket, burst: 50, lease: true}",
            terms(25, 22, 10_000),
        ),
    ] {
        assert_eq!(limits_of(written).1, expected, "{written}");
    }
    let bucket = "{requests_per_unit: 200, unit: second, algorithm: token_bucket, burst: 100, lease: true}";
    assert_eq!(limits_of(bucket).0.algorithm, Algorithm::TokenBucket { burst: 80 });
}

#[test]
fn limits_inherit_the_lease_of_their_file_where_they_can_be_leased() {
    let text = "domain: a
defaults: {lease: {hold: 1s, tail: 20%}}
descriptors:
  - {key: short, rate_limit: 1000/minute}
  - {key: fast, rate_limit: {requests_per_unit: 1000, unit: second}}
  - {key: never, rate_limit: {requests_per_unit: 1000, unit: minute, lease: false}}
  - {key: own, rate_limit: {requests_per_unit: 1000, unit: minute, lease: true}}
  - {key: log, rate_limit: {requests_per_unit: 1000, unit: minute, algorithm: sliding_log}}
  - {key: shadow, rate_limit: 1000/minute, shadow_mode: true}
  - {key: penalty, rate_limit: 1000/minute, penalty: {block: [1m]}}
  - {key: places, concurrency: {max: 5, ttl: 1m}}
  - {key: nothing, rate_limit: 0/minute}
  - {key: outer, descriptors: [{key: inner, rate_limit: 1000/hour}]}
";
    let (compiled, unleased) = (load(text), load(&text.replace("defaults", "# defaults")));
    let rules = compiled.placed();
    let lease_of = |key: &str| {
        let path = format!("a.{key}");
        let placed = rules.iter().find(|placed| *placed.rule.path == path).expect(key);
        placed.rule.limits()[0].lease.map(|terms| (terms.hold_us, terms.ceiling))
    };
    for (key, expected) in [
        ("short", Some((1_000_000, 800))),
        ("fast", Some((100_000, 800))),
        ("never", None),
        ("own", Some((100_000, 900))),
        ("log", None),
        ("shadow", None),
        ("penalty", None),
        ("places", None),
        ("nothing", None),
        ("outer.inner", Some((1_000_000, 800))),
    ] {
        assert_eq!(lease_of(key), expected, "{key}");
    }
    let leased = unleased.placed().iter().filter(|placed| placed.rule.limits()[0].lease.is_some()).count();
    assert_eq!(leased, 1, "other files are as they were");
    for (defaults, message) in [
        ("{hold: 11s}", "at most 10s"),
        ("{hold: soon}", "invalid hold 'soon'"),
        ("{tail: 95%}", "invalid tail '95%'"),
        ("{max: 0}", "'max: 0'"),
        ("5", "'lease' must be true, false"),
    ] {
        let text = format!(
            "domain: a\ndefaults: {{lease: {defaults}}}\ndescriptors: [{{key: k, rate_limit: 5/hour}}]"
        );
        let errors = try_load(&text).expect_err(defaults).to_string();
        assert!(errors.contains(message) && errors.contains(":2:"), "{defaults}: {errors}");
    }
}

#[test]
fn a_limit_that_cannot_be_leased_is_an_error_that_says_why() {
    for (rule, message) in [
        (
            "rate_limit: {requests_per_unit: 5, unit: hour, algorithm: sliding_log, lease: true}",
            "a sliding_log",
        ),
        ("rate_limit: {requests_per_unit: 0, unit: hour, lease: true}", "a limit of 0"),
        ("rate_limit: {concurrency: {max: 5, ttl: 1m}, lease: true}", "'lease' beside 'concurrency'"),
        ("rate_limit: {unlimited: true, lease: true}", "'lease' has no effect when unlimited"),
        (
            "rate_limit: {requests_per_unit: 5, unit: second, algorithm: token_bucket, burst: 1, lease: true}",
            "a token_bucket with this 'burst'",
        ),
        (
            "rate_limit: {requests_per_unit: 5, unit: hour, lease: true}, penalty: {block: [1m]}",
            "beside 'penalty'",
        ),
        (
            "rate_limit: {requests_per_unit: 5, unit: hour, lease: true}, quota_mode: true",
            "beside 'quota_mode'",
        ),
        (
            "rate_limit: {requests_per_unit: 5, unit: hour, lease: true}, shadow_mode: true",
            "beside 'shadow_mode'",
        ),
        (
            "rate_limit: {requests_per_unit: 5, unit: hour, lease: true}, enforce_percent: 50",
            "beside 'enforce_percent'",
        ),
        ("rate_limit: {requests_per_unit: 5, unit: second, lease: {hold: 101ms}}", "at most 100ms, a tenth"),
        ("rate_limit: {requests_per_unit: 5, unit: hour, lease: {hold: 11s}}", "at most 10s"),
        ("rate_limit: {requests_per_unit: 5, unit: hour, lease: {hold: 9ms}}", "at least 10ms"),
        ("rate_limit: {requests_per_unit: 5, unit: hour, lease: {hold: soon}}", "invalid hold 'soon'"),
        ("rate_limit: {requests_per_unit: 5, unit: hour, lease: {tail: 95%}}", "invalid tail '95%'"),
        ("rate_limit: {requests_per_unit: 5, unit: hour, lease: {tail: 5}}", "invalid tail '5'"),
        ("rate_limit: {requests_per_unit: 5, unit: hour, lease: {max: 0}}", "'max: 0'"),
        ("rate_limit: {requests_per_unit: 5, unit: hour, lease: {hodl: 1s}}", "did you mean 'hold'"),
        ("rate_limit: {requests_per_unit: 5, unit: hour, lease: 5}", "'lease' must be true, false"),
    ] {
        let rules = try_load(&format!("domain: a\ndescriptors: [{{key: k, {rule}}}]"));
        let errors = rules.expect_err(rule).to_string();
        assert!(errors.contains(message), "{rule}: {errors}");
    }
}

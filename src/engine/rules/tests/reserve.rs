//! Budgets: reading, errors, and the listing.

use super::{load, try_load};
use crate::engine::ChargeMode;
use crate::engine::reserve::{OnExpiry, Reserve, Terms};
use crate::engine::usage::Count;

fn rule(fields: &str) -> String {
    format!("domain: d\ndescriptors:\n  - key: user\n    {}", fields.replace('|', "\n    "))
}

fn reserve(fields: &str) -> Reserve {
    let rules = load(&rule(&format!("rate_limit: 1000/minute|reserve: {fields}")));
    rules.placed()[0].rule.reserve.expect("a budget")
}

#[test]
fn a_budget_has_defaults_that_fit_together() {
    let terms = Terms { on_expiry: OnExpiry::Release, memory_secs: 600 };
    let expected = Reserve {
        amount: 400,
        max_percent: 100,
        ttl_secs: 60,
        count: Count::default(),
        on_look: true,
        terms,
    };
    assert_eq!(reserve("{amount: 400}"), expected);
    let terms = Terms { memory_secs: 3_600, ..terms };
    assert_eq!(reserve("{amount: 400, ttl: 1h}"), Reserve { ttl_secs: 3_600, terms, ..expected });
    let terms = Terms { on_expiry: OnExpiry::Charge, memory_secs: 7_200 };
    let all = "{amount: 400, ttl: 90s, max: 25%, on_expiry: charge, memory: 2h, on_look: false}";
    let expected = Reserve {
        amount: 400,
        max_percent: 25,
        ttl_secs: 90,
        count: Count::default(),
        on_look: false,
        terms,
    };
    assert_eq!(reserve(all), expected);

    let rules = load(&rule(&format!("rate_limit: 1000/minute|reserve: {all}")));
    assert_eq!(rules.placed()[0].rule.charge, ChargeMode::Overdraft);
    let text = rules.dump_text();
    assert!(text.contains(", reserve: 250 for 1m30s"), "{text}");
    let json = &rules.dump_json()["rules"][0]["reserve"];
    let listed = serde_json::json!({
        "amount": 400, "max_percent": 25, "ttl_secs": 90, "on_expiry": "charge", "memory_secs": 7200,
        "count": "tokens", "on_look": false,
    });
    assert_eq!(*json, listed);
}

#[test]
fn what_cannot_work_is_an_error_at_its_place() {
    for (fields, place, expected) in [
        ("rate_limit: 9/hour|reserve: {ttl: 1m}", "5:14", "has no 'amount'"),
        ("rate_limit: 9/hour|reserve: {amount: 0}", "5:23", "holds nothing"),
        ("rate_limit: 9/hour|reserve: {amount: 2, ttl: 61m}", "5:31", "at most 1h"),
        ("rate_limit: 9/hour|reserve: {amount: 2, ttl: soon}", "5:31", "invalid ttl 'soon'"),
        ("rate_limit: 9/hour|reserve: {amount: 2, ttl: 10m, memory: 5m}", "5:44", "shorter than 'ttl'"),
        ("rate_limit: 9/hour|reserve: {amount: 2, memory: 25h}", "5:34", "at most a day"),
        ("rate_limit: 9/hour|reserve: {amount: 2, max: 25}", "5:31", "invalid max '25'"),
        ("rate_limit: 9/hour|reserve: {amount: 2, max: 101%}", "5:31", "invalid max '101%'"),
        ("rate_limit: 9/hour|reserve: {amount: 2, on_expiry: keep}", "5:37", "release or charge"),
        ("rate_limit: 9/hour|reserve: {amout: 2}", "5:15", "did you mean 'amount'"),
        ("reserve: {amount: 2}", "4:14", "without a limit"),
        (
            "rate_limit: {unit: hour, requests_per_unit: 9, lease: true}|reserve: {amount: 2}",
            "5:14",
            "'reserve' with 'lease'",
        ),
        ("rate_limit: {unlimited: true}|reserve: {amount: 2}", "5:14", "without a limit"),
        ("concurrency: {max: 2, ttl: 1m}|reserve: {amount: 2}", "5:14", "beside 'concurrency'"),
        (
            "rate_limit: {unit: hour, requests_per_unit: 9, algorithm: sliding_log}|reserve: {amount: 2}",
            "5:14",
            "sliding_log",
        ),
        ("rate_limit: 9/hour|charge: always|reserve: {amount: 2}", "6:14", "'charge: always'"),
        ("rate_limit: 9/hour|quota_mode: true|reserve: {amount: 2}", "6:14", "'quota_mode'"),
        ("rate_limit: 9/hour|max_hits: 5|reserve: {amount: 2}", "6:14", "'max_hits'"),
        ("rate_limit: 9/hour|penalty: {block: 1m}|reserve: {amount: 2}", "6:14", "'penalty'"),
        (
            "rate_limit: 9/hour|on_backend_failure: local|reserve: {amount: 2}",
            "3:5",
            "'on_backend_failure: local'",
        ),
    ] {
        let errors = try_load(&rule(fields)).expect_err(fields).to_string();
        let found =
            errors.lines().any(|line| line.contains(&format!(":{place}: ")) && line.contains(expected));
        assert!(found, "{fields}\n{errors}");
    }
}

#[test]
fn a_budget_counts_tokens_weights_or_costs() {
    let listed = |rules: &crate::engine::Rules| rules.dump_json()["rules"][0]["reserve"]["count"].clone();
    let weighted =
        load(&rule("rate_limit: 9/hour|reserve: {amount: 2, count: {input: 1, cached: 0.10, output: 4}}"));
    let expected = serde_json::json!({"input": "1", "cached": "0.1", "cache_write": "0", "output": "4", "reasoning": "0"});
    assert_eq!(listed(&weighted), expected);
    let cost = rule("rate_limit: 9/hour|reserve: {amount: 2, count: cost}");
    let errors = try_load(&cost).expect_err("no prices").to_string();
    assert!(errors.contains("rules.yaml:5:33") && errors.contains("without prices"), "{errors}");
    let priced = load(&format!("{cost}\nprices: {{gpt: {{input: 1, output: 2}}}}\n"));
    assert_eq!(listed(&priced), "cost");
    let errors =
        try_load(&rule("rate_limit: 9/hour|reserve: {amount: 2, count: money}")).expect_err("no such count");
    assert!(errors.to_string().contains("tokens, cost or a map"), "{errors}");
}

//! Budgets: parsing, errors, and the dump.

use super::{CompileOptions, Rules, compile, file, load, try_load};
use crate::engine::ChargeMode;
use crate::engine::reserve::{Amount, OnExpiry, Reserve, Terms};
use crate::engine::usage::Count;

fn rule(fields: &str) -> String {
    format!("domain: d\ndescriptors:\n  - key: user\n    {}", fields.replace('|', "\n    "))
}

fn reserve(fields: &str) -> Reserve {
    let rules = load(&rule(&format!("rate_limit: 1000/minute|reserve: {fields}")));
    rules.placed()[0].rule.reserve.clone().expect("a budget")
}

fn reload(text: &str, before: &Rules) -> Rules {
    let reloaded = compile(&[file("rules.yaml", text)], CompileOptions::default(), Some(before));
    reloaded.unwrap_or_else(|errors| panic!("{errors}"))
}

/// Fields of a budget; the amount is `None` if it is estimated.
fn listed(reserve: &Reserve) -> (Option<u32>, [u32; 3], OnExpiry, bool) {
    let Reserve { amount, max_percent, ttl_secs, count, on_look, terms } = reserve;
    assert_eq!(*count, Count::default());
    let amount = match amount {
        Amount::Fixed(amount) => Some(*amount),
        Amount::Auto(_) => None,
    };
    let Terms { on_expiry, memory_secs } = *terms;
    (amount, [*max_percent, *ttl_secs, memory_secs], on_expiry, *on_look)
}

#[test]
fn a_budget_has_defaults_that_fit_together() {
    let release = OnExpiry::Release;
    assert_eq!(listed(&reserve("{amount: 400}")), (Some(400), [100, 60, 600], release, true));
    assert_eq!(listed(&reserve("{amount: auto}")), (None, [100, 60, 600], release, true));
    let hour = listed(&reserve("{amount: 400, ttl: 1h}"));
    assert_eq!(hour, (Some(400), [100, 3_600, 3_600], release, true));
    let all = "{amount: 400, ttl: 90s, max: 25%, on_expiry: charge, memory: 2h, on_look: false}";
    assert_eq!(listed(&reserve(all)), (Some(400), [25, 90, 7_200], OnExpiry::Charge, false));

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

/// An estimate outlives reloads of its rule, until its amounts count something else.
#[test]
fn an_estimate_is_listed_and_outlives_reloads() {
    let text = |reserve: &str, limit: u32| {
        rule(&format!("rate_limits: [{limit}/minute, 16000/hour]|reserve: {{amount: auto, {reserve}}}"))
    };
    let first = load(&text("max: 25%", 1_600));
    let estimates = |rules: &Rules| rules.dump_json()["rules"][0]["reserve"]["estimates"].clone();
    assert_eq!(estimates(&first), serde_json::json!([100, 1000]), "a sixteenth of each limit");
    assert!(first.dump_text().contains(", reserve: auto (100 now) for 1m"), "{}", first.dump_text());
    first.placed()[0].rule.learn(0);
    assert_eq!(estimates(&first), serde_json::json!([100, 1000]), "a failed request teaches nothing");
    first.placed()[0].rule.learn(700);
    assert_eq!(estimates(&first), serde_json::json!([400, 700]), "at most a quarter of each limit");
    let second = reload(&text("ttl: 2m", 1_600), &first);
    assert_eq!(estimates(&second), serde_json::json!([700, 700]));
    second.placed()[0].rule.learn(900);
    assert_eq!(estimates(&first), serde_json::json!([400, 900]), "one estimate");
    let other = reload(&text("count: {output: 1}", 1_600), &second);
    assert_eq!(estimates(&other), serde_json::json!([100, 1000]), "other amounts");
}

#[test]
fn an_invalid_budget_is_an_error_at_its_position() {
    for (fields, place, expected) in [
        ("rate_limit: 9/hour|reserve: 2000", "5:14", "write 'reserve: {amount: 2000}'"),
        ("rate_limit: 9/hour|reserve: [2000]", "5:14", "must be a map, not a list"),
        ("rate_limit: 9/hour|reserve: {amount: much}", "5:23", "auto or a whole number"),
        ("rate_limit: 9/hour|reserve: {amount: '5'}", "5:23", "without quotation marks"),
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
    let listed = |rules: &Rules| rules.dump_json()["rules"][0]["reserve"]["count"].clone();
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

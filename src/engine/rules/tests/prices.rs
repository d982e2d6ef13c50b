//! Prices of language models: reading, and errors at their place.

use super::{load, try_load};
use crate::engine::usage::Usage;

const RULES: &str = "descriptors: [{key: user, rate_limit: 5/minute}]\n";

#[test]
fn prices_are_those_of_the_domain_as_exact_decimals() {
    let text = format!(
        "domain: ai\nprices:\n  gpt-5-mini: {{input: 0.25, cached: 0.025, output: 2.00}}\n  'claude-*': {{input: 3, output: 15}}\n{RULES}"
    );
    let rules = load(&text);
    let prices = rules.domain(b"ai").and_then(|domain| domain.prices()).expect("prices");
    let usage = Usage { tokens: [500, 400, 0, 250, 0], ..Usage::default() };
    assert_eq!(prices.of("gpt-5-mini").amount(&usage), 635);
    assert_eq!(prices.of("claude-x").amount(&usage), 1_500 + 1_200 + 3_750);
    assert!(
        load(&format!("domain: ai\n{RULES}")).domain(b"ai").is_some_and(|domain| domain.prices().is_none())
    );
}

#[test]
fn mistakes_in_prices_are_errors_at_their_place() {
    for (prices, place, expected) in [
        ("[]", "2:9", "'prices' must be a map such as"),
        ("{a: {input: 1}}", "2:13", "have 'input' and 'output'"),
        ("{a: {input: 1, output: -2}}", "2:32", "a decimal number from 0 to 1000000"),
        ("{a: {input: 1, output: 0.0000001}}", "2:32", "six decimals at most"),
        ("{a: {input: 1, output: 1e3}}", "2:32", "a decimal number"),
        ("{a: {input: 1, outputs: 2}}", "2:24", "did you mean 'output'"),
        ("{a: 3}", "2:13", "must be a map"),
    ] {
        let errors =
            try_load(&format!("domain: ai\nprices: {prices}\n{RULES}")).expect_err(prices).to_string();
        assert!(errors.contains(expected), "{prices}: {errors}");
        assert!(errors.contains(&format!("rules.yaml:{place}")), "{prices}: {errors}");
    }
}

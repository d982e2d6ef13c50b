use super::*;

fn example(text: &str) -> Option<(String, Vec<(String, String)>)> {
    let example = load(text).example_request()?;
    Some((example.domain, example.entries))
}

fn entry(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[test]
fn the_example_request_falls_under_the_first_rule_with_a_limit() {
    let text = "domain: shop\ndescriptors:\n  - key: plan\n    value: free\n    descriptors:\n      - key: user\n        rate_limit: 5/minute\n  - key: path\n    rate_limit: 9/hour\n";
    let entries = vec![entry("plan", "free"), entry("user", "alice")];
    assert_eq!(example(text), Some(("shop".to_owned(), entries)));
}

#[test]
fn the_example_has_a_value_that_matches_and_skips_unlimited_rules() {
    for (node, value) in [
        ("cidr: [10.0.0.0/8]", Some("10.0.0.0")),
        ("one_of: [gold, silver]", Some("gold")),
        ("value: /api/*", Some("/api/x")),
        ("regex: '[0-9]+'", Some("1")),
        ("regex: '[a-f]{8}'", None),
    ] {
        let text = format!("domain: shop\ndescriptors:\n  - key: k\n    {node}\n    rate_limit: 5/minute\n");
        let expected = value.map(|value| ("shop".to_owned(), vec![entry("k", value)]));
        assert_eq!(example(&text), expected, "{node}");
    }
    let unlimited = "domain: shop\ndescriptors:\n  - key: k\n    rate_limit: {unlimited: true}\n";
    assert_eq!(example(unlimited), None);
}

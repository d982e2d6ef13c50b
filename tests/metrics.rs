//! Metrics of a running service.

use serde_json::{Value, json};

use crate::support::tollgate::Tollgate;

const RULES: &str = "\
domain: shop
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 2}
  - key: path
    value: /a
    descriptors:
      - key: method
        rate_limit: {unit: day, requests_per_unit: 10}
        descriptors:
          - key: user
            rate_limit: {unit: day, requests_per_unit: 10}
  - key: try
    shadow_mode: true
    rate_limit: {unit: day, requests_per_unit: 0}
  - key: free
    rate_limit: {unlimited: true}
  - key: shown
    detailed_metric: true
    rate_limit: {unit: day, requests_per_unit: 10}
";

/// Asks with one descriptor, `key=value,key=value`.
async fn ask(service: &Tollgate, domain: &str, descriptor: &str) {
    let pairs = descriptor.split(',').map(|pair| pair.split_once('=').expect("key=value"));
    let entries: Vec<_> = pairs.map(|(key, value)| json!({"key": key, "value": value})).collect();
    let body = json!({"domain": domain, "descriptors": [{"entries": entries}]});
    let answer = reqwest::Client::new().post(service.url("/json")).json(&body).send().await;
    let answer: Value = answer.expect("an answer").json().await.expect("JSON");
    assert!(answer["overallCode"].is_string(), "{answer}");
}

async fn read(service: &Tollgate, path: &str) -> String {
    let answer = reqwest::get(service.debug_url(path)).await.expect("an answer");
    answer.text().await.expect("a text")
}

/// The lines of `text` that begin with `prefix`.
fn lines<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.starts_with(prefix)).collect()
}

#[tokio::test]
async fn item_5_8_every_rule_has_the_reference_s_series() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[("EXTRA_TAGS", "zone:eu")]).await;
    for descriptor in [
        "user=a",
        "user=a",
        "user=a",
        "user=b",
        "path=/a,method=GET",
        "path=/a,method=GET,user=a",
        "try=x",
        "free=x",
        "shown=1.2.3.4",
        "nothing=x",
    ] {
        ask(&service, "shop", descriptor).await;
    }
    ask(&service, "elsewhere", "user=a").await;

    let metrics = read(&service, "/metrics").await;
    let mut expected: Vec<_> = [
        r#"total_hits{domain="shop",key1="path_/a",key2="method",zone="eu"} 2"#,
        r#"total_hits{domain="shop",key1="shown_1_2_3_4",zone="eu"} 1"#,
        r#"total_hits{domain="shop",key1="try",zone="eu"} 1"#,
        r#"total_hits{domain="shop",key1="user",zone="eu"} 4"#,
        r#"within_limit{domain="shop",key1="path_/a",key2="method",zone="eu"} 2"#,
        r#"within_limit{domain="shop",key1="shown_1_2_3_4",zone="eu"} 1"#,
        r#"within_limit{domain="shop",key1="user",zone="eu"} 3"#,
        r#"near_limit{domain="shop",key1="user",zone="eu"} 1"#,
        r#"over_limit{domain="shop",key1="try",zone="eu"} 1"#,
        r#"over_limit{domain="shop",key1="user",zone="eu"} 1"#,
        r#"shadow_mode{domain="shop",key1="try",zone="eu"} 1"#,
    ]
    .map(|line| format!("ratelimit_service_rate_limit_{line}"))
    .into();
    let mut found = lines(&metrics, "ratelimit_service_rate_limit_");
    expected.sort();
    found.sort_unstable();
    assert_eq!(found, expected);
    for line in [
        "ratelimit_service_config_load_success 1",
        "tollgate_rules 6",
        "tollgate_unknown_domain_requests 1",
        "tollgate_memory_counters 6",
        "tollgate_store_latency_seconds_count 8",
    ] {
        assert_eq!(lines(&metrics, line), [line], "{metrics}");
    }

    let stats = read(&service, "/stats").await;
    for line in [
        "ratelimit.service.rate_limit.shop.path_/a.method.total_hits: 1",
        "ratelimit.service.rate_limit.shop.path_/a.method.user.total_hits: 1",
        "ratelimit.service.rate_limit.shop.shown_1_2_3_4.within_limit: 1",
        "ratelimit.service.config_load_success: 1",
        "ratelimit.service.call.should_rate_limit.redis_error: 0",
    ] {
        assert_eq!(lines(&stats, line), [line], "{stats}");
    }
}

#[tokio::test]
async fn what_requests_have_a_part_in_is_bounded() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[("DETAILED_METRIC_MAX_SERIES", "2")]).await;
    for value in ["a", "b", "c", "d", "a"] {
        ask(&service, "shop", &format!("shown={value}")).await;
    }
    let metrics = read(&service, "/metrics").await;
    assert_eq!(
        lines(&metrics, "ratelimit_service_rate_limit_total_hits"),
        [
            r#"ratelimit_service_rate_limit_total_hits{domain="shop",key1="other"} 2"#,
            r#"ratelimit_service_rate_limit_total_hits{domain="shop",key1="shown_a"} 2"#,
            r#"ratelimit_service_rate_limit_total_hits{domain="shop",key1="shown_b"} 1"#,
        ]
    );
}

#[tokio::test]
async fn metrics_are_also_where_use_prometheus_puts_them() {
    let environment =
        [("USE_PROMETHEUS", "true"), ("PROMETHEUS_ADDR", "127.0.0.1:0"), ("PROMETHEUS_PATH", "/here")];
    let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    let told = service.process.output();
    let place = told.lines().find_map(|line| line.trim().strip_prefix("metrics")).expect("it says where");
    assert!(place.ends_with("/here"), "{place}");
    let metrics = reqwest::get(format!("http://{}", place.trim())).await.expect("an answer");
    assert_eq!(metrics.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let metrics = metrics.text().await.expect("a text");
    assert_eq!(lines(&metrics, "tollgate_rules"), ["tollgate_rules 6"]);
    assert_eq!(lines(&read(&service, "/metrics").await, "tollgate_rules"), ["tollgate_rules 6"]);
}

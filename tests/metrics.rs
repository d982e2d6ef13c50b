//! Metrics of a running service.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tollgate::clock::{Clock as _, SystemClock};

use crate::support::process::POLL;
use crate::support::redis::Redis;
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
async fn every_rule_has_the_reference_s_series() {
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
async fn labels_that_requests_influence_are_bounded() {
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
    let printed = service.process.output_with("/here\n").await;
    let place = printed.lines().find_map(|line| line.trim().strip_prefix("metrics")).expect("it says where");
    assert!(place.ends_with("/here"), "{place}");
    let metrics = reqwest::get(format!("http://{}", place.trim())).await.expect("an answer");
    assert_eq!(metrics.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let metrics = metrics.text().await.expect("a text");
    assert_eq!(lines(&metrics, "tollgate_rules "), ["tollgate_rules 6"]);
    assert_eq!(lines(&read(&service, "/metrics").await, "tollgate_rules "), ["tollgate_rules 6"]);
}

#[tokio::test]
async fn the_process_and_the_build_have_their_standard_metrics() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let metrics = read(&service, "/metrics").await;
    let value = |name: &str| {
        let found = lines(&metrics, &format!("{name} "));
        assert_eq!(found.len(), 1, "{name}: {metrics}");
        found[0].rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!(value("process_threads") >= 2.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    assert!(value("process_virtual_memory_max_bytes") > 0.0);
    assert!(value("process_open_fds") > 3.0 && value("process_open_fds") <= value("process_max_fds"));
    let now = SystemClock.now().as_secs() as f64;
    let started = value("process_start_time_seconds");
    assert!(started <= now + 2.0 && started > now - 600.0, "{started} {now}");
    let build = format!("tollgate_build_info{{version=\"{}\",revision=", env!("CARGO_PKG_VERSION"));
    assert!(lines(&metrics, &build).iter().all(|line| line.ends_with("\"} 1")), "{metrics}");
    assert_eq!(lines(&metrics, &build).len(), 1, "{metrics}");
}

/// Reads metrics until they have this line.
async fn wait_for(service: &Tollgate, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let metrics = read(service, "/metrics").await;
        if metrics.lines().any(|found| found == line) {
            return;
        }
        assert!(Instant::now() < deadline, "no {line} in {metrics}");
        sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_redis_node_has_its_state() {
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let environment = [("REDIS_URL", &*url), ("THREADS", "2")];
    let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    let node = format!("127.0.0.1:{}", redis.port());
    // Those of two cores, and that of operators.
    wait_for(&service, &format!("tollgate_redis_connections_up{{node=\"{node}\"}} 3")).await;
    ask(&service, "shop", "user=a").await;
    let metrics = read(&service, "/metrics").await;
    for (name, value) in [
        ("connections", "3"),
        ("breakers_open", "0"),
        ("queued_calls", "0"),
        ("oldest_queued_seconds", "0"),
        ("batch_size", "1"),
        ("ttls_not_set", "0"),
        ("denied_commands", "0"),
    ] {
        let line = format!("tollgate_redis_{name}{{node=\"{node}\"}} {value}");
        assert_eq!(lines(&metrics, &line), [line.as_str()], "{metrics}");
    }
    assert_eq!(lines(&metrics, "ratelimit_redis_pool_cx_active"), ["ratelimit_redis_pool_cx_active 3"]);
    // The store is polled for overrides.
    wait_for(&service, &format!("tollgate_redis_calls_in_flight{{node=\"{node}\"}} 0")).await;
    drop(redis);
    wait_for(&service, &format!("tollgate_redis_connections_up{{node=\"{node}\"}} 0")).await;
}

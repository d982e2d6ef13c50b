//! A denial holds whatever becomes of the rest of its request: behind a real Envoy, which lets pass what
//! tollgate answers with an error.

use serde_json::json;

use crate::support::envoy::{Config, Envoy};
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;

/// Envoy that asks for the address of the peer beside the `x-user` header.
async fn envoy_that_asks_for_addresses(service: &Tollgate) -> Envoy {
    let user = "- request_headers: {header_name: x-user, descriptor_key: user}";
    let both = format!("{user}\n              - actions:\n                - remote_address: {{}}");
    Envoy::start(&Config::asking(&[service.grpc]).with(user, &both)).await
}

/// A service that counts limits per second in a Redis of their own, which is gone.
async fn without_the_redis_of_seconds(rules: &str, redis: &Redis) -> Tollgate {
    let gone = Redis::absent();
    let environment = [
        ("REDIS_URL", &*redis.settings().deployment.to_string()),
        ("REDIS_PERSECOND", "true"),
        ("REDIS_PERSECOND_URL", &*gone.settings().deployment.to_string()),
        ("REDIS_CALL_TIMEOUT", "5s"),
        ("LOCAL_CACHE_SIZE_IN_BYTES", "0"),
    ];
    Tollgate::start(&[("rules.yaml", rules)], &environment).await
}

#[tokio::test]
async fn an_address_over_its_limit_is_denied_though_another_counter_cannot_be_reached() {
    let rules = "
domain: example
descriptors:
  - {key: remote_address, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: user, rate_limit: {unit: second, requests_per_unit: 100}}
";
    let redis = Redis::start().await;
    let service = without_the_redis_of_seconds(rules, &redis).await;
    let envoy = envoy_that_asks_for_addresses(&service).await;
    eventually("the address is counted", async || {
        envoy.status("alice").await;
        redis.len() == 1
    })
    .await;
    eventually("it is over its limit", async || envoy.status("alice").await == 429).await;
    for _ in 0..5 {
        assert_eq!(envoy.status("alice").await, 429);
    }
}

#[tokio::test]
async fn a_local_denial_refunds_the_hits_that_redis_counted() {
    let rules = "
domain: example
descriptors:
  - {key: day, charge: if_allowed, rate_limit: {requests_per_unit: 1000, unit: year}}
  - {key: burst, on_backend_failure: local, charge: if_allowed, rate_limit: {requests_per_unit: 1, unit: second}}
";
    let redis = Redis::start().await;
    let service = without_the_redis_of_seconds(rules, &redis).await;
    let client = reqwest::Client::new();
    let descriptor = |key| json!({"entries": [{"key": key, "value": "a"}]});
    let body = json!({"domain": "example", "descriptors": [descriptor("day"), descriptor("burst")]});
    let mut passed = 0;
    for _ in 0..50 {
        let request = client.post(service.url("/json")).body(body.to_string());
        match request.send().await.expect("an answer").status().as_u16() {
            200 => passed += 1,
            429 => {}
            status => panic!("{status}"),
        }
    }
    assert!(passed < 50, "the local limit denies most of them");
    eventually("the rest is refunded", async || {
        let key = redis.command(["KEYS", "*day*"]);
        redis.command(["GET", &key]) == passed.to_string()
    })
    .await;
}

#[tokio::test]
async fn an_address_that_makes_up_users_does_not_get_past_its_limit_by_filling_the_memory() {
    let rules = "
domain: example
descriptors:
  - {key: remote_address, rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: user, rate_limit: {unit: year, requests_per_unit: 1}}
";
    let environment = [("MEMORY_MAX_COUNTERS", "1000")];
    let service = Tollgate::start(&[("rules.yaml", rules)], &environment).await;
    let envoy = envoy_that_asks_for_addresses(&service).await;
    let mut statuses = Vec::new();
    for user in 0..2_500 {
        statuses.push(envoy.status(&format!("user-{user}")).await);
    }
    assert_eq!(statuses[..5], [200; 5]);
    assert!(statuses[5..].iter().all(|status| *status == 429), "the address stays over its limit");
    assert_eq!(envoy.stat("cluster.upstream.ratelimit.error").await, 0);
    let metrics = reqwest::get(service.debug_url("/metrics")).await.expect("an answer").text().await;
    let metrics = metrics.expect("text");
    let evicted = metrics.lines().find_map(|line| line.strip_prefix("tollgate_memory_evicted_counters "));
    assert!(evicted.is_some_and(|evicted| evicted.parse::<u64>().expect("a number") > 1_400), "{metrics}");
    eventually("it is logged", async || service.process.output().contains("memory store is full")).await;
}

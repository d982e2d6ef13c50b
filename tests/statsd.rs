//! statsd and DogStatsD servers receive what the service counts.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::ports::free_ports;
use crate::support::statsd::{Received, Statsd};
use crate::support::tollgate::Tollgate;

const RULES: &str = "\
domain: shop
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 2}
  - key: path
    value: /a
    descriptors:
      - key: ip
        detailed_metric: true
        rate_limit: {unit: day, requests_per_unit: 10}
  - key: try
    shadow_mode: true
    rate_limit: {unit: day, requests_per_unit: 0}
";

async fn ask(service: &Tollgate, descriptor: &[(&str, &str)]) {
    let entries: Vec<_> = descriptor.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
    let body = json!({"domain": "shop", "descriptors": [{"entries": entries}]});
    let answer = reqwest::Client::new().post(service.url("/json")).json(&body).send().await;
    let answer: Value = answer.expect("an answer").json().await.expect("JSON");
    assert!(answer["overallCode"].is_string(), "{answer}");
}

async fn start(statsd: &Statsd, environment: &[(&str, &str)]) -> Tollgate {
    let port = statsd.address.port().to_string();
    let own = [("STATSD_HOST", "127.0.0.1"), ("STATSD_PORT", &*port), ("EXTRA_TAGS", "zone:eu.1")];
    Tollgate::start(&[("rules.yaml", RULES)], &[&own[..], environment].concat()).await
}

/// One call that fails, and six that are decided.
async fn load(service: &Tollgate) {
    let body = json!({"domain": "", "descriptors": []});
    reqwest::Client::new().post(service.url("/json")).json(&body).send().await.expect("an answer");
    for _ in 0..3 {
        ask(service, &[("user", "a")]).await;
    }
    ask(service, &[("path", "/a"), ("ip", "10.0.0.1")]).await;
    ask(service, &[("try", "x")]).await;
    ask(service, &[("nothing", "x")]).await;
}

/// Series of envoyproxy/ratelimit without `tags`, which all of them have, and their sums.
fn reference(received: &Received, tags: &str) -> Vec<(String, f64)> {
    let sums = received.sums().into_iter();
    let sums = sums.filter(|(name, _)| name.starts_with("ratelimit"));
    let sums = sums.map(|(name, sum)| {
        assert!(name.contains(tags), "{name} lacks {tags}");
        (name.replace(tags, ""), sum)
    });
    sums.collect()
}

const EXPECTED: [(&str, f64); 13] = [
    ("ratelimit.service.call.should_rate_limit.service_error|c", 1.0),
    ("ratelimit.service.config_load_success|c", 1.0),
    ("ratelimit.service.rate_limit.shop.path_/a.ip_10_0_0_1.total_hits|c", 1.0),
    ("ratelimit.service.rate_limit.shop.path_/a.ip_10_0_0_1.within_limit|c", 1.0),
    ("ratelimit.service.rate_limit.shop.try.over_limit|c", 1.0),
    ("ratelimit.service.rate_limit.shop.try.shadow_mode|c", 1.0),
    ("ratelimit.service.rate_limit.shop.try.total_hits|c", 1.0),
    ("ratelimit.service.rate_limit.shop.user.near_limit|c", 1.0),
    ("ratelimit.service.rate_limit.shop.user.over_limit|c", 1.0),
    ("ratelimit.service.rate_limit.shop.user.total_hits|c", 3.0),
    ("ratelimit.service.rate_limit.shop.user.within_limit|c", 2.0),
    ("ratelimit_server.ShouldRateLimit.response_time|ms", 7.0),
    ("ratelimit_server.ShouldRateLimit.total_requests|c", 7.0),
];

fn expected() -> Vec<(String, f64)> {
    EXPECTED.map(|(name, sum)| (name.to_owned(), sum)).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn statsd_receives_the_reference_s_names_and_types() {
    for protocol in ["tcp", "udp"] {
        let statsd = if protocol == "tcp" { Statsd::tcp().await } else { Statsd::udp().await };
        let environment = [("STATSD_PROTOCOL", protocol), ("STATS_FLUSH_INTERVAL", "100ms")];
        let service = start(&statsd, &environment).await;
        load(&service).await;
        let total = "ratelimit_server.ShouldRateLimit.total_requests.__zone=eu_1|c";
        let received = statsd.wait_for(total, 7.0).await;
        assert_eq!(reference(&received, ".__zone=eu_1"), expected(), "{protocol}");
        assert_eq!(received.sums()["tollgate.rules.__zone=eu_1|g"], 3.0, "{protocol}");
        let is_datagram = |length: &usize| (1..=1432).contains(length);
        assert!(received.datagrams.iter().all(is_datagram), "{:?}", received.datagrams);
        assert_eq!(received.datagrams.is_empty(), protocol == "tcp");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dogstatsd_receives_tags_and_the_names_that_mogrifiers_make() {
    let statsd = Statsd::udp().await;
    let environment = [
        ("USE_DOG_STATSD", "true"),
        ("STATS_FLUSH_INTERVAL", "100ms"),
        ("USE_DOG_STATSD_MOGRIFIERS", "rule"),
        ("DOG_STATSD_MOGRIFIER_RULE_PATTERN", r"^ratelimit\.service\.rate_limit\.([^.]+)\.(.+)\.([^.]+)$"),
        ("DOG_STATSD_MOGRIFIER_RULE_NAME", "ratelimit.service.rate_limit.$3"),
        ("DOG_STATSD_MOGRIFIER_RULE_TAGS", "domain:$1,descriptor:$2"),
    ];
    let service = start(&statsd, &environment).await;
    load(&service).await;
    let zone = "#zone:eu.1";
    let total = format!("ratelimit_server.ShouldRateLimit.total_requests|c|{zone}");
    let received = statsd.wait_for(&total, 7.0).await;
    let mut of_rules: Vec<_> = EXPECTED
        .iter()
        .map(|(name, sum)| match name.strip_prefix("ratelimit.service.rate_limit.shop.") {
            None => (format!("{name}|{zone}"), *sum),
            Some(rule) => {
                let (rule, hits) = rule.rsplit_once('.').expect("rule.hits");
                let tags = format!("{zone},domain:shop,descriptor:{rule}");
                (format!("ratelimit.service.rate_limit.{hits}|{tags}"), *sum)
            }
        })
        .collect();
    of_rules.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(reference(&received, ""), of_rules);
}

#[tokio::test(flavor = "multi_thread")]
async fn remaining_metrics_are_sent_at_shutdown() {
    let statsd = Statsd::tcp().await;
    let mut service = start(&statsd, &[("STATS_FLUSH_INTERVAL", "1h")]).await;
    load(&service).await;
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(Duration::from_secs(30)).await, Some(0));
    let received =
        statsd.wait_for("ratelimit_server.ShouldRateLimit.total_requests.__zone=eu_1|c", 7.0).await;
    assert_eq!(reference(&received, ".__zone=eu_1"), expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_kept_while_the_server_is_away() {
    let [port] = free_ports::<1>();
    let address = ([127, 0, 0, 1], port).into();
    let text = port.to_string();
    let environment = [("USE_STATSD", "true"), ("STATSD_PORT", &*text), ("STATS_FLUSH_INTERVAL", "100ms")];
    let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
    load(&service).await;
    let total = "ratelimit_server.ShouldRateLimit.total_requests|c";
    let statsd = Statsd::tcp_at(address).await;
    let received = statsd.wait_for(total, 7.0).await;
    assert_eq!(reference(&received, ""), expected());
    // The server closes the connection, and comes back.
    drop(statsd);
    ask(&service, &[("user", "b")]).await;
    let statsd = Statsd::tcp_at(address).await;
    statsd.wait_for(total, 1.0).await;
    let output = service.process.output_with("metrics are sent to statsd again").await;
    assert!(output.contains("cannot send metrics to statsd"), "{output}");
    assert!(output.matches("cannot send metrics to statsd").count() <= 2, "once for each absence: {output}");
}

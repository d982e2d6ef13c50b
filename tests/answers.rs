//! Answers beside the decision: headers, bodies, the log, and `POST /v1/check`.

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::support::eventually;
use crate::support::load::request;
use crate::support::tollgate::Tollgate;

const RULES: &str = r#"
domain: shop
defaults: {charge: if_allowed}
descriptors:
  - {key: user, layer: user, rate_limit: {name: per-user, unit: year, requests_per_unit: 5}}
  - key: ip
    layer: ip
    rate_limit: {unit: year, requests_per_unit: 2, algorithm: token_bucket}
    on_deny: {body: {text: "Too many from here: {limit} a year."}, headers: {x-help: "https://example.com/"}}
  - {key: path, layer: endpoint, rate_limit: {unit: year, requests_per_unit: 100}}
"#;

async fn start(environment: &[(&str, &str)]) -> Tollgate {
    Tollgate::start(&[("rules.yaml", RULES)], environment).await
}

async fn connect(service: &Tollgate) -> RateLimitServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", service.grpc)).expect("an address");
    RateLimitServiceClient::new(endpoint.connect().await.expect("it listens"))
}

async fn ask(
    client: &mut RateLimitServiceClient<Channel>,
    descriptors: &[(&str, &str)],
) -> RateLimitResponse {
    client.should_rate_limit(request("shop", descriptors)).await.expect("an answer").into_inner()
}

/// Headers of `answer` as `name: value`; of headers with a time only the name.
fn reported(answer: &RateLimitResponse) -> Vec<String> {
    let is_time = |name: &str| name == "retry-after" || name.ends_with("reset");
    let header = |header: &envoy_types::pb::envoy::config::core::v3::HeaderValue| {
        if is_time(&header.key) {
            assert!(header.value.parse::<u64>().is_ok_and(|secs| secs > 0), "{header:?}");
            return header.key.clone();
        }
        format!("{}: {}", header.key, header.value)
    };
    answer.response_headers_to_add.iter().map(header).collect()
}

#[tokio::test]
async fn envoy_gets_headers_in_the_configured_style() {
    let own = ["x-help: https://example.com/", "content-type: text/plain; charset=utf-8"];
    let denial = ["retry-after", "x-ratelimit-failed-layer: ip", "x-ratelimit-type: token_bucket"];
    for (style, passes, denied, adds) in [
        ("none", &[][..], &[][..], false),
        (
            "draft06",
            &["ratelimit-limit: 2", "ratelimit-remaining: 1", "ratelimit-reset"][..],
            &["ratelimit-limit: 2", "ratelimit-remaining: 0", "ratelimit-reset"][..],
            true,
        ),
        (
            "x",
            &["x-ratelimit-limit: 2", "x-ratelimit-remaining: 1", "x-ratelimit-reset"],
            &["x-ratelimit-limit: 2", "x-ratelimit-remaining: 0", "x-ratelimit-reset"],
            true,
        ),
    ] {
        let service = start(&[("RESPONSE_HEADERS", style)]).await;
        let mut client = connect(&service).await;
        let asked = [("user", "ann"), ("ip", "i")];
        let first = ask(&mut client, &asked).await;
        assert_eq!(reported(&first), passes, "{style}");
        assert!(first.raw_body.is_empty());
        ask(&mut client, &asked).await;
        let third = ask(&mut client, &asked).await;
        let added = if adds { &denial[..] } else { &[] };
        assert_eq!(reported(&third), [denied, added, &own].concat(), "{style}");
        assert_eq!(third.raw_body, b"Too many from here: 2 a year.");
    }
    let service = start(&[("RESPONSE_HEADERS", "ietf")]).await;
    let answer = ask(&mut connect(&service).await, &[("user", "ann"), ("ip", "i")]).await;
    let headers = &answer.response_headers_to_add;
    assert_eq!(
        (headers.len(), &*headers[0].key, &*headers[1].key),
        (2, "ratelimit-policy", "ratelimit"),
        "{headers:?}"
    );
    assert_eq!(headers[0].value, r#""per-user";q=5;w=31536000, "ip";q=2;w=31536000"#);
    assert!(headers[1].value.starts_with(r#""per-user";r=4;t="#), "{headers:?}");
}

async fn check(service: &Tollgate, body: &str) -> Response {
    let request = Client::new().post(service.url("/v1/check")).body(body.to_owned());
    request.send().await.expect("an answer")
}

/// The names of the headers of `answer` that are not HTTP's own, sorted.
fn names(answer: &Response) -> Vec<&str> {
    let others = ["content-length", "date"];
    let names = answer.headers().keys().map(reqwest::header::HeaderName::as_str);
    let mut names: Vec<_> = names.filter(|name| !others.contains(name)).collect();
    names.sort_unstable();
    names
}

fn text<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers()[name].to_str().expect("text")
}

/// The denials in the log of `service`, which writes JSON.
fn logged_denials(service: &Tollgate) -> Vec<Value> {
    let printed = service.process.output();
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "request denied").collect()
}

#[tokio::test]
async fn denials_are_logged_with_their_descriptors_at_info_level_and_none_above() {
    for (level, expected) in [("debug", true), ("info", true), ("warn", false)] {
        let service = start(&[("LOG_LEVEL", level), ("LOG_FORMAT", "json")]).await;
        let mut client = connect(&service).await;
        for _ in 0..3 {
            ask(&mut client, &[("user", "ann\u{1b}\n"), ("ip", "i")]).await;
        }
        if !expected {
            assert_eq!(logged_denials(&service), Vec::<Value>::new());
            continue;
        }
        eventually("the denial is logged", async || !logged_denials(&service).is_empty()).await;
        let found = logged_denials(&service);
        assert_eq!(found.len(), 1, "{found:?}");
        let fields = ["domain", "descriptors", "layer", "rule", "limit", "enforced"]
            .map(|name| found[0][name].clone());
        let descriptors = json!(r"user=ann\u{1b}\n; ip=i");
        assert_eq!(
            fields,
            [json!("shop"), descriptors, json!("ip"), json!("shop.ip"), json!(2), json!(true)]
        );
    }
}

#[tokio::test]
async fn a_flood_of_denials_is_a_line_a_second_and_shadows_are_logged_alike() {
    let rules = "
domain: shop
descriptors:
  - {key: live, rate_limit: {unit: year, requests_per_unit: 0}}
  - {key: shadow, shadow_mode: true, normalize: [hash], rate_limit: {unit: year, requests_per_unit: 0}}
";
    let environment = [("LOG_LEVEL", "info"), ("LOG_FORMAT", "json"), ("HASH_KEY", "a secret of the tests")];
    let service = Tollgate::start(&[("rules.yaml", rules)], &environment).await;
    let mut client = connect(&service).await;
    let began = Instant::now();
    for _ in 0..200 {
        ask(&mut client, &[("live", "alice")]).await;
    }
    let lines = logged_denials(&service).len();
    assert!(lines <= usize::try_from(began.elapsed().as_secs()).expect("few") + 2, "{lines}");
    eventually("the shadow is logged", async || {
        ask(&mut client, &[("shadow", "alice")]).await;
        logged_denials(&service).iter().any(|line| line["enforced"] == false)
    })
    .await;
    let denials = logged_denials(&service);
    let shadow = denials.iter().find(|line| line["enforced"] == false).expect("it was there");
    let shown = shadow["descriptors"].as_str().expect("text");
    assert!(shown.starts_with("shadow=") && !shown.contains("alice"), "{shown}");
    assert!(shadow["unlogged"].as_u64().is_some_and(|unlogged| unlogged > 0), "{shadow}");
}

#[tokio::test]
async fn an_application_learns_whether_its_request_passes_and_why_not() {
    let service = start(&[]).await;
    let short = r#"{"domain": "shop", "entries": {"user": "42", "ip": "1.2.3.4", "other": "x"}}"#;
    let long = r#"{"domain": "shop", "descriptors": [
        {"entries": [{"key": "user", "value": "42"}]}, {"entries": [{"key": "ip", "value": "1.2.3.4"}]},
        {"entries": [{"key": "other", "value": "x"}]}]}"#;
    for (body, left) in [(short, 1), (long, 0)] {
        let answer = check(&service, body).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(
            names(&answer),
            ["content-type", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]
        );
        assert_eq!(text(&answer, "content-type"), "application/json");
        assert_eq!(text(&answer, "ratelimit-remaining"), left.to_string());
        let body: Value = answer.json().await.expect("JSON");
        assert_eq!((&body["allowed"], &body["error"]), (&json!(true), &Value::Null), "{body}");
        assert_eq!((&body["limit"], &body["remaining"]), (&json!(2), &json!(left)));
        assert_eq!(body["layers"].as_array().map(Vec::len), Some(3));
    }
    let answer = check(&service, short).await;
    assert_eq!(answer.status(), 429);
    assert_eq!(
        names(&answer),
        [
            "content-type",
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
            "retry-after",
            "x-help",
            "x-ratelimit-failed-layer",
            "x-ratelimit-type",
        ]
    );
    assert_eq!(text(&answer, "x-ratelimit-failed-layer"), "ip");
    assert_eq!(text(&answer, "x-ratelimit-type"), "token_bucket");
    assert_eq!(text(&answer, "content-type"), "application/json", "the body is always ours");
    let retry_after: u64 = text(&answer, "retry-after").parse().expect("a number");
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(
        (&body["allowed"], &body["error"], &body["failedLayer"], &body["retryAfter"]),
        (&json!(false), &json!("rate_limit_exceeded"), &json!("ip"), &json!(retry_after))
    );
    let allowed: Vec<_> = body["layers"].as_array().expect("a list").iter().map(|l| &l["allowed"]).collect();
    assert_eq!(allowed, [true, false, true]);
    // Only where the whole request passes: nothing was counted for the user.
    assert_eq!(body["layers"][0]["remaining"], 3);
    assert_eq!(body["layers"][2]["limit"], Value::Null);
}

#[tokio::test]
async fn invalid_requests_get_a_json_error_and_count_nothing() {
    let service = start(&[]).await;
    let of_user = |more: &str| format!(r#"{{"domain": "shop", "entries": {{"user": "careful"}}{more}}}"#);
    let refused = async |answer: Response| {
        let status = answer.status().as_u16();
        assert_eq!(text(&answer, "content-type"), "application/json");
        let body: Value = answer.json().await.expect("JSON");
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        (status, body["error"].as_str().expect("a code").to_owned())
    };
    let invalid = (400, "invalid_request".to_owned());
    for body in [
        "",
        "{",
        "[]",
        r#"{"entries": {"user": "careful"}}"#,
        r#"{"domain": "shop"}"#,
        r#"{"domain": "shop", "entries": {}}"#,
        r#"{"domain": "shop", "entries": {"user": "careful", "user": "careful"}}"#,
        &of_user(r#", "hitsAddend": 1.5"#),
        &of_user(r#", "unknown": 1"#),
        &of_user(r#", "descriptors": []"#),
    ] {
        assert_eq!(refused(check(&service, body).await).await, invalid, "{body}");
    }
    let large = format!("{}{}", of_user(""), " ".repeat(256 << 10));
    assert_eq!(refused(check(&service, &large).await).await, (413, "body_too_large".to_owned()));
    let client = Client::new();
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let request = client.request(method.clone(), service.url("/v1/check")).body(of_user(""));
        let answer = request.send().await.expect("an answer");
        assert_eq!(text(&answer, "allow"), "POST");
        assert_eq!(refused(answer).await, (405, "method_not_allowed".to_owned()), "{method}");
    }
    let head = client.head(service.url("/v1/check")).send().await.expect("an answer");
    assert_eq!(head.status(), 405);
    let look = check(&service, &of_user(r#", "hitsAddend": 0"#)).await;
    let body: Value = look.json().await.expect("JSON");
    assert_eq!(body["remaining"], 5, "nothing is counted, for a look neither");
}

#[tokio::test]
async fn an_application_gets_an_error_if_there_is_no_decision() {
    let service = Tollgate::start_unhealthy(&[("rules.yaml", "domain: shop\nrubbish: 1\n")], &[]).await;
    let answer = check(&service, r#"{"domain": "shop", "entries": {"user": "x"}}"#).await;
    assert_eq!(answer.status(), 503);
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(body, json!({"error": "no_rules", "message": "no rate limit configuration loaded"}));
}

#[tokio::test]
async fn a_request_that_can_never_pass_is_reported_as_such() {
    let rules = "
domain: shop
descriptors:
  - {key: batch, max_hits: 3, rate_limit: 100/minute}
  - {key: polite, charge: if_allowed, rate_limit: 5/minute}
";
    let service = Tollgate::start(&[("rules.yaml", rules)], &[]).await;
    for (key, hits, larger) in [
        ("batch", 3, None),
        ("batch", 4, Some(true)),
        ("polite", 6, Some(true)),
        ("polite", 5, None),
        ("polite", 1, Some(false)),
    ] {
        let body = format!(r#"{{"domain": "shop", "entries": {{"{key}": "a"}}, "hitsAddend": {hits}}}"#);
        let answer = check(&service, &body).await;
        assert_eq!(answer.status() == 429, larger.is_some(), "{key} {hits}");
        let answer: Value = answer.json().await.expect("JSON");
        let expected = if larger == Some(true) { json!("larger_than_limit") } else { Value::Null };
        assert_eq!(answer["reason"], expected, "{key} {hits}: {answer}");
    }
    let body = r#"{"domain": "shop", "entries": {"batch": "b", "polite": "b"}, "hitsAddend": 4}"#;
    let answer: Value = check(&service, body).await.json().await.expect("JSON");
    assert_eq!(answer["layers"][1]["remaining"], 5, "nothing is used up: {answer}");
    let secs = answer["retryAfter"].as_u64().expect("seconds");
    assert!(secs >= 60, "{answer}");
}

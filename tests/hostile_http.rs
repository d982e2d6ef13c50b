//! HTTP requests from where no request should come from, and of any size.

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;

const RULES: &str = "
domain: shop
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 3}}
";

const CHECK: &str = r#"{"domain": "shop", "entries": {"user": "ann"}}"#;
const JSON: &str = r#"{"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "ann"}]}]}"#;
const REFUND: &str = r#"{"domain": "shop", "descriptors": [
    {"entries": [{"key": "user", "value": "ann"}], "isNegativeHits": true, "hitsAddend": 1000000000}]}"#;

async fn start(environment: &[(&str, &str)]) -> Tollgate {
    Tollgate::start(&[("rules.yaml", RULES)], environment).await
}

async fn post(service: &Tollgate, path: &str, body: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let mut request = Client::new().post(service.url(path)).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    (answer.status(), answer.text().await.expect("text"))
}

#[tokio::test]
async fn pages_of_other_sites_count_nothing_and_refund_nothing() {
    let service = start(&[]).await;
    let own = format!("http://127.0.0.1:{}", service.http);
    for (path, body) in [("/json", JSON), ("/v1/check", CHECK), ("/json", REFUND), ("/v1/check", REFUND)] {
        for foreign in
            [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
        {
            let headers = [("content-type", "text/plain"), foreign];
            let (status, answer) = post(&service, path, body, &headers).await;
            assert_eq!(status, 403, "{path} {foreign:?}: {answer}");
        }
    }
    // A name of the attacker's that was made to resolve to this server: to the browser it is one site.
    let rebound = format!("evil.example:{}", service.http);
    let origin = format!("http://{rebound}");
    for (path, body) in [("/json", JSON), ("/v1/check", REFUND)] {
        for site in [&[][..], &[("sec-fetch-site", "same-origin")]] {
            let headers = [&[("host", &*rebound), ("origin", &*origin)], site].concat();
            assert_eq!(post(&service, path, body, &headers).await.0, 403, "{path} {headers:?}");
        }
    }
    // Three of its own pages and of clients that are no browsers pass; nothing was counted before.
    for headers in [&[("origin", &*own)][..], &[("sec-fetch-site", "same-origin")], &[]] {
        assert_eq!(post(&service, "/json", JSON, headers).await.0, 200, "{headers:?}");
    }
    assert_eq!(post(&service, "/v1/check", CHECK, &[]).await.0, 429);
}

#[tokio::test]
async fn reverse_proxies_and_clients_without_a_page_may_use_any_host_name() {
    let service = start(&[]).await;
    let local = format!("http://localhost:{}", service.http);
    for headers in [
        // Any client that is no browser, `curl -d` included.
        &[("host", "limits.internal"), ("content-type", "application/x-www-form-urlencoded")][..],
        // A page behind a proxy that has a certificate for its name.
        &[("host", "shop.example"), ("origin", "https://shop.example"), ("sec-fetch-site", "same-origin")],
        &[("host", &local["http://".len()..]), ("origin", &local)],
    ] {
        assert_eq!(post(&service, "/v1/check", CHECK, headers).await.0, 200, "{headers:?}");
    }
}

#[tokio::test]
async fn refunds_over_http_can_be_disabled() {
    for (setting, status, after) in [("true", 200, 200), ("false", 403, 429)] {
        let service = start(&[("HTTP_REFUNDS", setting)]).await;
        for expected in [200, 200, 200, 429] {
            assert_eq!(post(&service, "/json", JSON, &[]).await.0, expected);
        }
        for path in ["/json", "/v1/check"] {
            let (found, answer) = post(&service, path, REFUND, &[]).await;
            assert_eq!(found, status, "{answer}");
            assert_eq!(found == 403, answer.contains("refunds over HTTP are disabled"), "{answer}");
        }
        assert_eq!(post(&service, "/json", JSON, &[]).await.0, after);
    }
}

#[tokio::test]
async fn a_body_of_empty_descriptors_is_refused_before_they_are_built() {
    let service = start(&[]).await;
    let body = |descriptors: usize| {
        format!(r#"{{"domain": "shop", "descriptors": [{}]}}"#, vec!["{}"; descriptors].join(","))
    };
    for path in ["/json", "/v1/check"] {
        assert_eq!(post(&service, path, &body(1_390_000), &[]).await.0, 413);
        let (status, answer) = post(&service, path, &body(80_000), &[]).await;
        assert_eq!(status, 400);
        assert!(answer.contains("more than 1024 items in an array"), "{answer}");
        assert_eq!(post(&service, path, &body(1_024), &[]).await.0, 200);
    }
}

#[tokio::test]
async fn errors_name_no_server_and_no_cause() {
    let redis = Redis::absent();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let service = start(&[("REDIS_URL", &url)]).await;
    let text = "counter store unavailable; nothing was counted";
    let (status, answer) = post(&service, "/json", JSON, &[]).await;
    assert_eq!((status.as_u16(), answer), (503, format!("{text}\n")));
    let (status, answer) = post(&service, "/v1/check", CHECK, &[]).await;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let expected = json!({"error": "store_unavailable", "message": text});
    assert_eq!((status.as_u16(), answer), (503, expected));
}

#[tokio::test]
async fn text_of_a_request_stays_on_its_line_in_errors_and_in_the_log() {
    let service = start(&[("LOG_LEVEL", "debug")]).await;
    let forged = "{\"a\\nWARN forged\\u001b[31m\": 1}";
    for path in ["/json", "/v1/check"] {
        let (status, answer) = post(&service, path, forged, &[]).await;
        assert_eq!(status, 400);
        assert!(
            answer.replace(r"\\", r"\").contains(r"unknown field `a\n") && !answer.contains("\nWARN"),
            "{answer}"
        );
        let long = format!(r#"{{"{}": 1}}"#, "x".repeat(100_000));
        let (_, answer) = post(&service, path, &long, &[]).await;
        assert!(answer.len() < 300, "{}", answer.len());
    }
    let printed = || service.process.output();
    eventually("it is logged", async || printed().contains(r"a\nWARN forged\u{1b}[31m")).await;
    let printed = printed();
    assert!(!printed.lines().any(|line| line.starts_with("WARN forged")), "{printed}");
}

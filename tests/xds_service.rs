//! The service with rules from a management server: health, listings, metrics and the log.

use serde_json::Value;

use crate::support::ads::{AdsServer, config, descriptor};
use crate::support::eventually;
use crate::support::hosts::{self, Hosts, forward};
use crate::support::tollgate::Tollgate;

async fn get_json(url: &str) -> (u16, Value) {
    let request = reqwest::Client::new().get(url).header("accept", "application/json");
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

#[tokio::test]
async fn operators_see_the_connection_and_the_place_of_each_rule() {
    let mut server = AdsServer::start().await;
    let address = server.address();
    let environment = [
        ("CONFIG_TYPE", "GRPC_XDS_SOTW"),
        ("CONFIG_GRPC_XDS_SERVER_URL", address.as_str()),
        ("CONFIG_GRPC_XDS_NODE_ID", "envoy-ratelimit"),
        ("RULES_PATH", ""),
    ];
    let mut service = Tollgate::start_unhealthy(&[], &environment).await;
    let (_, health) = get_json(&service.url("/healthcheck")).await;
    assert_eq!((&health["ready"], &health["xds"]["server"]), (&false.into(), &address.as_str().into()));

    let mut stream = server.stream().await;
    stream.request().await;
    let mut resource = config("default/eg/http", &[("user", 5)]);
    resource.descriptors[0].descriptors.push(descriptor("plan", 7));
    stream.put(&resource).respond("17", "n1");
    stream.request().await;
    eventually("healthy", async || get_json(&service.url("/healthcheck")).await.0 == 200).await;

    let (_, dump) = get_json(&service.debug_url("/rlconfig")).await;
    let inner = &dump["rules"][1];
    assert_eq!(inner["file"], "xds:default/eg/http");
    assert_eq!(inner["position"], "descriptors[0 \"user\"].descriptors[0 \"plan\"]");
    assert_eq!(inner["line"], Value::Null);
    assert_eq!((&dump["xds"]["version"], &dump["xds"]["connected"]), (&"17".into(), &true.into()));
    let asked = serde_json::json!({"domain": "default/eg/http", "descriptors": [{"entries": [
        {"key": "user", "value": "a"}, {"key": "plan", "value": "b"}]}]});
    let explained =
        reqwest::Client::new().post(service.admin_url("/api/v1/explain")).json(&asked).send().await;
    let explained: Value = explained.expect("an answer").json().await.expect("JSON");
    let rule = &explained["descriptors"][0]["rule"];
    assert_eq!((&rule["file"], &rule["position"]), (&inner["file"], &inner["position"]), "{explained}");
    let text =
        reqwest::get(service.debug_url("/rlconfig")).await.expect("an answer").text().await.expect("text");
    assert!(text.contains("default/eg/http.user: unit=HOUR requests_per_unit=5"), "{text}");

    // A refused response, sent again and again: one line in the log.
    let mut bad = config("default/eg/http", &[("user", 5)]);
    bad.descriptors[0].rate_limit.as_mut().expect("a limit").unit = 99;
    for number in 0..100 {
        stream.put(&bad).respond("18", &number.to_string());
    }
    let refused = async || get_json(&service.url("/healthcheck")).await.1["xds"]["nacks"] == 100;
    eventually("all refused", refused).await;
    let (_, health) = get_json(&service.url("/healthcheck")).await;
    let rejected = health["xds"]["rejected"].as_str().expect("a reason");
    assert!(
        rejected.starts_with("xds:default/eg/http: descriptors[0 \"user\"].rate_limit.unit: "),
        "{rejected}"
    );
    assert_eq!(health["ready"], true);

    let metrics =
        reqwest::get(service.debug_url("/metrics")).await.expect("an answer").text().await.expect("text");
    for line in [
        "tollgate_xds_connected 1",
        "tollgate_xds_acks 1",
        "tollgate_xds_nacks 100",
        "tollgate_xds_reconnects 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    let log = service.process.whole_output().await;
    assert_eq!(log.matches("rules have errors").count(), 1, "{log}");
}

async fn status_of_call(service: &Tollgate, domain: &str) -> u16 {
    let body = format!(r#"{{"domain": "{domain}", "descriptors": [{{"entries": [{{"key": "k"}}]}}]}}"#);
    let request = reqwest::Client::new().post(service.url("/json")).body(body);
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn a_service_that_is_forced_to_start_is_healthy_and_calls_fail_until_there_are_rules() {
    let mut server = AdsServer::start().await;
    let address = server.address();
    let environment = [
        ("CONFIG_TYPE", "GRPC_XDS_SOTW"),
        ("CONFIG_GRPC_XDS_SERVER_URL", address.as_str()),
        ("FORCE_START_WITHOUT_INITIAL_CONFIG", "true"),
        ("RULES_PATH", ""),
    ];
    let service = Tollgate::start(&[], &environment).await;
    assert_eq!(status_of_call(&service, "shop").await, 503);
    let mut stream = server.stream().await;
    stream.request().await;
    stream.put(&config("shop", &[("k", 5)])).respond("1", "n1");
    stream.request().await;
    assert_eq!((status_of_call(&service, "shop").await, status_of_call(&service, "other").await), (200, 200));
}

#[tokio::test]
async fn the_name_of_the_management_server_is_resolved_again_for_each_connection() {
    let (mut first, mut second) = (AdsServer::start().await, AdsServer::start().await);
    let _forwarding = forward(("127.0.0.2", first.port), second.port).await;
    let hosts = Hosts::new();
    let address = format!("{}:{}", hosts::NAME, first.port);
    let environment = [
        ("CONFIG_TYPE", "GRPC_XDS_SOTW"),
        ("CONFIG_GRPC_XDS_SERVER_URL", address.as_str()),
        ("FORCE_START_WITHOUT_INITIAL_CONFIG", "true"),
        ("RULES_PATH", ""),
    ];
    let _service = Tollgate::start_limited(&hosts.sandbox(), &[], &environment).await;
    first.stream().await.request().await;

    hosts.resolve_to("127.0.0.2");
    drop(first);
    second.stream().await.request().await;
}

#[tokio::test]
async fn domains_that_only_the_server_may_know_fail_until_it_has_answered() {
    let mut server = AdsServer::start().await;
    let address = server.address();
    let environment = [("CONFIG_TYPE", "GRPC_XDS_SOTW"), ("CONFIG_GRPC_XDS_SERVER_URL", address.as_str())];
    let rules = "domain: files\ndescriptors:\n  - {key: k, rate_limit: 3/hour}\n";
    let service = Tollgate::start_unhealthy(&[("files.yaml", rules)], &environment).await;
    assert_eq!((status_of_call(&service, "files").await, status_of_call(&service, "shop").await), (200, 503));
    let mut stream = server.stream().await;
    stream.request().await;
    stream.respond("1", "n1");
    stream.request().await;
    assert_eq!((status_of_call(&service, "files").await, status_of_call(&service, "shop").await), (200, 200));
    eventually("healthy", async || get_json(&service.url("/healthcheck")).await.0 == 200).await;
}

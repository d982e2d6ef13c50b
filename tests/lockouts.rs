//! Lockouts in the real program: who is locked out is listed and let in again, and a login behind a real
//! Envoy gets longer blocks.

use std::process::Command;

use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tollgate::engine::Modes;

use crate::support::admin;
use crate::support::envoy::{self, Config, Envoy};
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::redis::cluster::Cluster;
use crate::support::scenario::check;
use crate::support::service::Service;

const ENVOY: &str = include_str!("../deploy/envoy/lockout.yaml");
const DOCUMENTATION: &str = include_str!("../docs/rules.md");
const PRESET: &str = include_str!("../config/presets/lockout.yaml");

const RULES: &str = "
domain: shop
descriptors:
  - key: login
    descriptors:
      - key: account
        rate_limit: {unit: year, requests_per_unit: 1}
        penalty: {block: [1h, permanent], scope: [account], name: account_lockout}
";

/// True if a failed login as `account` is let through.
async fn fails(service: &Service, account: &str) -> u16 {
    let body = json!({"domain": "shop", "descriptors": [{"entries": [
        {"key": "login", "value": "x"}, {"key": "account", "value": account}]}]});
    let request = Client::new().post(service.url("/json")).body(body.to_string());
    request.send().await.expect("an answer").status().as_u16()
}

async fn lockouts(service: &Service) -> Vec<Value> {
    let answer = reqwest::get(service.debug_url("/lockouts")).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer["truncated"], false);
    answer["lockouts"].as_array().expect("a list").clone()
}

/// The listing, as soon as it has `count` lockouts: one that was read lately is shown again.
async fn listed(service: &Service, count: usize) -> Vec<Value> {
    eventually("the lockouts are listed", async || lockouts(service).await.len() == count).await;
    lockouts(service).await
}

async fn lift(service: &Service, id: &str) -> StatusCode {
    let reason = json!({"reason": "a test"});
    admin::call(service, Method::DELETE, &format!("/lockouts/{id}"), Some(reason)).await.0
}

async fn lockouts_are_listed_and_lifted(environment: &[(&str, &str)]) {
    let file = admin::token_file();
    let path = file.path().display().to_string();
    let environment = [environment, &[("ADMIN_TOKEN_FILE", &*path)]].concat();
    let service = Service::start(&[("rules.yaml", RULES)], &environment).await;
    assert!(lockouts(&service).await.is_empty());
    for account in ["ann", "bob *?[x]"] {
        assert_eq!(fails(&service, account).await, 200);
        assert!(lockouts(&service).await.iter().all(|one| one["entries"]["account"] != account));
        assert_eq!(fails(&service, account).await, 429);
    }
    assert_eq!(fails(&service, "carol").await, 200);

    let found = listed(&service, 2).await;
    let accounts: Vec<_> =
        found.iter().map(|one| one["entries"]["account"].as_str().expect("text")).collect();
    assert_eq!(accounts, ["ann", "bob *?[x]"], "the first to end is listed first");
    let ann = &found[0];
    assert_eq!((&ann["domain"], &ann["name"]), (&json!("shop"), &json!("account_lockout")));
    assert_eq!((&ann["blocks"], &ann["permanent"]), (&json!(1), &json!(false)));
    let ends_in = ann["ends_in_secs"].as_u64().expect("a number");
    assert!((3_500..=3_600).contains(&ends_in), "{ends_in}");

    let id = ann["id"].as_str().expect("text");
    assert_eq!(lift(&service, id).await, StatusCode::OK);
    assert_eq!(lift(&service, id).await, StatusCode::NOT_FOUND);
    assert_eq!(lift(&service, "nobody").await, StatusCode::NOT_FOUND);
    assert_eq!(lockouts(&service).await.len(), 1);
    // The limit is for a year: lifting made it whole again, so that the next failure brings nothing back.
    assert_eq!(fails(&service, "ann").await, 200);
    assert_eq!(lockouts(&service).await.len(), 1);
    assert_eq!(fails(&service, "ann").await, 429);
    let found = listed(&service, 2).await;
    let ann = found.iter().find(|one| one["entries"]["account"] == "ann").expect("she is locked out");
    assert_eq!(ann["blocks"], 1);
}

#[tokio::test]
async fn lockouts_in_memory_are_listed_and_lifted() {
    lockouts_are_listed_and_lifted(&[]).await;
}

#[tokio::test]
async fn ids_are_as_the_documentation_shows_them_but_in_a_cluster() {
    let redis = Redis::start().await;
    let cluster = Cluster::start(3, 0).await;
    let url = redis.settings().deployment.to_string();
    let nodes: Vec<_> = (0..3).map(|node| format!("127.0.0.1:{}", cluster.port(node))).collect();
    let patient = ("REDIS_CALL_TIMEOUT", "5s");
    let (one, many) = ([("REDIS_URL", &*url), patient], nodes.join(","));
    let many = [("REDIS_URL", &*many), ("REDIS_TYPE", "CLUSTER"), patient];
    for (environment, is_cluster) in [(&one[..], false), (&many, true)] {
        let service = Service::start(&[("rules.yaml", RULES)], environment).await;
        assert_eq!([fails(&service, "ann").await, fails(&service, "ann").await], [200, 429]);
        let found = listed(&service, 1).await;
        let id = found[0]["id"].as_str().expect("text");
        let shown = DOCUMENTATION.contains(&format!("\"id\":\"{id}\""))
            && DOCUMENTATION.contains(&format!("admin unlock {id} "));
        assert_eq!((shown, id.starts_with('e')), (!is_cluster, is_cluster), "{id}");
    }
}

#[tokio::test]
async fn lockouts_in_redis_are_listed_and_lifted() {
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let environment = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s"), ("CACHE_KEY_PREFIX", "a*[b]:")];
    lockouts_are_listed_and_lifted(&environment).await;
}

#[tokio::test]
async fn lockouts_in_a_cluster_are_listed_and_lifted() {
    let cluster = Cluster::start(3, 0).await;
    let nodes: Vec<_> = (0..3).map(|node| format!("127.0.0.1:{}", cluster.port(node))).collect();
    let url = nodes.join(",");
    let environment = [("REDIS_URL", &*url), ("REDIS_TYPE", "CLUSTER"), ("REDIS_CALL_TIMEOUT", "5s")];
    lockouts_are_listed_and_lifted(&environment).await;
}

#[tokio::test]
async fn the_example_locks_accounts_at_the_fifth_failure_and_addresses_that_continue() {
    let script = "
domain lockout
@86400
login=,account=a*4 -> OK | OK 0 in 60
login=,account=a -> OVER by account | OVER 0 in 60
@86460
login=,account=a*5 -> OVER by account | OVER 0 in 300
@86760
login=,account=a*5 -> OVER by account | OVER 0 in 900
@87660
login=,account=a*5 -> OVER by account | OVER 0 in 86400
@174060
login=,account=a*5 -> OVER by account | OVER 0 in 86400
@346859
login=,account=a*5 -> OVER by account | OVER 0 in 86400
@519659
login=,account=a*5 -> OVER by account | OVER 0 in 60
login=,remote_address=i*20 -> OK | OK 0 in 1
login=,remote_address=i -> OVER by ip | OVER 0 in 1
login=,remote_address=i -> OVER by ip | OVER 0 in 1
login=,remote_address=i -> OVER by ip | OVER 0 in 900
@520559
login=,remote_address=i*21 -> OVER by ip | OVER 0 in 1
login=,remote_address=i -> OVER by ip | OVER 0 in 1
login=,remote_address=i -> OVER by ip | OVER 0 in 86400
";
    check(PRESET, Modes::default(), script).await;
}

#[test]
fn envoy_takes_the_configuration_of_the_example_as_it_is() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envoy/lockout.yaml");
    let output = Command::new(envoy::binary()).args(["--mode", "validate", "-c", config]).output();
    let output = output.expect("envoy runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Logs in with this password.
async fn log_in(envoy: &Envoy, account: &str, password: &str) -> Response {
    let url = format!("http://127.0.0.1:{}/login", envoy.address().1);
    let request = Client::new().get(url).header("x-user", account).header("x-password", password);
    request.send().await.expect("Envoy answers")
}

/// Fails to log in until Envoy says that there is no use in it; how many failures it took.
async fn fail_until_locked(envoy: &Envoy, account: &str) -> usize {
    for failures in 0..100 {
        let answer = log_in(envoy, account, "wrong").await;
        match answer.status().as_u16() {
            401 => {}
            429 => return failures,
            other => panic!("{other}"),
        }
    }
    panic!("{account} may fail for ever");
}

#[tokio::test]
async fn failed_logins_behind_envoy_lead_to_longer_blocks() {
    // A schedule that reaches its last step within one test.
    let rules = PRESET
        .replace("rate_limit: 4/minute", "rate_limit: {unit: second, requests_per_unit: 4}")
        .replace("block: [1m, 5m, 15m, 1d]", "block: [1s, 1h]")
        .replace("rate_limit: 20/minute", "rate_limit: 2000/minute");
    let file = admin::token_file();
    let path = file.path().display().to_string();
    let settings = [("RESPONSE_HEADERS", "x"), ("ADMIN_TOKEN_FILE", &*path)];
    let service = Service::start(&[("rules.yaml", &rules)], &settings).await;
    let envoy = Envoy::start(&Config::of(ENVOY, &[service.grpc])).await;
    let locked = async |account: &str| {
        let listed = lockouts(&service).await;
        listed.into_iter().find(|one| one["entries"]["account"] == account)
    };

    for _ in 0..20 {
        assert_eq!(log_in(&envoy, "ann", "right").await.status(), 200, "success costs nothing");
    }
    let failures = fail_until_locked(&envoy, "ann").await;
    assert!(failures >= 4, "{failures}");
    assert_eq!(log_in(&envoy, "bob", "right").await.status(), 200, "no other user is locked out");
    eventually("the first block ends by itself", async || {
        log_in(&envoy, "ann", "right").await.status() == 200
    })
    .await;

    fail_until_locked(&envoy, "ann").await;
    eventually("the second block is longer", async || {
        fail_until_locked(&envoy, "ann").await;
        locked("ann").await.is_some_and(|ann| ann["blocks"] == 2)
    })
    .await;
    let ann = locked("ann").await.expect("she is locked out");
    assert!(ann["ends_in_secs"].as_u64().is_some_and(|secs| secs > 3_000), "{ann}");
    let denied = log_in(&envoy, "ann", "right").await;
    assert_eq!(denied.status(), 429, "the right password does not help");
    assert_eq!(denied.headers()["x-ratelimit-type"], "lockout");
    assert_eq!(denied.headers()["x-ratelimit-failed-layer"], "account");
    let wait: u64 = denied.headers()["retry-after"].to_str().expect("text").parse().expect("a number");
    assert!(wait > 3_000, "{wait}");

    assert_eq!(lift(&service, ann["id"].as_str().expect("text")).await, StatusCode::OK);
    eventually("she is let in again", async || log_in(&envoy, "ann", "right").await.status() == 200).await;
}

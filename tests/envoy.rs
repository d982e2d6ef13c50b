//! End to end: a real client, a real Envoy, the real program.
//!
//! Envoy is configured as `deploy/envoy/envoy.yaml` says: it lets requests pass where it has no answer,
//! so a failure would look like a decision. Envoy's own counters tell them apart. Limits are for a year,
//! so that no test meets the end of a window.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tollgate::clock::{Clock as _, SystemClock};

use crate::support::envoy::{self, Config, Envoy};
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const YEAR_SECS: u64 = 31_536_000;

/// Rules of the domain that Envoy asks in: `per_year` for everybody, and `for_bob`, where there is one.
fn rules(per_year: u32, for_bob: Option<u32>) -> String {
    let limit = |per_year| format!("    rate_limit: {{unit: year, requests_per_unit: {per_year}}}\n");
    let everybody = format!("domain: example\ndescriptors:\n  - key: user\n{}", limit(per_year));
    let bob = for_bob.map(|per_year| format!("  - key: user\n    value: bob\n{}", limit(per_year)));
    everybody + &bob.unwrap_or_default()
}

async fn start(rules: &str, environment: &[(&str, &str)]) -> (Tollgate, Envoy) {
    let tollgate = Tollgate::start(&[("rules.yaml", rules)], environment).await;
    let envoy = Envoy::start(&Config::asking(&[tollgate.grpc])).await;
    (tollgate, envoy)
}

/// Asks as `user` until the status is `status`.
async fn reaches(envoy: &Envoy, user: &str, status: u16) {
    eventually(&format!("{user} gets {status}"), async || envoy.status(user).await == status).await;
}

/// Calls of Envoy's that tollgate did not answer.
async fn unanswered(envoy: &Envoy) -> u64 {
    envoy.stat("cluster.upstream.ratelimit.error").await
}

/// The health of tollgate.
async fn health(tollgate: &Tollgate) -> serde_json::Value {
    let request =
        reqwest::Client::new().get(tollgate.url("/healthcheck")).header("accept", "application/json");
    request.send().await.expect("an answer").json().await.expect("JSON")
}

/// Requests in a loop, until it is stopped.
struct Traffic {
    over: CancellationToken,
    workers: JoinSet<BTreeMap<u16, usize>>,
}

impl Traffic {
    /// Begins to ask as `user`.
    fn of(envoy: &Arc<Envoy>, user: &'static str) -> Self {
        let over = CancellationToken::new();
        let worker = |envoy: Arc<Envoy>, over: CancellationToken| async move {
            let mut statuses = BTreeMap::new();
            while !over.is_cancelled() {
                *statuses.entry(envoy.status(user).await).or_default() += 1;
                sleep(Duration::from_millis(2)).await;
            }
            statuses
        };
        let workers = (0..4).map(|_| worker(Arc::clone(envoy), over.clone())).collect();
        Self { over, workers }
    }

    /// Number of answers by status.
    async fn end(self) -> BTreeMap<u16, usize> {
        self.over.cancel();
        let mut statuses = BTreeMap::new();
        for (status, count) in self.workers.join_all().await.into_iter().flatten() {
            *statuses.entry(status).or_default() += count;
        }
        statuses
    }
}

#[test]
fn envoy_takes_the_configuration_as_it_is() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envoy/envoy.yaml");
    let output = Command::new(envoy::binary()).args(["--mode", "validate", "-c", config]).output();
    let output = output.expect("envoy runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_request_after_the_last_allowed_one_gets_429_and_no_other_client_does() {
    let (_tollgate, envoy) = start(&rules(3, Some(1)), &[]).await;
    for (user, statuses) in
        [("alice", &[200, 200, 200, 429, 429][..]), ("bob", &[200, 429]), ("carol", &[200])]
    {
        for (index, status) in statuses.iter().enumerate() {
            assert_eq!(envoy.status(user).await, *status, "request {index} of {user}");
        }
    }
    assert_eq!(unanswered(&envoy).await, 0);
}

#[tokio::test]
async fn clients_get_their_limit_the_remaining_hits_and_the_reset() {
    let (_tollgate, envoy) = start(&rules(2, None), &[]).await;
    for (status, remaining) in [(200, "1"), (200, "0"), (429, "0")] {
        let before = SystemClock.now().as_secs();
        let answer = envoy.get("/", "alice").await;
        let after = SystemClock.now().as_secs();
        let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(answer.status(), status);
        assert_eq!(header("x-ratelimit-limit"), format!("2, 2;w={YEAR_SECS}"));
        assert_eq!(header("x-ratelimit-remaining"), remaining);
        // Rounded up, hence the second more.
        let left = |now: u64| YEAR_SECS - now % YEAR_SECS;
        let reset: u64 = header("x-ratelimit-reset").parse().expect("a number");
        assert!((left(after)..=left(before)).contains(&reset), "{reset} at {before} to {after}");
    }
}

#[tokio::test]
async fn a_limit_that_headers_do_not_show_is_enforced_and_envoy_shows_none() {
    let rules = "
domain: example
descriptors:
  - {key: user, headers: none, rate_limit: {unit: year, requests_per_unit: 1}}
";
    let (_tollgate, envoy) = start(rules, &[("RESPONSE_HEADERS", "draft06")]).await;
    for status in [200, 429] {
        let answer = envoy.get("/", "ann").await;
        assert_eq!(answer.status(), status);
        let names = answer.headers().keys().map(reqwest::header::HeaderName::as_str);
        let shown: Vec<_> = names.filter(|name| name.contains("ratelimit-")).collect();
        assert!(shown.is_empty(), "{status}: {shown:?}");
        assert_eq!(answer.headers().contains_key("retry-after"), status == 429);
    }
}

#[tokio::test]
async fn a_header_that_is_no_text_is_limited_like_any_other() {
    let (_tollgate, envoy) = start(&rules(2, None), &[]).await;
    for (user, status) in [
        (&b"\xff"[..], "200"),
        (b"\xff", "200"),
        (b"\xff", "429"),
        (b"\xfe", "200"),
        (b"caf\xe9 \xff\xff", "200"),
    ] {
        let mut stream = TcpStream::connect(envoy.address()).await.expect("connected");
        let request = [b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-user: ", user, b"\r\n\r\n"];
        stream.write_all(&request.concat()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{user:?}: {answer}");
    }
    assert_eq!(unanswered(&envoy).await, 0);
}

#[tokio::test]
async fn a_look_costs_nothing_and_a_refund_lets_a_denied_user_in_again() {
    let tollgate = Tollgate::start(&[("rules.yaml", &rules(2, None))], &[]).await;
    // Envoy takes `hits_addend` in a route's own configuration of the filter, and nowhere else.
    let route = |path: &str, hits: &str| {
        format!(
            r#"- match: {{prefix: {path}}}
                route: {{cluster: upstream}}
                typed_per_filter_config:
                  envoy.filters.http.ratelimit:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
                    rate_limits:
                    - actions: [{{request_headers: {{header_name: x-user, descriptor_key: user}}}}]
                      hits_addend: {hits}
              "#
        )
    };
    let routes = route("/look", "{number: 0}") + &route("/refund", "{number: 2, is_negative_hits: true}");
    let any = "- match: {prefix: /}\n                route: {cluster: upstream}";
    let config = Config::asking(&[tollgate.grpc]).with(any, &(routes + any));
    let envoy = Envoy::start(&config).await;
    for (step, (path, status, remaining)) in [
        ("/look", 200, "2"),
        ("/", 200, "1"),
        ("/look", 200, "1"),
        ("/", 200, "0"),
        ("/look", 200, "0"),
        ("/", 429, "0"),
        ("/look", 429, "0"),
        ("/refund", 200, "1"),
        ("/look", 200, "1"),
        ("/", 200, "0"),
        ("/refund", 200, "2"),
        ("/refund", 200, "2"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = envoy.get(path, "alice").await;
        let shown = answer.headers()["x-ratelimit-remaining"].to_str().expect("text");
        assert_eq!((answer.status().as_u16(), shown), (status, remaining), "step {step}, {path}");
    }
    assert_eq!(unanswered(&envoy).await, 0);
}

#[tokio::test]
async fn rules_edited_under_traffic_come_into_force_and_no_request_fails() {
    let (tollgate, envoy) = start(&rules(u32::MAX, None), &[]).await;
    let envoy = Arc::new(envoy);
    let traffic = Traffic::of(&envoy, "alice");
    for _ in 0..3 {
        tollgate.write_rules("rules.yaml", &rules(u32::MAX, Some(0)));
        reaches(&envoy, "bob", 429).await;
        tollgate.write_rules("rules.yaml", "domain: example\ndescriptors: {wrong: [");
        tollgate.process.signal("HUP");
        eventually("health reports the error", async || {
            health(&tollgate).await["rules"]["error"].is_string()
        })
        .await;
        assert_eq!(health(&tollgate).await["ready"], true);
        assert_eq!(envoy.status("bob").await, 429, "the last good rules");
        tollgate.write_rules("rules.yaml", &rules(u32::MAX, None));
        reaches(&envoy, "bob", 200).await;
    }
    let statuses = traffic.end().await;
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
    assert_eq!(unanswered(&envoy).await, 0);
}

#[tokio::test]
async fn requests_pass_while_redis_is_away_and_are_limited_again_when_it_is_back() {
    let mut redis = Redis::absent();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    // A key that is known to be over its limit stays denied without Redis.
    let environment =
        [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "1s"), ("LOCAL_CACHE_SIZE_IN_BYTES", "0")];
    let (tollgate, envoy) = start(&rules(u32::MAX, Some(1)), &environment).await;
    let envoy = Arc::new(envoy);
    let traffic = Traffic::of(&envoy, "alice");
    for _ in 0..3 {
        assert_eq!(envoy.status("bob").await, 200, "there is no Redis yet");
    }
    redis.restart().await;
    reaches(&envoy, "bob", 429).await;

    redis.kill();
    reaches(&envoy, "bob", 200).await;
    assert!(unanswered(&envoy).await > 0, "it passed for want of an answer");
    let metrics = reqwest::get(tollgate.debug_url("/metrics")).await.expect("metrics").text().await;
    let error = "ratelimit_service_should_rate_limit_error{err_type=\"redis_error\"}";
    assert!(metrics.expect("text").contains(error));

    redis.restart().await;
    reaches(&envoy, "bob", 429).await;
    let statuses = traffic.end().await;
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
}

#[tokio::test]
async fn a_replica_that_is_stopped_under_traffic_fails_no_request() {
    let rules = rules(u32::MAX, Some(0));
    let delay = [("SHUTDOWN_DELAY", "4s")];
    let mut leaving = Tollgate::start(&[("rules.yaml", &rules)], &delay).await;
    let staying = Tollgate::start(&[("rules.yaml", &rules)], &[]).await;
    let config = Config::asking(&[leaving.grpc, staying.grpc]);
    let envoy = Arc::new(Envoy::start(&config).await);
    let traffic = Traffic::of(&envoy, "alice");
    reaches(&envoy, "bob", 429).await;

    leaving.process.signal("TERM");
    assert_eq!(leaving.process.exit_code(PATIENCE).await, Some(0), "{}", leaving.process.output());
    for _ in 0..20 {
        assert_eq!(envoy.status("bob").await, 429, "the other one answers");
    }
    let statuses = traffic.end().await;
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
    assert_eq!(unanswered(&envoy).await, 0);
}

#[tokio::test]
async fn a_denial_names_its_layer_and_brings_the_body_that_its_rule_asks_for() {
    let rules = r#"
domain: example
defaults: {charge: if_allowed}
descriptors:
  - {key: user, layer: user, rate_limit: {unit: year, requests_per_unit: 3}}
  - key: remote_address
    layer: ip
    rate_limit: {unit: year, requests_per_unit: 2}
    on_deny: {body: problem_json, headers: {x-help: "https://example.com/limits"}}
  - {key: endpoint, layer: endpoint, rate_limit: {unit: year, requests_per_unit: 100}}
"#;
    let tollgate = Tollgate::start(&[("rules.yaml", rules)], &[("RESPONSE_HEADERS", "draft06")]).await;
    let of_user = "- request_headers: {header_name: x-user, descriptor_key: user}";
    let layers = [
        of_user,
        "- actions:\n                - remote_address: {}",
        "- actions:\n                - generic_key: {descriptor_key: endpoint, descriptor_value: /}",
    ];
    let config = Config::asking(&[tollgate.grpc]).with(of_user, &layers.join("\n              "));
    let envoy = Envoy::start(&config).await;
    for (left, user) in [("1", "alice"), ("0", "bob")] {
        let answer = envoy.get("/", user).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["ratelimit-remaining"], left);
        assert!(!answer.headers().contains_key("x-help"));
    }
    let denied = envoy.get("/", "carol").await;
    assert_eq!(denied.status(), 429);
    let header = |name: &str| denied.headers()[name].to_str().expect("text").to_owned();
    assert_eq!(header("x-ratelimit-failed-layer"), "ip");
    assert_eq!(header("x-ratelimit-type"), "fixed_window");
    assert_eq!(header("x-help"), "https://example.com/limits");
    assert_eq!(header("retry-after"), header("ratelimit-reset"));
    assert_eq!(
        denied.headers().get_all("content-type").iter().collect::<Vec<_>>(),
        ["application/problem+json"]
    );
    let body: serde_json::Value = denied.json().await.expect("JSON");
    assert_eq!((&body["status"], &body["layer"]), (&429.into(), &"ip".into()), "{body}");
    assert_eq!(body["violated-policies"], serde_json::json!(["ip"]));
    assert_eq!(unanswered(&envoy).await, 0);
}

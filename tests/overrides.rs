//! Overrides, shadow mode and resets by operators, as clients and operators see them.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use tollgate::store::redis::Deployment;

use crate::support::admin::{TOKENS, call, token_file};
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::redis::cluster::Cluster;
use crate::support::redis::sentinel::{Passwords, Sentinels};
use crate::support::service::Service;

const RULES: &str = "
domain: shop
descriptors:
  - {key: user, layer: user, normalize: [lowercase], rate_limit: 2/year}
  - {key: path, rate_limit: {unit: year, requests_per_unit: 3, algorithm: token_bucket}}
  - {key: account, normalize: [hash], rate_limit: 1/year}
  - {key: plan, rate_limit: {unit: month, requests_per_unit: 3, timezone: UTC}}
  - {key: bucket, rate_limit: {unit: year, requests_per_unit: 60, algorithm: token_bucket, burst: 2}}
  - {key: twin, value: a, rate_limit: 1/year}
  - {key: twin_a, rate_limit: 1/year}
";

/// A service whose admin API takes writes.
struct Replica {
    service: Service,
    _tokens: tempfile::NamedTempFile,
}

impl Replica {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let tokens = token_file();
        let path = tokens.path().display().to_string();
        let own = [("ADMIN_TOKEN_FILE", &*path), ("HASH_KEY", "a-secret-for-tests"), ("THREADS", "1")];
        let service = Service::start(&[("shop.yaml", RULES)], &[&own[..], settings].concat()).await;
        Self { service, _tokens: tokens }
    }

    /// Answer of `/v1/check` to one hit.
    async fn check(&self, entries: Value) -> Value {
        let body = json!({"domain": "shop", "entries": entries});
        let request = Client::new().post(self.service.url("/v1/check")).json(&body);
        request.send().await.expect("an answer").json().await.expect("JSON")
    }

    async fn allows(&self, key: &str, value: &str) -> bool {
        self.check(json!({key: value})).await["allowed"] == true
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = call(&self.service, Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn put(&self, key: &str, value: &str, effect: Value) -> (StatusCode, Value) {
        let mut body = json!({
            "domain": "shop", "descriptor": [{"key": key, "value": value}], "reason": "a test", "ttl": "1h",
        });
        let fields = effect.as_object().expect("fields").clone();
        body.as_object_mut().expect("fields").extend(fields);
        call(&self.service, Method::PUT, "/overrides", Some(body)).await
    }

    /// Sets an override, and returns its id.
    async fn set(&self, key: &str, value: &str, effect: Value) -> String {
        let mut answer = Value::Null;
        eventually("the store answers", async || {
            let status;
            (status, answer) = self.put(key, value, effect.clone()).await;
            assert!(status == StatusCode::OK || status == StatusCode::SERVICE_UNAVAILABLE, "{answer}");
            status == StatusCode::OK
        })
        .await;
        answer["applied"]["id"].as_str().expect("an id").to_owned()
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        call(&self.service, Method::POST, path, Some(body)).await
    }

    async fn delete(&self, id: &str) -> StatusCode {
        let reason = json!({"reason": "a test"});
        call(&self.service, Method::DELETE, &format!("/overrides/{id}"), Some(reason)).await.0
    }

    async fn metric(&self, series: &str) -> String {
        let text = reqwest::get(self.service.debug_url("/metrics")).await.expect("an answer").text().await;
        let text = text.expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn a_block_denies_is_visible_everywhere_and_ends_with_its_deletion() {
    let replica = Replica::start(&[]).await;
    let id = replica.set("user", "Ann", json!({"block": true})).await;
    // The rule makes values lowercase, so it is for every spelling.
    let denied = replica.check(json!({"user": "ANN"})).await;
    assert_eq!(
        (&denied["allowed"], &denied["reason"], &denied["failedLayer"]),
        (&json!(false), &json!("blocked_by_override"), &json!("user")),
    );
    let wait = denied["retryAfter"].as_u64().expect("seconds");
    assert!((3_500..=3_600).contains(&wait), "{denied}");
    assert!(replica.allows("user", "bob").await);

    let body = json!({"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "ann"}]}]});
    let (_, explained) = replica.post("/explain", body).await;
    let outcome = explained["descriptors"][0]["outcome"].as_str().expect("text");
    assert!(
        outcome.starts_with("blocked by an override for ") && outcome.ends_with("shop.user"),
        "{outcome}"
    );
    assert_eq!(
        (&explained["next"], &explained["descriptors"][0]["overridden"]),
        (&json!("denied"), &json!("block"))
    );
    let listed = replica.get("/overrides").await;
    let only = &listed["items"][0];
    assert_eq!(
        (&only["id"], &only["kind"], &only["reason"]),
        (&json!(id), &json!("block"), &json!("a test"))
    );
    assert_eq!(only["descriptor"], json!([{"key": "user", "value": "ann"}]));
    assert_eq!(replica.metric("tollgate_overrides{kind=\"block\"}").await, "1");
    assert_eq!(replica.get("/denials").await["items"][0]["reason"], "blocked_by_override");

    assert_eq!(replica.delete(&id).await, StatusCode::OK);
    assert_eq!(replica.delete(&id).await, StatusCode::NOT_FOUND);
    assert_eq!([replica.allows("user", "ann").await, replica.allows("user", "ann").await], [true; 2]);
    assert!(!replica.allows("user", "ann").await, "the rule applies again, and the block counted nothing");
    assert_eq!(replica.metric("tollgate_overrides{kind=\"block\"}").await, "0");
    let audit = replica.get("/audit").await;
    let entries: Vec<_> = audit["items"].as_array().expect("a list").iter().collect();
    let of = |entry: &Value| {
        (entry["action"].as_str().unwrap().to_owned(), entry["result"].as_str().unwrap().to_owned())
    };
    let found: Vec<_> = entries.iter().map(|entry| of(entry)).collect();
    let expected =
        [("overrides:delete", "not_found"), ("overrides:delete", "done"), ("overrides:set", "done")];
    assert_eq!(found, expected.map(|(action, result)| (action.to_owned(), result.to_owned())));
    assert_eq!(entries[2]["target"], "block shop user=ann");
}

#[tokio::test]
async fn an_exemption_and_another_limit_replace_the_rule_and_each_other() {
    let replica = Replica::start(&[]).await;
    let spent = async || while replica.allows("user", "ann").await {};
    spent().await;
    let id = replica.set("user", "ann", json!({"exempt": true})).await;
    for _ in 0..5 {
        assert!(replica.allows("user", "ann").await);
    }
    // The limit counts on from what the rule has counted: two of five are used, and one was over the limit.
    assert_eq!(replica.set("user", "ann", json!({"limit": "5/year"})).await, id, "one for each descriptor");
    assert_eq!(replica.get("/overrides").await["items"].as_array().map(Vec::len), Some(1));
    let levels = replica.get("/keys?domain=shop&descriptor=user%3Dann").await;
    assert_eq!(
        (&levels["overridden"], &levels["limits"][0]["limit"]["requests"]),
        (&json!("limit"), &json!(5))
    );
    assert_eq!(levels["limits"][0]["used"], 3);
    let answer = replica.check(json!({"user": "ann"})).await;
    assert_eq!((&answer["limit"], &answer["layers"][0]["rule"]), (&json!(5), &json!("override")));
    spent().await;
    assert_eq!(replica.check(json!({"user": "ann"})).await["limit"], 5);
    // A descriptor that no rule matches can have a limit too, and one of a token bucket keeps its algorithm.
    replica.set("color", "red", json!({"limit": "1/year"})).await;
    assert_eq!([replica.allows("color", "red").await, replica.allows("color", "red").await], [true, false]);
    assert!(replica.allows("color", "blue").await);
    replica.set("path", "/", json!({"limit": "10/year"})).await;
    let path = replica.get("/keys?domain=shop&descriptor=path%3D%2F").await;
    assert_eq!(
        path["limits"][0]["limit"],
        json!({
            "requests": 10, "window_secs": 31_536_000, "algorithm": "token_bucket", "burst": null, "timezone": null
        })
    );
}

#[tokio::test]
async fn a_limit_keeps_the_calendar_and_the_burst_of_the_rule() {
    let replica = Replica::start(&[]).await;
    let (_, answer) = replica.put("plan", "gold", json!({"limit": "5/month"})).await;
    assert_eq!(
        answer["applied"]["limit"],
        json!({
            "requests": 5, "window_secs": 2_592_000, "algorithm": "fixed_window", "burst": null, "timezone": "UTC"
        })
    );
    let counter = async |value: &str| {
        let levels = replica.get(&format!("/keys?domain=shop&descriptor=plan%3D{value}")).await;
        levels["limits"][0]["counter"].as_str().expect("a key").replace(value, "")
    };
    assert_eq!(counter("gold").await, counter("iron").await, "the window is the rule's");
    replica.set("bucket", "x", json!({"limit": "90/year"})).await;
    let mut passed = 0;
    while replica.allows("bucket", "x").await {
        passed += 1;
    }
    assert_eq!(passed, 2);
}

#[tokio::test]
async fn shadow_mode_of_one_of_two_rules_with_one_name_is_refused() {
    let replica = Replica::start(&[]).await;
    for rule in ["shop.yaml:9", "shop.yaml:10", "shop.twin_a"] {
        let (status, answer) =
            replica.post("/rules:shadow", json!({"rule": rule, "ttl": "1h", "reason": "x"})).await;
        let error = answer["error"].as_str().expect("an error");
        assert_eq!(status, StatusCode::BAD_REQUEST, "{rule}: {answer}");
        assert!(error.contains("shop.yaml:9 and ") && error.contains("all named 'shop.twin_a'"), "{error}");
    }
}

#[tokio::test]
async fn values_that_rules_hash_are_stored_shown_and_logged_hashed() {
    let replica = Replica::start(&[]).await;
    replica.set("account", "secret-name", json!({"block": true})).await;
    assert!(!replica.allows("account", "secret-name").await);
    assert!(replica.allows("account", "other").await);
    let id = replica.set("account", "secret-name", json!({"limit": "5/year"})).await;
    let body = json!({
        "domain": "shop", "descriptor": [{"key": "account", "value": "secret-name"}], "reason": "a test",
    });
    assert_eq!(replica.post("/keys:reset", body).await.0, StatusCode::OK);
    let text = replica.get("/overrides").await.to_string();
    assert!(text.contains("account") && !text.contains("secret-name"), "{text}");
    assert_eq!(replica.delete(&id).await, StatusCode::OK);
    {
        let (path, text) = ("/audit", replica.get("/audit").await.to_string());
        assert!(text.contains("account") && !text.contains("secret-name"), "{path}: {text}");
    }
}

#[tokio::test]
async fn mistakes_are_named_and_hostile_values_are_values() {
    let replica = Replica::start(&[]).await;
    for (effect, named) in [
        (json!({}), "expected one of"),
        (json!({"block": true, "exempt": true}), "expected one of"),
        (json!({"block": false}), "expected one of"),
        (json!({"limit": "many"}), "limit: write REQUESTS/TIME"),
        (json!({"block": true, "ttl": "soon"}), "ttl: expected a time"),
        (json!({"block": true, "ttl": "0s"}), "ttl: expected at least 1s"),
        (json!({"block": true, "ttl": "1000h"}), "at most 720h"),
        (json!({"block": true, "domain": "none"}), "no rules for 'none'"),
        (json!({"block": true, "descriptor": []}), "at least one entry"),
        (json!({"block": true, "descriptor": [{"key": "", "value": "x"}]}), "must not be empty"),
        (
            json!({"block": true, "descriptor": [{"key": "user", "value": "x".repeat(5_000)}]}),
            "at most 4096 bytes",
        ),
        (json!({"block": true, "reason": " "}), "reason"),
        (json!({"block": true, "more": 1}), "more"),
    ] {
        let (status, answer) = replica.put("user", "ann", effect.clone()).await;
        let error = answer["error"].as_str().expect("an error");
        assert!(status.is_client_error() && error.contains(named), "{effect}: {status} {error}");
    }
    assert_eq!(replica.get("/overrides").await["items"], json!([]));
    for value in ["<script>alert(1)</script>", "line\nevent: forged\r\n", "\"}],\u{0}{", "ä\u{202e}ö", ""] {
        replica.set("user", value, json!({"block": true})).await;
        assert!(!replica.allows("user", value).await, "{value:?}");
        let body = json!({"domain": "shop", "descriptor": [{"key": "user", "value": value}], "reason": value.to_owned() + "x"});
        let (status, answer) = replica.post("/keys:reset", body).await;
        assert_eq!(
            (status, &answer["removed"]),
            (StatusCode::OK, &json!(0)),
            "{value:?}: nothing was counted"
        );
    }
    assert!(replica.allows("user", "ann").await);
}

#[tokio::test]
async fn a_dry_run_reports_the_change_without_making_it() {
    let replica = Replica::start(&[]).await;
    assert!(replica.allows("user", "ann").await);
    let key = json!({"domain": "shop", "descriptor": [{"key": "user", "value": "ann"}], "reason": "a test"});
    let mut block = key.clone();
    (block["block"], block["ttl"]) = (true.into(), "1m".into());
    let (status, answer) = call(&replica.service, Method::PUT, "/overrides?dry_run=1", Some(block)).await;
    assert_eq!(
        (status, &answer["dry_run"], &answer["rule"]),
        (StatusCode::OK, &json!(true), &json!("shop.user"))
    );
    let shadow = json!({"rule": "shop.user", "ttl": "1m", "reason": "a test"});
    assert_eq!(replica.post("/rules:shadow?dry_run=1", shadow).await.0, StatusCode::OK);
    let (status, answer) = replica.post("/keys:reset?dry_run=1", key).await;
    let counter = &answer["counters"][0];
    assert_eq!((status, &counter["used"], &answer["removed"]), (StatusCode::OK, &json!(1), &json!(0)));
    assert!(counter["counter"].as_str().is_some_and(|key| key.contains("4:user,3:ann,")), "{answer}");
    assert_eq!(replica.get("/overrides").await["items"], json!([]));
    assert_eq!([replica.allows("user", "ann").await, replica.allows("user", "ann").await], [true, false]);
}

#[tokio::test]
async fn a_rule_in_shadow_mode_counts_and_denies_nothing_until_it_ends() {
    let replica = Replica::start(&[]).await;
    while replica.allows("user", "ann").await {}
    for rule in ["shop.yaml:4", "shop.user"] {
        let body = json!({"rule": rule, "ttl": "1h", "reason": "an incident"});
        let (status, answer) = replica.post("/rules:shadow", body).await;
        assert_eq!((status, &answer["rule"]), (StatusCode::OK, &json!("shop.user")), "{answer}");
        assert!(replica.allows("user", "ann").await);
    }
    let listed = replica.get("/overrides").await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "one for each rule: {listed}");
    let source = listed["items"][0]["source"].as_str().expect("a position");
    assert!(source.ends_with("/shop.yaml:4"), "{source}");
    let levels = replica.get("/keys?domain=shop&descriptor=user%3Dann").await;
    assert_eq!((&levels["enforced"], &levels["denied"]), (&json!(false), &json!(true)));
    assert_eq!(levels["overridden"], "shadow");
    assert!(
        levels["outcome"].as_str().is_some_and(|text| text.contains("into shadow mode for 5")),
        "{levels}"
    );
    let rules = replica.get("/rules").await;
    let rule = |path: &str| {
        let mut items = rules["items"].as_array().expect("a list").iter();
        items.find(|item| item["rule"] == path).cloned().expect("the rule")
    };
    let [user, path] = [rule("shop.user"), rule("shop.path")];
    assert_eq!(
        (&user["shadow_mode"], &user["shadow_ends_at"]),
        (&json!(true), &listed["items"][0]["ends_at"])
    );
    assert_eq!((&path["shadow_mode"], &path["shadow_ends_at"]), (&json!(false), &json!(null)));
    // Three until it was denied, and one in each mode: totals are those of now.
    assert_eq!(user["hits"], 5);
    for (rule, named) in [("shop.yaml:99", "no rule"), ("yaml:4", "no rule"), ("", "no rule")] {
        let (status, answer) =
            replica.post("/rules:shadow", json!({"rule": rule, "ttl": "1h", "reason": "x"})).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(named)), "{answer}");
    }
    let path = format!("/api/v1/overrides/{}", listed["items"][0]["id"].as_str().expect("an id"));
    let operator = Client::new().delete(replica.service.admin_url(&path)).bearer_auth(TOKENS[1].1);
    let answer = operator.json(&json!({"reason": "x"})).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::FORBIDDEN, "as setting it, it takes the role admin");
    assert_eq!(replica.delete(listed["items"][0]["id"].as_str().expect("an id")).await, StatusCode::OK);
    assert!(!replica.allows("user", "ann").await);
}

#[tokio::test]
async fn a_write_with_an_idempotency_key_is_done_once() {
    let replica = Replica::start(&[]).await;
    let reset = async |key: &'static str, value: &str| {
        let body =
            json!({"domain": "shop", "descriptor": [{"key": "user", "value": value}], "reason": "a test"});
        let request =
            Client::new().post(replica.service.admin_url("/api/v1/keys:reset")).bearer_auth(TOKENS[1].1);
        let answer = request.header("idempotency-key", key).json(&body).send().await.expect("an answer");
        let is_replayed = answer.headers().contains_key("idempotency-replayed");
        (answer.status(), is_replayed, answer.json::<Value>().await.expect("JSON")["removed"].clone())
    };
    let (ok, other) = (StatusCode::OK, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(replica.allows("user", "ann").await);
    assert_eq!(reset("one", "ann").await, (ok, false, json!(1)));
    assert!(replica.allows("user", "ann").await);
    assert_eq!(reset("one", "ann").await, (ok, true, json!(1)), "the first answer");
    let levels = replica.get("/keys?domain=shop&descriptor=user%3Dann").await;
    assert_eq!(levels["limits"][0]["used"], 1, "and no second reset");
    assert_eq!(reset("one", "bob").await, (other, false, json!(null)));
    assert_eq!(reset("two", "ann").await, (ok, false, json!(1)));
    assert_eq!(reset("", "ann").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_reset_under_an_override_resets_the_counter_of_the_rule_too() {
    let replica = Replica::start(&[]).await;
    let spent = async || while replica.allows("user", "ann").await {};
    spent().await;
    let id = replica.set("user", "ann", json!({"limit": "1/hour"})).await;
    spent().await;
    let body = json!({"domain": "shop", "descriptor": [{"key": "user", "value": "ann"}], "reason": "a test"});
    let (status, answer) = replica.post("/keys:reset", body).await;
    assert_eq!((status, &answer["removed"]), (StatusCode::OK, &json!(2)), "{answer}");
    assert_eq!(answer["counters"].as_array().map(Vec::len), Some(2));
    assert_eq!([replica.allows("user", "ann").await, replica.allows("user", "ann").await], [true, false]);
    assert_eq!(replica.delete(&id).await, StatusCode::OK);
    assert_eq!([replica.allows("user", "ann").await, replica.allows("user", "ann").await], [true, true]);
}

#[tokio::test]
async fn explain_answers_for_the_hits_of_the_request() {
    let replica = Replica::start(&[]).await;
    let next = async |hits: Option<u32>| {
        let descriptors = json!([{"entries": [{"key": "user", "value": "ann"}]}]);
        let mut body = json!({"domain": "shop", "descriptors": descriptors});
        hits.into_iter().for_each(|hits| body["hits"] = hits.into());
        replica.post("/explain", body).await.1["next"].as_str().expect("a verdict").to_owned()
    };
    assert_eq!([next(Some(2)).await, next(Some(3)).await], ["allowed", "denied"]);
    assert!(replica.allows("user", "ann").await);
    assert_eq!(
        [next(None).await, next(Some(1)).await, next(Some(2)).await],
        ["allowed", "allowed", "denied"]
    );
}

async fn counters_are_reset(settings: &[(&str, &str)]) {
    let replica = Replica::start(settings).await;
    for (key, value) in [("user", "ann"), ("path", "/")] {
        eventually("the store counts", async || replica.allows(key, value).await).await;
        while replica.allows(key, value).await {}
        let body =
            json!({"domain": "shop", "descriptor": [{"key": key, "value": value}], "reason": "a test"});
        let (status, answer) = replica.post("/keys:reset", body.clone()).await;
        assert_eq!((status, &answer["removed"]), (StatusCode::OK, &json!(1)), "{answer}");
        // Also the denial that this process knows is gone.
        assert!(replica.allows(key, value).await, "{key}");
    }
    let body =
        json!({"domain": "shop", "descriptor": [{"key": "color", "value": "red"}], "reason": "a test"});
    assert_eq!(replica.post("/keys:reset", body).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn counters_in_memory_are_reset() {
    counters_are_reset(&[]).await;
}

#[tokio::test]
async fn counters_in_redis_are_reset() {
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    counters_are_reset(&[("REDIS_URL", &url), ("REDIS_CALL_TIMEOUT", "5s")]).await;
}

/// Sets an override on one of three replicas, and returns when it is in force on all. It expires on time, and
/// survives a restart.
async fn an_override_reaches_every_replica(settings: &[(&str, &str)]) {
    let settings = [settings, &[("REDIS_CALL_TIMEOUT", "5s"), ("ADMIN_PORT", "0")]].concat();
    let replicas =
        [Replica::start(&settings).await, Replica::start(&settings).await, Replica::start(&settings).await];
    // By the override, and not by the rule, of which these requests are a part.
    let is_blocked = async |replica: &Replica, value: &str| {
        replica.check(json!({"path": value})).await["reason"] == "blocked_by_override"
    };
    let are_blocked = async |value: &str| {
        for replica in &replicas {
            if !is_blocked(replica, value).await {
                return false;
            }
        }
        true
    };
    let id = replicas[0].set("path", "/blocked", json!({"block": true})).await;
    assert!(is_blocked(&replicas[0], "/blocked").await, "where it was set it is in force at once");
    eventually("it is in force everywhere", async || are_blocked("/blocked").await).await;
    // Within a second, unless this machine is busy: then in one of some attempts.
    let mut fastest = Duration::MAX;
    for attempt in 0..5 {
        let path = format!("/fast-{attempt}");
        let set_at = Instant::now();
        let id = replicas[0].set("path", &path, json!({"block": true})).await;
        eventually("it is in force everywhere", async || are_blocked(&path).await).await;
        fastest = fastest.min(set_at.elapsed());
        assert_eq!(replicas[0].delete(&id).await, StatusCode::OK);
        if fastest < Duration::from_secs(1) {
            break;
        }
    }
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    let restarted = Replica::start(&settings).await;
    eventually("it survives a restart", async || is_blocked(&restarted, "/blocked").await).await;
    assert_eq!(replicas[1].delete(&id).await, StatusCode::OK);
    eventually("it is deleted everywhere", async || {
        replicas[2].get("/overrides").await["items"] == json!([])
    })
    .await;

    let set_at = Instant::now();
    replicas[2].set("path", "/short", json!({"block": true, "ttl": "2s"})).await;
    eventually("it ends", async || replicas[2].allows("path", "/short").await).await;
    assert!(set_at.elapsed() >= Duration::from_secs(2), "not before its time");
    for replica in &replicas {
        eventually("it has ended everywhere", async || replica.get("/overrides").await["items"] == json!([]))
            .await;
    }
}

#[tokio::test]
async fn an_override_reaches_every_replica_on_one_redis() {
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    an_override_reaches_every_replica(&[("REDIS_URL", &url), ("CACHE_KEY_PREFIX", "a:")]).await;
}

#[tokio::test]
async fn an_override_reaches_every_replica_on_sentinel() {
    let sentinel = Sentinels::start(Passwords::default()).await;
    let Deployment::Sentinel { primary, sentinels } = sentinel.settings().deployment else {
        panic!("Sentinels")
    };
    let sentinels: Vec<_> = sentinels.iter().map(ToString::to_string).collect();
    let url = format!("redis-sentinel://{}/{primary}", sentinels.join(","));
    an_override_reaches_every_replica(&[("REDIS_URL", &url)]).await;
}

#[tokio::test]
async fn an_override_reaches_every_replica_on_a_cluster() {
    let cluster = Cluster::start(3, 0).await;
    let nodes: Vec<_> = (0..3).map(|node| format!("127.0.0.1:{}", cluster.port(node))).collect();
    an_override_reaches_every_replica(&[("REDIS_URL", &nodes.join(",")), ("REDIS_TYPE", "CLUSTER")]).await;
}

#[tokio::test]
async fn without_redis_the_last_known_overrides_stay_in_force() {
    let mut redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let replica = Replica::start(&[("REDIS_URL", &url)]).await;
    replica.set("user", "ann", json!({"block": true})).await;
    redis.kill();
    eventually("the failure is shown", async || !replica.get("/overrides").await["error"].is_null()).await;
    assert_eq!(replica.check(json!({"user": "ann"})).await["reason"], "blocked_by_override");
    let (status, answer) = replica.put("user", "bob", json!({"block": true})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
}

#[tokio::test]
async fn overrides_that_redis_has_lost_are_written_back() {
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let settings = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s")];
    let replica = Replica::start(&settings).await;
    replica.set("user", "ann", json!({"block": true})).await;
    let deleted = replica.set("user", "bob", json!({"block": true})).await;
    assert_eq!(replica.delete(&deleted).await, StatusCode::OK);
    redis.command(["FLUSHALL"]);
    let other = Replica::start(&settings).await;
    let listed = async |replica: &Replica| replica.get("/overrides").await["items"].as_array().map(Vec::len);
    eventually("it is in force again", async || listed(&other).await == Some(1)).await;
    assert_eq!(other.check(json!({"user": "ann"})).await["reason"], "blocked_by_override");
    // Deleted ones are not taken for lost ones, whichever replica knew them.
    let id = other.get("/overrides").await["items"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(other.delete(&id).await, StatusCode::OK);
    eventually("it is gone", async || listed(&replica).await == Some(0)).await;
    redis.command(["FLUSHALL"]);
    other.set("user", "cleo", json!({"block": true})).await;
    eventually("changes go on", async || listed(&replica).await == Some(1)).await;
    assert!(replica.allows("user", "ann").await);
}

#[tokio::test]
async fn overrides_that_two_replicas_set_at_once_are_all_kept() {
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let settings = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s")];
    let replicas = [Replica::start(&settings).await, Replica::start(&settings).await];
    let set = async |replica: &Replica, name: &str| {
        for number in 0..20 {
            replica.set("user", &format!("{name}{number}"), json!({"block": true})).await;
        }
    };
    tokio::join!(set(&replicas[0], "a"), set(&replicas[1], "b"));
    for replica in &replicas {
        eventually("all are in force", async || {
            replica.get("/overrides").await["items"].as_array().map(Vec::len) == Some(40)
        })
        .await;
    }
}

#[tokio::test]
async fn a_replica_without_an_admin_listener_applies_overrides_and_does_nothing_else_for_operators() {
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let settings = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s"), ("CACHE_KEY_PREFIX", "a:")];
    let without = Replica::start(&[&settings[..], &[("ADMIN_PORT", "off")]].concat()).await;
    let replica = Replica::start(&settings).await;
    replica.set("user", "ann", json!({"block": true})).await;
    eventually("it applies", async || {
        without.check(json!({"user": "ann"})).await["reason"] == "blocked_by_override"
    })
    .await;
    eventually("the other one is listed", async || redis.command(["HLEN", "a:tgf1/fleet"]).trim() == "1")
        .await;
    assert_eq!(without.metric("tollgate_overrides{kind=\"block\"}").await, "1");
}

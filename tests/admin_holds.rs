//! Budgets and places as operators see them: in the API, the console and the commands, on both stores.

use std::process::Command;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::admin::{TOKENS, call, token_file};
use crate::support::redis::Redis;
use crate::support::service::Service;

pub(crate) const RULES: &str = "
domain: ai
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 1000, name: tokens}
    reserve: {amount: 400, ttl: 10m}
  - key: tenant
    concurrency: {max: 3, ttl: 2m, name: in-flight}
  - key: small
    rate_limits: [100/day, 1000/year]
    reserve: {amount: 400, max: 50%, ttl: 5m}
  - key: bucket
    rate_limit: {unit: hour, requests_per_unit: 10, algorithm: token_bucket}
";

/// A service whose admin API takes writes.
pub(crate) struct Replica {
    pub(crate) service: Service,
    tokens: tempfile::NamedTempFile,
    _redis: Option<Redis>,
}

impl Replica {
    /// One on each store.
    pub(crate) async fn each() -> [Self; 2] {
        let redis = Redis::start().await;
        let url = format!("redis://127.0.0.1:{}", redis.port());
        let on_redis = Self::start(&[("REDIS_URL", &url), ("REDIS_CALL_TIMEOUT", "5s")], Some(redis)).await;
        [Self::start(&[], None).await, on_redis]
    }

    async fn start(settings: &[(&str, &str)], redis: Option<Redis>) -> Self {
        let tokens = token_file();
        let path = tokens.path().display().to_string();
        let own = [("ADMIN_TOKEN_FILE", &*path), ("THREADS", "1")];
        let service = Service::start(&[("ai.yaml", RULES)], &[&own[..], settings].concat()).await;
        Self { service, tokens, _redis: redis }
    }

    /// Answer of the API for applications.
    pub(crate) async fn post(&self, path: &str, entries: Value, more: Value) -> (StatusCode, Value) {
        let mut body = json!({ "domain": "ai", "entries": entries });
        let more = more.as_object().expect("members").clone();
        body.as_object_mut().expect("members").extend(more);
        let request = Client::new().post(self.service.url(path)).json(&body);
        let answer = request.send().await.expect("an answer");
        (answer.status(), answer.json().await.expect("JSON"))
    }

    /// Holds `amount` for the user, and returns its ticket.
    pub(crate) async fn reserve(&self, amount: u32) -> Value {
        let (status, answer) =
            self.post("/v1/reserve", json!({ "user": "a" }), json!({ "amount": amount })).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["ticket"].clone()
    }

    pub(crate) async fn settle(&self, ticket: &Value, more: Value) -> Value {
        let mut body = more;
        body["ticket"] = ticket.clone();
        let (status, answer) = self.post("/v1/settle", json!({ "user": "a" }), body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Takes a place of the tenant, if there is one, and returns its ticket.
    pub(crate) async fn acquire(&self) -> Option<Value> {
        let (_, answer) = self.post("/v1/acquire", json!({ "tenant": "a" }), json!({})).await;
        answer.get("ticket").cloned()
    }

    /// Limit of a key, as the admin API shows it, and whether one more is denied.
    pub(crate) async fn level(&self, key: &str) -> (Value, Value) {
        let path = format!("/keys?domain=ai&descriptor={key}%3Da");
        let (status, answer) = call(&self.service, Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        (answer["limits"][0].clone(), answer["denied"].clone())
    }

    /// Explanation of a request, and its one descriptor's status.
    async fn next(&self, key: &str, hits: Option<u32>) -> Value {
        let descriptors = json!([{ "entries": [{ "key": key, "value": "a" }] }]);
        let mut body = json!({ "domain": "ai", "descriptors": descriptors });
        hits.into_iter().for_each(|hits| body["hits"] = hits.into());
        let (status, answer) = call(&self.service, Method::POST, "/explain", Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["descriptors"][0]["next"].clone()
    }

    /// Output of a command.
    async fn prints(&self, command: &[&str], arguments: &[&str]) -> String {
        let tokens = self.tokens.path().display().to_string();
        let admin = format!("127.0.0.1:{}", self.service.admin);
        let mut run = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        run.env_clear().args(command);
        run.args(["--address", &admin, "--token-file", &tokens]).args(arguments);
        let output = tokio::task::spawn_blocking(move || run.output().expect("it runs")).await;
        let output = output.expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn page(&self, path: &str) -> String {
        let request = Client::new().get(self.service.admin_url(path)).bearer_auth(TOKENS[0].1);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        without_tags(&answer.text().await.expect("text"))
    }
}

/// Text of a page, without white space that repeats.
fn without_tags(page: &str) -> String {
    let texts = page.split('<').map(|part| part.split_once('>').map_or("", |(_, text)| text));
    texts.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_api_shows_what_a_budget_has_used_and_what_it_holds() {
    for replica in Replica::each().await {
        let (untouched, denied) = replica.level("user").await;
        let mut expected = json!({
            "reserve": 400, "ttl_secs": 600, "held": 0, "holds": 0, "first_ends_in_secs": null,
        });
        assert_eq!((&untouched["budget"], &untouched["used"], denied), (&expected, &json!(0), json!(false)));

        let before = Instant::now();
        let ticket = replica.reserve(300).await;
        replica.reserve(350).await;
        replica.settle(&ticket, json!({ "amount": 120, "final": false })).await;
        let (level, denied) = replica.level("user").await;
        let first = level["budget"]["first_ends_in_secs"].as_u64().expect("seconds");
        assert!((599 - before.elapsed().as_secs()..=600).contains(&first), "{level}");
        (expected["held"], expected["holds"], expected["first_ends_in_secs"]) =
            (json!(530), json!(2), json!(first));
        assert_eq!(
            (&level["budget"], &level["used"], &level["remaining"]),
            (&expected, &json!(120), &json!(350))
        );
        assert_eq!((&level["places"], denied), (&Value::Null, json!(true)), "400 do not fit beside the rest");

        let reservation = replica.next("user", None).await;
        assert_eq!(
            ["hits", "effect", "verdict", "held"].map(|name| reservation[name].clone()),
            [json!(400), json!("reserve"), json!("denied"), json!(true)],
            "{reservation}"
        );
        let settlement = replica.next("user", Some(5_000)).await;
        assert_eq!(
            ["hits", "effect", "verdict"].map(|name| settlement[name].clone()),
            [json!(5_000), json!("settle"), json!("allowed")],
            "over gRPC, hits are counted in any case: {settlement}"
        );
        assert_eq!(replica.level("user").await.0["used"], 120, "nothing was counted");
    }
}

#[tokio::test]
async fn the_api_shows_the_places_that_are_taken() {
    for replica in Replica::each().await {
        let free = json!({ "taken": 0, "max": 3, "ttl_secs": 120, "first_ends_in_secs": null });
        assert_eq!(replica.level("tenant").await.0["places"], free);
        let before = Instant::now();
        assert_eq!((replica.acquire().await.is_some(), replica.acquire().await.is_some()), (true, true));
        let (level, denied) = replica.level("tenant").await;
        let places = &level["places"];
        assert_eq!([&places["taken"], &places["max"], &level["remaining"]], [2, 3, 1], "{level}");
        let first = places["first_ends_in_secs"].as_f64().expect("seconds");
        assert!(first <= 120.0 && first >= 119.0 - before.elapsed().as_secs_f64(), "{level}");
        assert_eq!((&level["budget"], denied), (&Value::Null, json!(false)));
        replica.acquire().await.expect("the last one");
        assert_eq!(replica.level("tenant").await.1, true);
        assert_eq!(replica.next("tenant", None).await["verdict"], "denied");
    }
}

#[tokio::test]
async fn commands_and_pages_name_holds_and_places() {
    let [replica, _] = Replica::each().await;
    replica.reserve(300).await;
    let ticket = replica.reserve(350).await;
    replica.settle(&ticket, json!({ "amount": 20 })).await;
    replica.acquire().await.expect("a place");

    let key = replica.prints(&["admin", "key"], &["-d", "ai", "user=a"]).await;
    for expected in ["1000 per 365d, reserves 400 for 10m", "HELD", "300 (1 hold, ends in "] {
        assert!(key.contains(expected), "{expected}: {key}");
    }
    assert!(key.ends_with("\na reservation of 400: allowed\n"), "{key}");
    let places = replica.prints(&["admin", "key"], &["-d", "ai", "tenant=a"]).await;
    assert!(places.contains("3 in flight, ttl 2m") && !places.contains("HELD"), "{places}");

    let explained = replica.prints(&["explain"], &["-d", "ai", "user=a", "tenant=a", "bucket=a"]).await;
    for expected in [
        ", fixed_window, reserves 400 for 10m; 20 of 1000 used, 300 held (1 hold, ends in ",
        ", 680 left, reset in ",
        "a reservation of 400: allowed, 680 left before it\n",
        "in-flight: 3 in flight, ttl 2m; 1 of 3 places taken, the first ends in ",
        "one more hit: allowed, 2 left before it\n",
        "10 per hour, token_bucket, burst 10; 0 of 10 used; counter ",
        "\nthe request: allowed\n",
    ] {
        assert!(explained.contains(expected), "{expected}: {explained}");
    }
    assert!(!explained.contains("charge overdraft") && !explained.contains("reset in 0s"), "{explained}");
    let hits = replica.prints(&["admin", "explain"], &["-d", "ai", "--hits", "900", "user=a"]).await;
    assert!(hits.contains("a settlement with 900: counted, and never denied\n"), "{hits}");
    let rules = replica.prints(&["admin", "rules"], &[]).await;
    let of_small = "100 per 1d, reserves 50 for 5m, 1000 per 365d, reserves 400 for 5m";
    for expected in ["1000 per 365d, reserves 400 for 10m", "3 in flight, ttl 2m", of_small] {
        assert!(rules.contains(expected), "{expected}: {rules}");
    }

    for (path, expected) in [
        (
            "/key?domain=ai&descriptor=user%3Da",
            "reserves 400 for 10m tokens fixed_window 20 300 (1 hold, ends in ",
        ),
        ("/key?domain=ai&descriptor=user%3Da", "A reservation of 400 would be allowed ."),
        ("/key?domain=ai&descriptor=tenant%3Da", "3 in flight, ttl 2m in-flight concurrency 1 2 "),
        ("/explain?domain=ai&descriptors=user%3Da&hits=5", "a settlement with 5: counted, and never denied."),
        ("/rules", "reserves 400 for 10m"),
        ("/rules", "3 in flight, ttl 2m"),
        ("/rules", "100/1d, reserves 50 for 5m, 1000/365d, reserves 400 for 5m"),
    ] {
        let page = replica.page(path).await;
        assert!(page.contains(expected), "{expected}: {page}");
    }
}

/// An override of the same window counts in the counter of the rule, and knows nothing of its holds.
#[tokio::test]
async fn a_reset_under_an_override_ends_the_holds_of_the_rule() {
    for replica in Replica::each().await {
        let settled = replica.reserve(200).await;
        replica.settle(&settled, json!({ "amount": 150 })).await;
        replica.reserve(300).await;
        let descriptor = json!([{ "key": "user", "value": "a" }]);
        let body = json!({ "domain": "ai", "descriptor": descriptor, "reason": "a test" });
        let mut limit = body.clone();
        (limit["limit"], limit["ttl"]) = (json!("2000/year"), json!("1h"));
        let (status, set) = call(&replica.service, Method::PUT, "/overrides", Some(limit)).await;
        assert_eq!(status, StatusCode::OK, "{set}");
        assert_eq!(replica.level("user").await.0["limit"]["requests"], 2_000, "it is in force");

        let (status, answer) = call(&replica.service, Method::POST, "/keys:reset", Some(body)).await;
        assert_eq!((status, &answer["removed"]), (StatusCode::OK, &json!(1)), "{answer}");
        assert_eq!(answer["counters"].as_array().map(Vec::len), Some(1), "{answer}");
        let before = &answer["counters"][0];
        assert_eq!([&before["used"], &before["budget"]["held"]], [150, 300], "{answer}");

        let path = format!("/overrides/{}", set["applied"]["id"].as_str().expect("an id"));
        let reason = json!({ "reason": "a test" });
        let (status, answer) = call(&replica.service, Method::DELETE, &path, Some(reason)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let level = replica.level("user").await.0;
        assert_eq!(
            [&level["used"], &level["budget"]["held"], &level["budget"]["holds"]],
            [0, 0, 0],
            "{level}"
        );
        assert_eq!(replica.settle(&settled, json!({ "amount": 150 })).await["first"], false);
        assert_eq!(replica.level("user").await.0["used"], 0, "nothing is counted twice");
    }
}

/// A reset gives a client all of its limit back at once. What requests in flight settle later is counted, and nothing
/// twice.
#[tokio::test]
async fn a_reset_ends_holds_and_what_is_settled_stays_settled() {
    for replica in Replica::each().await {
        let reset = async |key: &str, more: &str| {
            let descriptor = json!([{ "key": key, "value": "a" }]);
            let body = json!({ "domain": "ai", "descriptor": descriptor, "reason": "a test" });
            let path = format!("/keys:reset{more}");
            let (status, answer) = call(&replica.service, Method::POST, &path, Some(body)).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            answer
        };
        let usage = async || {
            let level = replica.level("user").await.0;
            [&level["used"], &level["budget"]["held"], &level["budget"]["holds"]].map(|of| of.as_u64())
        };
        let [settled, part, open] =
            [replica.reserve(200).await, replica.reserve(300).await, replica.reserve(400).await];
        replica.settle(&settled, json!({ "amount": 150 })).await;
        replica.settle(&part, json!({ "amount": 120, "final": false })).await;
        assert_eq!(usage().await, [270, 580, 2].map(Some));
        let dry = reset("user", "?dry_run=1").await;
        assert_eq!((&dry["removed"], &dry["counters"][0]["budget"]["held"]), (&json!(0), &json!(580)));
        assert_eq!(usage().await, [270, 580, 2].map(Some), "a dry run changes nothing");

        assert_eq!(reset("user", "").await["removed"], 1);
        assert_eq!(usage().await, [0, 0, 0].map(Some));
        assert_eq!(reset("user", "").await["removed"], 0, "there is nothing left");
        assert_eq!(replica.settle(&settled, json!({ "amount": 150 })).await["first"], false);
        let extended = replica.post("/v1/extend", json!({ "user": "a" }), json!({ "ticket": open })).await;
        assert_eq!(extended.0, StatusCode::NOT_FOUND, "{extended:?}");
        assert_eq!(usage().await, [0, 0, 0].map(Some));
        let late = replica.settle(&part, json!({ "amount": 200 })).await;
        assert_eq!((&late["late"], usage().await), (&json!(true), [80, 0, 0].map(Some)), "the rest: {late}");
        replica.settle(&open, json!({ "amount": 90 })).await;
        assert_eq!(usage().await, [170, 0, 0].map(Some), "in full");
        assert_eq!(replica.settle(&open, json!({ "amount": 90 })).await["first"], false);

        let ticket = replica.acquire().await.expect("a place");
        assert!(replica.acquire().await.is_some() && replica.acquire().await.is_some());
        assert!(replica.acquire().await.is_none());
        assert_eq!(reset("tenant", "").await["removed"], 1);
        assert!(replica.acquire().await.is_some(), "the places are free");
        let released =
            replica.post("/v1/release", json!({ "tenant": "a" }), json!({ "ticket": ticket })).await;
        assert_eq!(released.1, json!({ "released": false }));
        assert_eq!(
            replica.level("tenant").await.0["places"]["taken"],
            1,
            "an old ticket frees none of the new"
        );
    }
}

/// The protocol has no word for requests in flight, nor for windows of any length.
#[tokio::test]
async fn query_names_limits_that_the_protocol_cannot() {
    let service = Service::start(&[("ai.yaml", RULES)], &[]).await;
    let mut query = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    query.env_clear().args(["query", "-d", "ai", "--address", &format!("127.0.0.1:{}", service.grpc)]);
    query.args(["tenant=a", "bucket=a"]);
    let output =
        tokio::task::spawn_blocking(move || query.output().expect("it runs")).await.expect("it ends");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("3 in flight") && shown.contains("10 per hour"), "{shown}");
    assert!(!shown.contains("per window"), "{shown}");
}

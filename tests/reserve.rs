//! Budgets of the running program: over HTTP and over gRPC.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::google::protobuf::UInt64Value;
use envoy_types::pb::google::protobuf::value::Kind;
use reqwest::Client;
use serde_json::{Value, json};

use crate::support::load::request;
use crate::support::redis::Redis;
use crate::support::service::Service;

const RULES: &str = "
domain: ai
prices: {gpt-5-mini: {input: 0.25, cached: 0.025, output: 2.00}, large: {input: 10, output: 20}}
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 1000, name: tokens}
    reserve: {amount: 400, ttl: 10m, max: 50%}
  - key: app
    rate_limit: {unit: year, requests_per_unit: 1000}
    reserve: {amount: 400, ttl: 10m, on_look: false}
  - key: money
    rate_limit: {unit: year, requests_per_unit: 1000000}
    reserve: {amount: 400, ttl: 10m, count: cost}
  - key: weighted
    rate_limit: {unit: year, requests_per_unit: 1000000}
    reserve: {amount: 400, ttl: 10m, count: {input: 1, output: 4}}
  - {key: requests, rate_limit: {unit: year, requests_per_unit: 2}, charge: if_allowed}
  - {key: small, rate_limit: {unit: year, requests_per_unit: 100}, reserve: {amount: 400, ttl: 10m}}
  - {key: tenant, concurrency: {max: 2, ttl: 20m}}
  - key: auto
    rate_limit: {unit: year, requests_per_unit: 16000}
    reserve: {amount: auto, max: 50%, ttl: 10m}
";

struct Api(Service);

impl Api {
    async fn start(settings: &[(&str, &str)]) -> Self {
        Self(Service::start(&[("rules.yaml", RULES)], settings).await)
    }

    async fn post(&self, path: &str, entries: Value, more: Value) -> (u16, Value) {
        let mut body = json!({ "domain": "ai", "entries": entries });
        let Value::Object(more) = more else { panic!("no members: {more}") };
        more.into_iter().for_each(|(name, value)| body[name] = value);
        let answer = Client::new().post(self.0.url(path)).body(body.to_string()).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// Tokens that the user has used and that are held, and the number of holds.
    async fn usage(&self, user: &str) -> [u64; 3] {
        let url = self.0.url(&format!("/v1/usage?domain=ai&user={user}"));
        let answer: Value = reqwest::get(url).await.expect("an answer").json().await.expect("JSON");
        ["used", "held", "holds"].map(|name| answer[name].as_u64().unwrap_or_else(|| panic!("{answer}")))
    }
}

fn user(name: &str) -> Value {
    json!({ "user": name })
}

#[tokio::test]
async fn applications_reserve_settle_extend_and_release() {
    let redis = Redis::start().await;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    for settings in [&[][..], &[("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s")]] {
        let api = Api::start(settings).await;
        let (status, held) = api.post("/v1/reserve", user("a"), json!({ "amount": 700, "ttl": "90s" })).await;
        assert_eq!((status, &held["amount"], &held["expiresIn"]), (200, &json!(700), &json!(90)), "{held}");
        assert_eq!(held["remaining"], 300);
        assert_eq!(api.usage("a").await, [0, 700, 1]);

        let (status, denied) = api.post("/v1/reserve", user("a"), json!({})).await;
        assert_eq!(
            (status, &denied["error"], &denied["reason"]),
            (429, &json!("rate_limit_exceeded"), &json!("held"))
        );
        assert!(denied["retryAfter"].as_u64().is_some_and(|secs| (1..=90).contains(&secs)), "{denied}");
        let (status, large) = api.post("/v1/reserve", user("a"), json!({ "amount": 1001 })).await;
        assert_eq!(
            (status, &large["error"], &large["retryAfter"]),
            (429, &json!("larger_than_budget"), &Value::Null)
        );

        let ticket = held["ticket"].clone();
        let (status, longer) =
            api.post("/v1/extend", user("a"), json!({ "ticket": ticket, "ttl": "20m" })).await;
        assert_eq!((status, longer), (200, json!({ "extended": true, "expiresIn": 1200 })));
        for (amount, goes_on) in [(250, true), (250, true), (200, true), (600, true)] {
            let part = json!({ "ticket": ticket, "amount": amount, "final": false });
            let (status, answer) = api.post("/v1/settle", user("a"), part).await;
            assert_eq!((status, &answer["continue"]), (200, &json!(goes_on)), "{answer}");
        }
        assert_eq!(api.usage("a").await, [600, 100, 1], "the amounts so far, each once");
        for is_first in [true, false] {
            let (status, answer) =
                api.post("/v1/settle", user("a"), json!({ "ticket": ticket, "amount": 650 })).await;
            let found = ["first", "charged", "returned"].map(|name| answer[name].clone());
            assert_eq!((status, found), (200, [json!(is_first), json!(650), json!(50)]), "{answer}");
        }
        assert_eq!(api.usage("a").await, [650, 0, 0]);
        let (status, gone) = api.post("/v1/extend", user("a"), json!({ "ticket": ticket })).await;
        assert_eq!((status, &gone["error"]), (404, &json!("unknown_ticket")));
        assert_eq!(
            api.post("/v1/release", user("a"), json!({ "ticket": ticket })).await.1,
            json!({ "released": false })
        );
        assert_eq!(api.usage("a").await, [650, 0, 0], "a release gives nothing back twice");

        let (_, own) = api.post("/v1/reserve", user("b"), json!({})).await;
        assert_eq!(own["amount"], 400, "that of the rule");
        let ticket = json!({ "ticket": own["ticket"] });
        assert_eq!(api.post("/v1/release", user("b"), ticket).await, (200, json!({ "released": true })));
        assert_eq!(api.usage("b").await, [0, 0, 0]);
    }
}

/// Services with counters in memory and in Redis.
async fn apis() -> (Redis, [Api; 2]) {
    let redis = Redis::start().await;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let of_redis = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s")];
    (redis, [Api::start(&[]).await, Api::start(&of_redis).await])
}

fn is_within(secs: &Value, range: std::ops::RangeInclusive<u64>) -> bool {
    secs.as_u64().is_some_and(|secs| range.contains(&secs))
}

#[tokio::test]
async fn an_extension_holds_more_if_it_fits_and_the_same_twice() {
    let (_redis, apis) = apis().await;
    for api in apis {
        let reserve = json!({ "amount": 300, "ttl": "90s" });
        let ticket = api.post("/v1/reserve", user("a"), reserve).await.1["ticket"].clone();
        let extend = async |more: Value| {
            let mut body = json!({ "ticket": ticket });
            let Value::Object(more) = more else { panic!("no members: {more}") };
            more.into_iter().for_each(|(name, value)| body[name] = value);
            api.post("/v1/extend", user("a"), body).await
        };
        for _ in 0..2 {
            let (status, answer) = extend(json!({ "amount": 700, "ttl": "30s" })).await;
            let found = [&answer["extended"], &answer["amount"], &answer["layers"][0]["amount"]];
            assert_eq!((status, found), (200, [&json!(true), &json!(700), &json!(700)]), "{answer}");
            assert!(is_within(&answer["expiresIn"], 80..=90), "a TTL is never shortened: {answer}");
            assert_eq!(api.usage("a").await, [0, 700, 1]);
        }
        assert_eq!(extend(json!({ "amount": 100 })).await.1["amount"], 700, "nor is an amount lowered");
        let part = json!({ "ticket": ticket, "amount": 250, "final": false });
        assert_eq!(api.post("/v1/settle", user("a"), part).await.0, 200);
        assert_eq!(extend(json!({ "amount": 800 })).await.1["amount"], 550, "what is counted is part of it");
        assert_eq!(api.usage("a").await, [250, 550, 1]);

        assert_eq!(api.post("/v1/reserve", user("a"), json!({ "amount": 200, "ttl": "1h" })).await.0, 200);
        let (status, denied) = extend(json!({ "amount": 801, "ttl": "1h" })).await;
        assert_eq!(
            (status, &denied["error"], &denied["reason"]),
            (429, &json!("rate_limit_exceeded"), &json!("held")),
            "{denied}"
        );
        assert!(is_within(&denied["retryAfter"], 1..=3_600), "{denied}");
        assert_eq!(api.usage("a").await, [250, 750, 2], "a denial changes nothing");
        let (_, answer) = extend(json!({})).await;
        assert_eq!(answer, json!({ "extended": true, "expiresIn": 600 }), "that of the rule, and no amount");
        let (status, large) = extend(json!({ "amount": 1_251 })).await;
        assert_eq!((status, &large["error"]), (429, &json!("larger_than_budget")), "{large}");

        let settle = json!({ "ticket": ticket, "amount": 800 });
        assert_eq!(api.post("/v1/settle", user("a"), settle).await.1["first"], true);
        let (status, gone) = extend(json!({ "amount": 900 })).await;
        assert_eq!((status, &gone["error"]), (404, &json!("unknown_ticket")));
        assert_eq!(api.usage("a").await, [800, 200, 1]);
    }
}

#[tokio::test]
async fn an_extension_of_several_budgets_raises_all_or_none() {
    let (_redis, apis) = apis().await;
    for api in apis {
        let both = json!({ "user": "a", "small": "s" });
        let (_, held) = api.post("/v1/reserve", both.clone(), json!({})).await;
        let amounts: Vec<_> =
            held["layers"].as_array().expect("layers").iter().map(|of| &of["amount"]).collect();
        assert_eq!(amounts, [&json!(400), &json!(100)], "each budget has its own: {held}");
        assert_eq!(held["amount"], 100, "that of the budget with the least left");
        let extend = json!({ "ticket": held["ticket"], "amount": 500 });
        assert_eq!(api.post("/v1/extend", both.clone(), extend).await.1["error"], "larger_than_budget");
        assert_eq!(api.usage("a").await, [0, 400, 1]);
        let extend = json!({ "ticket": held["ticket"], "amount": 500 });
        assert_eq!(api.post("/v1/extend", user("a"), extend).await.1["amount"], 500);

        let settle = json!({ "ticket": held["ticket"], "amount": 10 });
        assert_eq!(api.post("/v1/settle", json!({ "small": "s" }), settle).await.0, 200);
        let extend = json!({ "ticket": held["ticket"], "amount": 600 });
        let (status, gone) = api.post("/v1/extend", both, extend).await;
        assert_eq!((status, &gone["error"]), (404, &json!("unknown_ticket")), "one of them is gone: {gone}");
        assert_eq!(api.usage("a").await, [0, 500, 1]);
    }
}

#[tokio::test]
async fn descriptors_of_an_acquisition_renew_and_release_it_as_they_were() {
    let (_redis, apis) = apis().await;
    for api in apis {
        let entries = |key: &str| json!([{ "key": key, "value": "a" }]);
        let descriptors = json!([
            { "entries": entries("tenant"), "hitsAddend": 2 },
            { "entries": entries("user"), "hitsAddend": 300 }
        ]);
        let call = async |path: &str, more: Value| {
            let mut body = json!({ "domain": "ai", "descriptors": descriptors });
            let more = more.as_object().expect("members").clone();
            body.as_object_mut().expect("members").extend(more);
            let answer = Client::new().post(api.0.url(path)).body(body.to_string()).send().await;
            answer.expect("an answer").json::<Value>().await.expect("JSON")
        };
        let held = call("/v1/reserve", json!({})).await;
        assert_eq!(api.usage("a").await, [0, 300, 1], "{held}");
        let renewed = call("/v1/renew", json!({ "ticket": held["ticket"], "ttl": "1d" })).await;
        assert_eq!(
            renewed,
            json!({ "renewed": true, "expiresIn": 1_200 }),
            "places have the ttl of their rule"
        );
        let only = json!({ "ticket": held["ticket"], "ttl": "1d" });
        let (_, longer) = api.post("/v1/renew", user("a"), only).await;
        assert!(is_within(&longer["expiresIn"], 3_590..=3_600), "at most that of a budget: {longer}");
        let released = call("/v1/release", json!({ "ticket": held["ticket"] })).await;
        assert_eq!((released, api.usage("a").await), (json!({ "released": true }), [0, 0, 0]));
    }
}

#[tokio::test]
async fn a_call_that_names_the_same_id_takes_no_place_twice() {
    let (_redis, apis) = apis().await;
    for api in apis {
        let entries = json!({ "user": "a", "tenant": "t" });
        let places = async || {
            let url = api.0.url("/v1/usage?domain=ai&tenant=t");
            let answer: Value = reqwest::get(url).await.expect("an answer").json().await.expect("JSON");
            answer["used"].clone()
        };
        let reserve = json!({ "amount": 300, "id": "one", "ttl": "15m" });
        let (status, first) = api.post("/v1/reserve", entries.clone(), reserve).await;
        assert_eq!((status, &first["expiresIn"], places().await), (200, &json!(900), json!(1)));
        let ticket = json!({ "ticket": first["ticket"] });
        let (_, renewed) = api
            .post("/v1/renew", json!({ "tenant": "t" }), json!({ "ticket": first["ticket"], "ttl": "30s" }))
            .await;
        assert!(is_within(&renewed["expiresIn"], 1_190..=1_200), "a place ends no earlier: {renewed}");
        for _ in 0..3 {
            let reserve = json!({ "amount": 300, "id": "one", "ttl": "1h" });
            let (status, again) = api.post("/v1/reserve", entries.clone(), reserve).await;
            assert_eq!((status, &again["ticket"]), (200, &first["ticket"]));
            assert!(is_within(&again["expiresIn"], 890..=900), "what is left: {again}");
            assert_eq!(places().await, 1);
        }
        let swapped = json!([{ "key": "tenant", "value": "t" }]);
        let swapped = json!([{ "entries": swapped }, { "entries": [{ "key": "user", "value": "a" }] }]);
        let body = json!({ "domain": "ai", "descriptors": swapped, "id": "one" });
        let answer = Client::new().post(api.0.url("/v1/reserve")).body(body.to_string()).send().await;
        let answer: Value = answer.expect("an answer").json().await.expect("JSON");
        assert_eq!(answer["ticket"], first["ticket"], "in any order");
        let reserve = json!({ "amount": 300, "id": "one" });
        let (_, other) = api.post("/v1/reserve", user("b"), reserve).await;
        assert_ne!(other["ticket"], first["ticket"], "other entries are another request");
        assert_eq!(api.post("/v1/release", entries, ticket).await.1, json!({ "released": true }));
        assert_eq!(
            (places().await, api.usage("a").await, api.usage("b").await),
            (json!(0), [0, 0, 0], [0, 300, 1])
        );
    }
}

/// A sixteenth of the limit, until amounts are known: then the largest of the first eight, and what four of five do not
/// exceed.
#[tokio::test]
async fn an_automatic_amount_follows_what_is_settled() {
    let (_redis, apis) = apis().await;
    for api in apis {
        let entries = json!({ "auto": "a" });
        let reserve = async || api.post("/v1/reserve", entries.clone(), json!({})).await.1;
        let settle = async |ticket: &Value, amount: u32, is_final: bool| {
            let members = json!({ "ticket": ticket, "amount": amount, "final": is_final });
            assert_eq!(api.post("/v1/settle", entries.clone(), members).await.0, 200);
        };
        let first = reserve().await;
        assert_eq!(first["amount"], 1_000);
        settle(&first["ticket"], 30, false).await;
        assert_eq!(reserve().await["amount"], 1_000, "a part is not an amount");
        for _ in 0..2 {
            settle(&first["ticket"], 50, true).await;
            assert_eq!(reserve().await["amount"], 50);
        }
        let released = json!({ "ticket": reserve().await["ticket"] });
        assert_eq!(api.post("/v1/release", entries.clone(), released).await.0, 200);
        assert_eq!(reserve().await["amount"], 50, "a request that failed says nothing");
        call(api.0.grpc, &[(&[("auto", "a")], 90)]).await;
        assert_eq!(reserve().await["amount"], 90, "over gRPC too");
        for _ in 0..7 {
            settle(&json!("-"), 1, true).await;
        }
        assert_eq!(reserve().await["amount"], 88, "after eight, it moves in steps");
    }
}

/// Members that cannot be meant are refused by their names, and count nothing.
#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_its_name() {
    let api = Api::start(&[]).await;
    for (path, members, expected) in [
        ("reserve", json!({ "amount": 4_294_967_296_u64 }), "'amount' is at most 4294967295"),
        ("reserve", json!({ "ttl": 90 }), "expected a 'ttl' such as \"90s\""),
        ("reserve", json!({ "ttl": "2h" }), "'ttl': write a time from 1s to 1h"),
        ("extend", json!({ "ticket": "-", "ttl": "1d" }), "'ttl': write a time from 1s to 1h"),
        ("acquire", json!({ "ttl": "2d" }), "'ttl': write a time from 1s to 1d"),
        ("settle", json!({ "ticket": "-", "amount": 1e12 }), "'amount' is at most 4294967295"),
        (
            "settle",
            json!({ "ticket": "-", "usage": { "output": 1e12 } }),
            "'usage.output' is at most 4294967295",
        ),
        ("settle", json!({ "ticket": "req-7f3a", "amount": 5 }), "invalid 'ticket'"),
        ("release", json!({ "ticket": "req-7f3a" }), "invalid 'ticket'"),
        ("release", json!({}), "/v1/reserve or /v1/acquire"),
        ("reserve", json!({ "amount": 1_u64 << 53 }), "'amount' is at most 4294967295"),
        ("settle", json!({ "ticket": "-", "amount": -1 }), "expected a whole number"),
    ] {
        let (status, answer) = api.post(&format!("/v1/{path}"), user("a"), members.clone()).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{path} {members}");
        let message = answer["message"].as_str().expect("a message");
        assert!(message.contains(expected), "{path} {members}: {message}");
    }
    assert_eq!(api.usage("a").await, [0, 0, 0]);
    // Nothing is an estimate that nobody knows, and a real amount.
    let (_, held) = api.post("/v1/reserve", user("a"), json!({ "amount": 0 })).await;
    assert_eq!(held["amount"], 400, "that of the rule");
    let settle = json!({ "ticket": held["ticket"], "amount": 0 });
    let (_, settled) = api.post("/v1/settle", user("a"), settle).await;
    assert_eq!((&settled["first"], &settled["returned"]), (&json!(true), &json!(400)));
    assert_eq!(
        api.post("/v1/acquire", json!({ "tenant": "t" }), json!({ "ttl": "1d" })).await.1["expiresIn"],
        1_200
    );
}

#[tokio::test]
async fn a_settlement_counts_whatever_is_known_of_its_ticket() {
    let api = Api::start(&[]).await;
    for (ticket, amount) in [("-".to_owned(), 30), ("0123456789abcdef".repeat(2), 40)] {
        let late = api.post("/v1/settle", user("a"), json!({ "ticket": ticket, "amount": amount })).await;
        assert_eq!(
            (late.0, &late.1["first"], &late.1["late"]),
            (200, &json!(true), &json!(true)),
            "{late:?}"
        );
    }
    assert_eq!(api.usage("a").await, [70, 0, 0]);
    let over = api.post("/v1/settle", user("a"), json!({ "ticket": "-", "amount": 5_000 })).await.1;
    assert_eq!(over["charged"], 5_000, "in full");
    assert_eq!(api.usage("a").await, [5_070, 0, 0]);
    let (status, none) =
        api.post("/v1/settle", json!({ "requests": "a" }), json!({ "ticket": "-", "amount": 1 })).await;
    assert_eq!((status, &none["error"]), (404, &json!("no_budget")));
}

/// Over gRPC, where an error may let a request pass.
#[tokio::test]
async fn an_amount_that_no_budget_has_counts_as_the_largest() {
    let (_redis, apis) = apis().await;
    for api in apis {
        let (denied, ticket) = call(api.0.grpc, &[(&[("app", "a")], 1 << 53)]).await;
        assert_eq!((denied.overall_code, ticket), (i32::from(Code::OverLimit), None), "as an estimate");
        let (_, held) = api.post("/v1/reserve", user("a"), json!({ "amount": 10 })).await;
        let entries = [("user", "a"), ("tollgate.ticket", held["ticket"].as_str().expect("a ticket"))];
        for _ in 0..2 {
            let (settled, _) = call(api.0.grpc, &[(&entries, 1 << 53)]).await;
            assert_eq!(settled.overall_code, i32::from(Code::Ok));
            assert_eq!(api.usage("a").await, [u32::MAX.into(), 0, 0], "once");
        }
    }
}

#[tokio::test]
async fn a_ticket_ends_no_hold_of_other_entries() {
    let (_redis, apis) = apis().await;
    for api in apis {
        let (_, held) = api.post("/v1/reserve", user("a"), json!({ "amount": 300 })).await;
        let with = |more: Value| {
            let mut body = json!({ "ticket": held["ticket"] });
            body.as_object_mut().expect("members").extend(more.as_object().expect("members").clone());
            body
        };
        let (_, late) = api.post("/v1/settle", user("b"), with(json!({ "amount": 20 }))).await;
        assert_eq!((&late["late"], &late["charged"]), (&json!(true), &json!(20)), "{late}");
        assert_eq!(api.post("/v1/extend", user("c"), with(json!({}))).await.0, 404);
        assert_eq!(api.post("/v1/release", user("c"), with(json!({}))).await.1, json!({ "released": false }));
        assert_eq!((api.usage("a").await, api.usage("b").await), ([0, 300, 1], [20, 0, 0]));
        let (_, settled) = api.post("/v1/settle", user("a"), with(json!({ "amount": 250 }))).await;
        assert_eq!((&settled["first"], &settled["late"]), (&json!(true), &Value::Null), "{settled}");
        assert_eq!((api.usage("a").await, api.usage("b").await), ([250, 0, 0], [20, 0, 0]));
    }
}

#[tokio::test]
async fn a_request_with_an_id_is_held_once() {
    let api = Api::start(&[]).await;
    let reserve = async |amount: u32| {
        api.post("/v1/reserve", user("a"), json!({ "amount": amount, "id": "req-7f3a" })).await.1
    };
    let (first, second) = (reserve(300).await, reserve(500).await);
    assert_eq!((&first["ticket"], &first["amount"]), (&second["ticket"], &second["amount"]));
    assert_eq!(api.usage("a").await, [0, 300, 1]);
    let settle = json!({ "ticket": first["ticket"], "amount": 120 });
    assert_eq!(api.post("/v1/settle", user("a"), settle.clone()).await.1["first"], true);
    assert_eq!(reserve(300).await["ticket"], first["ticket"], "it is settled, and holds nothing anew");
    assert_eq!(api.post("/v1/settle", user("a"), settle).await.1["first"], false);
    assert_eq!(api.usage("a").await, [120, 0, 0]);
}

#[tokio::test]
async fn a_request_holds_all_its_budgets_or_none() {
    let api = Api::start(&[]).await;
    let both = json!({ "user": "a", "requests": "a" });
    for _ in 0..2 {
        let (status, answer) = api.post("/v1/reserve", both.clone(), json!({ "amount": 100 })).await;
        assert_eq!(status, 200, "one request each: {answer}");
    }
    let (status, denied) = api.post("/v1/reserve", both, json!({ "amount": 100 })).await;
    assert_eq!((status, denied.get("ticket")), (429, None));
    assert_eq!(api.usage("a").await, [0, 200, 2], "nothing is held of a denied request");
    let look = api.post("/v1/check", user("a"), json!({ "hitsAddend": 0 })).await;
    assert_eq!((look.0, look.1.get("ticket"), &look.1["remaining"]), (200, None, &json!(800)), "a look");
    assert_eq!(api.usage("a").await, [0, 200, 2]);
    let refused = Client::new().delete(api.0.url("/v1/usage")).send().await.expect("an answer");
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["allow"]),
        (405, &"GET, POST".parse().expect("text"))
    );
}

/// A call as Envoy makes it, of descriptors with their entries and hits. Returns the answer and its ticket.
async fn call(port: u16, descriptors: &[(&[(&str, &str)], u64)]) -> (RateLimitResponse, Option<String>) {
    let address = format!("http://127.0.0.1:{port}");
    let mut client = RateLimitServiceClient::connect(address).await.expect("it listens");
    let mut message = request("ai", &[]);
    message.descriptors = descriptors
        .iter()
        .map(|(entries, hits)| {
            let entries = request("ai", entries).descriptors.into_iter().flat_map(|of| of.entries).collect();
            let hits_addend = Some(UInt64Value { value: *hits });
            RateLimitDescriptor { entries, hits_addend, ..RateLimitDescriptor::default() }
        })
        .collect();
    let answer = client.should_rate_limit(message).await.expect("an answer").into_inner();
    let ticket = answer.dynamic_metadata.as_ref().and_then(|metadata| {
        match metadata.fields.get("ticket")?.kind.as_ref()? {
            Kind::StringValue(ticket) => Some(ticket.clone()),
            _ => None,
        }
    });
    (answer, ticket)
}

#[tokio::test]
async fn a_look_holds_and_the_next_charge_settles_the_oldest() {
    let api = Api::start(&[]).await;
    let grpc = api.0.grpc;
    let user = [("user", "a")];
    for held in [400, 800] {
        let (answer, ticket) = call(grpc, &[(&user, 0)]).await;
        assert_eq!((answer.overall_code, ticket.is_some()), (i32::from(Code::Ok), true));
        assert_eq!(api.usage("a").await[1], held);
    }
    let (denied, ticket) = call(grpc, &[(&user, 0)]).await;
    assert_eq!((denied.overall_code, ticket), (i32::from(Code::OverLimit), None));
    assert_eq!(call(grpc, &[(&user, 150)]).await.0.overall_code, i32::from(Code::Ok));
    assert_eq!(api.usage("a").await, [150, 400, 1]);
    assert_eq!(
        call(grpc, &[(&user, 2_000)]).await.0.overall_code,
        i32::from(Code::Ok),
        "it is counted in any case"
    );
    assert_eq!(api.usage("a").await, [2_150, 0, 0]);
    let metrics =
        reqwest::get(api.0.debug_url("/metrics")).await.expect("metrics").text().await.expect("text");
    for (event, count) in [("opened", 2), ("denied", 1), ("settled", 2), ("late", 0), ("unsettled", 0)] {
        assert!(
            metrics.contains(&format!("tollgate_holds{{event=\"{event}\"}} {count}\n")),
            "{event}: {metrics}"
        );
    }
}

#[tokio::test]
async fn a_ticket_settles_its_hold_with_usage_or_else_gives_it_back() {
    let api = Api::start(&[]).await;
    let grpc = api.0.grpc;
    let app = [("app", "a")];
    let usage = async || {
        let url = api.0.url("/v1/usage?domain=ai&app=a");
        let answer: Value = reqwest::get(url).await.expect("an answer").json().await.expect("JSON");
        ["used", "held"].map(|name| answer[name].as_u64().expect("a number"))
    };
    assert_eq!(call(grpc, &[(&app, 0)]).await.1, None, "on_look: false");
    let (_, ticket) = call(grpc, &[(&app, 300)]).await;
    let ticket = ticket.expect("a ticket");
    assert_eq!(usage().await, [0, 300], "an estimate is held");
    let of_ticket = [("app", "a"), ("tollgate.ticket", &*ticket)];
    let end = [("app", "a"), ("tollgate.ticket", &*ticket), ("tollgate.end", "1")];
    // Usage, else nothing, in one call; and the same again.
    for _ in 0..2 {
        call(grpc, &[(&of_ticket, 170), (&end, 0)]).await;
        assert_eq!(usage().await, [170, 0]);
    }
    let (_, second) = call(grpc, &[(&app, 300)]).await;
    let second = second.expect("a ticket");
    let end = [("app", "a"), ("tollgate.ticket", &*second), ("tollgate.end", "1")];
    call(grpc, &[(&end, 1)]).await;
    assert_eq!(usage().await, [170, 0], "without usage, the hold is given back");
    let unknown = [("app", "a"), ("tollgate.ticket", "-")];
    call(grpc, &[(&unknown, 30)]).await;
    assert_eq!(usage().await, [200, 0], "usage without a ticket is counted");
}

#[tokio::test]
async fn a_usage_is_counted_by_each_budget_in_its_own_way() {
    let api = Api::start(&[]).await;
    let usage = |model: &str| json!({ "ticket": "-", "usage": { "model": model, "input": 500, "cached": 400, "output": 250 } });
    for (key, model, expected) in [
        ("user", "gpt-5-mini", 1_150),
        ("money", "gpt-5-mini", 635),
        ("money", "unheard-of", 500 * 10 + 400 * 10 + 250 * 20),
        ("weighted", "", 1_500),
    ] {
        let (status, answer) = api.post("/v1/settle", json!({ key: "a" }), usage(model)).await;
        assert_eq!((status, &answer["charged"]), (200, &json!(expected)), "{key} {model}: {answer}");
    }
    let metrics =
        reqwest::get(api.0.debug_url("/metrics")).await.expect("metrics").text().await.expect("text");
    assert!(metrics.contains("tollgate_holds{event=\"unknown_model\"} 2\n"), "{metrics}");
    let descriptors = json!([{ "entries": [{ "key": "user", "value": "a" }] }]);
    let body = json!({ "domain": "ai", "descriptors": descriptors, "ticket": "-" });
    let answer =
        Client::new().post(api.0.url("/v1/settle")).body(body.to_string()).send().await.expect("an answer");
    assert_eq!(answer.status(), 400, "a settlement without an amount");
}

/// `/v1/check` asks for a decision, and neither opens a hold nor ends one.
#[tokio::test]
async fn a_check_with_hits_is_decided_and_counted() {
    let api = Api::start(&[]).await;
    assert_eq!(api.post("/v1/reserve", user("a"), json!({ "amount": 999 })).await.0, 200);
    assert_eq!(api.post("/v1/check", user("a"), json!({})).await.0, 200);
    assert_eq!(api.usage("a").await, [1, 999, 1]);
    assert_eq!(api.post("/v1/check", user("a"), json!({})).await.0, 429, "all is held or used");
    assert_eq!(api.usage("a").await, [1, 999, 1]);
}

//! Releases of places, and settlements: carried out though Redis fails or the caller has gone, and reported if they are
//! not.

use std::sync::Arc;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use reqwest::Client;
use serde_json::{Value, json};
use tollgate::engine::{Hits, Request, Ticket, Timestamp};
use tollgate::limiter::TicketCall;
use tollgate::store::{Charge, ChargeFuture, Store};

use crate::candidate::{World, shop};
use crate::support::eventually;
use crate::support::proxy::{Passage, Proxy};
use crate::support::redis::Redis;
use crate::support::scenario::descriptor;
use crate::support::service::Service;

const RULES: &str = "
domain: example
descriptors:
  - {key: tenant, concurrency: {max: 3, ttl: 10m}}
  - {key: user, rate_limit: {unit: year, requests_per_unit: 1000}, reserve: {amount: 400, ttl: 10m}}
";

/// Status and body of a POST about a tenant.
async fn post(service: &Service, path: &str, more: Value) -> (u16, Value) {
    post_about(service, path, json!({ "tenant": "a" }), more).await
}

async fn post_about(service: &Service, path: &str, entries: Value, more: Value) -> (u16, Value) {
    let mut body = json!({ "domain": "example", "entries": entries });
    if let Value::Object(more) = more {
        more.into_iter().for_each(|(name, value)| body[name] = value);
    }
    let answer =
        Client::new().post(service.url(path)).body(body.to_string()).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// A service whose connection to Redis can be cut.
async fn behind_proxy() -> (Redis, Proxy, Service) {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let environment = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "200ms"), ("THREADS", "1")];
    let service = Service::start(&[("rules.yaml", RULES)], &environment).await;
    (redis, proxy, service)
}

/// A ticket that holds a place.
async fn acquired(service: &Service) -> Value {
    let mut ticket = Value::Null;
    eventually("a place is acquired", async || {
        let (status, answer) = post(service, "/v1/acquire", json!({})).await;
        ticket = answer["ticket"].clone();
        status == 200
    })
    .await;
    ticket
}

async fn metric(service: &Service, name: &str) -> String {
    let text =
        reqwest::get(service.debug_url("/metrics")).await.expect("metrics").text().await.expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    value.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_place_comes_back_though_redis_is_gone_when_its_request_ends() {
    let (redis, proxy, service) = behind_proxy().await;
    let (of_envoy, of_application) = (acquired(&service).await, acquired(&service).await);
    assert_eq!(redis.len(), 1, "a set of places");

    proxy.set(Passage::Shut);
    let entries =
        [json!({"key": "tenant", "value": "a"}), json!({"key": "tollgate.ticket", "value": of_envoy})];
    let body = json!({ "domain": "example", "descriptors": [{ "entries": entries }] }).to_string();
    let answer = Client::new().post(service.url("/json")).body(body).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "the end of a stream is not denied");
    let (status, _) = post(&service, "/v1/release", json!({ "ticket": of_application })).await;
    assert_eq!(status, 503, "it is not known to be released");
    proxy.set(Passage::Open);
    proxy.reset();
    eventually("both places are given back", async || redis.len() == 0).await;
    assert_eq!(metric(&service, "tollgate_redis_releases_lost").await, "0");
}

#[tokio::test]
async fn releases_that_are_given_up_are_counted() {
    let (_redis, proxy, service) = behind_proxy().await;
    let ticket = acquired(&service).await;
    proxy.set(Passage::Shut);
    let (status, _) = post(&service, "/v1/release", json!({ "ticket": ticket })).await;
    assert_eq!(status, 503);
    eventually("it is counted", async || metric(&service, "tollgate_redis_releases_lost").await == "1").await;
}

fn user() -> Value {
    json!({ "user": "a" })
}

/// Ticket of a reservation of the user.
async fn reserved(service: &Service) -> Value {
    let mut ticket = Value::Null;
    eventually("an amount is held", async || {
        let (status, answer) = post_about(service, "/v1/reserve", user(), json!({})).await;
        ticket = answer["ticket"].clone();
        status == 200
    })
    .await;
    ticket
}

/// Redis may have counted a settlement whose reply is lost, and has not where it never arrived.
#[tokio::test]
async fn a_settlement_that_is_not_answered_is_repeated_and_counts_once() {
    for lost in [Passage::OneWay, Passage::Shut] {
        let (_redis, proxy, service) = behind_proxy().await;
        let settle = json!({ "ticket": reserved(&service).await, "amount": 170 });
        proxy.set(lost);
        let (status, _) = post_about(&service, "/v1/settle", user(), settle.clone()).await;
        assert_eq!(status, 503, "it is not known to be counted");
        proxy.set(Passage::Open);
        proxy.reset();
        let usage = async || {
            let answer = reqwest::get(service.url("/v1/usage?domain=example&user=a")).await;
            let answer: Value = answer.expect("an answer").json().await.expect("JSON");
            (answer["used"].clone(), answer["held"].clone())
        };
        eventually("tollgate repeats it", async || usage().await == (json!(170), json!(0))).await;
        let (status, again) = post_about(&service, "/v1/settle", user(), settle).await;
        assert_eq!(
            (status, &again["first"], &again["charged"]),
            (200, &json!(false), &json!(170)),
            "{again}"
        );
        assert_eq!(usage().await, (json!(170), json!(0)));
    }
}

#[tokio::test]
async fn amounts_that_are_lost_are_counted() {
    let (_redis, proxy, service) = behind_proxy().await;
    let ticket = reserved(&service).await;
    proxy.set(Passage::Shut);
    for (ticket, name) in
        [(json!("-"), "tollgate_holds{event=\"unsettled\"}"), (ticket, "tollgate_redis_settlements_lost")]
    {
        let settle = json!({ "ticket": ticket, "amount": 170 });
        assert_eq!(post_about(&service, "/v1/settle", user(), settle).await.0, 503);
        eventually(name, async || metric(&service, name).await == "1").await;
    }
}

#[tokio::test]
async fn one_release_for_two_equal_descriptors_is_a_release() {
    let service = Service::start(&[("rules.yaml", RULES)], &[]).await;
    let ticket = acquired(&service).await;
    let descriptor = json!({ "entries": [{ "key": "tenant", "value": "a" }] });
    let body = json!({ "domain": "example", "descriptors": [descriptor, descriptor], "ticket": ticket });
    for released in [true, false] {
        let answer = Client::new().post(service.url("/v1/release")).body(body.to_string()).send().await;
        let answer: Value = answer.expect("an answer").json().await.expect("JSON");
        assert_eq!(answer, json!({ "released": released }));
    }
}

/// A store that never answers, and records the refunds that it is asked for.
#[derive(Default)]
struct Hanging {
    refunds: Mutex<Vec<Charge>>,
}

impl Store for Hanging {
    fn charge<'a>(&'a self, _: &'a [Charge], _: Timestamp) -> ChargeFuture<'a> {
        Box::pin(std::future::pending())
    }

    fn refund(&self, refunds: &[Charge], _: Timestamp) {
        self.refunds.lock().extend_from_slice(refunds);
    }
}

#[tokio::test]
async fn a_release_continues_when_its_caller_leaves() {
    let store = Arc::new(Hanging::default());
    let store_of_all: Arc<dyn Store> = Arc::clone(&store) as _;
    let world = World::new(&store_of_all, shop("  - {key: tenant, concurrency: {max: 1, ttl: 1m}}"), None);
    let ticket = Ticket::from_bits([7; 16]);
    for of_envoy in [false, true] {
        let text =
            if of_envoy { format!("tenant=a,tollgate.ticket={ticket}") } else { "tenant=a".to_owned() };
        let request = Request { domain: b"shop", descriptors: [descriptor(&text)].into_iter().collect() };
        let snapshot = world.limiter.snapshot();
        match of_envoy {
            true => assert!(snapshot.decide(&request, None).now_or_never().is_none()),
            false => {
                let call = snapshot.use_ticket(&request, ticket, TicketCall::Release, None);
                assert!(call.now_or_never().is_none());
            }
        }
        let refunds = std::mem::take(&mut *store.refunds.lock());
        let of_tickets: Vec<_> =
            refunds.iter().map(|refund| refund.hold.as_ref().map(|hold| hold.ticket)).collect();
        assert_eq!(of_tickets, [Some(ticket)]);
        assert_eq!(refunds[0].hits, Hits::Refund(0));
    }
}

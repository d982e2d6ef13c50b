//! Kuadrant's service: requests are checked without being counted, and counted without being denied.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tollgate::pb::kuadrant::service::ratelimit::v1::{CommitRequest, ReserveRequest};
use tollgate::pb::{self, KuadrantClient};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::support::redis::Redis;
use crate::support::service::Service;

const CHECK: &str = "/kuadrant.service.ratelimit.v1.RateLimitService/CheckRateLimit";
const REPORT: &str = "/kuadrant.service.ratelimit.v1.RateLimitService/Report";
const DECIDE: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

const RULES: &str = "
domain: ai
descriptors:
  - {key: always, rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: polite, charge: if_allowed, rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: bucket, rate_limit: {unit: year, requests_per_unit: 5, algorithm: token_bucket}}
  - {key: sliding, rate_limit: {unit: year, requests_per_unit: 5, algorithm: sliding_window}}
  - {key: tokens, rate_limit: {unit: year, requests_per_unit: 1000}, reserve: {amount: 400, ttl: 10m}}
  - {key: tenant, concurrency: {max: 1, ttl: 10m}}
  - key: account
    rate_limit: {unit: day, requests_per_unit: 1}
    penalty: {after: 1, within: 10m, block: [100h]}
";

struct Caller(Channel);

impl Caller {
    fn new(service: &Service) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", service.grpc));
        Self(endpoint.expect("an address").connect_lazy())
    }

    /// Answer about one entry. Hits of 0 are left out of the message, and mean 1.
    async fn call(&self, path: &'static str, key: &str, hits: u32) -> Result<RateLimitResponse, Status> {
        let entries = vec![Entry { key: key.to_owned(), value: "a".to_owned() }];
        let descriptors = vec![RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }];
        let message = RateLimitRequest { domain: "ai".to_owned(), descriptors, hits_addend: hits };
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.expect("a connection");
        let codec = ProstCodec::<RateLimitRequest, RateLimitResponse>::default();
        let path = path.parse().expect("a path");
        grpc.unary(Request::new(message), path, codec).await.map(tonic::Response::into_inner)
    }

    async fn code(&self, path: &'static str, key: &str, hits: u32) -> Code {
        self.call(path, key, hits).await.expect("an answer").overall_code()
    }
}

/// A service with counters in memory, and one with counters in Redis.
async fn services() -> (Redis, [Service; 2]) {
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let of_redis = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s")];
    let rules = [("rules.yaml", RULES)];
    (redis, [Service::start(&rules, &[]).await, Service::start(&rules, &of_redis).await])
}

#[tokio::test]
async fn a_check_counts_nothing_and_a_report_counts_beyond_the_limit() {
    let (redis, services) = services().await;
    for (service, redis) in services.iter().zip([None, Some(&redis)]) {
        let caller = Caller::new(service);
        for key in ["always", "polite", "bucket", "sliding"] {
            for _ in 0..7 {
                assert_eq!(caller.code(CHECK, key, 3).await, Code::Ok, "{key}: nothing is counted");
            }
            assert_eq!(caller.code(REPORT, key, 4).await, Code::Ok);
            let checked = caller.call(CHECK, key, 0).await.expect("an answer");
            assert_eq!((checked.overall_code(), checked.statuses[0].limit_remaining), (Code::Ok, 1), "{key}");
            assert_eq!(caller.code(REPORT, key, 0).await, Code::Ok, "0 means 1");
            assert_eq!(
                caller.code(CHECK, key, 0).await,
                Code::OverLimit,
                "{key}: one more would be too many"
            );
            let reported = caller.call(REPORT, key, 9).await.expect("an answer");
            assert_eq!(reported, RateLimitResponse { overall_code: Code::Ok.into(), ..reported.clone() });
            assert_eq!(reported.statuses.len(), 0);
            if let (Some(redis), "always") = (redis, key) {
                let counter = redis.command(["KEYS", "*always*"]);
                assert_eq!(
                    redis.command(["GET", counter.trim()]),
                    "14",
                    "no report is taken for a denied request"
                );
            }
            assert_eq!(caller.code(DECIDE, key, 1).await, Code::OverLimit, "both services share counters");
        }
        assert_eq!(caller.code(CHECK, "unknown", 1).await, Code::Ok);
        assert_eq!(caller.code(REPORT, "unknown", 1).await, Code::Ok);
    }
}

#[tokio::test]
async fn a_report_takes_no_place_and_locks_no_client_out() {
    let (_redis, services) = services().await;
    for service in services {
        let caller = Caller::new(&service);
        for _ in 0..3 {
            assert_eq!(caller.code(CHECK, "tenant", 1).await, Code::Ok);
            assert_eq!(caller.code(REPORT, "tenant", 1).await, Code::Ok);
        }
        assert_eq!(caller.code(DECIDE, "tenant", 1).await, Code::Ok, "the place is free");
        assert_eq!(caller.code(CHECK, "tenant", 1).await, Code::OverLimit, "now it is taken");

        for _ in 0..5 {
            assert_eq!(caller.code(REPORT, "account", 1).await, Code::Ok);
        }
        for (path, is_locked_out) in [(CHECK, false), (DECIDE, true)] {
            let denied = caller.call(path, "account", 1).await.expect("an answer");
            let wait = denied.statuses[0].duration_until_reset.as_ref().map(|reset| reset.seconds > 86_400);
            assert_eq!((denied.overall_code(), wait), (Code::OverLimit, Some(is_locked_out)), "{path}");
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_is_an_error_that_the_filter_sees() {
    let redis = Redis::absent();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let service = Service::start(&[("rules.yaml", RULES)], &[("REDIS_URL", &*url)]).await;
    let caller = Caller::new(&service);
    for path in [CHECK, REPORT] {
        let error = caller.call(path, "always", 1).await.expect_err("not counted");
        assert_eq!(error.code(), tonic::Code::Unavailable, "{error}");
    }
}

#[tokio::test]
async fn a_reservation_holds_an_amount_until_it_is_committed() {
    let (_redis, services) = services().await;
    for service in services {
        let mut client = KuadrantClient::new(Caller::new(&service).0);
        let entry = pb::Entry { key: "tokens".into(), value: "a".into() };
        let descriptors =
            vec![pb::RateLimitDescriptor { entries: vec![entry], ..pb::RateLimitDescriptor::default() }];
        let reserve = async |amount| {
            let (domain, descriptors) = ("ai".to_owned(), descriptors.clone());
            let request = ReserveRequest { domain, descriptors, amount, ttl: None };
            let answer = client.clone().reserve(request).await.expect("an answer").into_inner();
            (answer.code, answer.reservation_id)
        };
        let (code, first) = reserve(700).await;
        assert_eq!((code, first.len()), (pb::Code::Ok.into(), 32));
        assert_eq!(
            reserve(301).await,
            (pb::Code::OverLimit.into(), String::new()),
            "it does not fit beside the first"
        );
        assert_eq!(reserve(u64::MAX).await.0, i32::from(pb::Code::OverLimit));
        assert_eq!(reserve(0).await.0, i32::from(pb::Code::OverLimit), "the amount of the rule");
        let mut commit = async |id: &str, actual_amount| {
            let (domain, descriptors, reservation_id) = ("ai".to_owned(), descriptors.clone(), id.to_owned());
            let request = CommitRequest { domain, descriptors, reservation_id, actual_amount };
            client.commit(request).await.expect("an answer").into_inner().reservation_released
        };
        assert!(commit(&first, 500).await, "the hold ends");
        assert!(!commit(&first, 500).await, "which counts nothing again");
        assert!(!commit("unknown", 100).await, "the amount is counted all the same");
        let url = service.url("/v1/usage?domain=ai&tokens=a");
        let usage: serde_json::Value =
            reqwest::get(url).await.expect("an answer").json().await.expect("JSON");
        assert_eq!((&usage["used"], &usage["held"]), (&600.into(), &0.into()), "{usage}");
    }
}

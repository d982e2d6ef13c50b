//! Nothing that a client of the proxy controls causes an error: Envoy lets a request pass when its
//! rate-limit call fails. Limits are per year, so that no test meets the end of a window.

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::UInt64Value;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint as Uri};

use crate::support::envoy::{Config, Envoy};
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;

const RULES: &str = "
domain: example
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: remote_address, rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: tenant, rate_limit: {unit: year, requests_per_unit: 1000000000}}
  - {key: bucket, rate_limit: {unit: year, requests_per_unit: 1000000, algorithm: token_bucket}}
  - {key: window, rate_limit: {unit: year, requests_per_unit: 1000000, algorithm: sliding_window}}
  - {key: log, rate_limit: {unit: year, requests_per_unit: 10, algorithm: sliding_log}}
  - {key: together, rate_limit: {unit: year, requests_per_unit: 1000000}, charge: if_allowed}
";

fn descriptor(key: &str, value: &str) -> RateLimitDescriptor {
    let entry = Entry { key: key.to_owned(), value: value.to_owned() };
    RateLimitDescriptor { entries: vec![entry], ..RateLimitDescriptor::default() }
}

fn request(descriptors: Vec<RateLimitDescriptor>) -> RateLimitRequest {
    RateLimitRequest { domain: "example".to_owned(), descriptors, hits_addend: 0 }
}

async fn connect(service: &Tollgate) -> RateLimitServiceClient<Channel> {
    let endpoint = Uri::from_shared(format!("http://127.0.0.1:{}", service.grpc)).expect("an address");
    RateLimitServiceClient::new(endpoint.connect().await.expect("it listens"))
}

async fn ask(client: &mut RateLimitServiceClient<Channel>, request: RateLimitRequest) -> RateLimitResponse {
    client.should_rate_limit(request).await.expect("an answer").into_inner()
}

#[tokio::test]
async fn through_envoy_a_header_of_any_length_leaves_an_address_over_its_limit() {
    let tollgate = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let of_user = "- request_headers: {header_name: x-user, descriptor_key: user}";
    let both = [of_user, "- actions:\n                - remote_address: {}"].join("\n              ");
    let config = Config::asking(&[tollgate.grpc]).with(of_user, &both);
    let envoy = Envoy::start(&config).await;
    for (request, expected) in [200, 200, 200, 200, 200, 429].into_iter().enumerate() {
        assert_eq!(envoy.status(&format!("user-{request}")).await, expected);
    }
    for len in [4_096, 4_097, 20_000, 50_000] {
        for request in 0..3 {
            let user = format!("{request}{}", "x".repeat(len - 1));
            assert_eq!(envoy.status(&user).await, 429, "{len} bytes");
        }
    }
    assert_eq!(envoy.stat("cluster.upstream.ratelimit.error").await, 0);
    assert_eq!(envoy.stat("cluster.upstream.ratelimit.failure_mode_allowed").await, 0);
}

#[tokio::test]
async fn values_of_any_length_are_counted_and_long_ones_are_distinguished() {
    let redis = Redis::start().await;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    for environment in [&[][..], &[("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "1s")]] {
        let service = Tollgate::start(&[("rules.yaml", RULES)], environment).await;
        let mut client = connect(&service).await;
        let long = |last: char| format!("{}{last}", "x".repeat(60_000));
        for (last, remaining) in [('a', 4), ('a', 3), ('b', 4), ('a', 2), ('b', 3)] {
            let answer = ask(&mut client, request(vec![descriptor("user", &long(last))])).await;
            assert_eq!(answer.statuses[0].limit_remaining, remaining, "{last}");
        }
        // No rule has these keys; the other descriptor is decided all the same.
        let none = vec![descriptor(&long('k'), "v"), descriptor("", ""), descriptor("user", &long('a'))];
        let answer = ask(&mut client, request(none)).await;
        let remaining: Vec<_> = answer.statuses.iter().map(|status| status.limit_remaining).collect();
        assert_eq!((remaining, answer.overall_code()), (vec![0, 0, 1], Code::Ok));
    }
    drop(redis);
}

#[tokio::test]
async fn a_cost_of_any_size_is_over_the_limit_and_leaves_the_counter_at_it() {
    let redis = Redis::start().await;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    for environment in [&[][..], &[("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "1s")]] {
        let service = Tollgate::start(&[("rules.yaml", RULES)], environment).await;
        let mut client = connect(&service).await;
        for key in ["tenant", "bucket", "window", "log", "together"] {
            for (index, hits) in [2_000_000_000, u64::from(u32::MAX), u64::MAX].into_iter().enumerate() {
                let value = format!("of-descriptor-{index}");
                let costly = RateLimitDescriptor {
                    hits_addend: Some(UInt64Value { value: hits }),
                    ..descriptor(key, &value)
                };
                for _ in 0..3 {
                    let answer = ask(&mut client, request(vec![costly.clone()])).await;
                    let status = &answer.statuses[0];
                    assert_eq!(
                        (answer.overall_code(), status.limit_remaining),
                        (Code::OverLimit, 0),
                        "{key} {hits} {environment:?}"
                    );
                }
                let hits_addend = u32::try_from(hits).unwrap_or(u32::MAX);
                let of_request = RateLimitRequest {
                    hits_addend,
                    ..request(vec![descriptor(key, &format!("of-request-{index}"))])
                };
                assert_eq!(
                    ask(&mut client, of_request).await.overall_code(),
                    Code::OverLimit,
                    "{key} {hits}"
                );
            }
        }
        // With `charge: always`, the counter is at its limit afterwards.
        let answer = ask(&mut client, request(vec![descriptor("tenant", "of-descriptor-2")])).await;
        assert_eq!(answer.overall_code(), Code::OverLimit);
    }
    drop(redis);
}

#[tokio::test]
async fn the_largest_message_is_answered_in_linear_time() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let mut client = connect(&service).await;
    let many = vec![descriptor("user", &"x".repeat(4_000)); 1_024];
    let wide = RateLimitDescriptor {
        entries: vec![Entry { key: "user".to_owned(), value: "x".repeat(15_000) }; 256],
        ..RateLimitDescriptor::default()
    };
    let long = vec![descriptor("user", &"y".repeat(4_190_000))];
    for (descriptors, expected) in
        [(many, Code::OverLimit), (vec![wide], Code::Ok), (long.clone(), Code::Ok), (long, Code::Ok)]
    {
        let len = descriptors.len();
        let answer = ask(&mut client, request(descriptors)).await;
        assert_eq!((answer.overall_code(), answer.statuses.len()), (expected, len));
    }
}

#[tokio::test]
async fn other_content_types_than_grpc_are_rejected() {
    let service = Tollgate::start(&[("rules.yaml", RULES)], &[]).await;
    let stream = TcpStream::connect(("127.0.0.1", service.grpc)).await.expect("it listens");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let url = "http://127.0.0.1/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    for (content_type, expected) in [
        (Some("application/grpc"), 200),
        (Some("application/grpc+proto"), 200),
        (Some("application/grpc; charset=utf-8"), 200),
        (Some("application/json"), 415),
        (Some("application/grpc-web"), 415),
        (Some("text/plain"), 415),
        (None, 415),
    ] {
        let mut request = http::Request::post(url);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let request = request.body(()).expect("a request");
        let (answer, mut body) = client.send_request(request, false).expect("sent");
        // A message without a domain. A rejected request takes no body.
        drop(body.send_data(vec![0; 5].into(), true));
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), expected, "{content_type:?}");
    }
    connection.abort();
}

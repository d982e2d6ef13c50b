//! The service on its sockets, asked by clients that share none of our generated code.

use std::time::Duration;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{
    Entry, RateLimitOverride,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::google::protobuf::UInt64Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code as Status, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

const RULES: &str = "
domain: shop
descriptors:
  - {key: user, rate_limit: {name: per-user, unit: year, requests_per_unit: 3}}
  - {key: week, rate_limit: {unit: week, requests_per_unit: 9}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: tagged, metadata: {team: {name: blue}}, rate_limit: {unit: year, requests_per_unit: 3}}
";

async fn start(environment: &[(&str, &str)]) -> Tollgate {
    Tollgate::start(&[("rules.yaml", RULES)], environment).await
}

async fn channel(service: &Tollgate) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", service.grpc)).expect("an address");
    endpoint.connect().await.expect("it listens")
}

async fn client(service: &Tollgate) -> RateLimitServiceClient<Channel> {
    RateLimitServiceClient::new(channel(service).await)
}

/// `key=value,key=value`
fn descriptor(text: &str) -> RateLimitDescriptor {
    let entry = |pair: &str| {
        let (key, value) = pair.split_once('=').expect("key=value");
        Entry { key: key.to_owned(), value: value.to_owned() }
    };
    RateLimitDescriptor { entries: text.split(',').map(entry).collect(), ..RateLimitDescriptor::default() }
}

fn request(descriptors: Vec<RateLimitDescriptor>) -> RateLimitRequest {
    RateLimitRequest { domain: "shop".to_owned(), descriptors, hits_addend: 0 }
}

/// Code, limit, unit, name and what remains.
fn reported(status: &DescriptorStatus) -> (Code, Option<(u32, Unit, &str)>, u32) {
    let limit = status.current_limit.as_ref();
    let limit = limit.map(|limit| (limit.requests_per_unit, limit.unit(), limit.name.as_str()));
    (status.code(), limit, status.limit_remaining)
}

async fn ask(client: &mut RateLimitServiceClient<Channel>, request: RateLimitRequest) -> RateLimitResponse {
    client.should_rate_limit(request).await.expect("an answer").into_inner()
}

#[tokio::test]
async fn an_independent_client_gets_the_limit_the_remaining_hits_and_the_reset() {
    let service = start(&[]).await;
    let mut client = client(&service).await;
    let asked = || {
        request(vec![
            descriptor("user=ann"),
            descriptor("free=x"),
            descriptor("week=1"),
            descriptor("none=x"),
        ])
    };
    for (overall, code, left) in [
        (Code::Ok, Code::Ok, 2),
        (Code::Ok, Code::Ok, 1),
        (Code::Ok, Code::Ok, 0),
        (Code::OverLimit, Code::OverLimit, 0),
    ] {
        let answer = ask(&mut client, asked()).await;
        assert_eq!((answer.overall_code(), answer.statuses.len()), (overall, 4));
        assert_eq!(reported(&answer.statuses[0]), (code, Some((3, Unit::Year, "per-user")), left));
        assert_eq!(reported(&answer.statuses[1]), (Code::Ok, None, u32::MAX));
        assert_eq!(reported(&answer.statuses[3]), (Code::Ok, None, 0));
        let (_, week, _) = reported(&answer.statuses[2]);
        assert_eq!(week, Some((9, Unit::Week, "")));
        let reset = answer.statuses[0].duration_until_reset.as_ref().expect("a limit applies");
        assert!(reset.seconds > 0 && reset.seconds <= 31_536_000 && reset.nanos == 0, "{reset:?}");
        assert!(answer.statuses[1].duration_until_reset.is_none());
        assert!(answer.response_headers_to_add.is_empty() && answer.dynamic_metadata.is_none());
    }
}

#[tokio::test]
async fn hits_come_from_the_descriptor_else_from_the_request_else_are_one() {
    let service = start(&[]).await;
    let mut client = client(&service).await;
    let hits = |value: Option<u64>, is_negative_hits| RateLimitDescriptor {
        hits_addend: value.map(|value| UInt64Value { value }),
        is_negative_hits,
        ..descriptor("week=hits")
    };
    for (of_request, descriptor, left) in [
        (0, hits(None, false), 8),
        (2, hits(None, false), 6),
        (2, hits(Some(3), false), 3),
        (2, hits(Some(0), false), 3),
        (0, hits(Some(2), true), 5),
        (1, hits(None, true), 6),
        (0, hits(Some(1_000_000_000), true), 9),
    ] {
        let asked = RateLimitRequest { hits_addend: of_request, ..request(vec![descriptor]) };
        let answer = ask(&mut client, asked.clone()).await;
        assert_eq!(answer.statuses[0].limit_remaining, left, "{asked:?}");
    }
}

#[tokio::test]
async fn a_limit_that_the_caller_brings_holds_in_place_of_the_rules() {
    let service = start(&[]).await;
    let mut client = client(&service).await;
    let brought = |unit| RateLimitDescriptor {
        limit: Some(RateLimitOverride { requests_per_unit: 42, unit }),
        ..descriptor("user=brought")
    };
    for (unit, expected) in [(4, Unit::Day), (5, Unit::Month), (6, Unit::Year), (7, Unit::Week)] {
        let answer = ask(&mut client, request(vec![brought(unit)])).await;
        assert_eq!(reported(&answer.statuses[0]), (Code::Ok, Some((42, expected, "")), 41));
    }
}

#[tokio::test]
async fn invalid_requests_are_refused_by_name_and_nothing_is_charged() {
    let service = start(&[]).await;
    let mut client = client(&service).await;
    let good = || descriptor("user=careful");
    let entries = |count| RateLimitDescriptor {
        entries: vec![good().entries[0].clone(); count],
        ..RateLimitDescriptor::default()
    };
    let of_unit = |unit| RateLimitDescriptor {
        limit: Some(RateLimitOverride { requests_per_unit: 1, unit }),
        ..descriptor("a=b")
    };
    let unit = "descriptors[1].limit.unit must be SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR";
    for (asked, sentence) in [
        (
            RateLimitRequest { domain: String::new(), ..request(vec![good()]) },
            "rate limit domain must not be empty",
        ),
        (request(vec![]), "rate limit descriptor list must not be empty"),
        (request(vec![good(); 1_025]), "descriptors must not be more than 1024, found 1025"),
        (request(vec![good(), entries(257)]), "descriptors[1].entries must not be more than 256, found 257"),
        (request(vec![good(), of_unit(0)]), unit),
        (request(vec![good(), of_unit(8)]), unit),
        (request(vec![good(), of_unit(-1)]), unit),
    ] {
        let status = client.should_rate_limit(asked).await.expect_err(sentence);
        assert_eq!((status.code(), status.message()), (Status::InvalidArgument, sentence));
    }
    let untouched = ask(&mut client, request(vec![good()])).await;
    assert_eq!(untouched.statuses[0].limit_remaining, 2);
    let metrics =
        reqwest::get(service.debug_url("/metrics")).await.expect("metrics").text().await.expect("text");
    assert!(
        metrics.contains("ratelimit_service_should_rate_limit_error{err_type=\"service_error\"} 7\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("ratelimit_service_total_requests{grpc_method=\"ShouldRateLimit\"} 8\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn the_largest_request_there_may_be_is_served() {
    let service = start(&[]).await;
    let mut client = client(&service).await;
    let text = "x".repeat(4096);
    let entry = Entry { key: text.clone(), value: text };
    let largest = RateLimitDescriptor { entries: vec![entry; 4], ..RateLimitDescriptor::default() };
    let answer = ask(&mut client, request(vec![largest; 64])).await;
    assert_eq!((answer.overall_code(), answer.statuses.len()), (Code::Ok, 64));
}

#[tokio::test]
async fn headers_report_the_binding_limit() {
    let service =
        start(&[("LIMIT_RESPONSE_HEADERS_ENABLED", "true"), ("LIMIT_RESET_HEADER", "x-reset")]).await;
    let mut client = client(&service).await;
    let answer = ask(&mut client, request(vec![descriptor("week=h"), descriptor("user=h")])).await;
    let headers: Vec<_> =
        answer.response_headers_to_add.iter().map(|h| (h.key.as_str(), h.value.as_str())).collect();
    let reset = answer.statuses[1].duration_until_reset.as_ref().expect("a limit").seconds.to_string();
    assert_eq!(headers, [("ratelimit-limit", "3"), ("ratelimit-remaining", "2"), ("x-reset", &reset)]);
    let answer = ask(&mut client, request(vec![descriptor("none=h")])).await;
    assert!(answer.response_headers_to_add.is_empty());
}

#[tokio::test]
async fn health_is_served_under_three_names_and_fails_before_the_shutdown() {
    let mut service = start(&[("SHUTDOWN_DELAY", "20s")]).await;
    let mut client = HealthClient::new(channel(&service).await);
    let names = ["", "ratelimit", "envoy.service.ratelimit.v3.RateLimitService"];
    let mut is = async |name: &str, status: ServingStatus| {
        let answer = client.check(HealthCheckRequest { service: name.to_owned() }).await;
        answer.is_ok_and(|answer| answer.into_inner().status() == status)
    };
    for name in names {
        assert!(is(name, ServingStatus::Serving).await, "{name:?}");
    }
    service.process.signal("TERM");
    for name in names {
        eventually("health says no", async || is(name, ServingStatus::NotServing).await).await;
    }
    let answer = reqwest::get(service.url("/healthcheck")).await.expect("still served");
    assert_eq!(answer.status(), 500);
    // A second signal means now.
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(Duration::from_secs(5)).await, Some(0));
    let unknown = HealthClient::new(channel(&start(&[]).await).await)
        .check(HealthCheckRequest { service: "nobody".to_owned() })
        .await;
    assert_eq!(unknown.expect_err("nobody knows it").code(), Status::NotFound);
}

#[tokio::test]
async fn without_good_rules_it_serves_and_says_that_it_is_not_ready() {
    let service = Tollgate::start_unhealthy(&[("rules.yaml", "domain: shop\nrubbish: 1\n")], &[]).await;
    let status = client(&service)
        .await
        .should_rate_limit(request(vec![descriptor("user=x")]))
        .await
        .expect_err("there are no rules");
    assert_eq!(
        (status.code(), status.message()),
        (Status::Unavailable, "no rate limit configuration loaded")
    );
    let client = reqwest::Client::new();
    let detail = client.get(service.url("/healthcheck")).header("accept", "application/json").send().await;
    let detail: serde_json::Value = detail.expect("an answer").json().await.expect("JSON");
    assert_eq!(detail["ready"], false);
    let error = detail["rules"]["error"].as_str().expect("what is wrong with the rules");
    assert!(error.contains("rules.yaml:2:1: config error, unknown key 'rubbish'"), "{error}");
    let body = r#"{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"x"}]}]}"#;
    let answer = client.post(service.url("/json")).body(body).send().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    assert_eq!(reqwest::get(service.debug_url("/rlconfig")).await.expect("an answer").status(), 503);

    service.write_rules("rules.yaml", RULES);
    eventually("it is ready", async || {
        reqwest::get(service.url("/healthcheck")).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}

#[tokio::test]
async fn rules_with_thousands_of_errors_are_reported_in_short() {
    let mut service = Tollgate::start(&[("rules.yaml", RULES)], &[("LOG_LEVEL", "warn")]).await;
    let wrong: Vec<_> = (0..2_000).map(|n| format!("{{key: k{n}, valeu: x}}")).collect();
    service.write_rules("rules.yaml", &format!("{{domain: shop, descriptors: [{}]}}", wrong.join(", ")));
    let client = reqwest::Client::new();
    let detail = async || {
        let detail =
            client.get(service.url("/healthcheck")).header("accept", "application/json").send().await;
        detail.expect("an answer").text().await.expect("text")
    };
    eventually("the errors are counted", async || detail().await.contains("\"errors\":2000")).await;
    let shown = detail().await;
    assert!(shown.len() < 10_000 && shown.contains("and 1990 more"), "{} bytes: {shown:.1000}", shown.len());
    service.process.output_with("errors=2000").await;

    service.write_rules("rules.yaml", RULES);
    eventually("the errors are gone", async || detail().await.contains("\"errors\":0")).await;
    let log = service.process.whole_output().await;
    assert!(log.len() < 10_000, "{} bytes: {log:.1000}", log.len());
    assert_eq!(log.matches("rules are valid again").count(), 1, "{log}");
}

#[tokio::test]
async fn rules_that_become_empty_are_logged_once_at_the_default_level() {
    let mut service = Tollgate::start(&[("rules.yaml", RULES)], &[("LOG_LEVEL", "warn")]).await;
    service.write_rules("rules.yaml", "domain: shop\ndescriptors: []\n");
    eventually("it is logged", async || service.process.output().contains("no rules in force")).await;
    service.write_rules("rules.yaml", "domain: shop\ndescriptors: [] # still none\n");
    service.write_rules("other.yaml", "domain: other\nrubbish: 1\n");
    eventually("an error is logged", async || service.process.output().contains("rules have errors")).await;
    let log = service.process.whole_output().await;
    assert_eq!(log.matches("no rules in force").count(), 1, "{log}");
}

#[tokio::test]
async fn a_domain_may_be_asked_for_before_it_is_ready() {
    let no_domain = [(".passed-over", "")];
    let environment = [("HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", "true")];
    let service = Tollgate::start_unhealthy(&no_domain, &environment).await;
    service.write_rules("rules.yaml", RULES);
    eventually("it is ready", async || {
        reqwest::get(service.url("/healthcheck")).await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}

#[tokio::test]
async fn reflection_shows_the_service_as_envoy_declares_it() {
    let service = start(&[]).await;
    let mut client = ServerReflectionClient::new(channel(&service).await);
    let ask = |message| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        Request::new(tokio_stream::once(request))
    };
    let mut answers = client
        .server_reflection_info(ask(MessageRequest::ListServices(String::new())))
        .await
        .expect("it is served")
        .into_inner();
    let answer = answers.message().await.expect("an answer").and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"envoy.service.ratelimit.v3.RateLimitService"), "{names:?}");
    assert!(names.contains(&"kuadrant.service.ratelimit.v1.RateLimitService"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");

    let symbol = "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor".to_owned();
    let mut answers = client
        .server_reflection_info(ask(MessageRequest::FileContainingSymbol(symbol)))
        .await
        .expect("it is served")
        .into_inner();
    let answer = answers.message().await.expect("an answer").and_then(|answer| answer.message_response);
    let Some(MessageResponse::FileDescriptorResponse(found)) = answer else { panic!("{answer:?}") };
    let file: prost_types::FileDescriptorProto =
        prost::Message::decode(&*found.file_descriptor_proto[0]).expect("a descriptor");
    let entry = file
        .message_type
        .iter()
        .flat_map(|message| &message.nested_type)
        .find(|message| message.name() == "Entry");
    let kinds: Vec<_> =
        entry.expect("it is there").field.iter().map(prost_types::FieldDescriptorProto::r#type).collect();
    assert_eq!(kinds, [prost_types::field_descriptor_proto::Type::String; 2]);
}

#[tokio::test]
async fn json_is_answered_as_the_reference_answers_it() {
    let service = start(&[]).await;
    let client = reqwest::Client::new();
    let post = async |body: &str| {
        let answer = client.post(service.url("/json")).body(body.to_owned()).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    let user = |user: &str| {
        format!(r#"{{"domain":"shop","descriptors":[{{"entries":[{{"key":"user","value":"{user}"}}]}}]}}"#)
    };
    for (left, code) in [(Some(2), 200), (Some(1), 200), (None, 200), (None, 429)] {
        let (status, body) = post(&user("json")).await;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(status, code, "{body}");
        let name = if code == 200 { "OK" } else { "OVER_LIMIT" };
        assert_eq!((&body["overallCode"], &body["statuses"][0]["code"]), (&name.into(), &name.into()));
        // Zero is left out, as proto3 JSON has it.
        assert_eq!(
            body["statuses"][0].get("limitRemaining").and_then(serde_json::Value::as_u64),
            left,
            "{body}"
        );
        assert!(body["statuses"][0]["durationUntilReset"].as_str().is_some_and(|reset| reset.ends_with('s')));
        let limit = serde_json::json!({"requestsPerUnit": 3, "unit": "YEAR", "name": "per-user"});
        assert_eq!(body["statuses"][0]["currentLimit"], limit);
    }
    assert_eq!(post(&user("\u{fc}")).await.0, 200);
    let no_limit = r#"{"domain":"other","descriptors":[{"entries":[{"key":"user","value":"x"}]}]}"#;
    assert_eq!(post(no_limit).await, (200, r#"{"overallCode":"OK","statuses":[{"code":"OK"}]}"#.to_owned()));
    let snake = user("snake").replace("\"descriptors\"", "\"hits_addend\":2,\"descriptors\"");
    assert!(post(&snake).await.1.contains("\"limitRemaining\":1"));
    for (bad, reason) in [
        ("", "EOF while parsing a value at line 1 column 0\n"),
        ("[]", "invalid type: sequence, expected an object at line 1 column 0\n"),
        (r#"{"domain":7}"#, "invalid type: integer `7`, expected a string at line 1 column 11\n"),
    ] {
        assert_eq!(post(bad).await, (400, reason.to_owned()), "{bad}");
    }
    assert_eq!(
        post(r#"{"domain":"shop"}"#).await,
        (400, "rate limit descriptor list must not be empty\n".to_owned())
    );
    assert_eq!(
        post(r#"{"descriptors":[{}]}"#).await,
        (400, "rate limit domain must not be empty\n".to_owned())
    );
    assert_eq!(reqwest::get(service.url("/json")).await.expect("an answer").status(), 400);
    assert_eq!(post(&" ".repeat(257 << 10)).await.0, 413);
    assert_eq!(reqwest::get(service.url("/nothing")).await.expect("an answer").status(), 404);
}

#[tokio::test]
async fn dynamic_metadata_has_the_request_and_the_metadata_of_rules() {
    let service = start(&[("RESPONSE_DYNAMIC_METADATA", "true")]).await;
    let body = r#"{"domain":"shop","hitsAddend":2,"descriptors":[
        {"entries":[{"key":"tagged","value":"x"}]},
        {"entries":[{"key":"a","value":"b"}],"hitsAddend":"3","limit":{"requestsPerUnit":10,"unit":"DAY"}}]}"#;
    let post = async || {
        let client = reqwest::Client::new();
        let answer = client.post(service.url("/json")).body(body).send().await.expect("an answer");
        let answer: serde_json::Value = answer.json().await.expect("JSON");
        answer["dynamicMetadata"].clone()
    };
    let mut expected = serde_json::json!({
        "domain": "shop",
        "hitsAddend": 2,
        "descriptors": [
            {"entries": ["tagged=x"]},
            {"entries": ["a=b"], "hitsAddend": 3, "limit": "requests_per_unit:10 unit:DAY"},
        ],
        "metadata": {"team": {"name": "blue"}},
    });
    assert_eq!(post().await, expected);
    // The second time it is over its limit: what did not pass says nothing, and its rule is named.
    let fields = expected.as_object_mut().expect("a map");
    fields.remove("metadata");
    fields.insert("failedRule".to_owned(), "shop.tagged".into());
    assert_eq!(post().await, expected);
}

#[tokio::test]
async fn rubbish_is_its_senders_trouble_alone() {
    let service = start(&[]).await;
    let mut client = client(&service).await;
    for (port, bytes) in [
        (service.grpc, &b"GET / HTTP/1.1\r\n\r\n"[..]),
        (service.grpc, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        (service.http, b"\x00\x01\x02 nothing like it\r\n\r\n"),
        (service.http, b"POST /json HTTP/1.1\r\ncontent-length: -1\r\n\r\n"),
        (service.debug, b"\xff\xff\xff\xff"),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        stream.write_all(bytes).await.expect("sent");
        stream.shutdown().await.expect("sent");
        let mut answer = Vec::new();
        // The server may answer or cut the connection.
        drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends"));
    }
    let mut raw = tonic::client::Grpc::new(channel(&service).await);
    raw.ready().await.expect("it is there");
    let path = |path| http::uri::PathAndQuery::from_static(path);
    for (to, code) in [
        ("/envoy.service.ratelimit.v3.RateLimitService/NoSuchMethod", Status::Unimplemented),
        ("/no.such.Service/Method", Status::Unimplemented),
        ("/", Status::Unimplemented),
    ] {
        let codec = tonic_prost::ProstCodec::<RateLimitRequest, RateLimitResponse>::default();
        let answer = raw.unary(Request::new(request(vec![descriptor("user=x")])), path(to), codec).await;
        assert_eq!(answer.expect_err(to).code(), code, "{to}");
        raw.ready().await.expect("it is there");
    }
    // A message of another type: field 1 is a number here.
    let codec = tonic_prost::ProstCodec::<UInt64Value, RateLimitResponse>::default();
    let method = || path("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
    let answer = raw.unary(Request::new(UInt64Value { value: 7 }), method(), codec).await;
    assert_eq!(answer.expect_err("that is no request").code(), Status::InvalidArgument);
    // What is larger than any request, and what is compressed, which nobody was offered.
    let large = request(vec![descriptor(&format!("user={}", "x".repeat(5 << 20)))]);
    let mut compressed = Request::new(request(vec![descriptor("user=x")]));
    compressed.metadata_mut().insert("grpc-encoding", "gzip".parse().expect("a value"));
    for (request, code) in
        [(Request::new(large), Status::ResourceExhausted), (compressed, Status::Unimplemented)]
    {
        raw.ready().await.expect("it is there");
        let codec = tonic_prost::ProstCodec::<RateLimitRequest, RateLimitResponse>::default();
        assert_eq!(raw.unary(request, method(), codec).await.expect_err("refused").code(), code);
    }
    assert_eq!(ask(&mut client, request(vec![descriptor("user=after")])).await.overall_code(), Code::Ok);
}

#[tokio::test]
async fn two_connections_are_served_by_two_cores() {
    let service = start(&[("THREADS", "2")]).await;
    let (mut one, mut two) = (client(&service).await, client(&service).await);
    for client in [&mut one, &mut two] {
        ask(client, request(vec![descriptor("user=x")])).await;
    }
    eventually("each core has one connection", async || {
        let metrics =
            reqwest::get(service.debug_url("/metrics")).await.expect("metrics").text().await.expect("text");
        [0, 1].iter().all(|core| metrics.contains(&format!("tollgate_connections{{core=\"{core}\"}} 1\n")))
    })
    .await;
}

#[tokio::test]
async fn a_port_in_use_ends_the_process_with_a_word_about_it() {
    let service = start(&[]).await;
    let taken = service.grpc.to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .env_clear()
        .envs([
            ("GRPC_HOST", "127.0.0.1"),
            ("GRPC_PORT", &*taken),
            ("PORT", "0"),
            ("DEBUG_PORT", "0"),
            ("ADMIN_PORT", "0"),
        ])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(
        reported
            .contains(&format!("error: cannot listen on 127.0.0.1:{taken} (gRPC): address already in use; ")),
        "{reported}"
    );
    assert!(
        reported.contains("set GRPC_HOST and GRPC_PORT") && reported.matches("in use").count() == 1,
        "{reported}"
    );
}

#[tokio::test]
async fn grpc_is_served_on_a_unix_socket_and_a_file_left_behind_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rls.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket whose listener is gone"));
    let mut service = start(&[("GRPC_UDS", path.to_str().expect("text"))]).await;
    let channel =
        Endpoint::from_shared(format!("unix:{}", path.display())).expect("an address").connect().await;
    let mut client = RateLimitServiceClient::new(channel.expect("it listens"));
    assert_eq!(ask(&mut client, request(vec![descriptor("user=x")])).await.statuses[0].limit_remaining, 2);
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(PATIENCE).await, Some(0));
    assert!(!path.exists(), "the socket's file goes with it");
}

#[tokio::test]
async fn a_connection_of_its_age_is_asked_to_go_and_cut_off_after_its_grace() {
    let ages = [("GRPC_MAX_CONNECTION_AGE", "200ms"), ("GRPC_MAX_CONNECTION_AGE_GRACE", "200ms")];
    let service = start(&ages).await;
    // This client never acknowledges anything, so it does not go by itself.
    let mut stream = TcpStream::connect(("127.0.0.1", service.grpc)).await.expect("it listens");
    stream.write_all(PREFACE).await.expect("sent");
    let mut kinds = Vec::new();
    let frames_to_the_end = async {
        while let Some(kind) = read_frame(&mut stream).await {
            kinds.push(kind);
        }
    };
    tokio::time::timeout(PATIENCE, frames_to_the_end).await.expect("it is closed");
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}

/// HTTP/2's preface and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The kind of a GOAWAY frame.
const GOAWAY: u8 = 7;

/// The kind of the next HTTP/2 frame; `None` at the end of the stream.
async fn read_frame(stream: &mut TcpStream) -> Option<u8> {
    // Three bytes of length, a kind, flags, and four bytes of stream.
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, ..] = head;
    let mut payload = vec![0; (usize::from(a) << 16) + (usize::from(b) << 8) + usize::from(c)];
    stream.read_exact(&mut payload).await.ok()?;
    Some(kind)
}

#[tokio::test]
async fn a_call_that_is_under_way_when_its_connection_is_of_age_finishes() {
    let (redis, _proxy, service, call) = with_a_call_under_way(&[("GRPC_MAX_CONNECTION_AGE", "1s")]).await;
    // Two other connections, one after the other, have come of age meanwhile.
    for _ in 0..2 {
        let mut other = TcpStream::connect(("127.0.0.1", service.grpc)).await.expect("it listens");
        other.write_all(PREFACE).await.expect("sent");
        while read_frame(&mut other).await.expect("a frame") != GOAWAY {}
    }
    assert!(!call.is_finished());
    redis.resume();
    assert!(call.await.expect("it ends").is_ok());
}

/// A Redis that has stopped answering, the proxy before it, a service, and a call that has reached Redis and
/// waits for it.
async fn with_a_call_under_way(
    environment: &[(&str, &str)],
) -> (Redis, Proxy, Tollgate, tokio::task::JoinHandle<Result<RateLimitResponse, tonic::Status>>) {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let url = format!("127.0.0.1:{}", proxy.port());
    let mut all = vec![("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "30s")];
    all.extend(environment);
    let service = start(&all).await;
    let mut client = client(&service).await;
    eventually("Redis is connected to", async || {
        client.should_rate_limit(request(vec![descriptor("week=x")])).await.is_ok()
    })
    .await;
    eventually("nothing is left to do", async || redis.times_to_live().iter().all(|(_, secs)| *secs > 0))
        .await;
    redis.pause();
    let before = proxy.request_bytes();
    let call = tokio::spawn(async move {
        let answer = client.should_rate_limit(request(vec![descriptor("week=x")])).await;
        answer.map(tonic::Response::into_inner)
    });
    eventually("the call is at Redis", async || proxy.request_bytes() > before).await;
    (redis, proxy, service, call)
}

#[tokio::test]
async fn calls_under_way_finish_while_no_new_connection_is_taken() {
    let (redis, _proxy, mut service, call) = with_a_call_under_way(&[]).await;
    service.process.signal("TERM");
    let port = service.grpc;
    eventually("new connections are refused", async || {
        TcpStream::connect(("127.0.0.1", port)).await.is_err()
    })
    .await;
    assert!(!service.process.has_ended() && !call.is_finished(), "the call is still under way");
    redis.resume();
    assert!(call.await.expect("it ends").is_ok());
    assert_eq!(service.process.exit_code(PATIENCE).await, Some(0));
}

#[tokio::test]
async fn silent_connections_do_not_delay_the_shutdown() {
    let mut service = start(&[]).await;
    let mut silent = Vec::new();
    for port in [service.grpc, service.http, service.debug] {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.expect("it listens"));
    }
    let _idle = channel(&service).await;
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(Duration::from_secs(5)).await, Some(0));
}

#[tokio::test]
async fn calls_that_outlast_the_deadline_are_cut_off_and_the_process_ends_well() {
    let (_redis, _proxy, mut service, call) = with_a_call_under_way(&[("SHUTDOWN_TIMEOUT", "500ms")]).await;
    service.process.signal("TERM");
    assert_eq!(service.process.exit_code(PATIENCE).await, Some(0));
    assert!(call.await.expect("it ends").is_err());
}

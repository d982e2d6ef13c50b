//! Rules from a management server: the discovery protocol, in both variants.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use prost_types::Any;
use tokio::time::{Instant, sleep};
use tollgate::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use tollgate::pb::ratelimit::config::ratelimit::v3::{RateLimitConfig, RateLimitDescriptor, RateLimitPolicy};
use tonic::Status;

use crate::support::ads::{AdsServer, AdsStream, Mode, TYPE_URL, config, descriptor};
use crate::support::xds::{Client, VARIANTS};

/// Status code `INVALID_ARGUMENT` of gRPC.
const REFUSED: i32 = 3;

/// A rule that no compiler accepts: a unit without a name.
fn bad(name: &str) -> RateLimitConfig {
    let mut config = config(name, &[("good", 1), ("bad", 1)]);
    let policy = RateLimitPolicy { unit: 99, requests_per_unit: 1, ..RateLimitPolicy::default() };
    config.descriptors[1].rate_limit = Some(policy);
    config
}

/// A server and a client whose stream has made its first request.
async fn connected(variant: &str, settings: &[(&str, &str)]) -> (AdsServer, Client, AdsStream) {
    let mut server = AdsServer::start().await;
    let client = Client::start(variant, &server, settings);
    let mut stream = server.stream().await;
    let first = stream.request().await;
    assert_eq!((&*first.version, &*first.nonce, first.refusal), ("", "", None));
    (server, client, stream)
}

/// Expects an answer that accepts a response.
async fn accepts(stream: &mut AdsStream, version: &str, nonce: &str) {
    let answer = stream.request().await;
    let version = if stream.is_delta() { "" } else { version };
    assert_eq!((&*answer.version, &*answer.nonce, answer.refusal), (version, nonce, None));
}

/// Expects an answer that refuses a response, and returns its reason.
async fn refuses(stream: &mut AdsStream, accepted: &str, nonce: &str) -> String {
    let answer = stream.request().await;
    let accepted = if stream.is_delta() { "" } else { accepted };
    assert_eq!((&*answer.version, &*answer.nonce), (accepted, nonce));
    let (code, reason) = answer.refusal.expect("a refusal");
    assert_eq!(code, REFUSED);
    reason
}

#[tokio::test]
async fn a_server_that_never_answers_is_waited_for() {
    for variant in VARIANTS {
        let (server, client, mut stream) = connected(variant, &[]).await;
        client.reaches("connected", |client| client.xds.is_connected()).await;
        // The client sends nothing further.
        assert!(tokio::time::timeout(Duration::from_millis(300), stream.try_request()).await.is_err());
        assert_eq!((server.dials(), client.xds.stream_errors(), client.rule_count()), (1, 0, None));
        assert!(client.status().is_partial);
    }
}

#[tokio::test]
async fn resources_come_into_force_are_accepted_and_go_again() {
    for variant in VARIANTS {
        let (_server, client, mut stream) = connected(variant, &[]).await;
        stream.put(&config("shop", &[("user", 5)])).put(&config("api", &[("key", 7)])).respond("1", "n1");
        accepts(&mut stream, "1", "n1").await;
        assert_eq!((client.limit("shop", "user"), client.limit("api", "key")), (Some(5), Some(7)));
        assert_eq!((client.xds.acks(), client.xds.nacks()), (1, 0));
        assert!(client.xds.last_response_at_secs() > 1_700_000_000);

        stream.remove("api").respond("2", "n2");
        accepts(&mut stream, "2", "n2").await;
        assert_eq!((client.limit("shop", "user"), client.limit("api", "key")), (Some(5), None));

        stream.put(&config("shop", &[("user", 6)])).respond("3", "n3");
        accepts(&mut stream, "3", "n3").await;
        assert_eq!(client.limit("shop", "user"), Some(6));
    }
}

#[tokio::test]
async fn a_bad_resource_keeps_its_last_good_version_and_affects_no_other() {
    for variant in VARIANTS {
        let (_server, client, mut stream) = connected(variant, &[]).await;
        stream.put(&config("shop", &[("user", 5)])).put(&config("api", &[("key", 7)])).respond("1", "n1");
        accepts(&mut stream, "1", "n1").await;

        stream.put(&bad("shop")).put(&config("api", &[("key", 8)])).put(&config("new", &[("k", 1)]));
        stream.respond("2", "n2");
        let reason = refuses(&mut stream, "1", "n2").await;
        let place = "xds:shop: descriptors[1 \"bad\"].rate_limit.unit: ";
        assert!(reason.starts_with(place) && reason.contains("'99'"), "{reason}");
        assert_eq!((client.limit("shop", "user"), client.limit("shop", "good")), (Some(5), None));
        assert_eq!((client.limit("api", "key"), client.limit("new", "k")), (Some(8), Some(1)));
        assert_eq!(client.error(), Some(reason));
        assert_eq!((client.xds.acks(), client.xds.nacks()), (1, 1));

        // A new resource with errors takes nothing out of force, and a removed one is removed.
        stream.put(&bad("newer")).remove("new").respond("3", "n3");
        let reason = refuses(&mut stream, "1", "n3").await;
        assert!(reason.contains("xds:newer: "), "{reason}");
        assert_eq!((client.limit("shop", "user"), client.limit("new", "k")), (Some(5), None));
    }
}

#[tokio::test]
async fn content_that_is_refused_again_and_again_is_answered_slowly_and_good_content_at_once() {
    for variant in VARIANTS {
        let (_server, client, mut stream) = connected(variant, &[]).await;
        stream.put(&config("shop", &[("user", 5)])).respond("1", "n1");
        accepts(&mut stream, "1", "n1").await;
        stream.put(&bad("shop")).respond("2", "n2");
        refuses(&mut stream, "1", "n2").await;

        let loaded = client.status();
        for number in 0..1000 {
            stream.put(&bad("shop")).respond("2", &format!("again{number}"));
        }
        client.reaches("all of them are counted", |client| client.xds.nacks() == 1001).await;
        // The wait before the first answer is half a second or more, and the next ones are longer.
        let (mut answers, mut last) = (1, stream.request().await);
        while &*last.nonce != "again999" {
            (answers, last) = (answers + 1, stream.request().await);
        }
        assert!(answers <= 4, "{answers} answers to 1000 responses");
        assert_eq!(last.refusal.expect("a refusal").1, client.error().expect("an error"));
        let answered = Instant::now();
        stream.put(&bad("shop")).respond("2", "last");
        refuses(&mut stream, "1", "last").await;
        assert!(answered.elapsed() >= Duration::from_millis(900), "{:?}", answered.elapsed());
        assert_eq!(client.status(), loaded, "loaded once");

        // While an answer waits, good content is accepted.
        stream.put(&bad("shop")).respond("2", "waits");
        stream.put(&config("shop", &[("user", 6)])).respond("4", "n4");
        accepts(&mut stream, "4", "n4").await;
        assert_eq!((client.limit("shop", "user"), client.error()), (Some(6), None));
        // The answer that waited is never sent.
        assert!(tokio::time::timeout(Duration::from_millis(100), stream.try_request()).await.is_err());
    }
}

#[tokio::test]
async fn a_response_without_resources_and_version_is_accepted() {
    for variant in VARIANTS {
        let (_server, client, mut stream) = connected(variant, &[]).await;
        stream.respond("", "n1");
        accepts(&mut stream, "", "n1").await;
        assert_eq!((client.rule_count(), client.status().is_partial), (Some(0), false));

        stream.put(&config("shop", &[("user", 5)])).respond("2", "n2");
        accepts(&mut stream, "2", "n2").await;
        stream.remove("shop").respond("", "n3");
        accepts(&mut stream, "", "n3").await;
        assert_eq!((client.rule_count(), client.error()), (Some(0), None));

        // A resource without descriptors is accepted too, and one whose descriptors have no limit.
        stream.put(&config("shop", &[("user", 5)])).respond("4", "n4");
        accepts(&mut stream, "4", "n4").await;
        let mut without = config("shop", &[("user", 5)]);
        without.descriptors[0].rate_limit = None;
        stream.put(&without).put(&config("empty", &[])).respond("5", "n5");
        accepts(&mut stream, "5", "n5").await;
        assert_eq!((client.rule_count(), client.error()), (Some(0), None));
    }
}

#[tokio::test]
async fn every_stream_begins_with_an_empty_version() {
    for variant in VARIANTS {
        let (mut server, client, mut stream) = connected(variant, &[]).await;
        stream.put(&config("shop", &[("user", 5)])).respond("1", "n1");
        accepts(&mut stream, "1", "n1").await;
        stream.end(Status::unavailable("shutting down"));

        let mut stream = server.stream().await;
        let first = stream.request().await;
        assert_eq!((&*first.version, &*first.nonce), ("", ""));
        let held: Vec<_> = first.initial.keys().map(String::as_str).collect();
        assert_eq!(held, if stream.is_delta() { vec!["shop"] } else { vec![] });
        assert_eq!(client.limit("shop", "user"), Some(5), "in force meanwhile");
        // The same version with other content.
        stream.put(&config("shop", &[("user", 9)])).respond("1", "n1");
        accepts(&mut stream, "1", "n1").await;
        assert_eq!(client.limit("shop", "user"), Some(9));
        assert_eq!((client.xds.reconnects(), client.xds.is_connected()), (1, true));
    }
}

#[tokio::test]
async fn another_type_in_a_resource_is_refused_and_in_a_response_ignored() {
    for variant in VARIANTS {
        let (_server, client, mut stream) = connected(variant, &[]).await;
        stream.put(&config("shop", &[("user", 5)])).respond("1", "n1");
        accepts(&mut stream, "1", "n1").await;

        let type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
        let mut message = stream.message("c", "c");
        message = if stream.is_delta() {
            let response = DeltaDiscoveryResponse::decode(message).expect("a response");
            DeltaDiscoveryResponse { type_url: type_url.clone(), ..response }.encode_to_vec().into()
        } else {
            let response = DiscoveryResponse::decode(message).expect("a response");
            let resources = Vec::new();
            DiscoveryResponse { type_url: type_url.clone(), resources, ..response }.encode_to_vec().into()
        };
        stream.send(message);

        stream.put_any("other", Any { type_url, value: Vec::new() }).respond("2", "n2");
        let reason = refuses(&mut stream, "1", "n2").await;
        assert!(
            reason.contains("type 'type.googleapis.com/envoy.config.cluster.v3.Cluster' is not"),
            "{reason}"
        );
        assert_eq!(client.limit("shop", "user"), Some(5));
    }
}

/// The next response, with another resource of the name `shop`.
fn with_another_shop(stream: &mut AdsStream, other: &RateLimitConfig) -> Vec<u8> {
    let any = Any { type_url: TYPE_URL.to_owned(), value: other.encode_to_vec() };
    let message = stream.message("2", "n2");
    if stream.is_delta() {
        let mut response = DeltaDiscoveryResponse::decode(message).expect("a response");
        let again = Resource { name: "shop".to_owned(), resource: Some(any), ..Resource::default() };
        response.resources.push(again);
        response.encode_to_vec()
    } else {
        let mut response = DiscoveryResponse::decode(message).expect("a response");
        response.resources.push(any);
        response.encode_to_vec()
    }
}

#[tokio::test]
async fn two_resources_of_one_name_are_refused_and_the_last_good_version_stays() {
    for variant in VARIANTS {
        let (_server, client, mut stream) = connected(variant, &[]).await;
        stream.put(&config("shop", &[("user", 5)])).respond("1", "n1");
        accepts(&mut stream, "1", "n1").await;
        stream.put(&config("shop", &[("user", 6)])).put(&config("api", &[("key", 7)]));
        let message = with_another_shop(&mut stream, &config("shop", &[("user", 8)]));
        stream.send(message);
        let reason = refuses(&mut stream, "1", "n2").await;
        assert_eq!(reason, "xds:shop: more than one resource of the response has this name");
        assert_eq!((client.limit("shop", "user"), client.limit("api", "key")), (Some(5), Some(7)));
        stream.put(&config("shop", &[("user", 9)])).respond("3", "n3");
        accepts(&mut stream, "3", "n3").await;
        assert_eq!(client.limit("shop", "user"), Some(9));
    }
}

#[tokio::test]
async fn a_truncated_resource_is_refused_by_its_name() {
    for variant in VARIANTS {
        let (_server, client, mut stream) = connected(variant, &[]).await;
        stream.put(&config("shop", &[("user", 5)])).put(&config("api", &[("key", 7)])).respond("1", "n1");
        accepts(&mut stream, "1", "n1").await;
        let truncate = |config: &RateLimitConfig, length: usize| {
            let mut value = config.encode_to_vec();
            value.truncate(length);
            Any { type_url: TYPE_URL.to_owned(), value }
        };
        let config = config("shop", &[("user", 6)]);
        let length = config.encoded_len();
        stream.put_any("shop", truncate(&config, length - 1)).remove("api").respond("2", "n2");
        let reason = refuses(&mut stream, "1", "n2").await;
        assert!(reason.starts_with("xds:shop: not a RateLimitConfig: "), "{reason}");
        assert_eq!((client.limit("shop", "user"), client.limit("api", "key")), (Some(5), None));

        // A resource without a name may be any of the missing ones, so none of them is removed.
        stream.put(&self::config("api", &[("key", 7)])).respond("3", "n3");
        // A response of the state of the world contains the truncated resource again.
        assert_eq!(stream.request().await.refusal.is_some(), !stream.is_delta());
        stream.put_any("shop", truncate(&config, 3)).remove("api").respond("4", "n4");
        refuses(&mut stream, "1", "n4").await;
        let kept = if stream.is_delta() { None } else { Some(7) };
        assert_eq!((client.limit("shop", "user"), client.limit("api", "key")), (Some(5), kept));
    }
}

#[tokio::test]
async fn units_are_known_ones_or_unlimited() {
    let with = |unit: i32, unlimited: bool| {
        let policy = RateLimitPolicy { unit, unlimited, requests_per_unit: 4, ..RateLimitPolicy::default() };
        let mut config = config("shop", &[("user", 1)]);
        config.descriptors[0].rate_limit = Some(policy);
        config
    };
    let cases = [
        (99, false, Some("'99'")),
        (0, true, None),
        (0, false, Some("'UNKNOWN'")),
        (1, true, Some("unlimited")),
        (7, false, None),
        (5, false, None),
    ];
    for variant in VARIANTS {
        let (_server, client, mut stream) = connected(variant, &[]).await;
        for (number, (unit, unlimited, error)) in cases.into_iter().enumerate() {
            stream.put(&with(unit, unlimited)).respond("v", &number.to_string());
            let refusal = stream.request().await.refusal.map(|(_, reason)| reason);
            match error {
                None => assert_eq!(refusal, None, "{unit} {unlimited}"),
                Some(error) => assert!(refusal.expect("a refusal").contains(error), "{unit} {unlimited}"),
            }
        }
        assert_eq!(client.limit("shop", "user"), Some(4));
    }
}

#[tokio::test]
async fn the_node_and_the_headers_are_as_set() {
    let settings = [
        ("CONFIG_GRPC_XDS_NODE_ID", "envoy-ratelimit"),
        ("CONFIG_GRPC_XDS_NODE_METADATA", "zone=a=b,plain,team=web"),
        ("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", "environment-label:dev,x-token: a:b"),
    ];
    for variant in VARIANTS {
        let mut server = AdsServer::start().await;
        let _client = Client::start(variant, &server, &settings);
        let mut stream = server.stream().await;
        let header =
            |name: &str| stream.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        assert_eq!(header("environment-label").as_deref(), Some("dev"));
        assert_eq!(header("x-token").as_deref(), Some("a:b"));
        assert!(header("user-agent").expect("a name").starts_with("tollgate/"));
        stream.put(&config("shop", &[("user", 5)])).respond("1", "n1");
        // Each request has the node.
        for _ in 0..2 {
            let request = stream.request().await;
            assert_eq!((&*request.node.id, &*request.node.cluster), ("envoy-ratelimit", ""));
            assert_eq!(request.node.user_agent_name, "tollgate");
            assert_eq!(request.type_url, TYPE_URL);
            let fields = request.node.metadata.expect("metadata").fields;
            let text = |value: prost_types::Value| match value.kind {
                Some(prost_types::value::Kind::StringValue(text)) => text,
                other => panic!("{other:?}"),
            };
            let fields: BTreeMap<_, _> =
                fields.into_iter().map(|(name, value)| (name, text(value))).collect();
            let expected = [("zone", "a=b"), ("team", "web")];
            assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        }
    }
}

#[tokio::test]
async fn a_server_without_discovery_is_named_and_retried_slowly() {
    let server = AdsServer::start().await;
    server.set_mode(Mode::Unimplemented("Stream"));
    let client = Client::start("GRPC_XDS_SOTW", &server, &[]);
    let is_named = |client: &Client| client.stream_error().is_some_and(|error| error.contains("(ADS)"));
    client.reaches("the error is named", is_named).await;
    // The usual back-off would have made ten attempts by now.
    sleep(Duration::from_millis(500)).await;
    assert_eq!(server.dials(), 1);
}

#[tokio::test]
async fn a_server_without_delta_is_asked_for_the_state_of_the_world() {
    let mut server = AdsServer::start().await;
    server.set_mode(Mode::Unimplemented("Delta"));
    let client = Client::start("GRPC_XDS_DELTA", &server, &[]);
    let mut stream = server.stream().await;
    assert!(!stream.is_delta());
    stream.request().await;
    stream.put(&config("shop", &[("user", 5)])).respond("1", "n1");
    accepts(&mut stream, "1", "n1").await;
    assert_eq!(client.limit("shop", "user"), Some(5));
    assert_eq!(client.xds.json()["protocol"], "sotw");
}

#[tokio::test]
async fn siblings_that_envoy_gateway_writes_twice_are_merged() {
    let node =
        |key: &str, value: &str, limit: Option<u32>, below: Vec<RateLimitDescriptor>| RateLimitDescriptor {
            value: value.to_owned(),
            rate_limit: limit.and_then(|requests| descriptor(key, requests).rate_limit),
            descriptors: below,
            ..RateLimitDescriptor { key: key.to_owned(), ..RateLimitDescriptor::default() }
        };
    let (route, network) = ("httproute/default/r/rule/0/match/0/*", "0.0.0.0/0");
    let address = || node("remote_address", "", Some(3), Vec::new());
    let twice = vec![
        node("masked_remote_address", network, Some(100), Vec::new()),
        node("masked_remote_address", network, None, vec![address()]),
    ];
    let name = "default/eg/http".to_owned();
    let top = |below| vec![node(route, route, None, below)];
    let config = RateLimitConfig { name: name.clone(), domain: name.clone(), descriptors: top(twice) };
    for variant in VARIANTS {
        let (_server, client, mut stream) = connected(variant, &[]).await;
        stream.put(&config).respond("1", "n1");
        accepts(&mut stream, "1", "n1").await;
        let masked = ("masked_remote_address", network);
        assert_eq!(client.limit_of(&name, &[(route, route), masked]), Some(100));
        assert_eq!(
            client.limit_of(&name, &[(route, route), masked, ("remote_address", "192.0.2.1")]),
            Some(3)
        );

        // Two limits in one place are a mistake, with both places.
        let conflict = vec![
            node("masked_remote_address", network, Some(100), Vec::new()),
            node("masked_remote_address", network, Some(200), Vec::new()),
        ];
        stream.put(&RateLimitConfig { descriptors: top(conflict), ..config.clone() }).respond("2", "n2");
        let reason = refuses(&mut stream, "1", "n2").await;
        assert!(
            reason
                .starts_with("xds:default/eg/http: descriptors[0 \"httproute/default/r/rule/0/match/0/*\"]."),
            "{reason}"
        );
        let [first, second] = [0, 1].map(|index| format!("descriptors[{index} \"masked_remote_address\"]"));
        assert!(reason.contains(&first) && reason.contains(&second), "{reason}");
        assert_eq!(client.limit_of(&name, &[(route, route), masked]), Some(100));
    }
}

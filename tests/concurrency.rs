//! Concurrency limits of the running program: over HTTP, over gRPC, and behind a real Envoy whose clients leave.

use std::process::Command;
use std::sync::Arc;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitResponse, rate_limit_response::Code};
use envoy_types::pb::google::protobuf::value::Kind;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::support::console::blocks;
use crate::support::envoy::{self, Config, Envoy};
use crate::support::eventually;
use crate::support::load::request;
use crate::support::redis::Redis;
use crate::support::service::Service;
use crate::support::tollgate::Tollgate;

const GUIDE: &str = include_str!("../docs/concurrency.md");
const ENVOY: &str = include_str!("../deploy/envoy/concurrency.yaml");

const RULES: &str = "
domain: example
descriptors:
  - key: tenant
    concurrency: {max: 3, ttl: 10m, name: in-flight}
  - {key: tenant, value: many, concurrency: {max: 20, ttl: 10m}}
  - key: batch
    rate_limits:
      - concurrency: {max: 2, ttl: 1m}
      - {unit: year, requests_per_unit: 3}
  - {key: user, rate_limit: {unit: year, requests_per_unit: 1}}
";

/// Status and body of a POST.
async fn post(url: String, body: &Value) -> (u16, Value) {
    let answer = Client::new().post(url).body(body.to_string()).send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

fn with(entries: &Value, more: Value) -> Value {
    let mut body = json!({ "domain": "example", "entries": entries });
    let Value::Object(more) = more else { panic!("no members: {more}") };
    for (name, value) in more {
        body[name] = value;
    }
    body
}

#[tokio::test]
async fn applications_acquire_renew_and_release_places() {
    let redis = Redis::start().await;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    for settings in [&[][..], &[("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "5s")]] {
        let service = Service::start(&[("rules.yaml", RULES)], settings).await;
        let call = async |path: &str, body: Value| post(service.url(path), &body).await;
        let tenant = json!({ "tenant": "a" });
        let (status, first) = call("/v1/acquire", with(&tenant, json!({ "weight": 2, "ttl": "30s" }))).await;
        assert_eq!(
            (status, &first["expiresIn"], &first["remaining"]),
            (200, &json!(30), &json!(1)),
            "{first}"
        );
        let (status, second) = call("/v1/acquire", with(&tenant, json!({}))).await;
        assert_eq!((status, &second["expiresIn"]), (200, &json!(600)));
        assert_ne!(first["ticket"], second["ticket"]);
        let (status, denied) = call("/v1/acquire", with(&tenant, json!({}))).await;
        assert_eq!((status, denied.get("ticket")), (429, None), "{denied}");
        assert_eq!(
            denied["message"],
            "The limit is 3 requests in flight. Try again when one has ended, at most in 30 s."
        );
        let (status, look) = call("/v1/acquire", with(&tenant, json!({ "weight": 0 }))).await;
        assert_eq!((status, look.get("ticket"), &look["remaining"]), (429, None, &json!(0)), "{look}");
        let (status, large) =
            call("/v1/acquire", with(&json!({ "tenant": "b" }), json!({ "weight": 65 }))).await;
        assert_eq!((status, &large["reason"]), (429, &json!("larger_than_limit")));

        let ticket = json!({ "ticket": first["ticket"] });
        let (status, renewed) = call("/v1/renew", with(&tenant, ticket.clone())).await;
        assert_eq!((status, renewed), (200, json!({ "renewed": true, "expiresIn": 600 })));
        for (entries, ticket) in [
            (json!({ "tenant": "b" }), first["ticket"].clone()),
            (tenant.clone(), json!("0".repeat(32))),
            (tenant.clone(), json!("-")),
        ] {
            let body = with(&entries, json!({ "ticket": ticket }));
            let (status, unknown) = call("/v1/renew", body.clone()).await;
            assert_eq!((status, &unknown["error"]), (404, &json!("unknown_ticket")), "{body}");
            assert_eq!(call("/v1/release", body).await, (200, json!({ "released": false })));
        }
        assert_eq!(call("/v1/acquire", with(&tenant, json!({}))).await.0, 429, "all three are held still");
        assert_eq!(
            call("/v1/release", with(&tenant, ticket.clone())).await,
            (200, json!({ "released": true }))
        );
        assert_eq!(
            call("/v1/release", with(&tenant, ticket.clone())).await,
            (200, json!({ "released": false }))
        );
        assert_eq!(call("/v1/renew", with(&tenant, ticket)).await.0, 404);
        let (_, look) = call("/v1/acquire", with(&tenant, json!({ "weight": 0 }))).await;
        assert_eq!(look["remaining"], 2, "a ticket is released once");
    }
}

#[tokio::test]
async fn calls_about_places_keep_the_conventions_of_the_http_api() {
    let service = Service::start(&[("rules.yaml", RULES)], &[]).await;
    for path in ["/v1/acquire", "/v1/renew", "/v1/release"] {
        let client = Client::new();
        let answer = client.request(Method::GET, service.url(path)).send().await.expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["allow"]),
            (405, &"POST".parse().expect("text"))
        );
        let foreign = client.post(service.url(path)).header("origin", "https://elsewhere.example").body("{}");
        assert_eq!(foreign.send().await.expect("an answer").status(), 403, "{path}");
        let large = client.post(service.url(path)).body(" ".repeat(300_000)).send().await.expect("an answer");
        assert_eq!(large.status(), 413, "{path}");
        for body in
            ["", "[]", "{\"ttl\": \"1ms\"}", "{\"domain\": \"example\", \"entries\": {}, \"ticket\": \"-\"}"]
        {
            let answer = client.post(service.url(path)).body(body).send().await.expect("an answer");
            let status = answer.status();
            let error: Value = answer.json().await.expect("JSON");
            assert_eq!((status.as_u16(), &error["error"]), (400, &json!("invalid_request")), "{path} {body}");
        }
    }
}

#[tokio::test]
async fn a_place_and_a_rate_are_taken_together_or_not_at_all() {
    let service = Service::start(&[("rules.yaml", RULES)], &[]).await;
    let acquire = async |entries: Value| post(service.url("/v1/acquire"), &with(&entries, json!({}))).await;
    let batch = json!({ "batch": "nightly" });
    let (status, first) = acquire(batch.clone()).await;
    assert_eq!((status, first["ticket"].is_string()), (200, true));
    assert_eq!(acquire(batch.clone()).await.0, 200);
    for _ in 0..5 {
        assert_eq!(acquire(batch.clone()).await.0, 429, "both places are held: no hit is counted");
    }
    let body = with(&batch, json!({ "ticket": first["ticket"] }));
    assert_eq!(post(service.url("/v1/release"), &body).await.1, json!({ "released": true }));
    let (status, third) = acquire(batch.clone()).await;
    assert_eq!(status, 200, "the third hit");
    let body = with(&batch, json!({ "ticket": third["ticket"] }));
    assert_eq!(post(service.url("/v1/release"), &body).await.1, json!({ "released": true }));
    assert_eq!(acquire(batch).await.0, 429, "no hit is left, and a release gives none back");

    let both = |user: &str| json!({ "user": user, "tenant": "t" });
    let (status, _) = acquire(both("ann")).await;
    assert_eq!(status, 200);
    for _ in 0..5 {
        assert_eq!(acquire(both("ann")).await.0, 429, "by the rate of the user");
    }
    let (_, look) =
        post(service.url("/v1/acquire"), &with(&json!({ "tenant": "t" }), json!({ "weight": 0 }))).await;
    assert_eq!(look["remaining"], 2, "denied requests hold nothing");
}

/// Ticket of an answer.
fn ticket(answer: &RateLimitResponse) -> Option<String> {
    let metadata = answer.dynamic_metadata.as_ref()?;
    match metadata.fields.get("ticket")?.kind.as_ref()? {
        Kind::StringValue(ticket) => Some(ticket.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn a_descriptor_with_the_ticket_gives_the_place_back_once() {
    let service = Service::start(&[("rules.yaml", RULES)], &[]).await;
    let address = format!("http://127.0.0.1:{}", service.grpc);
    let mut client = RateLimitServiceClient::connect(address).await.expect("it listens");
    let mut ask = async |entries: &[(&str, &str)]| {
        let mut request = request("example", entries);
        let entries = request.descriptors.drain(..).flat_map(|descriptor| descriptor.entries).collect();
        request.descriptors.push(RateLimitDescriptor { entries, ..RateLimitDescriptor::default() });
        client.should_rate_limit(request).await.expect("an answer").into_inner()
    };
    let mut tickets = Vec::new();
    for _ in 0..3 {
        tickets.push(ticket(&ask(&[("tenant", "a")]).await).expect("a ticket"));
    }
    let denied = ask(&[("tenant", "a")]).await;
    assert_eq!((denied.overall_code, ticket(&denied)), (Code::OverLimit.into(), None));
    assert_eq!(ticket(&ask(&[("user", "ann")]).await), None, "it holds nothing");

    let release = |ticket: &str| {
        [("tenant".to_owned(), "a".to_owned()), ("tollgate.ticket".to_owned(), ticket.to_owned())]
    };
    for (given_back, left) in
        [("-", 0), (&*"f".repeat(32), 0), (&tickets[0], 1), (&tickets[0], 1), (&tickets[1], 2)]
    {
        let entries = release(given_back);
        let entries: Vec<_> = entries.iter().map(|(key, value)| (&**key, &**value)).collect();
        let answer = ask(&entries).await;
        assert_eq!(answer.overall_code, i32::from(Code::Ok), "{answer:?}");
        assert_eq!((answer.statuses.len(), answer.statuses[0].limit_remaining), (1, left), "{given_back}");
        assert_eq!(ticket(&answer), None);
    }
    let foreign = ask(&[("tenant", "b"), ("tollgate.ticket", &tickets[2])]).await;
    assert_eq!(foreign.statuses[0].limit_remaining, 3);
    let ended = ask(&[("tenant", "a"), ("tollgate.ticket", &tickets[2]), ("tollgate.end", "1")]).await;
    assert_eq!(ended.statuses[0].limit_remaining, 3);
    let of_rate = ask(&[("user", "ann"), ("tollgate.ticket", &tickets[2])]).await;
    assert_eq!(of_rate.overall_code, i32::from(Code::Ok), "it counts no hit");
    assert!(of_rate.statuses[0].current_limit.is_none());
    let metrics =
        reqwest::get(service.debug_url("/metrics")).await.expect("metrics").text().await.expect("text");
    for (event, count) in [("acquired", 3), ("denied", 1), ("released", 3), ("unknown", 3), ("renewed", 0)] {
        let line = format!("tollgate_tickets{{event=\"{event}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[tokio::test]
async fn a_store_that_fails_open_gives_no_ticket_and_one_that_fails_closed_denies() {
    let redis = Redis::absent();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let rules = "
domain: example
descriptors:
  - {key: open, on_backend_failure: allow, concurrency: {max: 1, ttl: 1m}}
  - {key: closed, on_backend_failure: deny, concurrency: {max: 1, ttl: 1m}}
  - {key: failing, concurrency: {max: 1, ttl: 1m}}
";
    let service = Service::start(&[("rules.yaml", rules)], &[("REDIS_URL", &*url)]).await;
    for (key, status, error) in [
        ("open", 200, Value::Null),
        ("closed", 429, json!("rate_limit_exceeded")),
        ("failing", 503, json!("store_unavailable")),
    ] {
        let mut entries = json!({});
        entries[key] = json!("x");
        let (found, answer) = post(service.url("/v1/acquire"), &with(&entries, json!({}))).await;
        assert_eq!((found, answer.get("ticket"), &answer["error"]), (status, None, &error), "{answer}");
        let body = with(&entries, json!({ "ticket": "0".repeat(32) }));
        assert_eq!(post(service.url("/v1/release"), &body).await.0, 503, "to be repeated");
    }
}

/// An upstream that begins its answers at once or later, and ends them when it may.
pub(crate) struct Upstream {
    pub(crate) port: u16,
    /// Requests that have arrived, and how far they may be answered.
    arrived: watch::Sender<usize>,
    stage: Arc<watch::Sender<Stage>>,
    _accepting: AbortOnDrop,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Nothing,
    Head,
    Whole,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let arrived = watch::Sender::new(0);
        let stage = Arc::new(watch::Sender::new(Stage::Nothing));
        let (arrivals, allowed) = (arrived.clone(), Arc::clone(&stage));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (arrivals, mut allowed) = (arrivals.clone(), allowed.subscribe());
                connections.spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    arrivals.send_modify(|count| *count += 1);
                    let is_unavailable = request.starts_with(b"GET /unavailable");
                    let status = if is_unavailable { "503 Service Unavailable" } else { "200 OK" };
                    let names_usage = !is_unavailable && !request.starts_with(b"GET /silent");
                    let usage = if names_usage { "x-total-tokens: 170\r\n" } else { "" };
                    let head = format!(
                        "HTTP/1.1 {status}\r\n{usage}content-length: 4\r\nconnection: close\r\n\r\nab"
                    );
                    drop(allowed.wait_for(|stage| *stage >= Stage::Head).await);
                    drop(stream.write_all(head.as_bytes()).await);
                    drop(allowed.wait_for(|stage| *stage >= Stage::Whole).await);
                    drop(stream.write_all(b"cd").await);
                });
            }
        });
        Self { port, arrived, stage, _accepting: AbortOnDrop(accepting.abort_handle()) }
    }

    pub(crate) fn allow(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Waits until so many requests have arrived since the start.
    pub(crate) async fn has(&self, requests: usize) {
        self.arrived.subscribe().wait_for(|arrived| *arrived >= requests).await.expect("the upstream lives");
    }
}

/// Envoy as it is deployed, in front of `upstream`.
async fn envoy_before(upstream: &Upstream, tollgate: u16) -> Arc<Envoy> {
    let of_cluster = "cluster_name: upstream\n      endpoints:\n      - lb_endpoints:\n        - endpoint: \
                      {address: {socket_address: {address: 127.0.0.1, port_value: 10001}}}";
    let config = Config::of(ENVOY, &[tollgate]);
    let ours = of_cluster.replace("10001", &upstream.port.to_string());
    Arc::new(Envoy::start(&config.with(of_cluster, &ours)).await)
}

/// A client whose request is on its way, until it is aborted.
fn client(envoy: &Arc<Envoy>, path: &'static str) -> tokio::task::JoinHandle<u16> {
    let url = format!("http://127.0.0.1:{}{path}", envoy.address().1);
    tokio::spawn(async move {
        let answer = Client::new().get(url).header("x-tenant", "a").send().await.expect("Envoy answers");
        let status = answer.status().as_u16();
        drop(answer.bytes().await);
        status
    })
}

/// Places that the tenant holds.
async fn held(tollgate: &Tollgate) -> i64 {
    let body = with(&json!({ "tenant": "a" }), json!({ "weight": 0 }));
    let (_, look) = post(tollgate.url("/v1/acquire"), &body).await;
    3 - look["remaining"].as_i64().expect("a number")
}

async fn nothing_is_held(tollgate: &Tollgate, redis: &Redis, at: &str) {
    eventually(at, async || held(tollgate).await == 0).await;
    assert_eq!(redis.len(), 0, "{at}");
}

/// Redis, tollgate with its counters there, and Envoy before tollgate and an upstream.
async fn behind_envoy() -> (Redis, Tollgate, Upstream, Arc<Envoy>) {
    let redis = Redis::start().await;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let settings = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "60s")];
    let tollgate = Tollgate::start(&[("rules.yaml", RULES)], &settings).await;
    let upstream = Upstream::start().await;
    let envoy = envoy_before(&upstream, tollgate.grpc).await;
    (redis, tollgate, upstream, envoy)
}

/// The places have ten minutes: only a release ends them before this test does.
#[tokio::test]
async fn envoy_gives_every_place_back_in_whatever_phase_its_client_leaves() {
    let (redis, tollgate, upstream, envoy) = behind_envoy().await;
    let mut requests = 0;

    // At the limit: those beyond it are denied, and release nothing.
    let clients: Vec<_> = (0..3).map(|_| client(&envoy, "/")).collect();
    requests += 3;
    upstream.has(requests).await;
    assert_eq!(held(&tollgate).await, 3);
    for _ in 0..20 {
        assert_eq!(client(&envoy, "/").await.expect("an answer"), 429);
    }
    assert_eq!(held(&tollgate).await, 3);
    upstream.allow(Stage::Whole);
    for client in clients {
        assert_eq!(client.await.expect("an answer"), 200);
    }
    nothing_is_held(&tollgate, &redis, "after the responses").await;

    // The upstream fails.
    assert_eq!(client(&envoy, "/unavailable").await.expect("an answer"), 503);
    requests += 1;
    nothing_is_held(&tollgate, &redis, "after a response with an error").await;

    // The client leaves before the response, and within it.
    for stage in [Stage::Nothing, Stage::Head] {
        upstream.allow(stage);
        let clients: Vec<_> = (0..3).map(|_| client(&envoy, "/")).collect();
        requests += 3;
        upstream.has(requests).await;
        assert_eq!(held(&tollgate).await, 3);
        clients.iter().for_each(tokio::task::JoinHandle::abort);
        nothing_is_held(&tollgate, &redis, "after clients have left").await;
    }
    assert_eq!(envoy.stat("cluster.upstream.ratelimit.error").await, 0);
}

#[tokio::test]
async fn of_two_hundred_slow_requests_twenty_are_in_flight_and_none_leaves_a_place_behind() {
    let (redis, tollgate, upstream, envoy) = behind_envoy().await;
    let (url, client) = (format!("http://127.0.0.1:{}/", envoy.address().1), Client::new());
    let mut requests: Vec<_> = (0..200)
        .map(|_| {
            let request = client.get(&url).header("x-tenant", "many").send();
            tokio::spawn(async move {
                let answer = request.await.expect("Envoy answers");
                let status = answer.status().as_u16();
                drop(answer.bytes().await);
                status
            })
        })
        .collect();
    let held = async || {
        let look = with(&json!({ "tenant": "many" }), json!({ "weight": 0 }));
        20 - post(tollgate.url("/v1/acquire"), &look).await.1["remaining"].as_i64().expect("a number")
    };
    upstream.has(20).await;
    eventually("all others are answered", async || {
        requests.iter().filter(|request| request.is_finished()).count() == 180
    })
    .await;
    let (denied, in_flight): (Vec<_>, Vec<_>) = requests.drain(..).partition(|request| request.is_finished());
    for request in denied {
        assert_eq!(request.await.expect("an answer"), 429);
    }
    assert_eq!((held().await, in_flight.len()), (20, 20));
    // Some clients leave before the answer, some within it, and some have all of it.
    in_flight[..7].iter().for_each(tokio::task::JoinHandle::abort);
    eventually("their places come back", async || held().await == 13).await;
    upstream.allow(Stage::Head);
    in_flight[7..14].iter().for_each(tokio::task::JoinHandle::abort);
    eventually("theirs too", async || held().await == 6).await;
    upstream.allow(Stage::Whole);
    for request in in_flight.into_iter().skip(14) {
        assert_eq!(request.await.expect("an answer"), 200);
    }
    eventually("no place is taken", async || held().await == 0).await;
    assert_eq!(redis.len(), 0);
}

/// Envoy cancels its call, and makes no second one: tollgate itself must see that its caller has gone.
#[tokio::test]
async fn a_place_comes_back_when_the_client_leaves_during_the_call() {
    let (redis, tollgate, upstream, envoy) = behind_envoy().await;
    upstream.allow(Stage::Whole);
    assert_eq!(client(&envoy, "/").await.expect("an answer"), 200);
    nothing_is_held(&tollgate, &redis, "before").await;

    let calls =
        async || tollgate.metric("ratelimit_service_total_requests{grpc_method=\"ShouldRateLimit\"}").await;
    let before = calls().await;
    let scripts = redis.executed("evalsha");
    redis.pause();
    let clients: Vec<_> = (0..3).map(|_| client(&envoy, "/")).collect();
    eventually("tollgate has the calls", async || {
        envoy.stat("cluster.tollgate.upstream_rq_active").await >= 3
    })
    .await;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("tollgate has given the calls up", async || calls().await >= before + 3).await;
    redis.resume();
    eventually("the places were taken", async || redis.executed("evalsha") > scripts).await;
    nothing_is_held(&tollgate, &redis, "after clients have left").await;
    assert_eq!(*upstream.arrived.borrow(), 1, "none of them got through");
}

#[test]
fn envoy_takes_the_configuration_as_it_is() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envoy/concurrency.yaml");
    let output = Command::new(envoy::binary()).args(["--mode", "validate", "-c", config]).output();
    let output = output.expect("envoy runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Commands of the guide with their output, in order. Tickets are random: those that the guide shows stand for
/// those of the answers.
#[tokio::test]
async fn the_commands_of_the_guide_print_what_it_shows() {
    let service = Service::start(&[("rules.yaml", blocks(GUIDE, "yaml rules")[0])], &[]).await;
    let (mut shown_ticket, mut real_ticket) = (String::new(), String::new());
    let mut run = 0;
    for block in blocks(GUIDE, "console") {
        let (command, output) = block.split_once('\n').expect("a command and its output");
        let command = command.strip_prefix("$ curl http://127.0.0.1:8080").expect("curl");
        let (path, body) = command.split_once(" -d ").expect("a body");
        let body = body.trim_matches('\'');
        let body = if run == 0 { body.to_owned() } else { body.replace(&shown_ticket, &real_ticket) };
        let answer = Client::new().post(service.url(path)).body(body).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        let shown: Value = serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"));
        if let (Some(shown), Some(real)) = (shown["ticket"].as_str(), answer["ticket"].as_str()) {
            (shown_ticket, real_ticket) = (shown.to_owned(), real.to_owned());
        }
        let mut expected = shown;
        if expected.get("ticket").is_some() {
            expected["ticket"] = json!(real_ticket);
        }
        let without_times = |mut answer: Value| {
            for name in ["resetIn", "retryAfter", "message"] {
                answer.as_object_mut().map(|members| members.remove(name));
            }
            for layer in answer["layers"].as_array_mut().into_iter().flatten() {
                layer.as_object_mut().map(|members| members.remove("resetIn"));
            }
            answer
        };
        assert_eq!(without_times(answer), without_times(expected), "{command}");
        run += 1;
    }
    assert!(run >= 4, "{run}");
}

//! Budgets behind a real Envoy, whose clients leave in every phase, and the guide to them.

use std::process::Command;
use std::sync::Arc;

use reqwest::Client;
use serde_json::{Value, json};

use crate::concurrency::{Stage, Upstream};
use crate::support::console::blocks;
use crate::support::envoy::{self, Config, Envoy};
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::service::Service;
use crate::support::tollgate::Tollgate;

const GUIDE: &str = include_str!("../docs/llm.md");
const ENVOY: &str = include_str!("../deploy/envoy/llm.yaml");
/// Tokens that the upstream names in its answers.
const USAGE: u64 = 170;

/// Two requests at a time, whose holds outlive the test.
const RULES: &str = "
domain: ai
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 10000}
    reserve: {amount: 4000, ttl: 1h}
";

struct Stack {
    redis: Redis,
    tollgate: Tollgate,
    upstream: Upstream,
    envoy: Arc<Envoy>,
}

impl Stack {
    async fn start(config: &str) -> Self {
        let redis = Redis::start().await;
        let url = format!("redis://127.0.0.1:{}", redis.port());
        let settings = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "60s")];
        let tollgate = Tollgate::start(&[("rules.yaml", RULES)], &settings).await;
        let upstream = Upstream::start().await;
        let of_cluster = "cluster_name: upstream\n      endpoints:\n      - lb_endpoints:\n        - endpoint: \
                          {address: {socket_address: {address: 127.0.0.1, port_value: 10001}}}";
        let ours = of_cluster.replace("10001", &upstream.port.to_string());
        let config = Config::of(config, &[tollgate.grpc]).with(of_cluster, &ours);
        let envoy = Arc::new(Envoy::start(&config).await);
        Self { redis, tollgate, upstream, envoy }
    }

    /// A client whose request is on its way, until it is aborted.
    fn client(&self, path: &'static str) -> tokio::task::JoinHandle<u16> {
        let url = format!("http://127.0.0.1:{}{path}", self.envoy.address().1);
        tokio::spawn(async move {
            let answer = Client::new().get(url).header("x-user", "a").send().await.expect("Envoy answers");
            let status = answer.status().as_u16();
            drop(answer.bytes().await);
            status
        })
    }

    /// Tokens that the user has used, and those that are held.
    async fn usage(&self) -> [u64; 2] {
        let answer = reqwest::get(self.tollgate.url("/v1/usage?domain=ai&user=a")).await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        ["used", "held"].map(|name| answer[name].as_u64().unwrap_or_else(|| panic!("{answer}")))
    }

    async fn has_used(&self, tokens: u64, at: &str) {
        eventually(at, async || self.usage().await == [tokens, 0]).await;
    }
}

#[tokio::test]
async fn envoy_settles_every_hold_in_whatever_phase_its_client_leaves() {
    let stack = Stack::start(ENVOY).await;
    let Stack { upstream, .. } = &stack;
    let (mut used, mut requests) = (0, 0);

    // Two requests hold all that there is. Those beyond them are denied, and neither count nor give anything back.
    let clients = [stack.client("/"), stack.client("/")];
    requests += 2;
    upstream.has(requests).await;
    assert_eq!(stack.usage().await, [0, 8_000]);
    for _ in 0..10 {
        assert_eq!(stack.client("/").await.expect("an answer"), 429);
    }
    assert_eq!(stack.usage().await, [0, 8_000]);
    upstream.allow(Stage::Whole);
    for client in clients {
        assert_eq!(client.await.expect("an answer"), 200);
        used += USAGE;
    }
    stack.has_used(used, "after the answers").await;

    // The upstream fails, and names no usage; or it forgets to.
    for (path, status) in [("/unavailable", 503), ("/silent", 200)] {
        assert_eq!(stack.client(path).await.expect("an answer"), status);
        requests += 1;
        stack.has_used(used, path).await;
    }

    // The client leaves before the answer, which has no usage then, and within it.
    for (stage, usage) in [(Stage::Nothing, 0), (Stage::Head, USAGE)] {
        upstream.allow(stage);
        let clients = [stack.client("/"), stack.client("/")];
        requests += 2;
        upstream.has(requests).await;
        assert_eq!(stack.usage().await, [used, 8_000]);
        if stage == Stage::Head {
            eventually("the head has reached Envoy", async || {
                stack.envoy.stat("http.front.downstream_rq_2xx").await >= 5
            })
            .await;
        }
        clients.iter().for_each(tokio::task::JoinHandle::abort);
        used += 2 * usage;
        stack.has_used(used, "after clients have left").await;
    }
    assert_eq!(stack.envoy.stat("cluster.upstream.ratelimit.error").await, 0);
    assert_eq!(stack.tollgate.metric("tollgate_holds{event=\"expired\"}").await, 0);
}

/// Envoy cancels its call, and makes no second one: tollgate itself must see that its caller has gone.
#[tokio::test]
async fn a_hold_is_given_back_when_the_client_leaves_during_the_call() {
    let stack = Stack::start(ENVOY).await;
    stack.upstream.allow(Stage::Whole);
    assert_eq!(stack.client("/").await.expect("an answer"), 200);
    stack.has_used(USAGE, "before").await;

    let calls = async || {
        stack.tollgate.metric("ratelimit_service_total_requests{grpc_method=\"ShouldRateLimit\"}").await
    };
    let before = calls().await;
    let scripts = stack.redis.executed("evalsha");
    stack.redis.pause();
    let clients = [stack.client("/"), stack.client("/")];
    eventually("tollgate has the calls", async || {
        stack.envoy.stat("cluster.tollgate.upstream_rq_active").await >= 2
    })
    .await;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("tollgate has given the calls up", async || calls().await >= before + 2).await;
    stack.redis.resume();
    eventually("the amounts were held", async || stack.redis.executed("evalsha") > scripts).await;
    stack.has_used(USAGE, "after clients have left").await;
}

/// The configuration that Envoy AI Gateway makes: a look, and the usage on the same entries.
#[tokio::test]
async fn without_tickets_usage_settles_the_oldest_hold() {
    let ticket = "
                    - metadata:
                        descriptor_key: tollgate.ticket
                        metadata_key: {key: envoy.filters.http.ratelimit, path: [{key: ticket}]}
                        # tollgate was away: the usage is counted all the same.
                        default_value: \"-\"";
    let (first, last) =
        (ENVOY.find("                  - apply_on_stream_done: true\n"), ENVOY.find("              routes:"));
    let (first, last) = (first.expect("an item"), last.expect("routes"));
    let second = first
        + 1
        + ENVOY[first + 1..].find("                  - apply_on_stream_done: true\n").expect("another");
    let config = format!("{}{}", &ENVOY[..second], &ENVOY[last..]).replacen(ticket, "", 1);
    assert!(!config.contains("tollgate.ticket"), "{config}");

    let stack = Stack::start(&config).await;
    let clients = [stack.client("/"), stack.client("/")];
    stack.upstream.has(2).await;
    assert_eq!(stack.usage().await, [0, 8_000]);
    assert_eq!(stack.client("/").await.expect("an answer"), 429);
    stack.upstream.allow(Stage::Whole);
    for client in clients {
        assert_eq!(client.await.expect("an answer"), 200);
    }
    stack.has_used(2 * USAGE, "after the answers").await;
    assert_eq!(stack.client("/unavailable").await.expect("an answer"), 503);
    assert_eq!(stack.usage().await, [2 * USAGE, 4_000], "without usage, the hold lasts for its TTL");
}

#[test]
fn envoy_takes_the_configuration_as_it_is() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envoy/llm.yaml");
    let output = Command::new(envoy::binary()).args(["--mode", "validate", "-c", config]).output();
    let output = output.expect("envoy runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Commands of the guide with their output, in order. The ticket that it shows stands for that of the answer.
#[tokio::test]
async fn the_commands_of_the_guide_print_what_it_shows() {
    let rules = blocks(GUIDE, "yaml rules")[0].replace("unit: minute", "unit: year");
    let service = Service::start(&[("rules.yaml", &rules)], &[]).await;
    let (mut shown_ticket, mut real_ticket) = (String::new(), String::new());
    let mut run = 0;
    for block in blocks(GUIDE, "console") {
        let (command, output) = block.split_once('\n').expect("a command and its output");
        let command = command.strip_prefix("$ curl ").expect("curl").replace(['\''], "");
        let command = command.strip_prefix("http://127.0.0.1:8080").expect("the service");
        let request = match command.split_once(" -d ") {
            Some((path, body)) => {
                let body = if run == 0 { body.to_owned() } else { body.replace(&shown_ticket, &real_ticket) };
                Client::new().post(service.url(path)).body(body)
            }
            None => Client::new().get(service.url(command)),
        };
        let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        let mut shown: Value =
            serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"));
        if let (Some(shown), Some(real)) = (shown["ticket"].as_str(), answer["ticket"].as_str()) {
            (shown_ticket, real_ticket) = (shown.to_owned(), real.to_owned());
        }
        if shown.get("ticket").is_some() {
            shown["ticket"] = json!(real_ticket);
        }
        assert_eq!(without_times(answer), without_times(shown), "{command}");
        run += 1;
    }
    assert!(run >= 4, "{run}");
}

fn without_times(mut answer: Value) -> Value {
    answer.as_object_mut().map(|members| members.remove("resetIn"));
    for layer in answer["layers"].as_array_mut().into_iter().flatten() {
        layer.as_object_mut().map(|members| members.remove("resetIn"));
    }
    answer
}

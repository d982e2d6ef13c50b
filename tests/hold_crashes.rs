//! Crashes of tollgate while budgets and places are held: of one replica among three, and behind a real Envoy in the
//! middle of streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use envoy_types::pb::google::protobuf::UInt64Value;
use envoy_types::pb::google::protobuf::value::Kind;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::concurrency::{Stage, Upstream};
use crate::support::envoy::{Config, Envoy};
use crate::support::load::request;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;
use crate::support::{PATIENCE, eventually};

/// `[used, held]` of a key, as the API for operators shows it: unlike others it has no upper bound. Places that are
/// taken are used.
async fn usage(tollgate: &Tollgate, domain: &str, key: &str, value: &str) -> [u64; 2] {
    let url = tollgate.admin_url(&format!("/api/v1/keys?domain={domain}&descriptor={key}%3D{value}"));
    let mut limit = Value::Null;
    eventually("the store answers", async || {
        let answer = reqwest::get(&url).await.expect("an answer");
        let (status, mut answer) = (answer.status(), answer.json::<Value>().await.expect("JSON"));
        assert_eq!(status, StatusCode::OK, "{answer}");
        limit = answer["limits"][0].take();
        limit["used"].is_u64()
    })
    .await;
    let number = |of: &Value| of.as_u64().unwrap_or_else(|| panic!("no number: {limit}"));
    let held = if limit["budget"].is_null() { 0 } else { number(&limit["budget"]["held"]) };
    [number(&limit["used"]), held]
}

/// Ends a process as a crash does.
async fn kill(tollgate: &mut Tollgate) {
    tollgate.process.signal("KILL");
    assert_eq!(tollgate.process.exit_code(PATIENCE).await, None, "a signal ended it");
}

const LIMIT: u64 = 40_000;
const ESTIMATE: u64 = 100;
/// Upper bound on real amounts: some are more than their estimate.
const MOST: u64 = 120;
const PLACES: u64 = 150;
const TTL: Duration = Duration::from_secs(6);
const OF_REPLICAS: &str = "
domain: ai
descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 40000}, reserve: {amount: 100, ttl: 6s}}
  - {key: tenant, concurrency: {max: 150, ttl: 6s}}
";
const CALLERS: usize = 1_000;
const ROUNDS: usize = 3;
/// Callers of the first replica that hold something when it is killed.
const HOLDERS: usize = 20;

type Replica = RateLimitServiceClient<Channel>;

/// Descriptors of a caller, each with its hits. Every second caller takes a place too. `ticket` settles.
fn descriptors(caller: usize, ticket: Option<&str>, hits: u64) -> Vec<RateLimitDescriptor> {
    let keys = if caller.is_multiple_of(2) { &["user", "tenant"][..] } else { &["user"] };
    let descriptor = |key: &&str| {
        let mut entries = vec![(*key, "a")];
        entries.extend(ticket.map(|ticket| ("tollgate.ticket", ticket)));
        let entries = request("ai", &entries).descriptors.into_iter().flat_map(|of| of.entries).collect();
        let hits_addend = Some(UInt64Value { value: if *key == "user" { hits } else { 1 } });
        RateLimitDescriptor { entries, hits_addend, ..RateLimitDescriptor::default() }
    };
    keys.iter().map(descriptor).collect()
}

fn ticket(answer: &RateLimitResponse) -> Option<String> {
    match answer.dynamic_metadata.as_ref()?.fields.get("ticket")?.kind.as_ref()? {
        Kind::StringValue(ticket) => Some(ticket.clone()),
        _ => None,
    }
}

/// Sums of all callers.
#[derive(Default)]
struct Sums {
    holding: AtomicU64,
    denied: AtomicU64,
    settlements: AtomicU64,
    /// Amounts that were settled.
    settled: AtomicU64,
    /// By how much the estimates of these were too small.
    errors: AtomicU64,
    /// Settlements that may have come after the end of their hold.
    late: AtomicU64,
}

#[derive(Clone)]
struct Callers {
    replicas: Arc<[Replica]>,
    sums: Arc<Sums>,
    killed: watch::Receiver<bool>,
}

impl Callers {
    /// Reserves through its own replica, or through another if that is gone. The ticket, and a time before its hold
    /// began; `None` if it is denied.
    async fn reserve(&self, caller: usize) -> Option<(String, Instant)> {
        for turn in 0..3 {
            let mut replica = self.replicas[(caller + turn) % 3].clone();
            let mut message = request("ai", &[]);
            message.descriptors = descriptors(caller, None, 0);
            let before = Instant::now();
            if let Ok(answer) = replica.should_rate_limit(message).await {
                let answer = answer.into_inner();
                let ticket = ticket(&answer);
                assert_eq!(ticket.is_some(), answer.overall_code == i32::from(Code::Ok), "{answer:?}");
                return ticket.map(|ticket| (ticket, before));
            }
        }
        panic!("no replica answers");
    }

    /// Settles once, through whichever replica answers: the killed one may have done it already.
    async fn settle(&self, caller: usize, (ticket, begin): (String, Instant), amount: u64) {
        self.sums.errors.fetch_add(amount.saturating_sub(ESTIMATE), Ordering::SeqCst);
        for turn in 0..3 {
            let mut replica = self.replicas[(caller + turn) % 3].clone();
            let mut message = request("ai", &[]);
            message.descriptors = descriptors(caller, Some(&ticket), amount);
            if replica.should_rate_limit(message).await.is_ok() {
                self.sums.late.fetch_add(u64::from(begin.elapsed() >= TTL), Ordering::SeqCst);
                self.sums.settled.fetch_add(amount, Ordering::SeqCst);
                self.sums.settlements.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
        panic!("no replica settles");
    }

    /// Holds something until the first replica is killed. Half of them then never settle.
    async fn hold(mut self, number: usize) {
        let caller = 3 * number;
        let ticket = self.reserve(caller).await.expect("there is room for the first ones");
        self.sums.holding.fetch_add(1, Ordering::SeqCst);
        self.killed.wait_for(|killed| *killed).await.expect("the test goes on");
        if number % 4 < 2 {
            self.settle(caller, ticket, ESTIMATE).await;
        }
    }

    async fn call(self, caller: usize) {
        for round in 0..ROUNDS {
            match self.reserve(caller).await {
                Some(ticket) => {
                    let amount = (7 * caller + 13 * round) as u64 % (MOST + 1);
                    self.settle(caller, ticket, amount).await;
                }
                None => drop(self.sums.denied.fetch_add(1, Ordering::SeqCst)),
            }
        }
    }
}

/// Looks at what is used, held and taken until `over`. Returns the number of looks, and the most that the budget was
/// exceeded beyond the errors of estimates.
async fn observe(tollgate: &Tollgate, sums: &Sums, over: &watch::Receiver<bool>) -> (usize, u64) {
    let (mut looks, mut most) = (0, 0);
    while !*over.borrow() {
        let [used, held] = usage(tollgate, "ai", "user", "a").await;
        most = most.max((used + held).saturating_sub(LIMIT + sums.errors.load(Ordering::SeqCst)));
        let [taken, _] = usage(tollgate, "ai", "tenant", "a").await;
        assert!(taken <= PLACES, "{taken} places");
        looks += 1;
    }
    (looks, most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_leaves_nothing_held_and_no_budget_exceeded() {
    let redis = Redis::start().await;
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let settings = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "60s"), ("THREADS", "1")];
    let rules = [("rules.yaml", OF_REPLICAS)];
    let (first, second, third) = tokio::join!(
        Tollgate::start(&rules, &settings),
        Tollgate::start(&rules, &settings),
        Tollgate::start(&rules, &settings)
    );
    let mut first = first;
    let client = |tollgate: &Tollgate| {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", tollgate.grpc));
        RateLimitServiceClient::new(endpoint.expect("an address").connect_lazy())
    };
    let (killed, is_killed) = watch::channel(false);
    let sums = Arc::new(Sums::default());
    let replicas = [client(&first), client(&second), client(&third)].into();
    let callers = Callers { replicas, sums: Arc::clone(&sums), killed: is_killed };

    let survivor = callers.clone();
    let mut tasks = JoinSet::new();
    (0..HOLDERS).for_each(|number| drop(tasks.spawn(callers.clone().hold(number))));
    let settlements = || sums.settlements.load(Ordering::SeqCst);
    eventually("the first callers hold", async || sums.holding.load(Ordering::SeqCst) == HOLDERS as u64)
        .await;
    (0..CALLERS).for_each(|caller| drop(tasks.spawn(callers.clone().call(caller))));
    let (over, is_over) = watch::channel(false);
    let run = async {
        eventually("callers settle", async || settlements() >= 100).await;
        kill(&mut first).await;
        let before = settlements();
        killed.send_replace(true);
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no caller fails");
        }
        over.send_replace(true);
        before
    };
    let (before, of_second, of_third) =
        tokio::join!(run, observe(&second, &sums, &is_over), observe(&third, &sums, &is_over));
    assert!(settlements() > before, "the others went on");
    assert!(sums.denied.load(Ordering::SeqCst) > 0, "the limit was reached");

    // A settlement after the TTL, on a slow machine, adds to what others have held since.
    let late = sums.late.load(Ordering::SeqCst);
    for (looks, most) in [of_second, of_third] {
        assert!(looks > 0 && most <= late * MOST, "{most} too much, {late} settlements were late");
    }
    let settled = || sums.settled.load(Ordering::SeqCst);
    eventually("what is held ends by itself", async || {
        usage(&second, "ai", "user", "a").await == [settled(), 0]
    })
    .await;
    eventually("places end by themselves", async || usage(&third, "ai", "tenant", "a").await[0] == 0).await;

    // All that was lost with the replica is free again.
    while let Some(ticket) = survivor.reserve(1).await {
        survivor.settle(1, ticket, ESTIMATE).await;
    }
    assert!(settled() > LIMIT - ESTIMATE, "{} of {LIMIT}", settled());
    assert_eq!(usage(&second, "ai", "user", "a").await, [settled(), 0]);
}

const OF_LLM: &str = "
domain: ai
descriptors:
  - {key: user, value: kept, rate_limit: {unit: year, requests_per_unit: 10000}, reserve: {amount: 4000, ttl: 1h}}
  - {key: user, value: freed, rate_limit: {unit: year, requests_per_unit: 10000}, reserve: {amount: 4000, ttl: 1s}}
  - key: user
    value: charged
    rate_limit: {unit: year, requests_per_unit: 10000}
    reserve: {amount: 4000, ttl: 1s, on_expiry: charge}
";
const OF_CONCURRENCY: &str = "
domain: example
descriptors:
  - {key: tenant, value: kept, concurrency: {max: 2, ttl: 1h}}
  - {key: tenant, value: freed, concurrency: {max: 2, ttl: 1s}}
";

/// Envoy before an upstream and tollgate, which can be killed and started anew with its counters in Redis.
struct Stack {
    _redis: Redis,
    url: String,
    rules: &'static str,
    /// Domain and key of the rules.
    limited: [&'static str; 2],
    tollgate: Tollgate,
    /// Address of tollgate for Envoy, the same after a restart.
    proxy: Proxy,
    upstream: Upstream,
    envoy: Envoy,
}

impl Stack {
    async fn start(config: &str, rules: &'static str, limited: [&'static str; 2]) -> Self {
        let redis = Redis::start().await;
        let url = format!("redis://127.0.0.1:{}", redis.port());
        let tollgate = Self::tollgate(&url, rules).await;
        let (proxy, upstream) = (Proxy::start(tollgate.grpc).await, Upstream::start().await);
        let of_cluster = "cluster_name: upstream\n      endpoints:\n      - lb_endpoints:\n        - endpoint: \
                          {address: {socket_address: {address: 127.0.0.1, port_value: 10001}}}";
        let ours = of_cluster.replace("10001", &upstream.port.to_string());
        let envoy = Envoy::start(&Config::of(config, &[proxy.port()]).with(of_cluster, &ours)).await;
        Self { _redis: redis, url, rules, limited, tollgate, proxy, upstream, envoy }
    }

    async fn tollgate(url: &str, rules: &str) -> Tollgate {
        let settings = [("REDIS_URL", url), ("REDIS_CALL_TIMEOUT", "60s"), ("THREADS", "1")];
        Tollgate::start(&[("rules.yaml", rules)], &settings).await
    }

    async fn start_again(&mut self) {
        self.tollgate = Self::tollgate(&self.url, self.rules).await;
        self.proxy.redirect(self.tollgate.grpc);
    }

    async fn usage(&self, value: &str) -> [u64; 2] {
        let [domain, key] = self.limited;
        usage(&self.tollgate, domain, key, value).await
    }

    /// A client whose request is on its way.
    fn client(&self, header: &'static str, value: &'static str) -> JoinHandle<u16> {
        let url = format!("http://127.0.0.1:{}/", self.envoy.address().1);
        tokio::spawn(async move {
            let answer = Client::new().get(url).header(header, value).send().await.expect("Envoy answers");
            let status = answer.status().as_u16();
            answer.bytes().await.expect("the whole answer");
            status
        })
    }

    /// Calls that Envoy has made to tollgate, and that have ended.
    async fn ended_calls(&self) -> u64 {
        let mut numbers = [0; 4];
        for (number, name) in numbers.iter_mut().zip([
            "upstream_rq_total",
            "upstream_rq_pending_failure_eject",
            "upstream_rq_active",
            "upstream_rq_pending_active",
        ]) {
            *number = self.envoy.stat(&format!("cluster.tollgate.{name}")).await;
        }
        let [total, failed, active, pending] = numbers;
        (total + failed).saturating_sub(active + pending)
    }

    /// Two requests with their streams open, across a restart of tollgate: the new process ends what the old one began.
    /// Then two more, with the values of `lost`, whose streams end while tollgate is away. Two requests are `taken`, as
    /// [`usage`] shows them; `opened` is the series that counts them.
    async fn restarts(
        &mut self,
        [header, opened]: [&'static str; 2],
        lost: [&'static str; 2],
        taken: [u64; 2],
    ) {
        let clients = [self.client(header, "kept"), self.client(header, "kept")];
        self.upstream.has(2).await;
        assert_eq!(self.usage("kept").await, taken);
        kill(&mut self.tollgate).await;
        self.start_again().await;
        assert_eq!(self.usage("kept").await, taken, "it is kept in Redis");
        self.upstream.allow(Stage::Whole);
        for client in clients {
            assert_eq!(client.await.expect("an answer"), 200);
        }
        self.upstream.allow(Stage::Nothing);
        eventually("Envoy has made both calls", async || self.ended_calls().await >= 4).await;
        let before = self.ended_calls().await;
        let clients = lost.map(|value| self.client(header, value));
        self.upstream.has(4).await;
        assert_eq!(self.tollgate.metric(opened).await, 2);
        kill(&mut self.tollgate).await;
        self.upstream.allow(Stage::Whole);
        for client in clients {
            assert_eq!(client.await.expect("an answer"), 200, "clients do not notice");
        }
        eventually("Envoy has given its calls up", async || self.ended_calls().await >= before + 4).await;
        self.start_again().await;
    }
}

#[tokio::test]
async fn a_restart_in_the_middle_of_streams_leaves_nothing_held_and_the_right_amount_used() {
    let config = include_str!("../deploy/envoy/llm.yaml");
    let mut stack = Stack::start(config, OF_LLM, ["ai", "user"]).await;
    let opened = "tollgate_holds{event=\"opened\"}";
    stack.restarts(["x-user", opened], ["freed", "charged"], [0, 8_000]).await;
    for (user, used) in [("kept", 2 * 170), ("freed", 0), ("charged", 4_000)] {
        eventually(user, async || stack.usage(user).await == [used, 0]).await;
    }
}

#[tokio::test]
async fn a_restart_in_the_middle_of_streams_leaks_no_place() {
    let config = include_str!("../deploy/envoy/concurrency.yaml");
    let mut stack = Stack::start(config, OF_CONCURRENCY, ["example", "tenant"]).await;
    let opened = "tollgate_tickets{event=\"acquired\"}";
    stack.restarts(["x-tenant", opened], ["freed", "freed"], [2, 0]).await;
    for tenant in ["kept", "freed"] {
        eventually(tenant, async || stack.usage(tenant).await[0] == 0).await;
        for client in [stack.client("x-tenant", tenant), stack.client("x-tenant", tenant)] {
            assert_eq!(client.await.expect("an answer"), 200, "both places are free");
        }
    }
}

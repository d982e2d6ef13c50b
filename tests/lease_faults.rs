//! The real program with leased limits: three replicas on one Redis are killed, paused, restarted and reloaded under
//! load. Together they never admit more than the limit, and a replica that shuts down returns its unspent hits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;
use tonic::transport::Endpoint;

use crate::support::eventually;
use crate::support::load::request;
use crate::support::redis::Redis;
use crate::support::tollgate::Tollgate;

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const CLIENTS_EACH: usize = 4;

/// A rule whose window does not end during a test.
fn rules(limit: u64) -> String {
    format!(
        "domain: shop\ndescriptors:\n  - {{key: hot, rate_limit: {{unit: year, requests_per_unit: {limit}, lease: true}}}}\n"
    )
}

/// Hits in answers to all clients.
#[derive(Default)]
struct Answers {
    stop: AtomicBool,
    /// Hits of a call, less 1.
    more_hits: AtomicU32,
    calls: AtomicU64,
    admitted: AtomicU64,
    denied: AtomicU64,
    failed: AtomicU64,
}

impl Answers {
    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Waits until `calls` more calls are answered.
    async fn more(&self, calls: u64) {
        let enough = self.calls() + calls;
        eventually("calls are answered", async || self.calls() >= enough).await;
    }

    fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }
}

/// Calls until it is stopped, at the port that the replica has now.
async fn client(mut port: watch::Receiver<u16>, answers: Arc<Answers>) {
    while !answers.stop.load(Ordering::Relaxed) {
        let address = format!("http://127.0.0.1:{}", *port.borrow_and_update());
        let endpoint = Endpoint::from_shared(address).expect("an address").timeout(CALL_TIMEOUT);
        let Ok(channel) = endpoint.connect().await else {
            time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let mut client = RateLimitServiceClient::new(channel);
        while !answers.stop.load(Ordering::Relaxed) && !port.has_changed().unwrap_or(false) {
            let hits_addend = 1 + answers.more_hits.load(Ordering::Relaxed);
            let call = RateLimitRequest { hits_addend, ..request("shop", &[("hot", "a")]) };
            let answer = client.should_rate_limit(call).await;
            let count = match answer.as_ref().map(|answer| answer.get_ref().overall_code()) {
                Ok(Code::Ok) => &answers.admitted,
                Ok(_) => &answers.denied,
                Err(_) => &answers.failed,
            };
            count.fetch_add(hits_addend.into(), Ordering::Relaxed);
            answers.calls.fetch_add(u64::from(answer.is_ok()), Ordering::Relaxed);
            if answer.is_err() {
                break;
            }
        }
    }
}

struct Replica {
    service: Tollgate,
    port: watch::Sender<u16>,
}

/// Three replicas under load.
struct Fleet {
    redis: Redis,
    url: String,
    replicas: Vec<Replica>,
    clients: JoinSet<()>,
    answers: Arc<Answers>,
}

impl Fleet {
    async fn start(limit: u64) -> Self {
        let redis = Redis::start().await;
        let url = redis.settings().deployment.to_string();
        let (answers, mut clients) = (Arc::<Answers>::default(), JoinSet::new());
        // Enough hits for a lease, also on a busy machine.
        answers.more_hits.store(9, Ordering::Relaxed);
        let mut replicas = Vec::new();
        for _ in 0..3 {
            let service = start(&url, limit).await;
            let port = watch::Sender::new(service.grpc);
            for _ in 0..CLIENTS_EACH {
                clients.spawn(client(port.subscribe(), Arc::clone(&answers)));
            }
            replicas.push(Replica { service, port });
        }
        answers.more(150).await;
        Self { redis, url, replicas, clients, answers }
    }

    async fn replace(&mut self, index: usize, limit: u64) {
        let replica = &mut self.replicas[index];
        replica.service = start(&self.url, limit).await;
        replica.port.send_replace(replica.service.grpc);
        self.answers.more(100).await;
    }

    /// Sum of a metric of leases over all replicas.
    async fn metric(&self, name: &str) -> usize {
        let series = format!("tollgate_lease_{name}{{domain=\"shop\",rule=\"shop.hot\"}}");
        let mut sum = 0;
        for replica in &self.replicas {
            sum += replica.service.metric(&series).await;
        }
        sum
    }

    async fn stop_clients(&mut self) {
        self.answers.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
    }

    /// Hits in the counter in Redis.
    fn used(&self) -> u64 {
        let keys = self.redis.command(["KEYS", "*hot*"]);
        let key = keys.lines().next().expect("a counter");
        self.redis.command(["GET", key]).trim().parse().expect("a number")
    }
}

async fn start(url: &str, limit: u64) -> Tollgate {
    let environment = [("REDIS_URL", url), ("REDIS_CALL_TIMEOUT", "1s"), ("REPLICAS", "3")];
    Tollgate::start(&[("rules.yaml", &rules(limit))], &environment).await
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_crash_hang_and_restart_admit_no_more_than_the_limit() {
    const LIMIT: u64 = 10_000_000;
    let mut fleet = Fleet::start(LIMIT).await;
    fleet.replicas[0].service.process.signal("KILL");
    fleet.replace(0, LIMIT).await;
    fleet.replicas[1].service.process.signal("STOP");
    fleet.answers.more(200).await;
    fleet.replicas[1].service.process.signal("CONT");
    fleet.answers.more(150).await;
    for index in 0..3 {
        fleet.replicas[index].service.process.signal("TERM");
        let patience = Duration::from_secs(30);
        let code = fleet.replicas[index].service.process.exit_code(patience).await;
        assert_eq!(code, Some(0), "replica {index}");
        fleet.replace(index, LIMIT).await;
    }
    assert!(fleet.metric("spends").await > 0, "nothing was spent from leases");
    let answers = Arc::clone(&fleet.answers);
    answers.more_hits.store(20_000, Ordering::Relaxed);
    eventually("the limit is met", async || answers.denied.load(Ordering::Relaxed) > 0).await;
    eventually("leases are returned", async || fleet.metric("credits").await == 0).await;
    answers.more(200).await;
    fleet.stop_clients().await;
    let (admitted, failed) = (answers.admitted(), answers.failed.load(Ordering::Relaxed));
    assert!(admitted <= LIMIT, "{admitted}");
    // One replica crashed and lost a lease of at most an eighth of the remaining hits; one hung.
    assert!(admitted + failed >= LIMIT * 8 / 10, "{admitted} admitted, {failed} failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_orderly_shutdown_redis_has_exactly_the_admitted_hits() {
    let mut fleet = Fleet::start(1_000_000_000).await;
    fleet.answers.more(200).await;
    fleet.stop_clients().await;
    assert!(fleet.metric("spends").await > 0, "nothing was spent from leases");
    for replica in &mut fleet.replicas {
        replica.service.process.signal("TERM");
        assert_eq!(replica.service.process.exit_code(Duration::from_secs(30)).await, Some(0));
    }
    assert_eq!(fleet.answers.failed.load(Ordering::Relaxed), 0);
    assert_eq!(fleet.used(), fleet.answers.admitted());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_limit_for_leased_hits_too() {
    let mut fleet = Fleet::start(100_000_000).await;
    let in_force = async |fleet: &Fleet, limit: u64| {
        for replica in &fleet.replicas {
            replica.service.write_rules("rules.yaml", &rules(limit));
        }
        eventually("the rules are in force", async || {
            for replica in &fleet.replicas {
                let dump = reqwest::get(replica.service.debug_url("/rlconfig")).await.expect("an answer");
                if !dump.text().await.expect("text").contains(&format!("requests_per_unit={limit}")) {
                    return false;
                }
            }
            true
        })
        .await;
    };
    let answers = Arc::clone(&fleet.answers);
    // More than this has been admitted already.
    in_force(&fleet, 100).await;
    // Wait for calls that were under way when the rules changed.
    answers.more(100).await;
    let before = answers.admitted();
    answers.more(200).await;
    assert_eq!(answers.admitted(), before, "the lower limit is in force, also for leased hits");
    let raised = 20 * (answers.calls() + 100_000);
    in_force(&fleet, raised).await;
    answers.more(150).await;
    assert!(answers.admitted() > before + 1_000, "the higher limit is in force");
    fleet.stop_clients().await;
    assert!(answers.admitted() <= raised);
}

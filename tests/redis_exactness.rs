//! Exactness while everything fails: replicas of the program are killed, nodes of a Cluster stop, slots move.
//! No key is ever admitted more often than its limit. A hit that is counted but was not admitted belongs to a call
//! that failed.
//!
//! `tests/soak-redis.sh` runs this test for a chosen time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tollgate::engine::{Hits, Unit};
use tollgate::store::Store as _;
use tonic::transport::Endpoint;

use crate::store::{MIDNIGHT, charge, connected};
use crate::support::eventually;
use crate::support::load::request;
use crate::support::redis::Redis;
use crate::support::redis::cluster::{Cluster, slot};
use crate::support::tollgate::Tollgate;

const LIMIT: u64 = 100;
/// Upper bound on the hits of a key that stay counted because an outage prevented their refund. Only a call that
/// passes in one slot and is denied in another needs a refund, which is rare.
const MAX_NOT_REFUNDED: u64 = 5;
const RULES: &str = "
domain: shop
descriptors:
  - {key: always, rate_limit: {unit: year, requests_per_unit: 100}}
  - {key: allowed, charge: if_allowed, rate_limit: {unit: year, requests_per_unit: 100}}
  - {key: sliding, rate_limit: {unit: year, requests_per_unit: 100, algorithm: sliding_window}}
  - {key: log, rate_limit: {unit: year, requests_per_unit: 100, algorithm: sliding_log}}
  - {key: bucket, rate_limit: {unit: year, requests_per_unit: 100, algorithm: token_bucket}}
";
const KINDS: [&str; 5] = ["always", "allowed", "sliding", "log", "bucket"];
/// Number of descriptors of each kind, so that most primaries of the Cluster have some.
const VALUES: usize = 4;
const REPLICAS: usize = 3;
const CLIENTS_EACH: usize = 4;
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// A descriptor: its kind and its number.
type Key = (usize, usize);

/// Outcomes of the calls that named a descriptor.
#[derive(Clone, Copy, Debug, Default)]
struct Outcomes {
    admitted: u64,
    /// Calls that failed, or whose answer was lost: each may have been counted.
    failed: u64,
    denied: u64,
}

/// State that all clients share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Calls until it is stopped. Reconnects at the port that the replica has now.
async fn client(seed: u64, port: watch::Receiver<u16>, shared: Arc<Shared>) -> HashMap<Key, Outcomes> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut outcomes = HashMap::<Key, Outcomes>::new();
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(client) = &mut connection else {
            let address = format!("http://127.0.0.1:{}", *port.borrow());
            let endpoint = Endpoint::from_shared(address).expect("an address").timeout(CALL_TIMEOUT);
            match endpoint.connect().await {
                Ok(channel) => connection = Some(RateLimitServiceClient::new(channel)),
                Err(_) => time::sleep(Duration::from_millis(5)).await,
            }
            continue;
        };
        // One in four calls has two descriptors, usually in two slots: all or nothing.
        let mut keys: Vec<Key> = vec![(random.usize(..KINDS.len()), random.usize(..VALUES))];
        if random.u8(..4) == 0 {
            keys = vec![(1, random.usize(..VALUES)), (2 + random.usize(..3), random.usize(..VALUES))];
        }
        let values: Vec<_> = keys.iter().map(|(_, value)| value.to_string()).collect();
        let descriptors: Vec<_> =
            keys.iter().zip(&values).map(|((kind, _), value)| (KINDS[*kind], value.as_str())).collect();
        let answer = client.should_rate_limit(request("shop", &descriptors)).await;
        match &answer {
            Ok(_) => shared.answered.fetch_add(1, Ordering::Relaxed),
            Err(_) => shared.failed.fetch_add(1, Ordering::Relaxed),
        };
        for key in keys {
            let of_key = outcomes.entry(key).or_default();
            match answer.as_ref().map(|answer| answer.get_ref().overall_code()) {
                Ok(Code::Ok) => of_key.admitted += 1,
                Ok(_) => of_key.denied += 1,
                Err(_) => of_key.failed += 1,
            }
        }
        if answer.is_err() {
            connection = None;
        }
    }
    outcomes
}

/// Waits until `count` has grown by `calls`.
async fn more(count: &AtomicU64, calls: u64) {
    let enough = count.load(Ordering::Relaxed) + calls;
    eventually("calls are answered", async || count.load(Ordering::Relaxed) >= enough).await;
}

/// A replica, and the port at which its clients find it.
struct Replica {
    service: Tollgate,
    port: watch::Sender<u16>,
}

/// One round of failures, under load.
async fn everything_fails(
    cluster: &Cluster,
    replicas: &mut [Replica],
    environment: &[(&str, &str)],
    shared: &Shared,
    round: usize,
) {
    let index = round % replicas.len();
    let replica = &mut replicas[index];
    replica.service.process.signal("KILL");
    more(&shared.answered, 50).await;
    replica.service = Tollgate::start(&[("rules.yaml", RULES)], environment).await;
    replica.port.send_replace(replica.service.grpc);
    more(&shared.answered, 100).await;

    let node = round % 3;
    cluster.pause(node);
    // Shorter than the timeout after which the other nodes would mark the node as failed.
    drop(time::timeout(Duration::from_millis(400), more(&shared.failed, 1)).await);
    cluster.resume(node);
    cluster.settled().await;
    more(&shared.answered, 100).await;

    // Moves the slot of some counter.
    let counters = cluster.command_on(node, ["KEYS", "*"]);
    let Some(key) = counters.lines().nth(round) else { return };
    let place = slot(key.as_bytes());
    let from = cluster.node_of(key.as_bytes());
    let to = (from + 1) % 3;
    cluster.begin_migration(place, from, to);
    more(&shared.answered, 30).await;
    cluster.migrate_keys(place, from, to);
    more(&shared.answered, 30).await;
    cluster.end_migration(place, from, to).await;
    more(&shared.answered, 100).await;
}

/// Some rounds of failures, then a healthy end.
async fn admits_exactly_while_everything_fails() {
    let cluster = Cluster::start(3, 0).await;
    let nodes: Vec<_> = (0..3).map(|node| format!("127.0.0.1:{}", cluster.port(node))).collect();
    let nodes = nodes.join(",");
    let environment = [
        ("REDIS_TYPE", "CLUSTER"),
        ("REDIS_URL", &*nodes),
        ("REDIS_CALL_TIMEOUT", "100ms"),
        ("REDIS_STARTUP_MAX_ELAPSED_TIME", "20s"),
    ];
    let shared = Arc::new(Shared::default());
    let (mut replicas, mut clients) = (Vec::new(), JoinSet::new());
    for replica in 0..REPLICAS {
        let service = Tollgate::start(&[("rules.yaml", RULES)], &environment).await;
        let port = watch::Sender::new(service.grpc);
        for number in 0..CLIENTS_EACH {
            let seed = (replica * CLIENTS_EACH + number) as u64;
            clients.spawn(client(seed, port.subscribe(), Arc::clone(&shared)));
        }
        replicas.push(Replica { service, port });
    }
    more(&shared.answered, 50).await;
    for round in 0..3 {
        everything_fails(&cluster, &mut replicas, &environment, &shared, round).await;
    }
    // Enough calls that every key meets its limit, whatever has failed before.
    for _ in 0..2 * LIMIT {
        more(&shared.answered, (KINDS.len() * VALUES) as u64).await;
    }
    shared.stop.store(true, Ordering::Relaxed);

    let mut total = HashMap::<Key, Outcomes>::new();
    for of_client in clients.join_all().await {
        for (key, outcomes) in of_client {
            let sum = total.entry(key).or_default();
            sum.admitted += outcomes.admitted;
            sum.failed += outcomes.failed;
            sum.denied += outcomes.denied;
        }
    }
    assert_eq!(total.len(), KINDS.len() * VALUES);
    for ((kind, value), outcomes) in total {
        let name = format!("{}={value}: {outcomes:?}", KINDS[kind]);
        assert!(outcomes.admitted <= LIMIT, "more than the limit: {name}");
        assert!(outcomes.denied > 0, "the limit was not met: {name}");
        // A hit of a call that another slot denied is refunded once, and stays counted if the refund fails.
        let not_refunded = if kind == 0 { 0 } else { MAX_NOT_REFUNDED };
        assert!(
            outcomes.admitted + outcomes.failed + not_refunded >= LIMIT,
            "hits are lost without an error: {name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_admitted_more_often_than_its_limit_while_everything_fails() {
    admits_exactly_while_everything_fails().await;
}

/// For `tests/soak-redis.sh`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/soak-redis.sh runs it for a chosen time"]
async fn soak() {
    #[expect(clippy::disallowed_methods, reason = "a script sets it for this test alone")]
    let secs = std::env::var("TOLLGATE_SOAK_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(600);
    let end = Instant::now() + Duration::from_secs(secs);
    while Instant::now() < end {
        admits_exactly_while_everything_fails().await;
    }
}

/// Command that returns the keys without a TTL.
const WITHOUT_TTL: [&str; 3] = [
    "EVAL",
    "local r = {} for _, k in ipairs(redis.call('KEYS', '*')) do
        if redis.call('TTL', k) == -1 then r[#r + 1] = k end end return table.concat(r, ' ')",
    "0",
];

const NEW_KEYS: &str = "
domain: shop
descriptors:
  - {key: user, rate_limit: {unit: day, requests_per_unit: 100}}
";

#[tokio::test(flavor = "multi_thread")]
async fn no_counter_lives_for_ever_when_replicas_are_killed_under_a_flood_of_new_keys() {
    const KILLS: usize = 20;
    let redis = Redis::start().await;
    let url = redis.settings().deployment.to_string();
    let environment = [("REDIS_URL", &*url), ("REDIS_CALL_TIMEOUT", "1s")];
    for round in 0..KILLS {
        let service = Tollgate::start(&[("rules.yaml", NEW_KEYS)], &environment).await;
        let before = redis.len();
        let stop = Arc::new(AtomicBool::new(false));
        let mut flood = JoinSet::new();
        for task in 0..16 {
            let address = format!("http://127.0.0.1:{}", service.grpc);
            let stop = Arc::clone(&stop);
            flood.spawn(async move {
                let channel = Endpoint::from_shared(address).expect("an address").connect_lazy();
                let mut client = RateLimitServiceClient::new(channel);
                // Calls may time out on a busy machine: only those after the stop end the flood.
                for turn in 0.. {
                    let users: Vec<_> = (0..8).map(|user| format!("{round}-{task}-{turn}-{user}")).collect();
                    let descriptors: Vec<_> = users.iter().map(|user| ("user", user.as_str())).collect();
                    if client.should_rate_limit(request("shop", &descriptors)).await.is_err()
                        && stop.load(Ordering::Relaxed)
                    {
                        break;
                    }
                }
            });
        }
        eventually("new keys are counted", async || redis.len() >= before + 200).await;
        stop.store(true, Ordering::Relaxed);
        service.process.signal("KILL");
        flood.join_all().await;
        assert_eq!(redis.command(WITHOUT_TTL), "", "after {} kills", round + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_counter_lives_for_ever_when_a_cluster_loses_a_slot_under_load() {
    let cluster = Cluster::start(2, 0).await;
    let store = Arc::new(connected(&cluster.settings()).await);
    let (stop, counted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut flood = JoinSet::new();
    for task in 0..16 {
        let (store, stop, counted) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&counted));
        flood.spawn(async move {
            for turn in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let key = |key: u64| format!("{task}-{turn}-{key}/");
                let charges: Vec<_> =
                    (0..16).map(|number| charge(key(number), Unit::Day, Hits::Add(1))).collect();
                let readings = store.charge(&charges, MIDNIGHT).await;
                let ok = readings.iter().filter(|reading| reading.is_ok()).count();
                counted.fetch_add(ok as u64, Ordering::Relaxed);
            }
        });
    }
    for round in 0..20 {
        more(&counted, 500).await;
        // The slot of an existing counter.
        let node = round % 2;
        let key = cluster.command_on(node, ["RANDOMKEY"]);
        let place = slot(key.as_bytes()).to_string();
        for command in ["DELSLOTS", "ADDSLOTS"] {
            assert_eq!(cluster.command_on(node, ["CLUSTER", command, &place]), "OK");
            more(&counted, 100).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    flood.join_all().await;
    store.settle().await;
    for node in 0..2 {
        assert_eq!(cluster.command_on(node, WITHOUT_TTL), "");
    }
}

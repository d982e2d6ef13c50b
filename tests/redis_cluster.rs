//! A Redis Cluster under load: a node that is down does not delay calls to the others, slots may move, and what
//! must be decided together is, wherever its counters lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time;
use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::lockout::{Block, LockoutSchedule};
use tollgate::engine::{ChargeMode, Enforcement, Hits, Limit, Unit};
use tollgate::store::redis::{RedisSettings, RedisStore};
use tollgate::store::{Charge, Lockout, Reading, Store, StoreError};

use crate::store::{MIDNIGHT, charge, connected, hit, used};
use crate::support::redis::cluster::{Cluster, slot};
use crate::support::stores::complete;
use crate::support::{PATIENCE, eventually};

/// Settings of an operator, with room for a machine under load.
const CALL_TIMEOUT: Duration = Duration::from_millis(50);

fn hasty(cluster: &Cluster) -> RedisSettings {
    RedisSettings { call_timeout: CALL_TIMEOUT, ..cluster.settings() }
}

/// The key in Redis of a charge with this one.
fn counter(key: &str) -> Vec<u8> {
    format!("{key}{}", MIDNIGHT.as_secs()).into_bytes()
}

/// Keys whose counters the primary at `node` keeps.
fn keys_of(cluster: &Cluster, node: usize, len: usize) -> Vec<String> {
    let ranges = cluster.primaries().into_iter().find(|primary| primary.node == node).expect("it").slots;
    let is_there = |key: &String| ranges.iter().any(|range| range.contains(&slot(&counter(key))));
    (0..).map(|number| format!("key{number}/")).filter(is_there).take(len).collect()
}

fn hit_on(key: &str) -> Charge {
    charge(Bytes::copy_from_slice(key.as_bytes()), Unit::Day, Hits::Add(1))
}

/// Outcomes of calls.
#[derive(Default)]
struct Calls {
    counted: u64,
    failed: u64,
}

/// Calls from a few tasks until `stop`, each with one of `keys`. `counted` grows with every call that is
/// counted.
async fn load(
    store: &Arc<RedisStore>,
    keys: Vec<String>,
    counted: &Arc<AtomicU64>,
    stop: &Arc<AtomicBool>,
) -> Calls {
    let mut tasks = JoinSet::new();
    for task in 0..4_usize {
        let (store, keys) = (Arc::clone(store), keys.clone());
        let (counted, stop) = (Arc::clone(counted), Arc::clone(stop));
        tasks.spawn(async move {
            let mut calls = Calls::default();
            for turn in task.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                match used(&store, hit_on(&keys[turn % keys.len()])).await {
                    Ok(_) => {
                        calls.counted += 1;
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => calls.failed += 1,
                }
                time::sleep(Duration::from_millis(1)).await;
            }
            calls
        });
    }
    let mut all = Calls::default();
    for calls in tasks.join_all().await {
        all.counted += calls.counted;
        all.failed += calls.failed;
    }
    all
}

/// Waits until this many more calls are counted.
async fn more_are_counted(counted: &AtomicU64, calls: u64) {
    let enough = counted.load(Ordering::Relaxed) + calls;
    eventually("calls are counted", async || counted.load(Ordering::Relaxed) >= enough).await;
}

/// Load on the keys of two primaries, while something happens to the third.
async fn two_of_three(cluster: &mut Cluster, happens: impl FnOnce(&mut Cluster)) {
    // Longer than the test: a call to a primary that hangs is under way until the others are done.
    let settings = RedisSettings { call_timeout: 2 * PATIENCE, ..cluster.settings() };
    let store = Arc::new(connected(&settings).await);
    let mut keys = keys_of(cluster, 1, 50);
    keys.extend(keys_of(cluster, 2, 50));
    let lost = keys_of(cluster, 0, 1).remove(0);
    let (counted, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let (calls, ()) = tokio::join!(load(&store, keys, &counted, &stop), async {
        more_are_counted(&counted, 100).await;
        happens(cluster);
        let lost = tokio::spawn({
            let store = Arc::clone(&store);
            async move { used(&store, hit_on(&lost)).await }
        });
        more_are_counted(&counted, 1_000).await;
        assert!(!lost.is_finished() || lost.await.expect("no panic").is_err(), "its primary is gone");
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(calls.failed, 0, "of {}", calls.counted);
}

/// A counter that lost its TTL, whose `EXPIRE` is still to come when its slot moves: the node that has it now sets
/// the TTL.
#[tokio::test]
async fn a_ttl_that_is_pending_when_its_slot_moves_is_set_by_the_new_node() {
    let cluster = Cluster::start(2, 0).await;
    let store = connected(&cluster.settings()).await;
    let name = String::from_utf8(counter("a")).expect("text");
    let slot = slot(name.as_bytes());
    let from = cluster.node_of(name.as_bytes());
    let to = 1 - from;
    used(&store, hit("a")).await.expect("a reading");
    // The store knows the counter, so it does not create it again. Redis rejects the `EXPIRE` that follows.
    cluster.command_on(from, ["ACL", "SETUSER", "default", "-expire"]);
    cluster.command_on(from, ["DEL", &name]);
    used(&store, hit("a")).await.expect("a reading");
    assert_eq!(cluster.command_on(from, ["TTL", &name]), "-1");

    cluster.begin_migration(slot, from, to);
    cluster.migrate_keys(slot, from, to);
    cluster.end_migration(slot, from, to).await;
    assert_eq!(cluster.command_on(to, ["TTL", &name]), "-1");
    cluster.command_on(from, ["ACL", "SETUSER", "default", "+expire"]);
    eventually("its TTL is set", async || {
        cluster.command_on(to, ["TTL", &name]).parse::<i64>().is_ok_and(|secs| secs > 0)
    })
    .await;
}

#[tokio::test]
async fn a_killed_primary_affects_no_keys_of_others() {
    let mut cluster = Cluster::start(3, 0).await;
    two_of_three(&mut cluster, |cluster| cluster.kill(0)).await;
}

#[tokio::test]
async fn a_hanging_primary_affects_no_keys_of_others() {
    let mut cluster = Cluster::start(3, 0).await;
    two_of_three(&mut cluster, |cluster| cluster.pause(0)).await;
}

/// The shard counts again once it has a new primary.
async fn is_taken_over(happens: impl FnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(3, 1).await;
    let store = Arc::new(connected(&hasty(&cluster)).await);
    let key = keys_of(&cluster, 0, 1).remove(0);
    let place = slot(&counter(&key));
    assert_eq!(used(&store, hit_on(&key)).await.expect("a reading"), 1);
    happens(&mut cluster);
    cluster.wait_for_new_primary_of(place).await;
    eventually("its shard counts again", async || used(&store, hit_on(&key)).await.is_ok()).await;
    let before = used(&store, hit_on(&key)).await.expect("a reading");
    assert_eq!(used(&store, hit_on(&key)).await.expect("a reading"), before + 1);
}

#[tokio::test]
async fn a_replica_takes_over_from_a_primary_that_is_killed() {
    is_taken_over(|cluster| cluster.kill(0)).await;
}

#[tokio::test]
async fn a_replica_takes_over_from_a_primary_that_hangs() {
    is_taken_over(|cluster| cluster.pause(0)).await;
}

/// A slot moves while it is counted in: to a primary that is known, and no hit is lost or doubled.
#[tokio::test]
async fn a_slot_that_moves_under_load_loses_no_hit_and_doubles_none() {
    let cluster = Cluster::start(3, 0).await;
    // Long enough for every redirection: no call is to be given up.
    let settings = RedisSettings { call_timeout: Duration::from_secs(5), ..cluster.settings() };
    let store = Arc::new(connected(&settings).await);
    let key = keys_of(&cluster, 0, 1).remove(0);
    let place = slot(&counter(&key));
    // A second counter in the slot that comes into being on the way.
    let tag = format!("{{{}}}", String::from_utf8(counter(&key)).expect("text"));
    let keys = vec![key.clone(), format!("{tag}a/"), format!("{tag}b/")];
    assert!(keys.iter().all(|key| slot(&counter(key)) == place || key == &keys[0]));

    let stop = Arc::new(AtomicBool::new(false));
    let together = async {
        // Several counters at once, some of which are on one side and some on the other.
        let mut counted = 0;
        while !stop.load(Ordering::Relaxed) {
            let group = [format!("{tag}a/"), format!("{tag}c/")];
            let charges = group.map(|key| Charge {
                mode: ChargeMode::IfAllowed,
                limit: Limit::per(1_000_000, Unit::Day),
                ..hit_on(&key)
            });
            complete(store.charge(&charges, MIDNIGHT).await).expect("readings");
            counted += 1;
            time::sleep(Duration::from_millis(1)).await;
        }
        counted
    };
    let counted = Arc::default();
    let (calls, groups, ()) = tokio::join!(load(&store, keys.clone(), &counted, &stop), together, async {
        for step in 0..4 {
            more_are_counted(&counted, 100).await;
            match step {
                0 => cluster.begin_migration(place, 0, 1),
                1 => cluster.migrate_keys(place, 0, 1),
                2 => cluster.end_migration(place, 0, 1).await,
                _ => stop.store(true, Ordering::Relaxed),
            }
        }
    });
    assert_eq!(calls.failed, 0, "of {}", calls.counted);
    let count = |key: &str| cluster.counter(&counter(key)).unwrap_or(0);
    let counted: i64 = keys.iter().map(|key| count(key)).sum();
    assert_eq!(counted, calls.counted as i64 + groups, "every hit is counted once");
    assert_eq!(count(&format!("{tag}c/")), groups);
    assert_eq!(cluster.node_of(&counter(&key)), 1, "it has moved");
}

/// Two threads of eight tasks as two replicas, and more hits than may pass.
#[tokio::test]
async fn replicas_on_one_cluster_admit_exactly_the_limit_of_every_key() {
    const LIMIT: u32 = 100;
    const KEYS: usize = 200;
    let cluster = Cluster::start(3, 0).await;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let settings = cluster.settings();
            thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
                runtime.block_on(async {
                    let store = Arc::new(connected(&settings).await);
                    let mut tasks = JoinSet::new();
                    for task in 0..8 {
                        let store = Arc::clone(&store);
                        tasks.spawn(async move {
                            let mut admitted = vec![0_u32; KEYS];
                            for turn in 0..KEYS * 5 {
                                let key = (turn * 7 + task) % KEYS;
                                let charge = hit_on(&format!("hot{key}/"));
                                let used = used(&store, charge).await.expect("a reading");
                                admitted[key] += u32::from(used <= u64::from(LIMIT));
                            }
                            admitted
                        });
                    }
                    tasks.join_all().await
                })
            })
        })
        .collect();
    let mut admitted = vec![0; KEYS];
    for of_task in threads.into_iter().flat_map(|thread| thread.join().expect("a thread")) {
        for (sum, of_key) in admitted.iter_mut().zip(of_task) {
            *sum += of_key;
        }
    }
    assert_eq!(admitted, vec![LIMIT; KEYS]);
}

/// A request of three descriptors, each in a slot of its own.
fn three(random: &mut fastrand::Rng) -> [Charge; 3] {
    ["a", "b", "c"].map(|kind| Charge {
        limit: Limit::per(150, Unit::Day),
        hits: Hits::Add(random.u32(1..=3)),
        mode: ChargeMode::IfAllowed,
        ..hit_on(&format!("{kind}{}/", random.u8(..10)))
    })
}

fn passes(readings: &[Reading]) -> bool {
    readings.iter().all(|reading| reading.outcome == ChargeOutcome::Charged)
}

/// Eight clients, ten thousand requests, and callers that leave at any time.
#[tokio::test]
async fn all_or_nothing_requests_never_exceed_a_limit_and_leak_nothing() {
    let cluster = Cluster::start(3, 0).await;
    let mut clients = JoinSet::new();
    for seed in 0..8 {
        let settings = cluster.settings();
        clients.spawn(async move {
            let store = connected(&settings).await;
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut admitted, mut left) = (Vec::new(), Vec::new());
            for _ in 0..1_250 {
                let charges = three(&mut random);
                let patience = Duration::from_micros(random.u64(..2_000));
                let leaves = random.u8(..8) == 0;
                let answer = match leaves {
                    true => time::timeout(patience, store.charge(&charges, MIDNIGHT)).await.ok(),
                    false => Some(store.charge(&charges, MIDNIGHT).await),
                };
                let hits = charges.map(|charge| (charge.key, charge.hits));
                match answer.map(|readings| complete(readings).expect("readings")) {
                    Some(readings) if passes(&readings) => admitted.push(hits),
                    Some(_) => {}
                    None => left.push(hits),
                }
            }
            store.settle().await;
            (admitted, left)
        });
    }
    let (mut admitted, mut left) = (Vec::new(), Vec::new());
    for (of_client, gone) in clients.join_all().await {
        admitted.extend(of_client);
        left.extend(gone);
    }
    assert!(admitted.len() > 100, "{} admitted", admitted.len());
    let sum = |requests: &[[(Bytes, Hits); 3]], key: &str| -> i64 {
        let of_key = requests.iter().flatten().filter(|(of, _)| &**of == key.as_bytes());
        of_key.map(|(_, hits)| if let Hits::Add(hits) = hits { i64::from(*hits) } else { 0 }).sum()
    };
    for kind in ["a", "b", "c"] {
        for number in 0..10 {
            let key = format!("{kind}{number}/");
            let counted = cluster.counter(&counter(&key)).unwrap_or(0);
            let (known, unknown) = (sum(&admitted, &key), sum(&left, &key));
            assert!(counted <= 150, "{key} counts {counted}");
            assert!(
                (known..=known + unknown).contains(&counted),
                "{key}: {known} of {counted}, {unknown} left"
            );
        }
    }
}

#[tokio::test]
async fn hits_denied_by_another_slot_are_refunded_unless_unconditional() {
    let cluster = Cluster::start(3, 0).await;
    let store = connected(&cluster.settings()).await;
    let [a, b, c] = [0, 1, 2].map(|node| keys_of(&cluster, node, 1).remove(0));
    let one = |key: &str, mode, limit| Charge { mode, limit: Limit::per(limit, Unit::Day), ..hit_on(key) };
    let ask = async |limit| {
        let charges = [
            one(&a, ChargeMode::IfAllowed, 5),
            one(&b, ChargeMode::IfAllowed, limit),
            one(&c, ChargeMode::Always, 9),
        ];
        let readings = complete(store.charge(&charges, MIDNIGHT).await).expect("readings");
        readings.iter().map(|reading| (reading.used, reading.outcome)).collect::<Vec<_>>()
    };
    use ChargeOutcome::{Charged, Denied, Withheld};
    assert_eq!(ask(1).await, [(1, Charged), (1, Charged), (1, Charged)]);
    assert_eq!(ask(1).await, [(1, Withheld), (1, Denied), (2, Charged)]);
    store.settle().await;
    assert_eq!([&a, &b, &c].map(|key| cluster.counter(&counter(key))), [Some(1), Some(1), Some(2)]);
}

/// Quotas deny only all together, though each slot sees one of them.
#[tokio::test]
async fn quotas_in_several_slots_deny_only_all_together() {
    let cluster = Cluster::start(3, 0).await;
    let store = connected(&cluster.settings()).await;
    let keys = [0, 1].map(|node| keys_of(&cluster, node, 1).remove(0));
    let ask = async || {
        let charges = [(&keys[0], 1), (&keys[1], 2)].map(|(key, limit)| Charge {
            mode: ChargeMode::IfAllowed,
            enforcement: Enforcement::Quota,
            limit: Limit::per(limit, Unit::Day),
            ..hit_on(key)
        });
        let readings = complete(store.charge(&charges, MIDNIGHT).await).expect("readings");
        [readings[0].outcome, readings[1].outcome]
    };
    assert_eq!(ask().await, [ChargeOutcome::Charged, ChargeOutcome::Charged]);
    assert_eq!(ask().await, [ChargeOutcome::Denied, ChargeOutcome::Charged]);
    assert_eq!(ask().await, [ChargeOutcome::Denied, ChargeOutcome::Denied]);
}

#[tokio::test]
async fn a_cluster_that_is_down_says_so_and_is_found_again() {
    let mut cluster = Cluster::start(3, 0).await;
    let store = connected(&hasty(&cluster)).await;
    for node in 0..3 {
        cluster.kill(node);
    }
    eventually("it is known", async || {
        matches!(used(&store, hit("a")).await, Err(StoreError::Unreachable(_)))
    })
    .await;
    for node in 0..3 {
        cluster.restart(node).await;
    }
    cluster.settled().await;
    eventually("it is found", async || used(&store, hit("a")).await.is_ok()).await;
}

/// A counter and the lockout beside it are read in one step, which a Cluster refuses while one of the two is
/// missing: until the slot has moved, or both are on one side.
#[tokio::test]
async fn unknown_lockouts_follow_the_failure_policy_while_a_slot_moves() {
    let cluster = Cluster::start(3, 0).await;
    let settings = RedisSettings { call_timeout: Duration::from_secs(5), ..cluster.settings() };
    let store = connected(&settings).await;
    let key = keys_of(&cluster, 0, 1).remove(0);
    let place = slot(&counter(&key));
    let tag = format!("{{{}}}", String::from_utf8(counter(&key)).expect("text"));
    let steps = vec![Block::Secs(3_600)].into();
    let schedule = Arc::new(LockoutSchedule {
        after: 1,
        within_secs: 86_400,
        steps,
        forget_secs: 86_400,
        extend: false,
    });
    let ask = async |who: &str| {
        let lockout = Lockout { key: format!("{tag}{who}!").into(), schedule: Arc::clone(&schedule) };
        let charge = Charge {
            limit: Limit::per(1, Unit::Day),
            lockout: Some(lockout),
            ..hit_on(&format!("{tag}{who}/"))
        };
        used(&store, charge).await
    };
    for expected in [1, 2] {
        assert_eq!(ask("known").await.expect("a reading"), expected);
    }
    cluster.begin_migration(place, 0, 1);
    assert!(ask("known").await.is_ok(), "both are where they were");
    let refused = ask("new").await.expect_err("one of the two is missing on either side");
    assert!(refused.to_string().contains("TRYAGAIN"), "{refused}");
    cluster.migrate_keys(place, 0, 1);
    assert!(ask("known").await.is_ok(), "both have moved");
    assert!(ask("new").await.is_err());
    cluster.end_migration(place, 0, 1).await;
    eventually("it counts again", async || ask("new").await.is_ok()).await;
}

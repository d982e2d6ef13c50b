//! Simulation: the whole Redis store against scripted servers, in paused time, by seeds.
//!
//! Queue, worker, node client, redirections and discovery run as in production; only the connections
//! are in memory. A model knows which hits were carried out. `SIMULATION_SEEDS` sets how many seeds are tried,
//! `SIMULATION_SEED` replays one.

mod resp;
mod server;
mod wire;
mod world;

use std::collections::HashMap;
use std::env;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use self::world::{InMemory, Kind, Node, SENTINEL, SLOTS, State, World, endpoint};
use super::connect::{ConnectConfig, Network};
use super::discovery::Discovery;
use super::settings::ServerClock;
use super::wire::Wire;
use super::{Credentials, Deployment, Endpoint, Redis, RedisSettings, RedisStore};
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::{ChargeMode, Enforcement, FailurePolicy, Hits, Limit, Timestamp, Unit};
use crate::store::{Charge, Store, StoreError};
use crate::supervisor::Supervisor;

/// The seeds of the normal suite.
const SEEDS: u64 = 150;
const NODES: usize = 3;
const CALL_TIMEOUT: Duration = Duration::from_millis(10);
/// Time for which the world misbehaves.
const TROUBLE: Duration = Duration::from_secs(2);
/// Within this, everything works again.
const RECOVERY: Duration = Duration::from_secs(3);
const NOW: Timestamp = Timestamp::from_secs(1_699_920_000);

/// Hits of a key by the answers that callers got.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    counted: u64,
    unknown: u64,
}

#[expect(clippy::disallowed_methods, reason = "the tester chooses the seeds")]
fn seeds() -> Range<u64> {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(SEEDS),
    }
}

/// Names the seed if the test fails.
struct NameSeed(u64);

impl Drop for NameSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with SIMULATION_SEED={}", self.0);
        }
    }
}

#[test]
fn the_store_reports_exactly_what_was_counted() {
    for seed in seeds() {
        let _name = NameSeed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        fastrand::seed(seed);
        runtime.expect("a runtime").block_on(run(seed));
    }
}

async fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let kind = [Kind::Single, Kind::Sentinel, Kind::Cluster][random.usize(0..3)];
    let world: World = Arc::new(Mutex::new(State {
        kind,
        random: random.fork(),
        nodes: (0..NODES).map(|_| Node::default()).collect(),
        primary: 0,
        owners: (0..usize::from(SLOTS / 1_024)).map(|range| range % NODES).collect(),
        epochs: (1..=NODES as u64).collect(),
        fault_one_in: [0, 20, 100, 1_000][random.usize(0..4)],
        executed: HashMap::new(),
        answered: HashMap::new(),
        born_without_ttl: Vec::new(),
        violations: Vec::new(),
    }));
    let is_calm = world.lock().fault_one_in == 0;
    let store = Arc::new(store(&world, kind));
    let trouble = AbortOnDropHandle::new(tokio::spawn(make_trouble(Arc::clone(&world), random.fork())));
    let told = call(&store, &world, &mut random).await;
    drop(trouble);
    heal(&world);
    recovers(&store, &world).await;
    store.settle().await;
    let state = world.lock();
    check(&state, &told);
    if is_calm {
        assert_eq!(state.born_without_ttl, Vec::<Bytes>::new());
        let unknown: Vec<_> = told.iter().filter(|(_, told)| told.unknown > 0).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

fn store(world: &World, kind: Kind) -> RedisStore {
    store_over(Arc::new(InMemory(Arc::clone(world))), kind, &Supervisor::detached())
}

fn store_over(network: Arc<dyn Network>, kind: Kind, supervisor: &Supervisor) -> RedisStore {
    let all = || (0..NODES).map(endpoint).collect();
    let deployment = match kind {
        Kind::Single => Deployment::Single(endpoint(0)),
        Kind::Sentinel => Deployment::Sentinel {
            primary: "main".to_owned(),
            sentinels: (SENTINEL..SENTINEL + 3).map(endpoint).collect(),
        },
        Kind::Cluster => Deployment::Cluster { nodes: all() },
    };
    let settings = RedisSettings {
        deployment,
        credentials: Credentials::default(),
        database: None,
        tls: None,
        connect_timeout: Duration::from_millis(200),
        call_timeout: CALL_TIMEOUT,
        expiration_jitter_max_secs: 0,
    };
    let config = ConnectConfig::in_memory(settings, ServerClock::Own, network, supervisor);
    let discovery = Discovery::watch(&config);
    let redis = Redis { all: (config, discovery), per_second: None, denials: None, listing: Arc::default() };
    RedisStore { tasks: TaskTracker::new(), ..redis.store() }
}

/// A network whose connections end the task that opens one.
struct Panics;

impl Network for Panics {
    fn connect(&self, _: &Endpoint) -> BoxFuture<'static, Result<Box<dyn Wire>, String>> {
        panic!("by request")
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_of_the_store_that_ends_is_reported() {
    for (kind, task) in [
        (Kind::Single, format!("Redis worker for {}", endpoint(0))),
        (Kind::Sentinel, "Redis topology refresh".to_owned()),
        (Kind::Cluster, "Redis topology refresh".to_owned()),
    ] {
        let (supervisor, mut ends) = Supervisor::new();
        let _store = store_over(Arc::new(Panics), kind, &supervisor);
        let end = timeout(CALL_TIMEOUT * 20, ends.first()).await.unwrap();
        assert_eq!((&*end.task, &*end.cause), (&*task, "panicked: by request"));
    }
}

fn charge(key: Bytes, hits: u32, mode: ChargeMode) -> Charge {
    Charge {
        key,
        rule: 0,
        limit: Limit::per(10, Unit::Day),
        hits: Hits::Add(hits),
        mode,
        enforcement: Enforcement::Enforced,
        lockout: None,
        on_failure: FailurePolicy::Error,
    }
}

/// The name of the counter in Redis.
fn counter(key: &str) -> Bytes {
    Bytes::from(format!("{key}{}", NOW.as_secs()))
}

/// Calls at random times while there is trouble. Returns the answers by key.
async fn call(store: &Arc<RedisStore>, world: &World, random: &mut fastrand::Rng) -> HashMap<Bytes, Told> {
    let mut callers = JoinSet::new();
    for number in 0..random.u32(50..400) {
        let (store, world) = (Arc::clone(store), Arc::clone(world));
        // Half of the counters belong to one caller, so that it is known what became of its charge.
        let is_single = random.bool();
        let key = if is_single { format!("own{number}/") } else { format!("shared{}/", random.u8(0..5)) };
        let (hits, at) = (random.u32(1..4), random.u64(0..1_900_000));
        let mode = if random.u8(0..4) == 0 { ChargeMode::IfAllowed } else { ChargeMode::Always };
        callers.spawn(async move {
            sleep(Duration::from_micros(at)).await;
            let counter = counter(&key);
            if is_single {
                world.lock().answered.insert(counter.clone(), false);
            }
            let charges = [charge(Bytes::from(key), hits, mode)];
            let answer = timeout(CALL_TIMEOUT * 20, store.charge(&charges, NOW)).await;
            let answer = answer.expect("every call is answered").pop().expect("a reading");
            world.lock().answered.entry(counter.clone()).and_modify(|answered| *answered = true);
            let hits = u64::from(hits);
            let told = match answer {
                Ok(reading) if reading.outcome == ChargeOutcome::Charged => {
                    Told { counted: hits, unknown: 0 }
                }
                Err(StoreError::Unanswered(_)) => Told { counted: 0, unknown: hits },
                Ok(_) | Err(_) => Told::default(),
            };
            (counter, told)
        });
    }
    let mut all = HashMap::<Bytes, Told>::new();
    while let Some(told) = callers.join_next().await {
        let (counter, told) = told.expect("no panic");
        let sum = all.entry(counter).or_default();
        sum.counted += told.counted;
        sum.unknown += told.unknown;
    }
    all
}

/// Fails nodes over, takes them down, moves slots, evicts counters, and pauses the process.
async fn make_trouble(world: World, mut random: fastrand::Rng) {
    if world.lock().fault_one_in == 0 {
        return std::future::pending().await;
    }
    let end = Instant::now() + TROUBLE;
    while Instant::now() < end {
        sleep(Duration::from_millis(random.u64(1..300))).await;
        let node = random.usize(0..NODES);
        let event = random.u8(0..7);
        if event == 5 {
            // Nothing runs, and no timer fires, until it is over.
            advance(Duration::from_millis(random.u64(3..30))).await;
            continue;
        }
        let mut state = world.lock();
        match event {
            // The node restarts, and has lost its counters and scripts.
            0 => {
                let generation = state.nodes[node].generation + 1;
                state.nodes[node] = Node { generation, ..Node::default() };
            }
            1 => {
                state.nodes[node].generation += 1;
                state.nodes[node].down = true;
            }
            2 => state.nodes[node].down = false,
            // Another node takes over some slots, or all that the primary had.
            3 => {
                let range = random.usize(0..state.owners.len());
                let old = std::mem::replace(&mut state.owners[range], node);
                state.epochs[node] = state.epochs.iter().max().expect("nodes") + 1;
                if state.kind == Kind::Sentinel && state.primary != node {
                    // A primary that became a replica takes over the data of the new one.
                    let demoted = std::mem::replace(&mut state.primary, node);
                    state.nodes[demoted].counters.clear();
                }
                let State { nodes, owners, kind, .. } = &mut *state;
                if *kind == Kind::Cluster && old != node {
                    let moves =
                        |key: &Bytes| usize::from(redis_protocol::redis_keyslot(key) / 1_024) == range;
                    let moved: Vec<_> = nodes[old].counters.extract_if(|key, _| moves(key)).collect();
                    assert_eq!(owners[range], node);
                    nodes[node].counters.extend(moved);
                }
            }
            // It evicts some counters.
            4 => {
                let keep = random.u64(..);
                let is_kept = |key: &Bytes| (key.len() as u64 ^ keep).is_multiple_of(2);
                // Not between the two commands of one write that create and charge a counter.
                state.nodes[node].counters.retain(|key, counter| counter.value == 0 || is_kept(key));
            }
            _ => state.nodes[node].knows_script = false,
        }
    }
    std::future::pending().await
}

fn heal(world: &World) {
    let mut state = world.lock();
    state.fault_one_in = 0;
    state.nodes.iter_mut().for_each(|node| node.down = false);
}

/// Every node is counted with again.
async fn recovers(store: &RedisStore, world: &World) {
    let healed = Instant::now();
    let kind = world.lock().kind;
    for key in 0..20 {
        loop {
            let charges = [charge(Bytes::from(format!("after{key}/")), 1, ChargeMode::Always)];
            match &store.charge(&charges, NOW).await[0] {
                Ok(_) => break,
                Err(error) => assert!(healed.elapsed() < RECOVERY, "{kind:?}: {error} {RECOVERY:?} after"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn check(state: &State, told: &HashMap<Bytes, Told>) {
    assert_eq!(state.violations, Vec::<String>::new());
    for (key, Told { counted, unknown }) in told {
        let executed = state.executed.get(key).copied().unwrap_or(0);
        assert!(*counted <= executed, "{key:?}: {counted} were confirmed, {executed} carried out");
        let most = counted + unknown;
        assert!(
            executed <= most,
            "{key:?}: {executed} were carried out, {counted} confirmed, {unknown} unknown"
        );
    }
    for node in &state.nodes {
        for (key, counter) in &node.counters {
            assert!(counter.has_ttl, "{key:?} has no TTL in {:?}: {counter:?}", state.kind);
        }
    }
}

//! Simulation: the whole Redis store against scripted servers, in paused time, by seeds.
//!
//! Queue, worker, node client, redirections and discovery run as in production; only the connections
//! are in memory. A model knows which hits were carried out. `SIMULATION_SEEDS` sets how many seeds are tried,
//! `SIMULATION_SEED` replays one.

mod calls;
mod commands;
mod resp;
mod script;
mod server;
mod status;
mod ttls;
mod wire;
mod world;

use std::collections::{HashMap, HashSet};
use std::env;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::calls::{LIMIT, ReportedHits, call, charge};
use self::world::{InMemory, Kind, Node, SENTINEL, SLOTS, State, World, endpoint, range_of};
use super::connect::{ConnectConfig, Network};
use super::discovery::Discovery;
use super::settings::ServerClock;
use super::wire::Wire;
use super::{Credentials, Deployment, Endpoint, Redis, RedisSettings, RedisStore};
use crate::engine::{ChargeMode, Timestamp};
use crate::store::Store as _;
use crate::supervisor::Supervisor;

/// Seeds of the normal suite: so many, and those that failed once.
const SEEDS: u64 = 40;
const FAILED_ONCE: [u64; 1] = [2_330];
const NODES: usize = 3;
const CALL_TIMEOUT: Duration = Duration::from_millis(10);
/// Time for which the world misbehaves.
const TROUBLE: Duration = Duration::from_secs(2);
/// Within this, everything works again.
const RECOVERY: Duration = Duration::from_secs(3);
const NOW: Timestamp = Timestamp::from_secs(1_699_920_000);

#[expect(clippy::disallowed_methods, reason = "the tester chooses the seeds")]
fn seeds() -> Vec<u64> {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("SIMULATION_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SIMULATION_SEEDS").unwrap_or(SEEDS)).chain(FAILED_ONCE).collect(),
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

/// Nodes without a fault.
fn world(kind: Kind, random: fastrand::Rng) -> World {
    Arc::new(Mutex::new(State {
        kind,
        random,
        nodes: (0..NODES).map(|_| Node::default()).collect(),
        primary: 0,
        owners: (0..usize::from(SLOTS / 1_024)).map(|range| range % NODES).collect(),
        epochs: (1..=NODES as u64).collect(),
        migrating: HashMap::new(),
        evicts: false,
        refuses_expire: false,
        fault_one_in: 0,
        executed: HashMap::new(),
        lost: HashSet::new(),
        answered: HashMap::new(),
        born_without_ttl: Vec::new(),
        violations: Vec::new(),
    }))
}

async fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let kind = [Kind::Single, Kind::Sentinel, Kind::Cluster][random.usize(0..3)];
    let world = world(kind, random.fork());
    {
        let mut state = world.lock();
        state.evicts = random.u8(0..3) == 0;
        state.fault_one_in = [0, 20, 100, 1_000][random.usize(0..4)];
    }
    let is_calm = {
        let mut state = world.lock();
        state.evicts &= state.fault_one_in > 0;
        state.fault_one_in == 0
    };
    // Without trouble no call may fail. A timer takes a millisecond at least, and a call waits for many.
    let call_timeout = if is_calm { CALL_TIMEOUT * 10 } else { CALL_TIMEOUT };
    let store = Arc::new(redis(&world, kind, call_timeout).store());
    let trouble = AbortOnDropHandle::new(tokio::spawn(make_trouble(Arc::clone(&world), random.fork())));
    let reported = call(&store, &world, &mut random).await;
    drop(trouble);
    heal(&world);
    recovers(&store, &world).await;
    store.settle().await;
    has_ttls(&world).await;
    let state = world.lock();
    check(&state, &reported, is_calm);
    if is_calm {
        assert_eq!(state.born_without_ttl, Vec::<Bytes>::new());
    }
}

fn redis(world: &World, kind: Kind, call_timeout: Duration) -> Redis {
    redis_over(Arc::new(InMemory(Arc::clone(world))), kind, call_timeout, &Supervisor::detached())
}

fn redis_over(
    network: Arc<dyn Network>,
    kind: Kind,
    call_timeout: Duration,
    supervisor: &Supervisor,
) -> Redis {
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
        call_timeout,
        expiration_jitter_max_secs: 0,
    };
    let config = ConnectConfig::in_memory(settings, ServerClock::Own, network, supervisor);
    let discovery = Discovery::watch(&config);
    Redis { all: (config, discovery), per_second: None, denials: None, leases: None, listing: Arc::default() }
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
        let _store = redis_over(Arc::new(Panics), kind, CALL_TIMEOUT, &supervisor).store();
        let end = timeout(CALL_TIMEOUT * 20, ends.first()).await.unwrap();
        assert_eq!((&*end.task, &*end.cause), (&*task, "panicked: by request"));
    }
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
        let event = random.u8(0..9);
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
                state.lose(node, |_, _| true);
                state.nodes[node] = Node { generation, ..Node::default() };
            }
            1 => {
                state.nodes[node].generation += 1;
                state.nodes[node].down = true;
            }
            2 => state.nodes[node].down = false,
            3 => fail_over(&mut state, node, random.usize(0..usize::from(SLOTS / 1_024))),
            // It evicts some counters.
            4 => {
                let keep = random.u64(..);
                let is_kept = |key: &Bytes| (key.len() as u64 ^ keep).is_multiple_of(2);
                // Where it says that it never evicts, somebody deletes them, and not in the midst of a write.
                let evicts = state.evicts;
                state.lose(node, |key, counter| (evicts || counter.value != 0) && !is_kept(key));
            }
            6 | 7 if state.kind == Kind::Cluster => state.migrate(&mut random),
            _ => state.nodes[node].scripts.clear(),
        }
    }
    std::future::pending().await
}

/// Another node takes over a range of slots, or all that the primary had.
fn fail_over(state: &mut State, node: usize, range: usize) {
    match state.kind {
        Kind::Cluster if !state.migrating.contains_key(&range) => {
            let old = std::mem::replace(&mut state.owners[range], node);
            state.epochs[node] = state.epochs.iter().max().expect("nodes") + 1;
            if old != node {
                state.move_counters(old, node, |key| range_of(key) == range);
            }
        }
        Kind::Sentinel if state.primary != node => {
            // A primary that became a replica takes over the data of the new one.
            let demoted = std::mem::replace(&mut state.primary, node);
            state.lose(demoted, |_, _| true);
        }
        Kind::Single | Kind::Sentinel | Kind::Cluster => {}
    }
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

/// Every counter gets its TTL.
async fn has_ttls(world: &World) {
    let begun = Instant::now();
    loop {
        let missing: Vec<_> = {
            let state = world.lock();
            let counters = state.nodes.iter().flat_map(|node| &node.counters);
            counters.filter(|(_, counter)| !counter.has_ttl).map(|(key, _)| key.clone()).collect()
        };
        if missing.is_empty() {
            return;
        }
        assert!(begun.elapsed() < RECOVERY, "{:?}: without a TTL: {missing:?}", world.lock().kind);
        sleep(Duration::from_millis(50)).await;
    }
}

fn check(state: &State, reported: &HashMap<Bytes, ReportedHits>, is_calm: bool) {
    assert_eq!(state.violations, Vec::<String>::new());
    for (key, reported) in reported {
        let executed = state.executed.get(key).copied().unwrap_or(0);
        let ReportedHits { counted, unknown, withheld, dropped, if_allowed } = *reported;
        assert!(counted <= executed, "{key:?}: {executed} were carried out, {reported:?}");
        let refunds = if is_calm { 0 } else { withheld };
        assert!(
            executed <= counted + unknown + refunds + dropped,
            "{key:?}: {executed} were carried out, {reported:?}"
        );
        assert!(!is_calm || unknown == 0, "{key:?}: {reported:?}");
        let is_over = if_allowed && counted > LIMIT.into() && !state.lost.contains(key);
        assert!(!is_over, "{key:?}: more than the limit passed: {reported:?}");
    }
}

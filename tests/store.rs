//! Promises of every store, checked for each: memory, and every deployment of Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection, option, prop_assert_eq, sample};
use tokio::runtime;
use tokio::task::JoinSet;
use tollgate::engine::lockout::{Block, LockoutSchedule};
use tollgate::engine::{
    Algorithm, ChargeMode, Enforcement, FailurePolicy, Hits, Lease, Limit, Timestamp, Unit,
};
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::redis::{RedisSettings, RedisStore};
use tollgate::store::{Charge, Lockout, Store, StoreError};

use crate::support::case_clock::CaseClock;
use crate::support::eventually;
use crate::support::redis::cluster::Cluster;
use crate::support::redis::sentinel::{Passwords, Sentinels};
use crate::support::redis::{Redis, User};
use crate::support::stores::complete;

/// The beginning of a window of every unit but the week, the month and the year.
pub(crate) const MIDNIGHT: Timestamp = Timestamp::from_secs(1_699_920_000);
const USER: User = User { name: "tollgate", password: "open sesame" };

/// A store, and what stands behind it.
enum Bed {
    Memory(Arc<MemoryStore>),
    Redis(Box<dyn Servers>, Box<RedisStore>),
}

/// Servers that count.
trait Servers: Send + Sync {
    fn settings(&self) -> RedisSettings;
    /// Number of counters.
    fn len(&self) -> usize;
}

macro_rules! servers {
    ($($server:ty)*) => {
        $(
            impl Servers for $server {
                fn settings(&self) -> RedisSettings {
                    Self::settings(self)
                }

                fn len(&self) -> usize {
                    Self::len(self)
                }
            }
        )*
    };
}

servers! { Redis Cluster Sentinels }

impl Bed {
    fn in_memory() -> Self {
        Self::Memory(Arc::new(MemoryStore::new(MemorySettings::of_counters(1_000_000))))
    }

    async fn on(servers: impl Servers + 'static) -> Self {
        let store = connected(&servers.settings()).await;
        Self::Redis(Box::new(servers), Box::new(store))
    }

    fn store(&self) -> &dyn Store {
        match self {
            Self::Memory(store) => &**store,
            Self::Redis(_, store) => &**store,
        }
    }

    /// Number of counters.
    fn len(&self) -> usize {
        match self {
            Self::Memory(store) => store.len(),
            Self::Redis(servers, _) => servers.len(),
        }
    }

    async fn used(&self, charges: &[Charge], now: Timestamp) -> Vec<u64> {
        let readings = complete(self.store().charge(charges, now).await).expect("readings");
        readings.iter().map(|reading| reading.used).collect()
    }

    async fn used_by(&self, charge: Charge, now: Timestamp) -> u64 {
        self.used(&[charge], now).await[0]
    }
}

/// A store whose Redis can be reached, and which goes by the caller's clock, not by that of Redis.
pub(crate) async fn connected_by_callers_clock(settings: &RedisSettings) -> RedisStore {
    let store = RedisStore::connect_by_callers_clock(settings).expect("settings of use");
    store.ready(Duration::from_secs(10)).await.expect("Redis answers");
    store
}

/// A store whose Redis can be reached.
pub(crate) async fn connected(settings: &RedisSettings) -> RedisStore {
    let store = RedisStore::connect(settings).expect("settings of use");
    store.ready(Duration::from_secs(10)).await.expect("Redis answers");
    store
}

pub(crate) async fn used(store: &RedisStore, charge: Charge) -> Result<u64, StoreError> {
    complete(store.charge(&[charge], MIDNIGHT).await).map(|readings| readings[0].used)
}

pub(crate) fn charge(key: impl Into<Bytes>, unit: Unit, hits: Hits) -> Charge {
    let limit = Limit::per(10, unit);
    Charge {
        key: key.into(),
        limit,
        rule: 0,
        hits,
        mode: ChargeMode::Always,
        enforcement: Enforcement::Enforced,
        lockout: None,
        hold: None,
        lease: None,
        reserve: None,
        on_failure: FailurePolicy::Error,
    }
}

pub(crate) fn hit(key: &'static str) -> Charge {
    charge(key, Unit::Minute, Hits::Add(1))
}

fn look(key: &'static str) -> Charge {
    charge(key, Unit::Minute, Hits::Add(0))
}

fn refund(key: &'static str, hits: u32) -> Charge {
    charge(key, Unit::Minute, Hits::Refund(hits))
}

fn after(micros: u64) -> Timestamp {
    Timestamp::from_micros(MIDNIGHT.as_micros() + micros)
}

macro_rules! promises {
    ($($promise:ident)*) => {
        promises! { memory: async { Bed::in_memory() } => $($promise)* }
        promises! { redis_over_tcp: async { Bed::on(Redis::start().await).await } => $($promise)* }
        promises! {
            redis_over_a_unix_socket: async { Bed::on(Redis::start_on_unix_socket().await).await }
            => $($promise)*
        }
        promises! {
            redis_as_a_user: async { Bed::on(Redis::start_for(USER).await).await } => $($promise)*
        }
        promises! { valkey: async { Bed::on(Redis::start_valkey().await).await } => $($promise)* }
        promises! {
            redis_over_tls: async { Bed::on(Redis::start_with_tls(USER).await).await } => $($promise)*
        }
        promises! {
            redis_behind_sentinels: async { Bed::on(Sentinels::start(Passwords::default()).await).await }
            => $($promise)*
        }
        promises! { a_cluster: async { Bed::on(Cluster::start(3, 0).await).await } => $($promise)* }
    };
    ($store:ident: $bed:expr => $($promise:ident)*) => {
        mod $store {
            use super::*;
            $(
                #[tokio::test]
                async fn $promise() {
                    super::$promise(&$bed.await).await;
                }
            )*
        }
    };
}

promises! {
    hits_of_one_window_add_up
    a_window_begins_at_zero_with_its_first_microsecond
    a_look_writes_nothing
    a_refund_stops_at_zero_and_creates_no_counter
    charges_are_carried_out_in_their_order
    counts_go_far_beyond_any_limit
    keys_may_hold_any_bytes
    callers_at_once_are_admitted_exactly_up_to_the_limit
    places_come_back_by_their_own_ticket_only
    amounts_are_held_and_settled_once_by_their_own_ticket
}

async fn hits_of_one_window_add_up(bed: &Bed) {
    for (hits, used) in [(1, 1), (1, 2), (5, 7), (1_000, 1_007)] {
        assert_eq!(bed.used_by(charge("a", Unit::Hour, Hits::Add(hits)), after(1)).await, used);
    }
    assert_eq!(bed.used_by(charge("b", Unit::Hour, Hits::Add(3)), after(1)).await, 3, "another key");
    assert_eq!(bed.used(&[], after(1)).await, [0; 0], "nothing to charge");
}

async fn a_window_begins_at_zero_with_its_first_microsecond(bed: &Bed) {
    for (unit, secs) in [(Unit::Second, 1), (Unit::Minute, 60), (Unit::Hour, 3_600), (Unit::Day, 86_400)] {
        let key = Bytes::from(format!("{unit:?}"));
        let hit = || charge(key.clone(), unit, Hits::Add(1));
        let window = secs * 1_000_000;
        // A window of a second is over before a slow machine is done: Redis may drop it, by its own
        // clock.
        if unit != Unit::Second {
            assert_eq!(bed.used_by(hit(), after(0)).await, 1, "{unit:?}");
            assert_eq!(bed.used_by(hit(), after(window - 1)).await, 2, "{unit:?}");
        }
        assert_eq!(bed.used_by(hit(), after(window)).await, 1, "{unit:?}");
        assert_eq!(bed.used_by(hit(), after(5 * window)).await, 1, "{unit:?}");
    }
}

async fn a_look_writes_nothing(bed: &Bed) {
    assert_eq!(bed.used_by(look("a"), after(0)).await, 0);
    assert_eq!(bed.len(), 0);
    assert_eq!(bed.used_by(charge("a", Unit::Minute, Hits::Add(7)), after(0)).await, 7);
    assert_eq!(bed.used(&[look("a"), look("a"), look("b")], after(0)).await, [7, 7, 0]);
    assert_eq!(bed.used_by(look("a"), after(60_000_000)).await, 0, "the next window");
    assert_eq!(bed.len(), 1);
    assert_eq!(bed.used_by(look("a"), after(0)).await, 7);
}

async fn a_refund_stops_at_zero_and_creates_no_counter(bed: &Bed) {
    assert_eq!(bed.used_by(refund("a", 5), after(0)).await, 0);
    assert_eq!(bed.len(), 0);
    assert_eq!(bed.used_by(charge("a", Unit::Minute, Hits::Add(10)), after(0)).await, 10);
    for (hits, used) in [(0, 10), (3, 7), (7, 0), (1, 0), (u32::MAX, 0)] {
        assert_eq!(bed.used_by(refund("a", hits), after(0)).await, used, "{hits} given back");
    }
    assert_eq!(bed.used_by(hit("a"), after(0)).await, 1);
    assert_eq!(bed.used_by(look("a"), after(0)).await, 1);
    assert_eq!(bed.used_by(refund("a", 1), after(60_000_000)).await, 0, "the next window");
}

async fn charges_are_carried_out_in_their_order(bed: &Bed) {
    let mixed = [
        hit("a"),
        look("a"),
        hit("b"),
        charge("a", Unit::Minute, Hits::Add(9)),
        refund("a", 4),
        look("b"),
        look("a"),
    ];
    assert_eq!(bed.used(&mixed, after(0)).await, [1, 1, 1, 10, 6, 1, 6]);

    let many: Vec<Charge> = (0..64).map(|_| hit("many")).collect();
    assert_eq!(bed.used(&many, after(0)).await, (1..=64).collect::<Vec<u64>>());
}

async fn counts_go_far_beyond_any_limit(bed: &Bed) {
    for time in 1..=10 {
        let most = charge("a", Unit::Year, Hits::Add(u32::MAX));
        assert_eq!(bed.used_by(most, after(0)).await, time * u64::from(u32::MAX));
    }
}

async fn keys_may_hold_any_bytes(bed: &Bed) {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let long = vec![b'k'; 100_000];
    let keys: [&[u8]; 7] = [b"", b" ", b"\r\n", b"\0", b"\xff\xfe", &all_bytes, &long];
    for time in 1..=2 {
        for key in keys {
            let charge = charge(Bytes::copy_from_slice(key), Unit::Day, Hits::Add(1));
            assert_eq!(bed.used_by(charge, after(0)).await, time, "{:?}", key.get(..8));
        }
    }
    assert_eq!(bed.len(), keys.len());
}

async fn amounts_are_held_and_settled_once_by_their_own_ticket(bed: &Bed) {
    use crate::budgets::{LONG, ask, charge, opening, settling};
    use crate::places::ticket;
    use tollgate::engine::algorithm::group::ChargeOutcome::{Charged, Denied, Withheld};
    use tollgate::engine::reserve::{Action, HoldEvent, OnExpiry, Settled};

    let store = bed.store();
    let on = |key, action| charge(key, LONG, OnExpiry::Release, action);
    let open = |key, number, amount| on(key, Action::Open(opening(ticket(number), amount, 600)));
    let settle = async |key, number, amount| {
        let action = settling(Settled::Whole(ticket(number)), amount);
        let reading = ask(store, on(key, action), MIDNIGHT).await;
        (reading.used, reading.budget.expect("a report").event)
    };
    let held = async |key| ask(store, on(key, Action::Look), MIDNIGHT).await.budget.expect("a report").held;
    assert_eq!(ask(store, open("{a}/", 1, 60), MIDNIGHT).await.outcome, Charged);
    assert_eq!(ask(store, open("{a}/", 2, 60), MIDNIGHT).await.outcome, Denied, "it does not fit beside it");
    let both = [open("{b}/", 3, 20), open("{a}/", 3, 60)];
    let readings = complete(store.charge(&both, MIDNIGHT).await).expect("readings");
    assert_eq!([readings[0].outcome, readings[1].outcome], [Withheld, Denied]);
    eventually("nothing is held of a denied request", async || held("{b}/").await == 0).await;
    assert_eq!(settle("{b}/", 1, 5).await, (5, HoldEvent::Late), "its ticket holds nothing under this key");
    assert_eq!(held("{a}/").await, 60);
    assert_eq!(settle("{a}/", 1, 80).await, (80, HoldEvent::Settled), "in full");
    assert_eq!(settle("{a}/", 1, 80).await, (80, HoldEvent::Repeated));
    assert_eq!(held("{a}/").await, 0);
}

async fn places_come_back_by_their_own_ticket_only(bed: &Bed) {
    use crate::places::{acquire, outcomes, peek, release, renew, ticket};
    use tollgate::engine::algorithm::group::ChargeOutcome::{Charged, Denied, Withheld};

    let (first, second, third) = (ticket(1), ticket(2), ticket(3));
    let store = bed.store();
    assert_eq!(outcomes(store, &[acquire("a", first, 1)]).await, [(Charged, 1)]);
    assert_eq!(outcomes(store, &[acquire("a", second, 2)]).await, [(Charged, 3)]);
    assert_eq!(outcomes(store, &[acquire("a", third, 1)]).await, [(Denied, 3)], "all three are taken");
    assert_eq!(outcomes(store, &[peek("a")]).await, [(Denied, 3)]);
    assert_eq!(outcomes(store, &[release("a", third)]).await, [(Denied, 3)], "it holds nothing");
    assert_eq!(outcomes(store, &[release("b", second)]).await, [(Denied, 0)], "not under this key");
    assert_eq!(outcomes(store, &[renew("a", second), renew("a", third)]).await, [(Charged, 3), (Denied, 3)]);
    let without_ticket = Charge { hits: Hits::Refund(9), ..peek("a") };
    assert_eq!(outcomes(store, &[without_ticket]).await, [(Charged, 3)], "nobody's place");
    assert_eq!(
        outcomes(store, &[acquire("b", third, 1), acquire("a", third, 1)]).await,
        [(Withheld, 0), (Denied, 3)],
        "all or nothing, also where the keys lie in other slots"
    );
    assert_eq!(outcomes(store, &[release("a", second)]).await, [(Charged, 1)], "both of its places");
    assert_eq!(outcomes(store, &[release("a", second)]).await, [(Denied, 1)], "only once");
    assert_eq!(
        outcomes(store, &[acquire("a", third, 1), acquire("b", third, 1)]).await,
        [(Charged, 2), (Charged, 1)]
    );
    let released = outcomes(store, &[release("a", first), release("a", third), release("b", third)]).await;
    assert_eq!(released, [(Charged, 0), (Charged, 0), (Charged, 0)]);
    assert_eq!(bed.len(), 0, "nothing is left");
}

/// Threads as many as cores, each with its own runtime, and on Redis its own connection.
async fn callers_at_once_are_admitted_exactly_up_to_the_limit(bed: &Bed) {
    const THREADS: usize = 4;
    const TASKS: usize = 8;
    const HITS_PER_TASK: usize = 60;
    const KEYS: [&str; 3] = ["a", "b", "c"];
    const LIMIT: u64 = 500;

    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (memory, redis) = match bed {
                Bed::Memory(store) => (Some(store.clone()), None),
                Bed::Redis(server, _) => (None, Some(server.settings())),
            };
            let charge_all = async move {
                let store: Arc<dyn Store> = match (memory, redis) {
                    (Some(store), _) => store,
                    (None, settings) => Arc::new(connected(&settings.expect("one of the two")).await),
                };
                let mut tasks = JoinSet::new();
                for _ in 0..TASKS {
                    let store = store.clone();
                    tasks.spawn(async move {
                        let mut admitted = [0_u64; KEYS.len()];
                        for _ in 0..HITS_PER_TASK {
                            let readings = store.charge(&KEYS.map(hit), after(0)).await;
                            let readings = complete(readings).expect("readings");
                            for (admitted, reading) in admitted.iter_mut().zip(readings) {
                                *admitted += u64::from(reading.used <= LIMIT);
                            }
                        }
                        admitted
                    });
                }
                tasks.join_all().await
            };
            thread::spawn(|| {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(charge_all)
            })
        })
        .collect();

    let mut admitted = [0; KEYS.len()];
    for of_task in threads.into_iter().flat_map(|thread| thread.join().expect("a thread")) {
        for (sum, of_key) in admitted.iter_mut().zip(of_task) {
            *sum += of_key;
        }
    }
    assert_eq!(admitted, [LIMIT; KEYS.len()]);
    let total = (THREADS * TASKS * HITS_PER_TASK) as u64;
    assert_eq!(bed.used(&KEYS.map(look), after(0)).await, [total; KEYS.len()]);
}

/// Schedules that reach their last step within one case.
fn some_schedules() -> [Arc<LockoutSchedule>; 3] {
    let schedule = |after, within_secs, steps: &[Block], forget_secs, extend| {
        Arc::new(LockoutSchedule { after, within_secs, steps: steps.into(), forget_secs, extend })
    };
    [
        schedule(1, 60, &[Block::Secs(30), Block::Secs(60), Block::Secs(300)], 120, false),
        schedule(2, 100, &[Block::Secs(50)], 60, true),
        schedule(3, 600, &[Block::Secs(10), Block::Permanent], 100, true),
    ]
}

/// Counter, hits, mode, effect, lockout, and a lease: its ceiling, shares and age.
type Generated =
    ((u8, Unit, Algorithm), Hits, ChargeMode, Enforcement, Option<usize>, Option<(u32, u16, u64)>);

/// The charge as one that asks for a lease, or returns one that was made earlier.
fn step_of_a_lease(charge: Charge, (ceiling, shares, age): (u32, u16, u64), now: Timestamp) -> Charge {
    let lease = match charge.hits {
        Hits::Add(_) => Lease::Ask { ceiling, shares },
        Hits::Refund(_) => Lease::Return { charged: Timestamp::from_micros(now.as_micros() - age) },
    };
    Charge { mode: ChargeMode::Always, enforcement: Enforcement::Shadow, lease: Some(lease), ..charge }
}

/// The memory store runs `engine::algorithm`; Redis says the same in commands and a script.
#[test]
fn memory_and_redis_read_the_same_for_the_same_charges_at_the_same_times() {
    // Not the second: Redis drops a counter by its own clock, a second after it was made, and a slow
    // machine takes longer for one case.
    let units = prop_oneof![Just(Unit::Minute), Just(Unit::Hour), Just(Unit::Day), Just(Unit::Week)];
    let hits = prop_oneof![
        4 => (1..20_u32).prop_map(Hits::Add),
        1 => any::<u32>().prop_map(Hits::Add),
        2 => Just(Hits::Add(0)),
        3 => (0..25_u32).prop_map(Hits::Refund),
        1 => any::<u32>().prop_map(Hits::Refund),
    ];
    let mode = sample::select(&ChargeMode::ALL[..]);
    let enforcement = prop_oneof![
        4 => Just(Enforcement::Enforced),
        1 => Just(Enforcement::Quota),
        1 => Just(Enforcement::Shadow),
        1 => Just(Enforcement::ShadowQuota),
    ];
    let algorithm = prop_oneof![
        2 => Just(Algorithm::FixedWindow),
        1 => Just(Algorithm::SlidingWindow),
        1 => Just(Algorithm::SlidingLog),
        1 => Just(Algorithm::TokenBucket { burst: 7 }),
        1 => Just(Algorithm::TokenBucket { burst: 25 }),
    ];
    let schedules = some_schedules();
    let lockout = option::weighted(0.3, 0..schedules.len());
    let lease = option::weighted(0.3, (0..30_u32, 1..5_u16, 0..100_000_000_u64));
    let counter = (0..4_u8, units, algorithm);
    let charges = collection::vec((counter, hits, mode, enforcement, lockout, lease), 0..6);
    let requests = collection::vec((0..50_000_000_u64, charges), 1..30);

    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_server, redis) = runtime.block_on(async {
        let server = Redis::start().await;
        let redis = connected_by_callers_clock(&server.settings()).await;
        (server, redis)
    });
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000_000));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(2_800) });
    let decisions = AtomicUsize::new(0);
    let outcome = runner.run(&requests, |requests| {
        let case = fastrand::u64(..);
        let mut clock = CaseClock::starting_at(MIDNIGHT);
        for (micros, charges) in requests {
            let now = clock.advance(micros);
            let one = |((key, unit, algorithm), hits, mode, enforcement, lockout, lease): Generated| {
                let name = format!("{case}/{key}/{unit:?}/{algorithm:?}/");
                let charge = charge(name, unit, hits);
                if let Some(lease) = lease.filter(|_| algorithm != Algorithm::SlidingLog) {
                    let limit = Limit { algorithm, ..charge.limit };
                    return Charge { limit, ..step_of_a_lease(charge, lease, now) };
                }
                let lockout = Option::map(lockout, |index: usize| Lockout {
                    key: format!("{case}/lockout {index}").into(),
                    schedule: Arc::clone(&schedules[index]),
                });
                Charge { limit: Limit { algorithm, ..charge.limit }, mode, enforcement, lockout, ..charge }
            };
            let charges: Vec<Charge> = charges.into_iter().map(one).collect();
            let in_memory = complete(runtime.block_on(memory.charge(&charges, now))).expect("readings");
            let in_redis = complete(runtime.block_on(redis.charge(&charges, now))).expect("readings");
            decisions.fetch_add(in_memory.len(), Ordering::Relaxed);
            prop_assert_eq!(in_memory, in_redis);
        }
        Ok(())
    });
    outcome.expect("equal readings");
    assert!(decisions.into_inner() >= 100_000);
}

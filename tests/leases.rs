//! Leased limits on a real Redis: replicas charge hits in advance and spend them without asking, and together never
//! admit more than the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tollgate::engine::algorithm::group::is_over;
use tollgate::engine::{Algorithm, ChargeMode, Hits, Lease, LeaseTerms, Limit, Timestamp, Unit, Window};
use tollgate::store::redis::{
    LeaseFigures, Leases, Redis as Servers, RedisContext, RedisSettings, RedisStore,
};
use tollgate::store::{Charge, Reading, Store as _, StoreError};

use crate::store::{MIDNIGHT, charge};
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::redis::sentinel::{Passwords, Sentinels};

const HOLD_US: u32 = 100_000;
const RULE: u32 = 7;

/// A replica: a store and the credits of its process.
struct Replica {
    store: RedisStore,
    leases: Arc<Leases>,
    /// Its clock: days since [`MIDNIGHT`], each of which is a window.
    day: AtomicU64,
}

impl Replica {
    async fn start(settings: &RedisSettings) -> Self {
        let leases = Arc::new(Leases::new(3));
        let servers = Servers::watch(settings.clone(), None, None, &RedisContext::detached());
        let store = servers.expect("settings of use").with_leases(Arc::clone(&leases)).store();
        store.ready(Duration::from_secs(10)).await.expect("Redis answers");
        Self { store, leases, day: AtomicU64::new(0) }
    }

    fn now(&self) -> Timestamp {
        MIDNIGHT.after(Duration::from_secs(86_400 * self.day.load(Ordering::Relaxed)))
    }

    async fn ask(&self, charge: &Charge) -> Result<Reading, StoreError> {
        let mut readings = self.store.charge(std::slice::from_ref(charge), self.now()).await;
        readings.pop().expect("a reading")
    }

    /// True if a hit passed.
    async fn admits(&self, charge: &Charge) -> bool {
        self.ask(charge).await.is_ok_and(|reading| {
            !is_over(charge.mode, charge.hits, reading.used, charge.limit.capacity(), reading.outcome)
        })
    }

    fn figures(&self) -> LeaseFigures {
        self.leases.figures(RULE)
    }
}

async fn replicas(settings: &RedisSettings) -> Vec<Arc<Replica>> {
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Arc::new(Replica::start(settings).await));
    }
    replicas
}

/// Hits of each charge: enough for a key to be hot also on a machine that is busy with other things.
const HITS: u32 = 10;

/// Hits on a leased limit.
fn leased(key: &'static str, limit: Limit, mode: ChargeMode) -> Charge {
    let capacity = limit.capacity();
    let terms = LeaseTerms { hold_us: HOLD_US, ceiling: capacity - capacity / 10, max: 10_000 };
    Charge {
        limit,
        mode,
        rule: RULE,
        lease: Some(Lease::Spend(terms)),
        ..charge(key, Unit::Day, Hits::Add(HITS))
    }
}

fn hit(key: &'static str, requests: u32) -> Charge {
    leased(key, Limit::per(requests, Unit::Day), ChargeMode::Always)
}

/// Hits at every replica, from several callers each, until `calls` were made. Returns how many passed.
async fn hits(replicas: &[Arc<Replica>], charge: &Charge, calls: u64) -> u64 {
    let made = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for replica in replicas.iter().flat_map(|replica| [replica; 4]) {
        let (replica, charge, made) = (Arc::clone(replica), charge.clone(), Arc::clone(&made));
        callers.spawn(async move {
            let mut admitted = 0;
            while made.fetch_add(1, Ordering::Relaxed) < calls {
                admitted += u64::from(HITS) * u64::from(replica.admits(&charge).await);
                // Hits without I/O give way to others too.
                tokio::task::yield_now().await;
            }
            admitted
        });
    }
    callers.join_all().await.into_iter().sum()
}

/// Waits until no replica holds anything.
async fn returned(replicas: &[Arc<Replica>]) {
    let held = || replicas.iter().any(|replica| replica.figures().credits > 0);
    eventually("leases are returned", async || !held()).await;
}

#[tokio::test]
async fn replicas_admit_exactly_the_limit_of_a_hot_key_and_seldom_ask_redis() {
    let redis = Redis::start().await;
    let replicas = replicas(&redis.settings()).await;
    for (key, algorithm, mode) in [
        ("always", Algorithm::FixedWindow, ChargeMode::Always),
        ("allowed", Algorithm::FixedWindow, ChargeMode::IfAllowed),
        ("overdraft", Algorithm::FixedWindow, ChargeMode::Overdraft),
        ("sliding", Algorithm::SlidingWindow, ChargeMode::IfAllowed),
    ] {
        const LIMIT: u32 = 6_000 * HITS;
        let limit = Limit { algorithm, ..Limit::per(LIMIT, Unit::Day) };
        let hit = leased(key, limit, mode);
        let before: u64 = replicas.iter().map(|replica| replica.figures().spent).sum();
        let mut admitted = hits(&replicas, &hit, 12_000).await;
        assert!(admitted <= u64::from(LIMIT), "{key}: {admitted}");
        let spent = replicas.iter().map(|replica| replica.figures().spent).sum::<u64>() - before;
        assert!(spent > 0, "{key}: nothing was spent without Redis");
        returned(&replicas).await;
        // What one held, the others may have missed; it is there again.
        if mode == ChargeMode::IfAllowed {
            admitted += hits(&replicas, &hit, 6_000).await;
            assert_eq!(admitted, u64::from(LIMIT), "{key}");
        }
    }
}

#[tokio::test]
async fn a_leased_token_bucket_keeps_its_rate_and_its_burst() {
    let redis = Redis::start().await;
    let replicas = replicas(&redis.settings()).await;
    // A bucket of 10,000, less what a hold refills.
    let (rate, burst) = (20_000, 10_000);
    let limit = Limit {
        requests_per_unit: rate,
        window: Window::of_secs(1),
        algorithm: Algorithm::TokenBucket { burst: burst - rate / 10 },
    };
    let hit = leased("bucket", limit, ChargeMode::IfAllowed);
    let begun = Instant::now();
    let admitted = hits(&replicas, &hit, 15_000).await;
    let passed = begun.elapsed().as_secs_f64();
    let bound = f64::from(burst) + f64::from(rate) * passed;
    assert!(admitted as f64 <= bound, "{admitted} in {passed} s");
    assert!(replicas.iter().any(|replica| replica.figures().spent > 0), "it is not leased");
}

#[tokio::test]
async fn a_replica_that_stops_gives_everything_back() {
    let redis = Redis::start().await;
    let replicas = replicas(&redis.settings()).await;
    let hit = hit("a", 1_000_000);
    let admitted = hits(&replicas, &hit, 3_000).await;
    assert_eq!(admitted, 30_000);
    for replica in &replicas {
        assert!(replica.figures().granted > 0, "it held nothing");
        timeout(Duration::from_secs(5), replica.store.settle()).await.expect("Redis answers");
        assert_eq!(replica.figures().credits, 0);
    }
    let look = Charge { hits: Hits::Add(0), lease: None, ..hit };
    assert_eq!(replicas[0].ask(&look).await.expect("a reading").used, admitted, "neither more nor less");
}

#[tokio::test]
async fn idle_credits_are_returned_after_their_hold() {
    let redis = Redis::start().await;
    let replicas = replicas(&redis.settings()).await;
    let hit = hit("a", 100_000);
    let admitted = hits(&replicas[..1], &hit, 2_000).await;
    returned(&replicas).await;
    let look = Charge { hits: Hits::Add(0), lease: None, ..hit };
    let is_exact = async || replicas[1].ask(&look).await.is_ok_and(|reading| reading.used == admitted);
    eventually("the counter shows what was admitted", is_exact).await;
}

#[tokio::test]
async fn credits_are_spent_while_redis_is_away() {
    let mut redis = Redis::start().await;
    let replicas = replicas(&redis.settings()).await;
    let (replica, hit) = (&replicas[0], hit("a", 1_000_000_000));
    // A hold that does not end before Redis does.
    let terms = LeaseTerms { hold_us: 10_000_000, ceiling: 900_000_000, max: 10_000 };
    let hit = Charge { lease: Some(Lease::Spend(terms)), ..hit };
    let holds = async || {
        hits(&replicas[..1], &hit, 50).await;
        replica.figures().credits >= 1_000
    };
    eventually("it holds credits", holds).await;
    redis.kill();
    let mut passed = 0;
    while replica.admits(&hit).await {
        passed += HITS;
    }
    assert!(passed >= 1_000, "{passed} passed");
    let failed = replica.ask(&hit).await.expect_err("nothing is left, and Redis is away");
    assert!(!matches!(failed, StoreError::Rejected(_)), "{failed}");
}

#[tokio::test]
async fn a_denied_request_takes_no_credits() {
    let redis = Redis::start().await;
    let replicas = replicas(&redis.settings()).await;
    let wide = leased("wide", Limit::per(1_000_000, Unit::Day), ChargeMode::IfAllowed);
    let narrow = Charge {
        limit: Limit::per(0, Unit::Day),
        lease: None,
        ..leased("narrow", Limit::per(10, Unit::Day), ChargeMode::IfAllowed)
    };
    let admitted = hits(&replicas[..1], &wide, 2_000).await;
    let replica = &replicas[0];
    for _ in 0..100 {
        let readings = replica.store.charge(&[wide.clone(), narrow.clone()], MIDNIGHT).await;
        let readings: Vec<Reading> = readings.into_iter().collect::<Result<_, _>>().expect("readings");
        assert!(is_over(narrow.mode, narrow.hits, readings[1].used, 0, readings[1].outcome));
    }
    replica.store.settle().await;
    let look = Charge { hits: Hits::Add(0), lease: None, ..wide };
    assert_eq!(replica.ask(&look).await.expect("a reading").used, admitted);
}

#[tokio::test]
async fn a_lowered_limit_holds_at_once_and_a_raised_one_is_used() {
    let redis = Redis::start().await;
    let replicas = replicas(&redis.settings()).await;
    let of = |requests| leased("a", Limit::per(requests, Unit::Day), ChargeMode::IfAllowed);
    let mut admitted = hits(&replicas, &of(100_000), 1_000).await;
    assert_eq!(admitted, 10_000);
    for requests in [20_000, 5_000, 30_000] {
        let before = admitted;
        admitted += hits(&replicas, &of(requests), 6_000).await;
        assert!(admitted <= u64::from(requests).max(before), "{admitted} of {requests}");
    }
    returned(&replicas).await;
    admitted += hits(&replicas, &of(30_000), 3_000).await;
    assert_eq!(admitted, 30_000);
}

#[tokio::test]
async fn thirty_windows_under_changing_limits_each_admit_no_more_than_theirs() {
    const WINDOWS: usize = 30;
    const CALLS: u64 = 300;
    let redis = Redis::start().await;
    let replicas = replicas(&redis.settings()).await;
    let of = |requests| leased("a", Limit::per(requests, Unit::Day), ChargeMode::IfAllowed);
    // The second one of each window is the first one of the next.
    let limits = |window: usize| [0, 1].map(|change| [2_000, 1_000, 4_000][(window + change) % 3]);
    let spent = || replicas.iter().map(|replica| replica.figures().spent).sum::<u64>();
    let (mut passed, mut possible, mut leased_windows) = (0, 0, 0);
    for window in 0..WINDOWS {
        for replica in &replicas {
            replica.day.store(window as u64, Ordering::Relaxed);
        }
        let [first, second] = limits(window);
        let before = spent();
        let early = hits(&replicas, &of(first), CALLS).await;
        assert!(early <= u64::from(first), "window {window}: {early} of {first}");
        // Reloaded in the middle of the window, with credits of the old limit in every replica.
        let admitted = early + hits(&replicas, &of(second), CALLS).await;
        let most = u64::from(second).max(early);
        assert!(admitted <= most, "window {window}: {admitted} of {first}, then {second}");
        leased_windows += usize::from(spent() > before);
        (passed, possible) = (passed + admitted, possible + most);
    }
    assert!(leased_windows >= WINDOWS / 2, "leases were live in {leased_windows} windows");
    // What one held when another was denied, and what the end of a window took.
    assert!(passed * 10 >= possible * 7, "{passed} of {possible}");
}

#[tokio::test]
async fn a_failover_drops_live_leases_and_admits_no_more_than_the_limit() {
    let mut servers = Sentinels::start(Passwords::default()).await;
    let replicas = replicas(&servers.settings()).await;
    const LIMIT: u32 = 40_000;
    // Holds that last longer than a failover.
    let terms = LeaseTerms { hold_us: 10_000_000, ceiling: LIMIT / 10 * 9, max: 10_000 };
    let hit = leased("a", Limit::per(LIMIT, Unit::Day), ChargeMode::IfAllowed);
    let hit = Charge { lease: Some(Lease::Spend(terms)), ..hit };
    let holds = |replica: &Arc<Replica>| replica.figures().credits >= u64::from(HITS);
    let mut admitted = 0;
    for _ in 0..20 {
        admitted += hits(&replicas, &hit, 100).await;
        if replicas.iter().all(holds) {
            break;
        }
    }
    // Every charge is replicated when the primary goes, so none is lost with it.
    servers.replicated().await;
    assert!(replicas.iter().all(holds), "leases are live");
    servers.pause_primary();
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    // The last one is idle, and still holds its credits when there is another primary.
    let (busy, idle) = (&replicas[..2], &replicas[2]);
    for replica in busy {
        let (replica, hit, stop) = (Arc::clone(replica), hit.clone(), Arc::clone(&stop));
        callers.spawn(async move {
            let mut admitted = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                admitted += u64::from(HITS) * u64::from(replica.admits(&hit).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            admitted
        });
    }
    servers.wait_for_failover().await;
    let look = Charge { hits: Hits::Add(0), lease: None, ..hit.clone() };
    for replica in &replicas {
        eventually("the new primary answers", async || replica.ask(&look).await.is_ok()).await;
    }
    stop.store(true, Ordering::Relaxed);
    let during: u64 = callers.join_all().await.into_iter().sum();
    assert!(during > 0, "credits are spent while there is no primary");
    servers.resume();
    admitted += during + hits(&replicas, &hit, 8_000).await;
    assert!(idle.figures().stranded > 0, "it dropped the credits of the old primary: {:?}", idle.figures());
    assert!(admitted <= u64::from(LIMIT), "{admitted} of {LIMIT}");
}

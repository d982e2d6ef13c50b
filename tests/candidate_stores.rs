//! Rules that are tried out where a store is slow, full or gone: the answer is what it is without them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tollgate::engine::Timestamp;
use tollgate::store::fallback::Fallback;
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::{Charge, ChargeFuture, Store, StoreError};

use crate::candidate::{PREFIX, World, named, shop};
use crate::support::stores;

/// A store that fails those counters that begin so, in one of several ways.
struct Failing {
    inner: Arc<dyn Store>,
    prefix: &'static str,
    hangs: bool,
    fails: AtomicBool,
}

impl Failing {
    fn new(prefix: &'static str, hangs: bool) -> Arc<Self> {
        Arc::new(Self { inner: stores::memory(), prefix, hangs, fails: AtomicBool::new(true) })
    }
}

impl Store for Failing {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ChargeFuture<'a> {
        let is_its = |charge: &Charge| charge.key.starts_with(self.prefix.as_bytes());
        if !self.fails.load(Ordering::Relaxed) || !charges.iter().any(is_its) {
            return self.inner.charge(charges, now);
        }
        Box::pin(async move {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            // In part: the first one is counted.
            let mut readings = self.inner.charge(charges, now).await;
            if let Some(last) = readings.last_mut() {
                *last = Err(StoreError::Unreachable("gone".to_owned()));
            }
            readings
        })
    }

    fn refund(&self, refunds: &[Charge], now: Timestamp) {
        self.inner.refund(refunds, now);
    }
}

const TWO: &str = "
  - {key: user, rate_limits: [2/minute, 9/hour], on_backend_failure: POLICY}
";

#[tokio::test(start_paused = true)]
async fn a_candidate_whose_store_fails_or_hangs_changes_nothing_and_holds_no_answer_back() {
    const PATIENT: Duration = Duration::from_millis(10);
    for policy in ["error", "allow", "deny", "local"] {
        let both = TWO.replace("POLICY", policy);
        for hangs in [false, true] {
            let store = Failing::new(PREFIX, hangs);
            let store_of_all: Arc<dyn Store> = Arc::clone(&store) as _;
            let mut world = World::new(&store_of_all, shop(&both), Some(shop(&both)));
            world.limiter.store_timeout = PATIENT;
            let asked = Instant::now();
            world.check(policy, "user=a*2 -> OK failed\nuser=a -> OVER failed").await;
            // A timer may be a millisecond late, for each of the two.
            let waited = if hangs { Duration::from_millis(4) } else { Duration::ZERO };
            assert!(asked.elapsed() <= waited, "{policy}: {:?}", asked.elapsed());
            store.fails.store(false, Ordering::Relaxed);
            world.check(policy, "user=b -> OK same").await;
            // Only failures that the rules in force suffer from count as the store's.
            assert!(world.stats("tollgate.store_errors.").iter().all(|(_, count)| *count == 0));
        }
    }
}

/// A store that takes its time.
struct Slow(Arc<dyn Store>, Duration);

impl Store for Slow {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ChargeFuture<'a> {
        Box::pin(async move {
            sleep(self.1).await;
            self.0.charge(charges, now).await
        })
    }

    fn refund(&self, refunds: &[Charge], now: Timestamp) {
        self.0.refund(refunds, now);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ready_answer_waits_a_millisecond_for_the_candidate() {
    let both = "  - {key: user, rate_limit: 1/minute}";
    for (live, tried, shown, took) in [
        (0, 0, "OK same", 0),
        (0, 50, "OK failed", 1),
        (5, 0, "OK same", 5),
        (5, 5, "OK same", 5),
        (5, 50, "OK failed", 6),
    ] {
        let slow =
            |millis| -> Arc<dyn Store> { Arc::new(Slow(stores::memory(), Duration::from_millis(millis))) };
        let mut world = World::new(&slow(live), shop(both), Some(shop(both)));
        if let Some(candidate) = &mut world.limiter.candidate {
            candidate.store = slow(tried);
        }
        let asked = Instant::now();
        assert_eq!(world.ask("user=a").await, shown, "{live} ms beside {tried} ms");
        let (took, found) = (Duration::from_millis(took), asked.elapsed());
        assert!(
            (took..=took + Duration::from_millis(2)).contains(&found),
            "{live} beside {tried}: {found:?}"
        );
    }
}

#[tokio::test]
async fn decisions_without_the_store_are_not_compared() {
    for (policy, expected) in
        [("error", "error failed"), ("allow", "OK failed"), ("deny", "OVER failed"), ("local", "OK failed")]
    {
        // How our own names go on after the prefix; those of the candidate have it after `p:candidate/`.
        let store = Failing::new("p:tg1/", false);
        let live = TWO.replace("POLICY", policy);
        let store_of_all: Arc<dyn Store> = Arc::clone(&store) as _;
        let mut world = World::new(&store_of_all, shop(&live), Some(shop(&live)));
        // With so many replicas a share is one hit, which is no measure of the rules.
        world.limiter.fallback = Arc::new(Fallback::new(MemorySettings::of_counters(1_000), 100));
        assert_eq!(world.ask("user=a").await, expected, "{policy}");
        assert_eq!(world.stats("tollgate.store_errors.unreachable"), named(&[("", 1)]), "{policy}");
        store.fails.store(false, Ordering::Relaxed);
        assert_eq!(world.ask("user=b").await, "OK same", "{policy}");
    }
}

#[tokio::test]
async fn a_full_store_of_the_candidate_takes_no_room_from_the_rules_in_force() {
    let full: Arc<dyn Store> = Arc::new(MemoryStore::new(MemorySettings::of_counters(1)));
    let both = "  - {key: user, rate_limit: 1/minute}";
    let mut world = World::new(&stores::memory(), shop(both), Some(shop(both)));
    if let Some(candidate) = &mut world.limiter.candidate {
        candidate.store = full;
    }
    world.check("memory", "user=a -> OK same\nuser=b -> OK same\nuser=a -> OVER looser").await;
}

//! TTLs that a failover or the end of the process leaves behind: set by another node, or counted as lost.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::calls::charge;
use super::world::{Kind, World};
use super::{CALL_TIMEOUT, NOW, redis, world};
use crate::engine::ChargeMode;
use crate::store::Store as _;
use crate::store::redis::{Redis, RedisStore};

/// Within this, a TTL is set or given up.
const PATIENCE: Duration = Duration::from_secs(60);

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}, but it does not come");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A deployment whose first node has counted a counter that it had lost, has rejected the `EXPIRE` that follows, and
/// is gone.
async fn with_a_missing_ttl() -> (World, Redis, RedisStore) {
    let world = world(Kind::Sentinel, fastrand::Rng::with_seed(7));
    let redis = redis(&world, Kind::Sentinel, CALL_TIMEOUT * 100);
    let store = redis.store();
    store.ready(Duration::ZERO).await.expect("it is there");
    let hit = || [charge(Bytes::from_static(b"user/"), 1, ChargeMode::Always)];
    assert!(store.charge(&hit(), NOW).await[0].is_ok());
    {
        let mut state = world.lock();
        state.lose(0, |_, _| true);
        state.refuses_expire = true;
    }
    assert!(store.charge(&hit(), NOW).await[0].is_ok());
    {
        let mut state = world.lock();
        assert!(state.nodes[0].counters.values().all(|counter| !counter.has_ttl));
        state.nodes[0].generation += 1;
        state.nodes[0].down = true;
    }
    (world, redis, store)
}

#[tokio::test(start_paused = true)]
async fn a_ttl_that_is_missing_at_a_failover_is_set_by_the_new_primary() {
    let (world, redis, store) = with_a_missing_ttl().await;
    {
        let mut state = world.lock();
        // The replica has the counter.
        let held = state.nodes[0].counters.clone();
        state.nodes[1].counters = held;
        state.primary = 1;
        state.refuses_expire = false;
    }
    eventually("it has its TTL", || world.lock().nodes[1].counters.values().all(|counter| counter.has_ttl))
        .await;
    store.settle().await;
    assert_eq!(redis.ttls_lost(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_ttl_that_no_node_sets_is_counted_as_lost() {
    let (world, redis, _store) = with_a_missing_ttl().await;
    // The new primary rejects it too.
    world.lock().primary = 1;
    eventually("it is given up", || redis.ttls_lost() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_ttl_that_is_missing_at_the_end_is_counted_as_lost() {
    let (_world, redis, store) = with_a_missing_ttl().await;
    store.settle().await;
    assert_eq!(redis.ttls_lost(), 0);
    drop(store);
    eventually("it is counted", || redis.ttls_lost() == 1).await;
}

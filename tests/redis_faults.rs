//! The network between the store and a real Redis fails: the answers to callers agree with the counters in Redis.
//!
//! A hit that is reported as counted is counted once. A hit that is reported as not sent is never counted, not even
//! when the network is back. A hit without an answer is counted once or not at all.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time;
use tollgate::engine::{Hits, Unit};
use tollgate::store::redis::{Deployment, Endpoint, RedisSettings, RedisStore};
use tollgate::store::{Store as _, StoreError};

use crate::store::{MIDNIGHT, charge, connected, hit, used};
use crate::support::eventually;
use crate::support::proxy::{Passage, Proxy};
use crate::support::redis::Redis;
use crate::support::stores::complete;

/// Number of concurrent calls, more than fit into the first batch.
const CALLS: usize = 300;

struct Setup {
    redis: Redis,
    proxy: Proxy,
    store: Arc<RedisStore>,
}

/// Number of calls by answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ReplyCounts {
    counted: usize,
    unanswered: usize,
    not_counted: usize,
}

impl Setup {
    async fn start(call_timeout: Duration) -> Self {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: proxy.port() };
        let settings =
            RedisSettings { deployment: Deployment::Single(endpoint), call_timeout, ..redis.settings() };
        let store = Arc::new(connected(&settings).await);
        used(&store, hit("warm")).await.expect("a reading");
        store.settle().await;
        Self { redis, proxy, store }
    }

    /// Makes all calls, each with a counter of its own, and repairs the network. Then checks that the counters in Redis
    /// agree with the answers, and that each has a TTL.
    async fn check_calls(&self, round: usize) -> ReplyCounts {
        let mut calls = JoinSet::new();
        for call in 0..CALLS {
            let store = Arc::clone(&self.store);
            let key = format!("{round}-{call}/");
            calls.spawn(async move {
                let hit = charge(Bytes::from(key.clone()), Unit::Day, Hits::Add(1));
                (key, used(&store, hit).await)
            });
        }
        let answers = calls.join_all().await;
        self.proxy.set(Passage::Open);
        self.proxy.reset();
        eventually("it counts again", async || used(&self.store, hit("again")).await.is_ok()).await;
        self.store.settle().await;
        let mut counts = ReplyCounts::default();
        for (key, answer) in answers {
            let value = self.redis.command(["GET", &format!("{key}{}", MIDNIGHT.as_secs())]);
            let allowed: &[&str] = match &answer {
                Ok(used) => {
                    assert_eq!(*used, 1, "{key}");
                    counts.counted += 1;
                    &["1"]
                }
                Err(StoreError::Unanswered(_)) => {
                    counts.unanswered += 1;
                    &["", "0", "1"]
                }
                Err(_) => {
                    counts.not_counted += 1;
                    &["", "0"]
                }
            };
            assert!(allowed.contains(&value.as_str()), "{key}: {answer:?}, but Redis has {value:?}");
        }
        eventually("every counter has a time to live", async || {
            self.redis.times_to_live().iter().all(|(_, secs)| *secs > 0)
        })
        .await;
        assert_eq!(counts.counted + counts.unanswered + counts.not_counted, CALLS);
        counts
    }

    /// Sum of the counters of a round.
    fn counted(&self, round: usize) -> usize {
        let script = "local n = 0 for _, k in ipairs(redis.call('KEYS', ARGV[1])) do
            n = n + tonumber(redis.call('GET', k)) end return n";
        self.redis.command(["EVAL", script, "0", &format!("{round}-*")]).parse().expect("a number")
    }
}

#[tokio::test]
async fn latency_delays_calls_and_fails_none() {
    let setup = Setup::start(Duration::from_secs(10)).await;
    let slow = Duration::from_millis(30);
    setup.proxy.set(Passage::Slow { requests: slow, replies: slow });
    let counts = setup.check_calls(0).await;
    assert_eq!(counts, ReplyCounts { counted: CALLS, ..ReplyCounts::default() });
}

#[tokio::test]
async fn calls_whose_replies_are_late_fail_and_count_at_most_once() {
    let setup = Setup::start(Duration::from_millis(200)).await;
    setup.proxy.set(Passage::Slow { requests: Duration::ZERO, replies: Duration::from_secs(1) });
    let counts = setup.check_calls(0).await;
    assert_eq!(counts.counted, 0);
    assert!(counts.unanswered > 0, "{counts:?}");
}

#[tokio::test]
async fn calls_whose_replies_are_lost_fail_and_count_at_most_once() {
    let setup = Setup::start(Duration::from_millis(200)).await;
    setup.proxy.set(Passage::OneWay);
    let counts = setup.check_calls(0).await;
    assert_eq!(counts.counted, 0);
    assert!(counts.unanswered > 0, "{counts:?}");
    assert!(setup.counted(0) <= counts.unanswered);
}

/// One-way loss below which TCP still acknowledges requests. New connections work.
#[tokio::test]
async fn a_connection_that_goes_silent_is_replaced() {
    let setup = Setup::start(Duration::from_millis(50)).await;
    for silence in [Passage::OneWay, Passage::Shut] {
        let before = setup.proxy.connections();
        setup.proxy.set(silence);
        used(&setup.store, hit("lost")).await.expect_err("nothing arrives");
        setup.proxy.set(Passage::Open);
        eventually("a new connection counts", async || used(&setup.store, hit("again")).await.is_ok()).await;
        assert!(setup.proxy.connections() > before, "{silence:?}");
    }
}

#[tokio::test]
async fn lost_requests_are_never_counted() {
    let setup = Setup::start(Duration::from_millis(200)).await;
    setup.proxy.set(Passage::Shut);
    let counts = setup.check_calls(0).await;
    assert_eq!((counts.counted, setup.counted(0)), (0, 0), "{counts:?}");
}

#[tokio::test]
async fn a_connection_that_falls_silent_within_a_reply_loses_no_count() {
    let setup = Setup::start(Duration::from_millis(200)).await;
    for (round, reply_bytes) in [1, 21, 402, 903].into_iter().enumerate() {
        setup.proxy.set(Passage::Partial { reply_bytes });
        let counts = setup.check_calls(round).await;
        assert!(counts.counted < CALLS && counts.unanswered > 0, "{counts:?} after {reply_bytes} bytes");
        // A new counter needs two replies, 18 bytes together. Each caller gets its answer as soon as both have arrived.
        assert!(counts.counted >= reply_bytes / 18, "{counts:?} after {reply_bytes} bytes");
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_within_a_batch_loses_no_count() {
    let setup = Setup::start(Duration::from_secs(2)).await;
    for (round, reply_bytes) in [1, 21, 402, 903].into_iter().enumerate() {
        setup.proxy.set(Passage::Cut { reply_bytes });
        let counts = setup.check_calls(round).await;
        assert!(counts.counted < CALLS && counts.unanswered > 0, "{counts:?} after {reply_bytes} bytes");
    }
}

/// Connections that are reset again and again under load on one counter.
#[tokio::test]
async fn resets_under_load_count_no_hit_twice() {
    const RESETS: usize = 20;
    let setup = Setup::start(Duration::from_secs(2)).await;
    let mut readings = Vec::new();
    let mut unanswered = 0;
    for _ in 0..RESETS {
        let mut calls = JoinSet::new();
        for _ in 0..CALLS / 10 {
            let store = Arc::clone(&setup.store);
            calls.spawn(async move { complete(store.charge(&[hit("hot")], MIDNIGHT).await) });
        }
        time::sleep(Duration::from_micros(fastrand::u64(..2_000))).await;
        setup.proxy.reset();
        for answer in calls.join_all().await {
            match answer {
                Ok(reading) => readings.push(reading[0].used),
                Err(StoreError::Unanswered(_)) => unanswered += 1,
                Err(_) => {}
            }
        }
        eventually("it counts again", async || used(&setup.store, hit("again")).await.is_ok()).await;
    }
    let counted: u64 =
        setup.redis.command(["GET", &format!("hot{}", MIDNIGHT.as_secs())]).parse().expect("it");
    let counts = readings.len() as u64;
    readings.sort_unstable();
    readings.dedup();
    assert_eq!(readings.len() as u64, counts, "each reading was returned once");
    assert!(
        (counts..=counts + unanswered).contains(&counted),
        "{counted} of {counts} and {unanswered} unanswered"
    );
}

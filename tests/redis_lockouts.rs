//! Listing lockouts of a Redis with many keys: complete, and without taking Redis from its other callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future;
use tokio::time::{self, Instant};
use tollgate::engine::{KeyFormat, KeyWriter};
use tollgate::store::lockouts::{Found, Lockouts as _};

use crate::store::{MIDNIGHT, connected, hit, used};
use crate::support::redis::Redis;

const OTHER_KEYS: usize = 500_000;
const LISTINGS: usize = 2;

/// Microseconds that Redis has spent in `SCAN`, and how often it was called.
fn scans(redis: &Redis) -> (u64, u64) {
    let stats = redis.command(["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_scan:")).unwrap_or_default();
    let field = |name: &str| {
        let value = line.split(',').find_map(|field| field.strip_prefix(name)).unwrap_or("0");
        value.parse().expect("a number")
    };
    (field("usec="), field("calls="))
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_leave_redis_to_its_other_callers() {
    let redis = Redis::start().await;
    let fill = "for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'key' .. i, '1', 'EX', 1000) end";
    redis.command(["EVAL", fill, "0", &OTHER_KEYS.to_string()]);
    for account in 0..25 {
        let ends_us = (MIDNIGHT.as_secs() + 600) * 1_000_000;
        let account = format!("account{account:02}");
        redis.command([
            "SET",
            &format!("tgp1/4:shop,5:login,4:user,9:{account},"),
            &format!("{ends_us} 1 0 0"),
        ]);
    }

    let store = Arc::new(connected(&redis.settings()).await);
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (store, stop) = (connected(&redis.settings()).await, Arc::clone(&stop));
        tokio::spawn(async move {
            let mut counted = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                used(&store, hit("user")).await.expect("every call is answered");
                counted += 1;
                time::sleep(Duration::from_millis(1)).await;
            }
            counted
        })
    };
    let keys = KeyWriter::new(KeyFormat::Native, "");
    let begun = Instant::now();
    let found: Vec<_> = (0..LISTINGS).map(|_| Found::default()).collect();
    let searches = future::join_all(found.iter().map(|found| store.search(&keys, MIDNIGHT, found))).await;
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.expect("no panic") > 0);
    for (search, found) in searches.into_iter().zip(&found) {
        search.expect("a whole search");
        let mut accounts: Vec<_> =
            found.so_far().into_iter().map(|one| one.parts.entries[0].1.clone()).collect();
        accounts.sort();
        accounts.dedup();
        assert_eq!(accounts.len(), 25);
        assert_eq!(accounts[7], b"account07");
    }
    let (micros, calls) = scans(&redis);
    assert!(calls >= 1_900, "{calls} steps");
    assert!(
        Duration::from_micros(micros) < took / 4,
        "Redis was busy with it for {micros} µs of {took:?}, in {calls} steps"
    );
}

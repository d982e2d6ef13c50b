//! Keys and TTLs in Redis, and the number of calls.
//!
//! Numbered items are those of envoyproxy/ratelimit's behaviour that they keep.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time;
use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::lockout::{Block, LockoutSchedule};
use tollgate::engine::{
    Algorithm, ChargeMode, Entry, Hits, KeyDomain, KeyFormat, KeyWriter, Limit, Timestamp, Unit,
};
use tollgate::store::redis::{RedisSettings, RedisStore};
use tollgate::store::{Charge, Lockout, Store, StoreError};

use crate::store::{MIDNIGHT, charge, connected, hit, used};
use crate::support::eventually;
use crate::support::redis::Redis;
use crate::support::stores::complete;

/// True if a charge counts in the Redis key `name`, which has a value already.
async fn counts_in(name: &str, charge: Charge, now_secs: u64, (server, store): &(Redis, RedisStore)) {
    server.command(["FLUSHALL"]);
    server.command(["SET", name, "41"]);
    let readings = complete(store.charge(&[charge], Timestamp::from_secs(now_secs)).await).expect("readings");
    assert_eq!((readings[0].used, server.command(["KEYS", "*"]).as_str()), (42, name));
}

async fn redis() -> (Redis, RedisStore) {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    (server, store)
}

#[tokio::test]
async fn keys_are_those_of_envoyproxy_ratelimit() {
    let redis = redis().await;
    let user: &[_] = &[("key", "value")];
    let nested: &[_] = &[("key", "value"), ("subkey", "subvalue")];
    for (prefix, entries, unit, now_secs, name) in [
        ("", user, Unit::Second, 1234, "domain_key_value_1234"),
        ("", user, Unit::Minute, 1234, "domain_key_value_1200"),
        ("", nested, Unit::Minute, 1234, "domain_key_value_subkey_subvalue_1200"),
        ("", user, Unit::Hour, 1_000_000, "domain_key_value_997200"),
        ("", user, Unit::Day, 1_000_000, "domain_key_value_950400"),
        ("prefix:", user, Unit::Second, 1234, "prefix:domain_key_value_1234"),
        ("prefix:", user, Unit::Year, 1234, "prefix:domain_key_value_0"),
    ] {
        let entries: Vec<Entry<'_>> = entries
            .iter()
            .map(|(key, value)| Entry { key: key.as_bytes(), value: value.as_bytes() })
            .collect();
        let limit = Limit::per(10, unit);
        let domain = KeyDomain { name: b"domain", hash_tag: None, only_limit: true };
        let key = KeyWriter::new(KeyFormat::Envoyproxy, prefix).key(domain, &entries, None, limit);
        counts_in(name, Charge { key, limit, ..hit("") }, now_secs, &redis).await;
    }
}

#[tokio::test]
async fn a_shared_pattern_is_kept_as_it_is_written() {
    let redis = redis().await;
    for key in [
        "domain_files_files/*_",
        "domain_parent_value1_files_nested/*_",
        "domain_files_top/*_files_nested/*_",
    ] {
        let name = format!("{key}1234");
        counts_in(&name, charge(key, Unit::Second, Hits::Add(1)), 1234, &redis).await;
    }
}

#[tokio::test]
async fn a_counter_lives_for_its_unit_and_the_jitter() {
    let server = Redis::start().await;
    for (unit, jitter_max_secs, shortest, longest) in [
        (Unit::Minute, 0, 60, 60),
        (Unit::Hour, 0, 3_600, 3_600),
        (Unit::Day, 0, 86_400, 86_400),
        (Unit::Year, 0, 31_536_000, 31_536_000),
        (Unit::Second, 3_600, 1, 3_600),
        (Unit::Hour, 300, 3_600, 3_899),
        (Unit::Hour, 1, 3_600, 3_600),
    ] {
        server.command(["FLUSHALL"]);
        let settings = RedisSettings { expiration_jitter_max_secs: jitter_max_secs, ..server.settings() };
        let store = connected(&settings).await;
        let charges: Vec<Charge> = (0..20).map(|key| charge(format!("{key}/"), unit, Hits::Add(1))).collect();
        complete(store.charge(&charges, MIDNIGHT).await).expect("readings");
        store.settle().await;
        // Some of the shortest may be gone, and time has passed for the rest.
        let lives = server.times_to_live();
        assert!(lives.len() >= 15, "{lives:?}");
        for (key, secs) in lives {
            assert!((shortest - 15..=longest).contains(&secs), "{unit:?}: {key} lives for {secs} s");
        }
    }
}

#[tokio::test]
async fn a_counter_is_created_with_its_ttl_once() {
    let (server, store) = redis().await;
    for hits in 1..=100 {
        assert_eq!(used(&store, hit("a")).await.expect("a reading"), hits);
    }
    let executed = ["incrby", "set", "expire"].map(|command| server.executed(command));
    assert_eq!(executed, [100, 1, 0]);

    let refund = charge("a", Unit::Minute, Hits::Refund(200));
    server.command(["EXPIRE", &server.command(["KEYS", "a*"]), "1000"]);
    assert_eq!(used(&store, refund).await.expect("a reading"), 0);
    store.settle().await;
    let lives = server.times_to_live();
    assert!(matches!(&lives[..], [(_, 900..=1_000)]), "a refund keeps it: {lives:?}");
}

/// A counter on which an operator ran PERSIST: the general script sets its TTL again, and those of sliding windows
/// and token buckets do so when they charge it. A fixed window is left as it is until it is charged by the general
/// script.
#[tokio::test]
async fn a_script_repairs_a_ttl_that_is_missing() {
    let (server, store) = redis().await;
    for algorithm in [
        Algorithm::FixedWindow,
        Algorithm::SlidingWindow,
        Algorithm::SlidingLog,
        Algorithm::TokenBucket { burst: 10 },
    ] {
        server.command(["FLUSHALL"]);
        let limit = Limit { algorithm, ..Limit::per(10, Unit::Day) };
        let with = |hits| Charge { limit, mode: ChargeMode::IfAllowed, ..charge("a", Unit::Day, hits) };
        for (hits, outcome) in [
            (Hits::Add(4), ChargeOutcome::Charged),
            (Hits::Add(4), ChargeOutcome::Charged),
            (Hits::Add(4), ChargeOutcome::Denied),
            (Hits::Refund(1), ChargeOutcome::Charged),
        ] {
            let readings = complete(store.charge(&[with(hits)], MIDNIGHT).await).expect("a reading");
            assert_eq!(readings[0].outcome, outcome, "{algorithm:?}: {hits:?}");
            let lives = server.times_to_live();
            let is_repaired = match algorithm {
                Algorithm::FixedWindow => matches!(hits, Hits::Refund(_)),
                Algorithm::SlidingLog => true,
                Algorithm::SlidingWindow | Algorithm::TokenBucket { .. } => outcome == ChargeOutcome::Charged,
                Algorithm::Concurrency => continue,
            };
            if is_repaired {
                assert!(matches!(&lives[..], [(_, 1..)]), "{algorithm:?}: {hits:?}: {lives:?}");
            }
            server.command(["PERSIST", &lives[0].0]);
        }
    }
}

#[tokio::test]
async fn a_script_repairs_the_ttl_of_a_lockout_but_not_of_a_permanent_one() {
    let (server, store) = redis().await;
    for (step, expires) in [(Block::Secs(60), true), (Block::Permanent, false)] {
        server.command(["FLUSHALL"]);
        let schedule = LockoutSchedule {
            after: 1,
            within_secs: 600,
            steps: [step].into_iter().collect(),
            forget_secs: 3_600,
            extend: false,
        };
        let lockout = Some(Lockout { key: "lockout".into(), schedule: Arc::new(schedule) });
        let failure = Charge { lockout, ..charge("a", Unit::Day, Hits::Add(20)) };
        for _ in 0..3 {
            complete(store.charge(std::slice::from_ref(&failure), MIDNIGHT).await).expect("a reading");
            let ttl: i64 = server.command(["TTL", "lockout"]).parse().expect("a number");
            assert_eq!(ttl > 0, expires, "{ttl} s");
            server.command(["PERSIST", "lockout"]);
        }
    }
}

#[tokio::test]
async fn no_counter_lives_for_ever() {
    let server = Redis::start().await;
    let settings = RedisSettings { expiration_jitter_max_secs: 30, ..server.settings() };
    let store = Arc::new(connected(&settings).await);
    let mut callers = JoinSet::new();
    for seed in 0..50 {
        let store = store.clone();
        callers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            for _ in 0..40 {
                let charges: Vec<Charge> = (0..random.usize(1..6))
                    .map(|_| {
                        let hits = match random.u8(0..4) {
                            0 => Hits::Refund(random.u32(0..5)),
                            _ => Hits::Add(random.u32(0..3)),
                        };
                        let unit = [Unit::Minute, Unit::Hour, Unit::Day][random.usize(0..3)];
                        charge(format!("{}/{unit:?}/", random.u8(0..200)), unit, hits)
                    })
                    .collect();
                let now = Timestamp::from_secs(MIDNIGHT.as_secs() + random.u64(0..200));
                complete(store.charge(&charges, now).await).expect("readings");
            }
        });
    }
    callers.join_all().await;
    store.settle().await;
    let lives = server.times_to_live();
    assert!(lives.len() > 100, "{} keys", lives.len());
    for (key, secs) in lives {
        let unit = if key.contains("Minute") {
            60
        } else if key.contains("Hour") {
            3_600
        } else {
            86_400
        };
        assert!((unit - 20..=unit + 30).contains(&secs), "{key} lives for {secs} s");
    }
}

#[tokio::test]
async fn nothing_is_charged_for_callers_that_have_gone_and_sent_charges_get_a_ttl() {
    let (server, store) = redis().await;
    server.pause();
    // The first is on its way when its caller leaves, and the others wait for it to come back.
    for key in 0..20 {
        let charges = [charge(format!("{key}/"), Unit::Minute, Hits::Add(1))];
        let answer = time::timeout(Duration::from_millis(20), store.charge(&charges, MIDNIGHT)).await;
        assert!(answer.is_err(), "{answer:?} of a server that hangs");
    }
    server.resume();
    used(&store, hit("last")).await.expect("a reading");
    store.settle().await;
    let lives = server.times_to_live();
    assert_eq!(lives.len(), 2, "what was sent is counted: {lives:?}");
    assert!(lives.iter().all(|(_, secs)| (40..=60).contains(secs)), "{lives:?}");
}

#[tokio::test]
async fn a_lost_reply_leaves_no_counter_that_lives_for_ever() {
    let server = Redis::start().await;
    let settings = RedisSettings { call_timeout: Duration::from_millis(100), ..server.settings() };
    let store = connected(&settings).await;
    let charges: Vec<Charge> =
        (0..50).map(|key| charge(format!("{key}/"), Unit::Minute, Hits::Add(1))).collect();
    server.pause();
    let readings = complete(store.charge(&charges, MIDNIGHT).await);
    assert!(matches!(readings, Err(StoreError::Unanswered(_))), "{readings:?}");
    server.resume();
    eventually("all have a time to live", async || {
        let lives = server.times_to_live();
        lives.len() == 50 && lives.iter().all(|(_, secs)| (1..=60).contains(secs))
    })
    .await;
}

#[tokio::test]
async fn a_user_without_expire_leaves_no_counter_without_a_ttl() {
    let (server, store) = redis().await;
    server.command(["ACL", "SETUSER", "default", "-expire"]);
    for key in ["a", "b"] {
        assert_eq!(used(&store, charge(key, Unit::Minute, Hits::Add(1))).await.expect("a reading"), 1);
    }
    assert!(matches!(server.times_to_live()[..], [(_, 1..=60), (_, 1..=60)]));
}

#[tokio::test]
async fn a_known_counter_that_redis_lost_gets_its_ttl_as_soon_as_redis_allows_it() {
    let (server, store) = redis().await;
    assert_eq!(used(&store, hit("a")).await.expect("a reading"), 1);
    server.command(["FLUSHALL"]);
    assert_eq!(used(&store, hit("a")).await.expect("a reading"), 1, "it was evicted");
    store.settle().await;
    assert!(matches!(server.times_to_live()[..], [(_, 1..=60)]));

    server.command(["ACL", "SETUSER", "default", "-expire"]);
    server.command(["FLUSHALL"]);
    assert_eq!(used(&store, hit("a")).await.expect("a reading"), 1);
    store.settle().await;
    assert!(matches!(server.times_to_live()[..], [(_, -1)]));
    server.command(["ACL", "SETUSER", "default", "+expire"]);
    eventually("it is set", async || matches!(server.times_to_live()[..], [(_, 1..=60)])).await;
}

#[tokio::test]
async fn charges_of_one_request_share_a_round_trip() {
    let (server, store) = redis().await;
    let charges: Vec<Charge> =
        (0..64).map(|key| charge(format!("{key}/"), Unit::Minute, Hits::Add(1))).collect();
    // Redis counts how often it read from a socket.
    let reads = || {
        let stats = server.command(["INFO", "stats"]);
        let reads = stats.lines().find_map(|line| line.trim_end().strip_prefix("total_reads_processed:"));
        reads.expect("the number").parse::<u64>().expect("a number")
    };
    let before = reads();
    let readings = complete(store.charge(&charges, MIDNIGHT).await);
    assert_eq!(readings.expect("readings").len(), 64);
    // One for the charges, one or two for the command that asks.
    let between = reads() - before;
    assert!(between <= 4, "{between} reads");
}

#[tokio::test]
async fn a_server_that_does_not_know_the_script_gets_it() {
    let (server, store) = redis().await;
    let evals = server.executed("eval");
    let refund = || charge("a", Unit::Minute, Hits::Refund(1));
    used(&store, charge("a", Unit::Minute, Hits::Add(10))).await.expect("a reading");
    for used_then in [9, 8] {
        server.command(["SCRIPT", "FLUSH"]);
        assert_eq!(used(&store, refund()).await.expect("a reading"), used_then);
    }
    assert_eq!(used(&store, refund()).await.expect("a reading"), 7);
    let texts = server.executed("eval") - evals;
    assert_eq!((server.executed("evalsha"), texts), (1, 2));
}

#[tokio::test]
async fn foreign_values_in_a_counter_are_errors() {
    let (server, store) = redis().await;
    let key = format!("a/{}", MIDNIGHT.as_secs());
    let (add, look, refund) = (Hits::Add(1), Hits::Add(0), Hits::Refund(1));
    for (written, hits, outcome) in [
        (vec!["SET", &key, "-100"], add, Ok(0)),
        (vec!["SET", &key, "-100"], look, Ok(0)),
        (vec!["SET", &key, "-100"], refund, Ok(0)),
        (vec!["SET", &key, "9223372036854775807"], look, Ok(i64::MAX as u64)),
        (vec!["SET", &key, "9223372036854775807"], add, Err("overflow")),
        (vec!["SET", &key, "-9223372036854775808"], refund, Ok(0)),
        (vec!["SET", &key, "many"], add, Err("not an integer")),
        (vec!["SET", &key, "many"], refund, Err("did not write")),
        (vec!["SET", &key, "many"], look, Err("no whole number")),
        (vec!["RPUSH", &key, "1"], add, Err("WRONGTYPE")),
        (vec!["RPUSH", &key, "1"], look, Err("WRONGTYPE")),
        (vec!["RPUSH", &key, "1"], refund, Err("did not write")),
    ] {
        server.command(["FLUSHALL"]);
        server.command(&written);
        let used = used(&store, charge("a/", Unit::Minute, hits)).await;
        match (&used, outcome) {
            (Ok(used), Ok(expected)) => assert_eq!(*used, expected, "{hits:?} after {written:?}"),
            (Err(StoreError::Rejected(cause)), Err(expected)) if cause.contains(expected) => {}
            _ => panic!("{used:?} for {hits:?} after {written:?}"),
        }
    }
}

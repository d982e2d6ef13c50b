//! Clocks that are set, rules that change, and costs of any size: memory and Redis read the same, and no client is
//! let in too early or kept out for longer than the rule in force can.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection, option, prop_assert_eq, sample};
use tokio::runtime;
use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::lockout::{Block, LockoutSchedule};
use tollgate::engine::{Algorithm, ChargeMode, Hits, Limit, Timestamp, Unit, Window};
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::{Charge, Lockout, Reading, Store};

use crate::store::{MIDNIGHT, charge, connected, connected_by_callers_clock};
use crate::support::redis::Redis;
use crate::support::stores::{self, complete};

/// Those that weigh time. A fixed window is named after the time at which it begins, in Redis.
const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::SlidingWindow, Algorithm::SlidingLog, Algorithm::TokenBucket { burst: 0 }];

/// Upper bound on the time of one script, in microseconds.
const MAX_SCRIPT_MICROS: u64 = 5_000;
/// Calls of which the fastest counts: a busy machine takes the core away from Redis during some.
const ATTEMPTS: usize = 10;
const APART_ATTEMPTS: usize = 3;

/// A limit of this algorithm, which lets as many pass at once.
fn limit(algorithm: Algorithm, requests_per_unit: u32, window: Window) -> Limit {
    let algorithm = match algorithm {
        Algorithm::TokenBucket { .. } => Algorithm::TokenBucket { burst: requests_per_unit },
        algorithm => algorithm,
    };
    Limit { requests_per_unit, window, algorithm }
}

fn hit(key: &str, limit: Limit, hits: u32) -> Charge {
    let charge = charge(key.to_owned(), Unit::Day, Hits::Add(hits));
    Charge { limit, mode: ChargeMode::IfAllowed, ..charge }
}

async fn read(store: &dyn Store, charge: Charge, now: Timestamp) -> Reading {
    complete(store.charge(&[charge], now).await).expect("a reading")[0]
}

#[tokio::test]
async fn a_clock_that_is_set_neither_admits_too_early_nor_denies_too_long() {
    const DAY: i64 = 86_400;
    let begin = i64::try_from(MIDNIGHT.as_secs()).expect("some time") + 7;
    for (name, bed) in stores::all_by_callers_clock().await {
        for algorithm in ALGORITHMS {
            for step in [DAY, -3_600, 400 * DAY, -400 * DAY, 100 * 365 * DAY, -begin] {
                let limit = limit(algorithm, 5, Unit::Minute.window());
                let case = format!("{name}: {} and a step of {step} s", algorithm.name());
                let hit = async |at: i64| {
                    let now = Timestamp::from_secs(u64::try_from(at).expect("after the epoch"));
                    read(&*bed.store, hit(&case, limit, 1), now).await
                };
                // The later of the two is the wrong one.
                let (wrong, right) = (begin.max(begin + step), begin.min(begin + step));
                for _ in 0..5 {
                    assert_eq!(hit(wrong).await.outcome, ChargeOutcome::Charged, "{case}");
                }
                let denied = hit(right).await;
                assert_eq!((denied.outcome, denied.used), (ChargeOutcome::Denied, 5), "{case}");
                let wait = i64::try_from(denied.reset.as_secs()).expect("short") + 1;
                assert!((1..=121).contains(&wait), "{case}: {wait} s");
                assert_eq!(hit(right + wait / 2).await.outcome, ChargeOutcome::Denied, "{case}");
                assert_eq!(hit(right + wait).await.outcome, ChargeOutcome::Charged, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_block_ends_no_later_than_the_longest_of_the_schedule_in_force() {
    let schedule = |blocks: &[Block]| {
        Arc::new(LockoutSchedule {
            after: 1,
            within_secs: 60,
            steps: blocks.into(),
            forget_secs: 60,
            extend: false,
        })
    };
    let (short, long) = (schedule(&[Block::Secs(60)]), schedule(&[Block::Secs(86_400)]));
    let for_good = schedule(&[Block::Permanent]);
    let over = limit(Algorithm::SlidingWindow, 0, Unit::Second.window());
    for (name, bed) in stores::all_by_callers_clock().await {
        for (case, before, ahead) in
            [("clock", &short, 86_400), ("long", &long, 0), ("permanent", &for_good, 0)]
        {
            let key = format!("{name}/{case}");
            let ask = async |schedule: &Arc<LockoutSchedule>, secs: u64| {
                let lockout =
                    Lockout { key: format!("{key}/lockout").into(), schedule: Arc::clone(schedule) };
                let charge = Charge { lockout: Some(lockout), ..hit(&key, over, 1) };
                read(&*bed.store, charge, MIDNIGHT.after(Duration::from_secs(secs))).await.reset.as_secs()
            };
            assert!(ask(before, ahead).await >= 60);
            let waits = [ask(&short, 10).await, ask(&short, 40).await];
            assert_eq!(waits, [60, 30], "{key}: and asking again does not put it off");
        }
    }
}

#[tokio::test]
async fn a_limit_that_is_changed_and_changed_back_keeps_its_counts() {
    let day = Unit::Day.window();
    for (name, bed) in stores::all_by_callers_clock().await {
        for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket { burst: 0 }] {
            let key = format!("{name}/{}", algorithm.name());
            let used = async |most, hits| {
                read(&*bed.store, hit(&key, limit(algorithm, most, day), hits), MIDNIGHT).await.used
            };
            // The larger limit is reckoned in longer ticks.
            assert_eq!(used(20_000, 19_990).await, 19_990, "{key}");
            assert_eq!([used(30_000, 0).await, used(30_000, 5).await], [19_990, 19_995], "{key}");
            assert_eq!(used(20_000, 0).await, 19_995, "{key}");
        }
    }
}

#[tokio::test]
async fn a_bucket_that_is_made_smaller_is_waited_for_no_longer_than_the_smaller_one_can_take() {
    for (name, bed) in stores::all_by_callers_clock().await {
        let read = async |most, hits| {
            let limit = limit(Algorithm::TokenBucket { burst: 0 }, most, Unit::Minute.window());
            read(&*bed.store, hit(name, limit, hits), MIDNIGHT).await
        };
        assert_eq!(read(60_000, 60_000).await.outcome, ChargeOutcome::Charged);
        let denied = read(6, 1).await;
        assert_eq!(denied.outcome, ChargeOutcome::Denied, "{name}");
        assert!(denied.reset <= Duration::from_secs(120), "{name}: {:?}", denied.reset);
    }
}

#[tokio::test]
async fn a_cost_of_any_size_is_over_its_limit_and_overflows_nothing() {
    let window = Unit::Day.window();
    for (name, bed) in stores::all_by_callers_clock().await {
        for algorithm in [Algorithm::FixedWindow].into_iter().chain(ALGORITHMS) {
            let mosts = [1, 1_000, 1_000_000_000];
            // A log is no larger.
            let mosts = if algorithm == Algorithm::SlidingLog { &mosts[..2] } else { &mosts };
            for most in mosts.iter().copied() {
                for mode in ChargeMode::ALL {
                    let case = format!("{name}/{}/{most}/{}", algorithm.name(), mode.name());
                    let ask = async |hits| {
                        let hit = hit(&case, limit(algorithm, most, window), hits);
                        read(&*bed.store, Charge { mode, ..hit }, MIDNIGHT).await
                    };
                    let first = ask(u32::MAX).await;
                    let passes = mode == ChargeMode::Overdraft;
                    assert_eq!(
                        first.outcome == ChargeOutcome::Charged,
                        mode != ChargeMode::IfAllowed,
                        "{case}"
                    );
                    let is_counted = mode != ChargeMode::IfAllowed;
                    for _ in 0..3 {
                        ask(u32::MAX).await;
                    }
                    let then = ask(1).await;
                    let is_over = then.outcome == ChargeOutcome::Denied || then.used > u64::from(most);
                    assert_eq!(is_over, is_counted, "{case}: {then:?}, {passes}");
                    if !passes {
                        assert!(first.reset >= Duration::from_secs(1), "{case}: {first:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn many_hits_at_once_take_redis_no_time_and_little_room() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    let log = limit(Algorithm::SlidingLog, 1_000, Unit::Hour.window());
    let of = |hits| -> Vec<Charge> {
        (0..64).map(|key| Charge { mode: ChargeMode::Always, ..hit(&format!("{key}/"), log, hits) }).collect()
    };
    // From then on Redis knows the script.
    complete(store.charge(&of(1), MIDNIGHT).await).expect("readings");
    let mut fastest = u64::MAX;
    for hits in [1_000, 2_001].into_iter().cycle().take(2 * ATTEMPTS) {
        let (micros, calls, commands) = script_work(&server);
        complete(store.charge(&of(hits), MIDNIGHT).await).expect("readings");
        let (micros_after, calls_after, commands_after) = script_work(&server);
        fastest = fastest.min(micros_after - micros);
        assert_eq!(calls_after - calls, 1, "one call has them all");
        // The work does not grow with the hits: a script that added each for itself ran 128,000 commands.
        assert!(commands_after - commands <= 64 * 12, "{} commands", commands_after - commands);
    }
    assert!(fastest < MAX_SCRIPT_MICROS, "{fastest} µs");
    for key in 0..64 {
        let bytes = server.command(["MEMORY", "USAGE", &format!("{key}/")]);
        assert!(bytes.parse::<u64>().expect("a number") < 300, "{bytes}");
    }
    // Logs in which every hit has a time of its own.
    let mut fastest = [u64::MAX; 4];
    for attempt in 0..APART_ATTEMPTS {
        let key = format!("apart-{attempt}/");
        for _ in 0..1_000 {
            let one = Charge { mode: ChargeMode::Always, ..hit(&key, log, 1) };
            complete(store.charge(&[one], MIDNIGHT).await).expect("a reading");
        }
        let changes = [Hits::Add(1), Hits::Refund(1), Hits::Refund(900), Hits::Add(0)];
        for (hits, fastest) in changes.into_iter().zip(&mut fastest) {
            let (micros, ..) = script_work(&server);
            let charge = Charge { hits, mode: ChargeMode::Always, ..hit(&key, log, 1) };
            complete(store.charge(&[charge], MIDNIGHT).await).expect("a reading");
            *fastest = (*fastest).min(script_work(&server).0 - micros);
        }
        let used = complete(store.charge(&[hit(&key, log, 0)], MIDNIGHT).await).expect("a reading")[0].used;
        assert_eq!(used, 100);
    }
    assert!(fastest.iter().all(|micros| *micros < MAX_SCRIPT_MICROS), "{fastest:?} µs");
}

/// Microseconds that Redis has spent in scripts, their calls, and the commands of all clients and scripts.
fn script_work(server: &Redis) -> (u64, u64, u64) {
    (server.micros_in("evalsha"), server.executed("evalsha"), server.commands())
}

/// Schedules that differ in everything a rule may change.
fn some_schedules() -> [Arc<LockoutSchedule>; 4] {
    [
        (2, vec![Block::Secs(30), Block::Secs(60)], false),
        (1, vec![Block::Secs(10)], true),
        (1, vec![Block::Secs(3_600), Block::Permanent], false),
        (3, vec![Block::Secs(5)], false),
    ]
    .map(|(after, steps, extend)| {
        Arc::new(LockoutSchedule {
            after,
            within_secs: 100,
            steps: steps.into_iter().collect(),
            forget_secs: 120,
            extend,
        })
    })
}

#[test]
fn memory_and_redis_read_the_same_whatever_clocks_and_rules_do() {
    let step = prop_oneof![
        12 => 0..20_000_000_i64,
        2 => -900_000..0_i64,
        2 => -20_000_000..-1_000_000_i64,
        1 => sample::select(&[86_400_000_000_i64, -3_600_000_000, 31_536_000_000_000, -31_536_000_000_000][..]),
    ];
    let hits = prop_oneof![
        6 => (1..9_u32).prop_map(Hits::Add),
        1 => Just(Hits::Add(u32::MAX)),
        2 => Just(Hits::Add(0)),
        3 => (0..12_u32).prop_map(Hits::Refund),
    ];
    let schedules = some_schedules();
    let of = (
        0..2_u8,
        sample::select(&ALGORITHMS[..]),
        sample::select(&[3_u32, 10, 700, 20_000, 3_000_000][..]),
        sample::select(&[Unit::Minute, Unit::Day][..]),
        hits,
        sample::select(&ChargeMode::ALL[..]),
        option::weighted(0.3, 0..schedules.len()),
    );
    let requests = collection::vec((step, collection::vec(of, 1..4)), 1..40);

    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_server, redis) = runtime.block_on(async {
        let server = Redis::start().await;
        let redis = connected_by_callers_clock(&server.settings()).await;
        (server, redis)
    });
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000_000));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(800) });
    let outcome = runner.run(&requests, |requests| {
        let case = fastrand::u64(..);
        let mut now_us = i64::try_from(MIDNIGHT.as_micros()).expect("some time");
        for (micros, charges) in requests {
            now_us += micros;
            let now = Timestamp::from_micros(u64::try_from(now_us).expect("after the epoch"));
            let charges: Vec<Charge> = charges
                .into_iter()
                .map(|(key, algorithm, most, unit, hits, mode, lockout)| {
                    // One limit of a counter in one request: several are a rule that changes within it.
                    let most = if algorithm == Algorithm::SlidingLog { most.min(1_000) } else { most };
                    let name = format!("{case}/{key}/{}/{unit:?}", algorithm.name());
                    let lockout = lockout.map(|index: usize| Lockout {
                        key: format!("{case}/lockout {key}").into(),
                        schedule: Arc::clone(&schedules[index]),
                    });
                    Charge { hits, mode, lockout, ..hit(&name, limit(algorithm, most, unit.window()), 1) }
                })
                .collect();
            let mut seen = std::collections::HashSet::new();
            let is_first = |charge: &Charge| {
                let lockout = charge.lockout.as_ref().map(|lockout| lockout.key.clone());
                seen.insert(charge.key.clone()) && lockout.is_none_or(|key| seen.insert(key))
            };
            let charges: Vec<Charge> = charges.into_iter().filter(is_first).collect();
            let in_memory = complete(runtime.block_on(memory.charge(&charges, now))).expect("readings");
            let in_redis = complete(runtime.block_on(redis.charge(&charges, now))).expect("readings");
            prop_assert_eq!(in_memory, in_redis, "{:?} at {}", charges, now_us);
        }
        Ok(())
    });
    outcome.expect("equal readings");
}

//! The scripts of one shape: the same readings as the engine's, with many requests in one call; and their errors.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection, prop_assert_eq, sample};
use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::{Algorithm, ChargeMode, Enforcement, Hits, Limit, Unit};
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::{Charge, Store, StoreError};

use crate::store::{MIDNIGHT, charge, connected, connected_by_callers_clock};
use crate::support::case_clock::CaseClock;
use crate::support::redis::Redis;
use crate::support::stores::complete;

fn if_allowed(key: String, algorithm: Algorithm, hits: u32) -> Charge {
    let charge = charge(key, Unit::Minute, Hits::Add(hits));
    let limit = Limit { algorithm, ..charge.limit };
    Charge { limit, mode: ChargeMode::IfAllowed, ..charge }
}

/// A request of one shape, or one that only the general script carries out, on few counters: often the same ones.
fn some_request() -> impl Strategy<Value = Vec<Charge>> {
    let hits = || prop_oneof![4 => 1..4_u32, 1 => Just(0), 1 => 9..12_u32];
    let windows = sample::subsequence(vec!["a", "b", "c", "d"], 1..4);
    let group = (windows, hits()).prop_map(|(keys, hits)| {
        let one = |key| if_allowed(format!("window {key}/"), Algorithm::FixedWindow, hits);
        keys.into_iter().map(one).collect::<Vec<_>>()
    });
    let single = |algorithm: Algorithm| {
        (0..2_u8, hits()).prop_map(move |(key, hits)| {
            vec![if_allowed(format!("{}{key}/", algorithm.name()), algorithm, hits)]
        })
    };
    let bucket = Algorithm::TokenBucket { burst: 7 };
    let general = (group.clone(), 0..4_u8, 1..4_u32).prop_map(move |(mut charges, kind, hits)| {
        match kind {
            0 => charges[0].mode = ChargeMode::Always,
            1 => charges[0].hits = Hits::Refund(hits),
            2 => charges[0].enforcement = Enforcement::Shadow,
            _ => charges.push(if_allowed(format!("{}0/", bucket.name()), bucket, hits)),
        }
        charges
    });
    prop_oneof![3 => group, 2 => single(Algorithm::SlidingWindow), 2 => single(bucket), 2 => general]
}

#[test]
fn scripts_of_one_shape_read_the_same_as_the_engine_for_many_requests_at_once() {
    let rounds = collection::vec((0..40_000_000_u64, collection::vec(some_request(), 1..24)), 1..8);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (server, redis) = runtime.block_on(async {
        let server = Redis::start().await;
        let redis = connected_by_callers_clock(&server.settings()).await;
        (server, redis)
    });
    // A script that Redis does not know is sent again, behind the others of its batch.
    let known = [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::TokenBucket { burst: 7 }];
    for mode in [ChargeMode::IfAllowed, ChargeMode::Always] {
        for algorithm in known {
            let charge = Charge { mode, ..if_allowed(format!("known {}/", algorithm.name()), algorithm, 1) };
            complete(runtime.block_on(redis.charge(&[charge], MIDNIGHT))).expect("readings");
        }
    }
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000_000));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(300) });
    let decisions = AtomicU64::new(0);
    let outcome = runner.run(&rounds, |rounds| {
        let case = fastrand::u64(..);
        let mut clock = CaseClock::starting_at(MIDNIGHT);
        for (micros, mut requests) in rounds {
            let now = clock.advance(micros);
            for charge in requests.iter_mut().flatten() {
                charge.key = [format!("{case}/").as_bytes(), &charge.key].concat().into();
            }
            // The first is sent alone; the others wait for it, and are one batch in this order.
            let calls = join_all(requests.iter().map(|charges| redis.charge(charges, now)));
            let in_redis = runtime.block_on(calls);
            for (charges, in_redis) in requests.iter().zip(in_redis) {
                let in_memory = complete(runtime.block_on(memory.charge(charges, now))).expect("readings");
                decisions.fetch_add(in_memory.len() as u64, Ordering::Relaxed);
                prop_assert_eq!(in_memory, complete(in_redis).expect("readings"));
            }
        }
        Ok(())
    });
    outcome.expect("equal readings");
    let calls = server.executed("evalsha");
    assert!(calls > 0 && decisions.into_inner() > 2 * calls, "several requests share a call");
}

#[tokio::test]
async fn a_key_of_another_type_or_value_fails_only_its_own_requests() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::TokenBucket { burst: 10 }]
    {
        for spoil in [&["SET", "KEY", "many"][..], &["RPUSH", "KEY", "1"]] {
            server.command(["FLUSHALL"]);
            let name = |key: &str| match algorithm {
                Algorithm::FixedWindow => format!("{key}/{}", MIDNIGHT.as_secs()),
                _ => format!("{key}/"),
            };
            let bad = name("bad");
            server.command(spoil.iter().map(|word| if *word == "KEY" { &*bad } else { word }));
            let mut requests: Vec<_> = ["bad", "good", "bad", "good"]
                .map(|key| vec![if_allowed(format!("{key}/"), algorithm, 1)])
                .into_iter()
                .collect();
            if algorithm == Algorithm::FixedWindow {
                requests.insert(
                    2,
                    ["beside/", "bad/"]
                        .map(|key| if_allowed(key.to_owned(), algorithm, 1))
                        .into_iter()
                        .collect(),
                );
            }
            let readings = join_all(requests.iter().map(|charges| store.charge(charges, MIDNIGHT))).await;
            let mut good = 0;
            for (charges, readings) in requests.iter().zip(readings) {
                if charges.iter().any(|charge| charge.key.starts_with(b"bad")) {
                    let is_rejected =
                        |reading: &Result<_, _>| matches!(reading, Err(StoreError::Rejected(_)));
                    assert!(readings.iter().all(is_rejected), "{algorithm:?} {spoil:?}: {readings:?}");
                } else {
                    good += 1;
                    let readings = complete(readings).expect("a reading");
                    assert_eq!(
                        (readings[0].outcome, readings[0].used),
                        (ChargeOutcome::Charged, good),
                        "{algorithm:?} {spoil:?}"
                    );
                }
            }
            assert_eq!(good, 2);
            let kind = if spoil[0] == "SET" { "string" } else { "list" };
            assert_eq!(server.command(["TYPE", &bad]), kind, "{algorithm:?}: it is left as it is");
            let beside = server.command(["GET", &name("beside")]);
            assert_eq!(beside, "", "{algorithm:?} {spoil:?}: nothing is counted beside it");
        }
    }
}

/// Denied hits are added and taken back within one call of the script: nothing of them is left.
#[tokio::test]
async fn a_denied_request_creates_no_counter_and_every_new_one_has_a_ttl() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    let group =
        |keys: [&str; 2], hits| keys.map(|key| if_allowed(format!("{key}/"), Algorithm::FixedWindow, hits));
    let full = group(["full", "other"], 10);
    complete(store.charge(&full, MIDNIGHT).await).expect("readings");
    // In one call: the second passes though its neighbours do not.
    let requests = [group(["full", "new"], 1), group(["fresh", "fresher"], 2), group(["full", "newer"], 3)];
    let readings = join_all(requests.iter().map(|charges| store.charge(charges, MIDNIGHT))).await;
    let outcomes = readings.into_iter().map(|readings| {
        let readings = complete(readings).expect("readings");
        [0, 1].map(|index| (readings[index].outcome, readings[index].used))
    });
    let (denied, passed) = (ChargeOutcome::Denied, ChargeOutcome::Charged);
    let withheld = (ChargeOutcome::Withheld, 0);
    assert_eq!(
        outcomes.collect::<Vec<_>>(),
        [[(denied, 10), withheld], [(passed, 2), (passed, 2)], [(denied, 10), withheld]]
    );
    let mut lives = server.times_to_live();
    lives.sort();
    let names: Vec<&str> = lives.iter().map(|(key, _)| key.split('/').next().unwrap_or_default()).collect();
    assert_eq!(names, ["fresh", "fresher", "full", "other"]);
    assert!(lives.iter().all(|(_, secs)| *secs > 0), "{lives:?}");
}

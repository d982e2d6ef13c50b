//! Charges in Redis, beside other replicas and with clocks that differ.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use tollgate::engine::algorithm::group::ChargeOutcome;
use tollgate::engine::request::MAX_DESCRIPTORS;
use tollgate::engine::{Algorithm, ChargeMode, Hits, Limit, Unit, Window};
use tollgate::store::redis::Denials;
use tollgate::store::{Charge, Reading, Store, StoreError};

use crate::store::{MIDNIGHT, charge, connected, connected_by_callers_clock};
use crate::support::redis::Redis;
use crate::support::stores::complete;

#[tokio::test]
async fn a_foreign_value_fails_only_its_own_request() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    let limit = |key: &'static str| {
        let charge = charge(key, Unit::Minute, Hits::Add(1));
        let algorithm = Algorithm::SlidingWindow;
        Charge { limit: Limit { algorithm, ..charge.limit }, mode: ChargeMode::IfAllowed, ..charge }
    };
    server.command(["SET", "bad/", "many"]);
    // They go out together: nobody waits for what is not polled yet.
    let (good, bad) = ([limit("good/")], [limit("bad/"), limit("beside/")]);
    let (good, bad) = tokio::join!(store.charge(&good, MIDNIGHT), store.charge(&bad, MIDNIGHT));
    assert_eq!(complete(good).expect("a reading")[0].used, 1);
    for reading in bad {
        let error = reading.expect_err("one of its counters cannot be read");
        assert!(matches!(&error, StoreError::Rejected(cause) if cause.contains("did not write")), "{error}");
    }
    assert_eq!(server.command(["GET", "bad/"]), "many");
    assert_eq!(server.command(["EXISTS", "beside/"]), "0");
}

#[tokio::test]
async fn the_servers_clock_weighs_time_whatever_the_callers_say() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    for algorithm in [Algorithm::SlidingWindow, Algorithm::SlidingLog, Algorithm::TokenBucket { burst: 10 }] {
        let of = |hits| {
            let charge = charge(algorithm.name(), Unit::Hour, Hits::Add(hits));
            [Charge {
                limit: Limit { algorithm, ..Limit::per(10, Unit::Hour) },
                mode: ChargeMode::IfAllowed,
                ..charge
            }]
        };
        // One that is a year ahead takes nothing from the others, and one that is a year behind gets no more.
        let year = Duration::from_secs(31_536_000);
        let ahead = complete(store.charge(&of(9), MIDNIGHT.after(year)).await).expect("a reading");
        assert_eq!((ahead[0].outcome, ahead[0].used), (ChargeOutcome::Charged, 9), "{algorithm:?}");
        let behind = complete(store.charge(&of(1), MIDNIGHT).await).expect("a reading");
        assert_eq!((behind[0].outcome, behind[0].used), (ChargeOutcome::Charged, 10), "{algorithm:?}");
        let denied = complete(store.charge(&of(1), MIDNIGHT).await).expect("a reading");
        assert_eq!(denied[0].outcome, ChargeOutcome::Denied, "{algorithm:?}");
        assert!(denied[0].reset <= Duration::from_secs(7_200), "{algorithm:?}: {:?}", denied[0].reset);
    }
}

#[tokio::test]
async fn a_withheld_charge_gets_the_reading_that_the_store_would_return() {
    let server = Redis::start().await;
    let denials = Arc::new(Denials::new(1 << 20));
    let plain = connected_by_callers_clock(&server.settings()).await;
    let known = plain.beside(Some(denials));
    let if_allowed = |key: &'static str, limit| Charge {
        limit,
        mode: ChargeMode::IfAllowed,
        ..charge(key, Unit::Day, Hits::Add(1))
    };
    let over = if_allowed("over/", Limit::per(0, Unit::Day));
    for algorithm in [
        Algorithm::FixedWindow,
        Algorithm::SlidingWindow,
        Algorithm::SlidingLog,
        Algorithm::TokenBucket { burst: 3 },
    ] {
        let limit = Limit { algorithm, ..Limit::per(3, Unit::Hour) };
        let own = if_allowed(algorithm.name(), limit);
        for turn in 0..3 {
            let now = MIDNIGHT.after(Duration::from_millis(100 * turn));
            complete(plain.charge(slice::from_ref(&own), now).await).expect("a reading");
            let both = [over.clone(), own.clone()];
            let plain_reading = complete(plain.charge(&both, now).await).expect("readings")[1];
            for _ in 0..2 {
                let also = complete(known.charge(&both, now).await).expect("readings")[1];
                assert_eq!(
                    (also.used, also.reset),
                    (plain_reading.used, plain_reading.reset),
                    "{algorithm:?}, turn {turn}"
                );
                let is_withheld = |reading: Reading| reading.outcome == ChargeOutcome::Withheld;
                assert_eq!(is_withheld(also), is_withheld(plain_reading), "{algorithm:?}, turn {turn}");
            }
        }
    }
}

/// When hits were admitted, in microseconds after midnight, earliest first.
type Admitted = Vec<u64>;

/// Eight clients, each with a connection of its own, that hit one key at the same moments: those of them
/// that were admitted.
async fn eight_clients(server: &Redis, limit: Limit) -> Admitted {
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(connected_by_callers_clock(&server.settings()).await);
    }
    let (mut random, mut now_us, mut admitted) = (fastrand::Rng::with_seed(8), 0, Admitted::new());
    while admitted.len() < 400 {
        now_us += random.u64(0..200_000);
        let now = MIDNIGHT.after(Duration::from_micros(now_us));
        let hits: Vec<u32> = (0..8).map(|_| random.u32(1..4)).collect();
        let charges: Vec<_> = hits
            .iter()
            .map(|hits| {
                let charge = charge(limit.algorithm.name(), Unit::Hour, Hits::Add(*hits));
                [Charge { limit, mode: ChargeMode::IfAllowed, ..charge }]
            })
            .collect();
        let asked = clients.iter().zip(&charges).map(|(client, charge)| client.charge(charge, now));
        for (hits, readings) in hits.iter().zip(futures_util::future::join_all(asked).await) {
            let reading = complete(readings).expect("a reading")[0];
            if reading.outcome == ChargeOutcome::Charged {
                admitted.extend((0..*hits).map(|_| now_us));
            }
        }
    }
    admitted
}

/// The most that was admitted in a stretch from one admission on that is shorter than `length_us`.
fn most_in(admitted: &Admitted, length_us: u64) -> usize {
    let in_stretch =
        |from: &u64| admitted.iter().filter(|at| (*from..*from + length_us).contains(at)).count();
    admitted.iter().map(in_stretch).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_clients_are_admitted_no_more_than_each_algorithm_promises() {
    const LIMIT: u32 = 20;
    const WINDOW_US: u64 = 5_000_000;
    let server = Redis::start().await;
    let limit = |algorithm| Limit { requests_per_unit: LIMIT, window: Window::of_secs(5), algorithm };
    let most = LIMIT as usize;

    let fixed = eight_clients(&server, limit(Algorithm::FixedWindow)).await;
    for window in 0..fixed[fixed.len() - 1] / WINDOW_US {
        let in_window = fixed.iter().filter(|at| **at / WINDOW_US == window).count();
        assert!(in_window <= most, "{in_window} in window {window}");
    }

    let log = eight_clients(&server, limit(Algorithm::SlidingLog)).await;
    assert_eq!(most_in(&log, WINDOW_US), most, "as many as there may be, in any stretch");

    let sliding = eight_clients(&server, limit(Algorithm::SlidingWindow)).await;
    for at in &sliding {
        let count = |window: u64| {
            let until_now = sliding.iter().filter(|other| *other <= at);
            until_now.filter(|other| **other / WINDOW_US == window).count() as u64
        };
        let (window, left) = (at / WINDOW_US, WINDOW_US - at % WINDOW_US);
        let before = window.checked_sub(1).map_or(0, count);
        let weighed = before * left + count(window) * WINDOW_US;
        assert!(weighed <= u64::from(LIMIT) * WINDOW_US, "{weighed} at {at}");
    }

    for burst in [1, 10, 40] {
        let bucket = eight_clients(&server, limit(Algorithm::TokenBucket { burst })).await;
        for length_us in [1, WINDOW_US / 7, WINDOW_US, 3 * WINDOW_US] {
            let refilled = length_us * u64::from(LIMIT) / WINDOW_US;
            let promised = u64::from(burst) + refilled;
            assert!(most_in(&bucket, length_us) as u64 <= promised, "{burst} in {length_us} us");
        }
        server.command(["FLUSHALL"]);
    }
}

/// As many descriptors as a request may have, under rules with as many limits as a rule may have.
const LARGEST: usize = MAX_DESCRIPTORS * 8;

#[tokio::test]
async fn the_largest_request_is_decided_as_one() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    let of = |last: u32| -> Vec<Charge> {
        (0..LARGEST)
            .map(|number| {
                let limit = if number == LARGEST - 1 { last } else { 2 };
                let key = format!("{number}/").into();
                let limit = Limit::per(limit, Unit::Day);
                Charge { key, limit, mode: ChargeMode::IfAllowed, ..charge("", Unit::Day, Hits::Add(1)) }
            })
            .collect()
    };
    let outcomes = async |last| {
        let readings = complete(store.charge(&of(last), MIDNIGHT).await).expect("readings");
        readings.into_iter().map(|reading| (reading.outcome, reading.used)).collect::<Vec<_>>()
    };
    assert_eq!(outcomes(1).await, vec![(ChargeOutcome::Charged, 1); LARGEST]);
    let denied = outcomes(1).await;
    assert_eq!(denied[LARGEST - 1], (ChargeOutcome::Denied, 1));
    assert!(denied[..LARGEST - 1].iter().all(|one| *one == (ChargeOutcome::Withheld, 1)));
}

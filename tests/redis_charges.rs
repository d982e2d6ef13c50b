//! What charges come to in Redis, whoever else asks at the same time and whatever clock they have.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use tollgate::engine::algorithm::group::Outcome;
use tollgate::engine::{Algorithm, ChargeMode, Hits, Limit, Unit};
use tollgate::store::redis::{Denials, RedisSettings, RedisStore, ServerClock};
use tollgate::store::{Charge, Reading, Store, StoreError};

use crate::store::{MIDNIGHT, charge, connected};
use crate::support::PATIENCE;
use crate::support::redis::Redis;
use crate::support::stores::complete;

#[tokio::test]
async fn what_others_wrote_fails_its_own_request_alone() {
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
        assert!(matches!(&error, StoreError::Refused(cause) if cause.contains("did not write")), "{error}");
    }
    assert_eq!(server.command(["GET", "bad/"]), "many");
    assert_eq!(server.command(["EXISTS", "beside/"]), "0");
}

#[tokio::test]
async fn the_servers_clock_weighs_time_whatever_the_callers_say() {
    let server = Redis::start().await;
    let settings = RedisSettings { clock: ServerClock::Own, ..server.settings() };
    let store = RedisStore::connect(&settings).expect("settings of use");
    store.ready(PATIENCE).await.expect("it was started just now");
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
        assert_eq!((ahead[0].outcome, ahead[0].used), (Outcome::Charged, 9), "{algorithm:?}");
        let behind = complete(store.charge(&of(1), MIDNIGHT).await).expect("a reading");
        assert_eq!((behind[0].outcome, behind[0].used), (Outcome::Charged, 10), "{algorithm:?}");
        let denied = complete(store.charge(&of(1), MIDNIGHT).await).expect("a reading");
        assert_eq!(denied[0].outcome, Outcome::Denied, "{algorithm:?}");
        assert!(denied[0].reset <= Duration::from_secs(7_200), "{algorithm:?}: {:?}", denied[0].reset);
    }
}

#[tokio::test]
async fn a_request_that_another_limit_denies_is_told_what_it_would_have_been_told() {
    let server = Redis::start().await;
    let denials = Arc::new(Denials::new(1 << 20));
    let known = tollgate::store::redis::Redis::watch(server.settings(), None, Some(denials));
    let known = known.expect("settings of use").store();
    let plain = connected(&server.settings()).await;
    known.ready(PATIENCE).await.expect("it was started just now");
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
            let told = complete(plain.charge(&both, now).await).expect("readings")[1];
            for _ in 0..2 {
                let also = complete(known.charge(&both, now).await).expect("readings")[1];
                assert_eq!((also.used, also.reset), (told.used, told.reset), "{algorithm:?}, turn {turn}");
                let is_withheld = |reading: Reading| reading.outcome == Outcome::Withheld;
                assert_eq!(is_withheld(also), is_withheld(told), "{algorithm:?}, turn {turn}");
            }
        }
    }
}

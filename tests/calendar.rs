//! Limits in the windows of a calendar, the same on every store.

use std::sync::Arc;

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection, prop_assert_eq, sample};
use serde_json::{Value, json};
use tokio::runtime;
use tollgate::clock::{Clock as _, SystemClock};
use tollgate::engine::{
    Calendar, ChargeMode, Enforcement, Hits, KeyDomain, KeyFormat, KeyWriter, Limit, Period, Timestamp, Unit,
    Window, Zone,
};
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::redis::{self, Denials};
use tollgate::store::{Charge, Store};

use crate::store::{charge, connected};
use crate::support::PATIENCE;
use crate::support::redis::Redis;
use crate::support::service::Service;
use crate::support::stores::{self, complete};

const HOUR: u64 = 3_600;

/// Days in Berlin, of 24, 23 and 25 hours: when they begin, and how long they are.
const DAYS: [(u64, u64); 3] =
    [(1_711_753_200, 24 * HOUR), (1_711_839_600, 23 * HOUR), (1_729_980_000, 25 * HOUR)];

fn calendar(period: Period, zone: &str) -> Window {
    Window::of_calendar(Calendar { period, zone: Zone::from_name(zone).expect("a zone") })
}

/// Hits towards ten in each day of Berlin.
fn hits(hits: u32) -> Charge {
    let charge = charge("key/", Unit::Day, Hits::Add(hits));
    Charge { limit: Limit { window: calendar(Period::Day, "Europe/Berlin"), ..charge.limit }, ..charge }
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

/// Hits counted, and the seconds until the window ends.
async fn ask(store: &dyn Store, charge: Charge, now: Timestamp) -> (u64, u64) {
    let readings = complete(store.charge(&[charge], now).await).expect("readings");
    (readings[0].used, readings[0].reset.as_secs())
}

#[tokio::test]
async fn a_day_counts_from_one_local_midnight_to_the_next() {
    for (name, store) in stores::all().await {
        for (start, length) in DAYS {
            // In Redis, a command and a script.
            for mode in [ChargeMode::Always, ChargeMode::IfAllowed] {
                let hit = || Charge { key: format!("{mode:?}/{start}/").into(), mode, ..hits(1) };
                let (store, last) = (&*store.store, at(start + length - 1));
                let reported = format!("{name}, {mode:?}: {length} s");
                assert_eq!(ask(store, hit(), at(start)).await, (1, length), "{reported}");
                assert_eq!(ask(store, hit(), at(start + length / 2)).await.0, 2, "{reported}");
                assert_eq!(ask(store, hit(), last).await, (3, 1), "{reported}");
                assert_eq!(ask(store, hit(), at(start + length)).await.0, 1, "{reported}: the next day");
            }
        }
    }
}

#[tokio::test]
async fn a_counter_in_redis_is_named_after_its_midnight_and_outlives_its_day() {
    let server = Redis::start().await;
    let store = connected(&server.settings()).await;
    let keys = KeyWriter::new(KeyFormat::Envoyproxy, "p:");
    let domain = KeyDomain { name: b"shop", hash_tag: None, only_limit: true };
    for (period, start, longest) in [
        (Period::Day, 1_729_980_000, 25 * HOUR),
        (Period::Week, 1_729_461_600, 7 * 24 * HOUR + HOUR),
        (Period::Month, 1_727_733_600, 31 * 24 * HOUR + HOUR),
        (Period::Year, 1_704_063_600, 366 * 24 * HOUR),
    ] {
        server.command(["FLUSHALL"]);
        let limit = Limit { window: calendar(period, "Europe/Berlin"), ..hits(1).limit };
        let key = keys.key(domain, &[], None, limit);
        let charge = Charge { key: key.clone(), limit, ..hits(1) };
        ask(&store, charge, at(1_729_980_001)).await;
        store.settle().await;
        let lives = server.times_to_live();
        let name = format!("{}{start}", String::from_utf8_lossy(&key));
        let [(counter, secs)] = &lives[..] else { panic!("one counter: {lives:?}") };
        assert_eq!(*counter, name);
        // Some of it may have passed.
        assert!(u64::try_from(*secs).expect("a time to live") > longest + HOUR, "{name} lives for {secs} s");
    }
}

#[tokio::test]
async fn no_calendar_is_counted_where_seconds_are() {
    let (all, second) = (Redis::start().await, Redis::start().await);
    let store =
        redis::Redis::watch(all.settings(), Some(second.settings()), None, &redis::RedisContext::detached());
    let store = store.expect("settings of use").store();
    store.ready(PATIENCE).await.expect("both are there");
    for period in Period::ALL {
        let charge = Charge { key: format!("{period:?}/").into(), ..hits(1) };
        let limit = Limit { window: calendar(period, "Europe/Berlin"), ..charge.limit };
        assert_eq!(ask(&store, Charge { limit, ..charge }, at(DAYS[0].0)).await.0, 1);
    }
    assert_eq!((all.len(), second.len()), (Period::ALL.len(), 0));
}

#[tokio::test]
async fn a_denial_is_known_up_to_local_midnight() {
    let server = Redis::start().await;
    let denials = Arc::new(Denials::new(1 << 20));
    let redis = redis::Redis::watch(
        server.settings(),
        None,
        Some(Arc::clone(&denials)),
        &redis::RedisContext::detached(),
    );
    let store = redis.expect("settings of use").store();
    store.ready(PATIENCE).await.expect("Redis answers");
    for (start, length) in DAYS {
        let hits = |count| Charge { key: format!("{start}/").into(), ..hits(count) };
        assert_eq!(ask(&store, hits(11), at(start + length - 1)).await.0, 11);
        let before = denials.lookups().0;
        assert_eq!(ask(&store, hits(1), at(start + length - 1)).await, (10, 1), "as much as there may be");
        assert_eq!(denials.lookups().0, before + 1, "Redis was not asked");
        assert_eq!(ask(&store, hits(1), at(start + length)).await.0, 1, "the next day");
    }
}

#[test]
fn memory_and_redis_read_the_same_in_every_calendar() {
    let zones = ["UTC", "Europe/Berlin", "Africa/Cairo", "America/Havana", "Pacific/Apia", "Asia/Kolkata"];
    let calendars = (sample::select(Period::ALL.to_vec()), sample::select(zones.to_vec()));
    let hits = prop_oneof![
        4 => (1..8_u32).prop_map(Hits::Add),
        1 => Just(Hits::Add(0)),
        2 => (0..12_u32).prop_map(Hits::Refund),
    ];
    let mode = prop_oneof![Just(ChargeMode::Always), Just(ChargeMode::IfAllowed)];
    let enforcement = prop_oneof![3 => Just(Enforcement::Enforced), 1 => Just(Enforcement::Shadow)];
    let charges = collection::vec((0..2_u8, calendars, hits, mode, enforcement), 0..5);
    let begin = 1_300_000_000..1_800_000_000_u64;
    let requests = (begin, collection::vec((0..30 * HOUR, any::<u32>(), charges), 1..20));

    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_server, redis) = runtime.block_on(async {
        let server = Redis::start().await;
        let redis = connected(&server.settings()).await;
        (server, redis)
    });
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000_000));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(500) });
    let outcome = runner.run(&requests, |(mut now_secs, requests)| {
        let case = fastrand::u64(..);
        for (later_secs, micros, charges) in requests {
            now_secs += later_secs;
            let now = Timestamp::from_micros(now_secs * 1_000_000 + u64::from(micros % 1_000_000));
            let one = |(key, (period, zone), hits, mode, enforcement): (u8, (Period, &str), _, _, _)| {
                let charge = charge(format!("{case}/{key}/{period:?}/{zone}/"), Unit::Day, hits);
                Charge {
                    limit: Limit { window: calendar(period, zone), ..charge.limit },
                    mode,
                    enforcement,
                    ..charge
                }
            };
            let charges: Vec<Charge> = charges.into_iter().map(one).collect();
            let in_memory = complete(runtime.block_on(memory.charge(&charges, now))).expect("readings");
            let in_redis = complete(runtime.block_on(redis.charge(&charges, now))).expect("readings");
            prop_assert_eq!(in_memory, in_redis);
        }
        Ok(())
    });
    outcome.expect("equal readings");
}

#[tokio::test]
async fn the_program_counts_and_reports_calendar_days() {
    const RULES: &str = "
domain: shop
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 3, unit: day, timezone: Asia/Kolkata}
";
    let service = Service::start(&[("rules.yaml", RULES)], &[]).await;
    let client = reqwest::Client::new();
    let shown = client.get(service.debug_url("/rlconfig")).header("accept", "application/json").send().await;
    let shown: Value = shown.expect("an answer").json().await.expect("JSON");
    assert_eq!(shown["rules"][0]["rate_limit"]["timezone"], "Asia/Kolkata");

    let window = calendar(Period::Day, "Asia/Kolkata");
    loop {
        let midnight = window.start_secs(SystemClock.now());
        let left_secs = window.remaining(SystemClock.now()).as_secs();
        let body = json!({"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]});
        let answer = client.post(service.url("/json")).body(body.to_string()).send().await;
        let answer: Value = answer.expect("an answer").json().await.expect("JSON");
        let status = &answer["statuses"][0];
        let reported = status["durationUntilReset"].as_str().expect("a time").trim_end_matches('s');
        let reported_secs: f64 = reported.parse().expect("a number of seconds");
        // Unless midnight came between the two.
        if window.start_secs(SystemClock.now()) == midnight {
            assert_eq!(status["currentLimit"], json!({"requestsPerUnit": 3, "unit": "DAY"}), "{answer}");
            assert!((0.0..60.0).contains(&(left_secs as f64 + 1.0 - reported_secs)), "{answer}: {left_secs}");
            return;
        }
    }
}

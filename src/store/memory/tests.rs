use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::*;
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::lockout::{Block, LockoutSchedule};
use crate::engine::{
    Algorithm, Calendar, ChargeMode, Enforcement, FailurePolicy, Period, Unit, Window, Zone,
};
use crate::store::Lockout;
use crate::store::lockouts::Lockouts as _;

const NOON: Timestamp = Timestamp::from_secs(1_699_963_200);

fn store(max_counters: usize) -> MemoryStore {
    MemoryStore::new(MemorySettings::of_counters(max_counters))
}

fn charge(key: &'static str, unit: Unit, hits: Hits) -> Charge {
    Charge {
        key: Bytes::from_static(key.as_bytes()),
        limit: Limit::per(10, unit),
        rule: 0,
        hits,
        mode: ChargeMode::Always,
        enforcement: Enforcement::Enforced,
        lockout: None,
        hold: None,
        lease: None,
        reserve: None,
        on_failure: FailurePolicy::Error,
    }
}

fn used(store: &MemoryStore, charge: &Charge, now: Timestamp) -> Option<u64> {
    Some(store.charge_alone(charge, now).used)
}

fn later(secs: u64) -> Timestamp {
    Timestamp::from_secs(NOON.as_secs() + secs)
}

fn sweep_round(store: &MemoryStore, now: Timestamp) {
    (0..store.stripes.len()).for_each(|_| store.sweep_next(now));
}

/// A charge of `rule` for a key of its own.
fn of_rule(rule: u32, key: usize, limit: u32, mode: ChargeMode) -> Charge {
    let key = Bytes::from(format!("{rule}/{key}"));
    Charge { key, rule, limit: Limit::per(limit, Unit::Day), mode, ..charge("", Unit::Day, Hits::Add(1)) }
}

fn is_over(store: &MemoryStore, charge: &Charge, now: Timestamp) -> bool {
    let reading = store.carry_out(std::slice::from_ref(charge), now)[0].clone().unwrap();
    engine::is_over(charge.mode, charge.hits, reading.used, charge.limit.capacity(), reading.outcome)
}

#[test]
fn a_flood_of_new_keys_evicts_counters_of_its_own_rule_and_no_call_fails() {
    for mode in ChargeMode::ALL {
        for flooded_limit in [1, 10] {
            let store = store(1_000);
            let mut keys = 0..;
            let mut flood = |len: usize| {
                for key in keys.by_ref().take(len) {
                    assert!(!is_over(&store, &of_rule(1, key, flooded_limit, mode), NOON), "a new client");
                }
            };
            let address = of_rule(2, 0, 5, mode);
            assert_eq!(
                [(); 7].map(|()| is_over(&store, &address, NOON)),
                [false, false, false, false, false, true, true]
            );
            flood(5_000);
            let calls = [(); 4].map(|()| {
                flood(200);
                is_over(&store, &of_rule(3, 0, 3, mode), NOON)
            });
            assert_eq!(calls, [false, false, false, true], "{mode:?}, limit {flooded_limit}");
            flood(5_000);
            assert!(is_over(&store, &address, NOON), "{mode:?}: what is over its limit stays so");
            assert!(is_over(&store, &of_rule(3, 0, 3, mode), NOON), "{mode:?}");
            let Figures { counters, evicted, .. } = store.figures();
            assert!(counters <= 1_000 && evicted >= 9_000, "{counters} counters, {evicted} evicted");
        }
    }
}

#[test]
fn eviction_takes_expired_counters_then_rarely_used_then_exceeded_ones() {
    // So few that all of them are candidates.
    let store = store(6);
    let hits = |key, hits| Charge { hits: Hits::Add(hits), ..of_rule(1, key, 10, ChargeMode::Always) };
    let count = |charge: Charge, now| store.charge_alone(&charge, now).used;
    (0..2).for_each(|key| assert_eq!(count(hits(key, 11), NOON), 11));
    (2..4).for_each(|key| assert_eq!(count(hits(key, 5), NOON), 5));
    let short = |key| Charge { limit: Limit::per(10, Unit::Second), ..hits(key, 9) };
    (4..6).for_each(|key| assert_eq!(count(short(key), NOON), 9));
    let held = || -> Vec<usize> { (0..12).filter(|key| count(hits(*key, 0), later(1)) > 0).collect() };
    let newer = |keys: std::ops::Range<usize>| {
        keys.for_each(|key| assert_eq!(count(hits(key, 6), later(1)), 6));
        held()
    };
    assert_eq!(newer(6..8), [0, 1, 2, 3, 6, 7], "the expired ones went");
    assert_eq!(newer(8..10), [0, 1, 6, 7, 8, 9], "the least used ones went");
    let held = newer(10..12);
    assert_eq!((&held[..2], held.len()), (&[0, 1][..], 6), "those over their limit stay");
    (6..10).for_each(|key| drop(store.carry_out(&[hits(key, 9)], later(1))));
    // A client over its limit gives way only where all others are over theirs.
    let length = |key| Charge { limit: Limit::per(10, Unit::Week), ..hits(key, 11) };
    (20..40).for_each(|key| assert_eq!(count(length(key), later(1)), 11));
    assert_eq!(store.len(), 6);
}

#[test]
fn a_store_full_of_denied_clients_still_takes_new_ones() {
    let store = store(1_000);
    for key in 0..3_000 {
        let denied = Charge { hits: Hits::Add(11), ..of_rule(1, key, 10, ChargeMode::Always) };
        assert!(is_over(&store, &denied, NOON));
    }
    let newcomer = of_rule(2, 0, 2, ChargeMode::Always);
    assert_eq!([(); 3].map(|()| is_over(&store, &newcomer, NOON)), [false, false, true]);
    assert_eq!(store.len(), 1_000);
}

#[test]
fn lockouts_stay_under_a_flood_of_counters_and_have_at_most_half_the_room() {
    let store = store(1_000);
    let schedule = |after| {
        let steps = [Block::Permanent].into_iter().collect();
        Arc::new(LockoutSchedule { after, within_secs: 86_400, steps, forget_secs: 60, extend: false })
    };
    let denied = |key: usize, after| Charge {
        hits: Hits::Add(11),
        lockout: Some(Lockout { key: Bytes::from(format!("lockout/{key}")), schedule: schedule(after) }),
        ..of_rule(1, key, 10, ChargeMode::Always)
    };
    let outcome =
        |charge: &Charge| store.carry_out(std::slice::from_ref(charge), NOON)[0].clone().unwrap().outcome;
    (0..100).for_each(|key| assert_eq!(outcome(&denied(key, 1)), ChargeOutcome::Blocked));
    for key in 0..20_000 {
        assert!(!is_over(&store, &of_rule(2, key, 10, ChargeMode::Always), NOON));
    }
    // Strikes alone give way to one another before any block does.
    (1_000..5_000).for_each(|key| assert_eq!(outcome(&denied(key, 9)), ChargeOutcome::Charged));
    (0..100).for_each(|key| assert_eq!(outcome(&denied(key, 1)), ChargeOutcome::Blocked, "{key}"));
    let lockouts: usize = store.stripes.iter().map(|stripe| stripe.lock().lockouts.len()).sum();
    assert!((300..=500).contains(&lockouts), "{lockouts}");
    assert!(store.len() <= 1_000);
}

/// Usage, computed from everything that is held.
fn recounted(store: &MemoryStore) -> (usize, usize) {
    store.stripes.iter().map(|stripe| stripe.lock()).fold((0, 0), |(len, bytes), stripe| {
        let of_counters: usize = stripe.counters.iter().map(|counter| counter.bytes()).sum();
        let of_lockouts: usize = stripe.lockouts.iter().map(|lockout| lockout.bytes()).sum();
        (len + stripe.counters.len() + stripe.lockouts.len(), bytes + of_counters + of_lockouts)
    })
}

#[test]
fn counters_are_bounded_in_bytes_whatever_they_remember_and_the_figures_do_not_drift() {
    let max_bytes = 1 << 20;
    let store = MemoryStore::new(MemorySettings { max_bytes, ..MemorySettings::of_counters(100_000) });
    let mut random = fastrand::Rng::with_seed(7);
    let schedule = Arc::new(LockoutSchedule {
        after: 2,
        within_secs: 60,
        steps: [Block::Secs(1)].into_iter().collect(),
        forget_secs: 1,
        extend: true,
    });
    let mut now = NOON;
    for turn in 0..60_000 {
        now = now.after(Duration::from_micros(random.u64(..20_000)));
        let key = Bytes::from(format!("{}/{}", random.u32(..300), "k".repeat(random.usize(..200))));
        let algorithm = [Algorithm::SlidingLog, Algorithm::SlidingWindow][usize::from(random.u8(..4) == 0)];
        let limit = Limit { algorithm, ..Limit::per(900, Unit::Minute) };
        let hits = if random.u8(..9) == 0 { Hits::Refund(2) } else { Hits::Add(random.u32(..4)) };
        let lockout =
            Lockout { key: Bytes::from(format!("{}", random.u32(..2_000))), schedule: Arc::clone(&schedule) };
        let lockout = (random.u8(..4) == 0).then_some(lockout);
        let rule = random.u32(..5);
        store.carry_out(&[Charge { key, rule, limit, hits, lockout, ..charge("", Unit::Day, hits) }], now);
        if turn % 1_000 == 0 {
            store.sweep_next(now);
        }
    }
    // Logs that fill up, a moment for each hit.
    for turn in 0..60_000_u64 {
        let limit = Limit { algorithm: Algorithm::SlidingLog, ..Limit::per(1_000, Unit::Day) };
        let log = Charge { limit, ..of_rule(9, random.usize(..100), 0, ChargeMode::Always) };
        store.carry_out(&[log], now.after(Duration::from_micros(turn)));
        assert!(store.figures().bytes <= max_bytes + 40_000, "{}", store.figures().bytes);
    }
    let Figures { counters, bytes, evicted } = store.figures();
    assert_eq!((counters, bytes), recounted(&store));
    assert!(evicted > 0 && bytes > max_bytes / 2, "{evicted} evicted, {bytes} bytes");
}

#[test]
fn a_sweep_removes_exactly_the_expired_counters() {
    let store = store(100);
    let charges = [
        charge("a", Unit::Second, Hits::Add(3)),
        charge("b", Unit::Minute, Hits::Add(4)),
        charge("c", Unit::Hour, Hits::Add(5)),
    ];
    charges.iter().for_each(|charge| assert!(store.charge_alone(charge, NOON).used > 0));
    for (now, len) in [(NOON, 3), (later(1), 2), (later(59), 2), (later(60), 1), (later(3600), 0)] {
        sweep_round(&store, now);
        assert_eq!(store.len(), len, "at noon + {} s", now.since(NOON).as_secs());
    }
}

#[test]
fn a_sweep_drops_a_calendar_day_when_it_ends_and_not_before() {
    let zone = Zone::from_name("Europe/Berlin").unwrap();
    let window = Window::of_calendar(Calendar { period: Period::Day, zone });
    // 2024-03-31 00:00 and 2024-10-27 00:00 in Berlin: days of 23 and of 25 hours.
    for (start_secs, hours) in [(1_711_839_600_u64, 23_u64), (1_729_980_000, 25)] {
        let store = store(100);
        let day = charge("k", Unit::Day, Hits::Add(1));
        let day = Charge { limit: Limit { window, ..day.limit }, ..day };
        let at = |secs: u64| Timestamp::from_secs(start_secs + secs);
        assert_eq!(used(&store, &day, at(7)), Some(1));
        sweep_round(&store, at(hours * 3_600 - 1));
        assert_eq!(used(&store, &day, at(hours * 3_600 - 1)), Some(2));
        sweep_round(&store, at(hours * 3_600));
        assert_eq!(store.len(), 0, "{hours} hours");
    }
}

#[test]
fn windows_of_two_lengths_under_one_key_are_two_counters() {
    let store = store(100);
    assert_eq!(used(&store, &charge("k", Unit::Minute, Hits::Add(3)), NOON), Some(3));
    assert_eq!(used(&store, &charge("k", Unit::Hour, Hits::Add(4)), NOON), Some(4));
    assert_eq!(used(&store, &charge("k", Unit::Minute, Hits::Add(1)), NOON), Some(4));
    assert_eq!(used(&store, &charge("k", Unit::Hour, Hits::Add(0)), later(60)), Some(4));
    assert_eq!(used(&store, &charge("k", Unit::Minute, Hits::Add(0)), later(60)), Some(0));
}

#[test]
fn a_clock_that_steps_back_forgets_no_hits() {
    let store = store(100);
    let hit = charge("k", Unit::Minute, Hits::Add(1));
    assert_eq!(used(&store, &hit, later(60)), Some(1));
    assert_eq!(used(&store, &hit, NOON), Some(2));
    sweep_round(&store, NOON);
    assert_eq!(used(&store, &hit, later(59)), Some(3));
    assert_eq!(
        used(&store, &hit, later(60)),
        Some(1),
        "a client that was over passes again after one window"
    );
}

#[test]
fn lifting_a_lockout_clears_the_counters_that_struck_it_and_no_others() {
    let store = store(100);
    let schedule = Arc::new(LockoutSchedule {
        after: 2,
        within_secs: 60,
        steps: [Block::Permanent].into_iter().collect(),
        forget_secs: 60,
        extend: false,
    });
    let lockout = Lockout { key: Bytes::from_static(b"lockout"), schedule };
    let of = |key| Charge { lockout: Some(lockout.clone()), ..charge(key, Unit::Day, Hits::Add(11)) };
    let outcome = |key| store.carry_out(&[of(key)], NOON)[0].clone().unwrap().outcome;
    used(&store, &charge("apart", Unit::Day, Hits::Add(3)), NOON);
    assert_eq!(
        [outcome("a"), outcome("b"), outcome("a")],
        [ChargeOutcome::Charged, ChargeOutcome::Blocked, ChargeOutcome::Blocked]
    );
    let look = |key| used(&store, &charge(key, Unit::Day, Hits::Add(0)), NOON);
    assert_eq!([look("a"), look("b"), look("apart")], [Some(11), Some(11), Some(3)]);
    let lift = || store.lift(&lockout.key).now_or_never().unwrap().unwrap();
    assert_eq!([lift(), lift()], [true, false]);
    assert_eq!(
        [look("a"), look("b"), look("apart"), Some(store.len() as u64)],
        [Some(0), Some(0), Some(3), Some(1)]
    );
}

#[test]
fn counters_stay_within_the_bytes_stated() {
    let (store, counters) = (store(1_000_000), 200_000);
    for index in 0..counters {
        let key = Bytes::from(format!("{index}"));
        let charge = Charge { key, ..charge("", Unit::Day, Hits::Add(1)) };
        store.charge_alone(&charge, NOON);
    }
    let tables: usize = store.stripes.iter().map(|stripe| stripe.lock().counters.allocation_size()).sum();
    // The allocator adds up to 16 bytes to each key.
    assert!(tables / counters + 16 <= 120, "{} bytes for each counter", tables / counters);
}

#[test]
fn memory_shrinks_when_its_counters_are_gone() {
    let store = store(100_000);
    for index in 0..50_000 {
        let key = Bytes::from(format!("{index}"));
        store.charge_alone(&Charge { key, ..charge("", Unit::Second, Hits::Add(1)) }, NOON);
    }
    sweep_round(&store, later(1));
    let tables: usize = store.stripes.iter().map(|stripe| stripe.lock().counters.allocation_size()).sum();
    assert_eq!((store.len(), tables), (0, 0));
}

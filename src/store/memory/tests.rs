use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::*;
use crate::engine::algorithm::group::Outcome;
use crate::engine::lockout::{Block, Ladder};
use crate::engine::{Calendar, ChargeMode, FailurePolicy, Period, Unit, Vote, Window, Zone};

const NOON: Timestamp = Timestamp::from_secs(1_699_963_200);

fn store(max_counters: usize) -> MemoryStore {
    MemoryStore::new(MemorySettings { max_counters })
}

fn charge(key: &'static str, unit: Unit, hits: Hits) -> Charge {
    Charge {
        key: Bytes::from_static(key.as_bytes()),
        limit: Limit::per(10, unit),
        hits,
        mode: ChargeMode::Always,
        vote: Vote::Enforced,
        lockout: None,
        on_failure: FailurePolicy::Error,
    }
}

fn used(store: &MemoryStore, charge: &Charge, now: Timestamp) -> Option<u64> {
    store.charge_alone(charge, now).ok().map(|reading| reading.used)
}

fn later(secs: u64) -> Timestamp {
    Timestamp::from_secs(NOON.as_secs() + secs)
}

fn sweep_round(store: &MemoryStore, now: Timestamp) {
    (0..store.shards.len()).for_each(|_| store.sweep_next(now));
}

#[test]
fn a_full_store_refuses_new_counters_and_still_counts_those_it_has() {
    let store = store(2);
    for key in ["a", "b"] {
        assert_eq!(used(&store, &charge(key, Unit::Minute, Hits::Add(1)), NOON), Some(1));
    }
    let refused = store.charge_alone(&charge("c", Unit::Minute, Hits::Add(1)), NOON);
    assert!(matches!(refused, Err(StoreError::Full { max_counters: 2 })), "{refused:?}");
    assert_eq!(store.len(), 2);
    assert_eq!(used(&store, &charge("a", Unit::Minute, Hits::Add(1)), NOON), Some(2));
    for harmless in [Hits::Add(0), Hits::Refund(1)] {
        assert_eq!(used(&store, &charge("c", Unit::Minute, harmless), NOON), Some(0), "{harmless:?}");
    }
}

#[test]
fn a_store_full_of_ended_windows_has_room() {
    let store = store(1);
    let hit = |key| charge(key, Unit::Second, Hits::Add(1));
    assert_eq!(used(&store, &hit("a"), NOON), Some(1));
    // Wherever the ended counter lies, some call for room comes by.
    let found = (0..store.shards.len()).find_map(|_| used(&store, &hit("b"), later(1)));
    assert_eq!((found, store.len()), (Some(1), 1));
}

#[test]
fn a_sweep_drops_what_is_over_and_nothing_else() {
    let store = store(100);
    let charges = [
        charge("a", Unit::Second, Hits::Add(3)),
        charge("b", Unit::Minute, Hits::Add(4)),
        charge("c", Unit::Hour, Hits::Add(5)),
    ];
    charges.iter().for_each(|charge| drop(store.charge_alone(charge, NOON)));
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
    assert_eq!(used(&store, &hit, later(60)), Some(3));
}

#[test]
fn lifting_a_lockout_clears_the_counters_that_struck_it_and_no_others() {
    let store = store(100);
    let ladder = Arc::new(Ladder {
        after: 2,
        within_secs: 60,
        steps: [Block::Permanent].into_iter().collect(),
        forget_secs: 60,
        extend: false,
    });
    let lockout = Lockout { key: Bytes::from_static(b"lockout"), ladder };
    let of = |key| Charge { lockout: Some(lockout.clone()), ..charge(key, Unit::Day, Hits::Add(11)) };
    let outcome = |key| store.carry_out(&[of(key)], NOON)[0].clone().unwrap().outcome;
    used(&store, &charge("apart", Unit::Day, Hits::Add(3)), NOON);
    assert_eq!(
        [outcome("a"), outcome("b"), outcome("a")],
        [Outcome::Charged, Outcome::Blocked, Outcome::Blocked]
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
        store.charge_alone(&charge, NOON).unwrap();
    }
    let tables: usize = store.shards.iter().map(|shard| shard.lock().counters.allocation_size()).sum();
    // The allocator adds up to 16 bytes to each key.
    assert!(tables / counters + 16 <= 120, "{} bytes for each counter", tables / counters);
}

#[test]
fn memory_shrinks_when_its_counters_are_gone() {
    let store = store(100_000);
    for index in 0..50_000 {
        let key = Bytes::from(format!("{index}"));
        store.charge_alone(&Charge { key, ..charge("", Unit::Second, Hits::Add(1)) }, NOON).unwrap();
    }
    sweep_round(&store, later(1));
    let tables: usize = store.shards.iter().map(|shard| shard.lock().counters.allocation_size()).sum();
    assert_eq!((store.len(), tables), (0, 0));
}

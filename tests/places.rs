//! Places of concurrency limits in stores: against a model, memory against Redis, and callers that count themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection, option, prelude::*};
use tokio::runtime;
use tokio::task::JoinSet;
use tollgate::engine::algorithm::group::ChargeOutcome::{self, Charged, Denied, Withheld};
use tollgate::engine::algorithm::places::PlaceReport;
use tollgate::engine::{
    Algorithm, ChargeMode, Enforcement, FailurePolicy, Hits, Hold, Limit, Ticket, Timestamp, Unit, Window,
};
use tollgate::store::memory::{MemorySettings, MemoryStore};
use tollgate::store::{Charge, Reading, Store};

use crate::store::{connected, connected_by_callers_clock};
use crate::support::case_clock::CaseClock;
use crate::support::redis::Redis;
use crate::support::stores::complete;
use crate::support::{cases, variable};

const MIDNIGHT: Timestamp = Timestamp::from_secs(1_699_920_000);
const TTL_SECS: u32 = 120;
const MAX: u32 = 3;

pub(crate) fn ticket(number: u8) -> Ticket {
    Ticket::from_bits([number; 16])
}

fn numbered(number: u32) -> Ticket {
    let mut bits = [1; 16];
    bits[12..].copy_from_slice(&number.to_be_bytes());
    Ticket::from_bits(bits)
}

/// A look at three places that are held for two minutes at most.
pub(crate) fn peek(key: &'static str) -> Charge {
    Charge {
        key: Bytes::from_static(key.as_bytes()),
        limit: Limit {
            requests_per_unit: MAX,
            window: Window::of_secs(TTL_SECS),
            algorithm: Algorithm::Concurrency,
        },
        rule: 0,
        hits: Hits::Add(0),
        mode: ChargeMode::IfAllowed,
        enforcement: Enforcement::Enforced,
        lockout: None,
        on_failure: FailurePolicy::Error,
        hold: None,
        lease: None,
        reserve: None,
    }
}

pub(crate) fn acquire(key: &'static str, ticket: Ticket, weight: u32) -> Charge {
    let hold = Some(Box::new(Hold { ticket, ttl_secs: TTL_SECS, is_named: false }));
    Charge { hits: Hits::Add(weight), hold, ..peek(key) }
}

pub(crate) fn release(key: &'static str, ticket: Ticket) -> Charge {
    Charge { hits: Hits::Refund(0), enforcement: Enforcement::Shadow, ..acquire(key, ticket, 1) }
}

pub(crate) fn renew(key: &'static str, ticket: Ticket) -> Charge {
    Charge { hits: Hits::Add(0), enforcement: Enforcement::Shadow, ..acquire(key, ticket, 1) }
}

/// Outcomes of charges, and the places that are held after each.
pub(crate) async fn outcomes(store: &dyn Store, charges: &[Charge]) -> Vec<(ChargeOutcome, u64)> {
    let readings = complete(store.charge(charges, MIDNIGHT).await).expect("readings");
    readings.iter().map(|reading| (reading.outcome, reading.used)).collect()
}

/// An acquisition under a ticket that its caller names.
pub(crate) fn acquire_named(key: &'static str, ticket: Ticket, weight: u32) -> Charge {
    let charge = acquire(key, ticket, weight);
    let hold = charge.hold.map(|hold| Box::new(Hold { is_named: true, ..*hold }));
    Charge { hold, ..charge }
}

/// Step of a generated sequence.
#[derive(Clone, Debug)]
enum Step {
    /// Repeats an acquisition, whose caller has named the ticket.
    Repeat {
        key: usize,
        back: usize,
        weight: u32,
    },
    /// With a place of another key, and a hit of a fixed window, in the same request.
    Acquire {
        key: usize,
        weight: u32,
        ttl_secs: u32,
        other: Option<usize>,
        rate: bool,
    },
    /// Of the ticket that was made so many acquisitions ago, under a key that it may not hold.
    Release {
        key: usize,
        back: usize,
    },
    Renew {
        key: usize,
        back: usize,
        ttl_secs: u32,
    },
    Peek {
        key: usize,
    },
}

const KEYS: [&str; 3] = ["a", "b", "c"];

fn some_step() -> impl Strategy<Value = Step> {
    let (key, back, ttl) = (0..KEYS.len(), 0..6_usize, 1..=TTL_SECS);
    prop_oneof![
        5 => (key.clone(), 1..=4_u32, ttl.clone(), option::weighted(0.3, key.clone()), any::<bool>())
            .prop_map(|(key, weight, ttl_secs, other, rate)| Step::Acquire { key, weight, ttl_secs, other, rate }),
        4 => (key.clone(), back.clone()).prop_map(|(key, back)| Step::Release { key, back }),
        2 => (key.clone(), back.clone(), 1..=2_u32)
            .prop_map(|(key, back, weight)| Step::Repeat { key, back, weight }),
        2 => (key.clone(), back, ttl).prop_map(|(key, back, ttl_secs)| Step::Renew { key, back, ttl_secs }),
        1 => key.prop_map(|key| Step::Peek { key }),
    ]
}

/// Places and hits as they should be: tickets of each key with their weight and end, and the hits of each minute.
#[derive(Default)]
struct Model {
    held: BTreeMap<(usize, u8), (u32, u64)>,
    hits: BTreeMap<u64, u32>,
}

impl Model {
    fn used(&self, key: usize, now: u64) -> u32 {
        let live = self.held.iter().filter(|((of, _), (_, end))| *of == key && *end > now);
        live.map(|(_, (weight, _))| weight).sum()
    }

    fn is_held(&self, key: usize, ticket: u8, now: u64) -> bool {
        self.held.get(&(key, ticket)).is_some_and(|(_, end)| *end > now)
    }

    /// Outcome of the first charge of a step.
    fn carry_out(&mut self, step: &Step, tickets: &[u8], now: u64) -> ChargeOutcome {
        let named = |back: usize| tickets.iter().rev().nth(back).copied().unwrap_or(u8::MAX);
        let end = |ttl_secs: u32| now + u64::from(ttl_secs) * 1_000_000;
        match *step {
            Step::Acquire { key, weight, ttl_secs, other, rate } => {
                let ticket = *tickets.last().expect("made before");
                let own_fits = self.used(key, now) + weight <= MAX;
                let taken = if own_fits && other == Some(key) { weight } else { 0 };
                let other_fits = other.is_none_or(|other| self.used(other, now) + taken < MAX);
                let minute = now / 60_000_000;
                let rate_fits = !rate || self.hits.get(&minute).copied().unwrap_or_default() < RATE;
                if !(own_fits && other_fits && rate_fits) {
                    return if own_fits { Withheld } else { Denied };
                }
                if rate {
                    *self.hits.entry(minute).or_default() += 1;
                }
                for (key, weight) in [(Some(key), weight), (other, 1)] {
                    if let Some(key) = key {
                        self.held.entry((key, ticket)).or_insert((0, end(ttl_secs))).0 += weight;
                    }
                }
                Charged
            }
            Step::Repeat { key, back, weight } => {
                if self.is_held(key, named(back), now) {
                    return Charged;
                }
                if self.used(key, now) + weight > MAX {
                    return Denied;
                }
                self.held.insert((key, named(back)), (weight, end(TTL_SECS)));
                Charged
            }
            Step::Release { key, back } => {
                let was_held = self.is_held(key, named(back), now);
                self.held.remove(&(key, named(back)));
                if was_held { Charged } else { Denied }
            }
            Step::Renew { key, back, ttl_secs } => {
                let was_held = self.is_held(key, named(back), now);
                if let (true, Some((_, ends))) = (was_held, self.held.get_mut(&(key, named(back)))) {
                    *ends = (*ends).max(end(ttl_secs));
                }
                if was_held { Charged } else { Denied }
            }
            Step::Peek { key } => {
                if self.used(key, now) < MAX {
                    Charged
                } else {
                    Denied
                }
            }
        }
    }
}

/// Hits of the fixed window that some requests are charged for too, in a minute.
const RATE: u32 = 4;

fn charges_of(case: u64, step: &Step, tickets: &[u8]) -> Vec<Charge> {
    let key = |index: usize| Bytes::from(format!("{case}/{}", KEYS[index]));
    let named = |back: usize| ticket(tickets.iter().rev().nth(back).copied().unwrap_or(u8::MAX));
    let with_ttl = |charge: Charge, ttl_secs| Charge {
        hold: charge.hold.map(|hold| Box::new(Hold { ttl_secs, ..*hold })),
        ..charge
    };
    match *step {
        Step::Acquire { key: own, weight, ttl_secs, other, rate } => {
            let own_ticket = ticket(*tickets.last().expect("made before"));
            let of = |index, weight| {
                with_ttl(Charge { key: key(index), ..acquire("", own_ticket, weight) }, ttl_secs)
            };
            let rate = rate.then(|| Charge {
                key: Bytes::from(format!("{case}/rate/")),
                limit: Limit::per(RATE, Unit::Minute),
                hits: Hits::Add(1),
                hold: None,
                lease: None,
                reserve: None,
                ..peek("")
            });
            [of(own, weight)].into_iter().chain(other.map(|other| of(other, 1))).chain(rate).collect()
        }
        Step::Repeat { key: of, back, weight } => {
            vec![Charge { key: key(of), ..acquire_named("", named(back), weight) }]
        }
        Step::Release { key: of, back } => vec![Charge { key: key(of), ..release("", named(back)) }],
        Step::Renew { key: of, back, ttl_secs } => {
            vec![with_ttl(Charge { key: key(of), ..renew("", named(back)) }, ttl_secs)]
        }
        Step::Peek { key: of } => vec![Charge { key: key(of), ..peek("") }],
    }
}

/// 2,500 sequences of up to 60 requests, unless [`cases`] says otherwise.
#[test]
fn memory_redis_and_the_model_agree_on_places() {
    let sequences = collection::vec((0..40_000_000_u64, some_step()), 1..60);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_server, redis) = runtime.block_on(async {
        let server = Redis::start().await;
        let redis = connected_by_callers_clock(&server.settings()).await;
        (server, redis)
    });
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000_000));
    let mut runner =
        TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases(2_500)) });
    let steps = AtomicU64::new(0);
    let outcome = runner.run(&sequences, |sequence| {
        let (case, mut clock) = (fastrand::u64(..), CaseClock::starting_at(MIDNIGHT));
        let (mut model, mut tickets) = (Model::default(), Vec::new());
        for (micros, step) in sequence {
            let now = clock.advance(micros);
            if matches!(step, Step::Acquire { .. }) {
                tickets.push(u8::try_from(tickets.len()).expect("few"));
            }
            let charges = charges_of(case, &step, &tickets);
            let in_memory = complete(runtime.block_on(memory.charge(&charges, now))).expect("readings");
            let in_redis = complete(runtime.block_on(redis.charge(&charges, now))).expect("readings");
            let expected = model.carry_out(&step, &tickets, now.as_micros());
            prop_assert_eq!(in_memory[0].outcome, expected, "{:?}", step);
            let peeks: Vec<Charge> =
                (0..KEYS.len()).flat_map(|key| charges_of(case, &Step::Peek { key }, &tickets)).collect();
            let held = complete(runtime.block_on(memory.charge(&peeks, now))).expect("readings");
            let held: Vec<u64> = held.iter().map(|reading: &Reading| reading.used).collect();
            let modelled: Vec<u64> =
                (0..KEYS.len()).map(|key| model.used(key, now.as_micros()).into()).collect();
            prop_assert_eq!(held, modelled, "{:?}", step);
            // A counter that is dropped as a whole reports no places that have ended.
            let without_expired = |readings: Vec<Reading>| -> Vec<Reading> {
                let of = |places| PlaceReport { expired: 0, ..places };
                readings
                    .into_iter()
                    .map(|reading| Reading { places: of(reading.places), ..reading })
                    .collect()
            };
            prop_assert_eq!(without_expired(in_memory), without_expired(in_redis), "{:?}", step);
            steps.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    outcome.expect("agreement");
    assert!(steps.into_inner() >= 50_000);
}

/// A place comes back with its time, and not before; one that is renewed, later.
#[tokio::test]
async fn a_place_that_nobody_gives_back_ends_with_its_time() {
    let server = Redis::start().await;
    let redis = connected_by_callers_clock(&server.settings()).await;
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    let at = |micros: u64| Timestamp::from_micros(MIDNIGHT.as_micros() + micros);
    for store in [&redis as &dyn Store, &memory] {
        let ask = async |charge: Charge, now| {
            let readings = complete(store.charge(&[charge], now).await).expect("readings");
            (readings[0].outcome, readings[0].used, readings[0].reset.as_micros())
        };
        let ttl = 120_000_000;
        assert_eq!(ask(acquire("a", ticket(1), 3), at(0)).await, (Charged, 3, ttl.into()));
        assert_eq!(ask(acquire("a", ticket(2), 1), at(ttl - 1)).await, (Denied, 3, 1));
        assert_eq!(ask(renew("a", ticket(1)), at(ttl - 1)).await, (Charged, 3, ttl.into()));
        assert_eq!(ask(acquire("a", ticket(2), 1), at(ttl)).await, (Denied, 3, u128::from(ttl) - 1));
        assert_eq!(ask(acquire("a", ticket(2), 1), at(2 * ttl - 1)).await, (Charged, 1, ttl.into()));
        assert_eq!(ask(renew("a", ticket(1)), at(2 * ttl - 1)).await.0, Denied, "it must know");
        assert_eq!(ask(release("a", ticket(1)), at(2 * ttl - 1)).await, (Denied, 1, ttl.into()), "late");
    }
}

/// Each ticket once, by the next request that takes a place, or by the one that would give it back.
#[tokio::test]
async fn places_that_have_ended_by_themselves_are_reported() {
    let server = Redis::start().await;
    let redis = connected_by_callers_clock(&server.settings()).await;
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    for store in [&redis as &dyn Store, &memory] {
        let expired = async |charge: Charge, secs: u64| {
            let now = Timestamp::from_secs(MIDNIGHT.as_secs() + secs);
            let readings = complete(store.charge(&[charge], now).await).expect("readings");
            readings[0].places.expired
        };
        assert_eq!(expired(acquire("a", ticket(1), 2), 0).await, 0);
        assert_eq!(expired(acquire("a", ticket(2), 1), 60).await, 0);
        assert_eq!(expired(acquire("a", ticket(3), 1), 130).await, 1, "the first ticket, with both places");
        assert_eq!(expired(acquire("a", ticket(4), 1), 131).await, 0);
        assert_eq!(expired(release("a", ticket(2)), 181).await, 1, "it comes too late");
        assert_eq!(expired(release("a", ticket(2)), 181).await, 0);
        assert_eq!(expired(release("a", ticket(3)), 182).await, 0);

        let of_many = |number| {
            let limit = Limit { requests_per_unit: 1_000, ..peek("many").limit };
            Charge { limit, ..acquire("many", numbered(number), 1) }
        };
        for number in 0..300 {
            assert_eq!(expired(of_many(number), 200).await, 0);
        }
        let mut found = Vec::new();
        for number in 300..312 {
            found.push(expired(of_many(number), 330).await);
        }
        assert_eq!(found, [32, 32, 32, 32, 32, 32, 32, 32, 32, 12, 0, 0], "few by each call");
    }
}

/// Also where so many tickets have ended with it that they are not dropped yet.
#[tokio::test]
async fn a_named_ticket_begins_anew_once_its_places_have_ended() {
    let server = Redis::start().await;
    let redis = connected_by_callers_clock(&server.settings()).await;
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    for store in [&redis as &dyn Store, &memory] {
        let ask = async |charge: Charge, secs: u64| {
            let limit = Limit { requests_per_unit: 1_000, ..charge.limit };
            let now = Timestamp::from_secs(MIDNIGHT.as_secs() + secs);
            complete(store.charge(&[Charge { limit, ..charge }], now).await).expect("readings")[0]
        };
        for number in 0..100 {
            assert_eq!(ask(acquire("a", numbered(number), 1), 0).await.outcome, Charged);
        }
        assert_eq!(ask(acquire_named("a", ticket(200), 3), 0).await.used, 103);
        let anew = ask(acquire_named("a", ticket(200), 1), 130).await;
        assert_eq!((anew.outcome, anew.used, anew.reset.as_secs()), (Charged, 1, TTL_SECS.into()));
        assert_eq!(anew.places, PlaceReport { expired: 33, is_known: false });
        let renewed = ask(renew("a", ticket(200)), 140).await;
        assert_eq!((renewed.outcome, renewed.used), (Charged, 1), "the others have ended");
        let known = ask(acquire_named("a", ticket(200), 1), 150).await;
        assert_eq!((known.used, known.places), (1, PlaceReport { expired: 0, is_known: true }));
        let released = ask(release("a", ticket(200)), 160).await;
        assert_eq!((released.outcome, released.used), (Charged, 0));
    }
}

/// Redis goes by its own time.
#[tokio::test]
async fn a_replica_whose_clock_is_wrong_frees_no_place_and_keeps_none() {
    let server = Redis::start().await;
    let redis = connected(&server.settings()).await;
    let ask = async |charge: Charge, now| {
        complete(redis.charge(&[charge], now).await).expect("readings")[0].outcome
    };
    let [behind, ahead] = [0, 86_400].map(|secs| Timestamp::from_secs(MIDNIGHT.as_secs() + secs));
    assert_eq!(ask(acquire("a", ticket(1), MAX), ahead).await, Charged);
    for now in [ahead, behind, ahead] {
        assert_eq!(ask(acquire("a", ticket(2), 1), now).await, Denied);
        assert_eq!(ask(renew("a", ticket(1)), now).await, Charged);
    }
    assert_eq!(ask(release("a", ticket(1)), behind).await, Charged);
    assert_eq!(ask(acquire("a", ticket(2), MAX), behind).await, Charged);
}

/// Nobody is thrown out when a rule gets fewer places, and nothing is let in until enough have left.
#[tokio::test]
async fn a_lower_maximum_waits_until_enough_have_left() {
    let server = Redis::start().await;
    let redis = connected(&server.settings()).await;
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    for store in [&redis as &dyn Store, &memory] {
        for number in 1..=3 {
            assert_eq!(outcomes(store, &[acquire("a", ticket(number), 1)]).await[0].0, Charged);
        }
        let with_max = |charge: Charge, max| Charge {
            limit: Limit { requests_per_unit: max, window: Window::of_secs(60), ..charge.limit },
            ..charge
        };
        let at_most = async |max| outcomes(store, &[with_max(acquire("a", ticket(9), 1), max)]).await[0];
        assert_eq!(at_most(1).await, (Denied, 3));
        assert_eq!(outcomes(store, &[release("a", ticket(1)), release("a", ticket(2))]).await[1].1, 1);
        assert_eq!(at_most(1).await, (Denied, 1));
        assert_eq!(at_most(2).await, (Charged, 2));
    }
}

/// Ten thousand places on one key take bounded memory, and each of them comes back.
#[tokio::test]
async fn ten_thousand_places_on_one_key_are_held_and_given_back() {
    let memory = MemoryStore::new(MemorySettings::of_counters(1_000));
    let limit = Limit { requests_per_unit: 10_000, ..peek("a").limit };
    for number in 1..=10_000 {
        let charge = Charge { limit, ..acquire("a", numbered(number), 1) };
        assert_eq!(outcomes(&memory, &[charge]).await, [(Charged, number.into())]);
    }
    let bytes = memory.figures().bytes;
    assert!((800_000..2_000_000).contains(&bytes), "{bytes} bytes");
    let late = Charge { limit, ..acquire("a", numbered(0), 1) };
    for _ in 0..1_000 {
        assert_eq!(outcomes(&memory, std::slice::from_ref(&late)).await, [(Denied, 10_000)]);
    }
    assert_eq!(memory.figures().bytes, bytes, "denied requests take nothing");
    for number in 1..=10_000 {
        let charge = Charge { limit, ..release("a", numbered(number)) };
        assert_eq!(outcomes(&memory, &[charge]).await, [(Charged, (10_000 - number).into())]);
    }
    assert_eq!((memory.len(), memory.figures().bytes), (0, 0));
}

/// 64 callers on three replicas, each with connections of its own: those who hold a place count themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_on_three_replicas_never_hold_more_than_the_places() {
    const CALLERS: usize = 64;
    // As with `cases`: the more, the longer.
    let rounds = variable("TOLLGATE_ROUNDS").unwrap_or(60);
    let server = Redis::start().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Arc::new(connected(&server.settings()).await));
    }
    let (in_flight, acquired) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (store, in_flight, acquired) =
            (Arc::clone(&replicas[caller % 3]), Arc::clone(&in_flight), Arc::clone(&acquired));
        callers.spawn(async move {
            let mut most = 0;
            for round in 0..rounds {
                let mut bits = [0; 16];
                bits[..8].copy_from_slice(&(caller as u64 + 1).to_be_bytes());
                bits[8..12].copy_from_slice(&round.to_be_bytes());
                let ticket = Ticket::from_bits(bits);
                if outcomes(&*store, &[acquire("hot", ticket, 1)]).await[0].0 == Charged {
                    most = most.max(in_flight.fetch_add(1, Ordering::SeqCst) + 1);
                    acquired.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    in_flight.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(outcomes(&*store, &[release("hot", ticket)]).await[0].0, Charged);
                }
            }
            most
        });
    }
    let most = callers.join_all().await.into_iter().max();
    assert!(most.is_some_and(|most| (1..=i64::from(MAX)).contains(&most)), "{most:?} at once");
    assert!(acquired.load(Ordering::Relaxed) >= u64::from(MAX));
    assert_eq!(outcomes(&*replicas[0], &[peek("hot")]).await, [(Charged, 0)], "nothing is left");
}

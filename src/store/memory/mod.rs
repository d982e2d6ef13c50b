//! The embedded store: counters in this process's memory.
//!
//! Counters are spread over stripes by a hash with a random seed, since clients choose keys. A charge locks
//! one stripe for one lookup; charges that are decided together lock theirs in order. Nothing locks all of
//! them, so that no sweep and no scrape stops the world. A full store evicts (`evict`); it never refuses.

mod budgets;
mod evict;
mod group;
mod lockouts;
mod places;
mod reset;
mod room;
mod stripe;

use std::future;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use parking_lot::Mutex;

pub use self::room::Figures;
use self::room::Room;
use self::stripe::{Counter, Stripe, Usage, log_bytes};
use super::inspect::{Inspect, InspectFuture, StoreReport};
use super::{Charge, ChargeFuture, Reading, Readings, Store, is_group};
use crate::engine::algorithm::group::{self as engine, ChargeOutcome, LeaseStep};
use crate::engine::algorithm::{CounterState, Meter};
use crate::engine::{Hits, Limit, Timestamp};

/// Time for one round of [`MemoryStore::sweep`] over all stripes.
const SWEEP_ROUND: Duration = Duration::from_secs(10);
/// Counters in each stripe of a full store, about: this bounds how long a sweep locks one.
const COUNTERS_PER_STRIPE: usize = 4096;
/// Enough stripes for threads to meet in one rarely.
const USUAL_STRIPES: usize = 256;
const MAX_STRIPES: usize = 4096;
/// A stripe of a full store holds at least so many counters, so that what it holds of each rule is like what
/// the store holds.
const MIN_COUNTERS_PER_STRIPE: usize = 64;

/// The bounds of a memory store. At either of them it evicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySettings {
    /// Upper bound on the counters and lockouts held.
    pub max_counters: usize,
    /// Upper bound on what they take, in bytes: about 110 for a counter and its key besides, 16 more for
    /// every moment of hits in a sliding log, and 80 for every ticket that holds places.
    pub max_bytes: usize,
}

impl MemorySettings {
    /// The usual bound on bytes.
    pub const MAX_BYTES: usize = 256 << 20;

    /// Room for so many counters.
    pub const fn of_counters(max_counters: usize) -> Self {
        Self { max_counters, max_bytes: Self::MAX_BYTES }
    }
}

/// Counters in memory: exact under contention, bounded in number and bytes, gone when the process ends.
#[derive(Debug)]
pub struct MemoryStore {
    hasher: RandomState,
    /// A power of two in number.
    stripes: Box<[CachePadded<Mutex<Stripe>>]>,
    room: Room,
    /// Counts up; its lowest bits are the stripe to sweep next.
    sweep_cursor: AtomicUsize,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(settings: MemorySettings) -> Self {
        let most = (settings.max_counters / MIN_COUNTERS_PER_STRIPE).clamp(1, MAX_STRIPES);
        let stripes = (settings.max_counters / COUNTERS_PER_STRIPE).max(USUAL_STRIPES).min(most);
        let stripes = stripes.next_power_of_two();
        Self {
            hasher: RandomState::default(),
            stripes: (0..stripes).map(|_| CachePadded::default()).collect(),
            room: Room::new(settings, stripes),
            sweep_cursor: AtomicUsize::new(0),
        }
    }

    /// Counters and lockouts held now, those included that are over and not yet swept.
    pub fn len(&self) -> usize {
        self.figures().counters
    }

    /// True if nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counters held and evicted. Locks one stripe after the other.
    pub fn figures(&self) -> Figures {
        let nothing = Figures { counters: 0, bytes: 0, ..self.room.figures() };
        self.stripes.iter().map(|stripe| stripe.lock().usage).fold(
            nothing,
            |sum, Usage { counters, lockouts }| Figures {
                counters: sum.counters + counters.len + lockouts.len,
                bytes: sum.bytes + counters.bytes + lockouts.bytes,
                ..sum
            },
        )
    }

    /// Drops expired counters, every stripe once in ten seconds, and warns of evictions. Never ends. The process
    /// spawns this once; `now` returns the time.
    pub async fn sweep(&self, now: impl Fn() -> Timestamp) {
        let stripes = u32::try_from(self.stripes.len()).unwrap_or(u32::MAX);
        let mut turn = tokio::time::interval(SWEEP_ROUND / stripes);
        let mut watch = self.room.watch();
        loop {
            let instant = turn.tick().await;
            self.sweep_next(now());
            watch.check(&self.room, instant);
        }
    }

    /// Drops what is over at `now` in the next stripe in turn.
    pub fn sweep_next(&self, now: Timestamp) {
        let turn = self.sweep_cursor.fetch_add(1, Ordering::Relaxed);
        self.sweep_stripe(&self.stripes[turn % self.stripes.len()], now);
    }

    /// Drops what is over at `now`, in one stripe after the other.
    pub fn sweep_all(&self, now: Timestamp) {
        self.stripes.iter().for_each(|stripe| self.sweep_stripe(stripe, now));
    }

    fn sweep_stripe(&self, stripe: &Mutex<Stripe>, now: Timestamp) {
        let mut stripe = stripe.lock();
        stripe.sweep(
            now,
            |counter| self.hash(&counter.key, counter.limit),
            |counter| self.hasher.hash_one(&*counter.key),
        );
        self.room.account(&mut stripe);
    }

    /// Carries out `charges` at once. See [`Store::charge`].
    pub fn carry_out(&self, charges: &[Charge], now: Timestamp) -> Readings {
        let is_simple = |charge: &Charge| {
            charge.lockout.is_none() && charge.reserve.is_none() && !charge.limit.is_concurrency()
        };
        match charges {
            [charge] if is_simple(charge) => [Ok(self.charge_alone(charge, now))].into_iter().collect(),
            charges if is_group(charges) => self.charge_together(charges, now),
            charges => charges.iter().map(|charge| Ok(self.charge_alone(charge, now))).collect(),
        }
    }

    /// Carries out one charge without a lockout. Its request passes unless it denies it.
    fn charge_alone(&self, charge: &Charge, now: Timestamp) -> Reading {
        let hash = self.hash(&charge.key, charge.limit);
        let mut stripe = self.stripes[self.stripe_index(hash)].lock();
        let before = stripe.usage;
        let reading = self.count(&mut stripe, hash, charge, now);
        if stripe.usage != before {
            self.room.account(&mut stripe);
            let keep = |counter: &Counter| *counter.key == *charge.key;
            self.make_room([&mut *stripe], now, keep);
        }
        reading
    }

    fn count(&self, stripe: &mut Stripe, hash: u64, charge: &Charge, now: Timestamp) -> Reading {
        let Charge { limit, hits, .. } = *charge;
        let found = stripe.counters.find_mut(hash, |counter| counter.is(&charge.key, limit));
        if let Some(counter) = found {
            // As in Redis, a charge that is not about holds does not see them.
            let state = counter.state.without_holds();
            state.correct(limit, now);
            if hits == Hits::Add(0) {
                return peek(state.for_decision(now), charge, now);
            }
            let bytes = log_bytes(state);
            // Copied, but for a log, which only notes what it would drop.
            let is_log = matches!(state, CounterState::SlidingLog(_));
            let held = (!is_log).then(|| state.clone());
            let mut meter = state.load(limit, now);
            let before = meter;
            let outcome = carry_out(charge, &mut meter, now);
            let has_counted = meter != before;
            if has_counted {
                state.save(meter, limit, now);
                counter.limit = limit;
            }
            let reading = Reading::of(charge.context(now), state, meter.used(), outcome);
            // As in Redis, only a charge that counts is written: after a change of the rate or of the clock, the
            // hits are the same.
            if let Some(held) = held.filter(|_| !has_counted) {
                *state = held;
            }
            let (rule, after) = (counter.rule, log_bytes(state));
            stripe.resize(rule, bytes, after);
            return reading;
        }
        let mut state = CounterState::empty(limit.algorithm);
        let mut meter = state.load(limit, now);
        let outcome = carry_out(charge, &mut meter, now);
        state.save(meter, limit, now);
        let reading = Reading::of(charge.context(now), &state, meter.used(), outcome);
        // A peek, a refund to nothing or a denial makes no counter.
        if meter.used() > 0 {
            let counter = Counter { key: Box::from(&*charge.key), limit, rule: charge.rule, state };
            stripe.insert(hash, counter, |counter| self.hash(&counter.key, counter.limit));
        }
        reading
    }

    fn hash(&self, key: &[u8], limit: Limit) -> u64 {
        self.hasher.hash_one((key, limit.counter_window()))
    }

    /// The table inside a stripe takes its bucket from the lowest bits of the hash and its tags from
    /// the highest; the stripe is taken from those between, so that each stripe uses all its buckets.
    fn stripe_index(&self, hash: u64) -> usize {
        let [_, b1, b2, ..] = hash.to_be_bytes();
        usize::from(u16::from_be_bytes([b1, b2])) % self.stripes.len()
    }
}

impl Inspect for MemoryStore {
    fn inspect(&self) -> InspectFuture<'_> {
        Box::pin(future::ready(StoreReport::Memory(self.figures())))
    }
}

impl Store for MemoryStore {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> ChargeFuture<'a> {
        Box::pin(future::ready(self.carry_out(charges, now)))
    }

    fn refund(&self, refunds: &[Charge], now: Timestamp) {
        self.carry_out(refunds, now);
    }
}

/// Carries out a charge that is alone in its request.
fn carry_out(charge: &Charge, meter: &mut Meter, now: Timestamp) -> ChargeOutcome {
    let Charge { limit, hits, mode, lease, .. } = *charge;
    match LeaseStep::of(lease, limit, now) {
        Some(step) => step.carry_out(hits, limit.capacity(), meter),
        None => engine::charge_alone(mode, hits, limit.capacity(), meter),
    }
}

/// Reading of a peek at `state`. It does not bring it up to now.
fn peek(mut state: CounterState, charge: &Charge, now: Timestamp) -> Reading {
    let mut meter = state.load(charge.limit, now);
    let outcome = carry_out(charge, &mut meter, now);
    Reading::of(charge.context(now), &state, meter.used(), outcome)
}

#[cfg(test)]
mod tests;

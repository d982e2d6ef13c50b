//! The embedded store: counters in this process's memory.
//!
//! Counters are spread over shards by a hash with a random seed, since clients choose keys. Each
//! charge locks one shard for one lookup. Nothing ever locks two shards or all of them, so that no
//! sweep and no scrape stops the world.

use std::future;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::{Charge, Charging, Reading, Readings, Store, StoreError, is_group};
use crate::engine::algorithm::group::{self, Ask};
use crate::engine::algorithm::{Meter, State};
use crate::engine::{Algorithm, Hits, Limit, Timestamp};

/// How long one round of [`MemoryStore::sweep`] over all shards takes.
const SWEEP_ROUND: Duration = Duration::from_secs(10);
/// A full store has about so many counters in each shard, which bounds how long a sweep locks one.
const COUNTERS_PER_SHARD: usize = 4096;
/// Enough for threads to meet in one shard rarely.
const MIN_SHARDS: usize = 256;
const MAX_SHARDS: usize = 4096;

/// The bounds of a memory store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySettings {
    /// Counters held at the most. Each takes up to 120 bytes besides its key.
    pub max_counters: usize,
}

/// Counters in memory: exact under contention, bounded in number, gone when the process ends.
#[derive(Debug)]
pub struct MemoryStore {
    settings: MemorySettings,
    hasher: RandomState,
    /// A power of two in number.
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    /// Counters in all shards together.
    len: AtomicUsize,
    /// Counts up; its lowest bits are the shard to sweep next.
    sweep_cursor: AtomicUsize,
}

#[derive(Debug)]
struct Shard {
    counters: HashTable<Counter>,
    /// No window of these counters ends before this, in seconds since the epoch: a sweep before then
    /// would find nothing.
    first_end_secs: u64,
}

/// A counter of a group of charges, there or not.
struct Member<'a> {
    key: &'a [u8],
    limit: Limit,
    hash: u64,
    shard: usize,
}

/// Locked shards, each with its place.
type Locked<'a> = SmallVec<[(usize, MutexGuard<'a, Shard>); 4]>;

impl Member<'_> {
    fn find<'s>(&self, shards: &'s mut Locked<'_>) -> Option<&'s mut Counter> {
        let (_, shard) = shards.iter_mut().find(|(index, _)| *index == self.shard)?;
        shard.counters.find_mut(self.hash, |counter| counter.is(self.key, self.limit))
    }
}

/// One counter. Its window and its algorithm are part of its name: a key whose rule was changed counts
/// anew, and one state never serves two kinds of window.
#[derive(Debug)]
struct Counter {
    key: Box<[u8]>,
    limit: Limit,
    state: State,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(settings: MemorySettings) -> Self {
        let shards = (settings.max_counters / COUNTERS_PER_SHARD).clamp(MIN_SHARDS, MAX_SHARDS);
        Self {
            settings,
            hasher: RandomState::default(),
            shards: (0..shards.next_power_of_two()).map(|_| CachePadded::default()).collect(),
            len: AtomicUsize::new(0),
            sweep_cursor: AtomicUsize::new(0),
        }
    }

    /// Counters held now, those included whose window is over and that were not yet swept.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether no counter is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops counters whose window is over, for ever: one shard after the other, every shard once in
    /// ten seconds. Whoever runs the process spawns this, once; `now` tells it the time.
    pub async fn sweep(&self, now: impl Fn() -> Timestamp) {
        let shards = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        let mut turn = tokio::time::interval(SWEEP_ROUND / shards);
        loop {
            turn.tick().await;
            self.sweep_next(now());
        }
    }

    /// Drops the counters of the next shard in turn whose window is over at `now`.
    pub fn sweep_next(&self, now: Timestamp) {
        let turn = self.sweep_cursor.fetch_add(1, Ordering::Relaxed);
        self.sweep_shard(&self.shards[turn % self.shards.len()], now);
    }

    fn sweep_shard(&self, shard: &Mutex<Shard>, now: Timestamp) {
        let removed = shard.lock().sweep(now, |counter| self.hash(&counter.key, counter.limit));
        self.len.fetch_sub(removed, Ordering::Relaxed);
    }

    /// Carries out charges that are decided together, under the locks of all their shards. `None` where
    /// they need more new counters than there is room for.
    fn charge_group(&self, charges: &[Charge], now: Timestamp) -> Option<Readings> {
        let mut members: SmallVec<[Member<'_>; 4]> = SmallVec::new();
        let mut asks: SmallVec<[Ask; 4]> = SmallVec::new();
        for Charge { key, limit, hits, mode, vote, .. } in charges {
            let known =
                members.iter().position(|member| member.key == &**key && is_one(member.limit, *limit));
            let counter = known.unwrap_or(members.len());
            if known.is_none() {
                let hash = self.hash(key, *limit);
                members.push(Member { key, limit: *limit, hash, shard: self.shard_index(hash) });
            }
            asks.push(Ask { counter, capacity: limit.capacity(), hits: *hits, mode: *mode, vote: *vote });
        }
        let mut shards = self.lock_all(&members);
        let mut states: SmallVec<[State; 4]> = members
            .iter()
            .map(|member| match member.find(&mut shards) {
                Some(counter) => counter.state.clone(),
                None => State::empty(member.limit.algorithm),
            })
            .collect();
        let load = |(state, member): (&mut State, &Member<'_>)| state.load(member.limit, now);
        let before: SmallVec<[Meter; 4]> = states.iter_mut().zip(&members).map(load).collect();
        let mut meters = before.clone();
        let outcomes = group::charge(&asks, &mut meters);
        let changed = |index: &usize| before.get(*index) != meters.get(*index);
        let changed: SmallVec<[usize; 4]> = (0..members.len()).filter(changed).collect();
        let new = changed.iter().filter(|index| members[**index].find(&mut shards).is_none()).count();
        self.take_room(new)?;
        for index in changed {
            let mut state = states[index].clone();
            state.save(meters[index], members[index].limit, now);
            self.write(&members[index], &mut shards, state);
        }
        let reading = |((charge, ask), (meter, outcome)): ((&Charge, &Ask), (Meter, _))| {
            let mut state = states[ask.counter].clone();
            state.save(meter, charge.limit, now);
            Ok(Reading::of(charge.asked(now), &state, meter.used(), outcome))
        };
        Some(charges.iter().zip(&asks).zip(outcomes).map(reading).collect())
    }

    /// Locks the shards of `members`, in the order of their places: two groups cannot wait for each
    /// other.
    fn lock_all(&self, members: &[Member<'_>]) -> Locked<'_> {
        let mut indexes: SmallVec<[usize; 4]> = members.iter().map(|member| member.shard).collect();
        indexes.sort_unstable();
        indexes.dedup();
        indexes.into_iter().map(|index| (index, self.shards[index].lock())).collect()
    }

    /// Sets a counter, and makes it where there is none: there is room for it.
    fn write(&self, member: &Member<'_>, shards: &mut Locked<'_>, state: State) {
        if let Some(counter) = member.find(shards) {
            counter.state = state;
            return;
        }
        let counter = Counter { key: member.key.into(), limit: member.limit, state };
        if let Some((_, shard)) = shards.iter_mut().find(|(index, _)| *index == member.shard) {
            shard.insert(member.hash, counter, |counter| self.hash(&counter.key, counter.limit));
        }
    }

    /// Carries out one charge at once. Its request passes unless it denies it.
    ///
    /// # Errors
    /// [`StoreError::Full`] where it needs a new counter and there is no room for one.
    pub fn charge_alone(&self, charge: &Charge, now: Timestamp) -> Result<Reading, StoreError> {
        let hash = self.hash(&charge.key, charge.limit);
        let shard = &self.shards[self.shard_index(hash)];
        if let Some(reading) = self.count(shard, hash, charge, now) {
            return Ok(reading);
        }
        // There may be room that only looks taken, here or in the shard whose turn it is.
        self.sweep_shard(shard, now);
        self.sweep_next(now);
        self.count(shard, hash, charge, now).ok_or_else(|| self.full())
    }

    const fn full(&self) -> StoreError {
        StoreError::Full { max_counters: self.settings.max_counters }
    }

    /// Carries out `charge`, or returns `None` where it needs a new counter and there is no room.
    fn count(&self, shard: &Mutex<Shard>, hash: u64, charge: &Charge, now: Timestamp) -> Option<Reading> {
        let Charge { limit, hits, mode, .. } = *charge;
        let mut shard = shard.lock();
        let found = shard.counters.find_mut(hash, |counter| counter.is(&charge.key, limit));
        if let Some(counter) = found {
            if hits == Hits::Add(0) {
                return Some(look(counter.state.clone(), charge, now));
            }
            let mut meter = counter.state.load(limit, now);
            let outcome = group::charge_alone(mode, hits, limit.capacity(), &mut meter);
            counter.state.save(meter, limit, now);
            return Some(Reading::of(charge.asked(now), &counter.state, meter.used(), outcome));
        }
        let mut state = State::empty(limit.algorithm);
        let mut meter = state.load(limit, now);
        let outcome = group::charge_alone(mode, hits, limit.capacity(), &mut meter);
        state.save(meter, limit, now);
        let reading = Reading::of(charge.asked(now), &state, meter.used(), outcome);
        // Looking, giving back to nothing, or being denied makes no counter.
        if meter.used() > 0 {
            self.take_room(1)?;
            let counter = Counter { key: Box::from(&*charge.key), limit, state };
            shard.insert(hash, counter, |counter| self.hash(&counter.key, counter.limit));
        }
        Some(reading)
    }

    /// Counts so many more counters, unless the store would hold more than it may.
    fn take_room(&self, new: usize) -> Option<usize> {
        let more = |len: usize| (len + new <= self.settings.max_counters.max(len)).then_some(len + new);
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()
    }

    fn hash(&self, key: &[u8], limit: Limit) -> u64 {
        self.hasher.hash_one((key, limit.window))
    }

    /// The table inside a shard takes its bucket from the lowest bits of the hash and its tags from
    /// the highest; the shard is taken from those between, so that each shard uses all its buckets.
    fn shard_index(&self, hash: u64) -> usize {
        let [_, b1, b2, ..] = hash.to_be_bytes();
        usize::from(u16::from_be_bytes([b1, b2])) % self.shards.len()
    }
}

impl Store for MemoryStore {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> Charging<'a> {
        let readings = match is_group(charges) && charges.len() > 1 {
            true => self.charge_group(charges, now).unwrap_or_else(|| {
                // There may be room that only looks taken.
                self.sweep_next(now);
                let again = self.charge_group(charges, now);
                again.unwrap_or_else(|| charges.iter().map(|_| Err(self.full())).collect())
            }),
            false => charges.iter().map(|charge| self.charge_alone(charge, now)).collect(),
        };
        Box::pin(future::ready(readings))
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self { counters: HashTable::new(), first_end_secs: u64::MAX }
    }
}

impl Shard {
    fn insert(&mut self, hash: u64, counter: Counter, hasher: impl Fn(&Counter) -> u64) {
        self.first_end_secs = self.first_end_secs.min(counter.end_secs());
        self.counters.insert_unique(hash, counter, hasher);
    }

    /// Drops the counters whose window is over at `now`, and room that is mostly empty. Returns how
    /// many counters were dropped.
    fn sweep(&mut self, now: Timestamp, hash: impl Fn(&Counter) -> u64) -> usize {
        if now.as_secs() < self.first_end_secs {
            return 0;
        }
        let before = self.counters.len();
        let mut first_end_secs = u64::MAX;
        self.counters.retain(|counter| {
            let end_secs = counter.end_secs();
            let over = end_secs <= now.as_secs();
            if !over {
                first_end_secs = first_end_secs.min(end_secs);
            }
            !over
        });
        self.first_end_secs = first_end_secs;
        let after = self.counters.len();
        if after < self.counters.capacity() / 4 {
            self.counters.shrink_to(after * 2, hash);
        }
        before - after
    }
}

impl Counter {
    fn is(&self, key: &[u8], limit: Limit) -> bool {
        is_one(self.limit, limit) && *self.key == *key
    }

    /// When it says nothing any more, in seconds since the epoch.
    fn end_secs(&self) -> u64 {
        self.state.end_secs(self.limit)
    }
}

/// What a look at `state` says. It changes nothing, not even by bringing it up to now.
fn look(mut state: State, charge: &Charge, now: Timestamp) -> Reading {
    let mut meter = state.load(charge.limit, now);
    let outcome = group::charge_alone(charge.mode, charge.hits, charge.limit.capacity(), &mut meter);
    Reading::of(charge.asked(now), &state, meter.used(), outcome)
}

/// Whether one counter serves both limits. How much each lets pass is another matter.
fn is_one(limit: Limit, other: Limit) -> bool {
    let same_kind = match (limit.algorithm, other.algorithm) {
        (Algorithm::TokenBucket { .. }, Algorithm::TokenBucket { .. }) => true,
        (one, other) => one == other,
    };
    same_kind && limit.window == other.window
}

#[cfg(test)]
mod tests;

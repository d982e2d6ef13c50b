//! The embedded store: counters in this process's memory.
//!
//! Counters are spread over shards by a hash with a random seed, since clients choose keys. Each
//! charge locks one shard for one lookup. Nothing ever locks two shards or all of them, so that no
//! sweep and no scrape stops the world.

mod shard;

use std::future;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use self::shard::{Counter, CounterName, LockoutCounter, Shard};
use super::lockouts::{Asking, Blocked, Lockouts, MAX_LISTED};
use super::{Charge, Charging, Lockout, Reading, Readings, Store, StoreError, is_group};
use crate::engine::algorithm::group::{self, Ask, Locked};
use crate::engine::algorithm::{Meter, State};
use crate::engine::{Hits, KeyWriter, Limit, Timestamp, lockout};

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
    /// Counters held at the most. Each takes about 110 bytes besides its key.
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

/// A counter of a group of charges, there or not.
struct Member<'a> {
    key: &'a [u8],
    limit: Limit,
    hash: u64,
    shard: usize,
}

/// A lockout of a group of charges, there or not.
struct Suspect<'a> {
    lockout: &'a Lockout,
    hash: u64,
    shard: usize,
}

/// Charges that are decided together.
struct Group<'a> {
    members: SmallVec<[Member<'a>; 4]>,
    suspects: SmallVec<[Suspect<'a>; 1]>,
    asks: SmallVec<[Ask; 4]>,
}

/// Locked shards, each with its place.
type Shards<'a> = SmallVec<[(usize, MutexGuard<'a, Shard>); 4]>;

impl Member<'_> {
    fn find<'s>(&self, shards: &'s mut Shards<'_>) -> Option<&'s mut Counter> {
        let (_, shard) = shards.iter_mut().find(|(index, _)| *index == self.shard)?;
        Some(&mut **shard.counters.find_mut(self.hash, |counter| counter.is(self.key, self.limit))?)
    }
}

impl<'a> Suspect<'a> {
    fn find<'s>(&self, shards: &'s mut Shards<'_>) -> Option<&'s mut LockoutCounter> {
        let (_, shard) = shards.iter_mut().find(|(index, _)| *index == self.shard)?;
        shard.lockouts.find_mut(self.hash, |counter| *counter.key == *self.lockout.key)
    }

    /// What is known of it, as of `now`.
    fn load(&self, shards: &mut Shards<'_>, now: Timestamp) -> Locked<'a> {
        let state = self.find(shards).map_or_else(lockout::State::default, |counter| counter.state);
        Locked::new(&self.lockout.ladder, state, now)
    }
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
        let removed = shard.lock().sweep(
            now,
            |counter| self.hash(&counter.key, counter.limit),
            |counter| self.hasher.hash_one(&*counter.key),
        );
        self.len.fetch_sub(removed, Ordering::Relaxed);
    }

    /// Carries out `charges` at once. See [`Store::charge`].
    pub fn carry_out(&self, charges: &[Charge], now: Timestamp) -> Readings {
        let is_simple = |charge: &Charge| charge.lockout.is_none();
        match charges {
            [charge] if is_simple(charge) => [self.charge_alone(charge, now)].into_iter().collect(),
            charges if is_group(charges) => self.charge_together(charges, now),
            charges => charges.iter().map(|charge| self.charge_alone(charge, now)).collect(),
        }
    }

    /// Carries out charges that are decided together.
    fn charge_together(&self, charges: &[Charge], now: Timestamp) -> Readings {
        self.charge_group(charges, now).unwrap_or_else(|| {
            // There may be room that only looks taken.
            self.sweep_next(now);
            let again = self.charge_group(charges, now);
            again.unwrap_or_else(|| charges.iter().map(|_| Err(self.full())).collect())
        })
    }

    /// Carries out charges that are decided together, under the locks of all their shards. `None` where
    /// they need more new counters than there is room for.
    fn charge_group(&self, charges: &[Charge], now: Timestamp) -> Option<Readings> {
        let Group { members, suspects, asks } = self.group(charges);
        let counters = members.iter().map(|member| member.shard);
        let mut shards = self.lock_all(counters.chain(suspects.iter().map(|suspect| suspect.shard)));
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
        let mut lockouts: SmallVec<[Locked<'_>; 1]> =
            suspects.iter().map(|suspect| suspect.load(&mut shards, now)).collect();
        let outcomes = group::charge(&asks, &mut meters, &mut lockouts);

        let changed = |index: &usize| before.get(*index) != meters.get(*index);
        let changed: SmallVec<[usize; 4]> = (0..members.len()).filter(changed).collect();
        let new = changed.iter().filter(|index| members[**index].find(&mut shards).is_none()).count();
        let is_new = |(suspect, locked): &(&Suspect<'_>, &Locked<'_>)| {
            !locked.state().is_empty() && suspect.find(&mut shards).is_none()
        };
        let new = new + suspects.iter().zip(&lockouts).filter(is_new).count();
        self.take_room(new)?;
        for index in changed {
            let mut state = states[index].clone();
            state.save(meters[index], members[index].limit, now);
            self.write(&members[index], &mut shards, state);
        }
        for (suspect, locked) in suspects.iter().zip(&lockouts) {
            self.write_lockout(suspect, &mut shards, locked, &members);
        }
        let reading = |((charge, ask), (meter, outcome)): ((&Charge, &Ask), (Meter, _))| {
            let mut state = states[ask.counter].clone();
            state.save(meter, charge.limit, now);
            let reading = Reading::of(charge.asked(now), &state, meter.used(), outcome);
            let ends_us = ask.lockout.map_or(0, |index| lockouts[index].state().ends_us);
            Ok(reading.locked_until(ends_us, now))
        };
        Some(charges.iter().zip(&asks).zip(outcomes).map(reading).collect())
    }

    /// The counters and the lockouts of `charges`, each once, and what is asked of them.
    fn group<'c>(&self, charges: &'c [Charge]) -> Group<'c> {
        let mut group = Group { members: SmallVec::new(), suspects: SmallVec::new(), asks: SmallVec::new() };
        for Charge { key, limit, hits, mode, vote, lockout, .. } in charges {
            let same = |member: &Member<'_>| member.key == &**key && member.limit.has_counter_of(*limit);
            let counter = group.members.iter().position(same).unwrap_or_else(|| {
                group.members.push(self.member(key, *limit));
                group.members.len() - 1
            });
            let lockout = lockout.as_ref().map(|lockout| {
                let same = |suspect: &Suspect<'_>| suspect.lockout.key == lockout.key;
                group.suspects.iter().position(same).unwrap_or_else(|| {
                    let hash = self.hasher.hash_one(&*lockout.key);
                    group.suspects.push(Suspect { lockout, hash, shard: self.shard_index(hash) });
                    group.suspects.len() - 1
                })
            });
            let (capacity, hits, mode, vote) = (limit.capacity(), *hits, *mode, *vote);
            group.asks.push(Ask { counter, capacity, hits, mode, vote, lockout });
        }
        group
    }

    fn member<'k>(&self, key: &'k [u8], limit: Limit) -> Member<'k> {
        let hash = self.hash(key, limit);
        Member { key, limit, hash, shard: self.shard_index(hash) }
    }

    /// Locks shards, in the order of their places: two callers cannot wait for each other.
    fn lock_all(&self, indexes: impl Iterator<Item = usize>) -> Shards<'_> {
        let mut indexes: SmallVec<[usize; 4]> = indexes.collect();
        indexes.sort_unstable();
        indexes.dedup();
        indexes.into_iter().map(|index| (index, self.shards[index].lock())).collect()
    }

    /// Sets a counter, and makes it where there is none: there is room for it.
    fn write(&self, member: &Member<'_>, shards: &mut Shards<'_>, state: State) {
        if let Some(counter) = member.find(shards) {
            counter.state = state;
            return;
        }
        let counter = Counter { key: member.key.into(), limit: member.limit, state };
        if let Some((_, shard)) = shards.iter_mut().find(|(index, _)| *index == member.shard) {
            shard.insert(member.hash, counter, |counter| self.hash(&counter.key, counter.limit));
        }
    }

    /// Sets a lockout, and makes it where there is none: there is room for it.
    fn write_lockout(
        &self,
        suspect: &Suspect<'_>,
        shards: &mut Shards<'_>,
        locked: &Locked<'_>,
        members: &[Member<'_>],
    ) {
        if locked.state().is_empty() && suspect.find(shards).is_none() {
            return;
        }
        let Some((_, shard)) = shards.iter_mut().find(|(index, _)| *index == suspect.shard) else { return };
        let end_us = locked.state().forgotten_us(locked.ladder()).unwrap_or(u64::MAX);
        let end_secs = end_us.div_ceil(1_000_000);
        shard.first_end_secs = shard.first_end_secs.min(end_secs);
        let key = &suspect.lockout.key;
        let hash = |counter: &LockoutCounter| self.hasher.hash_one(&*counter.key);
        let entry = shard.lockouts.entry(suspect.hash, |counter| *counter.key == **key, hash);
        let mut entry = entry.or_insert_with(|| LockoutCounter {
            key: Box::from(&**key),
            state: lockout::State::default(),
            struck: Vec::new(),
            end_secs,
        });
        let counter = entry.get_mut();
        (counter.state, counter.end_secs) = (locked.state(), end_secs);
        if let Some(strike) = locked.strike() {
            if strike.is_first {
                counter.struck.clear();
            }
            for member in strike.counters.iter().filter_map(|index| members.get(*index)) {
                counter.remember(member.key, member.limit);
            }
        }
    }

    /// The counters that struck the lockout of this key; `None` without a lockout.
    fn struck(&self, key: &[u8]) -> Option<Vec<CounterName>> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shards[self.shard_index(hash)].lock();
        shard.lockouts.find(hash, |counter| *counter.key == *key).map(|counter| counter.struck.clone())
    }

    /// Removes the lockout of this key and the counters that struck it. Returns whether there was one; `None`
    /// if other counters have struck meanwhile, and nothing was removed.
    fn lift_with(&self, key: &[u8], struck: &[CounterName]) -> Option<bool> {
        let hash = self.hasher.hash_one(key);
        let index = self.shard_index(hash);
        let members: SmallVec<[Member<'_>; 4]> =
            struck.iter().map(|CounterName { key, limit }| self.member(key, *limit)).collect();
        let mut shards = self.lock_all(members.iter().map(|member| member.shard).chain([index]));
        let (_, shard) = shards.iter_mut().find(|(locked, _)| *locked == index)?;
        let Ok(found) = shard.lockouts.find_entry(hash, |counter| *counter.key == *key) else {
            return Some(false);
        };
        if found.get().struck != struck {
            return None;
        }
        found.remove();
        let mut removed = 1;
        for member in &members {
            let Some((_, shard)) = shards.iter_mut().find(|(index, _)| *index == member.shard) else {
                continue;
            };
            let found =
                shard.counters.find_entry(member.hash, |counter| counter.is(member.key, member.limit));
            removed += usize::from(found.map(|entry| entry.remove()).is_ok());
        }
        self.len.fetch_sub(removed, Ordering::Relaxed);
        Some(true)
    }

    /// Carries out one charge that nobody is locked out by. Its request passes unless it denies it.
    fn charge_alone(&self, charge: &Charge, now: Timestamp) -> Result<Reading, StoreError> {
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

impl Lockouts for MemoryStore {
    fn list<'a>(&'a self, keys: &'a KeyWriter, now: Timestamp) -> Asking<'a, Vec<Blocked>> {
        let of_shard = |shard: &CachePadded<Mutex<Shard>>| {
            let shard = shard.lock();
            let blocked = |counter: &LockoutCounter| {
                Blocked::new(Bytes::copy_from_slice(&counter.key), counter.state, keys, now)
            };
            shard.lockouts.iter().filter_map(blocked).collect::<Vec<_>>()
        };
        let listed = self.shards.iter().flat_map(of_shard).take(MAX_LISTED).collect();
        Box::pin(future::ready(Ok(listed)))
    }

    fn lift<'a>(&'a self, key: &'a Bytes) -> Asking<'a, bool> {
        let lifted = loop {
            let Some(struck) = self.struck(key) else { break false };
            // The stripes of its counters are known only now, and must be locked in order: it may be another
            // lockout by then.
            if let Some(lifted) = self.lift_with(key, &struck) {
                break lifted;
            }
        };
        Box::pin(future::ready(Ok(lifted)))
    }
}

impl Store for MemoryStore {
    fn charge<'a>(&'a self, charges: &'a [Charge], now: Timestamp) -> Charging<'a> {
        Box::pin(future::ready(self.carry_out(charges, now)))
    }

    fn refund(&self, refunds: &[Charge], now: Timestamp) {
        self.carry_out(refunds, now);
    }
}

/// What a look at `state` says. It changes nothing, not even by bringing it up to now.
fn look(mut state: State, charge: &Charge, now: Timestamp) -> Reading {
    let mut meter = state.load(charge.limit, now);
    let outcome = group::charge_alone(charge.mode, charge.hits, charge.limit.capacity(), &mut meter);
    Reading::of(charge.asked(now), &state, meter.used(), outcome)
}

#[cfg(test)]
mod tests;

//! A part of the counters, under one lock.

use hashbrown::HashTable;

use crate::engine::algorithm::State;
use crate::engine::{Limit, Timestamp, lockout};

#[derive(Debug)]
pub(super) struct Shard {
    /// In boxes: a table that has just grown is half empty, and so are only places for pointers.
    pub(super) counters: HashTable<Box<Counter>>,
    pub(super) lockouts: HashTable<LockoutCounter>,
    /// Nothing of these says nothing any more before this, in seconds since the epoch: a sweep before then
    /// would find nothing.
    pub(super) first_end_secs: u64,
}

/// One counter. Its window and its algorithm are part of its name: a key whose rule was changed counts
/// anew, and one state never serves two kinds of window.
#[derive(Debug)]
pub(super) struct Counter {
    pub(super) key: Box<[u8]>,
    pub(super) limit: Limit,
    pub(super) state: State,
}

/// What tells a counter from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CounterName {
    pub(super) key: Box<[u8]>,
    pub(super) limit: Limit,
}

impl LockoutCounter {
    /// Names a counter that struck.
    pub(super) fn remember(&mut self, key: &[u8], limit: Limit) {
        self.struck.retain(|name| *name.key != *key || !name.limit.has_counter_of(limit));
        if self.struck.len() == lockout::MAX_STRUCK {
            self.struck.remove(0);
        }
        self.struck.push(CounterName { key: key.into(), limit });
    }
}

/// Somebody who was denied.
#[derive(Debug)]
pub(super) struct LockoutCounter {
    pub(super) key: Box<[u8]>,
    pub(super) state: lockout::State,
    /// The counters that struck, newest last: [`lockout::MAX_STRUCK`] at most.
    pub(super) struck: Vec<CounterName>,
    /// When there is nothing to remember, in seconds since the epoch.
    pub(super) end_secs: u64,
}

impl Default for Shard {
    fn default() -> Self {
        Self { counters: HashTable::new(), lockouts: HashTable::new(), first_end_secs: u64::MAX }
    }
}

impl Shard {
    pub(super) fn insert(&mut self, hash: u64, counter: Counter, hasher: impl Fn(&Counter) -> u64) {
        self.first_end_secs = self.first_end_secs.min(counter.end_secs());
        self.counters.insert_unique(hash, Box::new(counter), |counter| hasher(counter));
    }

    /// Drops what says nothing any more at `now`, and room that is mostly empty. Returns how much was
    /// dropped.
    pub(super) fn sweep(
        &mut self,
        now: Timestamp,
        hash: impl Fn(&Counter) -> u64,
        lockout_hash: impl Fn(&LockoutCounter) -> u64,
    ) -> usize {
        if now.as_secs() < self.first_end_secs {
            return 0;
        }
        let mut first_end_secs = u64::MAX;
        let mut stays = |end_secs: u64| {
            let over = end_secs <= now.as_secs();
            if !over {
                first_end_secs = first_end_secs.min(end_secs);
            }
            !over
        };
        let before = self.counters.len() + self.lockouts.len();
        self.counters.retain(|counter| stays(counter.end_secs()));
        self.lockouts.retain(|counter| stays(counter.end_secs));
        self.first_end_secs = first_end_secs;
        shrink(&mut self.counters, |counter| hash(counter));
        shrink(&mut self.lockouts, lockout_hash);
        before - self.counters.len() - self.lockouts.len()
    }
}

/// Gives back room that is mostly empty.
fn shrink<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    if table.len() < table.capacity() / 4 {
        table.shrink_to(table.len() * 2, hash);
    }
}

impl Counter {
    pub(super) fn is(&self, key: &[u8], limit: Limit) -> bool {
        self.limit.has_counter_of(limit) && *self.key == *key
    }

    /// When it says nothing any more, in seconds since the epoch.
    fn end_secs(&self) -> u64 {
        self.state.end_secs(self.limit)
    }
}

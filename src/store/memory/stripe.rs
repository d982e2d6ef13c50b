//! A part of the counters, under one lock, and what it holds for each rule.

use hashbrown::{HashMap, HashTable};

use crate::engine::algorithm::CounterState;
use crate::engine::{Limit, Timestamp, lockout};

/// A counter's box, its slot in a table that is three quarters full, and its share of what is known of its
/// rule, in bytes.
const COUNTER_BYTES: usize = 100;
/// A lockout's slot in a table that is half full.
const LOCKOUT_BYTES: usize = 2 * size_of::<LockoutCounter>();
/// A sliding log's box.
const LOG_BYTES: usize = 48;
/// A run of hits in a sliding log.
const RUN_BYTES: usize = 16;
/// A ticket's entries in two ordered maps.
const TICKET_BYTES: usize = 80;
/// The box of a counter with holds.
const BUDGET_BYTES: usize = 256;
/// A ticket's entries there.
const HOLD_BYTES: usize = 128;

#[derive(Debug)]
pub(super) struct Stripe {
    /// Boxed: a table that has just grown is half empty, and then only places for pointers are.
    pub(super) counters: HashTable<Box<Counter>>,
    pub(super) lockouts: HashTable<LockoutCounter>,
    /// Usage of the counters of each rule, by [`Counter::rule`].
    pub(super) held: HashMap<u32, Held, foldhash::fast::RandomState>,
    pub(super) usage: Usage,
    /// The usage that the store knows of.
    pub(super) reported: Usage,
    /// Earliest expiry in this stripe, in seconds since the epoch. Sweeping before it is a no-op.
    pub(super) first_end_secs: u64,
}

/// Number and bytes of counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) len: usize,
    pub(super) bytes: usize,
}

/// Usage of a stripe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) counters: Held,
    pub(super) lockouts: Held,
}

impl Usage {
    /// Counters and lockouts together.
    pub(super) fn total(&self) -> Held {
        let Self { counters, lockouts } = self;
        Held { len: counters.len + lockouts.len, bytes: counters.bytes + lockouts.bytes }
    }
}

/// One counter. Its window and its algorithm are part of its name: a key whose rule was given another window
/// starts at zero, and one state never serves two kinds of window.
#[derive(Debug)]
pub(super) struct Counter {
    pub(super) key: Box<[u8]>,
    /// The limit it was charged for last.
    pub(super) limit: Limit,
    /// [`crate::store::Charge::rule`] of its first charge.
    pub(super) rule: u32,
    pub(super) state: CounterState,
}

/// Identity of a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CounterName {
    pub(super) key: Box<[u8]>,
    pub(super) limit: Limit,
}

/// Strikes, and the block they led to.
#[derive(Debug)]
pub(super) struct LockoutCounter {
    pub(super) key: Box<[u8]>,
    pub(super) state: lockout::LockoutState,
    /// The counters that struck, newest last: [`lockout::MAX_STRUCK_COUNTERS`] at most.
    pub(super) struck: Vec<CounterName>,
    /// When there is nothing left to remember, in seconds since the epoch.
    pub(super) end_secs: u64,
}

impl Default for Stripe {
    fn default() -> Self {
        Self {
            counters: HashTable::new(),
            lockouts: HashTable::new(),
            held: HashMap::default(),
            usage: Usage::default(),
            reported: Usage::default(),
            first_end_secs: u64::MAX,
        }
    }
}

impl Stripe {
    pub(super) fn insert(&mut self, hash: u64, counter: Counter, hasher: impl Fn(&Counter) -> u64) {
        self.first_end_secs = self.first_end_secs.min(counter.end_secs());
        self.add(counter.rule, 1, counter.bytes());
        self.counters.insert_unique(hash, Box::new(counter), |counter| hasher(counter));
    }

    /// Removes a counter, if it is there.
    pub(super) fn remove(&mut self, hash: u64, key: &[u8], limit: Limit) {
        if let Ok(found) = self.counters.find_entry(hash, |counter| counter.is(key, limit)) {
            let (counter, _) = found.remove();
            self.subtract(&counter);
        }
    }

    /// Removes the counter in a bucket of the table.
    pub(super) fn remove_bucket(&mut self, index: usize) {
        if let Ok(found) = self.counters.get_bucket_entry(index) {
            let (counter, _) = found.remove();
            self.subtract(&counter);
        }
    }

    /// Inserts or changes a lockout.
    pub(super) fn write_lockout(
        &mut self,
        hash: u64,
        key: &[u8],
        hasher: impl Fn(&LockoutCounter) -> u64,
        change: impl FnOnce(&mut LockoutCounter),
    ) {
        let lockouts = &mut self.usage.lockouts;
        let entry = self.lockouts.entry(hash, |counter| *counter.key == *key, hasher);
        let mut entry = entry.or_insert_with(|| {
            let counter = LockoutCounter::new(key);
            *lockouts = Held { len: lockouts.len + 1, bytes: lockouts.bytes + counter.bytes() };
            counter
        });
        let counter = entry.get_mut();
        let before = counter.bytes();
        change(counter);
        lockouts.bytes = lockouts.bytes + counter.bytes() - before;
        self.first_end_secs = self.first_end_secs.min(counter.end_secs);
    }

    /// Removes a lockout, if it is there.
    pub(super) fn remove_lockout(&mut self, hash: u64, key: &[u8]) {
        if let Some(index) = self.lockouts.find_bucket_index(hash, |counter| *counter.key == *key) {
            self.remove_lockout_bucket(index);
        }
    }

    /// Removes the lockout in a bucket of the table.
    pub(super) fn remove_lockout_bucket(&mut self, index: usize) {
        if let Ok(found) = self.lockouts.get_bucket_entry(index) {
            let (counter, _) = found.remove();
            self.usage.lockouts.len -= 1;
            self.usage.lockouts.bytes -= counter.bytes();
        }
    }

    /// Records that a counter of `rule` has grown from `before` bytes to `after`.
    pub(super) fn resize(&mut self, rule: u32, before: usize, after: usize) {
        if before != after {
            let held = self.held.entry(rule).or_default();
            held.bytes = held.bytes + after - before;
            self.usage.counters.bytes = self.usage.counters.bytes + after - before;
        }
    }

    fn add(&mut self, rule: u32, len: usize, bytes: usize) {
        for held in [self.held.entry(rule).or_default(), &mut self.usage.counters] {
            *held = Held { len: held.len + len, bytes: held.bytes + bytes };
        }
    }

    fn subtract(&mut self, counter: &Counter) {
        let bytes = counter.bytes();
        let counters = &mut self.usage.counters;
        *counters = Held { len: counters.len - 1, bytes: counters.bytes - bytes };
        if let Some(held) = self.held.get_mut(&counter.rule) {
            *held = Held { len: held.len - 1, bytes: held.bytes - bytes };
            if held.len == 0 {
                self.held.remove(&counter.rule);
            }
        }
    }

    /// Drops what is over at `now`, and room that is mostly empty.
    pub(super) fn sweep(
        &mut self,
        now: Timestamp,
        hash: impl Fn(&Counter) -> u64,
        lockout_hash: impl Fn(&LockoutCounter) -> u64,
    ) {
        if now.as_secs() < self.first_end_secs {
            return;
        }
        let mut first_end_secs = u64::MAX;
        let mut stays = |end_secs: u64| {
            let over = end_secs <= now.as_secs();
            if !over {
                first_end_secs = first_end_secs.min(end_secs);
            }
            !over
        };
        self.counters.retain(|counter| stays(counter.end_secs()));
        self.lockouts.retain(|counter| stays(counter.end_secs));
        self.first_end_secs = first_end_secs;
        shrink(&mut self.counters, |counter| hash(counter));
        shrink(&mut self.lockouts, lockout_hash);
        self.recount();
    }

    /// Recounts what is held, so that the figures are right after a sweep, whatever went wrong before.
    fn recount(&mut self) {
        self.usage = Usage::default();
        self.held.clear();
        let counters = std::mem::take(&mut self.counters);
        for counter in &counters {
            self.add(counter.rule, 1, counter.bytes());
        }
        self.counters = counters;
        self.held.shrink_to(2 * self.held.len());
        let bytes = self.lockouts.iter().map(LockoutCounter::bytes).sum();
        self.usage.lockouts = Held { len: self.lockouts.len(), bytes };
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
        self.limit.shares_counter_with(limit) && *self.key == *key
    }

    /// When it says nothing any more, in seconds since the epoch.
    pub(super) fn end_secs(&self) -> u64 {
        self.state.end_secs(self.limit)
    }

    /// About what it takes.
    pub(super) fn bytes(&self) -> usize {
        COUNTER_BYTES + allocated(self.key.len()) + log_bytes(&self.state)
    }
}

impl LockoutCounter {
    fn new(key: &[u8]) -> Self {
        Self { key: key.into(), state: lockout::LockoutState::default(), struck: Vec::new(), end_secs: 0 }
    }

    /// Names a counter that struck.
    pub(super) fn remember(&mut self, key: &[u8], limit: Limit) {
        self.struck.retain(|name| *name.key != *key || !name.limit.shares_counter_with(limit));
        if self.struck.len() == lockout::MAX_STRUCK_COUNTERS {
            self.struck.remove(0);
        }
        self.struck.push(CounterName { key: key.into(), limit });
    }

    /// About what it takes.
    pub(super) fn bytes(&self) -> usize {
        let struck = self.struck.capacity() * size_of::<CounterName>();
        let names: usize = self.struck.iter().map(|name| allocated(name.key.len())).sum();
        LOCKOUT_BYTES + allocated(self.key.len()) + struck + names
    }
}

/// Bytes of the hits or tickets that a state remembers one by one.
pub(super) fn log_bytes(state: &CounterState) -> usize {
    match state {
        CounterState::SlidingLog(log) => LOG_BYTES + RUN_BYTES * log.capacity(),
        CounterState::Places(places) => LOG_BYTES + TICKET_BYTES * places.len(),
        CounterState::Budget(budget) => BUDGET_BYTES + HOLD_BYTES * budget.tickets(),
        CounterState::FixedWindow(_) | CounterState::SlidingWindow(_) | CounterState::TokenBucket(_) => 0,
    }
}

/// Bytes that the allocator hands out for so many.
const fn allocated(len: usize) -> usize {
    len.next_multiple_of(16)
}

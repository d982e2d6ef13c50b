//! Leases of every core: credits by counter, and the counters that are hot enough for them.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashTable};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::engine::lease::cell::{Cell, Grant, Lot, Moment, Spend};
use crate::engine::{Hits, LeaseTerms, Limit, Timestamp};
use crate::store::Charge;

/// Counters with credits at most, and the locks that they share.
const MAX_CELLS: usize = 10_000;
const STRIPES: usize = 64;
/// Hits in one period, in microseconds, from which a counter is leased.
const HOT_HITS: u64 = 10;
const PERIOD_US: u64 = 100_000;
/// Slots that count hits of counters without a cell. Two counters in one slot displace each other.
const SLOTS: usize = 4_096;

/// Credits of this process.
#[derive(Debug)]
pub struct Leases {
    stripes: Box<[CachePadded<Mutex<HashTable<Entry>>>]>,
    hasher: RandomState,
    /// 32 bits of the counter's hash, 16 of the period, 16 of its hits.
    hot: Box<[AtomicU64]>,
    shares: u16,
    begun: Instant,
    counts: Mutex<HashMap<u32, Arc<LeaseCounts>>>,
}

#[derive(Debug)]
struct Entry {
    key: Bytes,
    cell: Cell,
    counts: Arc<LeaseCounts>,
}

impl Entry {
    fn is_for(&self, charge: &Charge) -> bool {
        self.key == charge.key && self.cell.limit().shares_counter_with(charge.limit)
    }
}

/// Counts of one rule.
#[derive(Debug, Default)]
pub(super) struct LeaseCounts {
    asks: AtomicU64,
    granted: AtomicU64,
    spent: AtomicU64,
    put_back: AtomicU64,
    returned: AtomicU64,
    stranded: AtomicU64,
}

/// Figures of the leases of one rule, in hits except for [`Self::asks`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseFigures {
    /// Hits that are held now.
    pub credits: u64,
    /// Leases that were asked for, in calls.
    pub asks: u64,
    /// Hits charged in advance.
    pub granted: u64,
    /// Hits spent without asking Redis.
    pub spent: u64,
    /// Hits given back to Redis.
    pub returned: u64,
    /// Hits lost: their window ended, their server was replaced, or it did not answer.
    pub stranded: u64,
}

impl LeaseCounts {
    fn add(count: &AtomicU64, hits: u32) {
        if hits > 0 {
            count.fetch_add(hits.into(), Ordering::Relaxed);
        }
    }

    /// Counts credits that were taken out. Returns whether they can be returned.
    fn add_out(&self, lot: Lot, limit: Limit, at: Moment) -> bool {
        let is_returnable = lot.is_returnable(limit, at);
        Self::add(if is_returnable { &self.returned } else { &self.stranded }, lot.credits);
        is_returnable
    }

    fn figures(&self) -> LeaseFigures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let put_back = read(&self.put_back);
        let (granted, spent) = (read(&self.granted), read(&self.spent).saturating_sub(put_back));
        let (returned, stranded) = (read(&self.returned), read(&self.stranded));
        let credits = granted.saturating_sub(spent).saturating_sub(returned).saturating_sub(stranded);
        LeaseFigures { credits, asks: read(&self.asks), granted, spent, returned, stranded }
    }
}

/// Credits that were granted, and where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    /// In the cell.
    Held(Lot),
    /// Nowhere: the limit has changed meanwhile, so they must be returned.
    Return(Lot),
    /// No credits were granted.
    Nothing,
}

/// Result of [`Leases::spend`].
#[derive(Debug, Default)]
pub(super) struct Attempt {
    pub(super) spend: Spend,
    /// Credits of another limit on the same counter, to be returned.
    pub(super) outdated: Option<(Limit, SmallVec<[Lot; 2]>)>,
}

impl Leases {
    /// No credits yet, in one of `replicas` processes.
    pub fn new(replicas: u32) -> Self {
        let shares = u16::try_from(2 * replicas.clamp(4, 10_000)).unwrap_or(u16::MAX);
        Self {
            stripes: (0..STRIPES).map(|_| CachePadded::default()).collect(),
            hasher: RandomState::default(),
            hot: (0..SLOTS).map(|_| AtomicU64::default()).collect(),
            shares,
            begun: Instant::now(),
            counts: Mutex::default(),
        }
    }

    /// Part of the room that one lease takes at most.
    pub(super) const fn shares(&self) -> u16 {
        self.shares
    }

    /// This moment, for a request that read the clock at `now`.
    pub(super) fn moment(&self, now: Timestamp, generation: u64) -> Moment {
        let mono_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        Moment { now, mono_us, generation }
    }

    /// Figures of the rule with this id.
    pub fn figures(&self, rule: u32) -> LeaseFigures {
        self.counts.lock().get(&rule).map_or_else(LeaseFigures::default, |counts| counts.figures())
    }

    fn counts(&self, rule: u32) -> Arc<LeaseCounts> {
        Arc::clone(self.counts.lock().entry(rule).or_default())
    }

    fn hash(&self, charge: &Charge) -> u64 {
        self.hasher.hash_one((&charge.key, charge.limit.counter_window()))
    }

    fn stripe(&self, hash: u64) -> &Mutex<HashTable<Entry>> {
        let index = usize::try_from(hash >> 48).unwrap_or_default() % STRIPES;
        &self.stripes[index]
    }

    /// Spends the hits of `charge`, if there are credits for them.
    pub(super) fn spend(&self, charge: &Charge, terms: LeaseTerms, at: Moment) -> Attempt {
        let Hits::Add(hits) = charge.hits else { return Attempt::default() };
        let hash = self.hash(charge);
        let mut stripe = self.stripe(hash).lock();
        let Some(entry) = stripe.find_mut(hash, |entry| entry.is_for(charge)) else {
            if hits > 0
                && let Some(per_sec) = self.heat(hash, hits, at)
                && let Some(entry) =
                    self.insert(&mut stripe, hash, charge, Cell::new(charge.limit, terms, per_sec, at))
            {
                return Attempt { spend: spend(entry, at, 0), outdated: None };
            }
            return Attempt::default();
        };
        if entry.cell.is_for(charge.limit, terms) {
            return Attempt { spend: spend(entry, at, hits), outdated: None };
        }
        let before = entry.cell.limit();
        let outdated = entry.cell.change_limit(charge.limit, terms);
        for lot in &outdated {
            entry.counts.add_out(*lot, before, at);
        }
        Attempt { spend: spend(entry, at, hits), outdated: Some((before, outdated)) }
    }

    /// Counts hits of a counter without a cell. Returns its hits per second once it is hot.
    fn heat(&self, hash: u64, hits: u32, at: Moment) -> Option<u64> {
        let slot = &self.hot[usize::try_from(hash % SLOTS as u64).unwrap_or_default()];
        let tag = (hash & 0xffff_ffff_0000_0000) | (((at.mono_us / PERIOD_US) & 0xffff) << 16);
        let seen = slot.load(Ordering::Relaxed);
        let before = if seen & !0xffff == tag { seen & 0xffff } else { 0 };
        let count = before.saturating_add(hits.into()).min(0xffff);
        // Two cores may lose a hit: it is a measure, not a count.
        slot.store(tag | count, Ordering::Relaxed);
        (count >= HOT_HITS).then_some(count * 1_000_000 / PERIOD_US)
    }

    fn insert<'s>(
        &self,
        stripe: &'s mut HashTable<Entry>,
        hash: u64,
        charge: &Charge,
        cell: Cell,
    ) -> Option<&'s mut Entry> {
        if stripe.len() >= MAX_CELLS / STRIPES {
            let mono_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            stripe.retain(|entry| !entry.cell.is_idle(mono_us));
            if stripe.len() >= MAX_CELLS / STRIPES {
                return None;
            }
        }
        let entry = Entry { key: charge.key.clone(), cell, counts: self.counts(charge.rule) };
        let rehash = |entry: &Entry| self.hasher.hash_one((&entry.key, entry.cell.limit().counter_window()));
        Some(stripe.insert_unique(hash, entry, rehash).into_mut())
    }

    /// Calls `change` with the cell of the counter of `charge`, if it has one.
    fn with<T>(&self, charge: &Charge, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let hash = self.hash(charge);
        let mut stripe = self.stripe(hash).lock();
        stripe.find_mut(hash, |entry| entry.is_for(charge)).map(change)
    }

    /// Adds the credits of an answer to an ask under `terms`.
    pub(super) fn granted(&self, charge: &Charge, terms: LeaseTerms, grant: Grant, at: Moment) -> Granted {
        let granted = self.with(charge, |entry| {
            let (is_current, lot) = (entry.cell.is_for(charge.limit, terms), entry.cell.granted(grant, at));
            LeaseCounts::add(&entry.counts.granted, grant.credits);
            match lot {
                None => Granted::Nothing,
                Some(lot) if is_current && entry.cell.holds(lot) => Granted::Held(lot),
                Some(lot) => {
                    entry.cell.expire(lot.id);
                    entry.counts.add_out(lot, charge.limit, at);
                    Granted::Return(lot)
                }
            }
        });
        granted.unwrap_or(Granted::Nothing)
    }

    /// Records that an ask has no answer.
    pub(super) fn lost(&self, charge: &Charge, at: Moment) {
        self.with(charge, |entry| entry.cell.lost(at));
    }

    /// Takes out a lot whose hold is over. Returns the rest of its credits if they can be returned.
    pub(super) fn expire(&self, charge: &Charge, id: u64, at: Moment) -> Option<Lot> {
        let take = |entry: &mut Entry| {
            let lot = entry.cell.expire(id)?;
            entry.counts.add_out(lot, entry.cell.limit(), at).then_some(lot)
        };
        let lot = self.with(charge, take).flatten();
        let hash = self.hash(charge);
        let mut stripe = self.stripe(hash).lock();
        if let Ok(entry) = stripe.find_entry(hash, |entry| entry.is_for(charge))
            && entry.get().cell.is_idle(at.mono_us)
        {
            entry.remove();
        }
        lot
    }

    /// Puts credits back whose request was denied. False if they must be returned.
    pub(super) fn put_back(&self, charge: &Charge, lot: Lot, at: Moment) -> bool {
        let put_back = |entry: &mut Entry| {
            LeaseCounts::add(&entry.counts.put_back, lot.credits);
            let is_back = entry.cell.put_back(lot);
            if !is_back {
                entry.counts.add_out(lot, charge.limit, at);
            }
            is_back
        };
        self.with(charge, put_back).unwrap_or(false)
    }

    /// Records that a return was not carried out. True if the credits can be spent further: then the lot is back.
    pub(super) fn keep(&self, charge: &Charge, terms: LeaseTerms, lot: Lot) -> bool {
        let keep = |entry: &mut Entry| {
            // It was counted as returned. Counters do not decrease, so it is granted anew.
            LeaseCounts::add(&entry.counts.granted, lot.credits);
            let is_kept = entry.cell.is_for(charge.limit, terms) && entry.cell.keep(lot);
            if !is_kept {
                LeaseCounts::add(&entry.counts.stranded, lot.credits);
            }
            is_kept
        };
        self.with(charge, keep).unwrap_or(false)
    }

    /// Drops the credits of a counter that was removed.
    pub(super) fn forget(&self, charge: &Charge) {
        self.with(charge, |entry| {
            let dropped = entry.cell.close();
            dropped.iter().for_each(|lot| LeaseCounts::add(&entry.counts.stranded, lot.credits));
        });
    }

    /// Records a reading of the counter.
    pub(super) fn observe(&self, charge: &Charge, used: u64) {
        self.with(charge, |entry| match charge.hits {
            Hits::Refund(_) => entry.cell.refunded(),
            Hits::Add(_) => entry.cell.observe(used),
        });
    }
}

fn spend(entry: &mut Entry, at: Moment, hits: u32) -> Spend {
    let spend = entry.cell.spend(at, hits);
    LeaseCounts::add(&entry.counts.stranded, spend.stranded);
    if let Some((_, lot)) = &spend.spent {
        LeaseCounts::add(&entry.counts.spent, lot.credits);
    }
    LeaseCounts::add(&entry.counts.asks, spend.want.is_some().into());
    spend
}

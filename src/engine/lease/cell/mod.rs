//! Credits of one counter in one replica: a state machine without I/O, clock or lock.

use smallvec::SmallVec;

use super::LeaseTerms;
use crate::engine::algorithm::group::ChargeOutcome;
use crate::engine::algorithm::places::PlaceReport;
use crate::engine::algorithm::{CounterState, Reading, Ticks, token_bucket};
use crate::engine::{Algorithm, Limit, Timestamp};

/// Leases that a cell holds at most: one that is spent, and one asked for ahead.
const MAX_LOTS: usize = 2;
/// Hits below which a lease saves nothing, unless its terms allow no more.
const MIN_WANT: u32 = 4;
/// Time over which demand is measured, and the weight of earlier measurements, in microseconds.
const MEASURE_US: u64 = 50_000;
const MEMORY_US: u64 = 200_000;

/// A moment as a replica sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Time of the request.
    pub now: Timestamp,
    /// Monotonic time in microseconds, from any start.
    pub mono_us: u64,
    /// Generation of the store: another one may have lost the latest charges.
    pub generation: u64,
}

/// Credits of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lot {
    /// Number in its cell.
    pub id: u64,
    /// Hits that are not spent.
    pub credits: u32,
    /// Time of the charge by the store's clock.
    pub charged: Timestamp,
    /// Start of its window in seconds; 0 except for fixed windows.
    pub window_start_secs: u64,
    /// Times from which it is not spent, by both clocks: a machine that was suspended stops the monotonic one, and the
    /// other may be set back.
    until_us: u64,
    until: Timestamp,
    generation: u64,
}

/// A lease that the store granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Hits charged in advance; may be 0.
    pub credits: u32,
    /// Used hits after it.
    pub used: u64,
    /// Time of the charge by the store's clock.
    pub charged: Timestamp,
    /// When it was asked for.
    pub sent: Moment,
}

/// Result of an attempt to spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spend {
    /// Reading of the hits, and the credits taken as one lot of the earliest lease; `None` if there are too few credits.
    pub spent: Option<(Reading, Lot)>,
    /// Hits to ask the store for.
    pub want: Option<u32>,
    /// Credits that ended with their window or their store.
    pub stranded: u32,
}

/// Credits of one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    limit: Limit,
    terms: LeaseTerms,
    window_start_secs: u64,
    lots: SmallVec<[Lot; MAX_LOTS]>,
    next_id: u64,
    /// Used hits of the counter when it was last seen.
    used_seen: u64,
    is_asking: bool,
    quiet_until_us: u64,
    demand: Demand,
    round_trip_us: u64,
    last_spend_us: u64,
}

/// Hits per second that are asked for here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Demand {
    since_us: u64,
    hits: u64,
    per_sec: u64,
}

impl Demand {
    fn note(&mut self, hits: u32, mono_us: u64) {
        self.hits = self.hits.saturating_add(hits.into());
        let elapsed_us = mono_us.saturating_sub(self.since_us);
        if elapsed_us < MEASURE_US {
            return;
        }
        let measured = self.hits.saturating_mul(1_000_000) / elapsed_us;
        let sum =
            u128::from(self.per_sec) * u128::from(MEMORY_US) + u128::from(measured) * u128::from(elapsed_us);
        let per_sec = sum / (u128::from(MEMORY_US) + u128::from(elapsed_us));
        let per_sec = u64::try_from(per_sec).unwrap_or(u64::MAX);
        *self = Self { since_us: mono_us, hits: 0, per_sec };
    }

    /// Expected hits in a time, rounded up.
    fn within(self, micros: u64) -> u64 {
        self.per_sec.saturating_mul(micros).div_ceil(1_000_000)
    }
}

impl Cell {
    /// Cell without credits, for a counter that is asked for `per_sec` hits per second.
    pub fn new(limit: Limit, terms: LeaseTerms, per_sec: u64, at: Moment) -> Self {
        Self {
            limit,
            terms,
            window_start_secs: window_start_secs(limit, at.now),
            lots: SmallVec::new(),
            next_id: 0,
            used_seen: 0,
            is_asking: false,
            quiet_until_us: 0,
            demand: Demand { since_us: at.mono_us, hits: 0, per_sec },
            round_trip_us: 0,
            last_spend_us: at.mono_us,
        }
    }

    /// Limit that the credits count towards.
    pub const fn limit(&self) -> Limit {
        self.limit
    }

    /// True if its credits may be spent on this limit.
    pub fn is_for(&self, limit: Limit, terms: LeaseTerms) -> bool {
        self.limit == limit && self.terms == terms
    }

    /// Credits held.
    pub fn credits(&self) -> u64 {
        self.lots.iter().map(|lot| u64::from(lot.credits)).sum()
    }

    /// True if nothing is lost with it.
    pub fn is_idle(&self, mono_us: u64) -> bool {
        let is_unused = self.last_spend_us.saturating_add(1_000_000) <= mono_us;
        self.lots.is_empty() && !self.is_asking && is_unused
    }

    /// Spends `hits` from the earliest lease on, or none if there are too few. Hits of 0 look.
    pub fn spend(&mut self, at: Moment, hits: u32) -> Spend {
        self.demand.note(hits, at.mono_us);
        self.last_spend_us = at.mono_us;
        let window_start_secs = window_start_secs(self.limit, at.now);
        if window_start_secs < self.window_start_secs {
            // A request that read the clock before the window began.
            return Spend::default();
        }
        let stranded = self.drop_lost(at, window_start_secs);
        let spendable = self.spendable(at);
        let is_covered = spendable > 0 && spendable >= u64::from(hits);
        let spent = is_covered.then(|| self.take(at, hits)).flatten();
        let left = if spent.is_some() { spendable - u64::from(hits) } else { 0 };
        let want = self.want(at, left);
        self.is_asking |= want.is_some();
        Spend { spent: spent.map(|lot| (self.reading(at), lot)), want, stranded }
    }

    /// Drops credits of an earlier window or of another generation of the store. Returns how many there were.
    fn drop_lost(&mut self, at: Moment, window_start_secs: u64) -> u32 {
        let is_over = window_start_secs != self.window_start_secs;
        if is_over {
            (self.window_start_secs, self.used_seen, self.quiet_until_us) = (window_start_secs, 0, 0);
        }
        let mut stranded = 0_u32;
        self.lots.retain(|lot| {
            let is_kept = !is_over && lot.generation == at.generation;
            stranded = stranded.saturating_add(if is_kept { 0 } else { lot.credits });
            is_kept
        });
        stranded
    }

    fn spendable(&self, at: Moment) -> u64 {
        let spendable = self.lots.iter().filter(|lot| lot.is_spendable(at));
        spendable.map(|lot| u64::from(lot.credits)).sum()
    }

    /// Takes credits that are there.
    fn take(&mut self, at: Moment, hits: u32) -> Option<Lot> {
        let (mut taken, mut missing) = (None, hits);
        for lot in self.lots.iter_mut().filter(|lot| lot.is_spendable(at)) {
            let of_lot = lot.credits.min(missing);
            (lot.credits, missing) = (lot.credits - of_lot, missing - of_lot);
            taken = taken.or(Some(Lot { credits: hits, ..*lot }));
        }
        self.lots.retain(|lot| lot.credits > 0);
        taken
    }

    /// Hits to ask for with so many credits left.
    fn want(&self, at: Moment, left: u64) -> Option<u32> {
        if self.is_asking || at.mono_us < self.quiet_until_us || self.lots.len() >= MAX_LOTS {
            return None;
        }
        let capacity = u64::from(self.limit.capacity());
        let half = (capacity / 2).max(1);
        let room = capacity.saturating_sub(self.used_seen).min(half);
        // Near the limit, leases shrink: what one replica holds, the others miss.
        let want = self.demand.within(self.terms.hold_us.into()).saturating_mul(room) / half;
        let want = u32::try_from(want).unwrap_or(u32::MAX).min(self.terms.max);
        let low = self.demand.within(2 * self.round_trip_us);
        let low = if u64::from(want) < 4 * low { 0 } else { low };
        (want >= MIN_WANT.min(self.terms.max) && want > 0 && left <= low).then_some(want)
    }

    fn reading(&self, at: Moment) -> Reading {
        // Other replicas may have spent more meanwhile: at least this much is used.
        let used = self.used_seen.saturating_sub(self.credits());
        let reset = match self.limit.algorithm {
            Algorithm::TokenBucket { .. } => {
                let ticks = Ticks::of(self.limit, at.now);
                let level = used.saturating_mul(ticks.window);
                let state = token_bucket::State { at: ticks.now, level, tick_us: ticks.tick_us };
                CounterState::TokenBucket(state).reset(self.limit, at.now)
            }
            _ => self.limit.window.remaining(at.now),
        };
        let places = PlaceReport::NONE;
        Reading { outcome: ChargeOutcome::Charged, used, reset, budget: None, places }
    }

    /// Records a reading of the counter.
    pub fn observe(&mut self, used: u64) {
        self.used_seen = used;
    }

    /// Lets the cell ask at once: hits were given back to the counter.
    pub fn refunded(&mut self) {
        self.quiet_until_us = 0;
    }

    /// Adds the credits of an answer. Returns the lot, also if it is not kept, because its window is over.
    pub fn granted(&mut self, grant: Grant, at: Moment) -> Option<Lot> {
        self.is_asking = false;
        let round_trip_us = at.mono_us.saturating_sub(grant.sent.mono_us);
        self.round_trip_us = match self.round_trip_us {
            0 => round_trip_us,
            before => (7 * before + round_trip_us) / 8,
        };
        let window_start_secs = window_start_secs(self.limit, grant.sent.now);
        if window_start_secs == self.window_start_secs {
            self.used_seen = grant.used;
        }
        if grant.credits == 0 {
            self.quiet_until_us = at.mono_us.saturating_add(self.terms.hold_us.into());
            return None;
        }
        let lasts_us = match self.limit.algorithm {
            Algorithm::FixedWindow => u64::MAX,
            Algorithm::TokenBucket { .. } => self.terms.hold_us.into(),
            _ => {
                let left = self.limit.window.remaining(grant.charged).as_micros();
                u64::try_from(left).unwrap_or(u64::MAX)
            }
        };
        let lot = Lot {
            id: self.next_id,
            credits: grant.credits,
            charged: grant.charged,
            window_start_secs,
            until_us: grant.sent.mono_us.saturating_add(lasts_us),
            until: Timestamp::from_micros(grant.sent.now.as_micros().saturating_add(lasts_us)),
            generation: grant.sent.generation,
        };
        self.next_id += 1;
        if window_start_secs == self.window_start_secs && lot.generation == at.generation {
            self.lots.push(lot);
        }
        Some(lot)
    }

    /// Records that an ask has no answer. Hits that it charged stay charged.
    pub fn lost(&mut self, at: Moment) {
        self.is_asking = false;
        self.quiet_until_us = at.mono_us.saturating_add(self.terms.hold_us.into());
    }

    /// Takes out a lot whose hold is over. Returns the rest of its credits.
    pub fn expire(&mut self, id: u64) -> Option<Lot> {
        let index = self.lots.iter().position(|lot| lot.id == id)?;
        Some(self.lots.remove(index))
    }

    /// Puts credits back whose request was denied after all, or that could not be returned. False if they are to be
    /// returned.
    pub fn put_back(&mut self, lot: Lot) -> bool {
        if let Some(held) = self.lots.iter_mut().find(|held| held.id == lot.id) {
            held.credits = held.credits.saturating_add(lot.credits);
            return true;
        }
        false
    }

    /// Puts a lot back that could not be returned, so that it can be spent on until its window ends. False if it cannot.
    pub fn keep(&mut self, lot: Lot) -> bool {
        let is_usable = self.limit.algorithm == Algorithm::FixedWindow
            && lot.window_start_secs == self.window_start_secs
            && self.lots.len() < MAX_LOTS;
        if is_usable {
            self.lots.insert(0, lot);
        }
        is_usable
    }

    /// True if the lot is here.
    pub fn holds(&self, lot: Lot) -> bool {
        self.lots.iter().any(|held| held.id == lot.id)
    }

    /// Changes the limit that credits count towards. Returns those of the one before, to be returned to the store.
    pub fn change_limit(&mut self, limit: Limit, terms: LeaseTerms) -> SmallVec<[Lot; MAX_LOTS]> {
        (self.limit, self.terms, self.quiet_until_us) = (limit, terms, 0);
        self.close()
    }

    /// Takes out everything.
    pub fn close(&mut self) -> SmallVec<[Lot; MAX_LOTS]> {
        std::mem::take(&mut self.lots)
    }
}

impl Lot {
    fn is_spendable(&self, at: Moment) -> bool {
        at.mono_us < self.until_us && at.now < self.until
    }

    /// True if the store would take its credits back at `at`: its window is not over, and its store is the same.
    pub fn is_returnable(&self, limit: Limit, at: Moment) -> bool {
        self.credits > 0
            && self.generation == at.generation
            && self.window_start_secs == window_start_secs(limit, at.now)
    }
}

/// Start of the window at `now` if it is part of the counter's name, else 0.
fn window_start_secs(limit: Limit, now: Timestamp) -> u64 {
    match limit.algorithm {
        Algorithm::FixedWindow => limit.window.start_secs(now),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;

//! The rate-limit algorithms, in integer arithmetic, so that every store gets the same result.
//!
//! Each algorithm has a [`CounterState`]. Loaded for a limit and a time, a state yields a [`Meter`]: a level that hits
//! raise. Decisions, also those over several limits ([`group`]), use meters and do not depend on the algorithm.

pub mod budget;
pub mod fixed_window;
pub mod group;
mod marks;
pub mod places;
mod reading;
pub mod sliding_log;
pub mod sliding_window;
pub mod token_bucket;

use std::time::Duration;

pub use reading::{ChargeContext, Reading};

use super::{Algorithm, Limit, Timestamp};

/// Upper bound on integers that are exact in Redis' Lua, whose numbers are doubles: 2^53.
pub const MAX_EXACT: u64 = 1 << 53;

/// Upper bound, in microseconds, on the time by which a stored time may be ahead of a charge. Charges arrive out of
/// order, since a request reads the clock before it is counted. A stored time further ahead was written by a clock
/// that has since been set back, and is treated as now.
pub const MAX_SKEW_US: u64 = 1_000_000;

/// State of a counter, by algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CounterState {
    /// See [`fixed_window`].
    FixedWindow(fixed_window::State),
    /// See [`sliding_window`].
    SlidingWindow(sliding_window::State),
    /// See [`sliding_log`]. Boxed, since the largest variant determines the size of every counter.
    SlidingLog(Box<sliding_log::State>),
    /// See [`token_bucket`].
    TokenBucket(token_bucket::State),
    /// See [`places`]. Boxed for its size.
    Places(Box<places::State>),
    /// State of another algorithm, except places, and the holds on it. See [`budget`].
    Budget(Box<budget::State>),
}

/// Fill level of a counter at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Part of the level that charges do not change, in parts of a hit.
    pub base: u64,
    /// Part of the level that hits raise and refunds lower, in parts of a hit.
    pub level: u64,
    /// Parts per hit; at least 1.
    pub parts: u64,
    /// Lowest level since the meter was loaded.
    pub lowest: u64,
    /// Upper bound on the level.
    pub max_level: u64,
    /// Parts that a refund leaves out: the state is later than this charge, and these parts have drained in between.
    pub stale_refund: u64,
}

impl Meter {
    /// Hits counted, rounded up.
    pub const fn used(self) -> u64 {
        self.base.saturating_add(self.level).div_ceil(self.parts)
    }

    /// True if `hits` more would fit into `capacity`.
    pub const fn fits(self, hits: u32, capacity: u32) -> bool {
        self.used().saturating_add(hits as u64) <= capacity as u64
    }

    /// Raises the level.
    pub fn add(&mut self, hits: u32) {
        let parts = u64::from(hits).saturating_mul(self.parts);
        self.level = self.level.saturating_add(parts).min(self.max_level.max(self.level));
    }

    /// Charges up to `hits` in advance: at most `1/shares` of the room below `capacity`, and not above `ceiling`.
    /// Returns the hits charged.
    pub fn lease(&mut self, hits: u32, capacity: u32, ceiling: u32, shares: u16) -> u32 {
        let left = |bound: u32| u64::from(bound).saturating_sub(self.used());
        let leased = u64::from(hits).min(left(ceiling)).min(left(capacity) / u64::from(shares.max(1)));
        let leased = u32::try_from(leased).unwrap_or(u32::MAX);
        self.add(leased);
        leased
    }

    /// Lowers the level, not below zero.
    pub const fn refund(&mut self, hits: u32) {
        self.refund_but(hits, 0);
    }

    /// Lowers the level by `hits` less `lapsed` parts, not below zero.
    pub const fn refund_but(&mut self, hits: u32, lapsed: u64) {
        let parts = (hits as u64).saturating_mul(self.parts);
        let parts = parts.saturating_sub(self.stale_refund).saturating_sub(lapsed);
        self.level = self.level.saturating_sub(parts);
        if self.level < self.lowest {
            self.lowest = self.level;
        }
    }
}

/// Parts to leave out when hits that were leased at `charged` are returned at `now`: those that have drained since, or
/// all of them if the window has changed.
pub fn lapsed(limit: Limit, charged: Timestamp, now: Timestamp) -> u64 {
    let (then, ticks) = (Ticks::of(limit, charged), Ticks::of(limit, now));
    let unless_same = |is_same| if is_same { 0 } else { u64::MAX };
    match limit.algorithm {
        Algorithm::FixedWindow => {
            unless_same(limit.window.start_secs(charged) == limit.window.start_secs(now))
        }
        Algorithm::SlidingWindow => unless_same(then.now / then.window == ticks.now / ticks.window),
        Algorithm::TokenBucket { .. } => {
            ticks.now.saturating_sub(then.now).saturating_mul(u64::from(limit.requests_per_unit))
        }
        // These are never leased.
        Algorithm::SlidingLog | Algorithm::Concurrency => u64::MAX,
    }
}

/// Upper bound on the level, about twice the limit. With `charge: always`, denied hits are counted too; the bound
/// limits the time for which they keep a key over its limit.
const fn max_level(limit: Limit, parts: u64) -> u64 {
    (2 * limit.capacity() as u64 + 1).saturating_mul(parts)
}

/// Length of a tick, an algorithm's unit of time, in microseconds: the shortest of 1 µs, 1 ms and 1 s that keeps all
/// numbers up to [`MAX_EXACT`]; `None` if none does.
pub fn tick_us(limit: Limit) -> Option<u64> {
    if matches!(limit.algorithm, Algorithm::SlidingLog | Algorithm::Concurrency) {
        // They store times and do not multiply.
        return Some(1);
    }
    let hits = 4 * (u64::from(limit.capacity().max(limit.requests_per_unit)) + 1);
    let window_us = u64::from(limit.window.secs()) * 1_000_000;
    [1, 1_000, 1_000_000]
        .into_iter()
        .find(|tick_us| (window_us / tick_us).checked_mul(hits).is_some_and(|largest| largest <= MAX_EXACT))
}

/// Time in the ticks of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// Length of a tick, in microseconds.
    pub tick_us: u64,
    /// The window, in ticks; at least 1.
    pub window: u64,
    /// Now, in ticks since the epoch, rounded down.
    pub now: u64,
}

impl Ticks {
    /// `now` in the ticks of `limit`.
    pub fn of(limit: Limit, now: Timestamp) -> Self {
        // Rules without such a tick do not compile. Limits in requests are fixed windows, which use no ticks.
        let tick_us = tick_us(limit).unwrap_or(1_000_000);
        let window = (u64::from(limit.window.secs()) * 1_000_000 / tick_us).max(1);
        Self { tick_us, window, now: now.as_micros() / tick_us }
    }

    /// [`MAX_SKEW_US`] in ticks.
    const fn skew(self) -> u64 {
        MAX_SKEW_US / self.tick_us
    }

    /// Time from `now` to the start of the tick that is `ticks` ahead.
    pub const fn until(self, ticks: u64, now: Timestamp) -> Duration {
        let then_us = self.now.saturating_add(ticks).saturating_mul(self.tick_us);
        Duration::from_micros(then_us.saturating_sub(now.as_micros()))
    }
}

impl CounterState {
    /// State before the first hit.
    pub fn empty(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::FixedWindow => Self::FixedWindow(fixed_window::State::default()),
            Algorithm::SlidingWindow => Self::SlidingWindow(sliding_window::State::default()),
            Algorithm::SlidingLog => Self::SlidingLog(Box::default()),
            Algorithm::TokenBucket { .. } => Self::TokenBucket(token_bucket::State::default()),
            Algorithm::Concurrency => Self::Places(Box::default()),
        }
    }

    /// The counter below the holds of a budget; the state itself for others.
    pub fn without_holds(&mut self) -> &mut Self {
        match self {
            Self::Budget(state) => &mut state.counter,
            other => other,
        }
    }

    /// Copy for a decision at `now`. It has the sum of places and holds instead of each, since there may be thousands.
    pub fn for_decision(&self, now: Timestamp) -> Self {
        match self {
            Self::Places(state) => Self::Places(Box::new(state.summarize(now))),
            Self::Budget(state) => Self::Budget(Box::new(state.summarize(now))),
            Self::FixedWindow(_) | Self::SlidingWindow(_) | Self::SlidingLog(_) | Self::TokenBucket(_) => {
                self.clone()
            }
        }
    }

    /// Replaces times in the future, which a clock wrote before it was set back, by `now`; and converts units of an
    /// older version of the rule. Returns true if anything changed. A change must be stored even if nothing is
    /// counted: otherwise each later call would replace the time by its own `now`.
    pub fn correct(&mut self, limit: Limit, now: Timestamp) -> bool {
        match self {
            Self::FixedWindow(state) => state.correct(limit, now),
            Self::SlidingWindow(state) => state.correct(limit, now),
            Self::SlidingLog(state) => state.correct(limit, now),
            Self::TokenBucket(state) => state.correct(limit, now),
            Self::Places(state) => state.correct(limit, now),
            Self::Budget(state) => state.counter.correct(limit, now),
        }
    }

    /// Advances the state to `now` and returns its meter.
    pub fn load(&mut self, limit: Limit, now: Timestamp) -> Meter {
        self.correct(limit, now);
        match self {
            Self::FixedWindow(state) => state.load(limit, now),
            Self::SlidingWindow(state) => state.load(limit, now),
            Self::SlidingLog(state) => state.load(limit, now),
            Self::TokenBucket(state) => state.load(limit, now),
            Self::Places(state) => state.load(limit, now),
            Self::Budget(state) => state.load(limit, now),
        }
    }

    /// Hits that count at `now`. Unlike [`Self::load`], this does not change the state.
    pub fn used(&self, limit: Limit, now: Timestamp) -> u64 {
        match self {
            Self::SlidingLog(state) => state.used(limit, now),
            Self::Places(state) => state.held(now),
            Self::Budget(state) => state.counter.used(limit, now).saturating_add(state.held()),
            Self::FixedWindow(_) | Self::SlidingWindow(_) | Self::TokenBucket(_) => {
                self.clone().load(limit, now).used()
            }
        }
    }

    /// Stores a meter that was loaded from this state and changed.
    pub fn save(&mut self, meter: Meter, limit: Limit, now: Timestamp) {
        match self {
            Self::FixedWindow(state) => state.used = meter.level,
            Self::SlidingWindow(state) => state.current = meter.level / meter.parts,
            Self::SlidingLog(state) => state.save(meter, limit, now),
            Self::TokenBucket(state) => state.level = meter.level,
            // Tickets change places; meters do not.
            Self::Places(_) => {}
            Self::Budget(state) => state.counter.save(meter, limit, now),
        }
    }

    /// Time from `now`, the time of the last load, until `hits` fit if nothing else is counted. For hits that never
    /// fit, the longest wait of the algorithm, which is more than zero.
    pub fn wait(&self, hits: u32, limit: Limit, now: Timestamp) -> Duration {
        match self {
            Self::FixedWindow(_) => limit.window.remaining(now),
            Self::SlidingWindow(state) => state.wait(hits, limit, now),
            Self::SlidingLog(state) => state.wait(hits, limit, now),
            Self::TokenBucket(state) => state.wait(hits, limit, now),
            Self::Places(state) => state.wait(hits, limit, now),
            Self::Budget(state) => state.wait(hits, limit, now),
        }
    }

    /// Time from `now` to the reset of the counter: the end of its window, or the time at which no hit counts.
    pub fn reset(&self, limit: Limit, now: Timestamp) -> Duration {
        match self {
            Self::FixedWindow(_) | Self::SlidingWindow(_) => limit.window.remaining(now),
            Self::SlidingLog(state) => state.reset(limit, now),
            Self::TokenBucket(state) => state.reset(limit, now),
            Self::Places(state) => state.reset(now),
            Self::Budget(state) => state.counter.reset(limit, now),
        }
    }

    /// Time from which the state equals an empty one, in seconds since the epoch, rounded up.
    pub fn end_secs(&self, limit: Limit) -> u64 {
        match self {
            Self::FixedWindow(state) => limit.window.end_secs(state.window_start_secs),
            Self::SlidingWindow(state) => state.end_secs(limit),
            Self::SlidingLog(state) => state.end_secs(limit),
            Self::TokenBucket(state) => state.end_secs(limit),
            Self::Places(state) => state.end_secs(),
            Self::Budget(state) => state.end_secs(limit),
        }
    }
}

#[cfg(test)]
mod tests;

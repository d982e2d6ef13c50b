//! Token buckets, stored as the level of missing tokens. Every hit raises the level by one window's ticks, and
//! every tick lowers it by the limit. At a level of `burst` hits the bucket is empty.
//!
//! GCRA and the leaky bucket as a meter are equivalent
//! (<https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>). In these units nothing is rounded, even if
//! the rate does not divide the window.

use std::time::Duration;

use super::{MAX_EXACT, Meter, Ticks, max_level};
use crate::engine::{Limit, Timestamp};

/// Level and its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Time of the level, in ticks.
    pub at: u64,
    /// Missing tokens, in window ticks per hit.
    pub level: u64,
    /// Length of these ticks, in microseconds; 0 for a full bucket.
    pub tick_us: u64,
}

impl State {
    /// A level in the future becomes the current one. An older version of the rule may have used other ticks,
    /// and a larger upper bound.
    pub(super) fn correct(&mut self, limit: Limit, now: Timestamp) -> bool {
        let ticks = Ticks::of(limit, now);
        let is_in_ticks = self.tick_us == ticks.tick_us || self.tick_us == 0;
        if !is_in_ticks {
            let in_ticks = |number: u64| {
                let number = u128::from(number) * u128::from(self.tick_us);
                u64::try_from(number.div_ceil(ticks.tick_us.into())).unwrap_or(MAX_EXACT).min(MAX_EXACT)
            };
            *self = Self { at: in_ticks(self.at), level: in_ticks(self.level), ..*self };
        }
        self.tick_us = ticks.tick_us;
        let is_ahead = self.at > ticks.now.saturating_add(ticks.skew());
        if is_ahead {
            self.at = ticks.now;
        }
        is_ahead || !is_in_ticks
    }

    pub(super) fn load(&mut self, limit: Limit, now: Timestamp) -> Meter {
        let ticks = Ticks::of(limit, now);
        // Another charge may be slightly ahead; then nothing drains.
        let at = ticks.now.max(self.at);
        let drained = (at - self.at).saturating_mul(u64::from(limit.requests_per_unit));
        let level = self.level.saturating_sub(drained).min(max_level(limit, ticks.window));
        *self = Self { at, level, ..*self };
        self.meter(limit, now)
    }

    /// Meter of the state, without advancing it.
    pub fn meter(&self, limit: Limit, now: Timestamp) -> Meter {
        let Ticks { window: parts, now, .. } = Ticks::of(limit, now);
        Meter {
            base: 0,
            level: self.level,
            lowest: self.level,
            parts,
            max_level: max_level(limit, parts),
            stale_refund: self.at.saturating_sub(now).saturating_mul(u64::from(limit.requests_per_unit)),
        }
    }

    /// See [`super::CounterState::wait`].
    pub fn wait(&self, hits: u32, limit: Limit, now: Timestamp) -> Duration {
        let ticks = Ticks::of(limit, now);
        match u64::from(limit.capacity()).checked_sub(u64::from(hits.max(1))) {
            Some(room) => self.drained_to(room.saturating_mul(ticks.window), limit, ticks, now),
            // It never fits: the time to drain a full bucket.
            None => {
                let full = u64::from(limit.capacity().max(1)).saturating_mul(ticks.window).max(self.level);
                Self { level: full, ..*self }.drained_to(0, limit, ticks, now)
            }
        }
    }

    /// See [`super::CounterState::reset`].
    pub fn reset(&self, limit: Limit, now: Timestamp) -> Duration {
        self.drained_to(0, limit, Ticks::of(limit, now), now)
    }

    fn drained_to(&self, level: u64, limit: Limit, ticks: Ticks, now: Timestamp) -> Duration {
        let takes = match limit.requests_per_unit {
            // Without a rate nothing drains.
            0 => ticks.window,
            rate => self.level.saturating_sub(level).div_ceil(u64::from(rate)),
        };
        let ahead = self.at.saturating_sub(ticks.now);
        ticks.until(ahead.saturating_add(takes), now)
    }

    pub(super) fn end_secs(&self, limit: Limit) -> u64 {
        let ticks = Ticks::of(limit, Timestamp::default());
        let takes = match limit.requests_per_unit {
            0 => ticks.window,
            rate => self.level.div_ceil(u64::from(rate)),
        };
        let end_us = self.at.saturating_add(takes).saturating_mul(ticks.tick_us);
        end_us.div_ceil(1_000_000)
    }
}

//! Token buckets, kept as what is missing: a level that every hit raises by a window's ticks, and that
//! drains by the limit with every tick. The bucket is empty where the level stands at `burst` hits.
//!
//! GCRA and the leaky bucket as a meter are the same automaton
//! (<https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>). Kept as a level, the rate need not
//! divide the window: nothing is rounded.

use std::time::Duration;

use super::{Meter, Ticks, max_level};
use crate::engine::{Limit, Timestamp};

/// A level at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// When the level was looked at last, in ticks.
    pub at: u64,
    /// What is missing then: so many ticks of the window for each hit.
    pub level: u64,
}

impl State {
    pub(super) fn load(&mut self, limit: Limit, now: Timestamp) -> Meter {
        let ticks = Ticks::of(limit, now);
        // A clock that steps back drains nothing, and fills nothing either.
        let at = ticks.now.max(self.at);
        let drained = (at - self.at).saturating_mul(u64::from(limit.requests_per_unit));
        *self = Self { at, level: self.level.saturating_sub(drained) };
        self.meter(limit, now)
    }

    /// The state as a meter, as of the time it is at.
    pub fn meter(&self, limit: Limit, now: Timestamp) -> Meter {
        let Ticks { window: parts, now, .. } = Ticks::of(limit, now);
        Meter {
            base: 0,
            level: self.level,
            low: self.level,
            parts,
            max_level: max_level(limit, parts),
            lost: self.at.saturating_sub(now).saturating_mul(u64::from(limit.requests_per_unit)),
        }
    }

    /// See [`super::State::wait`].
    pub fn wait(&self, hits: u32, limit: Limit, now: Timestamp) -> Duration {
        let ticks = Ticks::of(limit, now);
        let hits = u64::from(hits.max(1));
        let full = match u64::from(limit.capacity()).checked_sub(hits) {
            Some(room) => room.saturating_mul(ticks.window),
            None => 0,
        };
        self.drained_to(full, limit, ticks, now)
    }

    /// See [`super::State::reset`].
    pub fn reset(&self, limit: Limit, now: Timestamp) -> Duration {
        self.drained_to(0, limit, Ticks::of(limit, now), now)
    }

    fn drained_to(&self, level: u64, limit: Limit, ticks: Ticks, now: Timestamp) -> Duration {
        let takes = match limit.requests_per_unit {
            // Without a rate nothing ever drains.
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
